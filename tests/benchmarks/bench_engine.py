"""How fast programs are replayed: 192 replicas x 8 stages x 6 chunks x 32 micro-batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from clustersim.engine.compiled import make_workspace, replay_compiled
from clustersim.engine.durations import Durations
from clustersim.engine.order import compile_order
from clustersim.engine.simulation import replay
from clustersim.workload.program import Program
from tests.programs import pipeline_program

REPLICAS, STAGES, CHUNKS, MICRO_BATCHES = 192, 8, 6, 32
COMPILED_BAR_S = 0.050
EVENT_BAR_PER_S = 200_000.0


def best_of(call: Callable[[], object], times: int) -> float:
    """Least wall time of several calls after one to warm up. [s]"""
    call()
    seconds = []
    for _ in range(times):
        started_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def random_durations(program: Program, classes: int, drag: float = 0.0, seed: int = 1) -> Durations:
    """A different duration for every op and class, around 1 ms; communication drags compute."""
    rng = np.random.default_rng(seed)
    alone_s = 1e-3 * rng.uniform(0.9, 1.1, (program.ops, classes))
    drags = np.where(program.stream % 3 == 0, 0.0, drag)
    multiplicity = np.full(classes, program.replicas // classes, dtype=np.int64)
    return Durations(alone_s, drags, multiplicity)


def equal_durations(program: Program, classes: int) -> Durations:
    """The same duration for every replica."""
    alone_s = np.full((program.ops, classes), 1e-3)
    multiplicity = np.full(classes, program.replicas // classes, dtype=np.int64)
    return Durations(alone_s, np.zeros(program.ops), multiplicity)


def entry(name: str, seconds: float, work: int, **more: float) -> dict[str, object]:
    """One line of `make bench`."""
    rate = work / seconds
    return {"name": name, "seconds": seconds, "work": work, "unit": "ops", "rate": rate, **more}


def benchmarks() -> list[dict[str, object]]:
    """Measure; compilation is warm-up and not counted."""
    shape = (STAGES, CHUNKS, MICRO_BATCHES, REPLICAS)
    plain = pipeline_program(*shape)
    reduced = pipeline_program(*shape, reduces=True)
    dragged = pipeline_program(*shape, sends=True, reduces=True)
    results = []
    cases = [
        ("engine_compiled_static", plain, equal_durations(plain, REPLICAS)),
        ("engine_compiled_distinct_rendezvous", reduced, random_durations(reduced, REPLICAS)),
        ("engine_compiled_drag", dragged, random_durations(dragged, REPLICAS, drag=0.1)),
    ]
    for name, program, durations in cases:
        seconds = best_of(partial(replay, program, durations, "compiled"), 7)
        work = program.ops * durations.classes
        results.append(entry(name, seconds, work, bar_s=COMPILED_BAR_S))
    order, workspace = compile_order(reduced), make_workspace(reduced, REPLICAS)
    durations = cases[1][2]
    seconds = best_of(partial(replay_compiled, reduced, durations, order, workspace), 7)
    work = reduced.ops * REPLICAS
    results.append(entry("engine_compiled_replication", seconds, work, bar_s=COMPILED_BAR_S))
    seconds = best_of(partial(compile_order, reduced), 7)
    results.append(entry("engine_compile_order", seconds, reduced.ops))
    few = 16
    for name, sends, drag in [
        ("engine_event", False, 0.0),
        ("engine_event_sends", True, 0.0),
        ("engine_event_drag", True, 0.1),
    ]:
        program = pipeline_program(STAGES, CHUNKS, MICRO_BATCHES, few, sends=sends, reduces=True)
        durations = random_durations(program, few, drag=drag)
        seconds = best_of(partial(replay, program, durations, "event"), 5)
        results.append(entry(name, seconds, program.ops * few, bar_rate=EVENT_BAR_PER_S))
    return results


if __name__ == "__main__":
    import json

    print(json.dumps(benchmarks(), indent=1))
