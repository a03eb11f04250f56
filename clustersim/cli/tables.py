"""Any document of plain values in words: names carry their unit, so the unit need not be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clustersim.units import (
    format_bytes,
    format_count,
    format_percent,
    format_rate,
    format_seconds,
)

if TYPE_CHECKING:
    from rich.console import Console

CROWDED = 9  # columns that leave no room for gaps
MOST_ROWS = 200  # of a table; --json has all


def _flop_per_s(value: float) -> str:
    return format_rate(value, "FLOP/s")


def _flop(value: float) -> str:
    return format_rate(value, "FLOP")


# By the end of a name, longest first (STYLE, section 3).
FORMATS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("_flop_per_s", _flop_per_s),
    ("_bytes_per_s", format_rate),
    ("_bytes", format_bytes),
    ("bytes", format_bytes),
    ("_fraction", format_percent),
    ("flop", _flop),
    ("_per_s", format_count),
    ("_s", format_seconds),
)


def text_of(name: str, value: Any) -> str:
    """One value as a reader wants it.

    Parameters
    ----------
    name : str
        Of the field: its ending tells the unit (`FORMATS`).
    value : Any
        None is "unknown". What a mapping or a list holds is in the same unit.
    """
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return _number(name, value)
        case str():
            return value
        case Mapping():
            return ", ".join(f"{key} {text_of(name, entry)}" for key, entry in value.items())
        case Sequence():
            return ", ".join(text_of(name, entry) for entry in value)
    return str(value)


def _number(name: str, value: float) -> str:
    for end, write in FORMATS:
        if name.endswith(end) or f"{end}_per_" in name:
            return write(value)
    return format_count(value)


def print_document(document: Mapping[str, Any], console: Console) -> None:
    """Print plain values as lines and lists of records as tables.

    Parameters
    ----------
    document : mapping
        By name of field; a list counts as a table where its first entry is a mapping.
    console : rich.console.Console
        Lines are printed first, then the tables in the order of the document. The name of a table
        is left out where nothing else is printed.
    """
    from rich.table import Table

    lines = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    tables = []
    for name, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables.append((name, value))
        else:
            lines.add_row(words(name), plain(text_of(name, value)))
    if lines.row_count:
        console.print(lines)
    for name, rows in tables:
        if lines.row_count or len(tables) > 1:
            console.print()
            console.print(words(name), style="bold")
        print_rows(rows, console)


def plain(text: str) -> Any:
    """Text for a cell, in which brackets mean nothing."""
    from rich.text import Text

    return Text(text)


def words(name: str) -> str:
    """A field's name for a reader: its unit is printed with the value.

    Parameters
    ----------
    name : str
        With underscores and, at its end, a unit.

    Returns
    -------
    str
        Without both; a rate of bytes or FLOP loses its unit wherever in the name it stands, one of
        other things keeps it ("output tokens/s"), since it is printed as a bare count.
    """
    for unit in ("_flop_per_s", "_bytes_per_s"):
        name = name.replace(unit, "")
    if name.endswith("_per_s"):
        return name.removesuffix("_per_s").replace("_", " ") + "/s"
    for end in ("_bytes", "_fraction", "_s"):
        name = name.removesuffix(end)
    return name.replace("_", " ")


def print_rows(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print records as a table; numbers to the right.

    Parameters
    ----------
    rows : sequence of mapping
        At least one. The first names the columns and says which hold numbers; the others have the
        same keys in the same order. After `MOST_ROWS` the rest is counted, not printed.
    console : rich.console.Console
    """
    from rich.table import Table

    crowded = len(rows[0]) >= CROWDED
    gap, between = (1, "\n") if crowded else (2, " ")
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for name, value in rows[0].items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(
            words(name).replace(" ", between),
            justify="right" if is_number else "left",
            header_style="dim",
            overflow="fold",
        )
    for row in rows[:MOST_ROWS]:
        table.add_row(*(plain(text_of(name, value)) for name, value in row.items()))
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"and {len(rows) - MOST_ROWS:,} more rows (--json has all)")
