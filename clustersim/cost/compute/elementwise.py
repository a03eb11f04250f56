"""Time of memory-bound passes: bytes over bandwidth, waves of rows, residency in L2, a floor.

Two views of the same coefficients. In a training step a pass meets data of other kernels:
`cold_pass_s`. A micro-benchmark repeats a kernel on the same buffers: what fits in L2 is found
there again, and small grids show how rows fall on the SMs: `warm_pass_s`. Left out: vector widths,
alignment, grids that a library chooses by shape.

References
----------
.. [1] NVIDIA, "CUDA C++ Programming Guide", compute capabilities 8.0 and 9.0 (threads of a block
   and of an SM).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

Array = NDArray[np.float64]
ROWS_PER_SM = 2.0  # thread blocks of 1024 threads on one SM of 2048 (CUDA C++ guide, cc 8.0, 9.0)
RAMP_BYTES = 2.0**14  # assumed: traffic of one SM at which half of the ramp is felt
L2_SHARPNESS = 6.0  # of the fall from all hits to all misses; assumed, one for all devices


@dataclass(frozen=True)
class Passes:
    """Shapes of passes, each an ndarray (n,).

    `row_bytes` is what one row reads and writes; `kernels` the launches that share the traffic.
    """

    rows: Array
    row_bytes: Array
    kernels: Array


def hit_fraction(working_bytes: Array, l2_bytes: float) -> Array:
    """Share of a repeated working set that is found in a cache again.

    Parameters
    ----------
    working_bytes : ndarray (n,)
        What the kernel touches. [bytes]
    l2_bytes : float
        Working set of which half hits. [bytes]

    Returns
    -------
    ndarray (n,)
        Falls from 1 to 0, steeply near `l2_bytes`.

    Notes
    -----
    1 / (1 + (working / l2)^6). Reading in turn through a cache that drops the oldest line falls off
    at once; hashed sets and two partitions smear that.
    """
    return np.asarray(1.0 / (1.0 + (working_bytes / l2_bytes) ** L2_SHARPNESS))


def l2_traffic_s(
    moved_bytes: Array, working_bytes: Array, rates: tuple[float, float, float]
) -> Array:
    """Time of traffic of which a part stays in L2.

    Parameters
    ----------
    moved_bytes, working_bytes : ndarray (n,)
        Traffic, and the buffers it goes through. [bytes]
    rates : tuple of float
        Rate beyond L2 [bytes/s], rate inside over that, working set of which half hits [bytes].

    Returns
    -------
    ndarray (n,)
        Grows with the traffic. [s]
    """
    memory_bytes_per_s, ratio, l2_bytes = rates
    hits = hit_fraction(working_bytes, l2_bytes)
    return np.asarray(moved_bytes / memory_bytes_per_s * (1.0 - hits + hits / ratio))


def cold_pass_s(
    moved_bytes: Array, kind: str, device: Device, profile: Profile
) -> tuple[Array, Array]:
    """Time of passes over data that other kernels wrote, and of their traffic alone.

    Parameters
    ----------
    moved_bytes : ndarray (n,)
        Read and written by one launch. [bytes]
    kind : str
        Class of the kernel in the profile; "" is a plain stream.
    device, profile
        The accelerator and its fitted behaviour.

    Returns
    -------
    tuple of ndarray (n,)
        floor + bytes / rate, and the second term. [s]

    Raises
    ------
    ModelDomainError
        The profile lacks the class.

    Notes
    -----
    1/rate = 1 / (efficiency bandwidth) + 1 / (2S row_bandwidth): long passes are many full waves.
    """
    c = profile.elementwise_coefficients(kind)
    traffic_s = moved_bytes / (device.memory_bandwidth * c.bandwidth_efficiency)
    if c.row_bandwidth is not None:
        traffic_s = traffic_s + moved_bytes / (ROWS_PER_SM * device.sms * c.row_bandwidth)
    return traffic_s + c.kernel_floor_s, traffic_s


def warm_pass_s(passes: Passes, kind: str, device: Device, profile: Profile) -> Array:
    """Time of passes that are repeated on the same buffers.

    Parameters
    ----------
    passes : Passes
        rows >= 1, row_bytes > 0.
    kind : str
        Class of the kernel in the profile.
    device, profile
        The accelerator and its fitted behaviour.

    Returns
    -------
    ndarray (n,)
        Seconds of all launches. [s]

    Raises
    ------
    ModelDomainError
        The profile lacks the class.

    Notes
    -----
    floor + traffic + ramp x/(1+x) + waves (setup + row_bytes / row_bandwidth): x is the traffic
    over 16 KiB an SM, and ceil(rows / 2S) waves of one block a row run on S SMs. Traffic inside
    L2 runs at S `sm_bandwidth`, the one exception from the memory roof. Each term grows with rows
    and with row_bytes.
    """
    c = profile.elementwise_coefficients(kind)
    moved = passes.rows * passes.row_bytes
    rate = device.memory_bandwidth * c.bandwidth_efficiency
    inside = max(rate, (c.sm_bandwidth or 0.0) * device.sms)
    l2_bytes = c.l2_fraction * device.l2_cache
    traffic_s = l2_traffic_s(moved, moved, (rate, inside / rate, l2_bytes))
    filled = moved / (RAMP_BYTES * device.sms)
    ramp_s = c.ramp_s * filled / (1.0 + filled)
    row_s = c.row_setup_s + (passes.row_bytes / c.row_bandwidth if c.row_bandwidth else 0.0)
    waves = np.ceil(passes.rows / (ROWS_PER_SM * device.sms))
    return np.asarray(passes.kernels * c.kernel_floor_s + traffic_s + ramp_s + waves * row_s)
