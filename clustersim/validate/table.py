"""A validation report in words: tables for a terminal and for `validation/README.md`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clustersim.errors import Problem, SpecError
from clustersim.validate.entries import Entry
from clustersim.validate.runner import Report
from clustersim.validate.summary import summarise

BEGIN, END = "<!-- table: begin (generated) -->", "<!-- table: end -->"
SUMMARY_COLUMNS = ("group", "cases", "skipped", "median", "mean", "p90", "bias")


def exit_code(report: Report) -> int:
    """0; 1 where a case is newly outside its tolerance or fits in memory when it should not.

    Parameters
    ----------
    report : Report
        A known miss does not count; a case that does not fit when it should does.
    """
    return 0 if report.passed else 1


def percent(value: float | None, sign: bool = False) -> str:
    """A fraction as per cent with one decimal, for people.

    Parameters
    ----------
    value : float or None
        A fraction; None is written "-".
    sign : bool
        Write a plus too.
    """
    if value is None:
        return "-"
    return f"{100 * value:+.1f}%" if sign else f"{100 * value:.1f}%"


def summary_cells(report: Report) -> list[tuple[str, ...]]:
    """Rows of the summary as text, in the order of `SUMMARY_COLUMNS`.

    Parameters
    ----------
    report : Report

    Returns
    -------
    list of tuple of str
        Further statistics, such as rank correlations, have no column.
    """
    return [
        (
            row["group"],
            str(row["cases"]),
            str(row["skipped"]),
            percent(row["median_ape"]),
            percent(row["mape"]),
            percent(row["p90_ape"]),
            percent(row["bias"], sign=True),
        )
        for row in summarise(report.entries)
    ]


def worst_entries(report: Report, count: int = 10) -> list[Entry]:
    """The entries of largest absolute error.

    Parameters
    ----------
    report : Report
    count : int
        How many at most.

    Returns
    -------
    list of Entry
        Largest first, equal ones by id; skipped entries have no error.
    """
    compared = [entry for entry in report.entries if entry.error is not None]
    return sorted(compared, key=lambda entry: (-abs(entry.error or 0.0), entry.id))[:count]


def skip_reasons(report: Report) -> list[tuple[str, int]]:
    """Reasons for skipping and how many entries each takes, most frequent first.

    Parameters
    ----------
    report : Report

    Returns
    -------
    list of (str, int)
        Equally frequent ones by their words.
    """
    counts: dict[str, int] = {}
    for entry in report.entries:
        if entry.status == "skipped":
            reason = entry.reason or "no reason"
            counts[reason] = counts.get(reason, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def render(report: Report, *, worst: int = 10) -> str:
    """The report as plain text: summary, worst cases, missed tolerances, reasons.

    Parameters
    ----------
    report : Report
    worst : int
        How many of the worst cases are listed.

    Returns
    -------
    str
        Parts that would be empty are left out, the summary aside.
    """
    parts = [
        plain_table(SUMMARY_COLUMNS, summary_cells(report)),
        _ranks_part(report),
        _worst_part(report, worst),
        _missed_part(report),
        _memory_part(report),
        _skipped_part(report),
    ]
    return "\n\n".join(part for part in parts if part)


def _ranks_part(report: Report) -> str:
    lines = [
        f"{row['group']}: Spearman {row['spearman']:.3f} mean, {row['spearman_median']:.3f} median"
        f" of {row['cases']} series"
        for row in summarise(report.entries)
        if "spearman" in row
    ]
    return "\n".join(lines)


def _worst_part(report: Report, worst: int) -> str:
    cells = [entry_cells(entry) for entry in worst_entries(report, worst)]
    return "largest errors\n" + plain_table(ENTRY_COLUMNS, cells) if cells else ""


def _missed_part(report: Report) -> str:
    cells = [
        (*entry_cells(entry), percent(entry.tolerance), entry.known_miss or "new")
        for entry in report.entries
        if entry.outside_tolerance
    ]
    header = (*ENTRY_COLUMNS, "tolerance", "known miss")
    parts = ["outside tolerance\n" + plain_table(header, cells)] if cells else []
    if report.mended:
        parts.append("inside again; take known_miss away from " + ", ".join(report.mended))
    return "\n\n".join(parts)


def _memory_part(report: Report) -> str:
    lines = [
        f"{fit.id}: should {'' if fit.expected else 'not '}fit, needs "
        f"{fit.memory_bytes / 2**30:.1f} GiB of {fit.limit_bytes / 2**30:.1f} GiB"
        for fit in report.fits
        if fit.predicted != fit.expected
    ]
    return "memory\n" + "\n".join(lines) if lines else ""


def _skipped_part(report: Report) -> str:
    reasons = [(str(count), reason) for reason, count in skip_reasons(report)]
    return "skipped\n" + plain_table(("entries", "reason"), reasons) if reasons else ""


ENTRY_COLUMNS = ("case", "metric", "predicted", "measured", "error")


def entry_cells(entry: Entry) -> tuple[str, ...]:
    """An entry as text, in the order of `ENTRY_COLUMNS`.

    Parameters
    ----------
    entry : Entry
        What it lacks, as a skipped one lacks its error, is written "-".

    Returns
    -------
    tuple of str
        Memory in GiB, times in seconds, the error as per cent with its sign.
    """
    return (
        entry.id,
        entry.metric or "-",
        _number(entry.predicted, entry.metric),
        _number(entry.measured, entry.metric),
        percent(entry.error, sign=True),
    )


def _number(value: float | None, metric: str | None) -> str:
    if value is None:
        return "-"
    if metric == "memory_bytes":
        return f"{value / 2**30:.2f} GiB"
    return f"{value:.4g} {unit_of(metric)}"


def unit_of(metric: str | None) -> str:
    """Unit of a metric by its name.

    Parameters
    ----------
    metric : str or None
        Not `memory_bytes`, which is written in GiB.

    Returns
    -------
    str
        "1/s" for requests, "tokens/s" for other rates, "W" for power, else "s".
    """
    if metric is not None and metric.endswith("_per_s"):
        return "1/s" if metric.startswith("requests") else "tokens/s"
    return "W" if metric == "power_w" else "s"


def plain_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded with blanks: words to the left, numbers to the right.

    Parameters
    ----------
    header : sequence of str
        Titles of the columns.
    rows : iterable of sequence of str
        Each as long as the header. A column holds numbers where every cell starts with a digit or a
        sign.

    Returns
    -------
    str
        Lines without blanks at their ends, nor a newline at the last.
    """
    table = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if _is_word(table, column) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _is_word(table: Sequence[Sequence[str]], column: int) -> bool:
    cells = [row[column] for row in table[1:]]
    return not all(cell == "-" or cell[:1] in "+-0123456789" for cell in cells)


def markdown(report: Report) -> str:
    """The summary and the cases with a tolerance, as Markdown tables.

    Parameters
    ----------
    report : Report

    Returns
    -------
    str
        Where cases say whether they should fit in memory, a table of those too.
    """
    lines = _markdown_table(SUMMARY_COLUMNS, summary_cells(report))
    claimed = [entry for entry in report.entries if entry.tolerance is not None]
    if claimed:
        rows = [
            (*entry_cells(entry), percent(entry.tolerance), entry.evidence or "-", _verdict(entry))
            for entry in claimed
        ]
        lines += ["", *_markdown_table((*ENTRY_COLUMNS, "tolerance", "evidence", ""), rows)]
    if report.fits:
        fit_rows = [
            (
                fit.id,
                "fits" if fit.expected else "does not fit",
                "fits" if fit.predicted else "does not fit",
                f"{fit.memory_bytes / 2**30:.1f} GiB",
            )
            for fit in report.fits
        ]
        columns = ("case", "expected", "predicted", "needs")
        lines += ["", *_markdown_table(columns, fit_rows)]
    return "\n".join(lines) + "\n"


def _verdict(entry: Entry) -> str:
    if entry.status != "ok":
        return f"skipped: {entry.reason}"
    if not entry.outside_tolerance:
        return "inside"
    return f"outside: {entry.known_miss}" if entry.known_miss else "outside"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'|'.join('---' for _ in header)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def write_table(report: Report, path: str | Path) -> None:
    """Replace the generated part of a Markdown file, between its two marks.

    Parameters
    ----------
    report : Report
    path : str or Path
        An existing file; what stands outside the marks `BEGIN` and `END` stays.

    Raises
    ------
    SpecError
        If the file lacks one of the marks, or has them the wrong way round; it is then left as it
        was.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    head, mark, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not mark or not end:
        fix = f"write the lines {BEGIN} and {END} where the table belongs"
        raise SpecError(Problem("has no place for the table", fix, str(path)))
    path.write_text(f"{head}{BEGIN}\n\n{markdown(report)}\n{END}{tail}", encoding="utf-8")
