"""Program and timeline as tables: one row an op of the program, or an op of a class of replicas.

Frames exist only here and in what is written from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.analysis.waits import Floats, Ints
from clustersim.timeline import Timeline
from clustersim.workload.operators import Segment
from clustersim.workload.program import STREAMS, OpTemplate, Program

MOST_ROWS = 1_000_000  # of the timeline's table


@dataclass(frozen=True)
class Run:
    """What is written of a finished step.

    Attributes
    ----------
    program : Program
    timeline : Timeline
    compute_s, fixed_s : ndarray of float64 (templates,)
        Time alone on a nominal GPU: what a slower GPU stretches, and the rest. [s]
    factor : ndarray of float64 (stages, classes)
        Kernel time over nominal kernel time.
    first_replica : ndarray of int64 (classes,), optional
        Number of a replica of each class; without it, the number of the class.
    """

    program: Program
    timeline: Timeline
    compute_s: Floats
    fixed_s: Floats
    factor: Floats
    first_replica: Ints | None = None

    @property
    def replica_of_class(self) -> Ints:
        """Number of a replica of each class, (classes,)."""
        if self.first_replica is not None:
            return self.first_replica
        return np.arange(self.timeline.multiplicity.size)


def template_work(template: OpTemplate) -> tuple[float, float, float]:
    """What one op of a template executes.

    Parameters
    ----------
    template : OpTemplate

    Returns
    -------
    flop : float
        Executed arithmetic. [FLOP]
    memory_bytes : float
        Least traffic of its kernels to memory. [bytes]
    message_bytes : float
        Messages of its collectives, as nccl-tests counts them. [bytes]
    """
    totals = np.zeros(3)
    for segment in template.segments:
        totals += segment.repeat * np.array(_segment_work(segment))
    flop, memory_bytes, message_bytes = totals.tolist()
    return flop, memory_bytes, message_bytes


def _segment_work(segment: Segment) -> tuple[float, float, float]:
    return (
        sum(kernel.flop * kernel.launches for kernel in segment.kernels),
        sum(kernel.bytes * kernel.launches for kernel in segment.kernels),
        sum(message.bytes for message in segment.collectives),
    )


def chosen_classes(timeline: Timeline, most: int) -> tuple[Ints, str]:
    """Classes of replicas to write, whole ones only, and in words which.

    Parameters
    ----------
    timeline : Timeline
    most : int
        Rows that may be written.

    Returns
    -------
    classes : ndarray of int64
        All where they fit; else, as many as fit, the slowest, the fastest and the median by
        the time that their ops take.
    note : str
    """
    ops, classes = timeline.start_s.shape
    if ops * classes <= most:
        return np.arange(classes), f"all {classes} classes of replicas"
    taken_s = (timeline.end_s - timeline.start_s).sum(axis=0)
    order = np.argsort(-taken_s, kind="stable")
    named = {"slowest": order[0], "fastest": order[-1], "median": order[classes // 2]}
    fit = max(1, most // max(1, ops))
    kept = dict(list(named.items())[:fit])
    chosen = np.unique(np.array(list(kept.values()), dtype=np.int64))
    return chosen, f"{', '.join(kept)} of {classes} classes of replicas"


def program_frame(run: Run) -> Any:
    """The program as a pandas frame, one row an op of one replica; times are nominal.

    Parameters
    ----------
    run : Run

    Returns
    -------
    pandas.DataFrame (ops,)
        `alone_s` in seconds, `bytes` of messages and `memory_bytes` in bytes, `flop` in FLOP;
        `deps` is a list of rows.
    """
    import pandas as pd

    program = run.program
    deps = np.split(program.dep, program.dep_start[1:-1]) if program.ops else []
    alone_s = (run.compute_s + run.fixed_s)[program.template]
    data = {
        "op": np.arange(program.ops),
        "template": program.template,
        **_described(program),
        "deps": [row.tolist() for row in deps],
        "rendezvous": program.rendezvous,
        "alone_s": alone_s,
    }
    return pd.DataFrame(data)


def _described(program: Program) -> dict[str, Any]:
    """Columns that program and timeline share, (ops,)."""
    work = np.array([template_work(template) for template in program.templates]).reshape(-1, 3)
    template = program.template
    names = np.array([item.name for item in program.templates], dtype=object)
    kinds = np.array([str(item.category) for item in program.templates], dtype=object)
    streams = np.array(STREAMS, dtype=object)
    return {
        "name": names[template],
        "stage": program.stage,
        "chunk": program.chunk,
        "micro_batch": program.micro_batch,
        "stream": streams[program.stream % len(STREAMS)],
        "kind": kinds[template],
        "bytes": work[template, 2],
        "memory_bytes": work[template, 1],
        "flop": work[template, 0],
    }


def timeline_frame(run: Run, most_rows: int = MOST_ROWS) -> tuple[Any, str]:
    """The timeline as a pandas frame, class by class, and in words which classes.

    Parameters
    ----------
    run : Run
    most_rows : int
        Above it whole classes of replicas are left out; one is always kept.

    Returns
    -------
    frame : pandas.DataFrame
        A row for each op of each chosen class.
    note : str
        From `chosen_classes`.

    Notes
    -----
    `replica_class` numbers the class of replicas, `replica` is the first replica of it and
    `multiplicity` says how many are alike; `rank_class` numbers (stage, class of replicas).
    `alone_s` has the static slowness of the class, not its noise.
    """
    import pandas as pd

    program, timeline = run.program, run.timeline
    classes, note = chosen_classes(timeline, most_rows)
    described = _described(program)
    names = described.pop("name")
    repeated = {key: np.tile(values, classes.size) for key, values in described.items()}
    klass = np.repeat(classes, program.ops)
    stretched_s = run.compute_s[program.template][:, None] * run.factor[program.stage][:, classes]
    alone_s = stretched_s + run.fixed_s[program.template][:, None]
    data = {
        "op": np.tile(names, classes.size),
        "row": np.tile(np.arange(program.ops), classes.size),
        **repeated,
        "replica": run.replica_of_class[klass],
        "replica_class": klass,
        "rank_class": repeated["stage"] * timeline.multiplicity.size + klass,
        "multiplicity": timeline.multiplicity[klass],
        "start_s": _by_class(timeline.start_s, classes),
        "end_s": _by_class(timeline.end_s, classes),
        "alone_s": alone_s.T.ravel(),
    }
    return pd.DataFrame(data), note


def _by_class(values: Floats, classes: Ints) -> NDArray[np.float64]:
    return np.ascontiguousarray(values[:, classes].T).ravel()
