"""The compiled engine: durations and an order in, starts and ends out, arrays reused.

What it leaves out is the clock: rows are walked in a static order, and times follow from their
predecessors. The event engine is its reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.engine.durations import (
    LEAST_RATE,
    STREAM_KINDS,
    Durations,
    check_durations,
    dragging_rows,
)
from clustersim.engine.order import Order, compile_order
from clustersim.errors import SimulationError
from clustersim.kernel_cache import prepare_numba_cache
from clustersim.workload.program import Program


@dataclass(frozen=True)
class Workspace:
    """Arrays that replays of one program write into, one after the other.

    Attributes
    ----------
    start_s, end_s : ndarray of float64 (ops, classes)
        Times of the last replay. [s]
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


def make_workspace(program: Program, classes: int) -> Workspace:
    """Arrays for replays of `program` with `classes` classes of replicas.

    Parameters
    ----------
    program : Program
    classes : int
        Classes of replicas, at least 1.

    Returns
    -------
    Workspace
        Two arrays of shape (ops, classes), not initialised.
    """
    shape = (program.ops, classes)
    return Workspace(np.empty(shape), np.empty(shape))


def replay_compiled(
    program: Program,
    durations: Durations,
    order: Order | None = None,
    workspace: Workspace | None = None,
) -> Workspace:
    """Start and end of every op for every class, by the compiled engine.

    Parameters
    ----------
    program : Program
    durations : Durations
    order : Order, optional
        Of this program, from `compile_order`; computed if absent.
    workspace : Workspace, optional
        Written over and returned; allocated if absent.

    Raises
    ------
    SimulationError
        Durations, order or workspace do not fit the program, or it deadlocks.
    """
    check_durations(program, durations)
    order = compile_order(program) if order is None else order
    workspace = make_workspace(program, durations.classes) if workspace is None else workspace
    if order.rows.size != program.ops:
        raise SimulationError(
            f"order has {order.rows.size} rows\n  fix: the program has {program.ops}; "
            "call compile_order(program) again"
        )
    if workspace.start_s.shape != durations.alone_s.shape:
        raise SimulationError(
            f"workspace has shape {workspace.start_s.shape}\n"
            f"  fix: make_workspace(program, {durations.classes})"
        )
    _walk(program, durations, order, workspace)
    return workspace


def _walk(program: Program, durations: Durations, order: Order, workspace: Workspace) -> None:
    prepare_numba_cache()
    from clustersim.engine.kernels import replay_dragged_rows, replay_rows

    drag_rows = dragging_rows(program, durations.drag)
    if drag_rows.size == 0:
        replay_rows(
            order.rows, order.after_start, order.after, program.rendezvous, durations.alone_s,
            workspace.start_s, workspace.end_s,
        )  # fmt: skip
        return
    stream = program.stream.astype(np.int64)
    streams = (int(stream.max()) // STREAM_KINDS + 1) * STREAM_KINDS
    drag_start = np.searchsorted(stream[drag_rows], np.arange(streams + 1)).astype(np.int64)
    replay_dragged_rows(
        order.rows, order.after_start, order.after, program.rendezvous, stream,
        durations.alone_s, durations.drag, drag_rows, drag_start, LEAST_RATE,
        workspace.start_s, workspace.end_s,
    )  # fmt: skip
