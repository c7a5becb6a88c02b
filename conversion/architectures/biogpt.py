"""BioGPT: an OPT with scaled embeddings, and GELU for ReLU."""

from conversion.activations import ACTIVATIONS
from conversion.architectures.gpt2 import gpt_sizes
from conversion.architectures.opt import USUAL, fairseq_rows
from conversion.keys import Keys
from conversion.sizes import decoder
from conversion.table import Table
from jaxllm import config

CLASS = "BioGptForCausalLM"
TABLE = Table(
    rows=fairseq_rows("biogpt.", "layer_norm", "output_projection.weight"),
    ignored={},
    embedding="biogpt.embed_tokens.weight",
    head="output_projection.weight",
    prefix="biogpt.",
)


def from_hf(keys: Keys) -> config.Decoder:
    """Our config from `BioGptConfig`'s keys; defaults are Transformers'."""
    keys.take("layer_norm_eps", None)  # 1e-12 in the published file; the model has PyTorch's own, as in fairseq
    sizes, length = gpt_sizes(keys, 1024, 24, 16, USUAL), keys.size("max_position_embeddings", 1024)
    norm, activation = config.LayerNorm(1e-5), keys.choice("hidden_act", ACTIVATIONS, "gelu")
    feed_forward = config.FeedForward(keys.size("intermediate_size", 4096), activation, gated=False, bias=True)
    block = config.Block(norm, sizes.attention(None, bias=True, output_bias=True), feed_forward)
    return decoder(
        keys,
        sizes,
        [block],
        norm,
        length,
        vocab_size=42384,
        tied=True,
        eos=2,
        position=config.LearnedPosition(length, offset=2),
        embed_scale=sizes.dim**0.5 if keys.flag("scale_embedding", True) else 1.0,
    )
