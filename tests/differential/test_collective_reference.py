"""Textbook phases against the collective times that ASTRA-sim prints for fixed networks."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from clustersim.cost.collectives.phases import Dimension, Endpoint, phase_s
from clustersim.errors import ModelDomainError
from clustersim.validate.reference import reference_s

REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference" / "astra_sim_collectives.csv"


def test_phases_agree_with_every_physical_row_of_astra_sim() -> None:
    """Within 0.2 %: that simulator rounds each step and each pass of a reduction down to 1 ns."""
    if not REFERENCE.exists():
        pytest.skip("../shared/reference is not beside this checkout")
    with REFERENCE.open() as file:
        rows = [row for row in csv.DictReader(file) if row["physical"] == "True"]
    errors = {
        index: reference_s(row) / (float(row["time_ns"]) * 1e-9) - 1
        for index, row in enumerate(rows)
        if float(row["bytes"]) >= 2**20
    }
    worst = max(errors, key=lambda index: abs(errors[index]))
    assert len(errors) > 200
    assert abs(errors[worst]) < 2e-3, (errors[worst], rows[worst])


@pytest.mark.parametrize(
    ("collective", "algorithm", "expected_s"),
    [
        ("all_reduce", "ring", 14 * 1001e-6),
        ("all_gather", "ring", 7 * 1001e-6),
        ("reduce_scatter", "ring", 7 * 1001e-6),
        ("all_to_all", "ring", 28 * 1001e-6),
        ("all_gather", "direct", 1001e-6),
        ("all_to_all", "direct", 1001e-6),
        ("all_reduce", "direct", 2 * 1001e-6),
        ("all_gather", "halving_doubling", 3e-6 + 7e-3),
        ("all_reduce", "halving_doubling", 6e-6 + 14e-3),
    ],
)
def test_one_dimension_is_the_closed_form(
    collective: str, algorithm: str, expected_s: float
) -> None:
    """8 ranks, 8 MB, 1 us, 1 GB/s: a shard is 1 MB and takes 1001 us a step."""
    dim = Dimension(8, algorithm, 1e-6, 1e9)
    assert phase_s(collective, 8e6, dim, Endpoint()) == pytest.approx(expected_s)


def test_a_textbook_refuses_what_it_does_not_hold() -> None:
    with pytest.raises(ModelDomainError, match="halving_doubling over 6 ranks"):
        phase_s("all_gather", 8e6, Dimension(6, "halving_doubling", 1e-6, 1e9), Endpoint())
