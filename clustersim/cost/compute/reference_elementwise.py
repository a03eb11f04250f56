"""Plain twin of memory-bound passes: waves of rows one after the other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PassMachine:
    """What a pass meets: SMs, memory, L2, and the coefficients of its class."""

    sms: int
    memory_bytes_per_s: float
    l2_bytes: float
    l2_ratio: float
    ramp_s: float
    row_setup_s: float
    row_bytes_per_s: float
    kernel_floor_s: float


def repeated_pass_s(rows: int, row_bytes: float, kernels: int, machine: PassMachine) -> float:
    """Time of a pass that is repeated on its buffers.

    Parameters
    ----------
    rows : int
        At least 1; two run on an SM at once.
    row_bytes : float
        Read and written for one row. [bytes]
    kernels : int
        Launches that share the traffic.
    machine : PassMachine

    Returns
    -------
    float
        Of all launches. [s]
    """
    moved = rows * row_bytes
    hits = 1 / (1 + (moved / machine.l2_bytes) ** 6)
    total_s = kernels * machine.kernel_floor_s
    total_s += (1 - hits) * moved / machine.memory_bytes_per_s
    total_s += hits * moved / (machine.memory_bytes_per_s * machine.l2_ratio)
    filled = moved / (16 * 1024 * machine.sms)
    total_s += machine.ramp_s * filled / (filled + 1)
    left = rows
    while left > 0:
        total_s += machine.row_setup_s + row_bytes / machine.row_bytes_per_s
        left -= 2 * machine.sms
    return total_s
