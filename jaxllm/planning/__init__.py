"""Plans a model on a mesh that need not be present: memory, the best mesh, and the highest decoding speed."""

from jaxllm.planning.advice import Advice, advise
from jaxllm.planning.chips import Chip, chip, chip_of
from jaxllm.planning.plan import MemoryPlan, plan, print_plan
from jaxllm.planning.work import Workload

__all__ = ["Advice", "Chip", "MemoryPlan", "Workload", "advise", "chip", "chip_of", "plan", "print_plan"]
