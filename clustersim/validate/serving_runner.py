"""Published serving rows through the simulator: one entry a scored metric.

Runs of one configuration of a replica share a process, so that its prices are computed once; equal
runs share their result (rule 18). Entries do not depend on how runs were dealt to processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from clustersim.errors import ClusterSimError
from clustersim.run.replicas import PriceBook
from clustersim.validate.entries import Entry
from clustersim.validate.pool import in_processes
from clustersim.validate.serving_csv import series_of_point
from clustersim.validate.serving_play import REFUSED, Metrics, predict
from clustersim.validate.serving_points import convert_point
from clustersim.validate.serving_records import ServingRow, ServingRun
from clustersim.validate.serving_rows import check_complete, convert_row
from clustersim.validate.serving_stack import Stock, shipped_stock

MOST_RUNS = 24  # that are dealt to one process at once
NOT_SCORED = "nothing of this row is scored"


@dataclass(frozen=True)
class Answer:
    """Metrics of one row, or why there are none."""

    metrics: Metrics
    assumed: tuple[str, ...] = ()
    gpus: int | None = None
    reason: str | None = None


def run_serving(
    rows: Sequence[ServingRow], jobs: int = 1, stock: Stock | None = None
) -> list[Entry]:
    """Run serving rows and compare what they score.

    Parameters
    ----------
    rows : sequence of ServingRow
    jobs : int
        Processes; the result does not depend on it.
    stock : Stock, optional
        Devices and engines; those that ship by default.

    Returns
    -------
    list of Entry
        In the order of the rows; a row that scores nothing is one skipped entry.
    """
    if not rows:
        return []
    stock = stock or shipped_stock()
    runs: dict[str, ServingRun] = {}
    keys: list[str] = []
    answers: dict[int, Answer] = {}
    for index, row in enumerate(rows):
        key = ""
        try:
            run = _convert(row, stock)
            key = _key(run)
            runs.setdefault(key, run)
            answers[index] = Answer({}, run.assumed, run.scenario.gpus)
        except ClusterSimError as error:
            answers[index] = Answer({}, reason=_first_line(error))
        keys.append(key)
    results = _results(runs, jobs)
    found: list[Entry] = []
    for index, (row, key) in enumerate(zip(rows, keys, strict=True)):
        answer = answers[index]
        if key:
            result = results[key]
            assumed = answer.assumed
            if refused := result.metrics.get(REFUSED):
                assumed += (f"{refused:,.0f} requests are longer than the cache: refused",)
            answer = replace(result, assumed=assumed, gpus=answer.gpus)
        found += _entries(row, answer)
    return found


def _convert(row: ServingRow, stock: Stock) -> ServingRun:
    if not row.scored:
        check_complete(row.data)
        raise ClusterSimError(NOT_SCORED)
    return convert_point(row, stock) if row.is_point else convert_row(row, stock)


def _first_line(error: ClusterSimError) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _price_key(run: ServingRun) -> str:
    """What prices depend on, all but the load."""
    return run.scenario.model_dump_json(exclude={"name", "workload", "slo", "run"})


def _key(run: ServingRun) -> str:
    """What a result depends on."""
    load = run.scenario.workload.model_dump_json()
    words = f"{_price_key(run)}{load}{run.protocol}{run.draws}{run.kv_tokens}{run.step}"
    return hashlib.sha256(words.encode()).hexdigest()


def _results(runs: Mapping[str, ServingRun], jobs: int) -> dict[str, Answer]:
    """Answer of every run by its key."""
    parts = in_processes(_run_batch, _batches(runs), jobs)
    return {key: answer for part in parts for key, answer in part.items()}


def _batches(runs: Mapping[str, ServingRun]) -> Iterator[dict[str, ServingRun]]:
    """Runs that share prices, the batches with most runs first."""
    groups: dict[str, list[str]] = {}
    for key, run in runs.items():
        groups.setdefault(_price_key(run), []).append(key)
    for keys in sorted(groups.values(), key=len, reverse=True):
        for start in range(0, len(keys), MOST_RUNS):
            yield {key: runs[key] for key in keys[start : start + MOST_RUNS]}


def _run_batch(batch: Mapping[str, ServingRun]) -> dict[str, Answer]:
    book, found = PriceBook(), {}
    for key, run in batch.items():
        try:
            found[key] = Answer(predict(run, book))
        except ClusterSimError as error:
            found[key] = Answer({}, reason=_first_line(error))
    return found


def _entries(row: ServingRow, answer: Answer) -> list[Entry]:
    """One entry a scored metric; one without a metric where nothing is scored."""
    series = series_of_point(row.data) if row.is_point else None
    cell = str(row.data.get("concurrency") or "") if row.is_point else ""
    blank = Entry(
        id=row.id,
        source=row.source,
        device=row.device,
        status="skipped",
        reason=answer.reason,
        metric=None,
        assumed=answer.assumed,
        gpus=answer.gpus,
        series=series,
        concurrency=int(cell) if cell.isdecimal() else None,
    )
    if not row.scored:
        return [blank]
    return [_compare(replace(blank, metric=name), row, answer) for name in row.scored]


def _compare(entry: Entry, row: ServingRow, answer: Answer) -> Entry:
    name = str(entry.metric)
    measured = row.scored[name]
    if answer.reason is not None:
        return entry
    if not isinstance(measured, int | float) or not measured > 0:
        return replace(entry, reason=f"{name} is {measured}")
    predicted = answer.metrics.get(name)
    if predicted is None:
        return replace(entry, reason=f"{name} is not defined by such a run")
    return replace(
        entry,
        status="ok",
        predicted=predicted,
        measured=float(measured),
        error=predicted / float(measured) - 1.0,
    )
