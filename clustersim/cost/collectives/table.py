"""Pricing many collectives of many groups in one call, for sweeps and fleets of layouts.

A table holds the lines of each (collective, group) pair once; calls then name a row and a size.
Small batches stay in numpy and never load Numba; the answers are the same to the bit but for the
order of one multiplication and one addition that a compiler may fuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clustersim.cost.collectives.algorithms import Candidate, Links, candidates
from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import GroupPath
from clustersim.kernel_cache import prepare_numba_cache

KERNEL_FROM = 50_000  # calls; below, numpy is done before Numba is imported


@dataclass(frozen=True)
class LineTable:
    """Lines of many groups, one after the other.

    Attributes
    ----------
    start : ndarray of int (g + 1,)
        First line of each group.
    latency_s, seconds_per_byte : ndarray (m,)
        [s], [s/byte]
    """

    start: NDArray[np.int64]
    latency_s: NDArray[np.float64]
    seconds_per_byte: NDArray[np.float64]


def line_table(calls: Sequence[tuple[str, GroupPath]], links: Links) -> LineTable:
    """Collect the lines of each (collective, group).

    Parameters
    ----------
    calls : sequence of (str, GroupPath)
        Collective and group of each row of the table.
    links : mapping of str to Link
        Holds at least those that the paths name.

    Returns
    -------
    LineTable
        One row a call, in the same order; groups of one rank have no lines and are free.

    Raises
    ------
    ModelDomainError
        There is no way to run one of the collectives over its path.
    """
    rows: list[tuple[Candidate, ...]] = [
        candidates(collective, path, links) if path.ranks > 1 else () for collective, path in calls
    ]
    lines = [line for row in rows for line in row]
    return LineTable(
        start=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        latency_s=np.array([line.latency_s for line in lines], dtype=np.float64),
        seconds_per_byte=np.array([line.seconds_per_byte for line in lines], dtype=np.float64),
    )


def price_calls(
    table: LineTable, group: ArrayLike, size_bytes: ArrayLike, compiled: bool | None = None
) -> NDArray[np.float64]:
    """Time of each call.

    Parameters
    ----------
    table : LineTable
        From `line_table`.
    group : ndarray of int (n,)
        Row of the table that each call belongs to.
    size_bytes : ndarray (n,)
        Message sizes, as `collective_s`. [bytes]
    compiled : bool, optional
        Force the Numba kernel or numpy; by default the number of calls decides.

    Returns
    -------
    ndarray (n,)
        Durations. [s]

    Raises
    ------
    ModelDomainError
        The shapes of the two differ, a group is no row of the table, or a size is negative or not
        finite.
    """
    rows = np.ascontiguousarray(group, dtype=np.int64)
    sizes = np.ascontiguousarray(size_bytes, dtype=np.float64)
    _check(table, rows, sizes)
    if compiled is None:
        compiled = sizes.size >= KERNEL_FROM
    if not compiled:
        return _price_numpy(table, rows, sizes)
    prepare_numba_cache()
    from clustersim.cost.collectives.kernels import price_lines

    out_s = np.empty_like(sizes)
    price_lines(sizes, rows, table.start, table.latency_s, table.seconds_per_byte, out_s)
    return out_s


def _check(table: LineTable, rows: NDArray[np.int64], sizes: NDArray[np.float64]) -> None:
    groups = table.start.size - 1
    if rows.shape != sizes.shape:
        raise ModelDomainError(f"group has shape {rows.shape}, size_bytes {sizes.shape}")
    outside = (rows < 0) | (rows >= groups)
    if outside.any():
        raise ModelDomainError(f"group {rows[outside][0]} is outside a table of {groups}")
    wrong = ~(np.isfinite(sizes) & (sizes >= 0))
    if wrong.any():
        raise ModelDomainError(f"size_bytes must be finite and at least 0, not {sizes[wrong][0]:g}")


def _price_numpy(
    table: LineTable, rows: NDArray[np.int64], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    out_s = np.zeros_like(sizes)
    for g in np.unique(rows):
        lines = slice(table.start[g], table.start[g + 1])
        mine = (rows == g) & (sizes > 0)
        if lines.start == lines.stop or not mine.any():
            continue
        slope = table.seconds_per_byte[lines, None]
        out_s[mine] = (table.latency_s[lines, None] + slope * sizes[mine]).min(axis=0)
    return out_s
