"""How fast and how large a run is: the chip's peak, its memory, a step's multiply-adds."""

import resource
import sys
from collections.abc import Callable
from typing import Any

import jax

from ..core.macs import count

# Dense bfloat16 peak of one device in multiply-adds a second (half of the FLOP/s that their makers
# give), by the beginning of its name; the longest that fits is taken.
PEAKS = {
    "NVIDIA A100": 312e12 / 2,
    "NVIDIA H100 PCIe": 756e12 / 2,
    "NVIDIA H100": 989e12 / 2,
    "NVIDIA H200": 989e12 / 2,
    "NVIDIA B200": 2250e12 / 2,
    "TPU v4": 275e12 / 2,
    "TPU v5 lite": 197e12 / 2,
    "TPU v5e": 197e12 / 2,
    "TPU v5p": 459e12 / 2,
    "TPU v5": 459e12 / 2,
    "TPU v6 lite": 918e12 / 2,
    "TPU v6e": 918e12 / 2,
}


def peak_macs() -> float | None:
    """Return the multiply-adds a second that all devices could do; None where it isn't known."""
    kind = jax.devices()[0].device_kind
    fitting = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(fitting, key=len)] * jax.device_count() if fitting else None


def step_macs(step: Callable, *arguments: Any) -> int:
    """Count the multiply-adds of one training step, backward pass and recomputation included.

    Args:
        step: the step, jitted or not.
        arguments: its arguments, or their shapes.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    return count(step, *shapes)


def memory_bytes() -> int:
    """Return the most memory in use so far: of this host's fullest device, else of the process."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if one and "peak_bytes_in_use" in one]
    if peaks:
        return max(peaks)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
