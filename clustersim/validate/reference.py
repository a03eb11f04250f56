"""Collective times that another simulator printed, against the textbook phases.

Rows have the schema of ASTRA-sim's analytical backends: link rates in 2^30 bytes/s, all_gather
counted by its input shard, latency of each link. Rows whose algorithm has no textbook form here are
skipped with a reason.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clustersim.cost.collectives.phases import Dimension, Endpoint, phases_s
from clustersim.errors import ModelDomainError, Problem, SpecError
from clustersim.validate.measured import statistics, table_cells

ALGORITHMS = {"ring": "ring", "direct": "direct", "halvingDoubling": "halving_doubling"}
LINKS = {"Ring": 1, "FullyConnected": 1, "Switch": 2}  # on a path; to a switch up and down
TOPOLOGY = re.compile(r"([A-Za-z]+)([1-9][0-9]{0,8})")  # of a dimension: its kind and ranks
KEYS = ("backend", "topology", "collective", "algorithm", "physical")
COLUMNS = (*KEYS, "rows", "skipped", "median_ape", "max_ape")
REQUIRED = (
    *KEYS,
    *("npus", "link_bandwidth_GBps", "link_latency_ns", "bytes", "chunks", "time_ns"),
    *("endpoint_delay_ns", "local_mem_bw_GBps", "collective_optimization"),
)
POSITIVE, DELAY, COUNT = "a positive number", "a number of at least 0", "a whole number above 0"
# What a column holds: of each dimension where its name starts with "link_".
NUMBERS = {
    "time_ns": POSITIVE,
    "bytes": POSITIVE,
    "local_mem_bw_GBps": POSITIVE,
    "link_bandwidth_GBps": POSITIVE,
    "link_latency_ns": DELAY,
    "endpoint_delay_ns": DELAY,
    "npus": COUNT,
    "chunks": COUNT,
}


@dataclass(frozen=True)
class ReferenceReport:
    """Errors by backend, topology, collective, algorithm and whether the row is physical.

    Attributes
    ----------
    groups : tuple of dict
        With the keys of `COLUMNS`.
    reasons : dict of str to int
        Why rows were skipped, and how many.
    """

    groups: tuple[dict[str, Any], ...]
    reasons: dict[str, int]

    @property
    def compared(self) -> int:
        """Rows with a prediction."""
        return sum(group["rows"] - group["skipped"] for group in self.groups)

    def document(self) -> dict[str, Any]:
        """The report as JSON (DESIGN, section 3)."""
        return {"reference": list(self.groups)}


def reference_s(row: Mapping[str, str]) -> float:
    """Our time of one row. [s]

    Parameters
    ----------
    row : mapping of str to str
        As `read_reference` has checked it.

    Raises
    ------
    ModelDomainError
        If an algorithm or topology has no textbook form here.
    """
    latencies = [float(value) * 1e-9 for value in row["link_latency_ns"].split(";")]
    rates = [float(value) * 2**30 for value in row["link_bandwidth_GBps"].split(";")]
    dimensions = []
    names = zip(row["topology"].split("x"), row["algorithm"].split(";"), strict=True)
    for (name, algorithm), latency_s, rate in zip(names, latencies, rates, strict=True):
        if algorithm not in ALGORITHMS:
            raise ModelDomainError(f"algorithm {algorithm} has no textbook form here")
        kind = name.rstrip("0123456789")
        if kind not in LINKS:
            raise ModelDomainError(f"topology {kind} has no textbook form here")
        ranks = int(name[len(kind) :])
        dimensions.append(Dimension(ranks, ALGORITHMS[algorithm], LINKS[kind] * latency_s, rate))
    chunks, size = int(row["chunks"]), float(row["bytes"])
    if row["collective"] == "all_gather":
        size *= int(row["npus"])
    endpoint = Endpoint(
        float(row["endpoint_delay_ns"]) * 1e-9, float(row["local_mem_bw_GBps"]) * 1e9
    )
    shrink = row["collective_optimization"] != "baseline"
    return chunks * phases_s(row["collective"], size / chunks, dimensions, endpoint, shrink)


def read_reference(path: Path) -> list[dict[str, str]]:
    """Rows of a reference file.

    Parameters
    ----------
    path : Path
        CSV with the columns `REQUIRED`; further ones are kept.

    Returns
    -------
    list of dict
        Text by column, in the order of the file; at least one.

    Raises
    ------
    SpecError
        For a file that cannot be read or has no rows, for every column that is missing, and for
        everything in a row that `reference_s` could not read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
            rows = [] if lacking else [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fix = "name a CSV file of collective times"
        raise SpecError(Problem(f"cannot be read: {reason}", fix, str(path))) from None
    if lacking:
        fix = "the file needs the columns of a reference file"
        raise SpecError([Problem(f"column {name} is missing", fix, str(path)) for name in lacking])
    problems = [
        Problem(message, fix, str(path), line, 0, name)
        for line, row in rows
        for name, message, fix in _mistakes(row)
    ]
    if not rows:
        problems.append(Problem("the file has no rows", "write one below the header", str(path)))
    if problems:
        raise SpecError(problems)
    return [row for _, row in rows]


def _mistakes(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Columns of a row that cannot be read, what is wrong with each, and what would work."""
    if None in row or None in row.values():
        yield "", "has not one value for each column of the header", "write one for each"
        return
    parts = row["topology"].split("x")
    for part in parts:
        if not TOPOLOGY.fullmatch(part):
            fix = "write kind and ranks of each dimension, such as Ring8xSwitch4"
            yield "topology", f"{part!r} is no dimension", fix
    for name in ("algorithm", "link_bandwidth_GBps", "link_latency_ns"):
        if (count := len(row[name].split(";"))) != len(parts):
            message = f"{row[name]!r} is {count} values for {len(parts)} dimensions"
            yield name, message, f"write {len(parts)}, with ; between them"
    for name, what in NUMBERS.items():
        for text in row[name].split(";") if name.startswith("link_") else [row[name]]:
            if not _is_number(text, what):
                yield name, f"{text!r} is not {what}", f"write {what}"


def _is_number(text: str, what: str) -> bool:
    try:
        value = float(int(text) if what == COUNT else text)
    except (ValueError, OverflowError):
        return False
    return 0 < value < math.inf or (value == 0 and what == DELAY)


def validate_reference(path: Path) -> ReferenceReport:
    """Compare every row of a reference file.

    Parameters
    ----------
    path : Path
        CSV; `read_reference` says what is refused.

    Returns
    -------
    ReferenceReport
        A row whose algorithm or topology has no textbook form here is skipped, with the reason.

    Raises
    ------
    SpecError
        As `read_reference`.
    """
    errors: dict[tuple[Any, ...], list[float]] = {}
    reasons: dict[str, int] = {}
    for row in read_reference(path):
        key = (*(row[name] for name in KEYS[:-1]), row["physical"] == "True")
        try:
            error = reference_s(row) / (float(row["time_ns"]) * 1e-9) - 1
        except ModelDomainError as refusal:
            reasons[str(refusal)] = reasons.get(str(refusal), 0) + 1
            error = math.nan
        errors.setdefault(key, []).append(error)
    return ReferenceReport(tuple(_group(key, errors[key]) for key in sorted(errors)), reasons)


def _group(key: Sequence[Any], errors: Sequence[float]) -> dict[str, Any]:
    compared = np.array([error for error in errors if math.isfinite(error)])
    return {
        **dict(zip(KEYS, key, strict=True)),
        "rows": len(errors),
        "skipped": len(errors) - compared.size,
        "median_ape": statistics(compared)["median_ape"],
        "max_ape": float(np.abs(compared).max()) if compared.size else None,
    }


def render_reference(report: ReferenceReport) -> str:
    """The report as plain text, with why rows were skipped.

    Parameters
    ----------
    report : ReferenceReport

    Returns
    -------
    str
        Errors as per cent, "-" where no row of a group was compared.
    """
    from clustersim.validate.table import plain_table

    parts = [plain_table(COLUMNS, table_cells(report.groups, COLUMNS))]
    if report.reasons:
        cells = [(f"{count:,}", reason) for reason, count in report.reasons.items()]
        parts.append("skipped\n" + plain_table(("rows", "reason"), cells))
    return "\n\n".join(parts)
