"""Columns of measured rows as models take them: numbers in 64 bits, words as strings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.measured.family import Columns, Floats


def numbers(columns: Columns, *names: str) -> list[Floats]:
    """Columns as float64 (n,): the files hold 32-bit integers, whose products overflow."""
    return [np.asarray(columns[name], dtype=np.float64) for name in names]


def words(columns: Columns, name: str) -> NDArray[np.str_]:
    """A column of words (n,); empty in every row where the file lacks it."""
    if name not in columns:
        return no_variant(columns)
    return np.asarray(columns[name]).astype(np.str_)


def no_variant(columns: Columns) -> NDArray[np.str_]:
    """Variants of a file of one operator: an empty word for each row."""
    return np.full(len(next(iter(columns.values()))), "", dtype=np.str_)


def take(columns: Columns, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Some rows, by number or by mask."""
    return {name: np.asarray(column)[rows] for name, column in columns.items()}
