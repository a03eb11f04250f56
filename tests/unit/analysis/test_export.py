"""Files hold the step, say what they leave out, and are never half written."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from clustersim.analysis.columns import chosen_classes, program_frame, timeline_frame
from clustersim.analysis.export import FILES, check_folder, write_run
from clustersim.analysis.trace import trace_events
from clustersim.errors import SpecError
from tests.programs import pipeline_program
from tests.unit.analysis.steps import finish, pipeline_step

COLUMNS = {
    "op",
    "stage",
    "chunk",
    "micro_batch",
    "replica",
    "replica_class",
    "rank_class",
    "multiplicity",
    "stream",
    "kind",
    "start_s",
    "end_s",
    "alone_s",
    "bytes",
    "flop",
}


@pytest.fixture
def step():
    return pipeline_step(2, 3, np.array([[1.0, 1.1, 1.3], [1.0, 1.0, 1.0]]), replicas=3)


def test_all_files_are_written_and_nothing_else(tmp_path, step):
    out = tmp_path / "deep" / "out"
    written = write_run(out, step.run, {"step_time_s": 1.0}, "name: x\n")
    assert [path.name for path in written] == list(FILES)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_other_files_of_the_folder_stay(tmp_path, step):
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path, step.run, {}, "")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_output_that_is_a_file_is_refused(tmp_path, step):
    path = tmp_path / "taken"
    path.write_text("x")
    with pytest.raises(SpecError, match="is a file"):
        write_run(path, step.run, {}, "")
    with pytest.raises(SpecError, match="is a file"):
        write_run(path / "below", step.run, {}, "")


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_trial_of_a_folder_leaves_no_trace(tmp_path, below):
    check_folder(tmp_path / below, FILES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/proc/clustersim-out", "x" * 300])
def test_folder_that_cannot_be_made_is_refused_by_its_own_name(name):
    with pytest.raises(SpecError, match=f"--out {name}: cannot be written") as caught:
        check_folder(Path(name))
    assert "fix: " in str(caught.value)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "result.json").mkdir()
    with pytest.raises(SpecError, match=r"result\.json is a folder"):
        check_folder(tmp_path, FILES)


def test_a_full_disk_is_told_by_the_name_of_the_folder(tmp_path, step, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "temporary name", "/tmp/.hidden")

    monkeypatch.setattr("clustersim.analysis.export.write_trace", full)
    with pytest.raises(SpecError) as caught:
        write_run(tmp_path / "out", step.run, {}, "")
    assert f"--out {tmp_path / 'out'}: cannot be written: No space left" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(tmp_path, step):
    with pytest.raises(TypeError):
        write_run(tmp_path / "out", step.run, {"bad": object()}, "")
    assert list(tmp_path.iterdir()) == []


def test_same_run_gives_the_same_bytes(tmp_path, step):
    first = write_run(tmp_path / "a", step.run, {"x": 1}, "y: 1\n")
    second = write_run(tmp_path / "b", step.run, {"x": 1}, "y: 1\n")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_timeline_has_one_row_an_op_and_class(step):
    frame, note = timeline_frame(step.run)
    assert set(frame.columns) >= COLUMNS
    assert len(frame) == step.program.ops * 3
    assert note == "all 3 classes of replicas"
    one = frame[frame.replica_class == 2]
    assert one.start_s.to_numpy() == pytest.approx(step.timeline.start_s[:, 2])
    passes = one[(one.op == "forward") & (one.stage == 0)]
    assert passes.alone_s.unique() == pytest.approx([1.3])


def test_timeline_names_a_real_replica_of_each_class(step):
    run = replace(step.run, first_replica=np.array([0, 17, 40]))
    frame, _ = timeline_frame(run)
    pairs = set(zip(frame.replica_class.tolist(), frame.replica.tolist(), strict=True))
    assert pairs == {(0, 0), (1, 17), (2, 40)}
    assert (frame.rank_class == frame.stage * 3 + frame.replica_class).all()
    names = [e["args"]["name"] for e in trace_events(run)[0] if e["name"] == "process_name"]
    assert "stage 1, replica 17 (class 1)" in names


def test_capped_timeline_keeps_whole_classes_the_slowest_first(step):
    frame, note = timeline_frame(step.run, most_rows=step.program.ops * 2)
    assert note == "slowest, fastest of 3 classes of replicas"
    assert sorted(frame.replica.unique()) == [0, 2]
    assert len(frame) == step.program.ops * 2


def test_one_class_is_always_kept(step):
    classes, _ = chosen_classes(step.timeline, 1)
    assert classes.tolist() == [2]


def test_parquet_says_what_it_holds(tmp_path, step):
    out = tmp_path / "out"
    write_run(out, step.run, {}, "", most_rows=step.program.ops)
    metadata = pq.read_schema(out / "timeline.parquet").metadata
    assert metadata[b"clustersim.holds"] == b"slowest of 3 classes of replicas"
    program = pd.read_parquet(out / "program.parquet")
    assert len(program) == step.program.ops


def test_program_keeps_its_dependencies(step):
    frame = program_frame(step.run)
    program = step.program
    for row in range(program.ops):
        expected = program.dep[program.dep_start[row] : program.dep_start[row + 1]].tolist()
        assert list(frame.deps[row]) == expected


def test_trace_opens_as_json_with_ops_names_and_arrows(tmp_path, step):
    out = tmp_path / "out"
    write_run(out, step.run, {}, "")
    with gzip.open(out / "trace.json.gz") as file:
        trace = json.load(file)
    phases = [event["ph"] for event in trace["traceEvents"]]
    assert phases.count("X") == step.program.ops * 3
    assert phases.count("s") == phases.count("f") == 3 * 3 * 2  # forward and backward transfers
    assert trace["otherData"]["holds"] == "all 3 classes of replicas"


def test_trace_counts_the_names_of_every_class():
    """Ten classes of twenty stages with few ops have many names beside few events."""
    program = pipeline_program(20, 1, 1, replicas=10)
    run = finish(program, {"forward": 1.0, "backward": 2.0}).run
    everything = len(trace_events(run)[0])
    for most in range(110, everything + 1000, 20):
        assert len(trace_events(run, most)[0]) <= most


def test_trace_is_capped_and_says_so(step):
    events, note = trace_events(step.run, most_events=60)
    assert len(events) <= 60
    assert "the first" in note
