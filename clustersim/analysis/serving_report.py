"""The answer to a serving question in words, from the document that ``--json`` prints.

Only the charts over time need more than the document: samples of a replica.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clustersim.analysis.screen import (
    Document,
    bar,
    chart,
    gpus_of,
    hung,
    print_memory,
    say,
    table_of,
    title,
)
from clustersim.units import (
    format_bytes,
    format_count,
    format_fixed,
    format_percent,
    format_rate,
    format_seconds,
)

if TYPE_CHECKING:
    from rich.console import Console

Floats = NDArray[np.float64]

LEAST_SHOWN = 0.0005  # of the time; smaller parts share a line
CHART = 64  # columns of a chart over time
FULL = 0.95  # offered load over capacity from which queues grow
MILLION = 1e6

STATS = ("mean", "p50", "p90", "p95", "p99")
LATENCIES = {
    "queue_s": "waiting in the queue",
    "ttft_s": "to the first token (TTFT)",
    "tpot_s": "a later token (TPOT)",
    "itl_s": "gap between tokens (ITL)",
    "e2e_s": "whole request (E2E)",
}
LABELS = {
    "products": "matrix products: weights of layers",
    "experts": "experts",
    "exchange": "exchange between experts and stages",
    "all_reduce": "tensor-parallel communication",
    "passes": "elementwise kernels",
    "head": "output head and sampling",
    "draft": "drafting tokens",
    "attention": "attention over the KV cache",
    "lockstep": "waiting for the fullest attention rank",
    "launch": "kernel launches",
    "host": "host work",
    "idle": "no request to work on",
}
# Columns of the samples, as `clustersim.engine.serving.state` has them.
TIME, RUNNING, WAITING, CACHE = range(4)

DEFINITIONS = """\
output tokens/s  generated tokens over the makespan: first arrival to last token; of a saturated
              load over the second half of the arrivals
input tokens/s   prompt tokens over the time to the last first token
interval      5th to 95th percentile of the draws (run.replications) and of a KV cache of 2 % more
              and less where requests were preempted, joined with the mean error of TPOT on
              published runs
TTFT          from the arrival in the queue to the first token
TPOT          time between first and last token over the tokens after the first, by request
ITL           gap between two tokens of a request, over all gaps
E2E           from the arrival in the queue to the last token
load          offered requests a second over those that the replicas answer when their queues are
              never empty; above 0.95 a queue grows as long as requests arrive, and latencies
              speak of the length of the trace
bound         what most of the time goes to; the KV cache where it is over 90 % full and requests
              wait
where the time goes  of a replica, mean over replicas; its parts sum to the last moment
goodput       requests that keep every limit of slo, over the offered ones
batch         running requests and tokens of a step, mean over busy time and over steps
KV cache      blocks of one attention rank, and how many of them are taken
preemptions   times that a running request lost its blocks and had to be computed again
prefix hits   prompt tokens found in the cache, over all prompt tokens
imbalance     routed tokens of the fullest GPU over the mean, mean over layers and steps; what it
              costs is the time of experts beyond that of even loads
power         of all GPUs, mean over the run; idle time draws idle power. Hosts, switches and
              cooling are left out
cost          gpu_hour_price times GPUs and hours, over a million output tokens"""


def print_serving_report(
    document: Document,
    console: Console,
    series: Floats | None = None,
    definitions: bool = False,
) -> None:
    """Print the answer to a serving question.

    Parameters
    ----------
    document : mapping
        From ``ServingResult.document``.
    console : rich.console.Console
    series : ndarray (samples, columns), optional
        From ``ServingResult.series``, for charts over time.
    definitions : bool
        Whether to explain the terms as well.
    """
    if document["fits"]:
        say(console, serving_headline(document))
        _latencies(document, console)
        _where(document, console)
        _batch(document, console)
        if series is not None:
            _over_time(document, series, console)
        _power(document, console)
    else:
        words = f"{document['name']} on {gpus_of(document['gpus'])}"
        say(console, f"does not fit: {words} has no room for a KV cache")
    print_memory(document, console, "the fullest stage")
    if document["fits"]:
        console.print()
        say(console, _engine(document))
    for line in document.get("assumed") or ():
        say(console, hung(f"assumed: {line}", console.width))
    if definitions:
        title(console, "Definitions")
        say(console, DEFINITIONS)


def serving_headline(document: Document) -> str:
    """Throughput and latency with their intervals, what bounds the run, and the goodput.

    Parameters
    ----------
    document : mapping
        An answer that fits; `interval` and `goodput` may be absent.

    Returns
    -------
    str
        Three or four lines: the last one has what is known of offered load and goodput.
    """
    done, interval = document["requests"]["finished"], document.get("interval") or {}
    lines = [
        f"{_rate(document['output_tokens_per_s'])} output tokens/s"
        f"{_between(interval.get('output_tokens_per_s'), _rate)}, "
        f"{_rate(document['input_tokens_per_s'])} input tokens/s, "
        f"{_rate(document['requests_per_s'])} requests/s",
        f"TTFT {_seconds(document['ttft_s']['mean'])}"
        f"{_between(interval.get('ttft_s'), format_seconds)}, "
        f"TPOT {_seconds(document['tpot_s']['mean'])}"
        f"{_between(interval.get('tpot_s'), format_seconds)}: means of "
        f"{format_count(done)} request{'' if done == 1 else 's'}",
        f"{_places(document)}; {_bound(document['bound'])}",
    ]
    last = []
    if (load := document["bound"]["load"]) is not None:
        grows = ": the queue grows" if load > FULL else ""
        last.append(f"offered load {format_fixed(load, 2)} of capacity{grows}")
    if (good := document.get("goodput")) is not None:
        kept = f"{format_percent(good['fraction'])} of the requests keep the SLO"
        last.append(f"{kept} ({_rate(good['requests_per_s'])}/s)")
    return "\n".join([*lines, "; ".join(last)] if last else lines)


def _places(document: Document) -> str:
    replicas = document["replicas"]
    copies = f" in {format_count(replicas)} replicas" if replicas > 1 else ""
    return f"{gpus_of(document['gpus'])}{copies}"


def _bound(bound: Mapping[str, Any]) -> str:
    is_share = bound["by"] in bound["shares"]
    share = f" ({format_percent(bound['share'])} of the time)" if is_share else ""
    return f"bound by {bound['by']}{share}"


def _rate(value: float) -> str:
    return format_rate(value, "").strip() if value >= 1e6 else format_count(_three_digits(value))


def _three_digits(value: float) -> float:
    return float(round(value)) if value >= 100.0 else value


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_seconds(value)


def _between(ends: Mapping[str, float] | None, write: Any) -> str:
    return f" ({write(ends['low'])} to {write(ends['high'])})" if ends else ""


def _latencies(document: Document, console: Console) -> None:
    requests = document["requests"]
    rest = f", {requests['unfinished']:,} unfinished" if requests["unfinished"] else ""
    spent = format_seconds(document["makespan_s"])
    done = f"{requests['finished']:,} of {requests['offered']:,} requests finished"
    title(console, f"Latency: {done} in {spent}{rest}")
    table = table_of(("", False), *((stat, True) for stat in STATS))
    for key, label in LATENCIES.items():
        values = document.get(key)
        if values:
            table.add_row(label, *(_seconds(values[stat]) for stat in STATS))
    console.print(table)


def _where(document: Document, console: Console) -> None:
    """Parts of a replica's time, largest first, and their joint share."""
    parts = document["breakdown_s"]
    total_s = sum(parts.values())
    if total_s <= 0.0:
        return
    mean = ", mean over replicas" if document["replicas"] > 1 else ""
    title(console, f"Where the time of a replica goes{mean}: {format_seconds(total_s)}")
    table = table_of(("", False), ("time", True), ("share", True), ("", False), header=False)
    rest_s = 0.0
    for key, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        share = seconds / total_s
        if share < LEAST_SHOWN:
            rest_s += seconds
            continue
        name = LABELS.get(key, key.replace("_", " "))
        table.add_row(name, format_seconds(seconds), format_percent(share), bar(share, console))
    if rest_s >= LEAST_SHOWN * LEAST_SHOWN * total_s:
        table.add_row("everything else", format_seconds(rest_s), format_percent(rest_s / total_s))
    console.print(table)


def _batch(document: Document, console: Console) -> None:
    """What a step holds, and the cache beside it."""
    batch, blocks = document["batch"], document["kv_blocks"]
    title(console, "Batch and KV cache")
    table = table_of(("", False), ("", False), header=False)
    steps = f"{format_count(batch['steps'])} of {format_seconds(batch['mean_step_s'])}"
    running, tokens = format_fixed(batch["mean_running"]), format_fixed(batch["mean_tokens"])
    table.add_row("steps", f"{steps}: {running} running requests, {tokens} tokens (means)")
    size = f"{format_count(blocks['total'])} blocks"
    if blocks["tokens"]:
        size += f" of {blocks['block_tokens']} tokens: {format_count(blocks['tokens'])} tokens"
    ranks = " of each attention rank" if blocks.get("ranks", 1) > 1 else ""
    table.add_row(
        "KV cache", f"{size}, {format_bytes(blocks['total'] * blocks['block_bytes'])}{ranks}"
    )
    used, most = (format_percent(blocks[f"{name}_used_fraction"]) for name in ("mean", "most"))
    table.add_row("taken", f"{used} on average, {most} at most")
    table.add_row("preemptions", format_count(document["preemptions"]))
    table.add_row(
        "prefix hits", f"{format_percent(document['prefix_hit_fraction'])} of prompt tokens"
    )
    if (imbalance := document.get("expert_imbalance")) is not None:
        fullest = f"the fullest GPU has {format_fixed(imbalance, 2)} of the mean"
        if (lost_s := document.get("expert_imbalance_s")) is not None:
            lost = format_percent(lost_s / sum(document["breakdown_s"].values()))
            fullest += f", which costs {lost} of the time"
        table.add_row("expert imbalance", fullest)
    console.print(table)


def _over_time(document: Document, series: Floats, console: Console) -> None:
    """One line a quantity, from the first sample to the last."""
    if series.shape[0] < 2:
        return
    begin_s, end_s = float(series[0, TIME]), float(series[-1, TIME])
    whose = ", first replica" if document["replicas"] > 1 else ""
    title(console, f"Over time{whose}: {format_seconds(begin_s)} to {format_seconds(end_s)}")
    table = table_of(("", False), ("", False), ("", False), header=False)
    for name, column, write in (
        ("running", RUNNING, format_count),
        ("waiting", WAITING, format_count),
        ("KV cache", CACHE, format_percent),
    ):
        values = binned(series[:, TIME], series[:, column], CHART)
        top = float(series[:, column].max())
        scale = 1.0 if column == CACHE else max(values)
        table.add_row(name, chart(values, scale, console), f"at most {write(top)}")
    console.print(table)


def binned(time_s: Floats, values: Floats, bins: int) -> Sequence[float]:
    """Means of samples in equal stretches of time; a stretch without one keeps the last value.

    Parameters
    ----------
    time_s : ndarray (n,)
        Rising, at least one. [s]
    values : ndarray (n,)
    bins : int
        Equal stretches from the first sample to the last.

    Returns
    -------
    sequence of float (bins,)
        All samples in the first stretch where time stands still.
    """
    span_s = float(time_s[-1] - time_s[0])
    place = np.zeros(time_s.size, dtype=np.int64)
    if span_s > 0.0:
        place = np.minimum((time_s - time_s[0]) / span_s * bins, bins - 1).astype(np.int64)
    count = np.bincount(place, minlength=bins)
    total = np.bincount(place, weights=values, minlength=bins)
    means, last = [], 0.0
    for n, sum_ in zip(count.tolist(), total.tolist(), strict=True):
        last = sum_ / n if n else last
        means.append(last)
    return means


def _power(document: Document, console: Console) -> None:
    energy = document.get("energy_j_per_output_token")
    words = [f"Power: {format_rate(document['power_w'], 'W')}"]
    if energy is not None:
        words.append(f"{_joules(energy)} an output token")
    if (cost := document.get("cost_per_million_output_tokens")) is not None:
        words.append(f"cost {format_fixed(cost, 2)} per million output tokens")
    title(console, ", ".join(words))


def _joules(value: float) -> str:
    return f"{value * 1e3:.3g} mJ" if value < 1.0 else format_rate(value, "J")


def _engine(document: Document) -> str:
    draws = document.get("replications", 1)
    what = f"{draws} draws of the requests" if draws > 1 else "one draw of the requests"
    steps = (
        f"{document.get('engine', 'unknown')} engine: {format_count(document['engine_ops'])} steps"
    )
    return f"{steps}; {what}; digest {document.get('result_digest', 'unknown')}"


def print_serving_misfit(document: Document, knobs: list[dict[str, Any]], console: Console) -> None:
    """Say why there is no room for a cache, what takes the memory, and the nearest plans.

    Parameters
    ----------
    document : mapping
        With its `reason`: what is needed, and in a second line a fix.
    knobs : list of dict
        From ``clustersim.run.nearest_serving_knobs``.
    console : rich.console.Console
    """
    reason, _, fix = str(document["reason"]).partition("\n")
    say(console, f"does not fit: {reason}")
    for knob in knobs:
        room = f"room for {format_count(knob['kv_tokens'])} tokens" if knob["fits"] else "no room"
        say(console, f"  {knob['change']}: {format_bytes(knob['fixed_bytes'])} held, {room}")
    if any(knob["fits"] for knob in knobs):
        fix = "  fix: take a change that fits, for example with --set KEY=VALUE"
    say(console, fix)
