"""Pieces of a report on a terminal: lines, titles, tables, bars, charts, memory of a GPU."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clustersim.units import format_bytes, format_count, format_percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Document = Mapping[str, Any]

BAR = 24  # characters of a full bar
HEIGHTS = " ▁▂▃▄▅▆▇█"  # of a chart's columns, in eighths
PLAIN_HEIGHTS = " .-=+*%#@"
INDENT = "  "
TERM_NAMES = {"kv_cache": "KV cache"}  # of memory, where the key's own words do not do


def say(console: Console, text: str) -> None:
    """Print a text as it is.

    Parameters
    ----------
    console : rich.console.Console
    text : str
        Markup in it is printed, not read; long lines are left to the terminal.
    """
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def title(console: Console, text: str) -> None:
    """Print the head of a section.

    Parameters
    ----------
    console : rich.console.Console
    text : str
        Printed in bold, below a blank line; markup in it is not read.
    """
    console.print()
    console.print(text, style="bold", markup=False, highlight=False, soft_wrap=True)


def table_of(*columns: tuple[str, bool], header: bool = True) -> Table:
    """A table without lines; a column is its head and whether it holds numbers.

    Parameters
    ----------
    *columns : tuple of (str, bool)
        Numbers stand at the right.
    header : bool
        Whether the heads are printed.

    Returns
    -------
    rich.table.Table
        Without rows yet.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header)
    for head, is_number in columns:
        table.add_column(head, justify="right" if is_number else "left", header_style="dim")
    return table


def bar(share: float, console: Console) -> str:
    """A bar as long as a share of 1.

    Parameters
    ----------
    share : float
        Below 0 counts as 0, above 1 as 1.
    console : rich.console.Console
        Tells whether it can print more than ASCII.

    Returns
    -------
    str
        At most `BAR` characters.
    """
    mark = "#" if console.options.ascii_only else "█"
    return mark * round(BAR * min(1.0, max(0.0, share)))


def chart(values: Sequence[float], most: float, console: Console) -> str:
    """Columns of one line, one a value; what is not zero is never invisible.

    Parameters
    ----------
    values : sequence of float
        At least 0.
    most : float
        Value of a full column; higher ones are cut to it. At 0, columns only say whether a value is
        0.
    console : rich.console.Console
        Tells whether it can print more than ASCII.

    Returns
    -------
    str
        A character a value.
    """
    heights = PLAIN_HEIGHTS if console.options.ascii_only else HEIGHTS
    top = len(heights) - 1
    drawn = []
    for value in values:
        height = round(top * value / most) if most > 0.0 else 0
        drawn.append(heights[min(top, max(height, 1 if value > 0.0 else 0))])
    return "".join(drawn)


def hung(text: str, width: int) -> str:
    """Text broken to the width, further lines indented; words stay whole.

    Parameters
    ----------
    text : str
        White space of any kind counts as a blank.
    width : int
        Characters of a line; only a longer word exceeds it.

    Returns
    -------
    str
        Lines, without a newline at the end.
    """
    return textwrap.fill(
        text, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
    )


def gpus_of(count: int) -> str:
    """So many GPUs, in words."""
    return f"{format_count(count)} GPU{'' if count == 1 else 's'}"


def print_memory(document: Document, console: Console, whose: str) -> None:
    """Print the terms of a GPU's memory, largest first, and whether they fit.

    Parameters
    ----------
    document : mapping
        `memory_bytes_per_gpu`, without which nothing is printed, `memory_capacity_bytes` and
        `fits`. [bytes]
    console : rich.console.Console
    whose : str
        What the memory belongs to, for the title.
    """
    terms = dict(document.get("memory_bytes_per_gpu") or {})
    if not terms:
        return
    total = terms.pop("total", sum(terms.values()))
    capacity = document.get("memory_capacity_bytes")
    verdict = "fits" if document.get("fits", True) else "does not fit"
    of = f" of {format_bytes(capacity)}" if capacity else ""
    title(console, f"Memory of {whose}: {format_bytes(total)}{of} a GPU, {verdict}")
    table = table_of(("", False), ("", True), ("", True), ("", False), header=False)
    scale = max(total, capacity or 0.0)
    for term, size in sorted(terms.items(), key=lambda item: -item[1]):
        if size > 0.0:
            share = size / scale
            name = TERM_NAMES.get(term, term.replace("_", " "))
            table.add_row(name, format_bytes(size), format_percent(share), bar(share, console))
    console.print(table)
