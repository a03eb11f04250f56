"""How many switches a fabric has and how they are cabled, as plain numbers.

A *pod* is the set of nodes under the same leaf switches: one leaf per rail in `rail_clos` (NIC j of
every node on leaf j), one leaf for all NICs in `fat_tree`. With two tiers every spine reaches every
leaf. With three, a *block* is a set of pods; the spines of a block form one group per rail in
`rail_clos`, one group in `fat_tree`, and cores join all groups of all blocks.

Every leaf has the same number of cables to each spine of its group, every spine to each core of its
plane. Oversubscription happens at the leaf only: spines have as many cables up as down. A port that
is faster than a NIC is split into several slower ones, as MegaScale does with 400G ports and 200G
NICs [1]_. Seven units of twenty DGX A100 with 40-port switches come out as the 56 leaf, 80 spine
and 28 core switches of NVIDIA's reference design [2]_.

References
----------
.. [1] Z. Jiang et al., "MegaScale: scaling large language model training to more than 10,000 GPUs,"
   NSDI 2024, section 3.6.
.. [2] NVIDIA, "DGX SuperPOD: next generation scalable infrastructure for AI leadership, reference
   architecture," RA-09950-001, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import CapacityError, SpecError
from clustersim.hardware.scale_up import domain_nodes, relays_rails
from clustersim.spec.topology import Switch, Topology

_MOST_TIERS = 3
_MOST_PORTS = 1024


@dataclass(frozen=True)
class FabricPlan:
    """Counts of switches and cables of a fabric.

    Attributes
    ----------
    tiers : int
        Tiers of switches; 0 where nodes are not joined.
    nodes, nics : int
        Nodes of the cluster, NICs of each.
    pod_nodes, pods : int
        Nodes under one leaf at most, and pods in use.
    pod_leaves : int
        Leaves of a pod: one per rail, or one.
    block_pods, blocks : int
        Pods of a block at most, and blocks.
    block_groups : int
        Spine groups of a block: one per rail, or one.
    group_spines : int
        Spines of a group.
    plane_spines, planes : int
        Spines of each group that a plane of cores reaches, and planes.
    plane_cores : int
        Cores of a plane.
    leaf_up_ports : int
        Ports of a leaf that lead up.
    leaf_spine_cables, spine_core_cables : int
        Cables between a leaf and each of its spines, a spine and each of its cores.
    nic_ports : float
        Switch ports that one NIC takes; a half where a port is split in two.
    """

    tiers: int
    nodes: int
    nics: int
    pod_nodes: int = 0
    pods: int = 0
    pod_leaves: int = 0
    block_pods: int = 0
    blocks: int = 0
    block_groups: int = 0
    group_spines: int = 0
    plane_spines: int = 0
    planes: int = 0
    plane_cores: int = 0
    leaf_up_ports: int = 0
    leaf_spine_cables: int = 0
    spine_core_cables: int = 0
    nic_ports: float = 1.0

    @property
    def leaves(self) -> int:
        """Leaf switches."""
        return self.pods * self.pod_leaves

    @property
    def groups(self) -> int:
        """Spine groups of all blocks."""
        return self.blocks * self.block_groups

    @property
    def spines(self) -> int:
        """Spine switches."""
        return self.groups * self.group_spines

    @property
    def cores(self) -> int:
        """Core switches."""
        return self.planes * self.plane_cores

    def leaf_of(self, node: NDArray[np.int64], nic: NDArray[np.int64]) -> NDArray[np.int64]:
        """Leaf switch of each NIC.

        Parameters
        ----------
        node, nic : ndarray of int (n,)
            Node, and NIC within it.

        Returns
        -------
        ndarray of int (n,)
            Index of the leaf.
        """
        return node // self.pod_nodes * self.pod_leaves + nic * (self.pod_leaves > 1)

    def group_of(self, leaf: NDArray[np.int64]) -> NDArray[np.int64]:
        """Spine group of each leaf.

        Parameters
        ----------
        leaf : ndarray of int (n,)
            Index of the leaf.

        Returns
        -------
        ndarray of int (n,)
            Index of the spine group.
        """
        block = leaf // self.pod_leaves // self.block_pods
        return block * self.block_groups + leaf % self.pod_leaves * (self.block_groups > 1)


@dataclass(frozen=True)
class _Shape:
    """What decides how many nodes a fabric of some tiers can hold."""

    rails: int
    nics: int
    ports: int
    up_ports: int
    pod_nodes: int

    def fits(self, tiers: int) -> int:
        if tiers == 1:
            return self.pod_nodes
        if tiers == 2:
            return self.ports // self.rails * self.pod_nodes
        return self.ports // self.rails * (self.ports // 2) * self.pod_nodes


def plan_fabric(topology: Topology, nodes: int | None = None) -> FabricPlan:
    """Work out switches and cables of a topology's fabric.

    Parameters
    ----------
    topology : Topology
        The cluster. Tiers of 0 mean as few as will do.
    nodes : int, optional
        Nodes to join; by default all of the topology.

    Returns
    -------
    FabricPlan
        Counts of switches and cables.

    Raises
    ------
    CapacityError
        The ports do not suffice; says how many nodes fit and what would.
    SpecError
        The fabric has no switch or its nodes have no NIC.
    """
    nodes = topology.nodes if nodes is None else nodes
    nics, fabric = topology.node.nics, topology.fabric
    if fabric.kind == "single_node":
        return _no_fabric(topology, nodes)
    if fabric.switch is None or nics.count == 0:
        missing = "node.nics.count: 0 NICs" if fabric.switch else "fabric.switch: none given"
        raise SpecError(f"{topology.name}: {missing}, but fabric.kind is {fabric.kind}")
    tiers = fabric.tiers or _fewest_tiers(topology, fabric.switch, nodes)
    shape = _shape(topology, fabric.switch, tiers)
    if nodes > shape.fits(tiers):
        raise CapacityError(_too_small(topology, fabric.switch, tiers, nodes))
    return _cable(topology, fabric.switch, tiers, nodes, shape)


def ports_per_nic(topology: Topology, switch: Switch) -> float:
    """Switch ports that one NIC takes: 1, several, or a part of a port that is split.

    Parameters
    ----------
    topology : Topology
        Its NICs have a bandwidth above 0.
    switch : Switch

    Returns
    -------
    float
        1/n where a port is as fast as n NICs and is split, n where a NIC needs n ports.
    """
    ratio = switch.port_bandwidth / topology.node.nics.bandwidth * (1 + 1e-9)
    if ratio >= 1:
        return 1 / int(ratio)
    return float(np.ceil(1 / ratio))


def _no_fabric(topology: Topology, nodes: int) -> FabricPlan:
    together = domain_nodes(topology)
    if nodes > together:
        raise CapacityError(
            f"{topology.name}: {nodes} nodes, but fabric.kind single_node joins {together}\n"
            "  fix: use rail_clos or fat_tree, or fewer nodes"
        )
    return FabricPlan(tiers=0, nodes=nodes, nics=topology.node.nics.count)


def _shape(topology: Topology, switch: Switch, tiers: int, ports: int | None = None) -> _Shape:
    ports = ports or switch.ports
    ratio = topology.fabric.oversubscription
    up_ports = int(ports / (1 + ratio) + 1e-9) if tiers > 1 else 0
    down_ports = min(ports - up_ports, int(up_ports * ratio + 1e-9)) if tiers > 1 else ports
    endpoints = int(down_ports / ports_per_nic(topology, switch) + 1e-9)
    nics = topology.node.nics.count
    rails = nics if topology.fabric.kind == "rail_clos" else 1
    if tiers == 1 and (endpoints // nics >= topology.nodes or not relays_rails(topology)):
        rails = 1
    return _Shape(rails, nics, ports, up_ports, endpoints // (nics // rails))


def _fewest_tiers(topology: Topology, switch: Switch, nodes: int) -> int:
    for tiers in range(1, _MOST_TIERS):
        if _shape(topology, switch, tiers).fits(tiers) >= nodes:
            return tiers
    return _MOST_TIERS


def _too_small(topology: Topology, switch: Switch, tiers: int, nodes: int) -> str:
    fits = _shape(topology, switch, tiers).fits(tiers)
    fixes = [f"use at most {fits} nodes"] if fits else []
    for more in range(tiers + 1, _MOST_TIERS + 1):
        room = _shape(topology, switch, more).fits(more)
        if room >= nodes:
            fixes.append(f"tiers: {more} fits {room} nodes")
            break
    for ports in range(switch.ports + 2, _MOST_PORTS + 1, 2):
        if _shape(topology, switch, tiers, ports).fits(tiers) >= nodes:
            fixes.append(f"{ports}-port switches would do with {tiers} tiers")
            break
    return (
        f"{topology.name}: {nodes} nodes of {topology.node.nics.count} NICs, but {tiers} tiers of "
        f"{switch.ports}-port switches ({topology.fabric.kind}, oversubscription "
        f"{topology.fabric.oversubscription:g}) fit {fits}\n"
        f"  fix: {', or '.join(fixes) or 'use switches with more ports'}"
    )


def _cable(topology: Topology, switch: Switch, tiers: int, nodes: int, shape: _Shape) -> FabricPlan:
    pods = -(-nodes // shape.pod_nodes)
    blocks = -(-pods // (shape.ports // 2)) if tiers == 3 else 1
    block_pods = -(-pods // blocks)
    groups = shape.rails if tiers == 3 else 1
    plan = {
        "tiers": tiers,
        "nodes": nodes,
        "nics": shape.nics,
        "pod_nodes": shape.pod_nodes,
        "pods": pods,
        "pod_leaves": shape.rails,
        "block_pods": block_pods,
        "blocks": blocks,
        "block_groups": groups,
        "leaf_up_ports": shape.up_ports,
    }
    nic_ports = ports_per_nic(topology, switch)
    if tiers == 1:
        return FabricPlan(**plan, nic_ports=nic_ports)
    group_leaves = block_pods * shape.rails // groups
    down_ports = shape.ports // 2 if tiers == 3 else shape.ports
    spines = _divisor_from(shape.up_ports, group_leaves * shape.up_ports / down_ports)
    plan |= {"group_spines": spines, "leaf_spine_cables": shape.up_ports // spines}
    if tiers == 3:
        up = group_leaves * plan["leaf_spine_cables"]
        plane_spines, cores = _core_plane(spines, up, blocks * groups, shape.ports)
        plan |= {
            "plane_spines": plane_spines,
            "planes": spines // plane_spines,
            "plane_cores": cores,
            "spine_core_cables": up // cores,
        }
    return FabricPlan(**plan, nic_ports=nic_ports)


def _core_plane(spines: int, up: int, groups: int, ports: int) -> tuple[int, int]:
    """Spines per group that share a plane of cores, and cores of it: the fewest cores in all."""
    best: tuple[int, int, int] | None = None
    for width in _divisors(spines):
        least = groups * width * up / ports
        if least > up:
            break
        cores = _divisor_from(up, least)
        choice = (spines // width * cores, width, cores)
        best = min(best or choice, choice)
    assert best is not None, "one plane per spine always fits"
    return best[1], best[2]


def _divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]


def _divisor_from(number: int, least: float) -> int:
    """Smallest divisor of a number that is at least `least`."""
    return next(part for part in _divisors(number) if part >= least - 1e-9)
