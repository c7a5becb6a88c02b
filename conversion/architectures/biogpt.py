"""BioGPT: OPT with scaled embeddings and GELU instead of ReLU."""

from conversion.architectures.gpt2 import gpt_sizes
from conversion.architectures.opt import USUAL, fairseq_rows
from conversion.builders import ACTIVATIONS, ConfigReader, decoder
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig, FeedForwardConfig, LayerNormConfig, LearnedPositionConfig

CLASS = "BioGptForCausalLM"
TABLE = WeightTable(
    rows=fairseq_rows("biogpt.", "layer_norm", "output_projection.weight"),
    ignored={},
    embedding="biogpt.embed_tokens.weight",
    head="output_projection.weight",
    prefix="biogpt.",
)


def from_hf(reader: ConfigReader) -> DecoderConfig:
    """Builds the config from the keys of `BioGptConfig`; defaults are those of Transformers."""
    reader.take("layer_norm_eps", None)  # 1e-12 in the published file; the model has PyTorch's own, as in fairseq
    sizes = gpt_sizes(reader, 1024, 24, 16, USUAL)
    length = reader.size("max_position_embeddings", 1024)
    norm = LayerNormConfig(1e-5)
    activation = reader.choice("hidden_act", ACTIVATIONS, "gelu")
    feed_forward = FeedForwardConfig(reader.size("intermediate_size", 4096), activation, gated=False, bias=True)
    block = BlockConfig(sizes.attention(None, bias=True, output_bias=True), feed_forward, pre_norm=norm)
    return decoder(
        reader,
        sizes,
        [block],
        norm,
        length,
        vocab_size=42384,
        tied=True,
        eos=2,
        position=LearnedPositionConfig(length, offset=2),
        embed_scale=sizes.dim**0.5 if reader.flag("scale_embedding", True) else 1.0,
    )
