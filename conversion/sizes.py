"""What most configs say alike: sizes, feed-forward networks, layer types, and the keys of the whole model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conversion.activations import ACTIVATIONS
from conversion.keys import Keys
from jaxllm import config

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Sizes:
    """The sizes that Llama and its relatives spell alike."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(
        cls,
        keys: Keys,
        dim: int = 4096,
        layers: int = 32,
        heads: int = 32,
        kv_heads: int | None = None,
        head_dim: int | None = None,
    ) -> "Sizes":
        """Read from a config, the defaults being those of the architecture."""
        dim, heads = keys.size("hidden_size", dim), keys.size("num_attention_heads", heads)
        return cls(
            dim,
            keys.size("num_hidden_layers", layers, most=config.MAX_LAYERS),
            heads,
            keys.size_or_none("num_key_value_heads", kv_heads or heads) or heads,
            keys.size_or_none("head_dim", head_dim) or dim // heads or 1,
        )

    def attention(self, position: config.Rotary | config.Alibi | None, **fields: Any) -> config.Attention:
        """Attention of these sizes; scores are scaled as usual unless `scale` is among the fields."""
        fields.setdefault("scale", self.head_dim**-0.5)
        return config.Attention(self.heads, self.kv_heads, self.head_dim, position=position, **fields)


def gated(keys: Keys, hidden: int, activation: str = "silu", bias: bool = False) -> config.FeedForward:
    """The gated feed-forward network that a config spells as Llama's does, its defaults given."""
    activation = keys.choice("hidden_act", ACTIVATIONS, activation)
    return config.FeedForward(keys.size("intermediate_size", hidden), activation, True, bias)


def rms_norm(keys: Keys, eps: float = 1e-6, offset: float = 0.0) -> config.RMSNorm:
    """The norm of a config that gives its epsilon as `rms_norm_eps`."""
    return config.RMSNorm(float(keys.number("rms_norm_eps", eps)), offset)


def layer_types(keys: Keys, layers: int, default: Sequence[str], known: Sequence[str] = (FULL, SLIDING)) -> list[str]:
    """The kind of attention of each layer; the default is repeated over the layers."""
    repeated = [default[i % len(default)] for i in range(layers)]
    return list(keys.choices("layer_types", known, layers, repeated))


def all_but_every(layers: int, every: int) -> list[str]:
    """Layer types: sliding attention, and full in every so many-th layer."""
    return [FULL if (i + 1) % every == 0 else SLIDING for i in range(layers)]


def windows(keys: Keys, layers: int, window: int | None, default: Sequence[str]) -> list[int | None]:
    """The window of each layer, None for full attention, by `layer_types`; without a window no layer may slide."""
    kinds = layer_types(keys, layers, default, (FULL, SLIDING) if window else (FULL,))
    return [window if kind == SLIDING else None for kind in kinds]


def decoder(
    keys: Keys,
    sizes: Sizes,
    blocks: Sequence[config.Block | config.ParallelBlock],
    norm: config.Norm | None,
    context: int,
    *,
    vocab_size: int,
    tied: bool = False,
    eos: int | None,
    **fields: Any,
) -> config.Decoder:
    """The whole model, from the keys that all spell alike and the blocks of its layers, one or one for each.

    `vocab_size`, `tied` and `eos` are the architecture's defaults.
    """
    return config.Decoder(
        vocab_size=keys.size("vocab_size", vocab_size),
        embed_dim=sizes.dim,
        num_layers=sizes.layers,
        blocks=cycle(blocks),
        norm=norm,
        context=context,
        tied=keys.flag("tie_word_embeddings", tied),
        eos_token_ids=keys.token_ids("eos_token_id", eos),
        **fields,
    )


def cycle(blocks: Sequence[Any]) -> tuple[Any, ...]:
    """The shortest beginning of a sequence that repeats to the whole of it."""
    lengths = range(1, len(blocks) + 1)
    return next(tuple(blocks[:n]) for n in lengths if all(block == blocks[i % n] for i, block in enumerate(blocks)))
