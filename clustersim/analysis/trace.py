"""A timeline as Chrome trace events, which Perfetto and chrome://tracing open.

One process a class of replicas and stage, a thread a stream, an arrow a transfer between stages.
Format: "Trace Event Format", Google, 2016 (complete, flow and metadata events; times in us).
"""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np

from clustersim.analysis.columns import Run, chosen_classes
from clustersim.analysis.waits import Ints
from clustersim.workload.operators import Category
from clustersim.workload.program import STREAMS

MOST_EVENTS = 200_000
EVENTS_PER_OP = 3  # at most: the op itself and both ends of an arrow


def trace_events(run: Run, most_events: int = MOST_EVENTS) -> tuple[list[dict[str, Any]], str]:
    """Events of the trace, and in words what of the timeline they hold.

    Whole classes are left out first; if one class alone is too long, what starts late is.

    Parameters
    ----------
    run : Run
    most_events : int
        Upper bound, but for one op and the names of processes and threads.

    Returns
    -------
    events : list of dict
        Complete, flow and metadata events; `ts` and `dur` in us.
    note : str
        From `chosen_classes`, and how many ops where some were left out.
    """
    program = run.program
    names = (2 + len(STREAMS)) * program.stages  # of one class: processes, their order, threads
    fit = most_events // (names + EVENTS_PER_OP * program.ops)
    classes, note = chosen_classes(run.timeline, fit * program.ops)
    rows = np.arange(program.ops)
    if fit == 0:  # one class was chosen
        most_ops = max(1, (most_events - names) // EVENTS_PER_OP)
        order = np.argsort(run.timeline.start_s[:, classes[0]], kind="stable")
        rows = np.sort(order[:most_ops])
        note += f", the first {most_ops} of {program.ops} ops"
    events = []
    for klass in classes.tolist():
        events += _names(run, klass)
        events += _class_events(run, klass, rows)
    return events, note


def write_trace(run: Run, path: str, most_events: int = MOST_EVENTS) -> str:
    """Write ``trace.json.gz``.

    Parameters
    ----------
    run : Run
    path : str
        Replaced if it exists.
    most_events : int
        As for `trace_events`.

    Returns
    -------
    str
        In words what the file holds; it is in the file too.

    Notes
    -----
    The gzip header has no time and no name: the same run gives the same bytes.
    """
    import orjson

    events, note = trace_events(run, most_events)
    document = {
        "displayTimeUnit": "ms",
        "otherData": {"holds": note, "engine": run.timeline.engine},
        "traceEvents": events,
    }
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        packed.write(orjson.dumps(document))
    return note


def _process(run: Run, klass: int, stage: int) -> int:
    return klass * run.program.stages + stage


def _names(run: Run, klass: int) -> list[dict[str, Any]]:
    count, replica = int(run.timeline.multiplicity[klass]), int(run.replica_of_class[klass])
    alike = f", {count} alike" if count > 1 else ""
    events = []
    for stage in range(run.program.stages):
        process = _process(run, klass, stage)
        label = f"stage {stage}, replica {replica} (class {klass}{alike})"
        events.append(_meta("process_name", process, 0, name=label))
        events.append(_meta("process_sort_index", process, 0, sort_index=process))
        events += [_meta("thread_name", process, i, name=word) for i, word in enumerate(STREAMS)]
    return events


def _meta(kind: str, process: int, thread: int, **args: object) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": args}


def _class_events(run: Run, klass: int, rows: Ints) -> list[dict[str, Any]]:
    program, timeline = run.program, run.timeline
    start_us = (timeline.start_s[:, klass] * 1e6).tolist()
    end_us = (timeline.end_s[:, klass] * 1e6).tolist()
    stage, stream = program.stage.tolist(), (program.stream % len(STREAMS)).tolist()
    chunk, batch = program.chunk.tolist(), program.micro_batch.tolist()
    events: list[dict[str, Any]] = []
    for row in rows.tolist():
        template = program.templates[program.template[row]]
        place = {"pid": _process(run, klass, stage[row]), "tid": stream[row]}
        args = {"row": row, "chunk": chunk[row], "micro_batch": batch[row]}
        events.append(
            {
                "name": template.name,
                "cat": str(template.category),
                "ph": "X",
                "ts": start_us[row],
                "dur": end_us[row] - start_us[row],
                **place,
                "args": {key: value for key, value in args.items() if value >= 0},
            }
        )
    return events + _arrows(run, klass, rows, start_us, end_us)


def _arrows(
    run: Run, klass: int, rows: Ints, start_us: list[float], end_us: list[float]
) -> list[dict[str, Any]]:
    """An arrow from each transfer to the pass of another stage that waits for it."""
    program = run.program
    kept = np.zeros(program.ops, dtype=np.bool_)
    kept[rows] = True
    sends = np.array([t.category is Category.PP_COMM for t in program.templates], dtype=np.bool_)
    owner = np.repeat(np.arange(program.ops), np.diff(program.dep_start))
    crosses = program.stage[program.dep] != program.stage[owner]
    wanted = crosses & sends[program.template[program.dep]] & kept[program.dep] & kept[owner]
    events: list[dict[str, Any]] = []
    for send, row in zip(program.dep[wanted].tolist(), owner[wanted].tolist(), strict=True):
        common = {"name": "transfer", "cat": "pp_comm", "id": klass * program.ops + send}
        for phase, at, when_us in (("s", send, start_us[send]), ("f", row, start_us[row])):
            event = {
                **common,
                "ph": phase,
                "ts": when_us,
                "pid": _process(run, klass, int(program.stage[at])),
                "tid": int(program.stream[at]) % len(STREAMS),
            }
            events.append(event if phase == "s" else {**event, "bp": "e"})
    return events
