"""Known misses: cases outside their tolerance whose reason is written beside them."""

from __future__ import annotations

from clustersim.validate.entries import Entry
from clustersim.validate.runner import Report
from clustersim.validate.table import exit_code, render


def entry(name: str, error: float, known_miss: str | None = None) -> Entry:
    """A compared step time with a tolerance of 10 %."""
    return Entry(
        name,
        "A source",
        "A100-SXM-80GB",
        "ok",
        None,
        "step_time_s",
        predicted=1.0 + error,
        measured=1.0,
        error=error,
        tolerance=0.1,
        known_miss=known_miss,
    )


def test_a_new_miss_is_a_no_and_a_known_one_is_not() -> None:
    assert exit_code(Report((entry("a", 0.2),), ())) == 1
    assert exit_code(Report((entry("a", 0.2, "too old a kernel"),), ())) == 0


def test_a_known_miss_stays_in_the_table_with_its_reason() -> None:
    assert "too old a kernel" in render(Report((entry("a", 0.2, "too old a kernel"),), ()))


def test_a_case_inside_again_is_named_unless_another_of_its_figures_is_outside() -> None:
    inside, outside = entry("a", 0.0, "why"), entry("a", 0.2, "why")
    assert Report((inside,), ()).mended == ["a"]
    assert Report((inside, outside), ()).mended == []
