"""Calls of serving attention, grouped by the kernel that a library runs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class AttentionTimes:
    """Time of each call and its terms, each an ndarray (n,). [s]

    Attributes
    ----------
    total_s : ndarray
    compute_s : ndarray
        Thread blocks: setup and keys through the SMs.
    memory_s : ndarray
        Traffic of the kernel beyond L2, and of the passes before it.
    launch_s : ndarray
        Floor of the call, and combination of splits.
    """

    total_s: Array
    compute_s: Array
    memory_s: Array
    launch_s: Array


def by_section(
    sections: NDArray[np.str_], price: Callable[[Rows, str], AttentionTimes]
) -> AttentionTimes:
    """Price each section in one vectorised call.

    Parameters
    ----------
    sections : ndarray of str (n,)
        Section of the profile for each call.
    price : callable
        Numbers of some calls and their section: their times.
    """
    out = np.zeros((4, sections.size))
    for name in np.unique(sections):
        rows = np.flatnonzero(sections == name)
        times = price(rows, str(name))
        out[:, rows] = times.total_s, times.compute_s, times.memory_s, times.launch_s
    return AttentionTimes(*out)
