"""The path explains the whole step and names who sets it."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.analysis.critical_path import critical_path
from tests.programs import Row, build_program
from tests.unit.analysis.steps import finish, pipeline_step


def test_path_is_as_long_as_the_step():
    step = pipeline_step(4, 6)
    path = critical_path(step.program, step.timeline, step.by_category)
    assert path.length_s == pytest.approx(step.timeline.step_time_s, rel=1e-9)
    assert sum(path.by_category.values()) == pytest.approx(path.length_s)
    assert path.by_stage.sum() == pytest.approx(path.length_s)


def test_path_has_no_gaps():
    step = pipeline_step(3, 5)
    path = critical_path(step.program, step.timeline)
    start_s = step.timeline.start_s[path.row, path.klass]
    end_s = step.timeline.end_s[path.row, path.klass]
    assert start_s[0] == 0.0
    assert start_s[1:] == pytest.approx(end_s[:-1])


def test_path_goes_through_the_slow_replica():
    factor = np.array([[1.0, 1.3, 1.0]])
    step = pipeline_step(1, 4, factor, replicas=3, sends=False)
    path = critical_path(step.program, step.timeline)
    passes = step.timeline.end_s[path.row, path.klass] <= 4 * 3.0 * 1.3
    assert set(path.klass[passes].tolist()) == {1}


def test_hidden_communication_is_not_on_the_path():
    rows = [Row("forward"), Row("grad_reduce", 0, 2, (0,)), Row("backward", after=(1,))]
    rows.insert(2, Row("forward"))
    rows[3].after = (1,)
    seconds = {"forward": 1.0, "grad_reduce": 0.5, "backward": 2.0}
    step = finish(build_program(rows), seconds)
    path = critical_path(step.program, step.timeline)
    assert path.by_category["dp_comm"] == 0.0
