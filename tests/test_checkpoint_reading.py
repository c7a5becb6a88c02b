"""Stored arrays go straight into the shards of any mesh, in any dtype that holds them; nothing else is read."""

from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from orbax.checkpoint.experimental import v1 as ocp

from jaxllm import InputError
from jaxllm.arrays import RestoreSpec, read_array, read_arrays, stored_arrays

FLOAT32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def values():
    random = np.random.default_rng(0)
    return {f"layers.{i}.weight": random.standard_normal((16, 12), np.float32) for i in range(5)}


@pytest.fixture(scope="module")
def store(values, tmp_path_factory):
    """As Orbax writes it by itself: each array one compressed chunk."""
    path = tmp_path_factory.mktemp("store") / "arrays"
    ocp.partial.save(path, {"layers": {str(i): {"weight": value} for i, value in enumerate(values.values())}})
    ocp.partial.finalize(path)
    return path


def mesh_of(**axes: int) -> Mesh:
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


@pytest.mark.parametrize("spec", [(), ("x",), ("y", "x"), (("x", "y"),), (None, "x")], ids=str)
def test_any_sharding(store, values, spec):
    mesh = mesh_of(x=4, y=2)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    wanted = {name: RestoreSpec(value.shape, FLOAT32, sharding) for name, value in values.items()}
    with jax.set_mesh(mesh):
        arrays = read_arrays(store, wanted)
    assert list(arrays) == list(values)
    for name, array in arrays.items():
        assert array.sharding == sharding
        assert array.committed
        np.testing.assert_array_equal(array, values[name])


def test_parts_are_stacked_over_stages(store, values):
    """Three stages of two slots for five layers: the last slot of the last stage is zeros, and each has its own."""
    mesh = jax.make_mesh((3, 2), ("stage", "tensor"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:6])
    sharding, names = NamedSharding(mesh, PartitionSpec("stage", None, "tensor")), [*values, None]
    slots = {f"slot{j}": RestoreSpec((3, 16, 12), FLOAT32, sharding, tuple(names[j::2])) for j in range(2)}
    arrays = read_arrays(store, slots)
    for j in range(2):
        expected = np.stack([np.zeros((16, 12)) if name is None else values[name] for name in names[j::2]])
        np.testing.assert_array_equal(arrays[f"slot{j}"], expected)
        assert {shard.data.shape for shard in arrays[f"slot{j}"].addressable_shards} == {(1, 16, 6)}


def test_host_memory(store, values):
    sharding = NamedSharding(mesh_of(x=8), PartitionSpec("x"), memory_kind="pinned_host")
    array = read_arrays(store, {"layers.0.weight": RestoreSpec((16, 12), FLOAT32, sharding)})["layers.0.weight"]
    assert array.sharding.memory_kind == "pinned_host"
    np.testing.assert_array_equal(array, values["layers.0.weight"])


def test_what_does_not_fit_is_named(store, values):
    def read(name="layers.1.weight", shape=(16, 12), dtype="float32", parts=None):
        wanted = RestoreSpec(shape, jax.numpy.dtype(dtype), SingleDeviceSharding(jax.devices()[0]), parts)
        return read_arrays(store, {name: wanted})[name]

    assert read(dtype="bfloat16").dtype == "bfloat16"
    np.testing.assert_array_equal(read(dtype="float16"), values["layers.1.weight"].astype(np.float16))
    with pytest.raises(InputError, match=r"tensor layers\.1\.bias: missing"):
        read("layers.1.bias")
    with pytest.raises(InputError, match=r"tensor layers\.9\.weight: missing"):
        read(shape=(2, 16, 12), parts=("layers.1.weight", "layers.9.weight"))
    with pytest.raises(InputError, match=r"tensor layers\.1\.weight: shape \[16, 12\] is stored, but .* \[12, 16\]"):
        read(shape=(12, 16))


def test_overflow_is_refused(tmp_path):
    ocp.partial.save(tmp_path / "arrays", {"large": np.array([1, 1e5, np.inf], np.float32)})
    ocp.partial.finalize(tmp_path / "arrays")
    place = SingleDeviceSharding(jax.devices()[0])
    assert np.isinf(read_arrays(tmp_path / "arrays", {"large": RestoreSpec((3,), FLOAT32, place)})["large"]).sum() == 1
    with pytest.raises(InputError, match="tensor large: has values that float16 cannot hold"):
        read_arrays(tmp_path / "arrays", {"large": RestoreSpec((3,), np.dtype(np.float16), place)})


def test_as_they_are_stored(store, values):
    assert {name: (found.shape, found.dtype) for name, found in stored_arrays(store).items()} == {
        name: (value.shape, value.dtype) for name, value in values.items()
    }
    assert read_array(store, "layers.2.weight").tobytes() == values["layers.2.weight"].tobytes()
    with pytest.raises(InputError, match="tensor head: missing"):
        read_array(Path(store), "head")
