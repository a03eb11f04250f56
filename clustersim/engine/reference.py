"""Plain twins of the kernels: the rules of `workload.program`, one step at a time.

They are slow and share nothing with the kernels or the event engine; tests hold all three
together. Where they disagree, the twin is right until proved otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.engine.durations import LEAST_RATE, STREAM_KINDS, Durations
from clustersim.errors import SimulationError
from clustersim.workload.program import COMPUTE, Program

Floats = NDArray[np.float64]
OpOfClass = tuple[int, int]  # row, class


def predecessors(program: Program, row: int) -> list[int]:
    """The dependencies of a row and the row before it on its stream.

    Parameters
    ----------
    program : Program
    row : int

    Returns
    -------
    list of int
        The row before on the stream first, where there is one; a row may stand twice.
    """
    before = [i for i in range(row) if program.stream[i] == program.stream[row]]
    deps = program.dep[program.dep_start[row] : program.dep_start[row + 1]]
    return before[-1:] + [int(other) for other in deps]


def order_rows(program: Program) -> list[int]:
    """Any order of rows where each one is ready and no compute passes ready communication.

    Parameters
    ----------
    program : Program

    Returns
    -------
    list of int
        As many rows as can be placed: all, unless some wait in a circle.
    """
    order: list[int] = []
    while True:
        ready = [
            row
            for row in range(program.ops)
            if row not in order and all(other in order for other in predecessors(program, row))
        ]
        if not ready:
            return order
        talking = [row for row in ready if program.stream[row] % STREAM_KINDS != COMPUTE]
        order.append((talking or ready)[0])


def replay_rows(program: Program, durations: Durations) -> tuple[Floats, Floats]:
    """Times where nothing drags: raise every start to what it waits for, until all agree.

    Rows must not wait in a circle.

    Parameters
    ----------
    program : Program
    durations : Durations
        Drags are not read.

    Returns
    -------
    start_s, end_s : ndarray of float64 (ops, classes)
        [s]
    """
    start_s = np.zeros_like(durations.alone_s)
    while True:
        length_s = np.where(
            program.rendezvous[:, None],
            durations.alone_s.max(axis=1, keepdims=True),
            durations.alone_s,
        )
        end_s = start_s + length_s
        before = start_s.copy()
        for row in range(program.ops):
            for other in predecessors(program, row):
                start_s[row] = np.maximum(start_s[row], end_s[other])
            if program.rendezvous[row]:
                start_s[row] = start_s[row].max()
        if np.array_equal(before, start_s):
            return start_s, end_s


def replay_dragged_rows(program: Program, durations: Durations) -> tuple[Floats, Floats]:
    """Times with drag: start what can start, then run everything to the next end, again and again.

    Parameters
    ----------
    program : Program
    durations : Durations

    Returns
    -------
    start_s, end_s : ndarray of float64 (ops, classes)
        [s]

    Raises
    ------
    SimulationError
        Rows wait for each other in a circle.
    """
    start_s = np.full(durations.alone_s.shape, np.nan)
    end_s = np.full(durations.alone_s.shape, np.nan)
    left_s: dict[OpOfClass, float] = {}
    now_s = 0.0
    while np.isnan(end_s).any():
        _start_ready(program, durations, now_s, start_s, end_s, left_s)
        if not left_s:
            if np.isnan(end_s).any():
                raise SimulationError("deadlock: nothing runs and nothing can start")
            break
        rates = {op: _rate(program, durations, op, left_s) for op in left_s}
        step_s = min(left_s[op] / rates[op] for op in left_s)
        now_s += step_s
        for op in list(left_s):
            if left_s[op] / rates[op] <= step_s:
                end_s[op] = now_s
                del left_s[op]
            else:
                left_s[op] -= rates[op] * step_s
    return start_s, end_s


def _start_ready(
    program: Program,
    durations: Durations,
    now_s: float,
    start_s: Floats,
    end_s: Floats,
    left_s: dict[OpOfClass, float],
) -> None:
    """Start all ops that can start now; those without length end at once and free others."""
    classes = range(durations.classes)
    again = True
    while again:
        again = False
        for row in range(program.ops):
            ready = [
                c
                for c in classes
                if np.isnan(start_s[row, c])
                and all(not np.isnan(end_s[other, c]) for other in predecessors(program, row))
            ]
            length_s = durations.alone_s[row]
            if program.rendezvous[row]:
                ready = ready if len(ready) == durations.classes else []
                length_s = np.full(durations.classes, length_s.max())
            for c in ready:
                again = True
                start_s[row, c] = now_s
                if length_s[c] > 0.0:
                    left_s[row, c] = float(length_s[c])
                else:
                    end_s[row, c] = now_s


def _rate(
    program: Program, durations: Durations, op: OpOfClass, running: dict[OpOfClass, float]
) -> float:
    """Progress of a running op: one, less the drags beside it if it computes."""
    row, c = op
    if program.stream[row] % STREAM_KINDS != COMPUTE or program.rendezvous[row]:
        return 1.0
    beside = [i for i, k in running if k == c and program.stage[i] == program.stage[row]]
    return max(LEAST_RATE, 1.0 - sum(float(durations.drag[i]) for i in beside))
