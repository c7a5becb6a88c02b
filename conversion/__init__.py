"""Converts checkpoints of other frameworks to native ones and back, and verifies the result against PyTorch."""

from conversion.convert import convert
from conversion.export import export
from conversion.forecast import forecast
from conversion.verify import verify

__all__ = ["convert", "export", "forecast", "verify"]
