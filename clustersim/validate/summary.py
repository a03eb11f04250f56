"""Errors of many entries in a few numbers.

An error is ``predicted / measured - 1``, a fraction. Percentiles are by nearest rank: of ``n``
sorted values the ``ceil(p n)``-th, so that every figure of the table is the error of one case.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clustersim.validate.entries import Entry

LEAST_FOR_RANKS = 3  # a rank correlation of two points says nothing
LEAST_OF_SERIES = 4  # concurrencies of a series that is judged by rank
RANKED = "ttft_s_mean"  # judged by rank over concurrency
# Metrics of one family are one measurement: a row counts once in each.
FAMILIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "makespan_s", "power_w")


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
    """Summary rows: all, rows with nothing inferred, by evidence, metric, source and device.

    Parameters
    ----------
    entries : sequence of Entry
        Of training and serving alike.

    Returns
    -------
    list of dict
        Rows of `summary_row`, then those of `serving_summary`. Names within a group are in the
        order in which they first appear; entries without one are in no such row.
    """
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
    rows = [
        summary_row(group, [entry for entry in entries if belongs(entry)])
        for group, belongs in groups
    ]
    return rows + serving_summary(entries)


def serving_summary(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Further summary rows where there are serving entries.

    One has each row once in every family of metrics; one has the rank correlation of TTFT over
    concurrency, the mean and the median over series, beside the errors of their entries.

    Parameters
    ----------
    entries : sequence of Entry
        Those of training are passed over.

    Returns
    -------
    list of dict
        None, one or two rows. `bias` of the first is None: its errors are absolute. The second has
        `spearman` and `spearman_median` besides, from -1 to 1.
    """
    rows = []
    if once := once_each(entries):
        row = {"group": "serving, a row once a family", "cases": len(once), "skipped": 0}
        rows.append({**row, **error_statistics(once), "bias": None})
    groups = [group for group in series_of(entries) if group.spearman is not None]
    if groups:
        found = [group.spearman for group in groups if group.spearman is not None]
        every = [entry for group in groups for entry in group.entries]
        errors = [entry.error for entry in every if entry.error is not None]
        rows.append(
            {
                "group": f"{RANKED} over concurrency, by series",
                "cases": len(groups),
                "skipped": 0,
                **error_statistics(errors),
                "spearman": math.fsum(found) / len(found),
                "spearman_median": nearest_rank(found, 0.5),
            }
        )
    return rows


def once_each(entries: Sequence[Entry]) -> list[float]:
    """Mean absolute error of each row and family of serving metrics.

    Parameters
    ----------
    entries : sequence of Entry
        Metrics of no family, and entries without an error, are left out.

    Returns
    -------
    list of float
        At least 0, in the order in which row and family first appear. [fraction]
    """
    sizes: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        family = metric_family(entry.metric)
        if family is not None and entry.error is not None:
            sizes.setdefault((entry.id, family), []).append(abs(entry.error))
    return [math.fsum(found) / len(found) for found in sizes.values()]


def metric_family(metric: str | None) -> str | None:
    """Family of a serving metric: times without their statistic, or throughput.

    Parameters
    ----------
    metric : str or None
        Such as `ttft_s_p90`.

    Returns
    -------
    str or None
        One of `FAMILIES`; `throughput` for all rates; None for metrics of training.
    """
    if metric is None:
        return None
    if metric.endswith("_per_s"):
        return "throughput"
    return next((family for family in FAMILIES if metric.startswith(family)), None)


@dataclass(frozen=True)
class Series:
    """Entries of one configuration at several concurrencies, and how well they are ranked."""

    name: str
    entries: tuple[Entry, ...]
    spearman: float | None


def series_of(entries: Sequence[Entry]) -> list[Series]:
    """Series of the ranked metric; fewer than `LEAST_OF_SERIES` concurrencies are not judged.

    Replicates count by their median. Predictions that do not change over concurrency rank nothing:
    their correlation is 0. Measured values that do not change have no ranks to predict: they are
    not judged.

    Parameters
    ----------
    entries : sequence of Entry
        Those of other metrics, without a series or skipped are left out.

    Returns
    -------
    list of Series
        One a source and configuration; `spearman` is None where it is not judged.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if entry.metric == RANKED and entry.series is not None and entry.status == "ok":
            groups.setdefault((entry.source, entry.series), []).append(entry)
    found = []
    for (_, name), members in groups.items():
        predicted = _medians(members, lambda entry: entry.predicted)
        measured = _medians(members, lambda entry: entry.measured)
        rho = None
        if len(predicted) >= LEAST_OF_SERIES and len(set(measured)) > 1:
            rho = spearman(predicted, measured) or 0.0
        found.append(Series(name, tuple(members), rho))
    return found


def _medians(entries: Sequence[Entry], value: Callable[[Entry], float | None]) -> list[float]:
    """Median of a value at each concurrency, by rising concurrency."""
    groups: dict[int, list[float]] = {}
    for entry in entries:
        number = value(entry)
        if entry.concurrency is not None and number is not None:
            groups.setdefault(entry.concurrency, []).append(number)
    return [statistics.median(groups[key]) for key in sorted(groups)]


def summary_row(group: str, entries: Iterable[Entry]) -> dict[str, Any]:
    """One row: how many were compared, how many skipped, and the errors of the compared.

    Parameters
    ----------
    group : str
        Title of the row.
    entries : iterable of Entry

    Returns
    -------
    dict
        `group`, the counts `cases` and `skipped`, and the keys of `error_statistics`.
    """
    entries = list(entries)
    errors = [entry.error for entry in entries if entry.error is not None]
    return {
        "group": group,
        "cases": len(errors),
        "skipped": sum(entry.status == "skipped" for entry in entries),
        **error_statistics(errors),
    }


def error_statistics(errors: Sequence[float]) -> dict[str, float | None]:
    """Median, mean and 90th percentile of absolute errors, and the mean error.

    Parameters
    ----------
    errors : sequence of float
        Signed. [fraction]

    Returns
    -------
    dict
        `median_ape`, `mape`, `p90_ape` and `bias`, all None where there are no errors. [fraction]
    """
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
    """Spearman's rank correlation of predicted and measured step times, by source.

    Parameters
    ----------
    entries : sequence of Entry
        Compared step times count.

    Returns
    -------
    list of dict
        One a source with at least `LEAST_FOR_RANKS` cases; `spearman` is None where all its
        predicted or all its measured times are equal.
    """
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
    """Rank correlation, ties given their mean rank.

    Parameters
    ----------
    x, y : sequence of float
        As many of one as of the other.

    Returns
    -------
    float or None
        From -1 to 1; None where one side is constant, as it is with fewer than two values.
    """
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
