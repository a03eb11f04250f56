"""Whole runs give the numbers they gave before, to six digits."""

from __future__ import annotations

import pytest

from tests.golden.whole_runs import SCENARIOS, SERVED, answer, pinned

AGAIN = "if the change is meant: python -m tests.golden.whole_runs, and say why in CHANGELOG.md"
SIX_DIGITS = 1e-6


@pytest.mark.parametrize("name", [*SCENARIOS, *SERVED])
def test_a_whole_run_gives_what_it_gave_before(name: str) -> None:
    before, now = pinned()[name], answer(name)
    parts_before, parts_now = before.pop("breakdown_s"), now.pop("breakdown_s")
    assert now == pytest.approx(before, rel=SIX_DIGITS), AGAIN
    dust_s = SIX_DIGITS * before["step_time_s" if "step_time_s" in before else "makespan_s"]
    assert set(parts_now) == set(parts_before), AGAIN
    assert parts_now == pytest.approx(parts_before, rel=SIX_DIGITS, abs=dust_s), AGAIN


def test_the_file_holds_the_scenarios_and_no_others() -> None:
    assert tuple(pinned()) == (*SCENARIOS, *SERVED)
