"""Pipeline schedules against their closed forms: equal stages, free communication."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.engine.durations import Durations
from clustersim.engine.simulation import replay
from clustersim.workload.program import Program
from clustersim.workload.training import build_training_program
from tests.training_scenarios import scenario_of

FORWARD_S, BACKWARD_S = 1.0, 2.0
lengths = st.floats(0.125, 8.0, allow_subnormal=False)


def program_of(
    schedule: str, stages: int, chunks: int, micro_batches: int, **features: Any
) -> Program:
    plan = {
        "pipeline_parallel": stages,
        "virtual_stages": chunks,
        "schedule": schedule,
    }
    training = {"global_batch": micro_batches}
    return build_training_program(
        scenario_of({"layers": 2 * stages * chunks}, plan, training, features)
    )


def step_s(program: Program, forward_s: float = FORWARD_S, backward_s: float = BACKWARD_S) -> float:
    """Step time where one stage takes so long for a micro-batch, all its chunks together."""
    seconds = {"forward": forward_s / program.chunks, "backward": backward_s / program.chunks}
    each = np.array([seconds.get(template.name, 0.0) for template in program.templates])
    alone_s = np.ascontiguousarray(each[program.template][:, None])
    durations = Durations(alone_s, np.zeros(program.ops), np.ones(1, dtype=np.int64))
    return replay(program, durations, "event").step_time_s


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 5), (4, 8), (4, 4), (8, 2), (3, 7)])
def test_a_pipeline_takes_one_micro_batch_more_for_each_further_stage(
    schedule: str, stages: int, micro_batches: int
) -> None:
    # Narayanan et al. 2021, section 2.2.1: bubble (p - 1)(f + b).
    expected = (micro_batches + stages - 1) * (FORWARD_S + BACKWARD_S)
    assert step_s(program_of(schedule, stages, 1, micro_batches)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stages", "chunks", "groups"), [(4, 2, 1), (4, 2, 2), (2, 3, 4), (8, 4, 2)]
)
def test_interleaving_divides_the_bubble_by_the_number_of_chunks(
    stages: int, chunks: int, groups: int
) -> None:
    # Narayanan et al. 2021, section 2.2.2: bubble (p - 1)(f + b)/v.
    micro_batches = groups * stages
    expected = (micro_batches + (stages - 1) / chunks) * (FORWARD_S + BACKWARD_S)
    program = program_of("interleaved", stages, chunks, micro_batches)
    assert step_s(program) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["gpipe", "1f1b"]), st.integers(1, 5), st.integers(1, 8), lengths, lengths)
def test_the_bubble_is_the_closed_form_for_any_lengths_of_forward_and_backward(
    schedule: str, stages: int, micro_batches: int, forward_s: float, backward_s: float
) -> None:
    expected = (micro_batches + stages - 1) * (forward_s + backward_s)
    program = program_of(schedule, stages, 1, micro_batches)
    assert step_s(program, forward_s, backward_s) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.integers(2, 4), st.integers(1, 3), lengths, lengths)
def test_the_interleaved_bubble_is_the_closed_form_for_any_lengths(
    stages: int, chunks: int, groups: int, forward_s: float, backward_s: float
) -> None:
    micro_batches = groups * stages
    expected = (micro_batches + (stages - 1) / chunks) * (forward_s + backward_s)
    program = program_of("interleaved", stages, chunks, micro_batches)
    assert step_s(program, forward_s, backward_s) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(1, 6))
def test_free_transfers_cost_the_same_on_any_stream(stages: int, micro_batches: int) -> None:
    beside, within = (
        step_s(program_of("1f1b", stages, 1, micro_batches, pp_overlap=overlap))
        for overlap in (True, False)
    )
    assert beside == pytest.approx(within)
