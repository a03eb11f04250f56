"""Textbook collectives on an idle, homogeneous network: T = steps * latency + bytes / bandwidth.

For comparison with other simulators and with papers; `collective_s` does not use them. `size_bytes`
is the buffer on each rank: all_reduce and all_to_all, the whole buffer; reduce_scatter, the input;
all_gather, the gathered output. Reduction arithmetic is left out. One rank costs nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import ModelDomainError

Array = NDArray[np.float64]
Numbers = float | NDArray[Any]


def _rounds(ranks: Numbers) -> Array:
    """log2 of the number of ranks, rounded up."""
    return np.ceil(np.log2(np.asarray(ranks, dtype=np.float64)))


def _shards(size_bytes: Numbers, ranks: Numbers) -> tuple[Array, Array]:
    n = np.asarray(ranks, dtype=np.float64)
    if (n < 1).any():
        raise ModelDomainError(f"a collective needs at least 1 rank, not {n.min():g}")
    return n, np.asarray(size_bytes, dtype=np.float64) / n


def ring_all_reduce_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time of a ring all-reduce on an idle, homogeneous ring.

    Parameters
    ----------
    size_bytes : ndarray (n,)
        Buffer on each rank. [bytes]
    ranks : ndarray of int (n,)
        Ring length, at least 1; 1 costs nothing.
    latency_s, bandwidth_bytes_per_s : ndarray (n,)
        Slowest hop of the ring, one direction. [s], [bytes/s]

    Returns
    -------
    ndarray (n,)
        Duration. [s]

    Notes
    -----
    2(n-1) steps of size/n bytes each: reduce-scatter, then all-gather.

    References
    ----------
    .. [1] P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
       workstations," J. Parallel Distrib. Comput. 69(2), 2009.
    """
    return 2 * ring_all_gather_s(size_bytes, ranks, latency_s, bandwidth_bytes_per_s)


def ring_all_gather_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time of a ring all-gather of `size_bytes` gathered output, or of a reduce-scatter. [s]

    Notes
    -----
    n-1 steps of size/n bytes each; parameters as `ring_all_reduce_s`.
    """
    n, shard = _shards(size_bytes, ranks)
    return np.asarray((n - 1) * (latency_s + shard / bandwidth_bytes_per_s))


def ring_reduce_scatter_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time of a ring reduce-scatter of `size_bytes` input: an all-gather run backwards. [s]"""
    return ring_all_gather_s(size_bytes, ranks, latency_s, bandwidth_bytes_per_s)


def ring_all_to_all_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time of an all-to-all that passes every piece from neighbour to neighbour, one way. [s]

    Notes
    -----
    n(n-1)/2 steps of size/n bytes each: the piece for the k-th rank ahead moves k times.
    """
    n, shard = _shards(size_bytes, ranks)
    return np.asarray(n * (n - 1) / 2 * (latency_s + shard / bandwidth_bytes_per_s))


def halving_doubling_all_gather_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time of an all-gather by recursive doubling, for a power of two of ranks. [s]

    Notes
    -----
    log2(n) steps; step i carries 2^i shards, together (n-1)/n of the output.

    References
    ----------
    .. [1] R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication
       operations in MPICH," Int. J. High Perform. Comput. Appl. 19(1), 2005.
    """
    n, shard = _shards(size_bytes, ranks)
    rounds = _rounds(n)
    wrong = n[2**rounds != n]
    if wrong.size:
        raise ModelDomainError(f"halving-doubling needs a power of two of ranks, not {wrong[0]:g}")
    return np.asarray(rounds * latency_s + (n - 1) * shard / bandwidth_bytes_per_s)


def halving_doubling_all_reduce_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time of an all-reduce by recursive halving, then doubling (Rabenseifner). [s]"""
    return 2 * halving_doubling_all_gather_s(size_bytes, ranks, latency_s, bandwidth_bytes_per_s)


def direct_all_gather_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time where every rank sends its shard to all others at once, each over its own link. [s]

    Notes
    -----
    One step of size/n bytes a link, on a fully connected network with this rate on every link;
    reduce-scatter and all-to-all of the same size take as long.
    """
    n, shard = _shards(size_bytes, ranks)
    return np.where(n > 1, latency_s + shard / bandwidth_bytes_per_s, 0.0)


def direct_all_reduce_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time of a direct reduce-scatter and a direct all-gather, one after the other. [s]"""
    return 2 * direct_all_gather_s(size_bytes, ranks, latency_s, bandwidth_bytes_per_s)


def double_tree_all_reduce_s(
    size_bytes: Numbers,
    ranks: Numbers,
    latency_s: Numbers,
    bandwidth_bytes_per_s: Numbers,
) -> Array:
    """Time of a pipelined double binary tree. [s]

    Notes
    -----
    Up and down: 2 ceil(log2 n) hops, and 2(n-1)/n of the buffer through each rank's link.

    References
    ----------
    .. [1] P. Sanders, J. Speck, J. L. Träff, "Two-tree algorithms for full bandwidth broadcast,
       reduction and scan," Parallel Computing 35(12), 2009.
    """
    n, shard = _shards(size_bytes, ranks)
    return np.asarray(2 * (_rounds(n) * latency_s + (n - 1) * shard / bandwidth_bytes_per_s))
