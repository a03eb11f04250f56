"""Where a replica runs: its device with the kernels of its engine, and the links between GPUs.

A profile holds the behaviour of measured kernels. Here it becomes that of the engine's own: wider
loads of norms and activations, decoding without grouped query heads, a power limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clustersim.cost.power import limit_factor
from clustersim.hardware.paths import GroupPath, group_path, pair_path
from clustersim.spec.device import Device
from clustersim.spec.link import Link
from clustersim.spec.profile import Profile
from clustersim.spec.resolve import load_device, load_link, load_profile
from clustersim.spec.serving import ServingScenario
from clustersim.workload.iteration import Iteration

VECTOR_ELEMENTS = 8.0  # 16-bit elements in the widest load, 16 bytes (CUDA C++ guide, 5.3.2)
# Bytes of a 16-bit cache into an SM in a clock, kernels of single query heads: 30 to 32 fitted on
# H100, B200, B300, GB200 and GB300.
SINGLE_BYTES = 32.0


@dataclass(frozen=True)
class Site:
    """Where a replica runs: device, its fitted behaviour, and the links between its GPUs."""

    device: Device
    profile: Profile
    links: dict[str, Link]
    paths: dict[str, GroupPath]


def replica_site(scenario: ServingScenario, iteration: Iteration) -> Site:
    """The first replica's place in the cluster; all lie alike.

    Parameters
    ----------
    scenario : ServingScenario
        Its cluster; its engine says how its memory-bound kernels and its attention load.
    iteration : Iteration
        Its shards say how many GPUs hold a part.

    Returns
    -------
    Site
        Paths "tp", "stage" and, with several stages, "pp"; the profile under the device's own power
        limit.

    Raises
    ------
    SpecError
        A profile or a link does not exist.
    PlacementError
        The replica does not fit the cluster, or nothing joins its nodes.
    CapacityError
        The fabric has too few ports for the cluster.
    """
    cluster, shards = scenario.cluster, iteration.shards
    paths = {
        "tp": group_path(cluster, np.arange(shards.tensor_parallel)),
        "stage": group_path(cluster, np.arange(shards.width)),
    }
    if shards.stages > 1:
        paths["pp"] = pair_path(cluster, 0, shards.width)
    names = {path.scale_up_link for path in paths.values()}
    names |= {path.nic_link for path in paths.values() if path.nodes > 1}
    device = cluster.node.device
    links = {name: load_link(name) for name in sorted(names) if name}
    profile = _under_limit(device, load_profile(device.profile))
    if not scenario.engine.row_kernels:
        profile = _vectorised(profile)
    if not scenario.engine.grouped_attention:
        profile = ungrouped(device, profile)
    return Site(device, profile, links, paths)


def _vectorised(profile: Profile) -> Profile:
    """The profile with memory-bound kernels that load wide words instead of elements."""
    passes = {
        kind: c.model_copy(update={"row_bandwidth": VECTOR_ELEMENTS * c.row_bandwidth})
        if c.row_bandwidth
        else c
        for kind, c in profile.elementwise.items()
    }
    return profile.model_copy(update={"elementwise": passes})


def ungrouped(device: Device, profile: Profile) -> Profile:
    """The profile of a library whose decoding kernels load keys once for each query head.

    Parameters
    ----------
    device : Device
        Its clock bounds what an SM loads where no such kernel was measured.
    profile : Profile

    Returns
    -------
    Profile
        Decoding by the sections ``_single``, or by the packed ones for one query head a block.
    """
    decode = {}
    for name, packed in profile.decode.items():
        single = profile.decode.get(f"{name}_single", packed)
        if single.group_limit > 1:  # such a kernel was not measured here
            feed = SINGLE_BYTES * device.boost_clock
            single = packed.model_copy(update={"group_limit": 1, "block_bandwidth": feed})
        decode[name] = single
    return profile.model_copy(update={"decode": decode})


def _under_limit(device: Device, profile: Profile) -> Profile:
    """What products sustain under the power limit of the device, if not that of the profile."""
    factor = limit_factor(device.power_limit, load_device(profile.device).power_limit)
    if factor == 1.0:
        return profile
    gemm = {
        dtype: c.model_copy(update={"power_fraction": min(1.0, c.power_fraction * factor)})
        for dtype, c in profile.gemm.items()
    }
    return profile.model_copy(update={"gemm": gemm})
