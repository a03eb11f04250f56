"""``clustersim validate``: published cases in, errors out; also kernels, collectives, textbooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clustersim.cli import console
from clustersim.cli.run import AsJson, named_folder

if TYPE_CHECKING:
    from clustersim.validate.measured import MeasuredReport
    from clustersim.validate.reference import ReferenceReport
    from clustersim.validate.runner import Report

_PACKAGE = Path(__file__).resolve().parents[1]
SUFFIXES = (".yaml", ".yml", ".csv")


def shipped_cases() -> Path:
    """Folder of the shipped cases: in the package, or at the top of a checkout."""
    packed = _PACKAGE / "shipped" / "validation" / "cases"
    return packed if packed.is_dir() else _PACKAGE.parent / "validation" / "cases"


def validate_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Files or folders; without: the shipped cases."),
    ] = None,
    json: AsJson = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; results do not depend on it.")
    ] = None,
    sample: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of the cases, chosen by their ids."),
    ] = 1.0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=named_folder,
            help="Folder for what was found: JSON, tables, plots.",
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Measured kernels and collectives, instead of cases."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Collective times of another simulator, instead."),
    ] = None,
) -> None:
    """Compare predictions with published or measured times."""
    with console.answering():
        _check_choice(files, measured, reference)
        if out is not None:
            from clustersim.analysis.export import check_folder

            check_folder(out)
        if measured is not None:
            _measured(measured, json, jobs, out)
        elif reference is not None:
            _reference(reference, json, out)
        else:
            _cases(files, json, jobs or 1, sample, out)


def _check_choice(files: list[Path] | None, measured: Path | None, reference: Path | None) -> None:
    """Refuse more than one thing to compare with."""
    from clustersim.errors import Problem, SpecError

    given = {"FILE": files, "--measured": measured, "--reference": reference}
    chosen = [name for name, value in given.items() if value]
    if len(chosen) > 1:
        fix = "run them one after the other"
        raise SpecError(Problem(f"{' and '.join(chosen)} cannot be given together", fix))


def _cases(
    files: list[Path] | None, json: bool, jobs: int, sample: float, out: Path | None
) -> None:
    from clustersim.spec.files import files_in
    from clustersim.validate.predictor import SimulatorPredictor
    from clustersim.validate.runner import validate_files
    from clustersim.validate.table import exit_code, render

    paths = files_in(files or [shipped_cases()], SUFFIXES, "cases")
    with console.progress(f"running the cases of {len(paths)} files"):
        report = validate_files(paths, SimulatorPredictor(), jobs=jobs, sample=sample)
    if out is not None:
        _write(out, report)
    if json:
        console.print_json(report.document())
    else:
        typer.echo(render(report))
    if exit_code(report):
        console.say("the answer is no: a case is outside its tolerance or its fit is wrong")
        raise typer.Exit(console.NO)


def _measured(folder: Path, json: bool, jobs: int | None, out: Path | None) -> None:
    from clustersim.validate.measured import render_measured, validate_measured

    with console.progress(f"pricing the rows of {folder}"):
        report = validate_measured(folder, jobs=jobs)
    if out is not None:
        _write_measured(out, report)
    if json:
        console.print_json(report.document())
    else:
        typer.echo(render_measured(report))
    _refuse_nothing(report)


def _reference(path: Path, json: bool, out: Path | None) -> None:
    from clustersim.validate.reference import render_reference, validate_reference

    report = validate_reference(path)
    if out is not None:
        _save(out, {"reference.json": _json(report.document())})
    if json:
        console.print_json(report.document())
    else:
        typer.echo(render_reference(report))
    _refuse_nothing(report)


def _refuse_nothing(report: MeasuredReport | ReferenceReport) -> None:
    """Exit with 1 where not one row could be compared."""
    if report.compared == 0:
        console.say("the answer is no: no row could be compared; the reasons are above")
        raise typer.Exit(console.NO)


def _write_measured(out: Path, report: MeasuredReport) -> None:
    import csv
    import io

    from clustersim.validate.measured import COLUMNS
    from clustersim.validate.scatter import scatter_page

    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(report.groups)
    files = {
        "measured.json": _json(report.document()),
        "measured.csv": table.getvalue().encode(),
        "measured.html": scatter_page(report.clouds, "Measured against predicted").encode(),
    }
    _save(out, files)


def _write(out: Path, report: Report) -> None:
    from clustersim.validate.table import markdown

    files = {
        "validation.json": _json(report.document()),
        "validation.md": markdown(report).encode(),
    }
    _save(out, files)


def _json(document: dict[str, Any]) -> bytes:
    import orjson

    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _save(out: Path, files: dict[str, bytes]) -> None:
    """Write each file under another name first, so that a reader never sees half of it."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        draft = out / f".{name}"
        draft.write_bytes(content)
        draft.replace(out / name)
    console.say(f"wrote {out}: {', '.join(files)}")
