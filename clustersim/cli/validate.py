"""``clustersim validate``: published cases in, errors out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clustersim.cli import console
from clustersim.cli.run import AsJson

if TYPE_CHECKING:
    from clustersim.validate.runner import Report

_PACKAGE = Path(__file__).resolve().parents[1]
SUFFIXES = (".yaml", ".yml", ".csv")


def shipped_cases() -> Path:
    """Folder of the shipped cases: in the package, or at the top of a checkout."""
    packed = _PACKAGE / "shipped" / "validation" / "cases"
    return packed if packed.is_dir() else _PACKAGE.parent / "validation" / "cases"


def case_files(paths: list[Path]) -> list[Path]:
    """Files of the given paths, folders opened, sorted within each.

    Raises
    ------
    SpecError
        For every path that does not exist and every folder without cases.
    """
    from clustersim.errors import Problem, SpecError

    files: list[Path] = []
    problems = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.suffix in SUFFIXES)
        if not path.exists():
            problems.append(Problem("no such file or folder", "name a file of cases", str(path)))
        elif not inside:
            fix = f"put cases in it as {', '.join(SUFFIXES)}"
            problems.append(Problem("the folder holds no cases", fix, str(path)))
        files += inside
    if problems:
        raise SpecError(problems)
    return files


def validate_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Files or folders; without: the shipped cases."),
    ] = None,
    json: AsJson = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes; results do not depend on it.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder for validation.json and validation.md.")
    ] = None,
) -> None:
    """Compare predictions with published measurements."""
    with console.answering():
        if out is not None:
            from clustersim.analysis.export import check_folder

            check_folder(out)
        paths = case_files(files or [shipped_cases()])
        from clustersim.validate.predictor import SimulatorPredictor
        from clustersim.validate.runner import validate_files
        from clustersim.validate.table import exit_code, render

        with console.progress(f"running the cases of {len(paths)} files"):
            report = validate_files(paths, SimulatorPredictor(), jobs=jobs)
        if out is not None:
            _write(out, report)
        if json:
            console.print_json(report.document())
        else:
            typer.echo(render(report))
        if exit_code(report):
            console.say("the answer is no: a case is outside its tolerance or its fit is wrong")
            raise typer.Exit(console.NO)


def _write(out: Path, report: Report) -> None:
    import orjson

    from clustersim.validate.table import markdown

    out.mkdir(parents=True, exist_ok=True)
    text = orjson.dumps(report.document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    for name, content in (("validation.json", text), ("validation.md", markdown(report).encode())):
        draft = out / f".{name}"
        draft.write_bytes(content)
        draft.replace(out / name)
    console.say(f"wrote {out}: validation.json, validation.md")
