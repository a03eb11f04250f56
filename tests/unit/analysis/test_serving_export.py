"""Files of a serving run hold every request, and nothing that did not happen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from clustersim.analysis.serving_export import (
    SERVING_FILES,
    ServingRun,
    request_frame,
    series_frame,
    serving_trace_events,
    write_serving,
)
from clustersim.errors import SpecError
from tests.unit.analysis.served import ANSWERED, SERIES, document

RUN = ServingRun(ANSWERED, SERIES)


def test_a_request_that_never_ran_has_no_times():
    frame = request_frame(ANSWERED)
    last = frame.iloc[3]
    assert not last["finished"]
    assert last[["scheduled_s", "first_token_s", "last_token_s", "ttft_s"]].isna().all()


def test_latencies_are_differences_of_times():
    frame = request_frame(ANSWERED)
    assert frame["ttft_s"][:3].tolist() == [1.0, 1.0, 1.0]
    assert frame["tpot_s"][0] == 1.0
    assert frame["e2e_s"][:2].tolist() == [5.0, 1.0]
    assert np.isnan(frame["tpot_s"][1])  # one token only
    assert np.isnan(frame["e2e_s"][2])  # cut off


def test_a_column_of_samples_that_was_never_filled_is_left_out():
    assert list(series_frame(SERIES)) == ["time_s", "running", "waiting", "kv_fraction", "step_s"]
    filled = SERIES.copy()
    filled[:, 4] = 7.0
    assert "tokens" in series_frame(filled)


def test_the_trace_nests_phases_in_requests():
    events = serving_trace_events(RUN)
    of_first = [event for event in events if event.get("id") == 0]
    assert [(event["name"], event["ph"]) for event in of_first] == [
        ("request 0", "b"),
        ("queued", "b"),
        ("queued", "e"),
        ("prefill", "b"),
        ("prefill", "e"),
        ("decode", "b"),
        ("decode", "e"),
        ("request 0", "e"),
    ]
    assert of_first[-1]["ts"] == 5e6
    assert not [event for event in events if event.get("id") == 3]


def test_the_trace_of_a_large_run_holds_its_first_requests():
    many = ANSWERED.take(np.zeros(50, dtype=np.int64))
    events = serving_trace_events(replace(RUN, answered=many), most=10)
    assert {event["id"] for event in events if "id" in event} == set(range(10))


def test_samples_are_counters():
    counters = [event for event in serving_trace_events(RUN) if event["ph"] == "C"]
    assert {event["name"] for event in counters} == {"running", "waiting", "kv_fraction"}
    assert len(counters) == 3 * SERIES.shape[0]


def test_all_files_are_written_and_nothing_else(tmp_path):
    out = tmp_path / "deep" / "out"
    written = write_serving(out, RUN, document(), "name: x\n")
    assert [path.name for path in written] == list(SERVING_FILES)
    assert sorted(path.name for path in out.iterdir()) == sorted(SERVING_FILES)
    assert json.loads((out / "metrics.json").read_text())["kind"] == "serving"
    assert pq.read_table(out / "requests.parquet").num_rows == 4
    held = pq.read_schema(out / "series.parquet").metadata[b"clustersim.holds"]
    assert held == b"replica 0"
    trace = json.loads((out / "trace.json").read_text())
    assert "the first 4 of 4 requests" in trace["otherData"]["holds"]


def test_nothing_is_left_of_a_run_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "no room")

    monkeypatch.setattr("clustersim.analysis.serving_export.write_parquet", full)
    with pytest.raises(SpecError, match="cannot be written"):
        write_serving(tmp_path / "out", RUN, document(), "")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_requests_can_be_written(tmp_path):
    nothing = ServingRun(ANSWERED.take(np.zeros(0, dtype=np.int64)), np.zeros((0, 6)))
    write_serving(tmp_path, nothing, {"fits": False}, "")
    assert pq.read_table(tmp_path / "requests.parquet").num_rows == 0
