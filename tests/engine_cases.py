"""Random programs and durations for tests of the engine."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from clustersim.engine.durations import Durations
from clustersim.workload.program import COMPUTE, Program
from tests.programs import Row, build_program, pipeline_program

# Whole seconds make ties; zero is legal; the rest are anything.
seconds = st.one_of(
    st.integers(0, 4).map(float), st.floats(0.0, 5.0, allow_subnormal=False).map(lambda s: s + 0.0)
)


def close(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two sets of times agree to 1e-9 of the longest."""
    return bool(np.abs(one - other).max(initial=0.0) <= 1e-9 * max(1e-300, np.abs(one).max()))


@st.composite
def graphs(draw: st.DrawFn, replicas: int) -> Program:
    """Any ops on any streams of three stages, each waiting for some earlier rows."""
    rows = []
    for i in range(draw(st.integers(1, 14))):
        after = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        stage, kind = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        meets = draw(st.integers(0, 4)) == 0
        rows.append(Row("op", stage, kind, sorted(after), meets, micro_batch=i))
    return build_program(rows, replicas)


@st.composite
def pipelines(draw: st.DrawFn, replicas: int) -> Program:
    """Small interleaved 1F1B schedules."""
    stages, chunks = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    groups = draw(st.integers(1, 2))
    return pipeline_program(
        stages, chunks, groups * stages, replicas, sends=draw(st.booleans()), reduces=True
    )


@st.composite
def cases(draw: st.DrawFn, drag: bool = True) -> tuple[Program, Durations]:
    """A program with durations: one to three classes, some of them stragglers."""
    classes = draw(st.integers(1, 3))
    program = draw(st.one_of(graphs(classes), pipelines(classes)))
    column = draw(st.lists(seconds, min_size=program.ops, max_size=program.ops))
    speeds = draw(st.lists(st.sampled_from([1.0, 1.0, 1.3]), min_size=classes, max_size=classes))
    alone_s = np.outer(column, speeds)
    drags = np.zeros(program.ops)
    if drag:
        some = draw(st.sampled_from([(0.0,), (0.0, 0.3), (0.1, 0.5, 0.9)]))
        beside = np.flatnonzero(program.stream % 3 != COMPUTE)
        drags[beside] = [draw(st.sampled_from(some)) for _ in beside]
    return program, Durations(alone_s, drags, np.ones(classes, dtype=np.int64))
