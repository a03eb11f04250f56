"""From a scenario to a priced program: everything that does not depend on a random draw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.platform import Platform, build_platform
from clustersim.cost.program import ProgramCosts, price_program
from clustersim.engine.durations import Durations
from clustersim.engine.order import Order, compile_order
from clustersim.parallel.mesh import Mesh, build_mesh
from clustersim.parallel.speeds import draw_noise, draw_speeds, fold_replicas
from clustersim.spec.scenario import Scenario
from clustersim.workload.program import Program
from clustersim.workload.streams import named_rng
from clustersim.workload.training import build_training_program

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prepared:
    """A scenario, its program and its prices."""

    scenario: Scenario
    mesh: Mesh
    program: Program
    platform: Platform
    costs: ProgramCosts

    @cached_property
    def order(self) -> Order:
        """Static order of the program's rows, made once."""
        return compile_order(self.program)

    def repriced(self, platform: Platform) -> Prepared:
        """The same program on another platform; its order is kept.

        Parameters
        ----------
        platform : Platform
            With the links and paths that the program names.

        Returns
        -------
        Prepared
        """
        costs = price_program(self.program, platform)
        other = replace(self, platform=platform, costs=costs)
        if "order" in self.__dict__:
            other.__dict__["order"] = self.order
        return other


def prepare(scenario: Scenario) -> Prepared:
    """Place, compile and price a scenario.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    Prepared

    Raises
    ------
    PlacementError
        The job needs more GPUs than the cluster has, or its layers or micro-batches do not divide.
    """
    mesh = build_mesh(scenario)
    program = build_training_program(scenario)
    platform = build_platform(scenario, mesh)
    return Prepared(scenario, mesh, program, platform, price_program(program, platform))


@dataclass(frozen=True)
class Draw:
    """One draw of the fleet: speeds of classes of replicas, and noise of their ops.

    Attributes
    ----------
    rank_factor : ndarray of float64 (stages, replicas, tensor_parallel)
        Kernel time over nominal kernel time of each GPU.
    factor : ndarray of float64 (stages, classes)
        The slowest member of each tensor-parallel group.
    multiplicity, first : ndarray of int64 (classes,)
        Replicas of each class, and one of them.
    noise : ndarray of float64 (noisy ops, classes) or None
        Extra kernel time as a fraction, for the ops of `noisy_rows`.
    """

    rank_factor: Floats
    factor: Floats
    multiplicity: NDArray[np.int64]
    first: NDArray[np.int64]
    noise: Floats | None = None


def noisy_rows(prepared: Prepared) -> NDArray[np.int64]:
    """Rows whose time depends on the speed of a GPU.

    Parameters
    ----------
    prepared : Prepared

    Returns
    -------
    ndarray of int64 (noisy ops,)
        Ascending.
    """
    return np.flatnonzero(prepared.costs.compute_s[prepared.program.template] > 0.0)


def draw_fleet(prepared: Prepared, replication: int) -> Draw:
    """Draw speeds and noise for one replication.

    Parameters
    ----------
    prepared : Prepared
    replication : int
        Number of the draw; the same number of the same seed gives the same draw.

    Returns
    -------
    Draw
        With noise, every replica is a class of its own.
    """
    scenario, mesh = prepared.scenario, prepared.mesh
    fleet, seed = scenario.fleet, scenario.run.seed
    speeds = draw_speeds(fleet, mesh, named_rng(seed, "speeds", replication))
    noise = None
    if fleet.kernel_jitter:
        syncs = prepared.costs.syncs[prepared.program.template[noisy_rows(prepared)]]
        noise = draw_noise(fleet, mesh, syncs, named_rng(seed, "jitter", replication))
    return make_draw(speeds.rank_factor, noise)


def make_draw(rank_factor: Floats, noise: Floats | None = None) -> Draw:
    """A draw of given speeds; replicas that cannot be told apart are joined where none is noisy.

    Parameters
    ----------
    rank_factor : ndarray of float64 (stages, replicas, tensor_parallel)
        Kernel time over nominal kernel time of each GPU.
    noise : ndarray of float64 (noisy ops, replicas), optional
        Extra kernel time as a fraction; without it kernels are quiet.

    Returns
    -------
    Draw
    """
    stage_factor = np.ascontiguousarray(rank_factor.max(axis=2))
    if noise is None:
        return Draw(rank_factor, *fold_replicas(stage_factor))
    every = np.arange(stage_factor.shape[1], dtype=np.int64)
    return Draw(rank_factor, stage_factor, np.ones_like(every), every, noise)


def durations_of(prepared: Prepared, draw: Draw) -> Durations:
    """Time alone of every op for every class of replicas.

    Parameters
    ----------
    prepared : Prepared
    draw : Draw

    Returns
    -------
    Durations
        Of shape (ops, classes).

    Notes
    -----
    ``compute_s * factor * max(0, 1 + noise) + fixed_s``: neither speed nor noise stretches the
    fixed part.
    """
    program, costs = prepared.program, prepared.costs
    compute_s = costs.compute_s[program.template]
    stretch = draw.factor[program.stage]
    if draw.noise is not None:
        stretch[noisy_rows(prepared)] *= np.maximum(0.0, 1.0 + draw.noise)
    stretch *= compute_s[:, None]
    stretch += costs.fixed_s[program.template][:, None]
    return Durations(stretch, costs.drag[program.template], draw.multiplicity)
