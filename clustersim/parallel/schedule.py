"""In which order a pipeline rank runs its forward and backward passes.

GPipe, 1F1B and interleaved 1F1B. A schedule is an order only; when each pass happens is decided by
the engine.

References
----------
.. [1] Y. Huang et al., "GPipe: Efficient training of giant neural networks using pipeline
   parallelism", 2019, https://arxiv.org/abs/1811.06965
.. [2] D. Narayanan et al., "Efficient large-scale language model training on GPU clusters using
   Megatron-LM", 2021, https://arxiv.org/abs/2104.04473
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import PlacementError
from clustersim.spec.scenario import Schedule

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class StageOrder:
    """Passes of one pipeline rank, first to last.

    Attributes
    ----------
    backward : ndarray of bool (passes,)
    chunk, micro_batch : ndarray of int64 (passes,)
    """

    backward: NDArray[np.bool_]
    chunk: Ints
    micro_batch: Ints


def stage_order(
    schedule: Schedule, stage: int, stages: int, chunks: int, micro_batches: int
) -> StageOrder:
    """Order of passes on one stage.

    Parameters
    ----------
    schedule : {"gpipe", "1f1b", "interleaved"}
        "1f1b" and "interleaved" differ by `chunks` alone.
    stage : int
        From 0.
    stages, chunks, micro_batches : int
        Pipeline stages, model chunks of each, and micro-batches of a step.

    Returns
    -------
    StageOrder
        Each micro-batch once forward and once backward through every chunk: ``2 micro_batches
        chunks`` passes.

    Raises
    ------
    PlacementError
        If an interleaved schedule gets a number of micro-batches that stages do not divide.
    """
    total = micro_batches * chunks
    if chunks > 1 and micro_batches % stages:
        raise PlacementError(
            f"interleaved stages need micro-batches ({micro_batches}) to be a multiple of "
            f"pipeline_parallel ({stages})"
        )
    if schedule == "gpipe":
        warm_up = total
    else:
        warm_up = min(total, _warm_up(stage, stages, chunks))
        if chunks > 1 and micro_batches == stages:
            warm_up = total
    forward_chunk, forward_batch = _virtual_passes(total, stages, chunks)
    backward = np.zeros(2 * total, dtype=np.bool_)
    steady = total - warm_up
    backward[warm_up + 1 : warm_up + 2 * steady : 2] = True
    backward[warm_up + 2 * steady :] = True
    chunk = np.empty(2 * total, dtype=np.int64)
    batch = np.empty(2 * total, dtype=np.int64)
    chunk[~backward], batch[~backward] = forward_chunk, forward_batch
    chunk[backward], batch[backward] = chunks - 1 - forward_chunk, forward_batch
    if schedule == "gpipe":
        batch[backward] = micro_batches - 1 - batch[backward]
    return StageOrder(backward, chunk, batch)


def _warm_up(stage: int, stages: int, chunks: int) -> int:
    """Forward passes before the first backward pass."""
    if chunks == 1:
        return stages - stage - 1
    return 2 * (stages - stage - 1) + (chunks - 1) * stages


def _virtual_passes(total: int, stages: int, chunks: int) -> tuple[Ints, Ints]:
    """Chunk and micro-batch of each forward pass: `stages` micro-batches a chunk in turn."""
    index = np.arange(total, dtype=np.int64)
    if chunks == 1:
        return np.zeros_like(index), index
    chunk = index % (stages * chunks) // stages
    batch = index // (stages * chunks) * stages + index % stages
    return chunk, batch


def peak_in_flight(order: StageOrder, chunks: int) -> Ints:
    """Most micro-batches whose activations are held at once, for each chunk at the worst moment.

    Parameters
    ----------
    order : StageOrder
    chunks : int
        Model chunks of the stage.

    Returns
    -------
    ndarray of int64 (chunks,)
        Micro-batches in flight of each chunk at the moment when most passes are in flight.
    """
    step = np.where(order.backward, -1, 1)
    in_flight = np.cumsum(step)
    worst = int(np.argmax(in_flight))
    held = np.zeros(chunks, dtype=np.int64)
    np.add.at(held, order.chunk[: worst + 1], step[: worst + 1])
    return held
