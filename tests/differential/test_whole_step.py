"""Two roads to one step: event and compiled engine, folded and full, on the real program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from clustersim.run.prepare import draw_fleet, durations_of, prepare
from clustersim.run.replicate import replay_draw
from clustersim.run.simulate import simulate
from clustersim.spec.scenario import EngineName, Scenario
from tests.engine_cases import close
from tests.whole_steps import plans, small_step, unfolded

few = settings(deadline=None, max_examples=40)
ENGINES: tuple[EngineName, ...] = ("event", "compiled")


@few
@given(scenario=plans())
def test_engines_agree_on_the_real_program(scenario: Scenario) -> None:
    prepared = prepare(scenario)
    draw = draw_fleet(prepared, 0)
    event, compiled = (replay_draw(prepared, draw, engine) for engine in ENGINES)
    assert close(event.end_s, compiled.end_s)
    assert close(event.start_s, compiled.start_s)
    assert event.engine_ops == compiled.engine_ops == prepared.program.ops * draw.factor.shape[1]


@few
@given(scenario=plans(noise=False))
def test_folded_replicas_equal_the_full_run(scenario: Scenario) -> None:
    prepared = prepare(scenario)
    folded, full = draw_fleet(prepared, 0), unfolded(prepared)
    assert int(folded.multiplicity.sum()) == full.multiplicity.size == scenario.data_parallel
    column = [
        int(np.flatnonzero((folded.factor == speeds[:, None]).all(axis=0))[0])
        for speeds in full.factor.T
    ]
    assert np.bincount(column).tolist() == folded.multiplicity.tolist()
    for engine in ENGINES:
        one, other = replay_draw(prepared, folded, engine), replay_draw(prepared, full, engine)
        assert close(one.end_s[:, column], other.end_s)
        assert one.step_time_s == pytest.approx(other.step_time_s, rel=1e-9)


@pytest.mark.parametrize("slow", [[5], [0, 1], [3, 4, 5], [0, 5]])
def test_classes_come_in_the_order_of_their_first_replica(slow: list[int]) -> None:
    prepared = prepare(
        small_step(None, {"data_parallel": 6}, fleet={"slowdowns": dict.fromkeys(slow, 0.1)})
    )
    draw = draw_fleet(prepared, 0)
    is_slow = draw.factor[0] > 1.0
    assert is_slow.tolist() == [0 in slow, 0 not in slow]
    assert draw.multiplicity[is_slow].tolist() == [len(slow)]
    assert draw.multiplicity[~is_slow].tolist() == [6 - len(slow)]


@settings(deadline=None, max_examples=25)
@given(scenario=plans())
def test_engines_give_the_same_digest(scenario: Scenario) -> None:
    digests = set()
    for engine in ENGINES:
        run = scenario.run.model_copy(update={"engine": engine})
        result = simulate(scenario.model_copy(update={"run": run}))
        assert result.document["engine"] == engine
        digests.add(result.document["result_digest"])
    assert len(digests) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_durations_are_compute_times_speed_plus_what_is_fixed(engine: EngineName) -> None:
    scenario = small_step(None, {"pipeline_parallel": 2}, fleet={"slowdowns": {1: 0.25}})
    prepared = prepare(scenario)
    durations = durations_of(prepared, draw_fleet(prepared, 0))
    costs, program = prepared.costs, prepared.program
    speed = np.where(program.stage == 1, 1.25, 1.0)
    expected = (costs.compute_s[program.template] * speed) + costs.fixed_s[program.template]
    assert np.allclose(durations.alone_s[:, 0], expected, rtol=1e-12, atol=0.0)
    slow = draw_fleet(prepared, 0)
    even = replace(slow, factor=np.ones_like(slow.factor))
    nominal, slowed = (replay_draw(prepared, draw, engine) for draw in (even, slow))
    assert nominal.step_time_s < slowed.step_time_s
