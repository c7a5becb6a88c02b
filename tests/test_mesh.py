"""Meshes that cannot be, and where the rules put what does not divide."""

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

import jaxllm
from conversion import convert
from jaxllm import InputError
from jaxllm.checkpoint import restore
from jaxllm.sharding import MESH_AXES, partition


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"tensor": 16}, r"tensor=16 needs 16 devices, but there are 8 \(cpu\)"),
        ({"data": 3}, "data=3, tensor=-1 does not divide 8 devices"),
        ({"data": -1}, "does not divide"),
        ({"tensor": 0}, "tensor=0: must be a positive number"),
        ({"stage": -2}, "stage=-2"),
        ({"tensor": "2"}, "tensor='2': must be a whole number"),
    ],
)
def test_impossible_meshes(axes, message):
    with pytest.raises(InputError, match=message):
        jaxllm.make_mesh(**axes)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"tensor": 4}, r"layers\.0\.attention\.\w+\.weight: 6 heads cannot be split over tensor=4"),
        ({"fsdp": 5}, r"layers\.0\.attention\.\w+\.weight: 48 embed cannot be split over fsdp=5"),
        ({"expert": 2, "tensor": 4}, r"6 heads cannot be split over expert=2 x tensor=4"),
    ],
    ids=str,
)
def test_axis_that_does_not_divide_is_named(axes, message, checkpoint_of, tmp_path):
    native = convert(checkpoint_of("llama"), tmp_path / "native")
    with pytest.raises(InputError, match=message):
        restore(native, jaxllm.make_mesh(**{"tensor": 1, **axes}))


def test_other_meshes_are_refused(checkpoint_of, tmp_path):
    native = convert(checkpoint_of("llama"), tmp_path / "native")
    for mesh in (jax.make_mesh((8,), ("tensor",), axis_types=(AxisType.Auto,)), jax.make_mesh((8,), ("x",))):
        with pytest.raises(InputError, match=r"must be one of jaxllm\.make_mesh"):
            restore(native, mesh)


@pytest.mark.parametrize(
    ("logical", "shape", "mesh", "spec"),
    [
        (("heads", "head", "embed"), (8, 4, 32), {"fsdp": 2, "tensor": 4}, ("tensor", None, "fsdp")),
        (("kv_heads", "head", "embed"), (2, 4, 32), {"tensor": 4}, (None, None, None)),  # fewer than devices
        (("kv_heads", "head", "embed"), (2, 4, 32), {"expert": 2, "tensor": 4}, ("expert", None, None)),
        (("experts", "hidden", "embed"), (8, 64, 32), {"expert": 2, "tensor": 4}, ("expert", "tensor", None)),
        (("hidden", "embed"), (64, 32), {"expert": 2, "tensor": 4}, (("expert", "tensor"), None)),
        (("vocab", "table"), (96, 32), {"stage": 2, "tensor": 4}, (("tensor", "stage"), None)),
        (("vocab", "table"), (100, 32), {"stage": 2, "tensor": 4}, ("tensor", "stage")),
        (("vocab", "table"), (97, 32), {"stage": 2, "tensor": 4}, (None, ("tensor", "stage"))),
        (("stage", "embed"), (2, 32), {"stage": 2, "fsdp": 4}, ("stage", None)),  # vectors stay whole
        (("batch", "time", "features"), (6, 5, 32), {"data": 2, "fsdp": 2}, ("data", None, None)),
        (("batch", "time", "features"), (8, 5, 32), {"data": 2, "fsdp": 2}, (("data", "fsdp"), None, None)),
    ],
    ids=str,
)
def test_rules(logical, shape, mesh, spec):
    extents = tuple(mesh.get(axis, 1) for axis in MESH_AXES)
    abstract = AbstractMesh(extents, MESH_AXES, axis_types=(AxisType.Auto,) * len(extents))
    assert partition("weight", logical, shape, abstract) == PartitionSpec(*spec)


def test_generation_keeps_to_its_own_mesh(checkpoint_of, tmp_path):
    """Whatever mesh the caller has set for something else."""
    native = convert(checkpoint_of("llama"), tmp_path / "native")
    model, prompts = restore(native, jaxllm.make_mesh(tensor=2)), [[5, 17], [7]]
    expected = jaxllm.generate_tokens(model, prompts, max_new_tokens=2)
    with jax.set_mesh(jaxllm.make_mesh(data=2, tensor=1)):
        assert jaxllm.generate_tokens(model, prompts, max_new_tokens=2) == expected
