"""Tables of numbers in text files: found beside the scenario, read in blocks, bad lines collected.

A table is a CSV file with a header, plain or gzipped. Blocks of lines become columns at once; only
a block that holds something unreadable is looked at cell by cell. A quoted cell ends with its line,
so that one stray quote spoils one line. Blank lines do not count. Other text files share the search
for the file, its blocks of lines, and the record of its bad lines.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from os.path import expanduser
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import Problem, SpecError
from clustersim.spec.suggest import nearest, normalise

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

SHOWN = 10  # bad lines that a message names
BLOCK_LINES = 65_536
LARGEST = 2.0**53  # beyond it float64 no longer counts one by one
MOST_TOKENS = 1e9  # of a prompt or an answer
SKIP_FIX = "correct the line, or skip bad lines and count them: --skip-bad, run.skip_bad: true"


def find_file(name: str, base: Path | None, field_name: str) -> Path:
    """Where a file named in a scenario is: beside the scenario, else in the working directory.

    Parameters
    ----------
    name : str
        Path as the scenario has it.
    base : Path or None
        Folder of the scenario.
    field_name : str
        Field that names the file, for messages.

    Raises
    ------
    SpecError
        There is no such file.
    """
    wanted = Path(expanduser(name))
    folders = list(dict.fromkeys([*([base] if base is not None else []), Path()]))
    places = [wanted] if wanted.is_absolute() else [folder / wanted for folder in folders]
    try:
        for place in places:
            if place.is_file():
                return place
        if any(place.is_dir() for place in places):
            message, fix = f"{name} is a folder", "name a file in it"
        else:
            looked = " and ".join(str(place.parent.resolve()) for place in places)
            message, fix = f"no such file: {name} (looked in {looked})", _near(places)
    except (OSError, ValueError) as error:
        message, fix = f"{name[:60]!r} cannot be looked for: {_reason(error)}", "check the name"
    raise SpecError(Problem(message, fix, field=field_name))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _near(places: Sequence[Path]) -> str:
    for place in places:
        if place.parent.is_dir():
            near = nearest(place.name, (item.name for item in place.parent.iterdir()))
            if near is not None:
                return f"did you mean `{place.parent / near}`?"
    return "paths are relative to the folder of the scenario, then to the working directory"


def shortened(text: str, most: int = 200) -> str:
    """A text, or its beginning where it is long.

    Parameters
    ----------
    text : str
    most : int
        Characters of the result, at least 3; a cut is shown by three dots within them.

    Returns
    -------
    str
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


@dataclass
class BadLines:
    """Lines of one file that cannot be read; the first few of them in words."""

    file: str
    skip: bool
    count: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, line: int, name: str, seen: str, expected: str) -> None:
        """Note one line: what was seen and what was expected.

        Parameters
        ----------
        line : int
            Its number in the file, from 1.
        name : str
            The column, "" for the whole line.
        seen, expected : str
            What stands there, shortened for the message, and what should.

        Notes
        -----
        Every line counts; only the first `SHOWN` are kept in words.
        """
        self.count += 1
        if len(self.problems) < SHOWN:
            message = f"saw {shortened(seen, 60)}, expected {expected}"
            self.problems.append(Problem(message, "", self.file, line, 0, name))

    def skipped(self) -> int:
        """How many lines were skipped.

        Raises
        ------
        SpecError
            There are bad lines and they are not to be skipped.
        """
        if not self.count or self.skip:
            return self.count
        problems = list(self.problems)
        more = self.count - len(problems)
        if more:
            lines = "one more bad line" if more == 1 else f"{more:,} more bad lines"
            problems.append(Problem(lines, "", self.file))
        last = problems[-1]
        problems[-1] = Problem(last.message, SKIP_FIX, last.file, last.line, 0, last.field)
        raise SpecError(problems)


class Lines:
    """A text file as blocks of lines, with the number of the next line."""

    def __init__(self, path: Path):
        self.path = path
        self.line = 1
        self._stream = self._read()

    def _read(self) -> Iterator[str]:
        try:
            with self.path.open("rb") as start:
                zipped = start.read(2) == b"\x1f\x8b"
            opener = gzip.open if zipped else open
            with opener(self.path, "rt", encoding="utf-8-sig", errors="replace") as stream:
                yield from stream
        except (OSError, EOFError, zlib.error) as error:
            message = f"cannot be read: {_reason(error)}"
            raise SpecError(Problem(message, "check the file", str(self.path))) from None

    def header(self) -> str:
        """The first line that is not blank; empty at the end of the file."""
        for text in self._stream:
            self.line += 1
            if text.strip():
                return text.strip()
        return ""

    def block(self, most: int = BLOCK_LINES) -> list[str]:
        """Up to so many next lines; empty at the end of the file.

        Parameters
        ----------
        most : int
            Lines, at least 1.

        Returns
        -------
        list of str
            With their line ends.

        Raises
        ------
        SpecError
            The file cannot be read on.
        """
        lines = list(islice(self._stream, most))
        self.line += len(lines)
        return lines


def cells_of(line: str) -> list[str]:
    """Cells of one line of a CSV file.

    Parameters
    ----------
    line : str
        With or without its end.

    Returns
    -------
    list of str
        Blanks around a cell stay, but those before one in a line with a quote. One cell where the
        CSV reader gives up.
    """
    text = line.strip("\r\n")
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:  # a cell too long to be one
        return [text]


def read_numbers(cells: Sequence[str]) -> Floats:
    """Cells as numbers; NaN where a cell is none.

    Parameters
    ----------
    cells : sequence of str
        Blanks around a number do not matter.

    Returns
    -------
    ndarray of float64 (cells,)
    """
    try:
        return np.array(list(map(float, cells)), dtype=np.float64)
    except ValueError:
        return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


@dataclass(frozen=True)
class Column:
    """One column to read.

    Attributes
    ----------
    name : str
        As the header writes it.
    index : int
        Its place in the header.
    least : float
        Smaller values are bad.
    whole : bool
        Only whole numbers are good.
    expected : str
        What a cell should hold, for messages.
    read : callable
        Cells to numbers; NaN where a cell is bad.
    most : float
        Larger values are bad.
    """

    name: str
    index: int
    least: float
    whole: bool
    expected: str
    read: Callable[[Sequence[str]], Floats] = read_numbers
    most: float = LARGEST

    def wrong(self, values: Floats) -> Flags:
        """Which values are bad.

        Parameters
        ----------
        values : ndarray of float64 (n,)
            As `read` gives them; NaN and infinity are bad.

        Returns
        -------
        ndarray of bool (n,)
        """
        good = np.isfinite(values) & (values >= self.least) & (values <= self.most)
        if self.whole:
            good &= np.floor(values) == values
        return ~good


def tokens(name: str, index: int, least: int = 1) -> Column:
    """A column of token counts.

    Parameters
    ----------
    name : str
        As the header writes it.
    index : int
        Its place in the header.
    least : int
        Smaller counts are bad, and so are counts above `MOST_TOKENS`.

    Returns
    -------
    Column
    """
    expected = f"a whole number of tokens, at least {least}"
    return Column(name, index, least, True, expected, most=MOST_TOKENS)


@dataclass(frozen=True)
class Table:
    """Columns of a file, good lines only.

    Attributes
    ----------
    columns : tuple of ndarray of float64 (rows,)
        In the order asked for.
    lines : ndarray of int64 (rows,)
        Line of each row.
    """

    columns: tuple[Floats, ...]
    lines: Ints


def read_table(
    lines: Lines,
    width: int,
    columns: Sequence[Column],
    bad: BadLines,
    most: int | None = None,
    keep: Callable[[tuple[Floats, ...]], Flags] | None = None,
) -> Table:
    """Read what follows the header of a CSV file.

    Parameters
    ----------
    lines : Lines
        The file, its header read.
    width : int
        Cells of the header: every line must have as many.
    columns : sequence of Column
        What to read.
    bad : BadLines
        Takes the bad lines.
    most : int, optional
        Rows after which reading stops.
    keep : callable, optional
        Rows to keep; the others do not count to `most`.

    Returns
    -------
    Table
    """
    parts: list[tuple[Floats, ...]] = []
    numbers: list[Ints] = []
    missing = most
    while missing is None or missing > 0:
        first = lines.line
        block = lines.block(BLOCK_LINES if missing is None else min(missing, BLOCK_LINES))
        if not block:
            break
        values, places = _read_block(block, first, width, columns, bad)
        if keep is not None:
            kept = keep(values)
            values, places = tuple(column[kept] for column in values), places[kept]
        parts.append(values)
        numbers.append(places)
        missing = None if missing is None else missing - places.size
    joined = tuple(np.concatenate([p[i] for p in parts] or [np.empty(0)]) for i in _range(columns))
    return Table(joined, np.concatenate([*numbers, np.empty(0, np.int64)]))


def _range(columns: Sequence[Column]) -> range:
    return range(len(columns))


def _read_block(
    block: list[str], first: int, width: int, columns: Sequence[Column], bad: BadLines
) -> tuple[tuple[Floats, ...], Ints]:
    """Columns and line numbers of the good lines of a block."""
    problems: dict[int, tuple[str, str, str]] = {}
    places: Sequence[int] = range(first, first + len(block))
    cells = _split_evenly(block, width)
    if cells is None:
        places, cells = _split_each(block, first, width, problems)
    values = tuple(column.read(cells[column.index]) for column in columns)
    good = np.ones(len(places), dtype=np.bool_)
    for column, numbers in zip(columns, values, strict=True):
        wrong = column.wrong(numbers)
        good &= ~wrong
        for at in np.flatnonzero(wrong).tolist():
            seen = repr(cells[column.index][at].strip())
            problems.setdefault(places[at], (column.name, seen, column.expected))
    for place in sorted(problems):
        bad.add(place, *problems[place])
    lines = np.array(places, dtype=np.int64)
    return tuple(column[good] for column in values), lines[good]


def _split_evenly(block: list[str], width: int) -> list[list[str]] | None:
    """Columns of lines that all have as many commas and no quotes; else None."""
    if width < 2 or {line.count(",") for line in block} != {width - 1}:
        return None
    text = "".join(block)
    if '"' in text:
        return None
    cells = text.replace("\n", ",").split(",")
    return [cells[index : len(block) * width : width] for index in range(width)]


def _split_each(
    block: list[str], first: int, width: int, problems: dict[int, tuple[str, str, str]]
) -> tuple[list[int], list[list[str]]]:
    """Lines with as many cells as the header, and their columns; the others become problems."""
    places, rows = [], []
    for place, line in enumerate(block, first):
        row = cells_of(line)
        if len(row) == width and not line.isspace():
            places.append(place)
            rows.append(row)
        elif not line.isspace():
            seen = f"{len(row)} cell" + "s" * (len(row) != 1)
            problems[place] = ("", seen, f"{width}, as in the header")
    return places, [[row[index] for row in rows] for index in range(width)]


def find_column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Place of the first of some names in a header, however it is written; None without one.

    Parameters
    ----------
    header : sequence of str
        Cells in any case, words joined in any way.
    names : sequence of str
        In lower case, words joined by ``_``; earlier ones are preferred.

    Returns
    -------
    int or None
    """
    known = [normalise(cell) for cell in header]
    return next((known.index(name) for name in names if name in known), None)
