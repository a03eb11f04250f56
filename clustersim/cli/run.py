"""``clustersim run``: one scenario, its answer, and its files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def load(source: str, overrides: list[str] | None) -> Scenario:
    """Load a scenario and pass its warnings on to stderr."""
    from clustersim.spec.resolve import load_checked_scenario

    scenario, checked = load_checked_scenario(source, tuple(overrides or ()))
    console.warn(checked.warnings)
    return scenario


def run_command(
    source: ScenarioName,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for tables (Parquet), trace and the resolved scenario."),
    ] = None,
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
            from clustersim.analysis.export import check_folder

            check_folder(out)
        with console.progress(f"simulating {scenario.name} on {scenario.gpus:,} GPUs"):
            from clustersim.run import simulate

            result = simulate(scenario)
        console.warn(result.document.get("warnings") or ())
        if out is not None:
            with console.progress(f"writing {out}"):
                _write(out, result)
        if json:
            console.print_json(result.document)
        else:
            from clustersim.analysis.report import print_report

            print_report(result.document, console.output(), definitions)
        if not result.document["fits"]:
            _refuse(result)


def _write(out: Path, result: Result) -> None:
    from clustersim.analysis.columns import Run
    from clustersim.analysis.export import write_run
    from clustersim.spec.resolve import dump_scenario

    costs = result.costs
    run = Run(result.program, result.timeline, costs.compute_s, costs.fixed_s, result.factor)
    written = write_run(out, run, result.document, dump_scenario(result.scenario))
    console.say(f"wrote {out}: {', '.join(path.name for path in written)}")


def _refuse(result: Result) -> None:
    """Say on stderr why the answer is no, and end with exit code 1."""
    from clustersim.analysis.report import print_misfit
    from clustersim.run import nearest_knobs

    print_misfit(result.document, nearest_knobs(result.scenario), console.messages())
    raise typer.Exit(console.NO)
