"""The ways to put the parts together."""
