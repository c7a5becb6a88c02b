"""Whole models: an embedding, one or two stacks of layers, and a head."""
