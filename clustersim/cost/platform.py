"""What prices depend on beside the program: device, fitted behaviour, links, places of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clustersim.hardware.paths import GroupPath, group_path, pair_path
from clustersim.parallel.mesh import Mesh
from clustersim.spec.device import Device
from clustersim.spec.link import Link
from clustersim.spec.profile import Profile
from clustersim.spec.resolve import load_link, load_profile
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
    links : mapping of str to Link
        Fitted behaviour of each kind of link that a path names.
    paths : mapping of str to GroupPath
        Where each communication group of the program sits: "tp", "dp", "shard", "world",
        "embedding", and "pp0", "pp1", ... for the edge that leaves that stage.
    """

    device: Device
    profile: Profile
    features: Features
    links: Mapping[str, Link]
    paths: Mapping[str, GroupPath]


def build_platform(scenario: Scenario, mesh: Mesh) -> Platform:
    """Gather what the scenario's program is priced with.

    Raises
    ------
    SpecError
        If the device names a profile, or the topology a link, that does not exist.
    """
    device = scenario.cluster.node.device
    paths = communication_paths(scenario.cluster, mesh, scenario.parallelism.optimizer_shard_group)
    names = {path.scale_up_link for path in paths.values()}
    names |= {path.nic_link for path in paths.values() if path.nodes > 1}
    return Platform(
        device=device,
        profile=load_profile(device.profile),
        features=scenario.software.features,
        links={name: load_link(name) for name in sorted(names) if name},
        paths=paths,
    )


def communication_paths(topology: Topology, mesh: Mesh, shards: int | None) -> dict[str, GroupPath]:
    """The path of every group that a training step communicates over."""
    stages = mesh.pipeline_parallel
    data_group = mesh.data_group()
    paths = {
        "tp": group_path(topology, mesh.tensor_group()),
        "dp": group_path(topology, data_group),
        "shard": group_path(topology, data_group[: shards or mesh.data_parallel]),
        "world": group_path(topology, np.arange(mesh.ranks)),
    }
    if stages > 1:
        for stage in range(stages):
            pair = mesh.stage_pair(stage, (stage + 1) % stages)
            paths[f"pp{stage}"] = pair_path(topology, *pair)
        paths["embedding"] = pair_path(topology, *mesh.stage_pair(0, stages - 1))
    return paths
