"""``clustersim run``: one scenario, its answer, and its files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clustersim.cli import console

if TYPE_CHECKING:
    from clustersim.run import Result
    from clustersim.run.serving import ServingResult
    from clustersim.spec.resolve import Question

# Share of the requests that have to keep the limits of `slo`: the attainment by which Y. Zhong et
# al., "DistServe," OSDI 2024, compare systems.
ATTAINMENT = 0.9


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
    """A folder as it was typed.

    Parameters
    ----------
    text : str
        A path, which need not exist.

    Raises
    ------
    typer.BadParameter
        If it is empty or blank: that would be the current folder by accident.
    """
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


def load(source: str, overrides: list[str] | None) -> Question:
    """Load a scenario and pass its warnings on to stderr.

    Parameters
    ----------
    source : str
        A path, or the name of a shipped scenario.
    overrides : list of str or None
        Of ``--set``, in order.

    Returns
    -------
    Scenario or ServingScenario

    Raises
    ------
    SpecError
        Holds every problem found, each with its place and a fix.
    """
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
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip bad lines of a trace, and count them.")
    ] = False,
    definitions: Annotated[
        bool, typer.Option("--definitions", help="Explain the terms of the report.")
    ] = False,
) -> None:
    """Simulate a training step or a serving load: how fast, what bounds it, whether it fits."""
    with console.answering():
        sets = list(overrides or ())
        sets += [f"run.seed={seed}"] if seed is not None else []
        sets += [f"run.engine={engine.value}"] if engine is not None else []
        sets += ["run.skip_bad=true"] if skip_bad else []
        scenario = load(source, sets)
        if out is not None:
            from clustersim.analysis.export import check_folder

            check_folder(out, _names_of(scenario), input_files(source, sets, scenario))
        from clustersim.analysis.screen import gpus_of

        with console.progress(f"simulating {scenario.name} on {gpus_of(scenario.gpus)}"):
            from clustersim.run import simulate

            result = simulate(scenario, base=folder_of(source))
        console.warn(result.document.get("warnings") or ())
        try:
            if out is not None:
                with console.progress(f"writing {out}"):
                    written = _write(out, result)
                console.say(f"wrote {out}: {', '.join(path.name for path in written)}")
        finally:  # the answer was found, whether or not its files can be written
            _print(result, json, definitions)
        _judge(result)


def folder_of(source: str) -> Path:
    """Folder of a scenario's file.

    Parameters
    ----------
    source : str
        A path, or the name of a shipped scenario: one that `load` has accepted.

    Returns
    -------
    Path
        Absolute; relative names in the scenario are looked for there.
    """
    from clustersim.spec.names import locate

    return locate("scenario", source).absolute().parent


def _names_of(scenario: Question) -> tuple[str, ...]:
    """Names of the files that a run writes."""
    from clustersim.analysis.export import FILES
    from clustersim.analysis.serving_export import SERVING_FILES

    return SERVING_FILES if scenario.kind == "serving" else FILES


def input_files(source: str, overrides: list[str], scenario: Question) -> list[Path]:
    """Files that a run reads: the scenario's own, those it extends, those it refers to.

    Parameters
    ----------
    source : str
        A path, or the name of a shipped scenario: one that `load` has accepted.
    overrides : list of str
        Those that it was loaded with; they may refer to other files.
    scenario : Scenario or ServingScenario
        As it was loaded.

    Returns
    -------
    list of Path
        With repetitions; traces and the like need not exist.

    Notes
    -----
    Nothing that a run writes may replace one of them.
    """
    from clustersim.spec.documents import read_document
    from clustersim.spec.merge import load_tree
    from clustersim.spec.names import locate
    from clustersim.spec.resolve import files_named

    marks = load_tree("scenario", source, tuple(overrides)).marks.values()
    path = locate("scenario", source)
    chain = [path]  # a file that is extended may have no value left, and so no mark
    while base := read_document(path, lenient=True).data.get("extends"):
        path = locate("scenario", base, path.absolute().parent)
        chain.append(path)
    referred = {Path(mark.folder, Path(mark.file).name) for mark in marks if mark.folder}
    return [*chain, *referred, *files_named(scenario)]


def _print(result: Result | ServingResult, json: bool, definitions: bool) -> None:
    from clustersim.run.simulate import Result

    document = result.document
    if json:
        console.print_json(document)
    elif isinstance(result, Result):
        from clustersim.analysis.report import print_report

        print_report(document, console.output(), definitions)
    else:
        from clustersim.analysis.serving_report import print_serving_report

        print_serving_report(document, console.output(), result.series, definitions)


def _write(out: Path, result: Result | ServingResult) -> tuple[Path, ...]:
    from clustersim.run.simulate import Result
    from clustersim.spec.resolve import dump_scenario

    scenario_yaml = dump_scenario(result.scenario)
    if not isinstance(result, Result):
        from clustersim.analysis.serving_export import ServingRun, write_serving

        served = ServingRun(result.answered, result.series)
        return write_serving(out, served, result.document, scenario_yaml)
    from clustersim.analysis.columns import Run
    from clustersim.analysis.export import write_run

    costs = result.costs
    run = Run(
        result.program,
        result.timeline,
        costs.compute_s,
        costs.fixed_s,
        result.factor,
        result.first_replica,
    )
    return write_run(out, run, result.document, scenario_yaml)


def _judge(result: Result | ServingResult) -> None:
    """Say on stderr why the answer is no, if it is, and end with exit code 1."""
    from clustersim.run.simulate import Result

    document = result.document
    if not document["fits"]:
        _refuse(result)
    good = None if isinstance(result, Result) else document["goodput"]
    if good is not None and good["fraction"] < ATTAINMENT:
        kept = f"{100 * good['fraction']:.1f} %"
        console.say(f"SLO missed: {kept} of the requests keep it, {100 * ATTAINMENT:g} % have to")
        raise typer.Exit(console.NO)


def _refuse(result: Result | ServingResult) -> None:
    from clustersim.run import nearest_knobs, nearest_serving_knobs
    from clustersim.run.simulate import Result

    if isinstance(result, Result):
        from clustersim.analysis.report import print_misfit

        print_misfit(result.document, nearest_knobs(result.scenario), console.messages())
    else:
        from clustersim.analysis.serving_report import print_serving_misfit

        knobs = nearest_serving_knobs(result.scenario)
        print_serving_misfit(result.document, knobs, console.messages())
    raise typer.Exit(console.NO)
