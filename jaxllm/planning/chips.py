"""Known accelerators, and the memory of the present devices."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import jax

from jaxllm.errors import InputError


@dataclass(frozen=True)
class Chip:
    """A device: memory in bytes, bandwidth in bytes/s, and the names that JAX's `device_kind` may have."""

    name: str
    memory: float
    bandwidth: float
    kinds: tuple[str, ...] = ()

    @property
    def is_gpu(self) -> bool:
        """Whether JAX preallocates part of its memory."""
        return not self.name.startswith(("tpu", "TPU", "cpu"))


# From the manufacturers' data sheets: nvidia.com/en-us/data-center, amd.com/en/products/accelerators/instinct, and
# cloud.google.com/tpu/docs/system-architecture-tpu-vm. A GPU's memory is in GB, as it is sold.
CHIPS = (
    Chip("v100", 32e9, 0.9e12, ("Tesla V100-SXM2-32GB", "Tesla V100-SXM3-32GB")),
    Chip("v100-16gb", 16e9, 0.9e12, ("Tesla V100-SXM2-16GB",)),
    Chip("t4", 16e9, 0.32e12, ("Tesla T4", "NVIDIA T4")),
    Chip("a10g", 24e9, 0.6e12, ("NVIDIA A10G", "NVIDIA A10")),
    Chip("a100", 80e9, 2.039e12, ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe")),
    Chip("a100-40gb", 40e9, 1.555e12, ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB")),
    Chip("l4", 24e9, 0.3e12, ("NVIDIA L4",)),
    Chip("l40s", 48e9, 0.864e12, ("NVIDIA L40S",)),
    Chip("a6000", 48e9, 0.768e12, ("NVIDIA RTX A6000",)),
    Chip("rtx3090", 24e9, 0.936e12, ("NVIDIA GeForce RTX 3090",)),
    Chip("rtx4090", 24e9, 1.008e12, ("NVIDIA GeForce RTX 4090",)),
    Chip("rtx5090", 32e9, 1.792e12, ("NVIDIA GeForce RTX 5090",)),
    Chip("h100", 80e9, 3.35e12, ("NVIDIA H100 80GB HBM3",)),
    Chip("h100-pcie", 80e9, 2.0e12, ("NVIDIA H100 PCIe",)),
    Chip("h200", 141e9, 4.8e12, ("NVIDIA H200",)),
    Chip("b200", 180e9, 8.0e12, ("NVIDIA B200",)),
    Chip("mi250x", 64e9, 1.6e12, ("AMD Instinct MI250X", "AMD Instinct MI250X/MI250")),  # one of its two dies
    Chip("mi300x", 192e9, 5.3e12, ("AMD Instinct MI300X",)),
    Chip("tpu-v4", 32 * 2**30, 1.228e12, ("TPU v4",)),
    Chip("tpu-v5e", 16 * 2**30, 0.819e12, ("TPU v5 lite", "TPU v5e")),
    Chip("tpu-v5p", 95 * 2**30, 2.765e12, ("TPU v5", "TPU v5p")),
    Chip("tpu-v6e", 32 * 2**30, 1.638e12, ("TPU v6 lite", "TPU v6e")),
    Chip("tpu-v7", 192 * 2**30, 7.38e12, ("TPU7x",)),
)
DEFAULT_CHIP = "h100"  # if no device is named
HOST_BANDWIDTH = 50e9  # two channels of DDR5, shared by all simulated devices


def chip(name: str) -> Chip:
    """Returns the accelerator with that short name or `device_kind`.

    Raises:
      InputError: it is not known.
    """
    short = name.lower().replace(" ", "-").replace("_", "-")
    for known in CHIPS:
        if short in (known.name, known.name.replace("-", "")) or name in known.kinds:
            return known
    near = get_close_matches(short, [known.name for known in CHIPS], n=1) or [known.name for known in CHIPS]
    raise InputError(f"chip {name!r} is not known; known: {', '.join(near)}; or give its memory and bandwidth")


def chip_of(device: Any) -> Chip:
    """Returns a present device, with the memory that JAX reports for it or else that of the table.

    CPU devices share the memory of their host.

    Raises:
      InputError: JAX reports no memory, and the device is not in the table.
    """
    if device.platform == "cpu":
        count = len(jax.local_devices(backend="cpu"))
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Chip("cpu", host / count, HOST_BANDWIDTH / count)
    limit = (device.memory_stats() or {}).get("bytes_limit")
    known = next((known for known in CHIPS if device.device_kind in known.kinds), None)
    if limit is None and known is None:
        raise InputError(f"device {device.device_kind!r}: how much memory it has is not known; give a mesh")
    bandwidth = known.bandwidth if known else chip(DEFAULT_CHIP).bandwidth
    return Chip(device.device_kind, limit or known.memory, bandwidth)  # pyright: ignore[reportOptionalMemberAccess]
