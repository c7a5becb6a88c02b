"""StableLM 3B and 2: layer norms and partial rotary embeddings, with parallel blocks in the largest model."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, FEED_FORWARD, IGNORED, NORMS
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rotary
from conversion.table import TableRow, WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, LayerNormConfig, ParallelBlockConfig, QKNormConfig
from jaxllm.errors import InputError

_LAYER = "layers.{i}."
_THEIRS = "model.layers.{i}."

NORM_BIASES = (
    TableRow("norm.bias", "model.norm.bias", "d -> d"),
    TableRow(_LAYER + "attention_norm.bias", _THEIRS + "input_layernorm.bias", "d -> d"),
    TableRow(_LAYER + "feed_forward_norm.bias", _THEIRS + "post_attention_layernorm.bias", "d -> d"),
)
_QK_NORMS = (
    TableRow(_LAYER + "attention.query_norm.weight", _THEIRS + "self_attn.q_layernorm.norms.{e}.weight", "n h -> n h"),
    TableRow(_LAYER + "attention.key_norm.weight", _THEIRS + "self_attn.k_layernorm.norms.{e}.weight", "n h -> n h"),
)
CLASS = "StableLmForCausalLM"
TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + NORM_BIASES + ATTENTION + _QK_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `StableLmConfig`; defaults are those of Transformers."""
    # The authors' own code reads these where Transformers has one value.
    for name, value in {"rope_pct": 0.25, "norm_eps": 1e-5, "rotary_scaling_factor": 1}.items():
        reader.neutral(name, (value, None))
    reader.take("use_norm_bias", None)  # the biases are in the files either way
    sizes = Sizes.of(reader, dim=2560, kv_heads=32)
    if sizes.heads * sizes.head_dim != sizes.dim:
        raise InputError(f"config.json: {sizes.heads} heads of {sizes.head_dim} do not make hidden_size={sizes.dim}")
    length = reader.size("max_position_embeddings", 4096)
    eps = float(reader.number("layer_norm_eps", 1e-5))
    position, context = rotary(reader, length, sizes.head_dim, fraction=0.25)
    qk_norm = QKNormConfig(LayerNormConfig(eps, bias=False), "each head")
    attention = sizes.attention(
        position,
        bias=reader.flag("use_qkv_bias", False),
        qk_norm=qk_norm if reader.flag("qk_layernorm", False) else None,
    )
    norm = LayerNormConfig(eps)
    block_type = BlockConfig
    if reader.flag("use_parallel_residual", False):
        block_type = ParallelBlockConfig
    block = block_type(attention, gated_feed_forward(reader, 6912), pre_norm=norm)
    return decoder(reader, sizes, [block], norm, context, vocab_size=50304, eos=0)
