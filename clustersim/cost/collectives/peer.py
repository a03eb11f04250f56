"""All-reduce kernels of serving engines: ranks read each other's buffers over NVLink.

One kernel, no library and no channels: after a barrier each rank reads all buffers and adds them
(one shot), or a share of them, and after a second barrier the others' sums (two shots). Left out:
the copy into registered buffers, the size above which an engine hands over to the library
(`MOST_BYTES` is its default), kernels that multicast in the switch.

References
----------
.. [1] vLLM, csrc/custom_all_reduce.cuh, one-stage and two-stage all-reduce,
   https://github.com/vllm-project/vllm
.. [2] NVIDIA, TensorRT-LLM, customAllReduceKernels: ONESHOT and TWOSHOT strategies,
   https://github.com/NVIDIA/TensorRT-LLM
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clustersim.cost.collectives.algorithms import Links, find_link
from clustersim.cost.collectives.pricing import collective_s
from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import GroupPath
from clustersim.spec.link import PeerReads

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
MOST_BYTES = 8.0 * 2**20  # message up to which engines use their own kernels [1]
PCIE_RANKS = 2  # more ranks without a full mesh of fast links are left to the library [1]


def engine_all_reduce_s(
    size_bytes: ArrayLike, path: GroupPath, links: Links, one_shot: Flags | None = None
) -> Array:
    """Time of an all-reduce as a serving engine runs it: its own kernel, or the library.

    Parameters
    ----------
    size_bytes : ndarray (n,)
        Buffer of a rank. [bytes]
    path : GroupPath
        The group; one rank is free.
    links : mapping of str to Link
        Holds at least the links that the path names.
    one_shot : ndarray of bool (n,), optional
        Messages that the engine sends in one shot whatever it costs, the others by the library;
        without: each the fastest way.

    Returns
    -------
    ndarray (n,)
        Duration; zero bytes are free. [s]
    """
    sizes = np.atleast_1d(np.asarray(size_bytes, dtype=np.float64))
    library_s = collective_s("all_reduce", sizes, path, links)
    reads = _reads(path, links)
    if reads is None or path.ranks <= 1:
        return library_s
    once_s, twice_s = peer_all_reduce_s(sizes, path.ranks, path.scale_up_bytes_per_s, reads)
    if one_shot is not None:
        return np.where(one_shot & (sizes > 0), once_s, library_s)
    small = (sizes > 0) & (sizes <= MOST_BYTES)
    fastest_s = np.minimum(np.minimum(once_s, twice_s), library_s)
    return np.where(small, fastest_s, library_s)


def peer_all_reduce_s(
    size_bytes: Array, ranks: int, link_bytes_per_s: float, reads: PeerReads
) -> tuple[Array, Array]:
    """Time of one shot and of two shots.

    Parameters
    ----------
    size_bytes : ndarray (n,)
        Buffer of a rank. [bytes]
    ranks : int
        At least 2.
    link_bytes_per_s : float
        Nominal rate of a rank, one direction. [bytes/s]
    reads : PeerReads
        Fitted behaviour of the link.

    Returns
    -------
    tuple of ndarray (n,)
        In one shot, in two. [s]

    Notes
    -----
    With n ranks and the reachable rate b: one shot base + (n-2) peer + (n-1) S / b; two shots
    base + (n-2) peer + barrier + 2 (n-1)/n S / b.
    """
    if ranks < 2:
        raise ModelDomainError(f"an all-reduce of {ranks} rank: use at least 2")
    rate = link_bytes_per_s * reads.efficiency
    start_s = reads.base + (ranks - 2) * reads.peer
    once_s = (ranks - 1) * size_bytes / rate
    return start_s + once_s, start_s + reads.barrier + 2.0 * once_s / ranks


def _reads(path: GroupPath, links: Links) -> PeerReads | None:
    """What the link makes of the kernels, where they run over this path at all."""
    if path.nodes > 1 or path.domains > 1:
        return None
    link = find_link(path.scale_up_link, links)
    return None if link.kind == "pcie" and path.ranks > PCIE_RANKS else link.peer_reads
