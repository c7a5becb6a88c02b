"""OPT: learned positions with an offset of two, layer norms and ReLU. The 350M model is post-norm."""

from conversion.architectures.gpt2 import gpt_sizes
from conversion.builders import ACTIVATIONS, ConfigReader, decoder
from conversion.table import TableRow, WeightTable, ungated_feed_forward_rows
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, LayerNormConfig, LearnedPositionConfig

_LAYER = "layers.{i}."
USUAL = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def fairseq_rows(model: str, norm: str, head: str) -> tuple[TableRow, ...]:
    """Returns the rows of a decoder with fairseq's names, given those of the decoder, its last norm and its head."""
    theirs = model + "layers.{i}."
    projections = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
    norms = (
        ("norm", model + norm),
        (_LAYER + "attention_norm", theirs + "self_attn_layer_norm"),
        (_LAYER + "attention_post_norm", theirs + "self_attn_layer_norm"),
        (_LAYER + "feed_forward_norm", theirs + "final_layer_norm"),
        (_LAYER + "feed_forward_post_norm", theirs + "final_layer_norm"),
    )
    attention = _LAYER + "attention."
    return (
        TableRow("embedding.weight", model + "embed_tokens.weight", "v d -> v d"),
        TableRow("position.weight", model + "embed_positions.weight", "p d -> p d"),
        TableRow("head.weight", head, "v d -> v d"),
        *(
            TableRow(f"{ours}.{kind}", f"{norm}.{kind}", "d -> d")
            for ours, norm in norms
            for kind in ("weight", "bias")
        ),
        *(
            TableRow(f"{attention}{o}.weight", f"{theirs}self_attn.{t}.weight", "(n h) d -> n h d")
            for o, t in projections
        ),
        *(TableRow(f"{attention}{o}.bias", f"{theirs}self_attn.{t}.bias", "(n h) -> n h") for o, t in projections),
        TableRow(attention + "output.weight", theirs + "self_attn.out_proj.weight", "d (n h) -> d n h"),
        TableRow(attention + "output.bias", theirs + "self_attn.out_proj.bias", "d -> d"),
        *ungated_feed_forward_rows(theirs + "fc1", theirs + "fc2"),
    )


_PROJECTIONS = (
    TableRow("project_in.weight", "model.decoder.project_in.weight", "d t -> d t"),
    TableRow("project_out.weight", "model.decoder.project_out.weight", "t d -> t d"),
)
CLASS = "OPTForCausalLM"
TABLE = WeightTable(
    rows=fairseq_rows("model.decoder.", "final_layer_norm", "lm_head.weight") + _PROJECTIONS,
    ignored={},
    embedding="model.decoder.embed_tokens.weight",
    prefix="model.",
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `OPTConfig`; defaults are those of Transformers."""
    reader.neutral("learned_embeddings", (True, None))  # keys of Galactica's, which Transformers does not heed
    reader.neutral("scale_embeddings", (False, None))
    sizes = gpt_sizes(reader, 768, 12, 12, USUAL)
    length = reader.size("max_position_embeddings", 2048)
    affine = reader.flag("layer_norm_elementwise_affine", True)
    bias = reader.flag("enable_bias", True)
    norm = LayerNormConfig(1e-5, scale=affine, bias=affine)
    activation = reader.choice("activation_function", ACTIVATIONS, "relu")
    feed_forward = FeedForwardConfig(reader.size("ffn_dim", 3072), activation, gated=False, bias=bias)
    before = reader.flag("do_layer_norm_before", True)
    bare = reader.flag("_remove_final_layer_norm", False)
    attention = sizes.attention(None, bias=bias, output_bias=bias)
    block = BlockConfig(attention, feed_forward, pre_norm=norm if before else None, post_norm=None if before else norm)
    embedding_dim = reader.size("word_embed_proj_dim", sizes.dim)
    return decoder(
        reader,
        sizes,
        [block],
        norm if before and not bare else None,
        length,
        vocab_size=50272,
        tied=True,
        eos=2,
        position=LearnedPositionConfig(length, offset=2),
        embedding_dim=None if embedding_dim == sizes.dim else embedding_dim,
    )
