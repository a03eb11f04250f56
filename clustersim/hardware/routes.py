"""Which links a message takes between two GPUs.

A route follows from the structure, without a search: scale-up links inside a domain; PCIe and
sockets inside a node; otherwise NIC, leaf, and as many tiers as it takes. Where scale-up links
cover the node, a message changes to its receiver's rail over them first. Among equal spines and
cores a hash of both ends and the flow decides, as equal-cost multi-path routing does.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import PlacementError
from clustersim.hardware.cluster import Cluster, VertexKind, host_port
from clustersim.hardware.paths import nic_of
from clustersim.hardware.scale_up import domain_of, relays_rails

_MASK = 2**64 - 1


def route(cluster: Cluster, rank_a: int, rank_b: int, flow: int = 0) -> NDArray[np.int64]:
    """Find the links of a message from one GPU to another.

    Parameters
    ----------
    cluster : Cluster
        The graph.
    rank_a, rank_b : int
        Sender and receiver.
    flow : int
        Number of the flow; different flows may take different spines and cores.

    Returns
    -------
    ndarray of int (hops,)
        Link indices in order; empty where both ranks are the same.

    Raises
    ------
    PlacementError
        A rank is outside the cluster, or nothing joins the two.
    """
    gpus = cluster.count(VertexKind.GPU)
    for rank in (rank_a, rank_b):
        if not 0 <= rank < gpus:
            raise PlacementError(f"rank {rank} is not one of the {gpus} GPUs of the cluster")
    vertices = _vertices(cluster, rank_a, rank_b, flow)
    links = [cluster.link_between(a, b) for a, b in pairwise(vertices)]
    assert min(links, default=0) >= 0, "a route uses links that exist"
    return np.array(links, dtype=np.int64)


def switches_crossed(cluster: Cluster, links: NDArray[np.int64]) -> int:
    """Count the network switches that a route passes.

    Parameters
    ----------
    cluster : Cluster
        The graph.
    links : ndarray of int (hops,)
        A route.

    Returns
    -------
    int
        Leaf, spine and core switches on it.
    """
    return int(np.count_nonzero(cluster.target[links] >= cluster.first(VertexKind.LEAF)))


def _vertices(cluster: Cluster, a: int, b: int, flow: int) -> list[int]:
    topology = cluster.topology
    if a == b:
        return [a]
    domain_a, domain_b = (int(d) for d in domain_of(topology, np.array([a, b])))
    if domain_a == domain_b and topology.node.scale_up.kind in ("switch", "mesh"):
        return _inside_domain(cluster, a, b, domain_a, flow)
    gpus = topology.node.gpus
    if a // gpus == b // gpus:
        return [a, *_across_host(cluster, a // gpus, _port(cluster, a), _port(cluster, b)), b]
    if cluster.plan.tiers == 0:
        raise PlacementError(f"ranks {a} and {b} are on different nodes that no fabric joins")
    return _between_nodes(cluster, a, b, flow)


def _inside_domain(cluster: Cluster, a: int, b: int, domain: int, flow: int) -> list[int]:
    if cluster.topology.node.scale_up.kind == "switch":
        return [a, cluster.first(VertexKind.SCALE_UP_SWITCH) + domain, b]
    if cluster.link_between(a, b) >= 0:
        return [a, b]
    peers = np.intersect1d(cluster.neighbours(a), cluster.neighbours(b))
    peers = peers[peers < cluster.count(VertexKind.GPU)]
    return [a, int(peers[_hash(a, b, flow) % peers.size]), b]


def _between_nodes(cluster: Cluster, a: int, b: int, flow: int) -> list[int]:
    topology, gpus = cluster.topology, cluster.topology.node.gpus
    nic_a, nic_b = (int(nic) for nic in nic_of(topology, np.array([a, b])))
    node_a, node_b = a // gpus, b // gpus
    head = [a]
    if nic_a != nic_b and cluster.plan.pod_leaves > 1 and relays_rails(topology):
        relay = node_a * gpus + b % gpus
        head = _vertices(cluster, a, relay, flow)
        a, nic_a = relay, nic_b
    out = _across_host(cluster, node_a, _port(cluster, a), _nic_port(cluster, nic_a))
    back = _across_host(cluster, node_b, _nic_port(cluster, nic_b), _port(cluster, b))
    first_nic, nics = cluster.first(VertexKind.NIC), topology.node.nics.count
    return [
        *head,
        *out,
        first_nic + node_a * nics + nic_a,
        *_across_fabric(cluster, (node_a, nic_a), (node_b, nic_b), _hash(a, b, flow)),
        first_nic + node_b * nics + nic_b,
        *back,
        b,
    ]


def _across_fabric(
    cluster: Cluster, start: tuple[int, int], end: tuple[int, int], draw: int
) -> list[int]:
    plan = cluster.plan
    leaves = plan.leaf_of(np.array([start[0], end[0]]), np.array([start[1], end[1]]))
    first_leaf = cluster.first(VertexKind.LEAF)
    up, down = (first_leaf + int(leaf) for leaf in leaves)
    if up == down:
        return [up]
    first_spine = cluster.first(VertexKind.SPINE)
    group_up, group_down = (int(group) for group in plan.group_of(leaves))
    draw, spine = divmod(draw, plan.group_spines)
    spine_up = first_spine + group_up * plan.group_spines + spine
    if group_up == group_down:
        return [up, spine_up, down]
    plane = spine // plan.plane_spines
    draw, which = divmod(draw, plan.plane_cores)
    core = cluster.first(VertexKind.CORE) + plane * plan.plane_cores + which
    below = plane * plan.plane_spines + draw % plan.plane_spines
    return [up, spine_up, core, first_spine + group_down * plan.group_spines + below, down]


def _across_host(cluster: Cluster, node: int, start: int, end: int) -> list[int]:
    """Vertices between two ports (PCIe switches or sockets) of a node, both included."""
    host = cluster.topology.node.host
    first_cpu = cluster.first(VertexKind.CPU) + node * host.sockets
    if not host.pcie_switches:
        path = [first_cpu + start, first_cpu + end]
    elif start == end:
        path = [cluster.first(VertexKind.PCIE_SWITCH) + node * host.pcie_switches + start]
    else:
        first_switch = cluster.first(VertexKind.PCIE_SWITCH) + node * host.pcie_switches
        sockets = [first_cpu + port * host.sockets // host.pcie_switches for port in (start, end)]
        path = [first_switch + start, *sockets, first_switch + end]
    return [vertex for i, vertex in enumerate(path) if i == 0 or vertex != path[i - 1]]


def _port(cluster: Cluster, rank: int) -> int:
    topology = cluster.topology
    gpus = topology.node.gpus
    return int(host_port(topology, gpus, np.array([rank % gpus]))[0])


def _nic_port(cluster: Cluster, nic: int) -> int:
    topology = cluster.topology
    return int(host_port(topology, topology.node.nics.count, np.array([nic]))[0])


def _hash(a: int, b: int, flow: int) -> int:
    """Mix three integers into 64 bits with the finaliser of splitmix64 (Steele et al., 2014)."""
    mixed = 0
    for part in (a, b, flow):
        mixed = (mixed + part + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
    return mixed
