"""Four roads to one timeline: event engine, compiled engine, plain twin, and folded classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from clustersim.engine import reference
from clustersim.engine.compiled import make_workspace, replay_compiled
from clustersim.engine.durations import Durations
from clustersim.engine.order import compile_order
from clustersim.engine.simulation import replay
from clustersim.workload.program import Program
from tests.engine_cases import cases, close
from tests.programs import pipeline_program

few = settings(deadline=None, max_examples=60)


@few
@given(case=cases())
def test_event_compiled_and_twin_agree(case: tuple[Program, Durations]) -> None:
    program, durations = case
    event = replay(program, durations, "event")
    compiled = replay(program, durations, "compiled")
    start_s, end_s = reference.replay_dragged_rows(program, durations)
    for timeline in (event, compiled):
        assert close(end_s, timeline.end_s)
        assert close(start_s, timeline.start_s)


@few
@given(case=cases(drag=False))
def test_without_drag_engines_agree_to_the_bit(case: tuple[Program, Durations]) -> None:
    program, durations = case
    start_s, end_s = reference.replay_rows(program, durations)
    for engine in ("event", "compiled"):
        timeline = replay(program, durations, engine)
        assert np.array_equal(timeline.start_s, start_s)
        assert np.array_equal(timeline.end_s, end_s)


@few
@given(case=cases())
def test_static_order_is_as_the_twin_defines_it(case: tuple[Program, Durations]) -> None:
    program, _ = case
    assert is_order(program, compile_order(program).rows.tolist())
    assert is_order(program, reference.order_rows(program))


def is_order(program: Program, order: list[int]) -> bool:
    """Every row once, after all it waits for; no compute while communication is ready."""
    placed: set[int] = set()
    waits = [set(reference.predecessors(program, row)) for row in range(program.ops)]
    for row in order:
        ready = [i for i in range(program.ops) if i not in placed and waits[i] <= placed]
        talking = [i for i in ready if program.stream[i] % 3 != 0]
        if row not in (talking or ready):
            return False
        placed.add(row)
    return len(placed) == program.ops == len(order)


@few
@given(case=cases())
def test_folded_classes_equal_the_full_run(case: tuple[Program, Durations]) -> None:
    program, durations = case
    copies = np.arange(durations.classes) % 2 + 1
    column = np.repeat(np.arange(durations.classes), copies)
    program = replace(program, replicas=int(column.size))
    folded = Durations(durations.alone_s, durations.drag, copies.astype(np.int64))
    full_s = np.ascontiguousarray(durations.alone_s[:, column])
    full = Durations(full_s, durations.drag, np.ones(column.size, dtype=np.int64))
    for engine in ("event", "compiled"):
        few_columns, all_columns = replay(program, folded, engine), replay(program, full, engine)
        assert np.array_equal(few_columns.end_s[:, column], all_columns.end_s)


@pytest.mark.parametrize("drag", [0.0, 0.2])
def test_a_reused_order_and_workspace_give_the_same_step_time(drag: float) -> None:
    program = pipeline_program(3, 2, 6, replicas=4, sends=True, reduces=True)
    drags = np.where(program.stream % 3 == 0, 0.0, drag)
    order, workspace = compile_order(program), make_workspace(program, 4)
    rng = np.random.default_rng(3)
    for _ in range(3):
        alone_s = rng.uniform(0.5, 1.5, (program.ops, 4))
        durations = Durations(alone_s, drags, np.ones(4, dtype=np.int64))
        fresh = replay(program, durations, "compiled")
        replay_compiled(program, durations, order, workspace)
        assert workspace.end_s.max() == fresh.step_time_s
        assert replay(program, durations, order=order).step_time_s == fresh.step_time_s
