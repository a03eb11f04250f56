"""The answer in words: tables for a terminal, from the document that ``--json`` prints.

Everything is read from the document, so that a saved ``result.json`` gives the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from clustersim.analysis.screen import (
    Document,
    bar,
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
    format_seconds,
)

if TYPE_CHECKING:
    from rich.console import Console

LEAST_SHOWN = 0.0005  # of the step; smaller parts share a line
LEAST_ON_PATH = 0.01  # of the step; less on the critical path is not named

LABELS = {
    "ideal": "model FLOP at peak",
    "matmul": "matrix products beyond peak",
    "attention": "attention core",
    "elementwise": "elementwise kernels",
    "recompute": "recomputation",
    "tp_comm": "tensor-parallel communication",
    "pp_comm": "pipeline transfers",
    "dp_comm": "data-parallel communication",
    "optimizer": "optimizer",
    "launch": "kernel launches",
    "host": "host work",
    "bubble": "pipeline bubble",
    "imbalance": "waiting for other replicas",
    "straggler": "slow GPU",
    "jitter": "kernel jitter",
    "overlap_slowdown": "slowed by communication beside",
}

REMARKS = {"assumed": "assumed", "notes": "note", "unknown": "unknown"}

DEFINITIONS = """\
step time     from the first op of an optimizer step to the end of the last, median of the draws
interval      5th to 95th percentile of the draws, joined with the error of the hardware profile
model FLOP    forward and backward of the model as PaLM counts them: 6 FLOP a weight and token of
              the matrix products, plus attention; no recomputation
MFU           model FLOP a second over the dense peak of all GPUs in the datatype of the products
HFU           the same with executed FLOP, recomputation included
TFLOP/s       model FLOP a second of one GPU, in 10^12
tokens/s      global batch times sequence length over step time, all GPUs together
breakdown     of the busiest stage of the slowest replica; its parts sum to the step time
share         of the step time: the MFU for the first line, the points of MFU lost for the others;
              removing a part moves waits, so what is gained stands under "What would change it"
replica       one copy of the model: all stages of the pipeline, each on its tensor-parallel group
replica class replicas that are alike in speed and so run alike; simulated once for all of them
rank class    ranks that run alike: one stage of one class of replicas
critical path the chain of ops, each started by the end of the one before, that lasts the step;
              shortening an op beside it gains nothing, one on it at most what is taken off
slow GPUs     what they cost is 1 - (step with all GPUs nominal and quiet) / (this step)
bubble        the stage waits for passes of other stages
memory        peak of the fullest stage, its fragmentation and the process's own context included
GPU-hours     GPUs times hours of an undisturbed run: no failures, checkpoints or evaluation"""


def print_report(document: Document, console: Console, definitions: bool = False) -> None:
    """Print the answer to a training question.

    Parameters
    ----------
    document : mapping
        From ``Result.document``; keys that are absent are left out.
    console : rich.console.Console
    definitions : bool
        Whether to explain the terms as well.
    """
    say(console, headline(document))
    if document.get("days") is not None:
        say(console, _budget(document))
    print_memory(document, console, "the fullest stage")
    sections: tuple[Callable[[Document, Console], None], ...] = (
        _where,
        _critical,
        _sensitivities,
        _stragglers,
    )
    for section in sections:
        section(document, console)
    console.print()
    say(console, _engine(document))
    for key, word in REMARKS.items():
        for line in document.get(key) or ():
            say(console, hung(f"{word}: {line}", console.width))
    if definitions:
        title(console, "Definitions")
        say(console, DEFINITIONS)


def headline(document: Document) -> str:
    """Step time with its interval, MFU, HFU and tokens per second; then GPUs and their rate.

    Parameters
    ----------
    document : mapping
        From ``Result.document``; `interval` and `bound` may be absent.

    Returns
    -------
    str
        Two lines.
    """
    interval = document.get("interval")
    spread = ""
    if interval:
        low, high = format_seconds(interval["low"]), format_seconds(interval["high"])
        spread = f" ({low} to {high})"
    return (
        f"{format_seconds(document['step_time_s'])} a step{spread}, "
        f"MFU {format_percent(document['mfu'])}, HFU {format_percent(document['hfu'])}, "
        f"{format_count(document['tokens_per_s'])} tokens/s\n"
        f"{gpus_of(document['gpus'])} at {format_fixed(document['model_tflops_per_gpu'])} TFLOP/s"
        f"{_bound(document)}"
    )


def _budget(document: Document) -> str:
    hours = format_count(document["gpu_hours"])
    return f"token budget: {format_fixed(document['days'])} days, {hours} GPU-hours, undisturbed"


def _bound(document: Document) -> str:
    bound = document.get("bound")
    if not isinstance(bound, Mapping):
        return ""
    return f"; bound by {bound['by']} ({format_percent(bound['share'])} of the step)"


def _where(document: Document, console: Console) -> None:
    """Parts of the step, largest first."""
    step_s = document["step_time_s"]
    rows = document.get("waterfall") or [
        {"key": key, "seconds": seconds, "share": seconds / step_s}
        for key, seconds in (document.get("breakdown_s") or {}).items()
    ]
    if not rows:
        return
    of = document.get("breakdown_of") or {}
    place = f" (stage {of['stage']}, replica class {of['replica_class']})" if of else ""
    title(console, f"Where the time goes{place}")
    table = table_of(("", False), ("time", True), ("share", True), ("", False))
    shown = [row for row in rows if abs(row["share"]) >= LEAST_SHOWN]
    rest_s = sum(row["seconds"] for row in rows if abs(row["share"]) < LEAST_SHOWN)
    for row in sorted(shown, key=lambda row: (row["key"] != "ideal", -row["seconds"])):
        table.add_row(
            LABELS.get(row["key"], row["key"]),
            format_signed_s(row["seconds"]),
            format_percent(row["share"]),
            bar(row["share"], console),
        )
    if abs(rest_s) >= LEAST_SHOWN * LEAST_SHOWN * step_s:
        table.add_row("everything else", format_signed_s(rest_s), format_percent(rest_s / step_s))
    console.print(table)


def format_signed_s(seconds: float) -> str:
    """A duration that may be negative, as a lucky draw of jitter is.

    Parameters
    ----------
    seconds : float
        [s]

    Returns
    -------
    str
    """
    return f"-{format_seconds(-seconds)}" if seconds < 0 else format_seconds(seconds)


def _changed(fraction: float) -> str:
    return f"{format_fixed(100 * fraction, 2, '+')} %"


def _critical(document: Document, console: Console) -> None:
    """The ranks and the ops that the step waits for, a line each."""
    path = document.get("critical_path") or {}
    step_s = document["step_time_s"]
    places = [_place(row) for row in (path.get("stages") or ()) if row["share"] >= LEAST_ON_PATH]
    ops = sorted((path.get("by_op") or {}).items(), key=lambda item: -item[1])
    named = [
        f"{name} {format_percent(seconds / step_s)}"
        for name, seconds in ops
        if seconds >= LEAST_ON_PATH * step_s
    ]
    if not named:
        return
    title(console, "Critical path: what the step waits for")
    for word, items in (("ranks", places), ("ops", named)):
        if items:
            say(console, hung(f"{word}: {'; '.join(items)}", console.width))


def _place(row: Mapping[str, Any]) -> str:
    """A group of ranks on the path, and its share of it."""
    first, count = row["first_rank"], row["ranks"]
    until = f" to {first + count - 1:,}" if count > 1 else ""
    replica = f" of replica {row['replica']:,}" if "replica" in row else ""
    share = format_percent(row["share"])
    return f"stage {row['stage']}{replica} ({first:,}{until}) {share}"


def _sensitivities(document: Document, console: Console) -> None:
    rows = document.get("sensitivities") or []
    if not rows:
        return
    title(console, "What would change it")
    table = table_of(("", False), ("step time", True))
    for row in rows:
        table.add_row(row["change"], _changed(row["step_time_change"]))
    console.print(table)


def _stragglers(document: Document, console: Console) -> None:
    report = document.get("stragglers") or {}
    if not report.get("slow_ranks"):
        return
    uniform = format_seconds(report["uniform_step_time_s"])
    lost = format_percent(1.0 - report["uniform_step_time_s"] / document["step_time_s"])
    slow = gpus_of(report["slow_ranks"]).replace(" ", " slow ")
    title(
        console,
        f"Stragglers: {slow}; {lost} of the step is lost to slow GPUs"
        f" (all nominal and quiet: {uniform})",
    )
    rows = report.get("without") or []
    if not rows:
        return
    table = table_of(
        ("without host", True),
        ("ranks from", True),
        ("stage", True),
        ("replica", True),
        ("slower by", True),
        ("step time", True),
        ("change", True),
    )
    for row in rows:
        table.add_row(
            str(row["host"]),
            str(row["first_rank"]),
            str(row["stage"]),
            str(row["replica"]),
            format_percent(row["slowdown"]),
            format_seconds(row["step_time_s"]),
            _changed(row["step_time_change"]),
        )
    console.print(table)


def _engine(document: Document) -> str:
    ops, wall_s = document.get("engine_ops", 0), document.get("engine_s", 0.0)
    rate = f", {format_count(ops / wall_s, 'ops/s')}" if wall_s > 0 else ""
    draws = document.get("replications", 1)
    what = f"{draws} draws of the fleet" if draws > 1 else "nothing random"
    return (
        f"{document.get('engine', 'unknown')} engine: {format_count(ops)} ops in "
        f"{format_seconds(wall_s)}{rate}; {what}; digest {document.get('result_digest', 'unknown')}"
    )


def print_misfit(document: Document, knobs: list[dict[str, Any]], console: Console) -> None:
    """Say that a job does not fit, what takes the memory, and the nearest plans.

    Parameters
    ----------
    document : mapping
    knobs : list of dict
        From ``clustersim.run.nearest_knobs``.
    console : rich.console.Console
    """
    terms = dict(document["memory_bytes_per_gpu"])
    total, capacity = terms.pop("total"), document.get("memory_capacity_bytes")
    of = f" of {format_bytes(capacity)}" if capacity else ""
    largest = sorted(terms.items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{term.replace('_', ' ')} {format_bytes(size)}" for term, size in largest)
    say(console, f"does not fit: {format_bytes(total)}{of} a GPU; most of it {named}")
    for knob in knobs:
        verdict = "fits" if knob["fits"] else "does not fit"
        say(console, f"  {knob['change']}: {format_bytes(knob['total_bytes'])}, {verdict}")
    if any(knob["fits"] for knob in knobs):
        say(console, "  fix: take a change that fits, for example with --set KEY=VALUE")
