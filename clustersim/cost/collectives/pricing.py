"""Seconds of collectives: the fastest candidate at each size, and an account of one call.

References
----------
.. [1] R. Hockney, "The communication challenge for MPP: Intel Paragon and Meiko CS-2," Parallel
   Computing 20(3), 1994 (time as latency plus bytes over a rate).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clustersim.cost.collectives.algorithms import Candidate, Links, candidates, check_collective
from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import GroupPath


@dataclass(frozen=True)
class Explanation:
    """How one collective came to its time; `total_s` is latency_s plus bandwidth_s.

    Attributes
    ----------
    latency_s, bandwidth_s, total_s : float
        Part without bytes, part in proportion to them, and their sum. [s]
    bus_bandwidth_bytes_per_s : float
        As nccl-tests defines it. [bytes/s]
    rejected : tuple of (str, str, float)
        The other algorithms and protocols with their times. [s]
    """

    collective: str
    size_bytes: float
    ranks: int
    algorithm: str
    protocol: str
    latency_s: float
    bandwidth_s: float
    total_s: float
    bus_bandwidth_bytes_per_s: float
    rejected: tuple[tuple[str, str, float], ...] = ()


def collective_s(
    collective: str, size_bytes: ArrayLike, path: GroupPath, links: Links
) -> NDArray[np.float64]:
    """Time of a collective alone on its group.

    Parameters
    ----------
    collective : str
        all_reduce, all_gather, reduce_scatter, all_to_all, broadcast or send_recv.
    size_bytes : ndarray (n,)
        Message by the nccl-tests convention: all_reduce, the buffer of a rank; all_gather, the
        gathered output; reduce_scatter and all_to_all, the input of a rank; broadcast and
        send_recv, the message. [bytes]
    path : GroupPath
        The group, as the hardware places it; one rank is free.
    links : mapping of str to Link
        Catalogue of link kinds; holds at least those that the path names.

    Returns
    -------
    ndarray (n,)
        Duration; zero bytes are free. [s]

    Raises
    ------
    ModelDomainError
        A size is negative or not finite, or there is no way to run the collective over the path.

    Notes
    -----
    The minimum over algorithm and protocol of latency + S * seconds_per_byte [1]; the formulas are
    in `algorithms`.
    """
    sizes = np.atleast_1d(np.asarray(size_bytes, dtype=np.float64))
    wrong = ~(np.isfinite(sizes) & (sizes >= 0))
    if wrong.any():
        raise ModelDomainError(f"size_bytes holds {sizes[wrong][0]:g}; sizes are finite and >= 0")
    if path.ranks <= 1:
        return np.zeros_like(sizes)
    latency_s, seconds_per_byte = _columns(candidates(collective, path, links))
    times_s = (latency_s[:, None] + seconds_per_byte[:, None] * sizes).min(axis=0)
    return np.where(sizes > 0, times_s, 0.0)


def _columns(lines: tuple[Candidate, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    latency_s = np.array([line.latency_s for line in lines])
    return latency_s, np.array([line.seconds_per_byte for line in lines])


def explain_collective(
    collective: str, size_bytes: float, path: GroupPath, links: Links
) -> Explanation:
    """Account for one collective: the algorithm and protocol taken, and what each part costs.

    Parameters
    ----------
    collective : str
        As for `collective_s`.
    size_bytes : float
        Message by the nccl-tests convention, finite and at least 0. [bytes]
    path : GroupPath
        The group, as the hardware places it.
    links : mapping of str to Link
        Holds at least those that the path names.

    Returns
    -------
    Explanation
        What lost is in `rejected`, the fastest first; algorithm and protocol are "none" where there
        are no bytes or only one rank.

    Raises
    ------
    ModelDomainError
        As for `collective_s`.
    """
    total_s = float(collective_s(collective, size_bytes, path, links)[0])
    if total_s == 0:
        return Explanation(collective, size_bytes, path.ranks, "none", "none", 0, 0, 0, 0)
    lines = candidates(collective, path, links)
    by_time = sorted(lines, key=lambda line: line.latency_s + line.seconds_per_byte * size_bytes)
    best = by_time[0]
    return Explanation(
        collective=collective,
        size_bytes=size_bytes,
        ranks=path.ranks,
        algorithm=best.algorithm,
        protocol=best.protocol,
        latency_s=best.latency_s,
        bandwidth_s=best.seconds_per_byte * size_bytes,
        total_s=total_s,
        bus_bandwidth_bytes_per_s=bus_factor(collective, path.ranks) * size_bytes / total_s,
        rejected=tuple(
            (line.algorithm, line.protocol, line.latency_s + line.seconds_per_byte * size_bytes)
            for line in by_time[1:]
        ),
    )


def bus_factor(collective: str, ranks: int) -> float:
    """Bus bandwidth over algorithm bandwidth, as nccl-tests defines them.

    Parameters
    ----------
    collective : str
        One of `COLLECTIVES`.
    ranks : int
        At least 1.

    Returns
    -------
    float
        2 (n-1)/n of all_reduce, (n-1)/n of all_gather, reduce_scatter and all_to_all, 1 of
        broadcast and send_recv.

    Raises
    ------
    ModelDomainError
        There is no such collective.
    """
    check_collective(collective)
    match collective:
        case "all_reduce":
            return 2 * (ranks - 1) / ranks
        case "all_gather" | "reduce_scatter" | "all_to_all":
            return (ranks - 1) / ranks
        case _:
            return 1.0
