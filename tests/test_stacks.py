"""A tiny encoder and a tiny encoder-decoder, through every layer that a decoder goes through: table to mesh."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxllm
from conversion.architecture import Architecture
from conversion.binding import bind
from conversion.convert import convert
from conversion.export import export
from conversion.table import TableRow, WeightTable
from jaxllm.cache import CallContext
from jaxllm.checkpoint import read_config, restore
from jaxllm.config import (
    AttentionConfig,
    BlockConfig,
    CrossAttentionBlockConfig,
    EncoderConfig,
    EncoderDecoderConfig,
    FeedForwardConfig,
    LayerNormConfig,
    LearnedPositionConfig,
    RMSNormConfig,
    RotaryConfig,
    StackConfig,
)
from jaxllm.errors import InputError
from jaxllm.models.abstract import abstract
from jaxllm.nn.layer_stack import hidden_states
from jaxllm.nn.parameter import named_parameters
from jaxllm.planning import plan
from jaxllm.planning.chips import chip
from jaxllm.planning.memory import cache_bytes, model_bytes
from jaxllm.planning.mesh import MeshShape
from tests import quick
from tests.test_planning import fullest

VOCAB, DIM, HEADS, HIDDEN = 96, 64, 4, 128
LAYER_NORM, RMS_NORM = LayerNormConfig(1e-6), RMSNormConfig(1e-6)
SELF = AttentionConfig(HEADS, HEADS, DIM // HEADS, scale=0.25, causal=False)
CAUSAL = replace(SELF, causal=True, position=RotaryConfig())
FEED_FORWARD = FeedForwardConfig(HIDDEN, "gelu", gated=False, bias=True)
BERT = EncoderConfig(
    VOCAB,
    DIM,
    StackConfig(3, (BlockConfig(replace(SELF, bias=True, output_bias=True), FEED_FORWARD, post_norm=LAYER_NORM),)),
    norm=None,
    max_position_embeddings=40,
    position=LearnedPositionConfig(40),
    embed_norm=LAYER_NORM,
)
T5 = EncoderDecoderConfig(
    VOCAB,
    DIM,
    StackConfig(2, (BlockConfig(SELF, FEED_FORWARD, pre_norm=RMS_NORM),)),
    StackConfig(3, (CrossAttentionBlockConfig(CAUSAL, FEED_FORWARD, pre_norm=RMS_NORM, cross_attention=SELF),)),
    RMS_NORM,
    RMS_NORM,
    max_position_embeddings=64,
)
MESHES = {
    "tensor": {"tensor": 4, "data": 2},
    "fsdp": {"fsdp": 8, "tensor": 1},
    "stages": {"stage": 2, "tensor": 2, "data": 2},
}


def rows_of(config) -> tuple[TableRow, ...]:
    """A row for each parameter; the source's names differ from ours, and its attention weights are flat."""
    rows = {}
    for name, parameter in named_parameters(abstract(config)):
        stack, *rest = name.split(".")
        if stack in config.stacks:
            name = ".".join([stack, "{i}", *rest[1:]])
        flat = "n h d -> (n h) d" if len(parameter.shape) == 3 else None
        if flat and name.endswith("output.weight"):
            flat = "d n h -> d (n h)"
        if flat is None:
            letters = " ".join("abc"[: len(parameter.shape)])
            pattern = f"{letters} -> {letters}"
        else:
            ours, theirs = flat.split(" -> ")
            pattern = f"{theirs} -> {ours}"
        rows[name] = TableRow(name, f"model.{name}", pattern)
    return tuple(rows.values())


def architecture_of(config) -> Architecture:
    def from_hf(reader):
        reader.take("layers", None)
        return config

    return Architecture("tiny", from_hf, WeightTable(rows_of(config), {}, "model.embedding.weight"), "TinyModel")


@pytest.fixture(scope="module", params=["encoder", "encoder-decoder"])
def converted(request, tmp_path_factory):
    """The config, its architecture, the source directory, and the native checkpoint."""
    config = {"encoder": BERT, "encoder-decoder": T5}[request.param]
    architecture = architecture_of(config)
    source = tmp_path_factory.mktemp("source")
    random = np.random.default_rng(0)
    tensors = {}
    for binding in bind(architecture.table.rows, abstract(config)):
        scale = 0.3 if len(binding.source_shape) == 1 else binding.source_shape[-1] ** -0.5
        center = 1.0 if binding.targets[0].endswith("norm.weight") else 0.0
        values = center + scale * random.standard_normal(binding.source_shape)
        tensors[binding.sources[0]] = values.astype(np.float32)
    (source / "config.json").write_text(json.dumps({"model_type": "tiny", "layers": 3}))
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    native = convert(source, tmp_path_factory.mktemp("native") / "model", architecture=architecture)
    return config, architecture, source, native


def call(model, tokens, lengths):
    """Outputs [B T ...] of a batch: hidden states of an encoder, logits of an encoder-decoder that copies its input."""
    if isinstance(model.config, EncoderConfig):
        return model(tokens, lengths)
    return model(tokens, tokens, lengths, lengths)


TOKENS = np.random.default_rng(1).integers(0, VOCAB, (4, 17), np.int32)
LENGTHS = np.array([17, 5, 11, 1], np.int32)


def test_an_unregistered_architecture_needs_its_object(converted, tmp_path):
    _, _, source, _ = converted
    with pytest.raises(InputError, match="model_type 'tiny' is not supported"):
        convert(source, tmp_path / "native")


def test_padding_is_not_attended_to(converted):
    """A row in a ragged batch equals the row alone, and every position of a row depends on every other one."""
    _, _, _, native = converted
    model = restore(native)
    run = quick.jit(call)
    ragged = np.asarray(run(model, TOKENS, LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = np.asarray(run(model, TOKENS[row : row + 1, :length], LENGTHS[row : row + 1]))[0]
        np.testing.assert_allclose(ragged[row, :length], alone, rtol=0, atol=2e-5 * np.abs(alone).max())
    changed = TOKENS.copy()
    changed[0, 16] = (changed[0, 16] + 1) % VOCAB
    assert (np.abs(np.asarray(run(model, changed, LENGTHS))[0, 0] - ragged[0, 0]) > 1e-6).any()


@pytest.mark.parametrize("axes", MESHES.values(), ids=MESHES)
def test_restores_on_a_mesh_of_eight(converted, axes):
    """The outputs of one device, and the bytes that planning predicts."""
    config, _, _, native = converted
    expected = np.asarray(quick.jit(call)(restore(native), TOKENS, LENGTHS))
    mesh = jaxllm.make_mesh(**axes)
    model = restore(native, mesh)
    with jax.set_mesh(mesh):
        found = np.asarray(quick.jit(call)(model, TOKENS, LENGTHS))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(
            found[row, :length], expected[row, :length], rtol=0, atol=2e-5 * np.abs(expected).max()
        )
    assert model_bytes(config, "float32", mesh) == pytest.approx(fullest(model), rel=0.02)


def test_round_trip(converted, tmp_path):
    config, architecture, source, native = converted
    assert read_config(native) == config
    exported = export(native, tmp_path / "exported", architecture=architecture)
    expected, found = (load_file(path / "model.safetensors") for path in (source, exported))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert tensor.tobytes() == found[name].tobytes(), name


def test_plan(converted):
    config, _, _, _ = converted
    planned = plan(
        "tiny",
        config,
        chip("h100"),
        devices=4,
        mesh=MeshShape({"tensor": 4, "data": 1, "fsdp": 1, "stage": 1, "expert": 1}),
    )
    assert planned.layers == config.num_layers
    assert planned.fits
    assert planned.parameters == sum(
        int(np.prod(parameter.shape)) for _, parameter in named_parameters(abstract(config))
    )


def test_hidden_states_of_each_layer(converted):
    _, _, _, native = converted
    model = restore(native)
    context = CallContext.whole_rows(jnp.asarray(LENGTHS))
    x = model.embedding(jnp.asarray(TOKENS))
    for name, stack in model.stacks.items():
        if name == "decoder_layers":
            continue
        states = hidden_states(stack, x, context)
        assert len(states) == len(stack) + 1
        last, _ = stack(x, context, stack.no_caches)
        np.testing.assert_allclose(states[-1], last, rtol=0, atol=1e-5 * np.abs(last).max())


@pytest.mark.parametrize("axes", [None, *MESHES.values()], ids=["one", *MESHES])
def test_cached_decoding_with_cross_attention(converted, axes):
    """Token by token, the encoder read once: the logits of the whole, and two caches in each layer."""
    config, _, _, native = converted
    if not isinstance(config, EncoderDecoderConfig):
        return
    expected = np.asarray(quick.jit(call)(restore(native), TOKENS, LENGTHS))
    mesh = None if axes is None else jaxllm.make_mesh(**axes)
    model = restore(native, mesh)
    with jax.set_mesh(mesh or jaxllm.make_mesh(tensor=1, devices=jax.devices()[:1])):
        cache = jax.jit(lambda model: model.new_cache(4, 32, 24))(model)
        if mesh is not None:
            held = cache_bytes(config, "float32", mesh, 4, 32)
            assert held >= fullest(cache.layers)
        encoder = quick.jit(lambda model, tokens, lengths: model.encode(tokens, lengths))(model, TOKENS, LENGTHS)
        step = quick.jit(lambda model, tokens, cache, encoder: decode(model, tokens, cache, encoder))
        logits, cache = step(model, TOKENS[:, :3], cache, encoder)
        found = [np.asarray(logits)]
        for position in range(3, 8):
            logits, cache = step(model, TOKENS[:, position : position + 1], cache, None)
            found.append(np.asarray(logits))
    found = np.concatenate(found, axis=1)
    # The decoder's own rows are whole here: lengths of the encoder's rows are those of the batch.
    whole = restore(native)
    expected = np.asarray(quick.jit(lambda model: model(TOKENS, TOKENS[:, :8], LENGTHS))(whole))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def decode(model, tokens, cache, encoder):
    states, cache = model.decode(tokens, cache=cache, encoder=encoder)
    return model.logits(states), cache
