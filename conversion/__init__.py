"""Checkpoints of other frameworks to native ones, and the proof that nothing changed on the way."""

from conversion.convert import convert
from conversion.export import export
from conversion.plan import plan
from conversion.verify import verify

__all__ = ["convert", "export", "plan", "verify"]
