"""Laws of the analysis, over random pipelines, speeds, noise and drags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustersim.analysis.breakdown import breakdown_s
from clustersim.analysis.critical_path import critical_path
from clustersim.analysis.waterfall import waterfall
from tests.unit.analysis.steps import Step, pipeline_step


@st.composite
def steps(draw: st.DrawFn) -> Step:
    stages, replicas = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    chunks = draw(st.sampled_from([1, 2])) if stages > 1 else 1
    micro_batches = stages * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    factor = 1.0 + 0.3 * rng.random((stages, replicas)) * draw(st.booleans())
    drag, sends = draw(st.sampled_from([0.0, 0.2])), draw(st.booleans())
    plain = pipeline_step(stages, micro_batches, factor, drag, None, replicas, chunks, sends)
    if not draw(st.booleans()):
        return plain
    noise = 0.2 * rng.random(plain.timeline.start_s.shape)
    return pipeline_step(stages, micro_batches, factor, drag, noise, replicas, chunks, sends)


@settings(deadline=None, max_examples=60)
@given(step=steps())
def test_breakdown_is_a_partition_of_the_step(step: Step) -> None:
    parts, (stage, klass) = breakdown_s(*step.priced)
    assert sum(parts.values()) == pytest.approx(step.timeline.step_time_s, rel=1e-9)
    assert 0 <= stage < step.program.stages
    assert 0 <= klass < step.timeline.multiplicity.size
    for key, seconds in parts.items():
        assert key in ("jitter", "straggler") or seconds >= -1e-9 * step.timeline.step_time_s


@settings(deadline=None, max_examples=60)
@given(step=steps())
def test_critical_path_is_the_step_and_at_most_the_serial_sum(step: Step) -> None:
    path = critical_path(step.program, step.timeline, step.by_category)
    step_s = step.timeline.step_time_s
    serial_s = (step.timeline.end_s - step.timeline.start_s).max(axis=1).sum()
    assert path.length_s == pytest.approx(step_s, rel=1e-9)
    assert path.length_s <= serial_s * (1 + 1e-9)
    assert path.by_class.sum() == pytest.approx(step_s, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(step=steps(), share=st.floats(0.01, 1.0))
def test_waterfall_ends_at_the_mfu(step: Step, share: float) -> None:
    parts, _ = breakdown_s(*step.priced)
    step_s = step.timeline.step_time_s
    losses = waterfall(parts, step_s, share * step_s)
    assert sum(loss["seconds"] for loss in losses) == pytest.approx(step_s)
    assert losses[-1]["mfu_left"] == pytest.approx(share)
