"""Errors of many entries in a few numbers.

An error is ``predicted / measured - 1``, a fraction. Percentiles are by nearest rank: of ``n``
sorted values the ``ceil(p n)``-th, so that every figure of the table is the error of one case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from clustersim.validate.entries import Entry

LEAST_FOR_RANKS = 3  # a rank correlation of two points says nothing


def nearest_rank(values: Sequence[float], share: float) -> float:
    """Percentile by nearest rank.

    Parameters
    ----------
    values : sequence of float
        At least one, in any order.
    share : float
        0.9 for the 90th percentile.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarise(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Summary rows: all, rows with nothing inferred, by evidence, metric, source and device."""
    groups: list[tuple[str, Callable[[Entry], bool]]] = [
        ("all", lambda entry: True),
        ("nothing inferred", lambda entry: not entry.inferred),
    ]
    by: Mapping[str, Callable[[Entry], str | None]] = {
        "evidence": lambda entry: entry.evidence,
        "metric": lambda entry: entry.metric,
        "source": lambda entry: entry.source,
        "device": lambda entry: entry.device,
    }
    for label, key in by.items():
        names = dict.fromkeys(name for entry in entries if (name := key(entry)))
        groups += [
            (f"{label}: {name}", lambda entry, name=name, key=key: key(entry) == name)  # type: ignore[misc]
            for name in names
        ]
    return [
        summary_row(group, [entry for entry in entries if belongs(entry)])
        for group, belongs in groups
    ]


def summary_row(group: str, entries: Iterable[Entry]) -> dict[str, Any]:
    """One row: how many were compared, how many skipped, and the errors of the compared."""
    entries = list(entries)
    errors = [entry.error for entry in entries if entry.error is not None]
    return {
        "group": group,
        "cases": len(errors),
        "skipped": sum(entry.status == "skipped" for entry in entries),
        **error_statistics(errors),
    }


def error_statistics(errors: Sequence[float]) -> dict[str, float | None]:
    """Median, mean and 90th percentile of absolute errors, and the mean error; None of none."""
    if not errors:
        return {"median_ape": None, "mape": None, "p90_ape": None, "bias": None}
    sizes = [abs(error) for error in errors]
    return {
        "median_ape": nearest_rank(sizes, 0.5),
        "mape": math.fsum(sizes) / len(sizes),
        "p90_ape": nearest_rank(sizes, 0.9),
        "bias": math.fsum(errors) / len(errors),
    }


def rank_correlations(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of predicted and measured step times, by source."""
    rows = []
    steps = [entry for entry in entries if entry.metric == "step_time_s" and entry.status == "ok"]
    for source in dict.fromkeys(entry.source for entry in steps):
        pairs = [
            (entry.predicted, entry.measured)
            for entry in steps
            if entry.source == source and entry.predicted is not None and entry.measured is not None
        ]
        if len(pairs) >= LEAST_FOR_RANKS:
            rho = spearman([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            rows.append({"source": source, "cases": len(pairs), "spearman": rho})
    return rows


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation, ties given their mean rank; None where one side is constant."""
    rank_x, rank_y = _ranks(x), _ranks(y)
    mean = (len(x) + 1) / 2
    covariance = math.fsum((a - mean) * (b - mean) for a, b in zip(rank_x, rank_y, strict=True))
    spread_x = math.fsum((a - mean) ** 2 for a in rank_x)
    spread_y = math.fsum((b - mean) ** 2 for b in rank_y)
    if spread_x == 0 or spread_y == 0:
        return None
    return covariance / math.sqrt(spread_x * spread_y)


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            ranks[index] = (start + 1 + end) / 2
        start = end
    return ranks
