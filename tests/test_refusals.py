"""What is not wholly understood is refused: one line that names the culprit, and nothing left behind."""

import re
import shutil

import numpy as np
import pytest

from conversion.architectures import architecture
from conversion.binding import bind
from conversion.convert import translate
from conversion.source import open_source
from jaxllm.cli import main
from jaxllm.errors import InputError
from jaxllm.models.abstract import abstract
from tests import tiny

REFUSED_CONFIGS = {
    "unknown key": ({"qk_norm": True}, "qk_norm=True is not supported"),
    "unknown model": ({"model_type": "t5000"}, "model_type 't5000' is not supported"),
    "no model type": ({"model_type": None}, "model_type None is not supported"),
    "path as model type": ({"model_type": "../llama"}, "model_type '../llama' is not supported"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4} is not supported"),
    "encoder": ({"is_encoder_decoder": True}, "is_encoder_decoder=True"),
    "activation": ({"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu' is not supported"),
    "rope type": ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type='su' is not supported"),
    "rope key": ({"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 1}}, "rope_parameters: alpha=1"),
    "rope without factor": ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
    "rope twice": (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
        "disagree",
    ),
    "rope twice, in parts": (
        {
            "rope_scaling": {"type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "linear", "rope_theta": 900.0},
        },
        "disagree",
    ),
    "partial rotary": (
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor=0.5",
    ),
    "absurd layers": ({"num_hidden_layers": 10**12}, "num_hidden_layers must be a whole number from 1 to 4096"),
    "absurd rotary": ({"model_type": "gptj", "rotary_dim": 10**400}, r"rotary_dim cannot be 1000.*\.\.\."),
    "absurd width": ({"hidden_size": 10**30}, "hidden_size must be"),
    "negative": ({"num_attention_heads": -6}, "num_attention_heads must be"),
    "boolean number": ({"intermediate_size": True}, "intermediate_size must be"),
    "text number": ({"vocab_size": "101"}, "vocab_size must be"),
    "number as flag": ({"tie_word_embeddings": 1}, "tie_word_embeddings cannot be 1"),
    "endless eps": ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be a positive number"),
    "uneven groups": ({"num_key_value_heads": 4}, "6 query heads cannot share 4 key-value heads"),
    "odd head": ({"head_dim": 7}, "head_dim=7 is odd"),
    "end token": ({"eos_token_id": "</s>"}, "eos_token_id must be token ids"),
    "wrong width": (
        {"intermediate_size": 73},
        r"mlp\.\w+_proj.weight: shape \[.*\] in model.safetensors, but the config asks for",
    ),
    "too few layers": (
        {"num_hidden_layers": 1},
        r"model.layers.1.\S+: in model.safetensors, but no part of the model takes it",
    ),
    "too many layers": ({"num_hidden_layers": 3}, r"model.layers.2.\S+: missing from the checkpoint"),
    "absurd sizes": ({"hidden_size": 2**30, "vocab_size": 2**30, "head_dim": 8}, "but the config asks for"),
}


@pytest.mark.parametrize("change", REFUSED_CONFIGS)
def test_refused_configs(change, checkpoint_of, tmp_path, capsys):
    source = shutil.copytree(checkpoint_of("llama"), tmp_path / "source")
    keys, message = REFUSED_CONFIGS[change]
    tiny.rewrite(source, lambda config: config | keys)
    refuse(capsys, source, tmp_path / "native", message)


HEAD = "lm_head.weight"
REFUSED_TENSORS = {
    "missing": (
        "llama",
        lambda t: {n: a for n, a in t.items() if "1.mlp.up" not in n},
        "model.layers.1.mlp.up_proj.weight: missing",
    ),
    "extra": (
        "llama",
        lambda t: t | {"model.norm.bias": t["model.norm.weight"].copy()},
        "model.norm.bias: in model.safetensors, but no part",
    ),
    "misshapen": ("llama", lambda t: t | {HEAD: t[HEAD][:-1].copy()}, r"lm_head.weight: shape \[100, 48\]"),
    "transposed": ("llama", lambda t: t | {HEAD: t[HEAD].T.copy()}, r"lm_head.weight: shape \[48, 101\]"),
    "integers": ("llama", lambda t: t | {HEAD: t[HEAD].astype(np.int32)}, "lm_head.weight: int32 values"),
    "no printable name": (
        "llama",
        lambda t: t | {"a\nb\x1b": t["model.norm.weight"].copy()},
        r"a\\nb\\x1b: in model.safetensors, but no part",
    ),
    "untied head": (
        "llama-biases-tied",
        lambda t: t | {HEAD: t["model.embed_tokens.weight"] + 1},
        "lm_head.weight: differs from",
    ),
}


@pytest.mark.parametrize("change", REFUSED_TENSORS)
def test_refused_tensors(change, checkpoint_of, tmp_path, capsys):
    case, edit, message = REFUSED_TENSORS[change]
    source = shutil.copytree(checkpoint_of(case), tmp_path / "source")
    tiny.rewrite(source, change_tensors=edit)
    refuse(capsys, source, tmp_path / "native", message)


def test_refused_number_of_experts(checkpoint_of, tmp_path, capsys):
    """However many: their names are not made before what is there is looked at, nor made without end."""
    source = shutil.copytree(checkpoint_of("mixtral"), tmp_path / "source")
    tiny.rewrite(source, lambda config: config | {"num_local_experts": 2**31})
    refuse(capsys, source, tmp_path / "native", r"gate.weight: shape \[8, 48\] .* but the config asks for")
    part = translate(open_source(source)).config
    experts = [row for row in architecture("mixtral").table.rows if "{e}" in row.source]
    with pytest.raises(InputError, match=r"experts.\*.w\d.weight: 2147483648 of them, expected at most 65536"):
        next(bind(experts, abstract(part)))


@pytest.mark.parametrize("kind", [np.float32, tiny.BFLOAT16])
def test_refused_overflow(kind, checkpoint_of, tmp_path, capsys):
    source = shutil.copytree(checkpoint_of("llama"), tmp_path / "source")
    tiny.rewrite(source, change_tensors=lambda t: t | {HEAD: (1e6 * t[HEAD]).astype(kind)})
    refuse(
        capsys, source, tmp_path / "native", "lm_head.weight: has values that float16 cannot hold", "--dtype", "float16"
    )


def test_refused_targets(checkpoint_of, tmp_path, capsys):
    """Before anything is written."""
    source = shutil.copytree(checkpoint_of("llama"), tmp_path / "source")
    (tmp_path / "source" / "link").symlink_to("nowhere")
    for target in ("source/link", "new/..", "source/config.json"):
        assert main(["convert", str(source), str(tmp_path / target)]) == 2
        assert "exists already" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def refuse(capsys, source, target, message, *options):
    """One line, exit code 2, and nothing left behind."""
    assert main(["convert", str(source), str(target), *options]) == 2
    said = capsys.readouterr()
    assert re.match(rf"jaxllm: .*{message}.*\n$", said.err), said.err
    assert not said.out
    assert list(target.parent.iterdir()) == [source]
