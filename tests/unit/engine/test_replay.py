"""What each rule of a program means, on programs small enough to work out by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from clustersim.engine.compiled import make_workspace, replay_compiled
from clustersim.engine.durations import Durations, dragging_rows
from clustersim.engine.order import compile_order
from clustersim.engine.simulation import EngineName, replay
from clustersim.errors import SimulationError
from clustersim.timeline import Timeline
from clustersim.workload.program import COMPUTE, DATA, PIPE, Program
from tests.programs import Row, build_program, pipeline_program

ENGINES: list[EngineName] = ["event", "compiled"]
both = pytest.mark.parametrize("engine", ENGINES)


def run(
    rows: list[Row], alone_s: list[float] | list[list[float]], engine: EngineName, *drag: float
) -> Timeline:
    """Replay rows by hand; one column of durations for each class."""
    columns = np.array(alone_s, dtype=np.float64).reshape(len(rows), -1)
    drags = np.array(drag or [0.0] * len(rows))
    classes = columns.shape[1]
    durations = Durations(columns, drags, np.ones(classes, dtype=np.int64))
    return replay(build_program(rows, replicas=classes), durations, engine)


@both
def test_a_stream_runs_its_ops_in_row_order(engine: EngineName) -> None:
    timeline = run([Row(), Row(), Row(stage=1)], [2.0, 3.0, 1.0], engine)
    assert timeline.start_s.ravel().tolist() == [0.0, 2.0, 0.0]
    assert timeline.end_s.ravel().tolist() == [2.0, 5.0, 1.0]


@both
def test_first_in_first_out_holds_back_an_op_that_is_ready(engine: EngineName) -> None:
    rows = [Row(stage=1), Row(after=[0]), Row()]  # row 2 is ready but stands behind row 1
    timeline = run(rows, [5.0, 1.0, 1.0], engine)
    assert timeline.start_s.ravel().tolist() == [0.0, 5.0, 6.0]


@both
def test_an_op_waits_for_the_last_of_its_dependencies(engine: EngineName) -> None:
    rows = [Row(), Row(stage=1), Row(stage=2, after=[0, 1])]
    timeline = run(rows, [2.0, 7.0, 1.0], engine)
    assert timeline.end_s[2, 0] == 8.0


@both
def test_a_rendezvous_waits_for_the_last_class_and_lasts_as_the_longest(
    engine: EngineName,
) -> None:
    rows = [Row(), Row("reduce", kind=DATA, after=[0], rendezvous=True), Row(after=[1])]
    timeline = run(rows, [[1.0, 4.0], [3.0, 2.0], [1.0, 1.0]], engine)
    assert timeline.start_s[1].tolist() == [4.0, 4.0]
    assert timeline.end_s[1].tolist() == [7.0, 7.0]
    assert timeline.end_s[2].tolist() == [8.0, 8.0]


@both
def test_rendezvous_of_two_stages_are_independent(engine: EngineName) -> None:
    rows = [Row(), Row(kind=DATA, after=[0], rendezvous=True)]
    rows += [Row(stage=1), Row(stage=1, kind=DATA, after=[2], rendezvous=True)]
    timeline = run(rows, [[1.0, 9.0], [1.0, 1.0], [1.0, 2.0], [1.0, 1.0]], engine)
    assert timeline.start_s[1].tolist() == [9.0, 9.0]
    assert timeline.start_s[3].tolist() == [2.0, 2.0]


@both
def test_communication_inside_a_compute_op_delays_it_by_drag_times_its_length(
    engine: EngineName,
) -> None:
    rows = [Row(), Row("send", kind=PIPE)]
    timeline = run(rows, [10.0, 4.0], engine, 0.0, 0.25)
    assert timeline.end_s[1, 0] == 4.0
    assert timeline.end_s[0, 0] == pytest.approx(10.0 + 0.25 * 4.0, rel=1e-12)


@both
def test_communication_longer_than_compute_slows_all_of_it(engine: EngineName) -> None:
    timeline = run([Row(), Row("send", kind=PIPE)], [3.0, 50.0], engine, 0.0, 0.25)
    assert timeline.end_s[0, 0] == pytest.approx(3.0 / 0.75, rel=1e-12)


@both
def test_drags_add_up_and_leave_a_least_rate(engine: EngineName) -> None:
    rows = [Row(), Row("send", kind=PIPE), Row("reduce", kind=DATA)]
    timeline = run(rows, [1.0, 100.0, 100.0], engine, 0.0, 0.3, 0.4)
    assert timeline.end_s[0, 0] == pytest.approx(1.0 / 0.3, rel=1e-12)
    timeline = run(rows, [1.0, 100.0, 100.0], engine, 0.0, 0.9, 0.9)
    assert timeline.end_s[0, 0] == pytest.approx(1.0 / 0.05, rel=1e-12)


@both
def test_communication_drags_only_its_own_stage_and_class(engine: EngineName) -> None:
    rows = [Row(), Row(stage=1), Row("send", kind=PIPE)]
    timeline = run(rows, [[2.0, 2.0], [2.0, 2.0], [4.0, 0.0]], engine, 0.0, 0.0, 0.5)
    assert timeline.end_s[0].tolist() == [4.0, 2.0]
    assert timeline.end_s[1].tolist() == [2.0, 2.0]


@both
def test_a_rendezvous_on_the_compute_stream_is_not_slowed(engine: EngineName) -> None:
    rows = [Row("norm", rendezvous=True), Row("send", kind=PIPE)]
    timeline = run(rows, [2.0, 9.0], engine, 0.0, 0.5)
    assert timeline.end_s[0, 0] == 2.0


@both
def test_a_dragging_rendezvous_slows_compute_of_every_class(engine: EngineName) -> None:
    rows = [Row(), Row("reduce", kind=DATA, rendezvous=True)]
    timeline = run(rows, [[4.0, 8.0], [2.0, 2.0]], engine, 0.0, 0.5)
    assert timeline.end_s[0].tolist() == [5.0, 9.0]


@both
def test_ops_without_length_cost_no_time(engine: EngineName) -> None:
    rows = [Row(), Row(kind=PIPE, after=[0]), Row(after=[1]), Row(kind=DATA, rendezvous=True)]
    timeline = run(rows, [0.0, 0.0, 2.0, 0.0], engine, 0.0, 0.5, 0.0, 0.5)
    assert timeline.end_s.ravel().tolist() == [0.0, 0.0, 2.0, 0.0]


@both
def test_stages_that_drag_each_other_crosswise_need_no_static_order(engine: EngineName) -> None:
    program, durations = crosswise()
    timeline = replay(program, durations, engine)
    # Stage 1 ends at 2 and launches the send of stage 0, from 2 to 6: stage 0 has done 2 s by
    # then, does 2 s more at half rate and has 6 s left.
    assert timeline.end_s[:, 0] == pytest.approx([12.0, 2.0, 6.0, 16.0], rel=1e-12)


def crosswise() -> tuple[Program, Durations]:
    """Stage 0 is dragged by what stage 1 launches and the reverse."""
    rows = [Row(), Row(stage=1)]
    rows += [Row("send", 0, PIPE, after=[1]), Row("send", 1, PIPE, after=[0])]
    alone_s = np.array([[10.0], [2.0], [4.0], [4.0]])
    drag = np.array([0.0, 0.0, 0.5, 0.5])
    return build_program(rows), Durations(alone_s, drag, np.ones(1, dtype=np.int64))


def passes(program: Program, durations: Durations) -> int:
    """Passes that the compiled engine needs."""
    from clustersim.engine.kernels import replay_dragged_rows

    order, workspace = compile_order(program), make_workspace(program, durations.classes)
    drag_rows = dragging_rows(program, durations.drag)
    stream = program.stream.astype(np.int64)
    drag_start = np.searchsorted(stream[drag_rows], np.arange(3 * program.stages + 1))
    return replay_dragged_rows(
        order.rows, order.after_start, order.after, program.rendezvous, stream,
        durations.alone_s, durations.drag, drag_rows, drag_start, 0.05,
        workspace.start_s, workspace.end_s,
    )  # fmt: skip


def test_one_pass_is_enough_for_a_pipeline_and_crosswise_drags_take_more() -> None:
    program = pipeline_program(4, 2, 8, replicas=2, sends=True, reduces=True)
    drag = np.where(program.stream % 3 == COMPUTE, 0.0, 0.3)
    alone_s = np.random.default_rng(0).uniform(0.5, 1.5, (program.ops, 2))
    assert passes(program, Durations(alone_s, drag, np.ones(2, dtype=np.int64))) == 1
    assert passes(*crosswise()) > 1


@both
def test_one_f_one_b_takes_its_closed_form(engine: EngineName) -> None:
    stages, micro_batches = 4, 6
    program = pipeline_program(stages, 1, micro_batches)
    one = np.ones(1, dtype=np.int64)
    durations = Durations(np.ones((program.ops, 1)), np.zeros(program.ops), one)
    timeline = replay(program, durations, engine)
    assert timeline.step_time_s == pytest.approx(2.0 * (micro_batches + stages - 1), rel=1e-12)


@both
def test_a_deadlock_names_the_ops_that_wait(engine: EngineName) -> None:
    rows = [
        Row("receive", 0, PIPE, after=[3], chunk=1, micro_batch=5),
        Row("send", 0, PIPE),
        Row("other", 2),
        Row("forward", 1, after=[1]),
    ]
    with pytest.raises(SimulationError, match="deadlock: 3 of 4 ops") as caught:
        run(rows, [1.0] * 4, engine)
    message = str(caught.value)
    assert "row 0 (receive, stage 0, chunk 1, micro-batch 5) waits for row 3" in message
    assert "row 3 (forward, stage 1) waits for row 1 (send, stage 0)" in message
    assert "fix:" in message
    assert "other" not in message


@both
def test_an_op_that_waits_for_itself_or_for_a_later_one_of_its_stream_is_a_deadlock(
    engine: EngineName,
) -> None:
    with pytest.raises(SimulationError, match=r"row 0 .* waits for row 0"):
        run([Row(after=[0])], [1.0], engine)
    with pytest.raises(SimulationError, match=r"row 0 .* waits for row 1"):
        run([Row(after=[1]), Row()], [1.0, 1.0], engine)


def test_a_long_deadlock_is_cut_short() -> None:
    rows = [Row(stage=i, after=[(i + 1) % 12]) for i in range(12)]
    with pytest.raises(SimulationError, match="and 4 more streams"):
        run(rows, [1.0] * 12, "compiled")


@both
def test_a_dependency_on_no_row_is_refused(engine: EngineName) -> None:
    with pytest.raises(SimulationError, match="waits for row 7"):
        run([Row(after=[7])], [1.0], engine)


def test_auto_takes_the_event_engine_for_few_ops_and_counts_its_work() -> None:
    timeline = run([Row(), Row()], [[1.0, 2.0], [1.0, 2.0]], "auto")
    assert timeline.engine == "event"
    assert timeline.engine_ops == 4
    assert timeline.engine_s > 0.0
    program = pipeline_program(4, 1, 8, replicas=64)
    durations = Durations(
        np.ones((program.ops, 64)), np.zeros(program.ops), np.ones(64, dtype=np.int64)
    )
    assert replay(program, durations).engine == "compiled"


def test_small_runs_never_import_numba() -> None:
    code = (
        "import sys, numpy as np\n"
        "from clustersim.engine.simulation import replay\n"
        "from clustersim.engine.durations import Durations\n"
        "from tests.programs import pipeline_program\n"
        "p = pipeline_program(2, 1, 4)\n"
        "one = np.ones(1, dtype=np.int64)\n"
        "replay(p, Durations(np.ones((p.ops, 1)), np.zeros(p.ops), one))\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_engine_of_another_name_is_refused() -> None:
    with pytest.raises(SimulationError, match="'warp'"):
        run([Row()], [1.0], "warp")  # type: ignore[arg-type]


def test_an_order_or_workspace_of_another_program_is_refused() -> None:
    short, long = build_program([Row()]), build_program([Row(), Row()])
    one = np.ones(1, dtype=np.int64)
    durations = Durations(np.ones((2, 1)), np.zeros(2), one)
    with pytest.raises(SimulationError, match="order has 1 rows"):
        replay(long, durations, order=compile_order(short))
    with pytest.raises(SimulationError, match=r"workspace has shape \(1, 1\)"):
        replay_compiled(long, durations, None, make_workspace(short, 1))
