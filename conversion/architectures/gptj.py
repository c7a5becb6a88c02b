"""GPT-J: attention and feed-forward side by side after one norm, and rotary positions in neighbouring pairs."""

from conversion.architectures.gpt2 import EMBEDDING, ENDS, IGNORED, NORMS, gpt_context, gpt_sizes, layer_norm, plain
from conversion.keys import Keys
from conversion.rows import plain_feed_forward
from conversion.sizes import decoder
from conversion.table import Row, Table
from jaxllm import config

_LAYER, _THEIRS = "layers.{i}.", "transformer.h.{i}."

# What CodeGen's table has too.
OUTER = (
    *ENDS,
    *NORMS,
    Row("head.bias", "lm_head.bias", "v -> v"),
    Row(_LAYER + "attention.output.weight", _THEIRS + "attn.out_proj.weight", "d (n h) -> d n h"),
    *plain_feed_forward(_THEIRS + "mlp.fc_in", _THEIRS + "mlp.fc_out"),
)
ATTENTION = (
    Row(_LAYER + "attention.query.weight", _THEIRS + "attn.q_proj.weight", "(n h) d -> n h d"),
    Row(_LAYER + "attention.key.weight", _THEIRS + "attn.k_proj.weight", "(n h) d -> n h d"),
    Row(_LAYER + "attention.value.weight", _THEIRS + "attn.v_proj.weight", "(n h) d -> n h d"),
)
CLASS = "GPTJForCausalLM"
TABLE = Table(OUTER + ATTENTION, IGNORED, EMBEDDING)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GPTJConfig`'s keys; defaults are Transformers'."""
    for flag in ("rotary", "scale_attn_weights"):  # old keys that no version of Transformers heeds
        keys.neutral(flag, (True, None))
    sizes, context, norm = gpt_sizes(keys, 4096, 28, 16), gpt_context(keys, 2048), layer_norm(keys)
    position = config.Rotary(dim=keys.take("rotary_dim", 64, (int,)), interleaved=True)
    block = config.ParallelBlock(norm, sizes.attention(position), plain(keys, sizes))
    return decoder(keys, sizes, [block], norm, context, vocab_size=50400, eos=50256, head_bias=True)
