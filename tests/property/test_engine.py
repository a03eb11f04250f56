"""Laws of replay that hold for every program, whatever the durations."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.engine.durations import LEAST_RATE, Durations
from clustersim.engine.event import replay_events
from clustersim.engine.reference import order_rows, predecessors
from clustersim.engine.simulation import replay
from clustersim.workload.program import Program
from tests.engine_cases import cases, close

few = settings(deadline=None, max_examples=60)


def critical_path_s(program: Program, durations: Durations) -> float:
    """Longest chain of one class, without the waits for other classes and without drag."""
    end_s = np.zeros_like(durations.alone_s)
    for row in order_rows(program):
        before = [end_s[other] for other in predecessors(program, row)]
        end_s[row] = durations.alone_s[row] + (np.max(before, axis=0) if before else 0.0)
    return float(end_s.max())


@few
@given(case=cases(drag=False), row=st.integers(0, 1000), more_s=st.floats(0.0, 3.0))
def test_a_longer_op_never_makes_another_end_earlier(
    case: tuple[Program, Durations], row: int, more_s: float
) -> None:
    program, durations = case
    longer_s = durations.alone_s.copy()
    longer_s[row % durations.ops, row % durations.classes] += more_s
    before = replay(program, durations, "compiled")
    after = replay(program, Durations(longer_s, durations.drag, durations.multiplicity), "compiled")
    assert (after.end_s >= before.end_s).all()


@few
@given(case=cases())
def test_step_time_lies_between_critical_path_and_serial_sum(
    case: tuple[Program, Durations],
) -> None:
    program, durations = case
    step_s = replay(program, durations, "compiled").step_time_s
    serial_s = durations.alone_s.max(axis=1).sum()
    slowest = 1.0 if (durations.drag == 0.0).all() else LEAST_RATE
    assert step_s >= critical_path_s(program, durations) * (1 - 1e-9)
    assert step_s <= serial_s / slowest * (1 + 1e-9)


@few
@given(case=cases(), scale=st.floats(1e-6, 1e6))
def test_scaling_durations_scales_times(case: tuple[Program, Durations], scale: float) -> None:
    program, durations = case
    scaled = Durations(durations.alone_s * scale, durations.drag, durations.multiplicity)
    one, other = replay(program, durations, "compiled"), replay(program, scaled, "compiled")
    assert close(one.end_s * scale, other.end_s)


@few
@given(case=cases(), data=st.data())
def test_the_order_of_simultaneous_events_changes_nothing(
    case: tuple[Program, Durations], data: st.DataObject
) -> None:
    program, durations = case
    streams = sorted({int(k) for k in program.stream})
    processes = [(c, k) for c in range(durations.classes) for k in streams]
    shuffled = data.draw(st.permutations(processes))
    for one, other in zip(
        replay_events(program, durations),
        replay_events(program, durations, process_order=shuffled),
        strict=True,
    ):
        assert close(one, other)


@few
@given(case=cases())
def test_no_op_starts_before_what_it_waits_for(case: tuple[Program, Durations]) -> None:
    program, durations = case
    timeline = replay(program, durations, "compiled")
    for row in range(program.ops):
        for other in predecessors(program, row):
            assert (timeline.start_s[row] >= timeline.end_s[other]).all()
        if program.rendezvous[row]:
            assert np.ptp(timeline.start_s[row]) == 0.0
            assert np.ptp(timeline.end_s[row]) == 0.0
