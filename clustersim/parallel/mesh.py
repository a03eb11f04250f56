"""Ranks and groups. Order: tensor parallel fastest, then data parallel, then pipeline.

Ranks fill nodes in order, so a tensor-parallel group lies inside a node wherever its size divides
the node, and the data-parallel ranks of a stage lie next to each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import PlacementError
from clustersim.spec.scenario import Scenario

Ranks = NDArray[np.int64]


@dataclass(frozen=True)
class Mesh:
    """Degrees of parallelism, and where each rank sits.

    Attributes
    ----------
    tensor_parallel, data_parallel, pipeline_parallel : int
    gpus_per_node : int
    """

    tensor_parallel: int
    data_parallel: int
    pipeline_parallel: int
    gpus_per_node: int

    @property
    def ranks(self) -> int:
        """World size."""
        return self.tensor_parallel * self.data_parallel * self.pipeline_parallel

    def rank_grid(self) -> Ranks:
        """Ranks as an array of shape (stages, replicas, tensor-parallel members)."""
        shape = (self.pipeline_parallel, self.data_parallel, self.tensor_parallel)
        return np.arange(self.ranks, dtype=np.int64).reshape(shape)

    def tensor_group(self, stage: int = 0, replica: int = 0) -> Ranks:
        """Ranks that share the layers of one stage of one replica.

        Parameters
        ----------
        stage, replica : int
            From 0.

        Returns
        -------
        ndarray of int64 (tensor_parallel,)
            Neighbours, ascending.
        """
        return self._block(stage, replica) + np.arange(self.tensor_parallel)

    def data_group(self, stage: int = 0, member: int = 0) -> Ranks:
        """Ranks that hold the same parameters.

        Parameters
        ----------
        stage, member : int
            Pipeline stage, and place in the tensor-parallel group; from 0.

        Returns
        -------
        ndarray of int64 (data_parallel,)
            Ascending, `tensor_parallel` apart.
        """
        first = self._block(stage, 0) + member
        return first + np.arange(self.data_parallel) * self.tensor_parallel

    def stage_pair(self, stage: int, other: int, replica: int = 0) -> tuple[int, int]:
        """The first ranks of two stages of one replica, which send to each other.

        Parameters
        ----------
        stage, other, replica : int
            From 0.

        Returns
        -------
        tuple of int
            Member 0 of each tensor-parallel group; the other members pair in the same way.
        """
        return self._block(stage, replica), self._block(other, replica)

    def _block(self, stage: int, replica: int) -> int:
        return (stage * self.data_parallel + replica) * self.tensor_parallel


def build_mesh(scenario: Scenario) -> Mesh:
    """Lay the scenario's ranks over its cluster.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    Mesh

    Raises
    ------
    PlacementError
        If the job needs more GPUs than the cluster has.
    """
    parallelism = scenario.parallelism
    mesh = Mesh(
        parallelism.tensor_parallel,
        scenario.data_parallel,
        parallelism.pipeline_parallel,
        scenario.cluster.node.gpus,
    )
    available = scenario.cluster.nodes * scenario.cluster.node.gpus
    if mesh.ranks > available:
        raise PlacementError(
            f"tp{mesh.tensor_parallel} x pp{mesh.pipeline_parallel} x dp{mesh.data_parallel} "
            f"needs {mesh.ranks} GPUs, the cluster has {available}"
        )
    return mesh
