"""A cluster as a directed graph in arrays.

Vertices are numbered kind by kind, in the order of `VertexKind`, and node by node within a kind:
GPU r is vertex r. A link is one direction of a connection; parallel cables between two switches are
one link with their rates added. The NVSwitches of a scale-up domain are one vertex, and so is the
memory of a socket.

Rates come from the topology. What it does not state is assumed: sockets are joined by links as wide
as one socket's memory, a NIC's PCIe link is as wide as its port, drives are spread over sockets.
Delays are those of the network switches, counted on the links that lead into one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import CapacityError
from clustersim.hardware.fabric import FabricPlan, plan_fabric
from clustersim.hardware.scale_up import domain_of, domain_position, mesh_links
from clustersim.spec.topology import Topology

Ints = NDArray[np.int64]


class VertexKind(IntEnum):
    """What a vertex is."""

    GPU = 0
    NIC = 1
    SCALE_UP_SWITCH = 2
    PCIE_SWITCH = 3
    CPU = 4
    DRAM = 5
    NVME = 6
    LEAF = 7
    SPINE = 8
    CORE = 9


class LinkKind(IntEnum):
    """What a link is."""

    SCALE_UP = 0
    PCIE = 1
    SOCKET = 2
    MEMORY = 3
    NVME = 4
    NETWORK = 5


@dataclass(frozen=True)
class Cluster:
    """Vertices and directed links of a cluster.

    Attributes
    ----------
    topology : Topology
        What was built.
    plan : FabricPlan
        Counts of switches and cables.
    starts : ndarray of int (11,)
        First vertex of each kind, then the number of vertices.
    link_starts : ndarray of int (vertices + 1,)
        First link that leaves each vertex (compressed sparse rows); links are sorted by source,
        then target.
    source, target : ndarray of int32 (links,)
        Ends of each link.
    link_kind : ndarray of int8 (links,)
        A `LinkKind` each.
    cables : ndarray of int32 (links,)
        Parallel cables of each link.
    capacity_bytes_per_s : ndarray (links,)
        Rate, all cables together. [bytes/s]
    latency_s : ndarray (links,)
        Delay of the switch that the link leads into. [s]
    reverse : ndarray of int32 (links,)
        The same connection in the other direction. Rates are equal both ways but for drives,
        which read and write at different rates.
    """

    topology: Topology
    plan: FabricPlan
    starts: Ints
    link_starts: Ints
    source: NDArray[np.int32]
    target: NDArray[np.int32]
    link_kind: NDArray[np.int8]
    cables: NDArray[np.int32]
    capacity_bytes_per_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    reverse: NDArray[np.int32]

    @property
    def vertices(self) -> int:
        """Number of vertices."""
        return int(self.starts[-1])

    @property
    def links(self) -> int:
        """Number of directed links."""
        return int(self.source.size)

    @property
    def vertex_kind(self) -> NDArray[np.int8]:
        """A `VertexKind` for each vertex, (vertices,)."""
        return np.repeat(np.arange(len(VertexKind), dtype=np.int8), np.diff(self.starts))

    def count(self, kind: VertexKind) -> int:
        """Vertices of a kind.

        Parameters
        ----------
        kind : VertexKind

        Returns
        -------
        int
            0 where the cluster has none.
        """
        return int(self.starts[kind + 1] - self.starts[kind])

    def first(self, kind: VertexKind) -> int:
        """First vertex of a kind.

        Parameters
        ----------
        kind : VertexKind

        Returns
        -------
        int
            Of a kind without vertices, the first of the next kind.
        """
        return int(self.starts[kind])

    def neighbours(self, vertex: int) -> NDArray[np.int32]:
        """Vertices that links from this vertex lead to, ascending, (degree,).

        Parameters
        ----------
        vertex : int

        Returns
        -------
        ndarray of int32 (degree,)
            A view into `target`.
        """
        return self.target[self.link_starts[vertex] : self.link_starts[vertex + 1]]

    def link_between(self, source: int, target: int) -> int:
        """Index of the link between two adjacent vertices, -1 where there is none.

        Parameters
        ----------
        source, target : int
            Vertices.

        Returns
        -------
        int

        Notes
        -----
        A binary search among the links that leave `source`.
        """
        row = self.neighbours(source)
        place = int(np.searchsorted(row, target))
        found = place < row.size and row[place] == target
        return int(self.link_starts[source]) + place if found else -1

    def ports_used(self) -> NDArray[np.float64]:
        """Ports in use of each leaf, spine and core switch, (switches,) in vertex order."""
        first = self.first(VertexKind.LEAF)
        at_switch = self.source >= first
        toward_nic = self.target[at_switch] < first
        ports = np.where(toward_nic, self.plan.nic_ports, self.cables[at_switch])
        used = np.zeros(self.vertices - first)
        np.add.at(used, self.source[at_switch] - first, ports)
        return used


@dataclass(frozen=True)
class _Bundle:
    """Connections of one kind and rate; `back_rate` is that from target to source."""

    kind: LinkKind
    source: Ints
    target: Ints
    rate: float
    back_rate: float | None = None
    cables: int = 1


def build_cluster(topology: Topology, nodes: int | None = None) -> Cluster:
    """Build the graph of a cluster.

    Parameters
    ----------
    topology : Topology
        What to build.
    nodes : int, optional
        Build this many nodes instead of the topology's.

    Returns
    -------
    Cluster
        Arrays of vertices and links.

    Raises
    ------
    CapacityError
        The fabric has too few ports, or `nodes` is not positive.
    """
    if nodes is not None:
        if nodes < 1:
            raise CapacityError(f"{topology.name}: {nodes} nodes asked for, need at least 1")
        topology = topology.model_copy(update={"nodes": nodes})
    plan = plan_fabric(topology)
    starts = _number(topology, plan)
    bundles = [
        *_scale_up_links(topology, starts),
        *_host_links(topology, starts),
        *_network_links(topology, plan, starts),
    ]
    return _assemble(topology, plan, starts, [bundle for bundle in bundles if bundle.source.size])


def _number(topology: Topology, plan: FabricPlan) -> Ints:
    node, nodes = topology.node, topology.nodes
    gpus = nodes * node.gpus
    last = int(domain_of(topology, np.array([gpus - 1]))[0])
    counts = {
        VertexKind.GPU: gpus,
        VertexKind.NIC: nodes * node.nics.count,
        VertexKind.SCALE_UP_SWITCH: last + 1 if node.scale_up.kind == "switch" else 0,
        VertexKind.PCIE_SWITCH: nodes * node.host.pcie_switches,
        VertexKind.CPU: nodes * node.host.sockets,
        VertexKind.DRAM: nodes * node.host.sockets,
        VertexKind.NVME: nodes * (node.host.nvme.count if node.host.nvme else 0),
        VertexKind.LEAF: plan.leaves,
        VertexKind.SPINE: plan.spines,
        VertexKind.CORE: plan.cores,
    }
    return np.concatenate(([0], np.cumsum([counts[kind] for kind in VertexKind])))


def host_port(topology: Topology, parts: int, local: Ints) -> Ints:
    """Find what the GPUs or NICs of a node are plugged into.

    Parameters
    ----------
    topology : Topology
        The cluster.
    parts : int
        GPUs or NICs of a node.
    local : ndarray of int (n,)
        Index of each within its node.

    Returns
    -------
    ndarray of int (n,)
        PCIe switch of the node, or its socket where a node has no PCIe switch.
    """
    host = topology.node.host
    return local * (host.pcie_switches or host.sockets) // parts


def _scale_up_links(topology: Topology, starts: Ints) -> Iterator[_Bundle]:
    scale_up = topology.node.scale_up
    ranks = np.arange(topology.nodes * topology.node.gpus, dtype=np.int64)
    domains = domain_of(topology, ranks)
    if scale_up.kind == "switch":
        switch = starts[VertexKind.SCALE_UP_SWITCH] + domains
        yield _Bundle(LinkKind.SCALE_UP, ranks, switch, scale_up.bandwidth)
    if scale_up.kind != "mesh":
        return
    links = mesh_links(scale_up.domain_gpus, scale_up.link)
    one_link = scale_up.bandwidth / max(1, int(links.sum(axis=1).max()))
    places = domain_position(topology, ranks)
    for a, b in np.argwhere(np.triu(links)):
        near = ranks[places == a]
        near = near[near + (b - a) < ranks.size]
        near = near[domains[near] == domains[near + (b - a)]]
        yield _Bundle(LinkKind.SCALE_UP, near, near + (b - a), float(links[a, b]) * one_link)


def _host_links(topology: Topology, starts: Ints) -> Iterator[_Bundle]:
    node, host = topology.node, topology.node.host
    pcie = node.device.pcie_bandwidth
    cpu = starts[VertexKind.CPU]
    port_kind = VertexKind.PCIE_SWITCH if host.pcie_switches else VertexKind.CPU
    ports = host.pcie_switches or host.sockets
    for kind, parts, rate in (
        (VertexKind.GPU, node.gpus, pcie),
        (VertexKind.NIC, node.nics.count, node.nics.bandwidth),
    ):
        where, local = _per_node(topology, parts)
        plugged = starts[port_kind] + where * ports + host_port(topology, parts, local)
        yield _Bundle(LinkKind.PCIE, starts[kind] + where * parts + local, plugged, rate)
    where, local = _per_node(topology, host.pcie_switches)
    socket = cpu + where * host.sockets + local * host.sockets // max(1, host.pcie_switches)
    switch = starts[VertexKind.PCIE_SWITCH] + where * host.pcie_switches + local
    yield _Bundle(LinkKind.PCIE, switch, socket, pcie)
    where, local = _per_node(topology, host.sockets)
    socket = cpu + where * host.sockets + local
    memory_rate = host.dram_bandwidth / host.sockets
    yield _Bundle(LinkKind.MEMORY, socket, socket - cpu + starts[VertexKind.DRAM], memory_rate)
    for apart in range(1, host.sockets):
        near = socket[local + apart < host.sockets]
        yield _Bundle(LinkKind.SOCKET, near, near + apart, memory_rate)
    if host.nvme:
        where, local = _per_node(topology, host.nvme.count)
        drive = starts[VertexKind.NVME] + where * host.nvme.count + local
        socket = cpu + where * host.sockets + local % host.sockets
        read, write = host.nvme.read_bandwidth, host.nvme.write_bandwidth
        yield _Bundle(LinkKind.NVME, drive, socket, read, back_rate=write)


def _network_links(topology: Topology, plan: FabricPlan, starts: Ints) -> Iterator[_Bundle]:
    switch = topology.fabric.switch
    if plan.tiers == 0 or switch is None:
        return
    where, local = _per_node(topology, plan.nics)
    nic = starts[VertexKind.NIC] + where * plan.nics + local
    leaf = starts[VertexKind.LEAF] + plan.leaf_of(where, local)
    yield _Bundle(LinkKind.NETWORK, nic, leaf, topology.node.nics.bandwidth)
    if plan.tiers > 1:
        leaves, which = _all_pairs(plan.leaves, plan.group_spines)
        spine = starts[VertexKind.SPINE] + plan.group_of(leaves) * plan.group_spines + which
        cables = plan.leaf_spine_cables
        rate = cables * switch.port_bandwidth
        leaf = starts[VertexKind.LEAF] + leaves
        yield _Bundle(LinkKind.NETWORK, leaf, spine, rate, cables=cables)
    if plan.tiers > 2:
        spines, which = _all_pairs(plan.spines, plan.plane_cores)
        plane = spines % plan.group_spines // plan.plane_spines
        core = starts[VertexKind.CORE] + plane * plan.plane_cores + which
        cables = plan.spine_core_cables
        rate = cables * switch.port_bandwidth
        spine = starts[VertexKind.SPINE] + spines
        yield _Bundle(LinkKind.NETWORK, spine, core, rate, cables=cables)


def _per_node(topology: Topology, parts: int) -> tuple[Ints, Ints]:
    """Node and index within it of every part that each node has `parts` of."""
    return _all_pairs(topology.nodes, parts)


def _all_pairs(first: int, second: int) -> tuple[Ints, Ints]:
    return (
        np.repeat(np.arange(first, dtype=np.int64), second),
        np.tile(np.arange(second, dtype=np.int64), first),
    )


def _assemble(
    topology: Topology, plan: FabricPlan, starts: Ints, bundles: list[_Bundle]
) -> Cluster:
    sizes = [bundle.source.size for bundle in bundles]
    ends = np.concatenate([bundle.source for bundle in bundles])
    others = np.concatenate([bundle.target for bundle in bundles])
    kinds = np.repeat(np.array([b.kind for b in bundles], dtype=np.int8), sizes)
    cables = np.repeat(np.array([b.cables for b in bundles], dtype=np.int32), sizes)
    rates = np.repeat([b.rate for b in bundles], sizes)
    back = np.repeat([b.rate if b.back_rate is None else b.back_rate for b in bundles], sizes)
    vertices = int(starts[-1])
    source, target = np.concatenate((ends, others)), np.concatenate((others, ends))
    order = np.argsort(source * vertices + target)
    half = ends.size
    place = np.empty(2 * half, dtype=np.int32)
    place[order] = np.arange(2 * half, dtype=np.int32)
    source, target = source[order].astype(np.int32), target[order].astype(np.int32)
    delay_s = topology.fabric.switch.latency if topology.fabric.switch else 0.0
    return Cluster(
        topology=topology,
        plan=plan,
        starts=starts,
        link_starts=np.concatenate(([0], np.cumsum(np.bincount(source, minlength=vertices)))),
        source=source,
        target=target,
        link_kind=np.concatenate((kinds, kinds))[order],
        cables=np.concatenate((cables, cables))[order],
        capacity_bytes_per_s=np.concatenate((rates, back))[order].astype(np.float64),
        latency_s=np.where(target >= starts[VertexKind.LEAF], delay_s, 0.0),
        reverse=np.roll(place, -half)[order],
    )
