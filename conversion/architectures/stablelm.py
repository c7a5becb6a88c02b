"""StableLM 3B and 2: layer norms, rotary positions for a part of each head, parallel blocks in the largest."""

from conversion.architectures.llama import ATTENTION, EMBEDDING, ENDS, FEED_FORWARD, IGNORED, NORMS
from conversion.keys import Keys
from conversion.rotary import rotary
from conversion.sizes import Sizes, decoder, gated
from conversion.table import Row, Table
from jaxllm import config
from jaxllm.errors import InputError

_LAYER, _THEIRS = "layers.{i}.", "model.layers.{i}."

NORM_BIASES = (
    Row("norm.bias", "model.norm.bias", "d -> d"),
    Row(_LAYER + "attention_norm.bias", _THEIRS + "input_layernorm.bias", "d -> d"),
    Row(_LAYER + "feed_forward_norm.bias", _THEIRS + "post_attention_layernorm.bias", "d -> d"),
)
_HEAD_NORMS = (
    Row(_LAYER + "attention.query_norm.weight", _THEIRS + "self_attn.q_layernorm.norms.{e}.weight", "n h -> n h"),
    Row(_LAYER + "attention.key_norm.weight", _THEIRS + "self_attn.k_layernorm.norms.{e}.weight", "n h -> n h"),
)
CLASS = "StableLmForCausalLM"
TABLE = Table(ENDS + NORMS + NORM_BIASES + ATTENTION + _HEAD_NORMS + FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `StableLmConfig`'s keys; defaults are Transformers'."""
    # The authors' own code reads these where Transformers has one value.
    for name, value in {"rope_pct": 0.25, "norm_eps": 1e-5, "rotary_scaling_factor": 1}.items():
        keys.neutral(name, (value, None))
    keys.take("use_norm_bias", None)  # the biases are in the files either way
    sizes = Sizes.of(keys, dim=2560, kv_heads=32)
    if sizes.heads * sizes.head_dim != sizes.dim:
        raise InputError(f"config.json: {sizes.heads} heads of {sizes.head_dim} do not make hidden_size={sizes.dim}")
    length, eps = keys.size("max_position_embeddings", 4096), float(keys.number("layer_norm_eps", 1e-5))
    position, context = rotary(keys, length, sizes.head_dim, fraction=0.25)
    head_norm = config.HeadNorm(config.LayerNorm(eps, bias=False), "each head")
    attention = sizes.attention(
        position,
        bias=keys.flag("use_qkv_bias", False),
        head_norm=head_norm if keys.flag("qk_layernorm", False) else None,
    )
    parallel, norm = keys.flag("use_parallel_residual", False), config.LayerNorm(eps)
    block = (config.ParallelBlock if parallel else config.Block)(norm, attention, gated(keys, 6912))
    return decoder(keys, sizes, [block], norm, context, vocab_size=50304, eos=0)
