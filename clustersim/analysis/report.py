"""The answer in words: tables for a terminal, from the document that ``--json`` prints.

Everything is read from the document, so that a saved ``result.json`` gives the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from clustersim.units import (
    format_bytes,
    format_count,
    format_percent,
    format_seconds,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Document = Mapping[str, Any]

BAR = 24  # characters of a full bar
LEAST_SHOWN = 0.0005  # of the step; smaller parts share a line

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
MFU without   MFU if that part of the step took no time
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
    _say(console, headline(document))
    if document.get("days") is not None:
        _say(console, _budget(document))
    sections: tuple[Callable[[Document, Console], None], ...] = (
        _memory,
        _where,
        _sensitivities,
        _stragglers,
    )
    for section in sections:
        section(document, console)
    console.print()
    _say(console, _engine(document))
    for key in ("assumed", "unknown"):
        for line in document.get(key) or ():
            _say(console, f"{key}: {line}")
    if definitions:
        _title(console, "Definitions")
        _say(console, DEFINITIONS)


def headline(document: Document) -> str:
    """Step time with its interval, MFU, HFU and tokens per second; then GPUs and their rate."""
    interval = document.get("interval")
    spread = ""
    if interval:
        low, high = format_seconds(interval["low"]), format_seconds(interval["high"])
        spread = f" ({low} to {high})"
    return (
        f"{format_seconds(document['step_time_s'])} a step{spread}, "
        f"MFU {format_percent(document['mfu'])}, HFU {format_percent(document['hfu'])}, "
        f"{format_count(document['tokens_per_s'])} tokens/s\n"
        f"{_gpus(document['gpus'])} at {document['model_tflops_per_gpu']:.1f} TFLOP/s"
        f"{_bound(document)}"
    )


def _gpus(count: int) -> str:
    return f"{format_count(count)} GPU{'' if count == 1 else 's'}"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold", markup=False, highlight=False, soft_wrap=True)


def _table(*columns: tuple[str, bool]) -> Table:
    """A table without lines; a column is its head and whether it holds numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head, is_number in columns:
        table.add_column(head, justify="right" if is_number else "left", header_style="dim")
    return table


def _budget(document: Document) -> str:
    hours = format_count(document["gpu_hours"])
    return f"token budget: {document['days']:,.1f} days, {hours} GPU-hours, undisturbed"


def _bound(document: Document) -> str:
    bound = document.get("bound")
    if not isinstance(bound, Mapping):
        return ""
    return f"; bound by {bound['by']} ({format_percent(bound['share'])} of the step)"


def _memory(document: Document, console: Console) -> None:
    terms = dict(document.get("memory_bytes_per_gpu") or {})
    if not terms:
        return
    total = terms.pop("total", sum(terms.values()))
    capacity = document.get("memory_capacity_bytes")
    verdict = "fits" if document.get("fits", True) else "does not fit"
    of = f" of {format_bytes(capacity)}" if capacity else ""
    _title(console, f"Memory of the fullest stage: {format_bytes(total)}{of} a GPU, {verdict}")
    table = _table(("", False), ("", True), ("", True), ("", False))
    table.show_header = False
    scale = max(total, capacity or 0.0)
    for term, size in sorted(terms.items(), key=lambda item: -item[1]):
        if size > 0.0:
            name = term.replace("_", " ")
            table.add_row(
                name, format_bytes(size), format_percent(size / scale), _bar(size / scale, console)
            )
    console.print(table)


def _bar(share: float, console: Console) -> str:
    mark = "#" if console.options.ascii_only else "█"
    return mark * round(BAR * min(1.0, max(0.0, share)))


def _where(document: Document, console: Console) -> None:
    """Parts of the step, largest first, and the MFU if each took no time."""
    step_s = document["step_time_s"]
    rows = document.get("waterfall") or [
        {"key": key, "seconds": seconds, "share": seconds / step_s}
        for key, seconds in (document.get("breakdown_s") or {}).items()
    ]
    if not rows:
        return
    of = document.get("breakdown_of") or {}
    place = f" (stage {of['stage']}, rank class {of['rank_class']})" if of else ""
    _title(console, f"Where the time goes{place}")
    table = _table(("", False), ("time", True), ("share", True), ("MFU without", True), ("", False))
    shown = [row for row in rows if abs(row["share"]) >= LEAST_SHOWN]
    rest_s = sum(row["seconds"] for row in rows if abs(row["share"]) < LEAST_SHOWN)
    for row in sorted(shown, key=lambda row: (row["key"] != "ideal", -row["seconds"])):
        table.add_row(
            LABELS.get(row["key"], row["key"]),
            format_signed_s(row["seconds"]),
            format_percent(row["share"]),
            _without(row),
            _bar(row["share"], console),
        )
    if abs(rest_s) >= LEAST_SHOWN * LEAST_SHOWN * step_s:
        table.add_row("everything else", format_signed_s(rest_s), format_percent(rest_s / step_s))
    console.print(table)


def _without(row: Mapping[str, Any]) -> str:
    if "mfu_without" not in row or row["key"] == "ideal":
        return ""
    return format_percent(row["mfu_without"])


def format_signed_s(seconds: float) -> str:
    """A duration that may be negative, as a lucky draw of jitter is."""
    return f"-{format_seconds(-seconds)}" if seconds < 0 else format_seconds(seconds)


def _sensitivities(document: Document, console: Console) -> None:
    rows = document.get("sensitivities") or []
    if not rows:
        return
    _title(console, "What would change it")
    table = _table(("", False), ("step time", True))
    for row in rows:
        table.add_row(row["change"], f"{100 * row['step_time_change']:+.2f} %")
    console.print(table)


def _stragglers(document: Document, console: Console) -> None:
    report = document.get("stragglers") or {}
    if not report.get("slow_ranks"):
        return
    uniform = format_seconds(report["uniform_step_time_s"])
    loss = format_percent(report["slowdown"] - 1.0)
    slow = _gpus(report["slow_ranks"]).replace(" ", " slow ")
    _title(console, f"Stragglers: {slow}; all nominal and quiet: {uniform} ({loss} lost)")
    rows = report.get("without") or []
    if not rows:
        return
    table = _table(
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
            f"{100 * row['step_time_change']:+.2f} %",
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
    _say(console, f"does not fit: {format_bytes(total)}{of} a GPU; most of it {named}")
    for knob in knobs:
        verdict = "fits" if knob["fits"] else "does not fit"
        _say(console, f"  {knob['change']}: {format_bytes(knob['total_bytes'])}, {verdict}")
    if any(knob["fits"] for knob in knobs):
        _say(console, "  fix: take a change that fits, for example with --set KEY=VALUE")
