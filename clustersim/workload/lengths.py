"""How long prompts and answers are: drawn from distributions, or from a file with replacement.

Drawn prompts and answers are independent; those of a file come in pairs. A file is a CSV of pairs,
any trace, or a joint histogram with the columns input_lo, input_hi, output_lo, output_hi and count:
a bin is drawn by its count, then a value log-uniform inside it, rounded down, at least 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import Problem, SpecError
from clustersim.spec.workload import Lengths, Spread
from clustersim.workload.files import (
    BadLines,
    Column,
    Lines,
    cells_of,
    find_column,
    find_file,
    read_table,
    shortened,
    tokens,
)
from clustersim.workload.streams import named_rng
from clustersim.workload.traces import INPUT_OF, OUTPUT_OF, read_trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = ("input_lo", "input_hi", "output_lo", "output_hi", "count")
INPUTS = (*(name for names in INPUT_OF.values() for name in names), "num_prefill_tokens", "prefill")
OUTPUTS = (*(name for names in OUTPUT_OF.values() for name in names), "num_decode_tokens", "decode")
INPUTS += ("prefill_tokens", "prompt_tokens", "input_length", "input_len", "input")
OUTPUTS += ("decode_tokens", "completion_tokens", "output_length", "output_len", "output")


@dataclass(frozen=True)
class Drawn:
    """Lengths of requests.

    Attributes
    ----------
    input_tokens, output_tokens : ndarray of int64 (n,)
        At least 1.
    skipped : int
        Bad lines of the file that were left out.
    """

    input_tokens: Ints
    output_tokens: Ints
    skipped: int = 0


def draw_lengths(
    lengths: Lengths,
    count: int,
    seed: int,
    replication: int = 0,
    base: Path | None = None,
    skip_bad: bool = False,
) -> Drawn:
    """Draw lengths of prompts and answers.

    Parameters
    ----------
    lengths : Lengths
        Where they come from.
    count : int
        Requests; the first ones are the same whatever their number.
    seed, replication : int
        Of the random streams.
    base : Path, optional
        Folder of the scenario.
    skip_bad : bool
        Bad lines of a file are skipped and counted.

    Returns
    -------
    Drawn

    Raises
    ------
    SpecError
        The file cannot be read; every bad line is reported.
    """
    if lengths.input is not None and lengths.output is not None:
        return Drawn(
            draw_spread(lengths.input, count, named_rng(seed, "input lengths", replication)),
            draw_spread(lengths.output, count, named_rng(seed, "output lengths", replication)),
        )
    assert lengths.file is not None
    path = find_file(lengths.file, base, "workload.lengths.file")
    rng = named_rng(seed, "length pairs", replication)
    scale = (lengths.input_mean, lengths.output_mean)
    reading = Lines(path)
    header = [cell.strip() for cell in cells_of(reading.header())]
    places = [find_column(header, (name,)) for name in BINS]
    bad = BadLines(str(path), skip_bad)
    if None not in places:
        bins = _read_bins(reading, header, [place for place in places if place is not None], bad)
        return _draw_bins(bins, scale, count, rng, bad.count)
    sides, skipped = _read_pairs(reading, header, bad)
    rows = rng.integers(0, sides[0].size, count)
    drawn = [
        _rounded(side[rows] * (1.0 if mean is None else mean / side.mean()))
        for side, mean in zip(sides, scale, strict=True)
    ]
    return Drawn(drawn[0], drawn[1], skipped)


def draw_spread(spread: Spread, count: int, rng: np.random.Generator) -> Ints:
    """Draw lengths from a distribution; rounded, at least 1, at most `most`.

    Parameters
    ----------
    spread : Spread
        Mean and `most` in tokens; `variation` is the standard deviation over the mean (cv).
    count : int
    rng : numpy.random.Generator
        A fixed length takes nothing from it.

    Returns
    -------
    ndarray of int64 (count,)
        [tokens]

    Notes
    -----
    `uniform` reaches sqrt(3) standard deviations to either side of the mean. `lognormal` has
    sigma^2 = ln(1 + cv^2) and mu = ln(mean) - sigma^2/2.
    """
    match spread.kind:
        case "fixed":
            values = np.full(count, spread.mean)
        case "uniform":
            reach = math.sqrt(3.0) * spread.variation
            values = spread.mean * (1.0 + reach * (2.0 * rng.random(count) - 1.0))
        case "lognormal":
            variance = math.log1p(spread.variation**2)
            normal = rng.standard_normal(count)
            values = spread.mean * np.exp(math.sqrt(variance) * normal - 0.5 * variance)
    if spread.most is not None:
        values = np.minimum(values, spread.most)
    return _rounded(values)


def _rounded(values: Floats) -> Ints:
    return np.maximum(np.rint(values), 1.0).astype(np.int64)


def _read_pairs(lines: Lines, header: list[str], bad: BadLines) -> tuple[list[Floats], int]:
    """Prompts and answers of a file of pairs or of a trace, and how many lines were skipped."""
    places = (find_column(header, INPUTS), find_column(header, OUTPUTS))
    if header[0].startswith("{"):
        trace = read_trace(lines.path, skip_bad=bad.skip)
        return [side.astype(float) for side in (trace.input_tokens, trace.output_tokens)], (
            trace.skipped
        )
    if places[0] is None or places[1] is None:
        message = f"the columns hold no lengths: {shortened(', '.join(header))}"
        fix = f"a header such as input_tokens,output_tokens, or a histogram: {','.join(BINS)}"
        raise SpecError(Problem(message, fix, bad.file, 1))
    columns = [tokens(header[place], place) for place in places if place is not None]
    table = read_table(lines, len(header), columns, bad)
    skipped = bad.skipped()
    _check_some(table.lines.size, bad)
    return list(table.columns), skipped


def _check_some(rows: int, bad: BadLines) -> None:
    if not rows:
        message = "no row is left: all were skipped" if bad.count else "the file has no rows"
        raise SpecError(Problem(message, "name a file with lengths", bad.file))


def _read_bins(lines: Lines, header: list[str], places: list[int], bad: BadLines) -> list[Floats]:
    """Edges and counts of a joint histogram."""
    columns = [
        Column(header[place], place, 0.0, True, "a whole number, at least 0") for place in places
    ]
    table = read_table(lines, len(header), columns, bad)
    input_lo, input_hi, output_lo, output_hi, count = table.columns
    wrong = (input_hi <= input_lo) | (output_hi <= output_lo)
    for row in np.flatnonzero(wrong).tolist():
        edges = f"{input_lo[row]:g} to {input_hi[row]:g}, {output_lo[row]:g} to {output_hi[row]:g}"
        bad.add(int(table.lines[row]), "", f"a bin from {edges}", "upper edges above lower ones")
    bad.skipped()
    _check_some(int(count[~wrong].sum()), bad)
    return [column[~wrong] for column in table.columns]


def _draw_bins(
    bins: list[Floats],
    scale: tuple[float | None, float | None],
    count: int,
    rng: np.random.Generator,
    skipped: int,
) -> Drawn:
    share = bins[4] / bins[4].sum()
    uniform = rng.random((count, 3))
    last = np.flatnonzero(share)[-1]
    rows = np.minimum(np.searchsorted(np.cumsum(share), uniform[:, 0], side="right"), last)
    drawn = []
    for side in (0, 1):
        low = np.maximum(bins[2 * side], 1.0)
        high = np.maximum(bins[2 * side + 1], low)
        values = np.floor(low[rows] * (high[rows] / low[rows]) ** uniform[:, 1 + side])
        mean = scale[side]
        factor = 1.0 if mean is None else mean / float(share @ _floored_mean(low, high))
        drawn.append(_rounded(factor * values))
    return Drawn(drawn[0], drawn[1], skipped)


def _floored_mean(low: Floats, high: Floats) -> Floats:
    """Mean of values that are log-uniform between whole numbers and rounded down.

    Notes
    -----
    The sum over j from low to high - 1 of ``j ln((j + 1)/j) / ln(high/low)``, summed by parts.
    """
    means = low.copy()
    for row, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if b > a:
            total = b * math.log(b) - a * math.log(a) - math.lgamma(b + 1.0) + math.lgamma(a + 1.0)
            means[row] = total / math.log(b / a)
    return means
