"""What the engine is told about time: how long each op takes alone, and whom it slows.

Durations are columns beside the rows of a `Program`, one column per class of replicas. They come
from `cost` and from the fleet (speeds, jitter); the engine only waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import SimulationError
from clustersim.workload.program import COMPUTE, Program

STREAM_KINDS = 3  # streams of a stage: compute, pipe, data
LEAST_RATE = 0.05  # assumed: compute never falls below this rate, whatever drags it


@dataclass(frozen=True)
class Durations:
    """Time alone of each op for each class of replicas.

    Attributes
    ----------
    alone_s : ndarray of float64 (ops, classes), C-contiguous
        Time of the op when nothing slows it; speed and jitter are already in it. [s]
    drag : ndarray of float64 (ops,)
        Share of the compute rate that the op takes from its stage while it runs, 0 to below 1.
    multiplicity : ndarray of int64 (classes,)
        How many replicas each class stands for. Replicas that cannot be told apart are one class.
    """

    alone_s: NDArray[np.float64]
    drag: NDArray[np.float64]
    multiplicity: NDArray[np.int64]

    @property
    def ops(self) -> int:
        """Rows of one replica."""
        return int(self.alone_s.shape[0])

    @property
    def classes(self) -> int:
        """Classes of replicas that are simulated."""
        return int(self.alone_s.shape[1])


def describe_row(program: Program, row: int) -> str:
    """One op in words: its row, template, stage, chunk and micro-batch.

    Parameters
    ----------
    program : Program
    row : int
        Index into the columns of the program.

    Returns
    -------
    str
        Such as ``row 7 (forward, stage 1, chunk 0, micro-batch 3)``; a chunk or micro-batch of -1
        is left out.
    """
    name = program.templates[int(program.template[row])].name
    parts = [f"row {row}", name, f"stage {program.stage[row]}"]
    if program.chunk[row] >= 0:
        parts.append(f"chunk {program.chunk[row]}")
    if program.micro_batch[row] >= 0:
        parts.append(f"micro-batch {program.micro_batch[row]}")
    return f"{parts[0]} ({', '.join(parts[1:])})"


def dragging_rows(program: Program, drag: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows that slow compute, sorted by stream and then first in, first out.

    Parameters
    ----------
    program : Program
    drag : ndarray of float64 (ops,)
        Share of the compute rate that each op takes; 0 where it takes none.

    Returns
    -------
    ndarray of int64 (dragging,)
        Rows with a drag above 0.
    """
    rows = np.flatnonzero(drag > 0.0)
    return rows[np.argsort(program.stream[rows], kind="stable")].astype(np.int64)


def check_durations(program: Program, durations: Durations) -> None:
    """Refuse durations that do not belong to the program or are no durations.

    Parameters
    ----------
    program : Program
    durations : Durations
        All three arrays are checked, shapes and dtypes first.

    Raises
    ------
    SimulationError
        A shape or dtype is wrong, `multiplicity` does not sum to the program's replicas, a duration
        is negative or not finite, or a drag lies outside ``0 <= drag < 1`` or on a compute stream.
        Names the array and its shape, or the first wrong op and its value.
    """
    _check_shapes(program, durations)
    alone_s, drag = durations.alone_s, durations.drag
    if not (alone_s.min(initial=0.0) >= 0.0 and alone_s.max(initial=0.0) < np.inf):  # or NaN
        wrong = ~(np.isfinite(alone_s) & (alone_s >= 0.0))
        row, column = (int(index) for index in np.argwhere(wrong)[0])
        raise SimulationError(
            f"{describe_row(program, row)}: alone_s is {alone_s[row, column]} s for class {column}"
            "\n  fix: a duration is finite and at least 0"
        )
    wrong = ~((drag >= 0.0) & (drag < 1.0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise SimulationError(
            f"{describe_row(program, row)}: drag is {drag[row]}\n  fix: 0 <= drag < 1"
        )
    wrong = (drag > 0.0) & (program.stream % STREAM_KINDS == COMPUTE)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise SimulationError(
            f"{describe_row(program, row)}: drag is {drag[row]} on a compute stream\n"
            "  fix: only ops of the pipe and data streams run beside compute; set its drag to 0"
        )


def _check_shapes(program: Program, durations: Durations) -> None:
    alone_s, drag, multiplicity = durations.alone_s, durations.drag, durations.multiplicity
    if alone_s.ndim != 2 or alone_s.shape[0] != program.ops or alone_s.shape[1] < 1:
        raise SimulationError(
            f"alone_s has shape {alone_s.shape}\n  fix: ({program.ops}, classes), one row an op"
        )
    if alone_s.dtype != np.float64 or not alone_s.flags.c_contiguous:
        raise SimulationError(
            f"alone_s is {alone_s.dtype}, C-contiguous {alone_s.flags.c_contiguous}"
            "\n  fix: numpy.ascontiguousarray(alone_s, dtype=float64)"
        )
    if drag.shape != (program.ops,) or drag.dtype != np.float64:
        raise SimulationError(
            f"drag is {drag.dtype} of shape {drag.shape}\n  fix: float64 of shape ({program.ops},)"
        )
    if multiplicity.shape != (alone_s.shape[1],) or int(multiplicity.min()) < 1:
        raise SimulationError(
            f"multiplicity is {multiplicity.tolist()}"
            f"\n  fix: {alone_s.shape[1]} counts of at least 1, one a class"
        )
    if int(multiplicity.sum()) != program.replicas:
        raise SimulationError(
            f"multiplicity sums to {int(multiplicity.sum())}"
            f"\n  fix: the program has {program.replicas} replicas"
        )
