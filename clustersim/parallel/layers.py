"""Which layers a pipeline stage holds, and which of them are recomputed.

Chunks are numbered in model order: chunk ``j`` lives on stage ``j mod stages`` and is that stage's
chunk number ``j // stages`` (Narayanan et al. 2021, interleaved stages).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import PlacementError
from clustersim.spec.scenario import Scenario


@dataclass(frozen=True)
class Layers:
    """Layers of each stage and chunk.

    Attributes
    ----------
    count : ndarray of int64 (stages, chunks)
        Transformer layers.
    recomputed : ndarray of int64 (stages, chunks)
        Of those, how many are recomputed whole in the backward pass.
    """

    count: NDArray[np.int64]
    recomputed: NDArray[np.int64]

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return int(self.count.shape[0])

    @property
    def chunks(self) -> int:
        """Model chunks a stage."""
        return int(self.count.shape[1])


def split_layers(scenario: Scenario) -> Layers:
    """Divide the model's layers over stages and chunks.

    Parameters
    ----------
    scenario : Scenario
        `layers_per_chunk` is in model order; without it every chunk gets as many layers.

    Returns
    -------
    Layers

    Raises
    ------
    PlacementError
        The layers do not divide and the scenario does not say how, or `layers_per_chunk` has
        another length than stages times chunks or another sum than the model's layers.
    """
    parallelism = scenario.parallelism
    stages, chunks = parallelism.pipeline_parallel, parallelism.virtual_stages
    listed = parallelism.layers_per_chunk
    if listed is None:
        each, rest = divmod(scenario.model.layers, stages * chunks)
        if rest:
            raise PlacementError(
                f"{scenario.model.layers} layers do not divide into {stages * chunks} chunks "
                f"(pp{stages} x vpp{chunks}); say layers_per_chunk"
            )
        listed = (each,) * (stages * chunks)
    if len(listed) != stages * chunks or sum(listed) != scenario.model.layers:
        raise PlacementError(
            f"layers_per_chunk has {len(listed)} entries of {sum(listed)} layers; "
            f"needed are {stages * chunks} entries of {scenario.model.layers}"
        )
    count = np.asarray(listed, dtype=np.int64).reshape(chunks, stages).T.copy()
    return Layers(count, _recomputed(scenario, count))


def _recomputed(scenario: Scenario, count: NDArray[np.int64]) -> NDArray[np.int64]:
    recompute = scenario.training.recompute
    if recompute.kind != "full":
        return np.zeros_like(count)
    if recompute.layers is None:
        return count.copy()
    taken = np.zeros_like(count)
    for stage in range(count.shape[0]):  # spread evenly over the chunks, earliest first
        left = min(recompute.layers, int(count[stage].sum()))
        while left:
            for chunk in range(count.shape[1]):
                if left and taken[stage, chunk] < count[stage, chunk]:
                    taken[stage, chunk] += 1
                    left -= 1
    return taken
