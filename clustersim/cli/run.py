"""``clustersim run``: one scenario, its answer, and its files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clustersim.cli import console

if TYPE_CHECKING:
    from clustersim.run import Result
    from clustersim.spec.scenario import Scenario


class Engine(StrEnum):
    """Which engine replays the step."""

    AUTO = "auto"
    EVENT = "event"
    COMPILED = "compiled"


ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A file, or the name of a shipped scenario.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field; may be given again."),
]


def named_folder(text: str) -> Path:
    """A folder as it was typed; the empty text is not one."""
    if not text.strip():
        raise typer.BadParameter("it is empty; name a folder, or write . for this one")
    return Path(text)


Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        parser=named_folder,
        help="Folder for tables (Parquet), trace and the resolved scenario.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def load(source: str, overrides: list[str] | None) -> Scenario:
    """Load a scenario and pass its warnings on to stderr."""
    from clustersim.spec.resolve import load_checked_scenario

    scenario, checked = load_checked_scenario(source, tuple(overrides or ()))
    console.warn(checked.warnings)
    return scenario


def run_command(
    source: ScenarioName,
    out: Out = None,
    json: AsJson = False,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all random draws.")] = None,
    engine: Annotated[Engine | None, typer.Option(help="Engine that replays the step.")] = None,
    definitions: Annotated[
        bool, typer.Option("--definitions", help="Explain the terms of the report.")
    ] = False,
) -> None:
    """Simulate a training step: how fast, where the time goes, whether it fits."""
    with console.answering():
        sets = list(overrides or ())
        sets += [f"run.seed={seed}"] if seed is not None else []
        sets += [f"run.engine={engine.value}"] if engine is not None else []
        scenario = load(source, sets)
        if out is not None:
            from clustersim.analysis.export import FILES, check_folder

            check_folder(out, FILES, input_files(source, sets))
        with console.progress(f"simulating {scenario.name} on {scenario.gpus:,} GPUs"):
            from clustersim.run import simulate

            result = simulate(scenario)
        console.warn(result.document.get("warnings") or ())
        try:
            if out is not None:
                with console.progress(f"writing {out}"):
                    _write(out, result)
        finally:  # the answer was found, whether or not its files can be written
            _print(result.document, json, definitions)
        if not result.document["fits"]:
            _refuse(result)


def input_files(source: str, overrides: list[str]) -> list[Path]:
    """Files that a scenario is made of: its own, those it extends, and those it refers to."""
    from clustersim.spec.documents import read_document
    from clustersim.spec.merge import load_tree
    from clustersim.spec.names import locate

    marks = load_tree("scenario", source, tuple(overrides)).marks.values()
    path = locate("scenario", source)
    chain = [path]  # a file that is extended may have no value left, and so no mark
    while base := read_document(path, lenient=True).data.get("extends"):
        path = locate("scenario", base, path.absolute().parent)
        chain.append(path)
    return [*chain, *{Path(mark.folder, Path(mark.file).name) for mark in marks if mark.folder}]


def _print(document: dict[str, Any], json: bool, definitions: bool) -> None:
    if json:
        console.print_json(document)
    else:
        from clustersim.analysis.report import print_report

        print_report(document, console.output(), definitions)


def _write(out: Path, result: Result) -> None:
    from clustersim.analysis.columns import Run
    from clustersim.analysis.export import write_run
    from clustersim.spec.resolve import dump_scenario

    costs = result.costs
    run = Run(
        result.program,
        result.timeline,
        costs.compute_s,
        costs.fixed_s,
        result.factor,
        result.first_replica,
    )
    written = write_run(out, run, result.document, dump_scenario(result.scenario))
    console.say(f"wrote {out}: {', '.join(path.name for path in written)}")


def _refuse(result: Result) -> None:
    """Say on stderr why the answer is no, and end with exit code 1."""
    from clustersim.analysis.report import print_misfit
    from clustersim.run import nearest_knobs

    print_misfit(result.document, nearest_knobs(result.scenario), console.messages())
    raise typer.Exit(console.NO)
