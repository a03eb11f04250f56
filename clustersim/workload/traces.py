"""Requests that were recorded somewhere: the trace formats that are read, and how.

The clock of a trace starts with its first request; lines need not be in order. What is left out:
prompts themselves, the model that answered, failures other than those of BurstGPT.

============ ======================================================================== ==========
format       columns or keys                                                          time
============ ======================================================================== ==========
mooncake     JSON lines: timestamp, input_length, output_length, hash_ids             ms
azure        TIMESTAMP, ContextTokens, GeneratedTokens; with or without a time zone   date
burstgpt     Timestamp, Request tokens, Response tokens                               s
requests     queued_s or arrival_s, input_toks or input_tokens, output_...            s
============ ======================================================================== ==========

A row of BurstGPT without a single token of response is a failed request, as its authors say: it is
left out and counted as skipped. Everywhere else a length of zero is a bad line.

References
----------
.. [1] R. Qin et al., "Mooncake: trading more storage for less computation," FAST 2025.
.. [2] P. Patel et al., "Splitwise: efficient generative LLM inference using phase splitting,"
   ISCA 2024; J. Stojkovic et al., "DynamoLLM," HPCA 2025.
.. [3] Y. Wang et al., "BurstGPT: a real-world workload dataset to optimize LLM serving systems,"
   KDD 2025.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import Problem, SpecError
from clustersim.spec.workload import TraceFormat
from clustersim.workload.files import (
    BLOCK_LINES,
    LARGEST,
    MOST_TOKENS,
    BadLines,
    Column,
    Flags,
    Floats,
    Lines,
    cells_of,
    find_column,
    read_table,
    shortened,
    tokens,
)

Ints = NDArray[np.int64]

MOONCAKE_BLOCK_TOKENS = 512
TIME_OF = {
    "azure": ("timestamp",),
    "burstgpt": ("timestamp",),
    "requests": ("queued_s", "arrival_s"),
}
INPUT_OF = {
    "azure": ("contexttokens", "context_tokens"),
    "burstgpt": ("request_tokens",),
    "requests": ("input_tokens", "input_toks"),
}
OUTPUT_OF = {
    "azure": ("generatedtokens", "generated_tokens"),
    "burstgpt": ("response_tokens",),
    "requests": ("output_tokens", "output_toks"),
}
STAMP = "a date and time such as 2023-11-16 18:17:03.9799600"
SECONDS = "a number of seconds, at least 0"
ZONE = re.compile(r"[+-]\d\d:?\d\d|Z|")


@dataclass(frozen=True)
class Trace:
    """Requests of a trace in order of arrival.

    Attributes
    ----------
    arrival_s : ndarray of float64 (n,)
        Since the first request. [s]
    input_tokens, output_tokens : ndarray of int64 (n,)
        Lengths of prompts and answers, at least 1.
    block_start : ndarray of int64 (n + 1,)
        Where the blocks of each request begin in `block`.
    block : ndarray of int64 (m,)
        Leading blocks of the prompts, numbered from 0; equal numbers are equal text. The last one
        of a prompt may be partly filled.
    block_tokens : int
        Tokens of a block; 0 where the format has none.
    skipped : int
        Bad lines and failed requests that were left out.
    """

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    block_start: Ints
    block: Ints
    block_tokens: int
    skipped: int


def read_trace(
    path: Path, kind: TraceFormat = "auto", most: int | None = None, skip_bad: bool = False
) -> Trace:
    """Read the requests of a trace.

    Parameters
    ----------
    path : Path
        A text file, plain or gzipped.
    kind : TraceFormat
        `auto` finds the format by the first line.
    most : int, optional
        Requests to read, from the beginning of the file.
    skip_bad : bool
        Bad lines are skipped and counted.

    Returns
    -------
    Trace

    Raises
    ------
    SpecError
        With one problem for every bad line, the first ten of them in words; or the file is empty,
        of no known format, or no request is left of it.
    """
    lines = Lines(path)
    header = lines.header()
    if not header:
        raise SpecError(Problem("the file is empty", "name a trace with requests", str(path)))
    bad = BadLines(str(path), skip_bad)
    if kind == "mooncake" or (kind == "auto" and header.startswith("{")):
        return _read_json(lines, header, bad, most)
    return _read_csv(lines, cells_of(header), kind, bad, most)


def _read_csv(
    lines: Lines, header: list[str], kind: TraceFormat, bad: BadLines, most: int | None
) -> Trace:
    name, places = _find_columns(header, kind, bad.file)
    labels = [header[place].strip() for place in places]
    time = Column(labels[0], places[0], 0.0, False, SECONDS)
    if name == "azure":
        time = Column(labels[0], places[0], -np.inf, False, STAMP, Clock())
    failed = _Failed() if name == "burstgpt" else None
    least = 1 if failed is None else 0
    columns = (time, tokens(labels[1], places[1], least), tokens(labels[2], places[2], least))
    table = read_table(lines, len(header), columns, bad, most, failed)
    if failed is not None:
        for line in table.lines[table.columns[1] < 1].tolist():
            bad.add(line, labels[1], "0", "at least 1 token: the row has a response")
    skipped = bad.skipped() + (failed.count if failed else 0)
    good = table.columns[1] >= 1
    arrival_s, inputs, outputs = (column[good] for column in table.columns)
    blocks = [()] * arrival_s.size
    return _make_trace(arrival_s, inputs, outputs, blocks, 0, skipped, bad.file)


class _Failed:
    """Keeps rows that have a response and counts the others."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, columns: tuple[Floats, ...]) -> Flags:
        kept: Flags = columns[2] >= 1
        self.count += int((~kept).sum())
        return kept


def _find_columns(header: list[str], kind: TraceFormat, file: str) -> tuple[str, tuple[int, ...]]:
    """The format and the places of time, input and output."""
    kinds = list(TIME_OF) if kind == "auto" else [kind]
    for name in kinds:
        found = [find_column(header, words[name]) for words in (TIME_OF, INPUT_OF, OUTPUT_OF)]
        places = [place for place in found if place is not None]
        if len(places) == len(found):
            return name, tuple(places)
    seen = shortened(", ".join(cell.strip() for cell in header))
    expected = "; ".join(f"{name}: {_wanted(name)}" for name in kinds)
    what = "of no known trace" if kind == "auto" else f"not of a trace of format {kind}"
    message = f"the columns are {what}: {seen}"
    fix = f"a header of {expected}"
    if kind == "auto":
        fix += "; or JSON lines as Mooncake has them"
    raise SpecError(Problem(message, fix, file, 1))


def _wanted(name: str) -> str:
    return ", ".join(" or ".join(words[name]) for words in (TIME_OF, INPUT_OF, OUTPUT_OF))


class Clock:
    """Reads dates as seconds since the first of them; a zone is taken into account."""

    def __init__(self) -> None:
        self._origin: Any = None

    def __call__(self, cells: Sequence[str]) -> Floats:
        try:
            stamps = _stamps(cells)
        except ValueError:
            stamps = np.array([_stamp(cell) for cell in cells], dtype="datetime64[ns]")
        valid = ~np.isnat(stamps)
        seconds = np.full(stamps.size, np.nan)
        if valid.any():
            if self._origin is None:
                self._origin = stamps[valid][0]
            seconds[valid] = (stamps[valid] - self._origin).astype(np.int64) / 1e9
        return seconds


def _stamps(cells: Sequence[str]) -> NDArray[np.datetime64]:
    """Dates that all have one zone, or none; a `ValueError` where one cannot be read."""
    zones = {cell[19:].lstrip(".0123456789") for cell in cells}
    if not cells:
        return np.empty(0, dtype="datetime64[ns]")
    if len(zones) > 1 or not {cell[:2] for cell in cells} <= {"19", "20", "21"}:
        raise ValueError("several zones, or no years")
    if not 19 <= min(map(len, cells)) <= max(map(len, cells)) <= 40:
        raise ValueError("no dates and times")
    zone = zones.pop()
    if not ZONE.fullmatch(zone):
        raise ValueError(f"no zone: {zone}")
    texts = [cell[: -len(zone)] for cell in cells] if zone else cells
    stamps: NDArray[np.datetime64] = np.array(texts, dtype="datetime64[ns]")
    stamps -= _offset(zone)
    return stamps


def _offset(zone: str) -> np.timedelta64:
    if zone in ("", "Z"):
        return np.timedelta64(0, "m")
    minutes = 60 * int(zone[1:3]) + int(zone[-2:])
    return np.timedelta64(-minutes if zone[0] == "-" else minutes, "m")


def _stamp(cell: str) -> np.datetime64:
    try:
        stamp: np.datetime64 = _stamps([cell.strip()])[0]
    except ValueError:
        return np.datetime64("NaT")
    return stamp


def _read_json(lines: Lines, header: str, bad: BadLines, most: int | None) -> Trace:
    """Mooncake's JSON lines."""
    rows: list[tuple[float, int, int, list[int]]] = []
    first, block = lines.line - 1, [header]
    while block:
        for place, text in enumerate(block, first):
            if text.isspace():
                continue
            row = _json_row(text)
            if isinstance(row[0], str):
                bad.add(place, *row)
            else:
                rows.append(row)
        first = lines.line
        wanted = BLOCK_LINES if most is None else min(most - len(rows), BLOCK_LINES)
        block = lines.block(wanted)
    skipped = bad.skipped()
    columns: list[Any] = list(zip(*rows, strict=True)) or [(), (), (), ()]
    times, inputs, outputs = (np.array(column, dtype=np.float64) for column in columns[:3])
    blocks, size = columns[3], MOONCAKE_BLOCK_TOKENS
    return _make_trace(times / 1e3, inputs, outputs, blocks, size, skipped, bad.file)


JSON_KEYS = ("timestamp", "input_length", "output_length", "hash_ids")
JSON_EXPECTED = (
    "a number of milliseconds, at least 0",
    "a whole number of tokens, at least 1",
    "a whole number of tokens, at least 1",
    "a list of whole numbers",
)


def _json_row(text: str) -> tuple[float, int, int, list[int]] | tuple[str, str, str]:
    """One request; or the key, what was seen there and what was expected."""
    import orjson

    try:
        data = orjson.loads(text)
        time, inputs, outputs = data["timestamp"], data["input_length"], data["output_length"]
        ids = data.get("hash_ids", ())
    except orjson.JSONDecodeError:
        return "", repr(text.strip()), "a JSON object on a line of its own"
    except (TypeError, IndexError, AttributeError):
        return "", repr(text.strip()), "a JSON object with the keys " + ", ".join(JSON_KEYS[:3])
    except KeyError as error:
        return error.args[0], "no such key", JSON_EXPECTED[JSON_KEYS.index(error.args[0])]
    good = (
        type(time) in (int, float) and 0 <= time < LARGEST,
        type(inputs) is int and 1 <= inputs <= MOST_TOKENS,
        type(outputs) is int and 1 <= outputs <= MOST_TOKENS,
        isinstance(ids, list | tuple) and {int}.issuperset(map(type, ids)),
    )
    if not all(good):
        wrong = good.index(False)
        seen = repr((time, inputs, outputs, ids)[wrong])
        return JSON_KEYS[wrong], seen, JSON_EXPECTED[wrong]
    if len(ids) > -(-inputs // MOONCAKE_BLOCK_TOKENS):
        expected = f"at most one for each {MOONCAKE_BLOCK_TOKENS} of {inputs} tokens"
        return "hash_ids", f"{len(ids)} ids", expected
    return float(time), inputs, outputs, ids


def _make_trace(
    arrival_s: Floats,
    inputs: Floats,
    outputs: Floats,
    blocks: Sequence[Sequence[int]],
    block_tokens: int,
    skipped: int,
    file: str,
) -> Trace:
    """Put requests in order of arrival and number their blocks from 0."""
    if not arrival_s.size:
        message = "no request is left" if skipped else "the file has no requests"
        if skipped:
            message += f": all {skipped:,} lines were skipped"
        raise SpecError(Problem(message, "name a trace with requests", file))
    order = np.argsort(arrival_s, kind="stable")
    start = np.zeros(order.size + 1, dtype=np.int64)
    ids: dict[int, int] = {}
    flat: list[int] = []
    if block_tokens:
        for place, row in enumerate(order.tolist()):
            flat.extend([ids.setdefault(value, len(ids)) for value in blocks[row]])
            start[place + 1] = len(flat)
    return Trace(
        arrival_s=arrival_s[order] - arrival_s.min(),
        input_tokens=inputs[order].astype(np.int64),
        output_tokens=outputs[order].astype(np.int64),
        block_start=start,
        block=np.array(flat, dtype=np.int64),
        block_tokens=block_tokens,
        skipped=skipped,
    )
