"""Measured popularity of experts: how often each was chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import Problem, SpecError
from clustersim.workload.files import (
    BadLines,
    Column,
    Lines,
    cells_of,
    find_column,
    read_table,
    shortened,
)

Floats = NDArray[np.float64]


def read_expert_counts(path: Path, experts: int | None = None) -> Floats:
    """Read how often each expert was chosen.

    Parameters
    ----------
    path : Path
        CSV with a column `count`, and a column `expert` (0, 1, ...) unless the rows are in order.
    experts : int, optional
        Experts of the model: the file must have as many.

    Returns
    -------
    ndarray of float64 (experts,)
        Counts by expert; not all are 0.

    Raises
    ------
    SpecError
        With every bad line, or every expert that is missing or named twice.
    """
    lines = Lines(path)
    header = [cell.strip() for cell in cells_of(lines.header())]
    place, name_place = find_column(header, ("count", "counts")), find_column(header, ("expert",))
    if place is None:
        message = f"there is no column count, but: {shortened(', '.join(header)) or 'nothing'}"
        raise SpecError(Problem(message, "a header of expert,count", str(path), 1))
    bad = BadLines(str(path), skip=False)
    columns = [Column(header[place], place, 0.0, False, "a number, at least 0")]
    if name_place is not None:
        expected = "the number of an expert, from 0"
        columns.append(Column(header[name_place], name_place, 0.0, True, expected))
    table = read_table(lines, len(header), columns, bad)
    bad.skipped()
    counts = table.columns[0]
    if name_place is not None:
        counts = counts[_order(table.columns[1], str(path))]
    if not counts.any():
        raise SpecError(Problem("no expert was ever chosen", "counts above 0", str(path)))
    if experts is not None and counts.size != experts:
        message = f"{counts.size} experts are counted, and the model has {experts}"
        raise SpecError(Problem(message, "count all experts of one layer", str(path)))
    return counts


def _order(names: Floats, file: str) -> NDArray[np.intp]:
    """Rows by the number of their expert."""
    known, times = np.unique(names, return_counts=True)
    problems = [
        Problem(f"expert {name:.0f} has {count} rows", "one row for each expert", file)
        for name, count in zip(known.tolist(), times.tolist(), strict=True)
        if count > 1
    ]
    missing = sorted(set(range(min(int(known.max(initial=-1)) + 1, 100_000))) - set(known.tolist()))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        message = f"{len(missing):,} experts have no row: {shown}"
        problems.append(Problem(message, "number them 0, 1, 2, ... without a gap", file))
    if problems:
        raise SpecError(problems)
    return np.argsort(names)
