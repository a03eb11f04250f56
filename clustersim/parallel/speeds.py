"""How fast each pipeline rank is: named stragglers, slow hosts, spread, and jitter over groups.

A tensor-parallel group synchronises several times a layer, so it is as slow as its slowest member
(a static speed), and each run between two synchronisations takes as long as the slowest member's
(jitter). The maximum over more members is larger: that, and nothing fitted, is why noise costs
more in larger groups.

References
----------
.. [1] H. A. David and H. N. Nagaraja, "Order statistics", 3rd ed., Wiley 2003, section 3.1: moments
   of the largest of n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from clustersim.parallel.mesh import Mesh
from clustersim.spec.fleet import Fleet

Floats = NDArray[np.float64]


@cache
def largest_of_normals(count: int) -> tuple[float, float]:
    """Mean and standard deviation of the largest of `count` standard normals.

    Parameters
    ----------
    count : int
        At least 1.

    Returns
    -------
    mean, deviation : float

    Notes
    -----
    Moments of the density ``n phi(x) Phi(x)^(n-1)``, by the trapezoidal rule.
    """
    x = np.linspace(-9.0, 9.0, 3601)
    cumulative = np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x])
    density = count * np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi) * cumulative ** (count - 1)
    mean = float(np.trapezoid(x * density, x))
    square = float(np.trapezoid(x**2 * density, x))
    return mean, math.sqrt(max(0.0, square - mean**2))


@dataclass(frozen=True)
class Speeds:
    """Static slowness of every GPU of one draw.

    Attributes
    ----------
    rank_factor : ndarray of float64 (stages, replicas, tensor_parallel)
        Kernel time over nominal kernel time; 1 is nominal.
    """

    rank_factor: Floats

    @property
    def stage_factor(self) -> Floats:
        """Slowest member of each tensor-parallel group, (stages, replicas)."""
        return np.ascontiguousarray(self.rank_factor.max(axis=2))


def draw_speeds(fleet: Fleet, mesh: Mesh, rng: np.random.Generator) -> Speeds:
    """Draw the speed of every GPU of a job.

    Parameters
    ----------
    fleet : Fleet
    mesh : Mesh
    rng : numpy.random.Generator
        Stream of this draw; hosts are drawn before GPUs.

    Returns
    -------
    Speeds
    """
    ranks = np.arange(mesh.ranks)
    hosts = ranks // mesh.gpus_per_node
    slow = rng.random(int(hosts[-1]) + 1) < fleet.slow_host_fraction
    factor = 1.0 + np.where(slow[hosts], fleet.slow_host_slowdown, 0.0)
    if fleet.speed_spread:
        factor = factor * np.exp(fleet.speed_spread * rng.standard_normal(mesh.ranks))
    for rank, slowdown in fleet.slowdowns.items():
        factor[rank] *= 1.0 + slowdown
    shape = (mesh.pipeline_parallel, mesh.data_parallel, mesh.tensor_parallel)
    return Speeds(factor.reshape(shape))


def draw_noise(
    fleet: Fleet, mesh: Mesh, syncs: NDArray[np.int64], rng: np.random.Generator
) -> Floats:
    """Draw the extra time of ops: the slowest of a group, averaged over its synchronisations.

    Parameters
    ----------
    fleet : Fleet
    mesh : Mesh
    syncs : ndarray of int64 (ops,)
        Synchronisations of the tensor-parallel group within each op, at least 1.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float64 (ops, replicas)
        As a fraction of the op's kernel time.

    Notes
    -----
    Of k runs between synchronisations, each as long as the slowest of t members: mean
    ``jitter E_t``, deviation ``jitter D_t / sqrt(k)``, with the moments of the largest of t
    normals [1].
    """
    mean, deviation = largest_of_normals(mesh.tensor_parallel)
    drawn = rng.standard_normal((syncs.size, mesh.data_parallel))
    return fleet.kernel_jitter * (mean + (deviation / np.sqrt(syncs))[:, None] * drawn)


def fold_replicas(stage_factor: Floats) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Join replicas that cannot be told apart.

    Parameters
    ----------
    stage_factor : ndarray of float64 (stages, replicas)

    Returns
    -------
    factor : ndarray of float64 (stages, classes)
    multiplicity : ndarray of int64 (classes,)
        Replicas of each class.
    first : ndarray of int64 (classes,)
        A replica of each class.
    """
    factor, first, count = np.unique(stage_factor, axis=1, return_index=True, return_counts=True)
    order = np.argsort(first, kind="stable")
    return (
        np.ascontiguousarray(factor[:, order]),
        count[order].astype(np.int64),
        first[order].astype(np.int64),
    )
