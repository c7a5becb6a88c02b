"""Rows that the tables of several families share but for their names of the tensors."""

from conversion.table import Row

_LAYER = "layers.{i}."


def layer_norms(attention: str, feed_forward: str) -> tuple[Row, ...]:
    """The norms of attention and feed-forward with their biases, by their names."""
    return tuple(
        Row(f"{_LAYER}{ours}.{kind}", f"{theirs}.{kind}", "d -> d")
        for ours, theirs in (("attention_norm", attention), ("feed_forward_norm", feed_forward))
        for kind in ("weight", "bias")
    )


def plain_feed_forward(up: str, down: str) -> tuple[Row, ...]:
    """The two maps of a network without a gate, by their names."""
    return (
        Row(_LAYER + "feed_forward.up.weight", up + ".weight", "f d -> f d"),
        Row(_LAYER + "feed_forward.up.bias", up + ".bias", "f -> f"),
        Row(_LAYER + "feed_forward.down.weight", down + ".weight", "d f -> d f"),
        Row(_LAYER + "feed_forward.down.bias", down + ".bias", "d -> d"),
    )
