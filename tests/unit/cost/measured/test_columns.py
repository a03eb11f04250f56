"""Columns of measured rows: 64 bits, words, files that lack a column."""

from __future__ import annotations

import numpy as np

from clustersim.cost.measured.columns import no_variant, numbers, take, words

ROWS = {"op": np.array(["a", "b"]), "m": np.array([2**20, 3], dtype=np.int32)}


def test_numbers_do_not_overflow():
    (m,) = numbers(ROWS, "m")
    assert (m * m)[0] == 2.0**40


def test_a_column_that_is_not_there_is_empty_in_every_row():
    assert words(ROWS, "kernel").tolist() == no_variant(ROWS).tolist() == ["", ""]
    assert words(ROWS, "op").tolist() == ["a", "b"]


def test_rows_are_taken_from_all_columns():
    kept = take(ROWS, np.array([False, True]))
    assert {name: column.tolist() for name, column in kept.items()} == {"op": ["b"], "m": [3]}
