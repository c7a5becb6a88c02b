"""Plans the memory and speed of a model on a mesh, for each dtype that weights may be stored in."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxllm.checks import whole_number
from jaxllm.config import DecoderConfig
from jaxllm.generation.decode import bucket
from jaxllm.planning.advice import advise
from jaxllm.planning.chips import Chip
from jaxllm.planning.memory import describe_unsharded, format_bytes, unsharded_weights
from jaxllm.planning.mesh import MeshShape
from jaxllm.planning.speed import decode_seconds
from jaxllm.planning.weights import active_count, parameter_count
from jaxllm.planning.work import Workload

DEFAULT_CONTEXT = 4096  # or the model's own, if that is shorter
COMPARED_DTYPES = ("float32", "bfloat16", "int8", "int4")
PREALLOCATED_SHARE = 0.75  # share of a GPU's memory that JAX preallocates by default


@dataclass(frozen=True)
class DtypePlan:
    """One dtype of the weights: bytes of one device, whether they fit, and the highest tokens/s of all rows."""

    dtype: str
    weights: float
    cache: float
    activations: float
    total: float
    fits: bool
    tokens_per_second: float


@dataclass(frozen=True)
class MemoryPlan:
    """The plan of a model. `mesh` is the requested one, or else the one recommended for `dtype`."""

    model: str
    parameters: int
    active_parameters: int
    layers: int
    embed_dim: int
    vocab_size: int
    devices: int
    chip: str
    memory: float
    bandwidth: float
    mesh: dict[str, int]
    batch: int
    context: int
    capacity: int
    dtype: str
    dtypes: tuple[DtypePlan, ...]
    fits: bool
    advised_mesh: dict[str, int]
    advice: str
    notes: tuple[str, ...]


def plan(
    model: str,
    config: DecoderConfig,
    chip: Chip,
    *,
    devices: int = 1,
    mesh: MeshShape | None = None,
    context: int | None = None,
    batch: int = 1,
    dtype: str = "bfloat16",
) -> MemoryPlan:
    """Plans a model on a number of devices; nothing is loaded.

    Weights and cache follow the rules of `jaxllm.sharding`; the cache has the capacity that generation gives it (the
    next bucket of lengths). Activations are estimated (`activation_bytes`) for prompts that fill the context. Tokens/s
    are those of all rows if only memory bandwidth limits them (`decode_seconds`).

    Raises:
      InputError: the model cannot be split over the mesh, or a number is invalid.
    """
    if context is None:
        context = default_context(config)
    context = whole_number("context", context, min_value=1)
    capacity = bucket(context, least=64)
    work = Workload(config, dtype, whole_number("batch", batch, min_value=1), capacity, chip.memory, chip.bandwidth)
    advice = advise(work, whole_number("devices", devices, min_value=1, max_value=1 << 20))
    chosen = advice.mesh if mesh is None else mesh
    stored = tuple(_dtype_plan(replace(work, stored=kind), chosen) for kind in dict.fromkeys((*COMPARED_DTYPES, dtype)))
    own = next(row for row in stored if row.dtype == dtype)
    return MemoryPlan(
        model=model,
        parameters=parameter_count(config),
        active_parameters=active_count(config),
        layers=config.num_layers,
        embed_dim=config.embed_dim,
        vocab_size=config.vocab_size,
        devices=devices,
        chip=chip.name,
        memory=chip.memory,
        bandwidth=chip.bandwidth,
        mesh=chosen.shape,
        batch=batch,
        context=context,
        capacity=capacity,
        dtype=dtype,
        dtypes=stored,
        fits=own.fits,
        advised_mesh=advice.mesh.shape,
        advice=advice.reason,
        notes=tuple(_notes(config, chip, chosen, context, own)),
    )


def default_context(config: DecoderConfig) -> int:
    """Returns the number of tokens that a model is planned for by default."""
    return min(DEFAULT_CONTEXT, config.max_position_embeddings)


def _dtype_plan(work: Workload, mesh: MeshShape) -> DtypePlan:
    memory = work.memory_on(mesh)
    fastest = work.batch / decode_seconds(work, mesh)
    fits = memory.total <= work.memory
    return DtypePlan(work.stored, **vars(memory), total=memory.total, fits=fits, tokens_per_second=fastest)


def _notes(config: DecoderConfig, chip: Chip, mesh: MeshShape, context: int, own: DtypePlan) -> Iterator[str]:
    """Yields further remarks."""
    if context > config.max_length:
        yield f"a context of {context:,} is beyond the {config.max_position_embeddings:,} that the model was made for"
    if (share := own.total / chip.memory) > PREALLOCATED_SHARE and own.fits and chip.is_gpu:
        fraction = f"XLA_PYTHON_CLIENT_MEM_FRACTION={(1 + share) / 2:.2f}"
        yield f"JAX takes {PREALLOCATED_SHARE:.0%} of a GPU's memory: set {fraction}"
    if whole := unsharded_weights(config, own.dtype, mesh):
        yield describe_unsharded(whole, mesh)


def print_plan(plan: MemoryPlan) -> None:
    """Prints a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    active = ""
    if plan.active_parameters < plan.parameters:
        active = f", {plan.active_parameters:,} of them active per token"
    print(f"{plan.model}: {plan.parameters:,} parameters{active}; {plan.layers} layers, {plan.embed_dim:,} wide")
    count = "one device"
    if plan.devices > 1:
        count = f"{plan.devices} devices"
    chip = f"{format_bytes(plan.memory)} and {format_bytes(plan.bandwidth)}/s ({plan.chip})"
    print(f"on {count} of {chip}, mesh {MeshShape(plan.mesh)}")
    print(f"for {plan.batch} x {plan.context:,} tokens, with room for {plan.capacity:,}")
    table = Table("per device", *(row.dtype for row in plan.dtypes), box=None)
    for name in ("weights", "cache", "activations", "total"):
        table.add_row(name, *(format_bytes(getattr(row, name)) for row in plan.dtypes))
    table.add_row("fits", *("yes" if row.fits else "NO" for row in plan.dtypes))
    table.add_row("tokens/s, at most", *(f"{row.tokens_per_second:,.1f}" for row in plan.dtypes))
    Console().print(table)
    print(f"advised for {plan.dtype}: mesh {MeshShape(plan.advised_mesh)}: {plan.advice}")
    for note in plan.notes:
        print(f"note: {note}")
