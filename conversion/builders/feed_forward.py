"""Builds feed-forward configs from the keys that most configs have."""

from conversion.builders.activations import ACTIVATIONS
from conversion.config_reader import ConfigReader
from jaxllm.config import FeedForwardConfig


def gated_feed_forward(
    reader: ConfigReader, hidden: int, activation: str = "silu", bias: bool = False
) -> FeedForwardConfig:
    """Builds a gated feed-forward network from the keys of Llama, given their defaults."""
    activation = reader.choice("hidden_act", ACTIVATIONS, activation)
    return FeedForwardConfig(reader.size("intermediate_size", hidden), activation, True, bias)
