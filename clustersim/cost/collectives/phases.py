"""Collectives over a network of several dimensions, as textbooks run them: phase after phase.

Each dimension is a homogeneous network with its own algorithm; a collective over all of them is a
sequence of collectives over one. Messages pass links whole and without contention; each end of a
message and each local reduction may cost time. For comparison with other simulators: chunks of a
message do not overlap across dimensions, and `collective_s` does not use this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clustersim.errors import ModelDomainError

REDUCTION_PASSES = 3  # a local reduction reads two operands and writes one


@dataclass(frozen=True)
class Dimension:
    """One dimension of a network.

    Attributes
    ----------
    ranks : int
        Ranks along it.
    algorithm : str
        "ring", "direct" (all peers at once, a link each) or "halving_doubling".
    latency_s : float
        One step, over all links that it crosses. [s]
    bandwidth_bytes_per_s : float
        One link, one direction. [bytes/s]
    """

    ranks: int
    algorithm: str
    latency_s: float
    bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class Endpoint:
    """What a rank adds to the network.

    Attributes
    ----------
    message_s : float
        Each message, and once at the start. [s]
    memory_bytes_per_s : float
        Local reductions read two operands and write one at this rate. [bytes/s]
    """

    message_s: float = 0.0
    memory_bytes_per_s: float = math.inf


def phases_s(
    collective: str,
    size_bytes: float,
    dimensions: Sequence[Dimension],
    endpoint: Endpoint = Endpoint(),
    shrink: bool = True,
) -> float:
    """Time of a collective over all dimensions, one after the other.

    Parameters
    ----------
    collective : str
        all_reduce, all_gather, reduce_scatter or all_to_all.
    size_bytes : float
        By the nccl-tests convention. [bytes]
    dimensions : sequence of Dimension
        Innermost first.
    endpoint : Endpoint
        Delays of the ranks themselves.
    shrink : bool
        all_reduce: reduce-scatter outwards, all-gather inwards, so that outer dimensions carry
        only a shard; otherwise a whole all-reduce in each dimension.

    Returns
    -------
    float
        Duration. [s]

    References
    ----------
    .. [1] S. Rashidi et al., "Themis: A network bandwidth-aware collective scheduling policy for
       distributed training of DL models," ISCA 2022 (the hierarchical baseline).
    """
    if collective == "all_to_all" or (collective == "all_reduce" and not shrink):
        return sum(phase_s(collective, size_bytes, dim, endpoint) for dim in dimensions)
    total_s, shard = 0.0, size_bytes
    for position, dim in enumerate(dimensions):
        if collective == "all_reduce" and position < len(dimensions) - 1:
            total_s += phase_s("reduce_scatter", shard, dim, endpoint)
            total_s += phase_s("all_gather", shard, dim, endpoint)
        else:
            total_s += phase_s(collective, shard, dim, endpoint)
        shard /= dim.ranks
    return total_s


def phase_s(collective: str, size_bytes: float, dim: Dimension, endpoint: Endpoint) -> float:
    """Time of a collective over one dimension.

    Parameters
    ----------
    collective : str
        all_reduce, all_gather, reduce_scatter or all_to_all.
    size_bytes : float
        By the nccl-tests convention; nothing is free. [bytes]
    dim : Dimension
        One rank is free.
    endpoint : Endpoint
        Delays of the ranks themselves.

    Returns
    -------
    float
        Duration. [s]

    Raises
    ------
    ModelDomainError
        The algorithm of the dimension has no textbook form of the collective: halving and doubling
        has none of all_to_all, nor of anything over ranks that are no power of two.

    Notes
    -----
    T = sum over messages (latency + bytes / bandwidth + end) + end + sum over reductions
    (3 bytes / memory).
    """
    if dim.ranks <= 1 or size_bytes <= 0:
        return 0.0
    messages, reduced = _steps(collective, size_bytes, dim)
    wire_s = sum(dim.latency_s + size / dim.bandwidth_bytes_per_s for size in messages)
    ends_s = (len(messages) + 1) * endpoint.message_s
    return wire_s + ends_s + REDUCTION_PASSES * reduced / endpoint.memory_bytes_per_s


def _steps(collective: str, size_bytes: float, dim: Dimension) -> tuple[list[float], float]:
    """Messages on the critical path, and the bytes reduced there. [bytes]

    A ring passes shards to the neighbour [1], in an all-to-all the piece for the k-th rank ahead k
    times; recursive doubling sends 2^i shards in step i [2]; a direct exchange is one step.

    References
    ----------
    .. [1] P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
       workstations," J. Parallel Distrib. Comput. 69(2), 2009.
    .. [2] R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective communication
       operations in MPICH," Int. J. High Perform. Comput. Appl. 19(1), 2005.
    """
    if collective == "all_reduce":
        scatter, reduced = _steps("reduce_scatter", size_bytes, dim)
        gather, _ = _steps("all_gather", size_bytes, dim)
        return scatter + gather, reduced
    n, shard = dim.ranks, size_bytes / dim.ranks
    match dim.algorithm, collective:
        case "ring", "all_gather" | "reduce_scatter":
            messages = [shard] * (n - 1)
        case "ring", "all_to_all":
            messages = [shard] * (n * (n - 1) // 2)
        case "direct", "all_gather" | "reduce_scatter" | "all_to_all":
            messages = [shard]
        case "halving_doubling", "all_gather" | "reduce_scatter" if n & (n - 1) == 0:
            messages = [shard * 2**step for step in range(n.bit_length() - 1)]
        case _:
            raise ModelDomainError(
                f"{collective} by {dim.algorithm} over {n} ranks has no textbook form here"
            )
    return messages, sum(messages) if collective == "reduce_scatter" else 0.0
