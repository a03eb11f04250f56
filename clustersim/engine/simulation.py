"""Replay a program with given durations: one front door to both engines."""

from __future__ import annotations

import time
from typing import Literal

from clustersim.engine.compiled import replay_compiled
from clustersim.engine.durations import Durations, check_durations
from clustersim.engine.order import Order
from clustersim.errors import SimulationError
from clustersim.timeline import Timeline
from clustersim.workload.program import Program

EngineName = Literal["auto", "event", "compiled"]
FEW_OPS = 2_000  # below this the event engine is done before Numba is imported


def replay(
    program: Program,
    durations: Durations,
    engine: EngineName = "auto",
    order: Order | None = None,
) -> Timeline:
    """When every op of every class of replicas starts and ends.

    Parameters
    ----------
    program : Program
        Ops of one replica and their dependencies.
    durations : Durations
        Time alone of each op for each class, and drags.
    engine : {"auto", "event", "compiled"}
        "auto" takes the event engine below 2,000 ops x classes and no order given, so that small
        runs never import Numba, and the compiled engine otherwise. They agree to 1e-9 relative.
    order : Order, optional
        From `compile_order`, to reuse over replications; the event engine does without.

    Returns
    -------
    Timeline

    Raises
    ------
    SimulationError
        The durations do not fit the program, or ops wait for each other in a circle.
    """
    check_durations(program, durations)
    engine_ops = durations.ops * durations.classes
    chosen = engine
    if engine == "auto":
        chosen = "event" if order is None and engine_ops < FEW_OPS else "compiled"
    started_s = time.perf_counter()
    match chosen:
        case "event":
            from clustersim.engine.event import replay_events

            start_s, end_s = replay_events(program, durations)
        case "compiled":
            workspace = replay_compiled(program, durations, order)
            start_s, end_s = workspace.start_s, workspace.end_s
        case _:
            raise SimulationError(f"engine is {engine!r}\n  fix: use auto, event or compiled")
    engine_s = time.perf_counter() - started_s
    return Timeline(start_s, end_s, durations.multiplicity, chosen, engine_ops, engine_s)
