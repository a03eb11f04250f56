"""A cluster's graph as others want to see it: a networkx view, and a page of figures."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from clustersim.hardware.cluster import Cluster, LinkKind, VertexKind
from clustersim.hardware.fabric import FabricPlan
from clustersim.hardware.scale_up import domain_nodes, domains_per_node, mesh_links
from clustersim.spec.topology import Topology

if TYPE_CHECKING:
    import networkx as nx

_SWITCHES = (VertexKind.LEAF, VertexKind.SPINE, VertexKind.CORE)


@dataclass(frozen=True)
class ClusterSummary:
    """Figures of a cluster.

    Attributes
    ----------
    name : str
        Topology.
    nodes, gpus, vertices, links : int
        Counts; links are directed.
    vertices_by_kind : dict of str to int
        Vertices of each kind that occurs.
    switches : dict of str to int
        Network switches of each tier.
    diameter_hops : int
        Links between the two GPUs farthest apart, by the shortest way.
    bisection_bytes_per_s : float
        Least rate, one direction, over all cuts of the nodes (of the scale-up domains, where one
        spans nodes) in two halves; inside the node or domain where there is only one. [bytes/s]
    oversubscription : dict of str to float
        Rate down over rate up of a full switch of each tier that has a tier above.
    cables : dict of str to int
        Network cables below each tier of switches.
    nic_bytes_per_s_per_gpu, scale_up_bytes_per_s_per_gpu : float
        Rate of one GPU, one direction. [bytes/s]
    """

    name: str
    nodes: int
    gpus: int
    vertices: int
    links: int
    vertices_by_kind: dict[str, int]
    switches: dict[str, int]
    diameter_hops: int
    bisection_bytes_per_s: float
    oversubscription: dict[str, float]
    cables: dict[str, int]
    nic_bytes_per_s_per_gpu: float
    scale_up_bytes_per_s_per_gpu: float


def to_networkx(cluster: Cluster) -> nx.DiGraph[int]:
    """Build a networkx graph of the cluster.

    Parameters
    ----------
    cluster : Cluster
        The arrays; a large cluster takes about 1 KB a link here.

    Returns
    -------
    networkx.DiGraph
        Vertices carry `kind`; edges `kind`, `cables`, `capacity` [bytes/s], `latency` [s].
    """
    import networkx as nx

    graph: nx.DiGraph[int] = nx.DiGraph(name=cluster.topology.name)
    names = [kind.name.lower() for kind in VertexKind]
    graph.add_nodes_from((v, {"kind": names[k]}) for v, k in enumerate(cluster.vertex_kind))
    link_names = [kind.name.lower() for kind in LinkKind]
    graph.add_edges_from(
        (source, target, {"kind": link_names[k], "cables": c, "capacity": rate, "latency": delay})
        for source, target, k, c, rate, delay in zip(
            cluster.source.tolist(),
            cluster.target.tolist(),
            cluster.link_kind.tolist(),
            cluster.cables.tolist(),
            cluster.capacity_bytes_per_s.tolist(),
            cluster.latency_s.tolist(),
            strict=True,
        )
    )
    return graph


def summarise(cluster: Cluster) -> ClusterSummary:
    """Work out the figures of a cluster.

    Parameters
    ----------
    cluster : Cluster
        The graph.

    Returns
    -------
    ClusterSummary
        Counts, diameter, bisection bandwidth, oversubscription, cables.
    """
    node, plan = cluster.topology.node, cluster.plan
    counts = {kind.name.lower(): cluster.count(kind) for kind in VertexKind if cluster.count(kind)}
    tiers = [kind.name.lower() for kind in _SWITCHES]
    cables = (
        plan.nodes * plan.nics if plan.tiers else 0,
        plan.leaves * plan.leaf_up_ports,
        plan.spines * plan.plane_cores * plan.spine_core_cables,
    )
    return ClusterSummary(
        name=cluster.topology.name,
        nodes=plan.nodes,
        gpus=cluster.count(VertexKind.GPU),
        vertices=cluster.vertices,
        links=cluster.links,
        vertices_by_kind=counts,
        switches={tier: counts[tier] for tier in tiers if tier in counts},
        diameter_hops=_diameter_hops(cluster),
        bisection_bytes_per_s=bisection_bytes_per_s(cluster.topology, plan),
        oversubscription=_oversubscription(cluster.topology, plan),
        cables={f"below_{tier}": n for tier, n in zip(tiers, cables, strict=True) if n},
        nic_bytes_per_s_per_gpu=node.nics.count * node.nics.bandwidth / node.gpus,
        scale_up_bytes_per_s_per_gpu=node.scale_up.bandwidth,
    )


def bisection_bytes_per_s(topology: Topology, plan: FabricPlan) -> float:
    """Find the least rate between two halves of a cluster.

    Parameters
    ----------
    topology : Topology
        The cluster.
    plan : FabricPlan
        Its fabric.

    Returns
    -------
    float
        Rate of the narrowest cut that parts the nodes in two halves (sizes differ by one where
        their number is odd), one direction. [bytes/s]

    Notes
    -----
    Each switch is on the cheaper side of a cut. All spines and cores are alike, so they are on the
    same side; a pod with k of its m nodes on the other side adds, for each leaf, the lesser of the
    NICs of k nodes, and the NICs of m - k nodes plus the leaf's way up. This is concave in k, so in
    the narrowest cut all pods but one are whole. A domain of several nodes stays whole as well.
    """
    together = domain_nodes(topology)
    if plan.nodes <= together:
        return _inside_bytes_per_s(topology)
    half = -(-plan.nodes // together) // 2 * together
    full_pods, last = divmod(plan.nodes, plan.pod_nodes)
    costs = []
    for chosen in {half, plan.nodes - half}:
        for in_last in _last_pod_shares(chosen, full_pods, plan.pod_nodes, last):
            whole, part = divmod(chosen - in_last, plan.pod_nodes)
            costs.append(
                whole * _pod_cut(topology, plan, plan.pod_nodes, plan.pod_nodes)
                + _pod_cut(topology, plan, part, plan.pod_nodes)
                + _pod_cut(topology, plan, in_last, last)
            )
    return min(costs)


def _last_pod_shares(chosen: int, full_pods: int, pod_nodes: int, last: int) -> set[int]:
    """Shares of the last, smaller pod in which at most one pod of all is not whole."""
    shares = {0, last} | {chosen % pod_nodes, max(0, chosen - full_pods * pod_nodes)}
    return {k for k in shares if k <= last and 0 <= chosen - k <= full_pods * pod_nodes}


def _pod_cut(topology: Topology, plan: FabricPlan, chosen: int, size: int) -> float:
    nics, switch = topology.node.nics, topology.fabric.switch
    assert switch is not None, "a fabric with pods has switches"
    rate = plan.nics * nics.bandwidth
    up = plan.pod_leaves * plan.leaf_up_ports * switch.port_bandwidth
    return min(chosen * rate, (size - chosen) * rate + up)


def _inside_bytes_per_s(topology: Topology) -> float:
    scale_up = topology.node.scale_up
    gpus = topology.nodes * topology.node.gpus
    if scale_up.kind in ("pcie", "none") or domains_per_node(topology) > 1:
        return _host_cut_bytes_per_s(topology)
    if scale_up.kind == "switch":
        return gpus // 2 * scale_up.bandwidth
    links = mesh_links(scale_up.domain_gpus, scale_up.link)
    one_link = scale_up.bandwidth / max(1, int(links.sum(axis=1).max()))
    links = links[:gpus, :gpus]
    if gpus > 8:
        return gpus // 2 * (gpus - gpus // 2) * one_link
    cuts: list[float] = []
    for chosen in combinations(range(gpus), gpus // 2):
        side = np.isin(np.arange(gpus), chosen)
        cuts.append(int(links[side][:, ~side].sum()))
    return min(cuts) * one_link


def _host_cut_bytes_per_s(topology: Topology) -> float:
    """Narrowest cut of the PCIe tree of a node; scale-up links are taken not to cross it."""
    host, gpus = topology.node.host, topology.node.gpus
    pcie, sockets = topology.node.device.pcie_bandwidth, host.sockets
    socket_rate = host.dram_bandwidth / sockets
    ports = host.pcie_switches or sockets
    gpus_at = np.bincount(np.arange(gpus) * ports // gpus, minlength=ports)
    cuts: list[float] = []
    for socket_side in product((0, 1), repeat=sockets):
        ends = sum(socket_side) * (sockets - sum(socket_side)) * socket_rate
        sides = product((0, 1), repeat=ports) if host.pcie_switches else (socket_side,)
        for side in sides:
            turned = sum(s != socket_side[p * sockets // ports] for p, s in enumerate(side))
            moved = abs(int(gpus_at @ np.array(side)) - gpus // 2)
            cuts.append(ends + (turned + moved) * pcie)
    return float(min(cuts))


def _oversubscription(topology: Topology, plan: FabricPlan) -> dict[str, float]:
    switch = topology.fabric.switch
    ratios = {}
    if switch and plan.tiers > 1:
        nodes = min(plan.pod_nodes, plan.nodes)
        down = nodes * plan.nics / plan.pod_leaves * topology.node.nics.bandwidth
        ratios["leaf"] = down / (plan.leaf_up_ports * switch.port_bandwidth)
    if plan.tiers > 2:
        leaves = plan.block_pods * plan.pod_leaves // plan.block_groups
        up = plan.plane_cores * plan.spine_core_cables
        ratios["spine"] = leaves * plan.leaf_spine_cables / up
    return ratios


def _diameter_hops(cluster: Cluster) -> int:
    """Farthest distance from the GPUs of the first node, which stands for all: nodes are alike."""
    gpus = cluster.count(VertexKind.GPU)
    return max(int(_distances(cluster, r)[:gpus].max()) for r in range(cluster.topology.node.gpus))


def _distances(cluster: Cluster, start: int) -> np.ndarray:
    """Links from one vertex to every other, -1 where there is no way; breadth first."""
    distance = np.full(cluster.vertices, -1, dtype=np.int32)
    distance[start] = 0
    frontier = np.array([start])
    hops = 0
    while frontier.size:
        hops += 1
        first = cluster.link_starts[frontier]
        degree = cluster.link_starts[frontier + 1] - first
        offset = np.arange(degree.sum()) - np.repeat(np.cumsum(degree) - degree, degree)
        reached = cluster.target[np.repeat(first, degree) + offset]
        distance[reached[distance[reached] < 0]] = hops
        frontier = np.flatnonzero(distance == hops)
    return distance
