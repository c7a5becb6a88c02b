"""Meshes, the rules from logical axes to mesh axes, and `jax.shard_map` helpers.

This package is a leaf: layers, kernels and models import it, and it imports none of them.
"""

from jaxllm.sharding.mesh import MESH_AXES, axis_sizes, current_mesh, make_mesh, mesh_of
from jaxllm.sharding.rules import (
    RULES,
    constrain,
    gather,
    gathered_spec,
    mesh_axes_of,
    named_sharding,
    partition,
    replicate,
    shard_count,
)
from jaxllm.sharding.shard_map import ShardIndex, kv_head_replicas, psum_over_shards, shard_map_by_axes

__all__ = [
    "MESH_AXES",
    "RULES",
    "ShardIndex",
    "axis_sizes",
    "constrain",
    "current_mesh",
    "gather",
    "gathered_spec",
    "kv_head_replicas",
    "make_mesh",
    "mesh_axes_of",
    "mesh_of",
    "named_sharding",
    "partition",
    "psum_over_shards",
    "replicate",
    "shard_count",
    "shard_map_by_axes",
]
