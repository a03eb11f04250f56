"""Plain twins: each algorithm run one step at a time, and the kernel's search one line at a time.

They follow the data: who sends what to whom in each step, over which link. Slow, and meant to be
read beside the papers that `algorithms` cites.
"""

from __future__ import annotations

from collections.abc import Sequence

from clustersim.cost.collectives.algorithms import (
    PAT_SHARD_S,
    PAT_SHARE,
    TREE_SHARE,
    Wire,
)


def ring_by_steps(size_bytes: float, wire: Wire, passes: int) -> float:
    """Time of a ring, step by step: a shard of 1/ranks moves to the neighbour in each.

    Parameters
    ----------
    size_bytes : float
        Of the collective. [bytes]
    wire : Wire
        What one protocol offers over the group.
    passes : int
        Times around: 2 of an all-reduce, 1 of an all-gather or a reduce-scatter.

    Returns
    -------
    float
        Duration. [s]

    References
    ----------
    .. [1] P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
       workstations," J. Parallel Distrib. Comput. 69(2), 2009.
    """
    shard = size_bytes / wire.ranks
    time_s = wire.base_s + wire.setup_s
    for _ in range(passes):
        network_hops_left = wire.islands - 1
        for _ in range(wire.ranks - 1):
            hop_s = wire.inner_hop_s
            if network_hops_left:
                hop_s, network_hops_left = wire.outer_hop_s, network_hops_left - 1
            slowest = min(wire.inner_bytes_per_s, wire.outer_bytes_per_s)
            time_s += hop_s + shard / slowest
    return time_s + shard / wire.copy_bytes_per_s


def tree_by_levels(size_bytes: float, wire: Wire) -> float:
    """Time of an all-reduce over a double binary tree, level by level, up and then down.

    Parameters
    ----------
    size_bytes : float
        Buffer of a rank; each tree carries half. [bytes]
    wire : Wire
        What one protocol offers over the group: chains inside islands, trees between them.

    Returns
    -------
    float
        Duration. [s]

    References
    ----------
    .. [1] P. Sanders, J. Speck, J. L. Träff, "Two-tree algorithms for full bandwidth broadcast,
       reduction and scan," Parallel Computing 35(12), 2009.
    """
    time_s = wire.base_s + wire.setup_s
    for _direction in ("reduce", "broadcast"):
        for _ in range(wire.width - 1):
            time_s += wire.inner_hop_s
        covered = 1
        while covered < wire.islands:
            covered *= 2
            time_s += wire.outer_hop_s
    chain_bytes = size_bytes + size_bytes  # each link of the chain: once up, once down
    edge_bytes = 0.0
    for _tree in range(2):
        for _edge in range(wire.islands - 1):
            edge_bytes += size_bytes / 2 + size_bytes / 2  # half the buffer up, and down again
    per_island = edge_bytes / wire.islands
    inner_s = chain_bytes / wire.inner_bytes_per_s
    outer_s = per_island / wire.outer_bytes_per_s
    return time_s + max(inner_s, outer_s) / TREE_SHARE


def aggregated_trees_by_steps(size_bytes: float, wire: Wire) -> float:
    """Time of PAT, step by step: rank 0 sends the shards it has on to rank +distance.

    All ranks do the same at the same time. `held` are the shards of rank 0, by how far behind it
    they began; one that has come `offset` ranks is sent on unless its tree ends before that.

    Parameters
    ----------
    size_bytes : float
        Gathered output, or input of a rank to scatter. [bytes]
    wire : Wire
        What the Simple protocol offers over islands of one rank.

    Returns
    -------
    float
        Duration. [s]

    References
    ----------
    .. [1] S. Jeaugey, "PAT: a new algorithm for all-gather and reduce-scatter operations at
       scale," arXiv:2506.20252, 2025.
    """
    shard = size_bytes / wire.ranks
    time_s = wire.base_s + wire.setup_s
    held = [0]
    distance = 1
    while 2 * distance < wire.ranks:
        distance *= 2
    while distance >= 1:
        time_s += wire.aggregated_hop_s
        passed = [offset + distance for offset in held if offset + distance < wire.ranks]
        for _ in passed:
            time_s += PAT_SHARD_S + shard / (PAT_SHARE * wire.outer_bytes_per_s)
        held += passed  # the rank behind sent as much
        distance //= 2
    assert sorted(held) == list(range(wire.ranks))
    return time_s + PAT_SHARD_S  # its own shard, into the output


def exchange_by_peers(size_bytes: float, wire: Wire) -> float:
    """Time of an all-to-all of one rank, peer by peer.

    Parameters
    ----------
    size_bytes : float
        Input of a rank; each peer gets 1/ranks of it. [bytes]
    wire : Wire
        What one protocol offers over the group.

    Returns
    -------
    float
        Duration: the slower of what stays inside the island and of what all its ranks send out. [s]
    """
    piece = size_bytes / wire.ranks
    time_s = wire.base_s + wire.exchange_hop_s
    near = far = 0.0
    for peer in range(1, wire.ranks):
        if peer < wire.width:
            near += piece
        else:
            far += piece
        if peer > 1:
            time_s += wire.peer_s
    inner_s = near / wire.inner_bytes_per_s
    outer_s = wire.width * far / wire.outer_bytes_per_s
    return time_s + max(inner_s, outer_s) / wire.message_share + piece / wire.copy_bytes_per_s


def price_lines(
    size_bytes: Sequence[float],
    group: Sequence[int],
    start: Sequence[int],
    latency_s: Sequence[float],
    seconds_per_byte: Sequence[float],
) -> list[float]:
    """Time of each call, the least over the lines of its group; the kernel's twin.

    Parameters
    ----------
    size_bytes : sequence of float (n,)
        [bytes]
    group : sequence of int (n,)
        Group of each call.
    start : sequence of int (g + 1,)
        First line of each group.
    latency_s, seconds_per_byte : sequence of float (m,)
        The lines. [s], [s/byte]

    Returns
    -------
    list of float
        Durations; zero bytes and groups without lines are free. [s]
    """
    times = []
    for size, g in zip(size_bytes, group, strict=True):
        lines = range(start[g], start[g + 1])
        ways = [latency_s[line] + seconds_per_byte[line] * size for line in lines]
        times.append(min(ways) if ways and size > 0 else 0.0)
    return times
