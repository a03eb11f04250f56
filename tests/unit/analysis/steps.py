"""Small finished steps for tests of the analysis: program, prices, speeds and their timeline."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clustersim.analysis.columns import Run
from clustersim.engine.durations import Durations
from clustersim.engine.simulation import replay
from clustersim.timeline import Timeline
from clustersim.workload.operators import Category
from clustersim.workload.program import Program
from tests.programs import pipeline_program

Floats = NDArray[np.float64]

CATEGORIES = {
    "forward": Category.MATMUL,
    "backward": Category.MATMUL,
    "send_forward": Category.PP_COMM,
    "send_backward": Category.PP_COMM,
    "grad_reduce": Category.DP_COMM,
    "optimizer": Category.OPTIMIZER,
}
COLUMN = {category: i for i, category in enumerate(Category)}


@dataclass(frozen=True)
class Step:
    """A replayed step and everything that the analysis is given."""

    program: Program
    timeline: Timeline
    by_category: Floats
    compute_s: Floats
    fixed_s: Floats
    factor: Floats
    drag: Floats

    @property
    def priced(self) -> tuple[Program, Timeline, Floats, Floats, Floats, Floats, Floats]:
        """Arguments of `breakdown_s`."""
        return (
            self.program,
            self.timeline,
            self.by_category,
            self.compute_s,
            self.fixed_s,
            self.factor,
            self.drag,
        )

    @property
    def run(self) -> Run:
        """What is written to files."""
        return Run(self.program, self.timeline, self.compute_s, self.fixed_s, self.factor)


def categorised(program: Program) -> Program:
    """The program with the category of each template by its name."""
    templates = tuple(
        replace(template, category=CATEGORIES.get(template.name, template.category))
        for template in program.templates
    )
    return replace(program, templates=templates)


def finish(
    program: Program,
    seconds: dict[str, float],
    factor: Floats | None = None,
    drag: float = 0.0,
    noise: Floats | None = None,
) -> Step:
    """Replay a program whose ops take `seconds` by name; communication is fixed time.

    `drag` is that of the gradient reductions; `noise` is added to every op, (ops, classes). [s]
    """
    program = categorised(program)
    categories = [template.category for template in program.templates]
    alone_s = np.array([seconds.get(template.name, 0.0) for template in program.templates])
    fixed = np.array([c in (Category.PP_COMM, Category.DP_COMM) for c in categories])
    by_category = np.zeros((alone_s.size, len(COLUMN)))
    by_category[np.arange(alone_s.size), [COLUMN[c] for c in categories]] = alone_s
    compute_s, fixed_s = np.where(fixed, 0.0, alone_s), np.where(fixed, alone_s, 0.0)
    if factor is None:
        factor = np.ones((program.stages, program.replicas))
    drags = np.array([drag if t.name == "grad_reduce" else 0.0 for t in program.templates])
    row = program.template
    taken_s = compute_s[row][:, None] * factor[program.stage] + fixed_s[row][:, None]
    taken_s = taken_s if noise is None else taken_s + noise
    multiplicity = np.ones(factor.shape[1], dtype=np.int64)
    durations = Durations(np.ascontiguousarray(taken_s), drags[row], multiplicity)
    timeline = replay(program, durations, "event")
    return Step(program, timeline, by_category, compute_s, fixed_s, factor, drags)


def pipeline_step(
    stages: int,
    micro_batches: int,
    factor: Floats | None = None,
    drag: float = 0.0,
    noise: Floats | None = None,
    replicas: int = 1,
    chunks: int = 1,
    sends: bool = True,
) -> Step:
    """An interleaved pipeline with transfers, reductions and an optimizer."""
    program = pipeline_program(stages, chunks, micro_batches, replicas, sends, reduces=True)
    seconds = {
        "forward": 1.0,
        "backward": 2.0,
        "send_forward": 0.25,
        "send_backward": 0.25,
        "grad_reduce": 3.0,
        "optimizer": 0.5,
    }
    return finish(program, seconds, factor, drag, noise)
