"""Columns of measured rows as models take them: numbers in 64 bits, words as strings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.measured.family import Columns, Floats


def numbers(columns: Columns, *names: str) -> list[Floats]:
    """Columns as float64: the files hold 32-bit integers, whose products overflow.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
    *names : str

    Returns
    -------
    list of ndarray (n,)
        In the order of the names.

    Raises
    ------
    KeyError
        A column is missing: families state those that they need in `Family.required`.
    """
    return [np.asarray(columns[name], dtype=np.float64) for name in names]


def words(columns: Columns, name: str) -> NDArray[np.str_]:
    """A column of words.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
    name : str
        The file may lack it.

    Returns
    -------
    ndarray of str (n,)
        Empty in every row where the file lacks the column.
    """
    if name not in columns:
        return no_variant(columns)
    return np.asarray(columns[name]).astype(np.str_)


def no_variant(columns: Columns) -> NDArray[np.str_]:
    """Variants of a file of one operator: an empty word for each row."""
    return np.full(len(next(iter(columns.values()))), "", dtype=np.str_)


def take(columns: Columns, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Some rows of all columns.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
    rows : ndarray
        Of int (r,), row numbers; or of bool (n,), a mask.

    Returns
    -------
    dict of str to ndarray (r,)
    """
    return {name: np.asarray(column)[rows] for name, column in columns.items()}
