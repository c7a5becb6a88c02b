"""The parts that transformers are put together from, each a Flax NNX module built from its config dataclass."""
