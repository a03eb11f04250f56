"""Where the time of a step went: the rank that gates it, second by second.

The rank is the one whose compute stream the critical path spends most time on. Between its first
and last pass on the path its stream either runs an op or waits: an op's time is split by what it
was spent on; a wait is charged to what the ops it waited for were doing, walking back through them.
Before and after, the path's ops are charged as what they are to this rank: passes of other ranks as
bubble. Left out: what other ranks do meanwhile, and any gain that removing
a part would bring (see `critical_path` for that).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clustersim.analysis.critical_path import CriticalPath, critical_path
from clustersim.analysis.waits import Floats, Waits, rows_before
from clustersim.timeline import Timeline
from clustersim.workload.operators import Category
from clustersim.workload.program import COMPUTE, STREAMS, Program

EXTRAS = ("bubble", "imbalance", "straggler", "jitter", "overlap_slowdown")
KEYS = (*(str(category) for category in Category), *EXTRAS)

COMMUNICATION = (Category.DP_COMM, Category.PP_COMM)
MOST_DRAG = 0.95  # compute never falls below a rate of 0.05 in the engine
DUST = 1e-12  # of the step: rounding, shown as zero


def gating_rank(program: Program, path: CriticalPath) -> tuple[int, int]:
    """Stage and class of replicas that the breakdown is about.

    Parameters
    ----------
    program : Program
    path : CriticalPath
        Of that program.

    Returns
    -------
    stage, klass : int
        Those whose compute stream the critical path spends most time on; the first of equals.
    """
    classes = path.by_class.size
    on_stream = program.stream[path.row] % len(STREAMS) == COMPUTE
    group = program.stage[path.row] * classes + path.klass
    spent_s = np.bincount(group[on_stream], path.seconds[on_stream], program.stages * classes)
    stage, klass = divmod(int(np.argmax(spent_s)), classes)
    return stage, klass


def breakdown_s(
    program: Program,
    timeline: Timeline,
    by_category: Floats,
    compute_s: Floats,
    fixed_s: Floats,
    factor: Floats,
    drag: Floats | None = None,
) -> tuple[dict[str, float], tuple[int, int]]:
    """Divide the step time of one rank by what it was spent on.

    Parameters
    ----------
    program : Program
    timeline : Timeline
    by_category : ndarray of float64 (templates, categories)
        Time alone of each template on a nominal GPU, columns in the order of `Category`. [s]
    compute_s, fixed_s : ndarray of float64 (templates,)
        The part that a slower GPU stretches, and the rest. [s]
    factor : ndarray of float64 (stages, classes)
        Kernel time over nominal kernel time.
    drag : ndarray of float64 (templates,), optional
        Share of the compute rate that an op takes while it runs beside it; without it, what
        communication adds to kernels counts as jitter.

    Returns
    -------
    parts : dict of str to float
        One entry a key of `KEYS`; they sum to ``timeline.step_time_s``. [s]
    rank : tuple of int
        The stage and class they belong to.

    Notes
    -----
    `straggler` is ``compute_s * (factor - 1)``; `overlap_slowdown` the integral of the drags over
    an op; `jitter` what is left of an op's time, negative for a lucky draw; `imbalance` waiting for
    other replicas; `bubble` waiting for passes of other stages. The first ten keys are nominal.
    """
    path = critical_path(program, timeline)
    stage, klass = gating_rank(program, path)
    start_s = np.ascontiguousarray(timeline.start_s[:, klass])
    end_s = np.ascontiguousarray(timeline.end_s[:, klass])
    stream = np.flatnonzero(program.stream == stage * len(STREAMS) + COMPUTE)
    own = (path.klass == klass) & np.isin(path.row, stream)
    passes = own & _is_pass(program)[path.row]
    held = np.flatnonzero(passes if passes.any() else own)
    first, last = int(held[0]), int(held[-1])
    begin_s, until_s = float(start_s[path.row[first]]), float(end_s[path.row[last]])
    between = stream[(start_s[stream] >= begin_s) & (end_s[stream] <= until_s)]
    outside = np.ones(path.row.size, dtype=np.bool_)
    outside[first : last + 1] = False
    parts = dict.fromkeys(KEYS, 0.0)
    for row, seconds in zip(path.row[outside & ~own], path.seconds[outside & ~own], strict=True):
        parts[_key(program, int(row))] += float(seconds)
    rows = np.concatenate([between, path.row[outside & own]])
    template, meets = program.template[rows], program.rendezvous[rows]
    straggler_s = compute_s[template] * (factor[stage, klass] - 1.0)
    dragged_s = np.zeros(rows.size)
    if drag is not None:
        dragged_s = np.where(meets, 0.0, _dragged_s(program, start_s, end_s, drag, rows))
    spent_s = compute_s[template] + fixed_s[template] + straggler_s + dragged_s
    rest_s = end_s[rows] - start_s[rows] - spent_s
    for key, spent in zip(KEYS, by_category[template].sum(axis=0).tolist(), strict=False):
        parts[key] += spent
    parts["straggler"] += float(straggler_s.sum())
    parts["overlap_slowdown"] += float(dragged_s.sum())
    parts["jitter"] += float(rest_s[~meets].sum())
    parts["imbalance"] += float(rest_s[meets].sum())
    waits = _Idle(Waits(program, start_s, end_s, rows_before(program)), parts)
    waits.charge_stream(between.tolist(), begin_s)
    return _closed(parts, timeline.step_time_s), (stage, klass)


def _is_pass(program: Program) -> NDArray[np.bool_]:
    """Which rows are forward or backward passes, (ops,)."""
    passes = [template.category is Category.MATMUL for template in program.templates]
    return np.array(passes, dtype=np.bool_)[program.template]


def _key(program: Program, row: int) -> str:
    """What an op of another rank is to the one that waits for it: a pass is a bubble."""
    category = program.templates[program.template[row]].category
    return "bubble" if category is Category.MATMUL else str(category)


def _closed(parts: dict[str, float], step_time_s: float) -> dict[str, float]:
    """Parts without dust; the sum stays within 1e-11 of the step."""
    return {key: 0.0 if abs(value) < DUST * step_time_s else value for key, value in parts.items()}


def _dragged_s(
    program: Program,
    start_s: Floats,
    end_s: Floats,
    drag: Floats,
    rows: NDArray[np.int64],
) -> Floats:
    """Time that each row loses to the drags beside it, (rows,). [s]"""
    stage = program.stage[rows[0]] if rows.size else -1
    drags = drag[program.template]
    beside = np.flatnonzero((drags > 0.0) & (program.stage == stage))
    beside = beside[program.stream[beside] % len(STREAMS) != COMPUTE]
    if not beside.size:
        return np.zeros(rows.size)
    moments = np.concatenate([start_s[beside], end_s[beside]])
    changes = np.concatenate([drags[beside], -drags[beside]])
    order = np.argsort(moments, kind="stable")
    moments = moments[order]
    rate = np.minimum(np.cumsum(changes[order]), MOST_DRAG)
    lost_s = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(moments))])
    return np.asarray(
        np.interp(end_s[rows], moments, lost_s) - np.interp(start_s[rows], moments, lost_s)
    )


class _Idle:
    """Charges the gaps of one stream to what the ops that it waited for were doing."""

    def __init__(self, waits: Waits, parts: dict[str, float]):
        self.waits = waits
        self.parts = parts
        program = waits.program
        self.keys = [
            str(template.category) if template.category in COMMUNICATION else "bubble"
            for template in program.templates
        ]

    def charge_stream(self, rows: Iterable[int], begin_s: float) -> None:
        """Charge every gap between rows of a stream, from `begin_s` on."""
        start_s, end_s = self.waits.start_s, self.waits.end_s
        free_s = begin_s
        for row in rows:
            if start_s[row] > free_s:
                self._wait(row, float(start_s[row]), free_s)
            free_s = float(end_s[row])

    def _wait(self, row: int, until_s: float, since_s: float) -> None:
        """Charge the time before a row starts, back to `since_s`."""
        before = self.waits.binding(row)
        ready_s = max(since_s, float(self.waits.end_s[before]) if before >= 0 else 0.0)
        key = "imbalance" if self.waits.program.rendezvous[row] else "bubble"
        self.parts[key] += until_s - ready_s
        self._walk(before, ready_s, since_s)

    def _walk(self, row: int, until_s: float, since_s: float) -> None:
        """Charge ``[since_s, until_s]`` to the chain of ops that ends with `row` at `until_s`."""
        waits = self.waits
        while row >= 0 and until_s > since_s:
            begun_s = max(since_s, float(waits.start_s[row]))
            self.parts[self.keys[waits.program.template[row]]] += until_s - begun_s
            before = waits.binding(row)
            ready_s = max(since_s, float(waits.end_s[before]) if before >= 0 else 0.0)
            key = "imbalance" if waits.program.rendezvous[row] else "bubble"
            self.parts[key] += max(0.0, begun_s - ready_s)
            row, until_s = before, min(begun_s, ready_s)
        self.parts["bubble"] += max(0.0, until_s - since_s)
