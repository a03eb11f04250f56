"""What prices depend on beside the program: device, fitted behaviour, links, places of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clustersim.errors import Problem, SpecError
from clustersim.hardware.paths import GroupPath, group_path, pair_path
from clustersim.parallel.mesh import Mesh, Ranks
from clustersim.spec.device import Device
from clustersim.spec.link import Link
from clustersim.spec.profile import Profile
from clustersim.spec.resolve import load_device, load_link, load_profile
from clustersim.spec.scenario import Scenario
from clustersim.spec.software import Features
from clustersim.spec.topology import Topology


@dataclass(frozen=True)
class Platform:
    """All that prices depend on beside the program itself.

    Attributes
    ----------
    device, profile, features
        Data sheet, fitted coefficients, and what the software can do.
    reference_power_w : float
        Power limit of the device that the profile was fitted on. [W]
    links : mapping of str to Link
        Fitted behaviour of each kind of link that a path names.
    paths : mapping of str to GroupPath
        Where each communication group of the program sits: "tp", "dp", "shard", "world",
        "embedding", and "pp0", "pp1", ... for the edge that leaves that stage.
    """

    device: Device
    reference_power_w: float
    profile: Profile
    features: Features
    links: Mapping[str, Link]
    paths: Mapping[str, GroupPath]


def build_platform(scenario: Scenario, mesh: Mesh) -> Platform:
    """Gather what the scenario's program is priced with.

    Parameters
    ----------
    scenario : Scenario
        Its cluster, software and parallelism; no profile or link is in it, they are looked up.
    mesh : Mesh
        Places of the groups.

    Returns
    -------
    Platform

    Raises
    ------
    SpecError
        If the device names a profile, or the topology a link, that does not exist, or a link of a
        kind that cannot be where it is.
    PlacementError
        If nothing joins the nodes of a group.
    CapacityError
        If the fabric has too few ports for the cluster.
    """
    device = scenario.cluster.node.device
    check_links(scenario.cluster)
    paths = communication_paths(scenario.cluster, mesh, scenario.parallelism.optimizer_shard_group)
    names = {path.scale_up_link for path in paths.values()}
    names |= {path.nic_link for path in paths.values() if path.nodes > 1}
    profile = load_profile(device.profile)
    return Platform(
        device=device,
        reference_power_w=float(load_device(profile.device).power_limit),
        profile=profile,
        features=scenario.software.features,
        links={name: load_link(name) for name in sorted(names) if name},
        paths=paths,
    )


def check_links(topology: Topology) -> None:
    """Refuse a link of a kind that cannot be where the topology names it.

    Parameters
    ----------
    topology : Topology
        Inside a node NVLink, xGMI or PCIe; its adapters RDMA or TCP.

    Raises
    ------
    SpecError
        Holds both links where both are wrong; or the name of one is not known.
    """
    places = {
        "cluster.node.scale_up.link": (topology.node.scale_up.link, ("nvlink", "xgmi", "pcie")),
        "cluster.node.nics.link": (topology.node.nics.link, ("rdma", "tcp")),
    }
    problems = []
    for field, (name, kinds) in places.items():
        kind = load_link(name).kind
        if kind not in kinds:
            message = f"{name} is of kind {kind}, which cannot be here"
            problems.append(
                Problem(message, f"use a link of kind {' or '.join(kinds)}", field=field)
            )
    if problems:
        raise SpecError(problems)


def communication_paths(topology: Topology, mesh: Mesh, shards: int | None) -> dict[str, GroupPath]:
    """The path of every kind of group that a training step communicates over.

    Groups of a kind lie differently where their size does not divide a node; all of them work at
    once and wait for each other, so the kind is priced at its worst placement.

    Parameters
    ----------
    topology : Topology
    mesh : Mesh
        Places of the groups.
    shards : int or None
        Ranks that share an optimizer state, neighbours in a data-parallel group; None: all of it.

    Returns
    -------
    dict of str to GroupPath
        Keys as in `Platform.paths`; "pp0" and on and "embedding" only with several stages.

    Raises
    ------
    PlacementError
        Nothing joins the nodes of a group.
    CapacityError
        The fabric has too few ports for the cluster.
    """
    stages, replicas = range(mesh.pipeline_parallel), range(mesh.data_parallel)
    shard = shards or mesh.data_parallel
    tensor_groups = [mesh.tensor_group(stage, replica) for stage in stages for replica in replicas]
    data_groups = [mesh.data_group(stage) for stage in stages]
    shard_groups = [
        group[first : first + shard]
        for group in data_groups
        for first in range(0, group.size, shard)
    ]
    paths = {
        "tp": _worst_group(topology, mesh, tensor_groups),
        "dp": _worst_group(topology, mesh, data_groups),
        "shard": _worst_group(topology, mesh, shard_groups),
        "world": group_path(topology, np.arange(mesh.ranks)),
    }
    if len(stages) > 1:
        for stage in stages:
            following = (stage + 1) % len(stages)
            pairs = [mesh.stage_pair(stage, following, replica) for replica in replicas]
            paths[f"pp{stage}"] = _worst_pair(topology, mesh, pairs)
        pairs = [mesh.stage_pair(0, stages[-1], replica) for replica in replicas]
        paths["embedding"] = _worst_pair(topology, mesh, pairs)
    return paths


def _worst_group(topology: Topology, mesh: Mesh, groups: list[Ranks]) -> GroupPath:
    """The worst of groups of one shape, one looked at for each place in a node to start from.

    Groups that start alike lie alike, but for the pods that they may cross.
    """
    alike = {int(group[0]) % mesh.gpus_per_node: group for group in reversed(groups)}
    return max((group_path(topology, group) for group in alike.values()), key=_badness)


def _worst_pair(topology: Topology, mesh: Mesh, pairs: list[tuple[int, int]]) -> GroupPath:
    """The worst of pairs of ranks, as `_worst_group`."""
    alike = {pair[0] % mesh.gpus_per_node: pair for pair in reversed(pairs)}
    return max((pair_path(topology, *pair) for pair in alike.values()), key=_badness)


def _badness(path: GroupPath) -> tuple[bool, int, int, float]:
    """Order of placements: over the network, farther, over more nodes, with a thinner share."""
    return (path.nodes > 1, path.switch_hops, path.nodes, -path.ranks_per_node)
