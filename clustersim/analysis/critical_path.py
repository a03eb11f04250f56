"""The chain of ops that sets the step time, found by walking back from the op that ends last.

Every op starts when something ends: the op before it on its stream, a dependency, or, for a
rendezvous, the op of whichever class of replicas came last. Following that from the end reaches
time zero, and the ops on the way last exactly as long as the step. Shortening an op that is not on
the path gains nothing; shortening one that is gains at most its time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.analysis.waits import Floats, Waits, rows_before
from clustersim.timeline import Timeline
from clustersim.workload.operators import Category
from clustersim.workload.program import Program


@dataclass(frozen=True)
class CriticalPath:
    """Ops in the order of time, and where their seconds went.

    Attributes
    ----------
    row, klass : ndarray of int64 (length,)
        Op and class of replicas.
    seconds : ndarray of float64 (length,)
        Time of each. [s]
    by_category : dict of str to float
        By `Category`. [s]
    by_stage : ndarray of float64 (stages,)
    by_class : ndarray of float64 (classes,)
        [s]
    """

    row: NDArray[np.int64]
    klass: NDArray[np.int64]
    seconds: Floats
    by_category: dict[str, float]
    by_stage: Floats
    by_class: Floats

    @property
    def length_s(self) -> float:
        """All ops of the path together; the step time. [s]"""
        return float(self.seconds.sum())


def critical_path(
    program: Program, timeline: Timeline, by_category: Floats | None = None
) -> CriticalPath:
    """Find the critical path of a finished step.

    Parameters
    ----------
    program : Program
    timeline : Timeline
    by_category : ndarray of float64 (templates, categories), optional
        Time alone by category, in whose proportion an op's time is divided; without it all of it
        belongs to the category of the template. [s]

    Returns
    -------
    CriticalPath
    """
    rows, classes = _walk_back(program, timeline)
    row = np.array(rows[::-1], dtype=np.int64)
    klass = np.array(classes[::-1], dtype=np.int64)
    seconds = timeline.end_s[row, klass] - timeline.start_s[row, klass]
    shares = _shares(program, by_category)[program.template[row]]
    spent_s = (shares * seconds[:, None]).sum(axis=0)
    return CriticalPath(
        row=row,
        klass=klass,
        seconds=seconds,
        by_category=dict(zip(map(str, Category), spent_s.tolist(), strict=True)),
        by_stage=_summed(program.stage[row], seconds, program.stages),
        by_class=_summed(klass, seconds, timeline.multiplicity.size),
    )


def _walk_back(program: Program, timeline: Timeline) -> tuple[list[int], list[int]]:
    """Rows and classes of the path, last op first."""
    if not timeline.end_s.size:
        return [], []
    before = rows_before(program)
    views = [
        Waits(program, timeline.start_s[:, c], timeline.end_s[:, c], before)
        for c in range(timeline.multiplicity.size)
    ]
    row, klass = divmod(int(np.argmax(timeline.end_s)), timeline.multiplicity.size)
    rows: list[int] = []
    classes: list[int] = []
    while row >= 0:
        rows.append(row)
        classes.append(klass)
        if program.rendezvous[row]:
            klass = int(np.argmax([view.ready_s(row) for view in views]))
        row = views[klass].binding(row)
    return rows, classes


def _summed(place: NDArray[np.integer], seconds: Floats, size: int) -> Floats:
    return np.asarray(np.bincount(place, seconds, size), dtype=np.float64)


def _shares(program: Program, by_category: Floats | None) -> Floats:
    """Share of each category in each template, (templates, categories)."""
    order = list(Category)
    shares = np.zeros((len(program.templates), len(order)))
    for i, template in enumerate(program.templates):
        shares[i, order.index(template.category)] = 1.0
    if by_category is None:
        return shares
    total = by_category.sum(axis=1)
    known = total > 0.0
    shares[known] = by_category[known] / total[known, None]
    return shares
