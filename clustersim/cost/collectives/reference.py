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
    """Time of a ring, step by step: a shard of 1/ranks moves to the neighbour in each. [s]"""
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
    """Time of a double binary tree, level by level, up and then down. [s]"""
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
    """Time of PAT, step by step: rank 0 sends the shards it has on to rank +distance. [s]

    All ranks do the same at the same time. `held` are the shards of rank 0, by how far behind it
    they began; one that has come `offset` ranks is sent on unless its tree ends before that.
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
    """Time of an all-to-all of one rank, peer by peer. [s]"""
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
    """Time of each call, the least over the lines of its group; the kernel's twin. [s]"""
    times = []
    for size, g in zip(size_bytes, group, strict=True):
        lines = range(start[g], start[g + 1])
        ways = [latency_s[line] + seconds_per_byte[line] * size for line in lines]
        times.append(min(ways) if ways and size > 0 else 0.0)
    return times
