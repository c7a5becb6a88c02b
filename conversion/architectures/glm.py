"""GLM-4 9B: Llama with interleaved, partial rotary embeddings and a fused gate and up projection."""

from dataclasses import replace

from conversion.architectures.llama import ATTENTION, EMBEDDING, EMBEDDING_AND_HEAD, IGNORED, NORMS
from conversion.architectures.phi3 import FUSED_FEED_FORWARD
from conversion.builders import ConfigReader, Sizes, decoder, gated_feed_forward, rms_norm, rotary
from conversion.table import WeightTable
from jaxllm.config import BlockConfig, DecoderConfig

TABLE = WeightTable(EMBEDDING_AND_HEAD + NORMS + ATTENTION + FUSED_FEED_FORWARD, IGNORED, EMBEDDING)


def from_hf(reader: ConfigReader, sandwich_norm: bool = False) -> DecoderConfig:
    """Builds the config from the keys of `GlmConfig`, or of a derivative that places norms differently."""
    sizes = Sizes.of(reader, layers=40, kv_heads=2, head_dim=128)
    norm = rms_norm(reader, 1.5625e-7)
    length = reader.size("max_position_embeddings", 131072)
    position, context = rotary(reader, length, sizes.head_dim, fraction=0.5, interleaved=True)
    attention = sizes.attention(position, bias=reader.flag("attention_bias", True))
    output_norm = None
    if sandwich_norm:
        output_norm = norm
    block = BlockConfig(attention, gated_feed_forward(reader, 13696), pre_norm=norm, output_norm=output_norm)
    model = decoder(reader, sizes, [block], norm, context, vocab_size=151552, eos=None)
    return replace(model, eos_token_ids=model.eos_token_ids or (151329, 151336, 151338))
