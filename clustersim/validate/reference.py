"""Collective times that another simulator printed, against the textbook phases.

Rows have the schema of ASTRA-sim's analytical backends: link rates in 2^30 bytes/s, all_gather
counted by its input shard, latency of each link. Rows whose algorithm has no textbook form here are
skipped with a reason.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clustersim.cost.collectives.phases import Dimension, Endpoint, phases_s
from clustersim.errors import ModelDomainError, Problem, SpecError
from clustersim.validate.measured import statistics, table_cells

ALGORITHMS = {"ring": "ring", "direct": "direct", "halvingDoubling": "halving_doubling"}
KEYS = ("backend", "topology", "collective", "algorithm", "physical")
COLUMNS = (*KEYS, "rows", "skipped", "median_ape", "max_ape")
REQUIRED = (
    *KEYS,
    *("npus", "link_bandwidth_GBps", "link_latency_ns", "bytes", "chunks", "time_ns"),
    *("endpoint_delay_ns", "local_mem_bw_GBps", "collective_optimization"),
)


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
        As the CSV has it.

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
        links = 2 if kind == "Switch" else 1  # up to the switch and down
        ranks = int(name[len(kind) :])
        dimensions.append(Dimension(ranks, ALGORITHMS[algorithm], links * latency_s, rate))
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
        Text by column, in the order of the file; at least one. Only the times are checked.

    Raises
    ------
    SpecError
        For every column that is missing, and every row whose time is not a positive number; also
        for a file without rows.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        rows = [] if lacking else list(reader)
    if lacking:
        fix = "the file needs the columns of a reference file"
        raise SpecError([Problem(f"column {name} is missing", fix, str(path)) for name in lacking])
    problems = [
        Problem(f"{row['time_ns']!r} is not a time", "a positive number", str(path), line, 0, name)
        for line, row in enumerate(rows, 2)
        if not _is_positive(row[name := "time_ns"])
    ]
    if not rows:
        problems.append(Problem("the file has no rows", "", str(path)))
    if problems:
        raise SpecError(problems)
    return rows


def _is_positive(text: str | None) -> bool:
    try:
        return 0 < float(text or "") < math.inf
    except ValueError:
        return False


def validate_reference(path: Path) -> ReferenceReport:
    """Compare every row of a reference file.

    Parameters
    ----------
    path : Path
        CSV; `read_reference` says what is refused.

    Returns
    -------
    ReferenceReport
        A row whose algorithm has no textbook form here is skipped, with the reason.

    Raises
    ------
    SpecError
        As `read_reference`, and for the first row with a number that cannot be read.
    """
    errors: dict[tuple[Any, ...], list[float]] = {}
    reasons: dict[str, int] = {}
    for line, row in enumerate(read_reference(path), 2):
        key = (*(row[name] for name in KEYS[:-1]), row["physical"] == "True")
        try:
            error = reference_s(row) / (float(row["time_ns"]) * 1e-9) - 1
        except ModelDomainError as refusal:
            reasons[str(refusal)] = reasons.get(str(refusal), 0) + 1
            error = math.nan
        except (ValueError, AttributeError) as mistake:
            raise SpecError(Problem(f"cannot be read: {mistake}", "", str(path), line)) from None
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
