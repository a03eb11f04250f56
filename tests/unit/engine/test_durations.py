"""Durations that do not belong to a program are refused with the op and the value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clustersim.engine.durations import Durations, check_durations, dragging_rows
from clustersim.errors import SimulationError
from clustersim.workload.program import DATA, PIPE
from tests.programs import Row, build_program

PROGRAM = build_program(
    [Row("forward", chunk=0, micro_batch=3), Row("send", kind=PIPE), Row("reduce", kind=DATA)],
    replicas=5,
)
GOOD = Durations(np.ones((3, 2)), np.array([0.0, 0.1, 0.2]), np.array([2, 3], dtype=np.int64))


def test_good_durations_pass_and_know_their_size() -> None:
    check_durations(PROGRAM, GOOD)
    assert (GOOD.ops, GOOD.classes) == (3, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_time_that_is_none_names_its_op_and_class(value: float) -> None:
    alone_s = np.ones((3, 2))
    alone_s[0, 1] = value
    with pytest.raises(SimulationError, match=r"row 0 .forward, stage 0, chunk 0, micro-batch 3"):
        check_durations(PROGRAM, replace(GOOD, alone_s=alone_s))
    with pytest.raises(SimulationError, match=f"{value} s for class 1"):
        check_durations(PROGRAM, replace(GOOD, alone_s=alone_s))


@pytest.mark.parametrize("value", [np.nan, 1.0, -0.1])
def test_a_drag_outside_zero_to_one_names_its_op(value: float) -> None:
    with pytest.raises(SimulationError, match=f"row 1 .send, stage 0.: drag is {value}"):
        check_durations(PROGRAM, replace(GOOD, drag=np.array([0.0, value, 0.0])))


def test_compute_does_not_drag_compute() -> None:
    with pytest.raises(SimulationError, match=r"drag is 0\.5 on a compute stream"):
        check_durations(PROGRAM, replace(GOOD, drag=np.array([0.5, 0.0, 0.0])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alone_s": np.ones((2, 2))}, r"alone_s has shape \(2, 2\)"),
        ({"alone_s": np.ones(3)}, r"alone_s has shape \(3,\)"),
        ({"alone_s": np.ones((2, 3)).T}, "C-contiguous False"),
        ({"alone_s": np.ones((3, 2), dtype=np.float32)}, "float32"),
        ({"drag": np.zeros(2)}, r"shape \(2,\)"),
        ({"drag": np.zeros(3, dtype=np.int64)}, "int64"),
        ({"multiplicity": np.array([5])}, r"multiplicity is \[5\]"),
        ({"multiplicity": np.array([5, 0])}, r"multiplicity is \[5, 0\]"),
        ({"multiplicity": np.array([2, 2])}, "multiplicity sums to 4"),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(
    change: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(SimulationError, match=message):
        check_durations(PROGRAM, replace(GOOD, **change))


def test_dragging_rows_are_sorted_by_stream_and_then_by_row() -> None:
    rows = [Row(kind=DATA), Row(kind=PIPE), Row(kind=PIPE), Row(kind=DATA)]
    drag = np.array([0.1, 0.1, 0.0, 0.1])
    assert dragging_rows(build_program(rows), drag).tolist() == [1, 0, 3]
