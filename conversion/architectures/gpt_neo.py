"""GPT-Neo: a GPT-2 with unscaled scores, every other layer of which looks back over a window only."""

from conversion.architectures.gpt2 import EMBEDDING, ENDS, NORMS, gpt_sizes, layer_norm, plain
from conversion.keys import Keys
from conversion.rows import plain_feed_forward
from conversion.sizes import decoder
from conversion.table import Row, Table
from jaxllm import config
from jaxllm.errors import InputError

GLOBAL, LOCAL = "global", "local"
_LAYER, _THEIRS = "layers.{i}.", "transformer.h.{i}."
_ATTENTION = _THEIRS + "attn.attention."

ATTENTION = (
    Row(_LAYER + "attention.query.weight", _ATTENTION + "q_proj.weight", "(n h) d -> n h d"),
    Row(_LAYER + "attention.key.weight", _ATTENTION + "k_proj.weight", "(n h) d -> n h d"),
    Row(_LAYER + "attention.value.weight", _ATTENTION + "v_proj.weight", "(n h) d -> n h d"),
    Row(_LAYER + "attention.output.weight", _ATTENTION + "out_proj.weight", "d (n h) -> d n h"),
    Row(_LAYER + "attention.output.bias", _ATTENTION + "out_proj.bias", "d -> d"),
)
FEED_FORWARD = plain_feed_forward(_THEIRS + "mlp.c_fc", _THEIRS + "mlp.c_proj")
IGNORED = {
    _ATTENTION + "bias": "the causal mask",
    _ATTENTION + "masked_bias": "the value behind the causal mask",
}
CLASS = "GPTNeoForCausalLM"
TABLE = Table(ENDS + NORMS + ATTENTION + FEED_FORWARD, IGNORED, EMBEDDING, prefix="transformer.")


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `GPTNeoConfig`'s keys; defaults are Transformers'."""
    sizes = gpt_sizes(keys, 2048, 24, 16, ("hidden_size", "num_layers", "num_heads"))
    norm, feed_forward = layer_norm(keys), plain(keys, sizes, "intermediate_size")
    window, length = keys.size("window_size", 256), keys.size("max_position_embeddings", 2048)
    attentions = {
        kind: sizes.attention(None, scale=1.0, output_bias=True, window=seen)
        for kind, seen in ((GLOBAL, None), (LOCAL, window))
    }
    blocks = [config.Block(norm, attentions[kind], feed_forward) for kind in _attention_layers(keys, sizes.layers)]
    position = config.LearnedPosition(length)
    return decoder(keys, sizes, blocks, norm, length, vocab_size=50257, tied=True, eos=50256, position=position)


def _attention_layers(keys: Keys, layers: int) -> list[str]:
    """The kind of each layer: `attention_types` is `attention_layers` in short, [[[kind, ...], times], ...]."""
    types = keys.take("attention_types", None, (list, type(None)))
    if types is None:
        return list(keys.choices("attention_layers", (GLOBAL, LOCAL), layers, [GLOBAL, LOCAL] * 12))
    for item in types:
        if not isinstance(item, list) or list(map(type, item)) != [list, int] or not 0 <= item[1] <= layers:
            raise InputError(f"config.json: attention_types must be lists of kinds and times, not {str(item)[:60]}")
    expanded = [kind for kinds, times in types for _ in range(times) for kind in kinds]
    if list(chosen := keys.choices("attention_layers", (GLOBAL, LOCAL), layers, expanded)) != expanded:
        raise InputError("config.json: attention_types and attention_layers disagree")
    return list(chosen)
