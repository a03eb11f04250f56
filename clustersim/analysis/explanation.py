"""One operator's cost in words: a report for a terminal, from the document that ``--json`` prints.

Everything is read from the document, so that a saved ``explanation.json`` gives the same text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clustersim.analysis.roofline import Roofline, roofline_text
from clustersim.units import (
    format_bytes,
    format_count,
    format_percent,
    format_rate,
    format_seconds,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Document = Mapping[str, Any]
BAR = 20  # characters of a full bar
MOST_OTHERS = 6  # ways that lost; --json has all
LEAST_SHOWN = 0.0005  # of the time; smaller parts share a line
# What the bytes of a kind are, where they do not go to memory.
RATES = {"collective": "bus bandwidth", "all_to_all": "of tokens", "transfer": "of copies"}
# Times among other operators: the figure, where that is, and what differs there.
ELSEWHERE = (
    ("training_s", "in a training step", "sustained clocks, gaps"),
    ("cold_s", "between the layers of a model", "nothing of it is left in L2"),
)


def roofline_of(document: Document) -> Roofline:
    """The picture of an explanation: FLOP/s over intensity, or bytes/s over size.

    Parameters
    ----------
    document : mapping
        From ``Explanation.document``.

    Returns
    -------
    Roofline
    """
    roof = document["roof"]
    share = format_percent(document["roof_fraction"])
    common = {name: roof[name] for name in ("x", "y", "peak", "slope")}
    if roof["axes"] == "intensity":
        return Roofline(
            **common,
            x_unit="FLOP/byte",
            y_unit="FLOP/s",
            peak_label=f"{format_rate(roof['peak'], 'FLOP/s')} dense {document['dtype']}",
            slope_label=f"{format_rate(roof['slope'])} memory",
            point_label=f"{format_rate(roof['y'], 'FLOP/s')}, {share} of the roof",
        )
    what = RATES.get(document["kind"], "memory traffic")
    return Roofline(
        **common,
        x_unit="byte",
        y_unit="byte/s",
        peak_label=f"{format_rate(roof['peak'])} {what}",
        slope_label=f"{format_seconds(document['fixed_s'])} without bytes",
        point_label=f"{format_rate(roof['y'])}, {share} of the roof",
    )


def print_explanation(document: Document, console: Console) -> None:
    """Print what an operator costs and why.

    Parameters
    ----------
    document : mapping
        From ``Explanation.document``.
    console : rich.console.Console
    """
    _say(console, f"{document['title']} on {document['place']}")
    _say(console, headline(document))
    _say(console, _step(document))
    if document["flop"]:
        _say(console, _rates(document))
    _terms(document, console)
    facts = document["facts"]
    if facts:
        _title(console, "How it runs")
        text = "; ".join(f"{_words(key)} {_value(key, facts[key])}" for key in facts)
        console.print(text, markup=False, highlight=False)
    _others(document, console)
    _hints(document, console)
    _title(console, "Roofline")
    _say(console, roofline_text(roofline_of(document)))
    _trust(document, console)


def headline(document: Document) -> str:
    """Time, bound, rate and its share of the peak.

    Parameters
    ----------
    document : mapping
        From ``Explanation.document``.

    Returns
    -------
    str
        One line: FLOP/s where the operator has a peak of them, else bytes/s.
    """
    bound = f"{format_seconds(document['time_s'])} alone, bound by {document['bound']}"
    if document["peak_flop_per_s"]:
        rate = format_rate(document["flop_per_s"], "FLOP/s")
        share = format_percent(document["peak_fraction"])
        return f"{bound}: {rate}, {share} of the dense {document['dtype']} peak"
    rate = format_rate(document["rate_bytes_per_s"])
    share = format_percent(document["bandwidth_fraction"])
    of = RATES.get(document["kind"], "traffic")
    return f"{bound}: {rate} {of}, {share} of {format_rate(document['peak_bytes_per_s'])}"


def _step(document: Document) -> str:
    """The interval that the error of the fit gives, and the time among other operators."""
    error = document["trust"]["error_fraction"]
    low, high = (format_seconds(document["time_s"] * (1.0 + side * error)) for side in (-1, 1))
    text = f"give or take {format_percent(error)} ({low} to {high})"
    for name, where, why in ELSEWHERE:
        if document[name] is not None:
            slower = document[name] / document["time_s"] - 1.0
            seconds = format_seconds(document[name])
            return f"{text}; {where} {seconds} ({100 * slower:+.1f} %: {why})"
    return f"{text}; the same in a step of a model, if nothing runs beside it"


def _rates(document: Document) -> str:
    work = f"{format_rate(document['flop'], 'FLOP')} and {format_bytes(document['bytes'])}"
    rate = format_rate(document["rate_bytes_per_s"])
    share = format_percent(document["bandwidth_fraction"])
    at = document["intensity_flop_per_byte"]
    side = "above" if at >= document["roof"]["ridge"] else "below"
    return (
        f"{work}: {rate}, {share} of {format_rate(document['peak_bytes_per_s'])}; "
        f"{_pure(at)} FLOP/byte, {side} the ridge at {_pure(document['roof']['ridge'])}"
    )


def _pure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}"


def _terms(document: Document, console: Console) -> None:
    _title(console, "Where the time goes")
    table = _table(("", False), ("time", True), ("share", True), ("", False), ("", False))
    whole_s, rest_s = document["time_s"], 0.0
    mark = "#" if console.options.ascii_only else "█"
    for term in document["terms"]:
        share = term["seconds"] / whole_s
        if share < LEAST_SHOWN:
            rest_s += term["seconds"]
            continue
        table.add_row(
            *(term["name"], format_seconds(term["seconds"]), format_percent(share)),
            *(mark * round(BAR * share), term["note"]),
        )
    if rest_s > LEAST_SHOWN * LEAST_SHOWN * whole_s:
        table.add_row("everything else", format_seconds(rest_s), format_percent(rest_s / whole_s))
    console.print(table, markup=False, highlight=False)


def _others(document: Document, console: Console) -> None:
    rows = document["rejected"][:MOST_OTHERS]
    if not rows:
        return
    _title(console, "Ways not taken")
    table = _table(("", False), ("time", True), ("", True))
    for row in rows:
        times = row["seconds"] / document["time_s"]
        table.add_row(row["name"], format_seconds(row["seconds"]), f"{times:.2f} x")
    console.print(table, markup=False, highlight=False)


def _hints(document: Document, console: Console) -> None:
    _title(console, "What would help")
    if not document["hints"]:
        _say(console, "nothing that was tried: nearby shapes run at the same rate")
        return
    table = _table(("", False), ("time", True), ("work a second", True))
    for hint in document["hints"]:
        gain = f"{100 * hint['gain_fraction']:+.1f} %"
        table.add_row(hint["change"], format_seconds(hint["seconds"]), gain)
    console.print(table, markup=False, highlight=False)


def _trust(document: Document, console: Console) -> None:
    trust = document["trust"]
    _title(console, "How far to trust it")
    points = f", {format_count(trust['points'])} points" if trust["points"] else ""
    _say(
        console,
        f"{trust['source']} ({trust['origin']}): {format_percent(trust['error_fraction'])} mean "
        f"error of {trust['operator']}{points}; {trust['evidence']}",
    )
    for note in document["notes"]:
        _say(console, f"note: {note}")


def _words(name: str) -> str:
    for end in ("_bytes_per_s", "_fraction", "_s"):
        name = name.removesuffix(end)
    return name.replace("_", " ")


def _value(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if name.endswith("_fraction"):
        return format_percent(value)
    if name.endswith("_bytes_per_s"):
        return format_rate(value)
    if name.endswith("_s"):
        return format_seconds(value)
    return format_bytes(value) if name.endswith("_bytes") else format_count(value)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold", markup=False, highlight=False, soft_wrap=True)


def _table(*columns: tuple[str, bool]) -> Table:
    """A table without lines; a column is its head and whether it holds numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.show_header = any(head for head, _ in columns)
    for head, is_number in columns:
        table.add_column(head, justify="right" if is_number else "left", header_style="dim")
    return table
