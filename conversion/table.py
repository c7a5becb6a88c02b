"""The weight table of an architecture: which tensor of a checkpoint becomes which of our parameters.

A row has our name, the tensor's name, and an einops pattern from the tensor's layout to ours, which export inverts:

    TableRow("layers.{i}.attention.query.weight", "model.layers.{i}.self_attn.q_proj.weight", "(n h) d -> n h d")

`{i}` runs over the layers of a stack. `{e}` in the tensor's name runs over tensors that are stacked along the first
axis of one parameter, such as experts. A row with several parameters splits a fused tensor along `split_axis`:

    TableRow((query, key, value), "...query_key_value.weight", "(k g h) d -> (k g) h d", split_axis="g")

A row applies if the model has its parameters. Their declared shapes give the sizes, so a table contains no numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxllm.config import LayerConfig

_LAYER = "layers.{i}."


@dataclass(frozen=True)
class TableRow:
    """One row of a weight table.

    Attributes:
      target: name of our parameter, or names of several that a fused tensor holds.
      source: name of the tensor in the checkpoint.
      pattern: einops pattern from the tensor's layout to ours.
      split_axis: axis of the pattern along which a fused tensor is split.
      applies_to: tells from a layer's config whether the row applies to that layer; None means to every layer.
    """

    target: str | tuple[str, ...]
    source: str
    pattern: str
    split_axis: str | None = None
    applies_to: Callable[[LayerConfig], bool] | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of our parameters."""
        if isinstance(self.target, str):
            return (self.target,)
        return self.target


@dataclass(frozen=True)
class WeightTable:
    """The weight table of an architecture.

    Attributes:
      rows: the rows.
      ignored: names of tensors that may be present and are not used, each with the reason. `*` matches anything.
      embedding: name of the embedding's tensor.
      head: name of the head's tensor. It may repeat the embedding where the config ties the two.
      prefix: prefix of every name but the head's that published files may leave out.
      multi_token_prediction: name of a tensor that marks the layer after the last one as a multi-token prediction
        layer, which is ignored.
    """

    rows: tuple[TableRow, ...]
    ignored: Mapping[str, str]
    embedding: str
    head: str = "lm_head.weight"
    prefix: str = ""
    multi_token_prediction: str = ""


def layer_norm_rows(attention: str, feed_forward: str, norm: str = "norm") -> tuple[TableRow, ...]:
    """Returns the rows of the norms of attention and feed-forward, given Hugging Face's names.

    `norm` is "norm" for pre-norm layers and "post_norm" for post-norm layers.
    """
    return tuple(
        TableRow(f"{_LAYER}{ours}.{kind}", f"{theirs}.{kind}", "d -> d")
        for ours, theirs in ((f"attention_{norm}", attention), (f"feed_forward_{norm}", feed_forward))
        for kind in ("weight", "bias")
    )


def ungated_feed_forward_rows(up: str, down: str) -> tuple[TableRow, ...]:
    """Returns the rows of a network without a gate, given the names of its two projections."""
    return (
        TableRow(_LAYER + "feed_forward.up.weight", up + ".weight", "f d -> f d"),
        TableRow(_LAYER + "feed_forward.up.bias", up + ".bias", "f -> f"),
        TableRow(_LAYER + "feed_forward.down.weight", down + ".weight", "d f -> d f"),
        TableRow(_LAYER + "feed_forward.down.bias", down + ".bias", "d -> d"),
    )
