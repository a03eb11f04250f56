"""Textbook phases against the collective times that ASTRA-sim prints for fixed networks."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from clustersim.cost.collectives import formulas
from clustersim.cost.collectives.phases import Dimension, Endpoint, phase_s
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


@pytest.mark.parametrize("ranks", [2, 4, 8, 64])
def test_one_dimension_is_the_closed_form(ranks: int) -> None:
    call = (3e7, ranks, 2e-6, 5e10)

    def phase(collective: str, algorithm: str) -> float:
        dim = Dimension(ranks, algorithm, call[2], call[3])
        return phase_s(collective, call[0], dim, Endpoint())

    pairs = {
        ("all_reduce", "ring"): formulas.ring_all_reduce_s,
        ("all_gather", "ring"): formulas.ring_all_gather_s,
        ("reduce_scatter", "ring"): formulas.ring_reduce_scatter_s,
        ("all_to_all", "ring"): formulas.ring_all_to_all_s,
        ("all_reduce", "direct"): formulas.direct_all_reduce_s,
        ("all_to_all", "direct"): formulas.direct_all_gather_s,
        ("all_reduce", "halving_doubling"): formulas.halving_doubling_all_reduce_s,
        ("all_gather", "halving_doubling"): formulas.halving_doubling_all_gather_s,
    }
    for (collective, algorithm), closed_form in pairs.items():
        assert phase(collective, algorithm) == pytest.approx(closed_form(*call))
