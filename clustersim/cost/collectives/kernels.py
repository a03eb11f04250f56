"""Compiled pricing of many collectives at once: the least of each group's lines."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def price_lines(
    size_bytes: NDArray[np.float64],
    group: NDArray[np.int64],
    start: NDArray[np.int64],
    latency_s: NDArray[np.float64],
    seconds_per_byte: NDArray[np.float64],
    out_s: NDArray[np.float64],
) -> None:
    """Write the time of each call: the least of the lines start[g] to start[g+1] of its group.

    Parameters
    ----------
    size_bytes : ndarray (n,)
        Message sizes; zero costs nothing. [bytes]
    group : ndarray of int (n,)
        Row of `start` that each call belongs to.
    start : ndarray of int (g + 1,)
        First line of each group; a group without lines is free.
    latency_s, seconds_per_byte : ndarray (m,)
        The lines. [s], [s/byte]
    out_s : ndarray (n,)
        Filled with durations. [s]
    """
    for i in range(size_bytes.size):
        g = group[i]
        best = 0.0
        if size_bytes[i] > 0.0:
            for j in range(start[g], start[g + 1]):
                time_s = latency_s[j] + seconds_per_byte[j] * size_bytes[i]
                if j == start[g] or time_s < best:
                    best = time_s
        out_s[i] = best
