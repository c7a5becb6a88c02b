"""Text from a model: prefill, the decode loop, streaming."""
