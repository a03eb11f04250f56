"""What a group of ranks meets on its way: links, shares and switches, without a graph.

Rank r sits on node `r // gpus`, as its local GPU `r % gpus`. GPU i of a node uses NIC
`i * nics // gpus`. Between nodes traffic stays on its rail: where the scale-up links cover the
node, data changes rails over them before it leaves [1]_; where they do not, it crosses the fabric.
Rates assume that the sibling groups (all others of the same shape) communicate at the same time.
Losses of protocols and of the fabric are left to the cost model.

References
----------
.. [1] K. Bayatpour et al., "Doubling all2all performance with NVIDIA Collective Communication
   Library 2.12 (PXN)," NVIDIA technical blog, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clustersim.errors import PlacementError
from clustersim.hardware.fabric import FabricPlan, plan_fabric
from clustersim.hardware.scale_up import (
    domain_of,
    domain_position,
    mesh_links,
    mesh_rings,
    relays_rails,
)
from clustersim.spec.topology import Topology

__all__ = ["GroupPath", "group_path", "nic_of", "pair_path"]


@dataclass(frozen=True)
class GroupPath:
    """The links that a communication group uses.

    Attributes
    ----------
    ranks, nodes : int
        Members, and nodes that they are on.
    ranks_per_node : int
        Largest share of members on one node.
    domains : int
        Scale-up domains spanned.
    scale_up_kind, scale_up_link : str
        How GPUs of a domain are joined, and by which link kind.
    scale_up_bytes_per_s : float
        Rate of one rank towards the group's members in its domain, one direction. A group within
        one node that spans domains gets the PCIe rate. [bytes/s]
    nic_link : str
        Transport of the NICs.
    nic_bytes_per_s : float
        One rank's share of its NIC, one direction, with all sibling groups communicating, after
        oversubscription where the group leaves a leaf, before fabric efficiency. [bytes/s]
    nic_count : int
        NICs of a node.
    fabric_efficiency : float
        Share of a link that payload reaches at scale.
    switch_hops : int
        Switches of the fabric crossed between the farthest members; 0 inside a node or domain.
    switch_latency_s : float
        Delay of one switch. [s]
    """

    ranks: int
    nodes: int
    ranks_per_node: int
    domains: int
    scale_up_kind: str
    scale_up_link: str
    scale_up_bytes_per_s: float
    nic_link: str
    nic_bytes_per_s: float
    nic_count: int
    fabric_efficiency: float
    switch_hops: int
    switch_latency_s: float


def group_path(topology: Topology, ranks: ArrayLike, gpus_in_use: int | None = None) -> GroupPath:
    """Describe the links between the members of a group.

    Parameters
    ----------
    topology : Topology
        The cluster; ranks fill its nodes in order.
    ranks : array_like of int (n,)
        Global ranks of the members, each once, in any order.
    gpus_in_use : int, optional
        Ranks of the whole job, 0 to `gpus_in_use - 1`; the other GPUs of a node leave their share
        of the NICs to these. By default all GPUs of the cluster.

    Returns
    -------
    GroupPath
        Rates, counts and hops.

    Raises
    ------
    PlacementError
        A rank is outside the cluster or given twice, or nothing joins the nodes of the group.
    CapacityError
        The fabric has too few ports for the cluster.
    """
    members = _checked(topology, ranks, gpus_in_use)
    gpus, nics, switch = topology.node.gpus, topology.node.nics, topology.fabric.switch
    domains = domain_of(topology, members)
    per_node = _run_lengths(members // gpus)
    nodes, domain_count = per_node.size, _run_lengths(domains).size
    leaves_node = nodes > 1 and domain_count > 1
    plan = plan_fabric(topology)
    if leaves_node and plan.tiers == 0:
        raise PlacementError(
            f"ranks {members[0]} to {members[-1]} lie on {nodes} nodes of {topology.name}, "
            "which no fabric joins\n  fix: keep the group on one node, or use rail_clos or fat_tree"
        )
    hops = _fabric_hops(topology, plan, members) if leaves_node else 0
    return GroupPath(
        ranks=int(members.size),
        nodes=nodes,
        ranks_per_node=int(per_node.max()),
        domains=domain_count,
        scale_up_kind=topology.node.scale_up.kind,
        scale_up_link=topology.node.scale_up.link,
        scale_up_bytes_per_s=_scale_up_rate(topology, members, domains, nodes),
        nic_link=nics.link,
        nic_bytes_per_s=_nic_rate(topology, plan, members, hops, gpus_in_use),
        nic_count=nics.count,
        fabric_efficiency=topology.fabric.efficiency,
        switch_hops=hops,
        switch_latency_s=switch.latency if switch else 0.0,
    )


def pair_path(
    topology: Topology, rank_a: int, rank_b: int, gpus_in_use: int | None = None
) -> GroupPath:
    """Describe the links between two ranks, such as pipeline neighbours.

    Parameters
    ----------
    topology : Topology
        The cluster.
    rank_a, rank_b : int
        Two different global ranks.
    gpus_in_use : int, optional
        Ranks of the whole job, as in `group_path`.

    Returns
    -------
    GroupPath
        The path of a group of two.
    """
    return group_path(topology, (rank_a, rank_b), gpus_in_use)


def nic_of(topology: Topology, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the NIC, within its node, that each GPU uses.

    Parameters
    ----------
    topology : Topology
        The cluster.
    ranks : ndarray of int (n,)
        Global ranks.

    Returns
    -------
    ndarray of int (n,)
        `local_gpu * nics // gpus`.
    """
    return ranks % topology.node.gpus * topology.node.nics.count // topology.node.gpus


def _checked(topology: Topology, ranks: ArrayLike, gpus_in_use: int | None) -> NDArray[np.int64]:
    members = np.sort(np.asarray(ranks, dtype=np.int64).ravel())
    if members.size == 0:
        raise PlacementError("a group of no ranks has no path")
    capacity = topology.nodes * topology.node.gpus
    room = capacity if gpus_in_use is None else gpus_in_use
    if room > capacity or members[0] < 0 or members[-1] >= room:
        raise PlacementError(
            f"ranks {members[0]} to {members[-1]} of a job of {room} do not fit {topology.name}: "
            f"{topology.nodes} nodes of {topology.node.gpus} GPUs hold ranks 0 to {capacity - 1}\n"
            f"  fix: use {-(-max(room, int(members[-1]) + 1) // topology.node.gpus)} nodes"
        )
    twice = members[1:][members[1:] == members[:-1]]
    if twice.size:
        raise PlacementError(f"rank {twice[0]} is in its group of {members.size} more than once")
    return members


def _run_lengths(ascending: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.flatnonzero(ascending[1:] != ascending[:-1]) + 1
    return np.diff(np.concatenate(([0], starts, [ascending.size])))


def _scale_up_rate(
    topology: Topology,
    members: NDArray[np.int64],
    domains: NDArray[np.int64],
    nodes: int,
) -> float:
    scale_up, pcie = topology.node.scale_up, topology.node.device.pcie_bandwidth
    if nodes == 1 and domains[0] != domains[-1]:
        return min(scale_up.bandwidth, pcie)
    if scale_up.kind != "mesh":
        return scale_up.bandwidth
    links = mesh_links(scale_up.domain_gpus, scale_up.link)
    bits = 2.0 ** domain_position(topology, members)
    masks = np.unique(np.bincount(domains, weights=bits).astype(np.int64))
    used = masks[:, None] >> np.arange(scale_up.domain_gpus) & 1
    used = used[used.sum(axis=1) > 1]
    if used.size == 0:
        return scale_up.bandwidth
    lanes = int((used @ links)[used == 1].min())
    for mask in used:
        inside = tuple(np.flatnonzero(mask).tolist())
        lanes = min(lanes, mesh_rings(scale_up.domain_gpus, scale_up.link, inside) or lanes)
    share = lanes / max(1, links.sum(axis=1).max())
    return float(min(scale_up.bandwidth, max(scale_up.bandwidth * share, pcie)))


def _nic_rate(
    topology: Topology,
    plan: FabricPlan,
    members: NDArray[np.int64],
    hops: int,
    gpus_in_use: int | None,
) -> float:
    nics, gpus, fabric = topology.node.nics, topology.node.gpus, topology.fabric
    if nics.count == 0:
        return 0.0
    busy = np.arange(min(gpus, gpus_in_use or gpus), dtype=np.int64)
    sharers = np.bincount(nic_of(topology, busy), minlength=nics.count)
    rate = nics.bandwidth / int(sharers[nic_of(topology, members)].max())
    if hops > 1 and fabric.switch:
        per_leaf = plan.pod_nodes * plan.nics // plan.pod_leaves * nics.bandwidth
        rate *= min(1.0, plan.leaf_up_ports * fabric.switch.port_bandwidth / per_leaf)
    return float(rate)


def _fabric_hops(topology: Topology, plan: FabricPlan, members: NDArray[np.int64]) -> int:
    node = members // topology.node.gpus
    nic = nic_of(topology, members)
    if relays_rails(topology):
        nic = np.zeros_like(nic)
    leaf = plan.leaf_of(node, nic)
    if (leaf == leaf[0]).all():
        return 1
    group = plan.group_of(leaf)
    return 3 if (group == group[0]).all() else 5
