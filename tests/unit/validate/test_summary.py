"""Summary figures: nearest rank, bias, rank correlation, series."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clustersim.validate.entries import Entry
from clustersim.validate.series import fit_line, series_report
from clustersim.validate.summary import (
    RANKED,
    error_statistics,
    nearest_rank,
    series_of,
    spearman,
    summarise,
)

ENTRY = Entry("a", "S", "D", "ok", None, "step_time_s", 1.1, 1.0, 0.1)


def test_percentiles_are_values_of_the_sample():
    values = [0.4, 0.1, 0.3, 0.2]
    assert nearest_rank(values, 0.5) == 0.2
    assert nearest_rank(values, 0.9) == 0.4
    assert nearest_rank([0.7], 0.9) == 0.7
    assert nearest_rank(list(range(1, 11)), 0.9) == 9


def test_bias_keeps_the_sign_that_the_others_lose():
    statistics = error_statistics([-0.2, 0.1, 0.4])
    assert statistics["median_ape"] == 0.2
    assert statistics["mape"] == pytest.approx(0.7 / 3)
    assert statistics["p90_ape"] == 0.4
    assert statistics["bias"] == pytest.approx(0.1)


def test_groups_count_compared_and_skipped():
    skipped = replace(ENTRY, status="skipped", error=None, inferred=("device",), source="T")
    rows = {row["group"]: row for row in summarise([ENTRY, skipped])}
    assert (rows["all"]["cases"], rows["all"]["skipped"]) == (1, 1)
    assert (rows["nothing inferred"]["cases"], rows["nothing inferred"]["skipped"]) == (1, 0)
    assert (rows["source: T"]["cases"], rows["source: T"]["median_ape"]) == (0, None)
    assert {"metric: step_time_s", "device: D", "source: S"} <= rows.keys()


def test_rank_correlation_sees_order_only():
    assert spearman([1, 2, 3], [10, 20, 1000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1.0)
    assert spearman([1, 1, 1], [1, 2, 3]) is None


@pytest.mark.parametrize(
    ("predicted", "measured", "rho"),
    [
        ([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 8.0, 9.0], 1.0),
        ([1.0, 1.0, 1.0, 1.0], [2.0, 4.0, 8.0, 9.0], 0.0),
        ([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0], None),
    ],
)
def test_constant_predictions_rank_nothing_and_constant_measurements_are_not_judged(
    predicted, measured, rho
):
    blank = replace(ENTRY, metric=RANKED, series="x")
    entries = [
        replace(blank, concurrency=n, predicted=ours, measured=theirs)
        for n, (ours, theirs) in enumerate(zip(predicted, measured, strict=True), 1)
    ]
    (series,) = series_of(entries)
    assert series.spearman == (rho if rho is None else pytest.approx(rho))
    groups = [row["group"] for row in summarise(entries)]
    assert (f"{RANKED} over concurrency, by series" in groups) == (rho is not None)


def test_a_line_is_recovered():
    line = fit_line([48, 96, 192], [0.2 * m + 2 for m in (48, 96, 192)])
    assert line.slope_s == pytest.approx(0.2)
    assert line.intercept_s == pytest.approx(2.0)


def test_series_compare_slope_and_intercept():
    entries = [
        replace(
            ENTRY, series="x", micro_batches=m, gpus=768 // m, measured=m + 5.0, predicted=2.0 * m
        )
        for m in (48, 96, 192)
    ]
    (row,) = series_report([*entries, replace(entries[0], derived_from="mfu")])
    assert row["points"] == 3
    assert row["slope_error"] == pytest.approx(1.0)
    assert row["intercept_difference_s"] == pytest.approx(-5.0)
    assert series_report(entries[:2]) == []
