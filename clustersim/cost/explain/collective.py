"""One collective: latency, bandwidth, and the algorithms that lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.collectives.algorithms import COLLECTIVES, Wire, wires
from clustersim.cost.collectives.pricing import Explanation as PricedCollective
from clustersim.cost.collectives.pricing import bus_factor, collective_s, explain_collective
from clustersim.cost.explain.parts import gains, over_links
from clustersim.cost.explain.record import Explanation, Hint, Site, Term, Trust
from clustersim.errors import ModelDomainError
from clustersim.hardware.paths import GroupPath, group_path
from clustersim.spec.link import Link
from clustersim.spec.profile import UNMEASURED_ERROR
from clustersim.spec.resolve import load_link
from clustersim.spec.suggest import did_you_mean
from clustersim.spec.topology import Topology
from clustersim.units import format_bytes, format_count, format_rate


def explain_collective_op(
    site: Site, collective: str, bytes: float, ranks: int, per_node: int | None = None
) -> Explanation:
    """Account for a collective alone on its group.

    Parameters
    ----------
    site : Site
        With its topology.
    collective : str
        all_reduce, all_gather, reduce_scatter, all_to_all, broadcast or send_recv.
    bytes : float
        Message by the nccl-tests convention, at least 1. [bytes]
    ranks : int
        At least 2.
    per_node : int, optional
        Members on each node; as many as it has GPUs by default.

    Returns
    -------
    Explanation
        Parts: latency (no bytes), bandwidth at the nominal rate, and what protocol and algorithm
        make of it.
    """
    topology = site.topology
    if topology is None:
        raise ModelDomainError(f"{site.device.name} stands alone: a collective needs a topology")
    members = group_members(topology, ranks, per_node)
    _check_collective(collective, bytes, ranks)
    path = group_path(topology, members)
    links = {name: load_link(name) for name in _link_names(path)}
    told = explain_collective(collective, bytes, path, links)
    factor = bus_factor(collective, ranks)
    link, rate = _slowest_link(collective, path, links)
    # In-switch reduction sends less than a ring and may pass the link rate in this measure.
    peak = max(rate, factor * bytes / told.bandwidth_s)
    bus = told.bus_bandwidth_bytes_per_s
    found = over_links(
        site,
        (
            "collective",
            f"{collective} of {format_bytes(bytes)} over {format_count(ranks)} ranks",
            f"network {'latency' if told.latency_s > told.bandwidth_s else 'bandwidth'}",
        ),
        (f"{topology.title} ({topology.name}), {where_of(path)}", bytes),
        (told.total_s, told.latency_s),
        (bus, rate, peak),
        _collective_terms(told, factor * bytes / rate, (link, rate)),
        _trust_in_links(_used_links(path, links)),
    )
    return replace(
        found,
        facts={
            "algorithm": told.algorithm,
            "protocol": told.protocol,
            "algorithm_bandwidth_bytes_per_s": bytes / told.total_s,
            "bus_bandwidth_bytes_per_s": bus,
            "slowest_link": link,
            "latency_equals_bandwidth_at_bytes": bytes * told.latency_s / told.bandwidth_s,
            "switch_hops": path.switch_hops,
        },
        rejected=tuple(Term(f"{a}, {p}", seconds) for a, p, seconds in told.rejected),
        hints=_collective_hints(collective, bytes, (path, links), told.total_s),
    )


def _check_collective(collective: str, size_bytes: float, ranks: int) -> None:
    if collective not in COLLECTIVES:
        hint = did_you_mean(collective, COLLECTIVES, what="known")
        raise ModelDomainError(f"unknown collective `{collective}`\n  fix: {hint}")
    if collective == "send_recv" and ranks != 2:
        raise ModelDomainError(f"send_recv is between 2 ranks, not {ranks}\n  fix: use --ranks 2")
    if size_bytes < 1.0:
        raise ModelDomainError(f"--bytes is {size_bytes:g}; a message holds at least one byte")


def _collective_terms(
    told: PricedCollective, nominal_s: float, slowest: tuple[str, float]
) -> tuple[Term, ...]:
    """Parts of the time: latency, bytes at the rate of the slowest link, what is beyond it."""
    link, rate = slowest
    at_rate_s = min(nominal_s, told.bandwidth_s)
    beyond_s = told.bandwidth_s - at_rate_s
    return (
        Term("latency", told.latency_s, "launch, synchronisation, steps"),
        Term(f"bytes at the rate of {link}", at_rate_s, f"{format_rate(rate)} a rank"),
        Term("protocol and algorithm", beyond_s, "flags, fences, own shard, congestion"),
    )


def group_members(topology: Topology, ranks: int, per_node: int | None) -> NDArray[np.int64]:
    """Global ranks of a group: the first `per_node` GPUs of as many nodes as it takes.

    Parameters
    ----------
    topology : Topology
    ranks : int
        Members, at least 2.
    per_node : int or None
        Members on each node; None: all of its GPUs, or all members where they are fewer.

    Returns
    -------
    ndarray of int (ranks,)
        Rising; the last node may have fewer.

    Raises
    ------
    ModelDomainError
        There is one rank, a node has too few GPUs, or the cluster too few nodes.
    """
    gpus = topology.node.gpus
    share = per_node or min(ranks, gpus)
    if ranks < 2:
        raise ModelDomainError(f"--ranks {ranks}: a collective has at least 2 ranks")
    if share > gpus:
        raise ModelDomainError(
            f"--per-node {share} is more than the {gpus} GPUs of a node of {topology.name}"
        )
    index = np.arange(ranks, dtype=np.int64)
    if ranks > topology.nodes * share:
        room = topology.nodes * share
        fix = f"use at most {room} ranks" if room > 1 else "name a larger topology"
        raise ModelDomainError(
            f"{ranks} ranks, {share} on a node, do not fit {topology.name} (nodes: "
            f"{topology.nodes}, GPUs of each: {gpus})\n  fix: {fix}"
        )
    return index // share * gpus + index % share


def _link_names(path: GroupPath) -> list[str]:
    names = {path.scale_up_link} | ({path.nic_link} if path.nodes > 1 else set())
    return sorted(name for name in names if name)


def where_of(path: GroupPath) -> str:
    """Where the members of a group are, in words.

    Parameters
    ----------
    path : GroupPath

    Returns
    -------
    str
        Such as "8 on each of 4 nodes"; the fullest node speaks for all.
    """
    if path.nodes == 1:
        return "one node"
    return f"{path.ranks_per_node} on each of {format_count(path.nodes)} nodes"


def _slowest_link(collective: str, path: GroupPath, links: Mapping[str, Link]) -> tuple[str, float]:
    """Link kind that limits, and the most bus bandwidth of a rank that it allows. [bytes/s]

    Notes
    -----
    Between islands the rings of its `width` ranks share their adapters; of an all-to-all only
    n - w of n pieces leave the island.
    """
    wire: Wire = next(wires(path, links))[1]
    n, width = wire.ranks, wire.width
    inner = path.scale_up_bytes_per_s if width > 1 else float("inf")
    outer = float("inf")
    if wire.islands > 1:
        shares = {"all_to_all": (n - 1) / max(1, n - width), "send_recv": 1.0}
        outer = path.nic_bytes_per_s * shares.get(collective, float(width))
    if inner <= outer:
        return path.scale_up_link, inner
    return path.nic_link, outer


def _used_links(path: GroupPath, links: Mapping[str, Link]) -> list[Link]:
    """Links that the bytes of a group cross: inside its islands, and between them."""
    wire = next(wires(path, links))[1]
    inner = [links[path.scale_up_link]] if wire.width > 1 else []
    return inner + ([links[path.nic_link]] if wire.islands > 1 else [])


def _trust_in_links(links: Sequence[Link]) -> Trust:
    """The link of the largest stated error speaks for all."""

    def error_of(link: Link) -> float:
        p = link.pedigree
        stated = p.error if p.held_out_error is None else p.held_out_error
        return UNMEASURED_ERROR if stated is None else stated

    worst = max(links, key=error_of)
    pedigree = worst.pedigree
    evidence = "assumed: nothing of this link was measured"
    if pedigree.held_out_error is not None:
        evidence = f"held out: {pedigree.held_out}" if pedigree.held_out else "held out"
    elif pedigree.error is not None:
        evidence = "in sample"
    return Trust(
        worst.name, pedigree.basis, "collectives", pedigree.points, error_of(worst), evidence
    )


def _collective_hints(
    collective: str, size_bytes: float, where: tuple[GroupPath, Mapping[str, Link]], now_s: float
) -> tuple[Hint, ...]:
    """Larger messages, and more ranks of a group on a node."""
    tries = [
        (f"messages of {format_bytes(times * size_bytes)} ({times:.0f} joined)", times)
        for times in (4.0, 16.0)
    ]
    tries.append(("half the bytes (narrower datatype)", 0.5))
    sizes = size_bytes * np.array([times for _, times in tries])
    seconds = collective_s(collective, sizes, *where).tolist()
    # Of half the bytes the same elements come: as much work, and it takes less time.
    works = ((text, s, max(n, 1.0)) for (text, n), s in zip(tries, seconds, strict=True))
    return gains(works, now_s)
