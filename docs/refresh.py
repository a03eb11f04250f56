"""Fill the numbers of the documentation from runs of the working tree.

    python docs/refresh.py            run everything, rewrite what changed
    python docs/refresh.py --check    rewrite nothing; exit 1 where a page is out of date

Three kinds of blocks are filled; what stands between their marks is generated:

- ``answer ARGUMENTS`` in any page: the report of `clustersim run ARGUMENTS`, without arguments of
  `scenarios/175b_12k_gpus.yaml`;
- ``validation`` in README.md: errors of `clustersim validate` by source;
- ``headline ARGUMENTS`` in any page: the first lines of `clustersim run ARGUMENTS`.

The table of every case in validation/README.md is filled as well. Wall times and digests are left
out, so that the text depends on the code and the data alone.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from rich.console import Console

from clustersim.analysis.report import headline, print_report
from clustersim.analysis.serving_report import print_serving_report, serving_headline
from clustersim.run import Result, simulate
from clustersim.run.serving import ServingResult
from clustersim.spec.resolve import load_scenario
from clustersim.validate.entries import Entry
from clustersim.validate.predictor import SimulatorPredictor
from clustersim.validate.runner import Report, validate_files
from clustersim.validate.summary import summary_row
from clustersim.validate.table import percent, write_table

ROOT = Path(__file__).resolve().parents[1]
ANSWER = "175b_12k_gpus"
CASES = ROOT / "validation" / "cases"
CASE_TABLE = ROOT / "validation" / "README.md"
WIDTH = 100  # columns of a report
BLOCK = re.compile(
    r"(?P<head><!-- (?P<kind>answer|validation|headline):begin(?P<arguments>[^>]*?) -->\n)"
    r".*?"
    r"(?P<tail><!-- (?P=kind):end -->)",
    re.DOTALL,
)
QUANTITIES = (
    ("step time", ("step_time_s",)),
    ("one layer", ("layer_forward_s", "layer_backward_s")),
    ("memory", ("memory_bytes",)),
)
EVIDENCE = {"held_out": "held out", "calibrated": "calibrated"}
COLUMNS = ("source", "evidence", "what", "cases", "median", "mean", "p90", "bias", "outside")


@cache
def simulated(arguments: str, what_ifs: bool) -> Result | ServingResult:
    """What `clustersim run` simulates for these arguments."""
    parser = argparse.ArgumentParser(prog="clustersim run")
    parser.add_argument("scenario")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(shlex.split(arguments))
    return simulate(load_scenario(given.scenario, tuple(given.set)), what_ifs)


def answer(arguments: str) -> str:
    """The report of a scenario, without the line about the engine's own work."""
    result, text = simulated(arguments, True), io.StringIO()
    console = Console(file=text, width=WIDTH, color_system=None)
    if isinstance(result, Result):
        print_report(result.document, console)
    else:
        print_serving_report(result.document, console, result.series)
    speed = f"{result.document['engine']} engine: "
    lines = [line.rstrip() for line in text.getvalue().splitlines() if not line.startswith(speed)]
    return fenced("\n".join(lines))


def first_lines(arguments: str) -> str:
    """The first lines that `clustersim run` prints for these arguments."""
    result = simulated(arguments, False)
    write = headline if isinstance(result, Result) else serving_headline
    return fenced(write(result.document))


def fenced(text: str) -> str:
    """A block of plain text in Markdown."""
    return f"```text\n{text.strip()}\n```\n"


@cache
def report() -> Report:
    """All shipped cases, once."""
    return validate_files(sorted(CASES.glob("*.yaml")), SimulatorPredictor())


def validation() -> str:
    """Errors of held-out and calibrated cases: all of them first, then source by source."""
    entries = report().entries
    rows = []
    for evidence, said in EVIDENCE.items():
        chosen = [entry for entry in entries if entry.evidence == evidence]
        sources = sorted({entry.source for entry in chosen}, key=str.lower)
        rows += quantity_rows(f"**all {said}**", said, chosen)
        for source in sources:
            rows += quantity_rows(source, said, [e for e in chosen if e.source == source])
    head = [COLUMNS, ("---",) * 3 + ("---:",) * (len(COLUMNS) - 3)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in [*head, *rows])
    skipped = sum(entry.status == "skipped" for entry in entries)
    return (
        f"{table}\n\n"
        f"Skipped, with a reason each: {skipped}. Runs that fitted in memory and are judged so:\n"
        f"{verdicts(True)}; that did not fit: {verdicts(False)}.\n"
    )


def verdicts(fitted: bool) -> str:
    """How many runs that fitted, or did not, are judged so: "6 of 7"."""
    fits = [fit for fit in report().fits if fit.expected is fitted]
    return f"{sum(fit.predicted is fitted for fit in fits)} of {len(fits)}"


def quantity_rows(name: str, evidence: str, entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """One row a compared quantity."""
    rows = []
    for what, metrics in QUANTITIES:
        chosen = [e for e in entries if e.metric in metrics and e.error is not None]
        if not chosen:
            continue
        row = summary_row(name, chosen)
        outside = sum(entry.outside_tolerance for entry in chosen)
        errors = [percent(row[key]) for key in ("median_ape", "mape", "p90_ape")]
        bias = percent(row["bias"], sign=True)
        rows.append((name, evidence, what, str(row["cases"]), *errors, bias, str(outside)))
    return rows


def filled(text: str) -> str:
    """A page with its blocks filled."""

    def block(match: re.Match[str]) -> str:
        makers: dict[str, Callable[[], str]] = {
            "answer": lambda: answer(match["arguments"].strip() or ANSWER),
            "validation": validation,
            "headline": lambda: first_lines(match["arguments"].strip()),
        }
        return f"{match['head']}\n{makers[match['kind']]()}\n{match['tail']}"

    return BLOCK.sub(block, text)


def case_table() -> str:
    """validation/README.md with its table filled."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(CASE_TABLE, folder))
        write_table(report(), copy)
        return copy.read_text(encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Refresh or check every page; 1 where `--check` finds one that is out of date."""
    parser = argparse.ArgumentParser(description="Fill the numbers of the documentation.")
    parser.add_argument("--check", action="store_true", help="rewrite nothing; exit 1 if stale")
    check = parser.parse_args(arguments).check
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {page: filled(page.read_text(encoding="utf-8")) for page in pages}
    texts[CASE_TABLE] = case_table()
    stale = [page for page, text in texts.items() if page.read_text(encoding="utf-8") != text]
    for page in stale:
        print(f"{'out of date' if check else 'filled'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(texts[page], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
