"""OPT: learned positions that begin at the third of the table, layer norms, and ReLU; the 350M has its norms behind."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.gpt2 import gpt_sizes
from conversion.keys import Keys
from conversion.rows import plain_feed_forward
from conversion.sizes import decoder
from conversion.table import Row, Table
from jaxllm import config

_LAYER = "layers.{i}."
USUAL = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def fairseq_rows(model: str, norm: str, head: str) -> tuple[Row, ...]:
    """The rows of a decoder under fairseq's names, given those of the decoder, of its last norm and of its head."""
    theirs = model + "layers.{i}."
    projections = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
    norms = (
        ("norm", model + norm),
        (_LAYER + "attention_norm", theirs + "self_attn_layer_norm"),
        (_LAYER + "feed_forward_norm", theirs + "final_layer_norm"),
    )
    attention = _LAYER + "attention."
    return (
        Row("embedding.weight", model + "embed_tokens.weight", "v d -> v d"),
        Row("position.weight", model + "embed_positions.weight", "p d -> p d"),
        Row("head.weight", head, "v d -> v d"),
        *(Row(f"{ours}.{kind}", f"{norm}.{kind}", "d -> d") for ours, norm in norms for kind in ("weight", "bias")),
        *(Row(f"{attention}{o}.weight", f"{theirs}self_attn.{t}.weight", "(n h) d -> n h d") for o, t in projections),
        *(Row(f"{attention}{o}.bias", f"{theirs}self_attn.{t}.bias", "(n h) -> n h") for o, t in projections),
        Row(attention + "output.weight", theirs + "self_attn.out_proj.weight", "d (n h) -> d n h"),
        Row(attention + "output.bias", theirs + "self_attn.out_proj.bias", "d -> d"),
        *plain_feed_forward(theirs + "fc1", theirs + "fc2"),
    )


_PROJECTIONS = (
    Row("project_in.weight", "model.decoder.project_in.weight", "d t -> d t"),
    Row("project_out.weight", "model.decoder.project_out.weight", "t d -> t d"),
)
CLASS = "OPTForCausalLM"
TABLE = Table(
    rows=fairseq_rows("model.decoder.", "final_layer_norm", "lm_head.weight") + _PROJECTIONS,
    ignored={},
    embedding="model.decoder.embed_tokens.weight",
    prefix="model.",
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `OPTConfig`'s keys; defaults are Transformers'."""
    keys.neutral("learned_embeddings", (True, None))  # keys of Galactica's, which Transformers does not heed
    keys.neutral("scale_embeddings", (False, None))
    sizes, length = gpt_sizes(keys, 768, 12, 12, USUAL), keys.size("max_position_embeddings", 2048)
    affine, bias = keys.flag("layer_norm_elementwise_affine", True), keys.flag("enable_bias", True)
    norm = config.LayerNorm(1e-5, scale=affine, bias=affine)
    activation = keys.choice("activation_function", ACTIVATIONS, "relu")
    feed_forward = config.FeedForward(keys.size("ffn_dim", 3072), activation, gated=False, bias=bias)
    before, bare = keys.flag("do_layer_norm_before", True), keys.flag("_remove_final_layer_norm", False)
    attention = sizes.attention(None, bias=bias, output_bias=bias)
    block = config.Block(norm, attention, feed_forward, placement="before" if before else "after")
    table_dim = keys.size("word_embed_proj_dim", sizes.dim)
    return decoder(
        keys,
        sizes,
        [block],
        norm if before and not bare else None,
        length,
        vocab_size=50272,
        tied=True,
        eos=2,
        position=config.LearnedPosition(length, offset=2),
        table_dim=None if table_dim == sizes.dim else table_dim,
    )
