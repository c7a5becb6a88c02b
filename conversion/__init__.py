"""Checkpoints of other frameworks to native ones, and the proof that nothing changed on the way."""

from conversion.convert import convert
from conversion.export import export
from conversion.forecast import forecast
from conversion.verify import verify

__all__ = ["convert", "export", "forecast", "verify"]
