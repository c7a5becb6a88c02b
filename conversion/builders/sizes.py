"""The sizes of a model: width, layers and heads, as most configs spell them."""

from dataclasses import dataclass
from typing import Any

from conversion.config_reader import ConfigReader
from jaxllm.config import MAX_LAYERS, ALiBiConfig, AttentionConfig, RotaryConfig


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model: width, layers, query heads, key-value heads, size of a head."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(
        cls,
        reader: ConfigReader,
        dim: int = 4096,
        layers: int = 32,
        heads: int = 32,
        kv_heads: int | None = None,
        head_dim: int | None = None,
    ) -> "Sizes":
        """Reads the sizes from the keys of Llama, given the architecture's defaults."""
        dim = reader.size("hidden_size", dim)
        heads = reader.size("num_attention_heads", heads)
        return cls(
            dim,
            reader.size("num_hidden_layers", layers, most=MAX_LAYERS),
            heads,
            reader.size_or_none("num_key_value_heads", kv_heads or heads) or heads,
            reader.size_or_none("head_dim", head_dim) or dim // heads or 1,
        )

    def attention(self, position: RotaryConfig | ALiBiConfig | None, **fields: Any) -> AttentionConfig:
        """Builds attention of these sizes. Scores are scaled by 1 / sqrt(head_dim) unless `scale` is given."""
        fields.setdefault("scale", self.head_dim**-0.5)
        return AttentionConfig(self.heads, self.kv_heads, self.head_dim, position=position, **fields)
