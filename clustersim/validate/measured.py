"""Measured kernels and collectives against the cost models: error by device, operator and type.

Every row of a file is compared or counted as skipped; nothing is dropped. Conditions are those of a
micro-benchmark: one call on an idle device, at the clock of a short kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.measured.catalogue import STEMS, families
from clustersim.cost.measured.family import Family
from clustersim.cost.measured.rows import Rows, known_device, read_rows
from clustersim.errors import ClusterSimError, Problem, SpecError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.resolve import load_profile
from clustersim.validate.pool import in_processes

FEW_ROWS = 200_000  # priced sooner than processes start
SAMPLE = 400  # points of one plot
FRACTIONS = frozenset(("median_ape", "mape", "p90_ape", "max_ape", "bias"))
COLUMNS = (
    *("device", "op", "dtype", "variant", "rows", "skipped"),
    *("median_ape", "mape", "p90_ape", "bias"),
)


@dataclass(frozen=True)
class Cloud:
    """A sample of the compared rows of one device and file, for a plot.

    Attributes
    ----------
    measured_s, predicted_s : ndarray (n,)
        [s]
    kinds : ndarray of str (n,)
        Datatype of each.
    rows : int
        Compared rows that the sample stands for.
    mape : float
        Of all of them.
    """

    device: str
    op: str
    measured_s: NDArray[np.float64]
    predicted_s: NDArray[np.float64]
    kinds: NDArray[np.str_]
    rows: int
    mape: float


@dataclass(frozen=True)
class MeasuredReport:
    """What a directory of measurements says of the cost models.

    Attributes
    ----------
    groups : tuple of dict
        One a device, op, dtype and variant, with the keys of `COLUMNS`.
    reasons : tuple of (str, str, str, int)
        Device, op, why rows were skipped, and how many.
    clouds : tuple of Cloud
    """

    groups: tuple[dict[str, Any], ...]
    reasons: tuple[tuple[str, str, str, int], ...]
    clouds: tuple[Cloud, ...]

    @property
    def compared(self) -> int:
        """Rows with a prediction."""
        return sum(group["rows"] - group["skipped"] for group in self.groups)

    def document(self) -> dict[str, Any]:
        """The report as JSON (DESIGN, section 3)."""
        return {"measured": list(self.groups)}


def measured_files(folder: Path) -> list[Path]:
    """Parquet files of a directory, in the order of the schema, unknown names last.

    Parameters
    ----------
    folder : Path
        Searched itself, not its subfolders.

    Returns
    -------
    list of Path
        At least one.

    Raises
    ------
    SpecError
        If there is no such directory or nothing in it.
    """
    if not folder.is_dir():
        raise SpecError(Problem("is not a folder", "name a folder of Parquet files", str(folder)))
    found = sorted(folder.glob("*.parquet"))
    if not found:
        fix = f"put files in it such as {STEMS[0]}.parquet"
        raise SpecError(Problem("the folder holds no Parquet files", fix, str(folder)))
    order = {stem: index for index, stem in enumerate(STEMS)}
    return sorted(found, key=lambda path: (order.get(path.stem, len(order)), path.name))


def validate_measured(folder: Path, jobs: int | None = None) -> MeasuredReport:
    """Compare every row of a directory with its prediction.

    Parameters
    ----------
    folder : Path
        Parquet files in the measured schema, one a family; further columns are ignored.
    jobs : int, optional
        Processes; the result does not depend on it. By default one a core, one in all for few rows.

    Raises
    ------
    SpecError
        For every file that cannot be read or lacks a column.
    """
    parts = plan(measured_files(folder))
    if jobs is None:
        few = sum(part.rows for part in parts) < FEW_ROWS
        jobs = 1 if few else os.cpu_count() or 1
    order = sorted(range(len(parts)), key=lambda index: -parts[index].rows)
    found = dict(zip(order, in_processes(compare, [parts[i] for i in order], jobs), strict=True))
    reports = [found[index] for index in range(len(parts))]
    return MeasuredReport(
        groups=tuple(group for report in reports for group in report.groups),
        reasons=tuple(reason for report in reports for reason in report.reasons),
        clouds=tuple(cloud for report in reports for cloud in report.clouds),
    )


@dataclass(frozen=True)
class Part:
    """The rows of one device in one file."""

    path: Path
    device: str
    rows: int


def plan(files: Iterable[Path]) -> list[Part]:
    """Look into files: the devices of each, by name.

    Parameters
    ----------
    files : iterable of Path
        Parquet. A name that is no family's is accepted: its rows will count as skipped.

    Returns
    -------
    list of Part
        One a file and device, in the order of the files; an empty file has none.

    Raises
    ------
    SpecError
        For every file that cannot be read or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[Part] = []
    problems: list[Problem] = []
    for path in files:
        family = families([path.stem])[0].get(path.stem)
        needed = ("device", "latency_s", *(family.required if family else ()))
        try:
            file = pq.ParquetFile(path)
            names = file.schema_arrow.names
            lacking = [name for name in needed if name not in names]
            counts = {} if lacking else _counts(file.read(columns=["device"]).column(0))
        except pa.ArrowInvalid as error:
            problems.append(Problem(f"cannot be read: {error}", "give Parquet files", str(path)))
            continue
        fix = f"the family {path.stem} needs it"
        problems += [Problem(f"column {name} is missing", fix, str(path)) for name in lacking]
        parts += [Part(path, name, counts[name]) for name in sorted(counts)]
    if problems:
        raise SpecError(problems)
    return parts


def _counts(names: Any) -> dict[str, int]:
    """Rows of each device of a column; "" where it is missing."""
    found = names.cast("string").fill_null("").value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in found}


def compare(part: Part) -> MeasuredReport:
    """Compare the rows of one device in one file; the file's stem names the family.

    Parameters
    ----------
    part : Part
        The result depends on it alone, so that parts can be compared in any process.

    Returns
    -------
    MeasuredReport
        Of these rows. A device in no catalogue, or a profile without what the family needs, makes
        all of them skipped, with the reason.

    Raises
    ------
    SpecError
        If the file cannot be read as Parquet.
    """
    stem, device = part.path.stem, part.device
    found, missing = families([stem])
    family = found.get(stem)
    rows = read_rows(part.path, stem, device)
    predicted_s, why = _predict(rows, device, family, missing.get(stem, ""))
    error = _errors(predicted_s, rows.columns["latency_s"].astype(np.float64))
    variant = family.variant(rows.columns) if family else _own_variant(rows)
    open_rows = int((~np.isfinite(error)).sum())
    why = why or "outside the domain of the model"
    return MeasuredReport(
        groups=tuple(_groups(device, stem, rows, variant, error)),
        reasons=((device, stem, why, open_rows),) if open_rows else (),
        clouds=(_cloud(device, rows, predicted_s, error),) if open_rows < rows.count else (),
    )


def _predict(
    rows: Rows, name: str, family: Family | None, reason: str
) -> tuple[NDArray[np.float64], str]:
    """Seconds of each row, NaN where there are none, and why there are none at all."""
    nothing = np.full(rows.count, np.nan)
    if family is None:
        return nothing, reason
    device = known_device(name)
    if device is None:
        return nothing, f"device {name} is in no catalogue"
    try:
        profile = _profile(device.profile)
        return predict_rows(family, rows, device, profile), ""
    except ClusterSimError as error:
        return nothing, str(error).splitlines()[0]


@cache
def _profile(name: str) -> Profile:
    return load_profile(name)


def predict_rows(
    family: Family, rows: Rows, device: Device, profile: Profile
) -> NDArray[np.float64]:
    """Seconds of each row, section by section where the profile lacks some.

    Parameters
    ----------
    family : Family
        How such rows are priced.
    rows : Rows
        Of one device.
    device, profile
        The accelerator and its fitted behaviour.

    Returns
    -------
    ndarray (n,)
        NaN outside the domain of the model; a section that the profile lacks is outside. [s]

    Raises
    ------
    ClusterSimError
        If sections fail and no row at all is priced: the first error.
    """
    try:
        return np.asarray(family.predict(rows.columns, device, profile), dtype=np.float64)
    except ClusterSimError:
        sections = family.sections(rows.columns)
    found = np.full(rows.count, np.nan)
    failure: ClusterSimError | None = None
    for section in np.unique(sections[sections != ""]):
        chosen = np.flatnonzero(sections == section)
        part = rows.take(chosen)
        try:
            found[chosen] = family.predict(part.columns, device, profile)
        except ClusterSimError as error:
            failure = failure or error
    if failure is not None and not np.isfinite(found).any():
        raise failure
    return found


def _errors(
    predicted_s: NDArray[np.float64], measured_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Predicted over measured less one; NaN where either is not a positive time."""
    usable = (predicted_s > 0) & np.isfinite(predicted_s) & (measured_s > 0)
    usable &= np.isfinite(measured_s)
    error = np.full(measured_s.size, np.nan)
    error[usable] = predicted_s[usable] / measured_s[usable] - 1
    return error


def _own_variant(rows: Rows) -> NDArray[np.str_]:
    for name in ("op", "collective", "mode"):
        if name in rows.columns:
            return rows.columns[name].astype(str)
    return np.full(rows.count, "", dtype="<U1")


def _groups(
    device: str, op: str, rows: Rows, variant: NDArray[np.str_], error: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """One entry a datatype and variant, sorted."""
    dtypes, dtype_code = np.unique(_dtypes(rows), return_inverse=True)
    variants, variant_code = np.unique(variant.astype(str), return_inverse=True)
    code = dtype_code * variants.size + variant_code
    entries = []
    for value in np.unique(code):
        errors = error[code == value]
        compared = errors[np.isfinite(errors)]
        entries.append(
            {
                "device": device,
                "op": op,
                "dtype": str(dtypes[value // variants.size]),
                "variant": str(variants[value % variants.size]),
                "rows": int(errors.size),
                "skipped": int(errors.size - compared.size),
                **statistics(compared),
            }
        )
    return entries


def _dtypes(rows: Rows) -> NDArray[np.str_]:
    column = rows.columns.get("dtype")
    return np.full(rows.count, "", dtype="<U1") if column is None else column.astype(str)


def statistics(errors: NDArray[np.float64]) -> dict[str, float | None]:
    """Median, mean and 90th percentile (nearest rank) of absolute errors, and the mean error.

    Parameters
    ----------
    errors : ndarray (n,)
        Finite; None of everything where it is empty. [fraction]
    """
    if not errors.size:
        return {"median_ape": None, "mape": None, "p90_ape": None, "bias": None}
    ordered = np.sort(np.abs(errors))

    def rank(share: float) -> float:
        return float(ordered[max(0, int(np.ceil(share * ordered.size)) - 1)])

    return {
        "median_ape": rank(0.5),
        "mape": float(ordered.mean()),
        "p90_ape": rank(0.9),
        "bias": float(errors.mean()),
    }


def _cloud(
    device: str, rows: Rows, predicted_s: NDArray[np.float64], error: NDArray[np.float64]
) -> Cloud:
    compared = np.flatnonzero(np.isfinite(error))
    step = -(-compared.size // SAMPLE)
    # every n-th by measured time, so that the sample spans the range and is the same each run
    by_time = compared[np.argsort(rows.columns["latency_s"][compared], kind="stable")]
    chosen = by_time[step // 2 :: step]
    return Cloud(
        device=device,
        op=rows.stem,
        measured_s=rows.columns["latency_s"][chosen].astype(np.float64),
        predicted_s=predicted_s[chosen],
        kinds=_dtypes(rows)[chosen],
        rows=int(compared.size),
        mape=float(np.abs(error[compared]).mean()),
    )


def summary_groups(report: MeasuredReport) -> list[dict[str, Any]]:
    """Errors by device and op over all datatypes and variants, medians left out.

    Parameters
    ----------
    report : MeasuredReport

    Returns
    -------
    list of dict
        With `rows` and `skipped` as counts, `mape` and `bias` weighted by compared rows [fraction],
        None where no row was compared.
    """
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for group in report.groups:
        key = (group["device"], group["op"])
        entry = table.setdefault(
            key, {"device": key[0], "op": key[1], "rows": 0, "skipped": 0, "mape": 0.0, "bias": 0.0}
        )
        compared = group["rows"] - group["skipped"]
        entry["rows"] += group["rows"]
        entry["skipped"] += group["skipped"]
        if compared:
            entry["mape"] += compared * group["mape"]
            entry["bias"] += compared * group["bias"]
    for entry in table.values():
        compared = entry["rows"] - entry["skipped"]
        for name in ("mape", "bias"):
            entry[name] = entry[name] / compared if compared else None
    return list(table.values())


def table_cells(entries: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    """Entries as text.

    Parameters
    ----------
    entries : iterable of mapping
        Each with all the names.
    names : sequence of str
        Columns, in order. `FRACTIONS` are written as per cent, `bias` with its sign, None as "-";
        counts have their thousands apart.

    Returns
    -------
    list of list of str
        A list an entry.
    """
    return [[_cell(name, entry[name]) for name in names] for entry in entries]


def _cell(name: str, value: Any) -> str:
    from clustersim.validate.table import percent

    if name in FRACTIONS:
        return percent(value, sign=name == "bias")
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else str(value)


def _open(report: MeasuredReport) -> list[tuple[str, str, str, str]]:
    """Skipped rows by op and reason, over all devices."""
    counts: dict[tuple[str, str], list[int]] = {}
    for _, op, why, count in report.reasons:
        counts.setdefault((op, why), []).append(count)
    return [(op, f"{sum(found):,}", str(len(found)), why) for (op, why), found in counts.items()]


def render_measured(report: MeasuredReport) -> str:
    """The report as plain text: by datatype, by operator, and what was skipped.

    Parameters
    ----------
    report : MeasuredReport

    Returns
    -------
    str
        Skipped rows are summed over the devices, by operator and reason.
    """
    from clustersim.validate.table import plain_table

    summary = ("device", "op", "rows", "skipped", "mape", "bias")
    parts = [
        plain_table(COLUMNS, table_cells(report.groups, COLUMNS)),
        "all datatypes\n" + plain_table(summary, table_cells(summary_groups(report), summary)),
    ]
    if report.reasons:
        parts.append("skipped\n" + plain_table(("op", "rows", "devices", "reason"), _open(report)))
    return "\n\n".join(parts)
