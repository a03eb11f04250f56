"""The files of ``--out DIR`` of a serving run: answer, scenario, requests, samples, trace.

The trace holds what runs and waits as counters, and requests as slices with their phases. Format:
"Trace Event Format", Google, 2016 (counter, async and metadata events; times in us).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clustersim.analysis.export import write_files, write_json, write_parquet
from clustersim.analysis.serving import Answered

if TYPE_CHECKING:
    from pandas import DataFrame

Floats = NDArray[np.float64]

SERVING_FILES = (
    "metrics.json",
    "scenario.yaml",
    "requests.parquet",
    "series.parquet",
    "trace.json",
)
SERIES_COLUMNS = ("time_s", "running", "waiting", "kv_fraction", "tokens", "step_s")
COUNTERS = ("running", "waiting", "kv_fraction")
MOST_REQUESTS = 2_000  # of a trace
PHASES = (
    ("queued", "queued_s", "scheduled_s"),
    ("prefill", "scheduled_s", "first_s"),
    ("decode", "first_s", "last_s"),
)


@dataclass(frozen=True)
class ServingRun:
    """What the files are made of.

    Attributes
    ----------
    answered : Answered
        Every request.
    series : ndarray (samples, columns of `SERIES_COLUMNS`)
        Of the first replica.
    """

    answered: Answered
    series: Floats


def request_frame(answered: Answered) -> DataFrame:
    """One row a request, in order of arrival; what did not happen is null.

    Parameters
    ----------
    answered : Answered

    Returns
    -------
    pandas.DataFrame (n,)
        Times in seconds; `tpot_s` is null for unfinished requests and answers of one token.
    """
    import pandas as pd

    names = ("queued_s", "scheduled_s", "first_s", "last_s")
    columns = {name: getattr(answered, name) for name in names}
    happened = {name: np.where(column >= 0.0, column, np.nan) for name, column in columns.items()}
    finished = answered.finished
    last_s = np.where(finished, happened["last_s"], np.nan)
    later = np.where(answered.output_tokens > 1, answered.output_tokens - 1.0, np.nan)
    return pd.DataFrame(
        {
            "request": np.arange(finished.size),
            "replica": answered.replica,
            "queued_s": happened["queued_s"],
            "scheduled_s": happened["scheduled_s"],
            "first_token_s": happened["first_s"],
            "last_token_s": happened["last_s"],
            "input_tokens": answered.input_tokens,
            "output_tokens": answered.output_tokens,
            "made_tokens": answered.made,
            "ttft_s": happened["first_s"] - happened["queued_s"],
            "tpot_s": (last_s - happened["first_s"]) / later,
            "e2e_s": last_s - happened["queued_s"],
            "preemptions": answered.preempted,
            "hit_tokens": answered.hit_tokens,
            "finished": finished,
        }
    )


def series_frame(series: Floats) -> DataFrame:
    """One row a sample; a column that was never filled is left out.

    Parameters
    ----------
    series : ndarray (samples, columns of `SERIES_COLUMNS`)

    Returns
    -------
    pandas.DataFrame (samples,)
        Only `tokens` can be left out.
    """
    import pandas as pd

    filled = {name: series[:, i] for i, name in enumerate(SERIES_COLUMNS)}
    if not filled["tokens"].any():
        del filled["tokens"]
    return pd.DataFrame(filled)


def serving_trace_events(run: ServingRun, most: int = MOST_REQUESTS) -> list[dict[str, Any]]:
    """Events of the trace: samples as counters, the first requests as slices.

    Parameters
    ----------
    run : ServingRun
    most : int
        Requests that become slices; samples are all written.

    Returns
    -------
    list of dict
        Trace events, times in us; a process a replica, the counters at process 0.
    """
    replicas = np.unique(run.answered.replica[:most]).tolist()
    events = [
        {"name": "process_name", "ph": "M", "pid": r, "tid": 0, "args": {"name": f"replica {r}"}}
        for r in replicas
    ]
    for sample in run.series.tolist():
        for name in COUNTERS:
            value = sample[SERIES_COLUMNS.index(name)]
            time_us = 1e6 * sample[0]
            events.append({"name": name, "ph": "C", "pid": 0, "ts": time_us, "args": {name: value}})
    for row in range(min(most, run.answered.made.size)):
        events += _slices(run.answered, row)
    return events


def _slices(answered: Answered, row: int) -> Iterator[dict[str, Any]]:
    """A request as a slice from queue to last token, its phases inside."""
    queued_s, last_s = float(answered.queued_s[row]), float(answered.last_s[row])
    if queued_s < 0.0 or last_s < queued_s:
        return
    common = {"cat": "request", "id": row, "pid": int(answered.replica[row]), "tid": 0}
    args = {
        "input_tokens": int(answered.input_tokens[row]),
        "output_tokens": int(answered.output_tokens[row]),
        "preemptions": int(answered.preempted[row]),
    }
    yield {"name": f"request {row}", "ph": "b", "ts": 1e6 * queued_s, **common, "args": args}
    for name, begin, end in PHASES:
        begin_s, end_s = (float(getattr(answered, column)[row]) for column in (begin, end))
        if 0.0 <= begin_s <= end_s:
            yield {"name": name, "ph": "b", "ts": 1e6 * begin_s, **common}
            yield {"name": name, "ph": "e", "ts": 1e6 * end_s, **common}
    yield {"name": f"request {row}", "ph": "e", "ts": 1e6 * last_s, **common}


def write_serving(
    out: Path, run: ServingRun, document: Mapping[str, Any], scenario_yaml: str
) -> tuple[Path, ...]:
    """Write all files of a serving run.

    Parameters
    ----------
    out : Path
        A folder; files of the same names in it are replaced, others stay.
    run : ServingRun
    document : mapping
        The answer, as ``--json`` prints it.
    scenario_yaml : str
        The resolved scenario.

    Returns
    -------
    tuple of Path
        In the order of `SERVING_FILES`.

    Raises
    ------
    SpecError
        If `out` is a file or cannot be written.
    """
    import orjson

    count = run.answered.made.size
    shown = min(count, MOST_REQUESTS)
    holds = f"samples of replica 0; the first {shown:,} of {count:,} requests"

    def write(draft: Path) -> None:
        write_json(document, draft / "metrics.json")
        (draft / "scenario.yaml").write_text(scenario_yaml, encoding="utf-8")
        write_parquet(request_frame(run.answered), draft / "requests.parquet", "all requests")
        write_parquet(series_frame(run.series), draft / "series.parquet", "replica 0")
        trace = {
            "displayTimeUnit": "ms",
            "otherData": {"holds": holds},
            "traceEvents": serving_trace_events(run),
        }
        (draft / "trace.json").write_bytes(orjson.dumps(trace))

    return write_files(out, SERVING_FILES, write)
