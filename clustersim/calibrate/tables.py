"""Measured files in: found, read, checked, and cut down to the rows of one device.

Everything that is wrong with any file is reported in one error, each with file, row and column. A
Parquet row is counted from 1, a CSV row by its line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clustersim.calibrate.nccl_log import read_nccl_log
from clustersim.cost.measured.catalogue import STEMS, families
from clustersim.cost.measured.family import Family
from clustersim.cost.measured.rows import (
    PAIRED,
    UNCATALOGUED,
    Rows,
    known_device,
    missing_columns,
    read_rows,
)
from clustersim.errors import Problem, SpecError
from clustersim.spec.device import Device
from clustersim.spec.files import files_in
from clustersim.spec.suggest import did_you_mean, nearest, normalise

TABLES, LOGS = (".parquet", ".csv"), (".txt", ".log", ".out")
TEXT = frozenset(
    ("device", "dtype", "kv_dtype", "gemm_dtype", "out_dtype", "op", "collective", "library")
) | frozenset(("topology", "mode", "phase", "routing", "layout", "model", "medium", "kernel"))
FLAGS = frozenset(("causal", "gated", "accumulate"))
MAY_BE_ZERO = frozenset(
    ("window", "sms", "routed_tokens", "load_cv", "load_max_ratio", "load_gini")
)
PARTLY_EMPTY = frozenset(("training_kernels",))  # products and attention share its columns
SHOWN = 20  # rows reported of one mistake
LONGEST_S = 1e3  # of one call


@dataclass(frozen=True)
class Tables:
    """Rows of one device, by family, and what was left aside.

    Attributes
    ----------
    rows : tuple of Rows
        One a file.
    families : dict of str to Family
        Of the stems in `rows`.
    skipped : tuple of (str, str)
        File and reason.
    files : tuple of str
        All that were read.
    """

    rows: tuple[Rows, ...]
    families: dict[str, Family]
    skipped: tuple[tuple[str, str], ...]
    files: tuple[str, ...]


def read_tables(paths: Iterable[Path], device: Device) -> Tables:
    """Read and check files, and keep the rows of one device.

    Parameters
    ----------
    paths : iterable of Path
        Files, or folders of them.
    device : Device
        Whose rows are wanted; its name and aliases stand for it.

    Returns
    -------
    Tables
        Files that are not modelled or hold no such rows are among the skipped.

    Raises
    ------
    SpecError
        Holds every problem of every file; or says that no row is of this device.
    """
    files = files_in(paths, (*TABLES, *LOGS), "measured data")
    rows: list[Rows] = []
    skipped: list[tuple[str, str]] = []
    problems: list[Problem] = []
    used: dict[str, Family] = {}
    names: set[str] = set()
    for path in files:
        try:
            table, reason = _read(path, device, used)
        except SpecError as error:
            problems += error.problems
            continue
        if table is None:
            skipped.append((str(path), reason))
            continue
        names |= set(np.unique(table.columns["device"].astype(str)).tolist())
        own = table.take(_is_device(table.columns["device"].astype(str), device))
        if own.count:
            rows.append(own)
        else:
            skipped.append((str(path), f"no row is of {device.name}"))
    if not problems and not rows:
        fix = f"it has rows of {', '.join(sorted(names))}" if names else "see the reasons"
        reasons = "; ".join(f"{file}: {reason}" for file, reason in skipped)
        problems.append(Problem(f"there is nothing to fit {device.name} to ({reasons})", fix))
    if problems:
        raise SpecError(problems)
    stems = {table.stem for table in rows}
    kept = {stem: family for stem, family in used.items() if stem in stems}
    return Tables(tuple(rows), kept, tuple(skipped), tuple(map(str, files)))


def _read(path: Path, device: Device, used: dict[str, Family]) -> tuple[Rows | None, str]:
    """One checked table, or why there is none; enters its family in `used`."""
    stem = "collective" if path.suffix in LOGS else path.name.split(".")[0]
    found, missing = families([stem])
    if stem not in found:
        if stem in STEMS:
            return None, missing[stem]
        near = did_you_mean(stem, STEMS, what="known names")
        fix = f"name it after its family, as in gemm.csv or gemm.my_lab.csv; {near}"
        raise SpecError(Problem("the name says no family of measurements", fix, str(path)))
    used[stem] = found[stem]
    table = read_nccl_log(path, device) if path.suffix in LOGS else read_rows(path, stem)
    if path.suffix == ".csv":
        table = Rows(stem, table.file, table.columns, table.lines + 1)
    return check_rows(table, found[stem], device), ""


def _is_device(names: NDArray[np.str_], device: Device) -> NDArray[np.bool_]:
    words = _words(device)
    values, codes = np.unique(names, return_inverse=True)
    own = np.array([normalise(PAIRED.get(value, value)) in words for value in values.tolist()])
    return own[codes] if values.size else np.zeros(0, dtype=np.bool_)


def _words(device: Device) -> set[str]:
    return {normalise(word) for word in (device.name, device.title, *device.aliases)}


def check_rows(table: Rows, family: Family, device: Device) -> Rows:
    """Check the columns that a family needs; numbers that came as text become numbers.

    Parameters
    ----------
    table : Rows
        Of any devices.
    family : Family
        Says which columns are needed.
    device : Device
        Its name, title and aliases are known, even where no catalogue has them.

    Returns
    -------
    Rows
        All rows; needed columns of numbers are float64.

    Raises
    ------
    SpecError
        For every column that is missing, and every row that is wrong.
    """
    lacking = missing_columns(table, family.required)
    if lacking:
        raise SpecError([_missing(table, name) for name in lacking])
    columns = dict(table.columns)
    problems: list[Problem] = []
    needed = [name for name in family.required if name not in FLAGS]
    for name in dict.fromkeys(("device", *needed, "latency_s")):
        if name in TEXT:
            problems += _rows_where(table, name, columns[name].astype(str) == "", "is empty")
            continue
        columns[name], wrong = _numbers(table, name)
        problems += wrong
    if not problems:
        checked = Rows(table.stem, table.file, columns, table.lines)
        problems = [*_check_devices(checked, device), *_check_numbers(checked, needed)]
        table = checked
    if problems:
        raise SpecError(problems)
    return table


def _missing(table: Rows, name: str) -> Problem:
    near = nearest(name, table.columns)
    fix = f"the family {table.stem} needs it"
    if name == "latency_s":
        stem = ("latency", "time")
        others = [column for column in table.columns if column.startswith(stem)]
        if others:
            fix = f"there is {others[0]}: give seconds, in a column latency_s"
    elif near:
        fix += f"; there is {near}"
    return Problem(f"column {name} is missing", fix, table.file, field=name)


def _numbers(table: Rows, name: str) -> tuple[NDArray[np.float64], list[Problem]]:
    """A column as float64, and the rows whose text is no number."""
    column = table.columns[name]
    if column.dtype.kind in "fiub":
        return column.astype(np.float64), []
    values = np.full(column.size, np.nan)
    wrong = np.zeros(column.size, dtype=np.bool_)
    for index, text in enumerate(column.tolist()):
        try:
            values[index] = float(text) if text else np.nan
        except ValueError:
            wrong[index] = True
    unit = "a plain number of seconds" if name == "latency_s" else "a plain number"
    return values, list(_rows_where(table, name, wrong, f"is not a number; write {unit}"))


def _check_devices(table: Rows, device: Device) -> Iterator[Problem]:
    names = table.columns["device"].astype(str)
    words = _words(device)
    for name in np.unique(names).tolist():
        if normalise(name) in words or name in UNCATALOGUED or known_device(name) is not None:
            continue
        first = int(np.flatnonzero(names == name)[0])
        count = int((names == name).sum())
        message = f"unknown device {name!r} in {count:,} rows"
        fix = "`clustersim list devices` shows the names; --device takes a file of your own"
        yield Problem(message, fix, table.file, int(table.lines[first]), 0, "device")


def _check_numbers(table: Rows, needed: Sequence[str]) -> Iterator[Problem]:
    for name in (*(name for name in needed if name not in TEXT), "latency_s"):
        values = table.columns[name]
        empty = np.isnan(values)
        if table.stem not in PARTLY_EMPTY or name == "latency_s":
            yield from _rows_where(table, name, empty, "is not a number")
        yield from _rows_where(table, name, np.isinf(values), "is not finite")
        if name not in MAY_BE_ZERO:
            yield from _rows_where(table, name, values <= 0, "is not above 0")
    long = np.isfinite(table.columns["latency_s"]) & (table.columns["latency_s"] > LONGEST_S)
    yield from _rows_where(
        table, "latency_s", long, "is more than 1,000 s for one call: is it in seconds?"
    )


def _rows_where(
    table: Rows, name: str, wrong: NDArray[np.bool_], message: str
) -> Iterator[Problem]:
    """One problem a row, and one for the rest of many."""
    found = np.flatnonzero(wrong)
    for row in found[:SHOWN]:
        value = table.columns[name][row]
        shown = repr(str(value)) if isinstance(value, str) else f"{value:g}"
        yield Problem(f"{shown} {message}", "", table.file, int(table.lines[row]), 0, name)
    if found.size > SHOWN:
        more = f"{found.size - SHOWN:,} more rows: {message}"
        yield Problem(more, "", table.file, int(table.lines[found[SHOWN]]), 0, name)


def check_units(ratios: Mapping[str, float], most: float = 100.0) -> None:
    """Refuse files whose times are all far from what the device could take.

    Parameters
    ----------
    ratios : mapping of str to float
        File to the median of measured over expected time.
    most : float
        Largest believable ratio, either way.

    Raises
    ------
    SpecError
        For every file beyond it.
    """
    problems = [
        Problem(
            f"the median row takes {ratio:.3g} times as long as expected",
            "latency_s is in seconds; if yours is in ms or us, convert it",
            file,
            field="latency_s",
        )
        for file, ratio in ratios.items()
        if not 1 / most < ratio < most
    ]
    if problems:
        raise SpecError(problems)
