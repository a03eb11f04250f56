"""A training step as one program: op templates, and the ops of one replica with dependencies.

The program is compiled for *one* replica and holds the number of replicas; engines walk the same
rows for every replica, so 12,288 different GPUs never become millions of rows. A tensor-parallel
group is one pipeline rank: its members synchronise several times a layer, so the slowest sets the
pace.

Order. A stream runs its ops first in, first out, in row order. Rows of different streams are tied
only by `dep` (predecessors in the same replica) and by `rendezvous`: an op with rendezvous starts,
in all replicas together, once it is ready in every one of them (its dependencies are done and its
stream is free), and ends in all of them together after the longest of their durations.

Sharing. An op with `drag > 0` slows the compute stream of its own pipeline rank while it runs:
compute there progresses at rate ``1 - drag``. The op itself is not slowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.workload.operators import Category, Segment

COMPUTE, PIPE, DATA = 0, 1, 2
STREAMS = ("compute", "pipe", "data")


@dataclass(frozen=True)
class OpTemplate:
    """Work that many ops share: what they execute, on which kind of stream."""

    name: str  # "forward", "backward", "send_forward", "grad_reduce", "optimizer", ...
    stage: int
    chunk: int  # chunk of the stage, -1 where there is none
    segments: tuple[Segment, ...]
    category: Category
    overlapped: bool = False  # runs on a communication stream beside compute


@dataclass(frozen=True)
class Program:
    """The ops of one replica, as columns, and how many replicas run it.

    Attributes
    ----------
    templates : tuple of OpTemplate
    template, stage, chunk, micro_batch : ndarray of int32 (ops,)
        Index of the template and the instance; chunk and micro_batch are -1 where there is none.
    stream : ndarray of int32 (ops,)
        ``stage * 3 + kind`` with kind COMPUTE, PIPE or DATA.
    dep_start : ndarray of int64 (ops + 1,)
    dep : ndarray of int32 (dependencies,)
        Row ``i`` waits for rows ``dep[dep_start[i]:dep_start[i + 1]]``, besides its stream.
    rendezvous : ndarray of bool (ops,)
    replicas, stages, chunks, micro_batches : int
    """

    templates: tuple[OpTemplate, ...]
    template: NDArray[np.int32]
    stage: NDArray[np.int32]
    chunk: NDArray[np.int32]
    micro_batch: NDArray[np.int32]
    stream: NDArray[np.int32]
    dep_start: NDArray[np.int64]
    dep: NDArray[np.int32]
    rendezvous: NDArray[np.bool_]
    replicas: int
    stages: int
    chunks: int
    micro_batches: int

    @property
    def ops(self) -> int:
        """Rows of one replica."""
        return int(self.template.size)
