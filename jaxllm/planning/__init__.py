"""Whether a model fits, on which mesh, and how fast it can be at most: arithmetic on its config alone."""

from jaxllm.planning.advice import Advice, advise
from jaxllm.planning.chips import Chip, chip, chip_of
from jaxllm.planning.plan import Plan, plan, print_plan
from jaxllm.planning.work import Work

__all__ = ["Advice", "Chip", "Plan", "Work", "advise", "chip", "chip_of", "plan", "print_plan"]
