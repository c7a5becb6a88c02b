"""What a model would take of a mesh of devices, in each dtype that weights may be stored in."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxllm import config
from jaxllm.checks import whole_number
from jaxllm.generation.tokens import bucket
from jaxllm.planning.advice import advise
from jaxllm.planning.chips import Chip
from jaxllm.planning.memory import active_count, in_bytes, parameter_count, unsharded, whole_on_each
from jaxllm.planning.mesh import Extents
from jaxllm.planning.speed import decode_seconds
from jaxllm.planning.work import Work

CONTEXT = 4096  # or the model's own, where that is less
COMPARED = ("float32", "bfloat16", "int8", "int4")
PREALLOCATED = 0.75  # of a GPU's memory, by JAX's default


@dataclass(frozen=True)
class Stored:
    """Weights stored in some dtype: bytes of one device, whether they fit, and the most tokens/s of all rows."""

    dtype: str
    weights: float
    cache: float
    activations: float
    total: float
    fits: bool
    tokens_per_second: float


@dataclass(frozen=True)
class Plan:
    """What a model would take; `mesh` is the one asked for, or else the one advised for `dtype`."""

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
    stored: tuple[Stored, ...]
    fits: bool
    advised_mesh: dict[str, int]
    advice: str
    notes: tuple[str, ...]


def plan(
    model: str,
    part: config.Decoder,
    chip: Chip,
    *,
    devices: int = 1,
    mesh: Extents | None = None,
    context: int | None = None,
    batch: int = 1,
    dtype: str = "bfloat16",
) -> Plan:
    """What a model takes of each of so many devices, and how fast it can be there; nothing is loaded.

    Weights and cache are what the rules of `jaxllm.sharding` make of them, the cache with the room that generation
    gives it (the next bucket of lengths); activations are an estimate (`activation_bytes`), for prompts that fill the
    context. Tokens/s are those of all rows, were nothing slow but memory (`decode_seconds`).

    Raises:
        InputError: a mesh that the model cannot be split over, or numbers that are none.
    """
    context = min(CONTEXT, part.context) if context is None else whole_number("context", context, least=1)
    capacity = bucket(context, least=64)
    work = Work(part, dtype, whole_number("batch", batch, least=1), capacity, chip.memory, chip.bandwidth)
    advice = advise(work, whole_number("devices", devices, least=1, most=1 << 20))
    chosen = advice.mesh if mesh is None else mesh
    stored = tuple(_stored(replace(work, stored=kind), chosen) for kind in dict.fromkeys((*COMPARED, dtype)))
    own = next(row for row in stored if row.dtype == dtype)
    return Plan(
        model=model,
        parameters=parameter_count(part),
        active_parameters=active_count(part),
        layers=part.num_layers,
        embed_dim=part.embed_dim,
        vocab_size=part.vocab_size,
        devices=devices,
        chip=chip.name,
        memory=chip.memory,
        bandwidth=chip.bandwidth,
        mesh=chosen.shape,
        batch=batch,
        context=context,
        capacity=capacity,
        dtype=dtype,
        stored=stored,
        fits=own.fits,
        advised_mesh=advice.mesh.shape,
        advice=advice.reason,
        notes=tuple(_notes(part, chip, chosen, context, own)),
    )


def _stored(work: Work, mesh: Extents) -> Stored:
    memory, fastest = work.on(mesh), work.batch / decode_seconds(work, mesh)
    fits = memory.total <= work.memory
    return Stored(work.stored, **vars(memory), total=memory.total, fits=fits, tokens_per_second=fastest)


def _notes(part: config.Decoder, chip: Chip, mesh: Extents, context: int, own: Stored) -> Iterator[str]:
    """What one should know besides."""
    if context > part.limit:
        yield f"a context of {context:,} is beyond the {part.context:,} that the model was made for"
    if (share := own.total / chip.memory) > PREALLOCATED and own.fits and chip.is_gpu:
        fraction = f"XLA_PYTHON_CLIENT_MEM_FRACTION={(1 + share) / 2:.2f}"
        yield f"JAX takes {PREALLOCATED:.0%} of a GPU's memory: set {fraction}"
    if whole := unsharded(part, own.dtype, mesh):
        yield whole_on_each(whole, mesh)


def print_plan(plan: Plan) -> None:
    """A table on stdout, and what it is of."""
    from rich.console import Console
    from rich.table import Table

    active = f", {plan.active_parameters:,} of them for a token" * (plan.active_parameters < plan.parameters)
    print(f"{plan.model}: {plan.parameters:,} parameters{active}; {plan.layers} layers, {plan.embed_dim:,} wide")
    count = f"{plan.devices} devices" if plan.devices > 1 else "one device"
    chip = f"{in_bytes(plan.memory)} and {in_bytes(plan.bandwidth)}/s ({plan.chip})"
    print(f"on {count} of {chip}, mesh {Extents(plan.mesh)}")
    print(f"for {plan.batch} x {plan.context:,} tokens, with room for {plan.capacity:,}")
    table = Table("per device", *(row.dtype for row in plan.stored), box=None)
    for name in ("weights", "cache", "activations", "total"):
        table.add_row(name, *(in_bytes(getattr(row, name)) for row in plan.stored))
    table.add_row("fits", *("yes" if row.fits else "NO" for row in plan.stored))
    table.add_row("tokens/s, at most", *(f"{row.tokens_per_second:,.1f}" for row in plan.stored))
    Console().print(table)
    print(f"advised for {plan.dtype}: mesh {Extents(plan.advised_mesh)}: {plan.advice}")
    for note in plan.notes:
        print(f"note: {note}")
