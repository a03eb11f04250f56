"""Seconds of a step go where a reader of the timeline would put them."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.analysis.breakdown import KEYS, MOST_DRAG, breakdown_s, gating_rank
from clustersim.analysis.critical_path import critical_path
from clustersim.engine.durations import LEAST_RATE
from clustersim.workload.program import COMPUTE, DATA
from tests.programs import Row, build_program, pipeline_program
from tests.unit.analysis.steps import finish, pipeline_step


def test_keys_are_the_categories_and_the_five_extras():
    assert len(KEYS) == len(set(KEYS)) == 15


def test_parts_sum_to_the_step_time():
    step = pipeline_step(4, 8)
    parts, _ = breakdown_s(*step.priced)
    assert set(parts) == set(KEYS)
    assert sum(parts.values()) == pytest.approx(step.timeline.step_time_s, rel=1e-9)


def test_bubble_of_1f1b_without_transfers_is_the_closed_form():
    stages, batches = 4, 8
    program = pipeline_program(stages, 1, batches)
    parts, _ = breakdown_s(*finish(program, {"forward": 1.0, "backward": 2.0}).priced)
    assert parts["bubble"] == pytest.approx((stages - 1) * 3.0)
    assert parts["matmul"] == pytest.approx(batches * 3.0)


def test_exposed_reduction_is_charged_to_data_parallel_communication():
    step = pipeline_step(1, 4, sends=False)
    parts, _ = breakdown_s(*step.priced)
    assert parts["dp_comm"] == pytest.approx(3.0)
    assert parts["optimizer"] == pytest.approx(0.5)
    assert parts["bubble"] == 0.0


def test_waiting_for_a_transfer_is_charged_to_the_transfer():
    rows = [
        Row("forward", 0, COMPUTE),
        Row("send_forward", 0, 1, (0,)),
        Row("backward", 1, COMPUTE, (1,)),
        Row("backward", 1, COMPUTE),
    ]
    step = finish(build_program(rows), {"forward": 1.0, "send_forward": 0.25, "backward": 2.0})
    parts, (stage, _) = breakdown_s(*step.priced)
    assert stage == 1
    assert parts["pp_comm"] == pytest.approx(0.25)
    assert parts["bubble"] == pytest.approx(1.0)


def test_slow_replica_is_reported_and_its_excess_is_the_stragglers():
    factor = np.array([[1.0, 1.2]])
    step = pipeline_step(1, 4, factor, replicas=2, sends=False)
    parts, (stage, klass) = breakdown_s(*step.priced)
    assert (stage, klass) == (0, 1)
    assert parts["straggler"] == pytest.approx(0.2 * (4 * 3.0 + 0.5))
    assert parts["matmul"] == pytest.approx(12.0)
    assert parts["imbalance"] == 0.0


def test_replica_that_everyone_waits_for_does_not_wait_itself():
    rows = [Row("forward"), Row("backward"), Row("grad_reduce", rendezvous=True)]
    program = build_program(rows, replicas=2)
    noise = np.array([[0.0, 4.0], [0.0, -1.5], [0.0, 0.0]])
    step = finish(program, {"forward": 1.0, "backward": 2.0, "grad_reduce": 1.0}, noise=noise)
    parts, (_, klass) = breakdown_s(*step.priced)
    assert klass == 1
    assert parts["jitter"] == pytest.approx(2.5)
    assert parts["dp_comm"] == pytest.approx(1.0)
    assert parts["imbalance"] == 0.0


def test_a_class_that_waits_at_a_rendezvous_between_its_passes_waits_in_imbalance():
    rows = [
        Row("forward"),
        Row("grad_reduce", rendezvous=True),
        Row("backward"),
    ]
    program = build_program(rows, replicas=2)
    noise = np.array([[0.0, 1.0], [0.0, 0.0], [9.5, 0.0]])
    step = finish(program, {"forward": 1.0, "grad_reduce": 1.0, "backward": 2.0}, noise=noise)
    parts, (_, klass) = breakdown_s(*step.priced)
    assert klass == 0
    assert sum(parts.values()) == pytest.approx(step.timeline.step_time_s)
    assert parts["jitter"] == pytest.approx(9.5)


def test_kernels_beside_a_reduction_are_slowed_by_its_drag():
    rows = [Row("forward"), Row("grad_reduce", 0, DATA), Row("backward")]
    step = finish(
        build_program(rows), {"forward": 1.0, "grad_reduce": 2.0, "backward": 2.0}, drag=0.5
    )
    parts, _ = breakdown_s(*step.priced)
    assert parts["overlap_slowdown"] == pytest.approx(1.0)
    assert parts["jitter"] == 0.0
    without, _ = breakdown_s(*step.priced[:-1])
    assert without["jitter"] == pytest.approx(1.0)


def test_drag_is_capped_as_in_the_engine():
    assert pytest.approx(1.0 - LEAST_RATE) == MOST_DRAG


def test_lucky_draw_shows_as_negative_jitter():
    program = build_program([Row("forward"), Row("backward")])
    step = finish(program, {"forward": 1.0, "backward": 2.0}, noise=np.array([[0.0], [-0.5]]))
    parts, _ = breakdown_s(*step.priced)
    assert parts["jitter"] == pytest.approx(-0.5)


def test_what_another_rank_does_at_the_end_is_charged_as_what_it_is():
    rows = [Row("backward", 0), Row("backward", 0), Row("optimizer", 1, COMPUTE, (1,))]
    step = finish(build_program(rows), {"backward": 1.0, "optimizer": 0.5})
    parts, (stage, _) = breakdown_s(*step.priced)
    assert stage == 0
    assert parts["optimizer"] == pytest.approx(0.5)
    assert parts["bubble"] == 0.0


def test_the_rank_is_the_one_that_the_critical_path_stays_on_longest():
    rows = [
        Row("forward", 0),
        Row("forward", 1, COMPUTE, (0,)),
        Row("backward", 1),
        Row("backward", 0, COMPUTE, (2,)),
    ]
    step = finish(build_program(rows), {"forward": 1.0, "backward": 2.0})
    path = critical_path(step.program, step.timeline)
    assert gating_rank(step.program, path) == (0, 0)


def test_a_reduction_under_the_backward_pass_of_another_stage_costs_nothing():
    # Stage 1 ends first and reduces while stage 0 still works; only stage 0's reduction is exposed.
    rows = [
        Row("forward", 1),
        Row("forward", 1),
        Row("backward", 1),
        Row("grad_reduce", 1),
        Row("backward", 0, COMPUTE, (2,)),
        Row("grad_reduce", 0),
        Row("optimizer", 1, COMPUTE, (5,)),
    ]
    times = {"forward": 2.0, "backward": 2.0, "grad_reduce": 1.0, "optimizer": 0.5}
    parts, (stage, _) = breakdown_s(*finish(build_program(rows), times).priced)
    assert stage == 1
    assert parts["dp_comm"] == pytest.approx(1.0)
    assert parts["bubble"] == pytest.approx(2.0)
