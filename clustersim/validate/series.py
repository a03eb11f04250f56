"""Series of runs that differ only in their number of micro-batches: what one more costs.

Strong scaling at a fixed global batch changes the micro-batches of a replica and little else. A
straight line ``step = slope m + intercept`` through measured and through predicted times separates
the error of the steady state (slope) from that of everything paid once a step (intercept: bubble,
data-parallel communication, optimizer, host). Only times that the source prints as seconds enter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clustersim.validate.entries import Entry

LEAST_POINTS = 3


@dataclass(frozen=True)
class Line:
    """Least-squares line of step time over micro-batches. [s per micro-batch], [s]"""

    slope_s: float
    intercept_s: float


def fit_line(micro_batches: Sequence[float], step_s: Sequence[float]) -> Line:
    """Least-squares line through at least two different abscissae.

    Parameters
    ----------
    micro_batches : sequence of float
        Not all equal.
    step_s : sequence of float
        As many. [s]

    Returns
    -------
    Line
        Through the mean of both; the intercept may be negative.
    """
    count = len(micro_batches)
    mean_x, mean_y = math.fsum(micro_batches) / count, math.fsum(step_s) / count
    spread = math.fsum((x - mean_x) ** 2 for x in micro_batches)
    covariance = math.fsum(
        (x - mean_x) * (y - mean_y) for x, y in zip(micro_batches, step_s, strict=True)
    )
    slope = covariance / spread
    return Line(slope, mean_y - slope * mean_x)


def series_report(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Slope and intercept, measured and predicted, of every series among the entries.

    Parameters
    ----------
    entries : sequence of Entry
        Skipped ones, and times that were converted from another figure, are left out.

    Returns
    -------
    list of dict
        One a series with at least `LEAST_POINTS` different numbers of micro-batches. `slope_error`
        is a fraction, None where the measured slope is 0; the intercepts differ by
        `intercept_difference_s`, predicted less measured. [s]
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.series and entry.status == "ok" and entry.derived_from is None:
            groups.setdefault(entry.series, []).append(entry)
    report = []
    for key, members in groups.items():
        counts = [entry.micro_batches or 0 for entry in members]
        if len(set(counts)) >= LEAST_POINTS:
            report.append(_row(key, members, counts))
    return report


def _row(key: str, members: Sequence[Entry], counts: Sequence[int]) -> dict[str, Any]:
    measured = fit_line(counts, [entry.measured or 0.0 for entry in members])
    predicted = fit_line(counts, [entry.predicted or 0.0 for entry in members])
    gpus = [entry.gpus or 0 for entry in members]
    return {
        "series": f"{members[0].source}, {key}",
        "points": len(members),
        "gpus": [min(gpus), max(gpus)],
        "micro_batches": [min(counts), max(counts)],
        "measured": {"slope_s": measured.slope_s, "intercept_s": measured.intercept_s},
        "predicted": {"slope_s": predicted.slope_s, "intercept_s": predicted.intercept_s},
        "slope_error": predicted.slope_s / measured.slope_s - 1 if measured.slope_s else None,
        "intercept_difference_s": predicted.intercept_s - measured.intercept_s,
    }
