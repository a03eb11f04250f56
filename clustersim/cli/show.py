"""``clustersim show``: what stands between a scenario and its answer, stage by stage."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clustersim.cli import console
from clustersim.cli.run import AsJson, Overrides, ScenarioName, folder_of, load

if TYPE_CHECKING:
    from pathlib import Path

    from clustersim.spec.resolve import Question
    from clustersim.spec.scenario import Scenario
    from clustersim.spec.serving import ServingScenario

Document = dict[str, Any]


class Stage(StrEnum):
    """Hand-overs on the way of a scenario."""

    SPEC = "spec"
    CLUSTER = "cluster"
    MESH = "mesh"
    MEMORY = "memory"
    PROGRAM = "program"
    COSTS = "costs"


def show_command(
    source: ScenarioName,
    stage: Annotated[Stage, typer.Option(help="What to show.")] = Stage.SPEC,
    json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """Show a scenario as it is understood: resolved, placed, compiled or priced.

    A serving scenario has the stages spec, cluster, memory and costs.
    """
    with console.answering():
        scenario = load(source, overrides)
        if stage is Stage.SPEC and not json:
            from clustersim.spec.resolve import dump_scenario

            typer.echo(dump_scenario(scenario).rstrip())
            return
        with console.progress(f"preparing {scenario.name}"):
            document = _document(scenario, stage, folder_of(source))
        if json:
            console.print_json(document)
        else:
            from clustersim.cli.tables import print_document

            print_document(_condensed(document), console.output())
            legend = _legend(scenario, stage)
            if legend is not None:
                typer.echo(f"\n{legend}")


def _legend(scenario: Question, stage: Stage) -> str | None:
    from clustersim.cli import show_serving

    if scenario.kind == "serving":
        return show_serving.LEGENDS.get(stage.value)
    return LEGENDS.get(stage)


def _document(scenario: Question, stage: Stage, base: Path) -> Document:
    from clustersim.spec.serving import ServingScenario

    if isinstance(scenario, ServingScenario):
        return _serving_document(scenario, stage, base)
    match stage:
        case Stage.SPEC:
            return scenario.model_dump(mode="json")
        case Stage.CLUSTER:
            return _cluster(scenario)
        case Stage.MESH:
            return _mesh(scenario)
        case Stage.MEMORY:
            return _memory(scenario)
        case Stage.PROGRAM:
            return _program(scenario)
        case Stage.COSTS:
            return _costs(scenario)


def _serving_document(scenario: ServingScenario, stage: Stage, base: Path) -> Document:
    from clustersim.cli.show_serving import costs_document, memory_document
    from clustersim.errors import Problem, SpecError

    match stage:
        case Stage.SPEC:
            return scenario.model_dump(mode="json")
        case Stage.CLUSTER:
            return _cluster(scenario)
        case Stage.MEMORY:
            return memory_document(scenario)
        case Stage.COSTS:
            return costs_document(scenario, base)
        case Stage.MESH | Stage.PROGRAM:
            message = f"a serving scenario ({scenario.name}) has no stage {stage.value}"
            fix = "show --stage spec, cluster, memory or costs"
            raise SpecError(Problem(message, fix, field="--stage"))


def _cluster(scenario: Question) -> Document:
    from dataclasses import asdict

    from clustersim.hardware.cluster import build_cluster
    from clustersim.hardware.graph import summarise

    return asdict(summarise(build_cluster(scenario.cluster)))


def _mesh(scenario: Scenario) -> Document:
    from dataclasses import asdict

    from clustersim.cost.platform import communication_paths
    from clustersim.parallel.layers import split_layers
    from clustersim.parallel.mesh import build_mesh

    mesh, parallel = build_mesh(scenario), scenario.parallelism
    layers = split_layers(scenario)
    paths = communication_paths(scenario.cluster, mesh, parallel.optimizer_shard_group)
    return {
        "ranks": mesh.ranks,
        "tensor_parallel": mesh.tensor_parallel,
        "data_parallel": mesh.data_parallel,
        "pipeline_parallel": mesh.pipeline_parallel,
        "virtual_stages": parallel.virtual_stages,
        "schedule": parallel.schedule,
        "micro_batches": scenario.micro_batches,
        "gpus_per_node": mesh.gpus_per_node,
        "layers_by_stage": layers.count.sum(axis=1).tolist(),
        "groups": [{"group": name, **asdict(path)} for name, path in paths.items()],
    }


def _memory(scenario: Scenario) -> Document:
    from clustersim.parallel.memory import memory_of

    memory = memory_of(scenario)
    rows = []
    for stage, cached in enumerate(memory.cached_blocks.tolist()):
        terms = {**memory.terms(stage), "cached_blocks": cached}  # no part of the total
        rows.append({"stage": stage, **{f"{key}_bytes": size for key, size in terms.items()}})
    return {
        "capacity_bytes": memory.capacity_bytes,
        "worst_stage": memory.worst_stage,
        "fits": memory.fits,
        "stages": rows,
    }


def _program(scenario: Scenario) -> Document:
    import numpy as np

    from clustersim.analysis.columns import template_work
    from clustersim.workload.program import STREAMS
    from clustersim.workload.training import build_training_program

    program = build_training_program(scenario)
    counts = np.bincount(program.template, minlength=len(program.templates))
    kinds = np.zeros(len(program.templates), dtype=np.int64)
    kinds[program.template] = program.stream % len(STREAMS)
    rows = []
    for template, count, kind in zip(
        program.templates, counts.tolist(), kinds.tolist(), strict=True
    ):
        flop, memory_bytes, message_bytes = template_work(template)
        rows.append(
            {
                "name": template.name,
                "stage": template.stage,
                "chunk": template.chunk,
                "stream": STREAMS[kind],
                "ops": count,
                "flop": flop,
                "memory_bytes": memory_bytes,
                "message_bytes": message_bytes,
            }
        )
    return {
        "ops": program.ops,
        "replicas": program.replicas,
        "stages": program.stages,
        "chunks": program.chunks,
        "micro_batches": program.micro_batches,
        "dependencies": int(program.dep.size),
        "rendezvous": int(program.rendezvous.sum()),
        "templates": rows,
    }


def _costs(scenario: Scenario) -> Document:
    import numpy as np

    from clustersim.run.prepare import prepare
    from clustersim.workload.operators import Category

    prepared = prepare(scenario)
    program, costs = prepared.program, prepared.costs
    counts = np.bincount(program.template, minlength=len(program.templates)).tolist()
    rows = []
    for i, template in enumerate(program.templates):
        parts = zip(map(str, Category), costs.by_category[i].tolist(), strict=True)
        rows.append(
            {
                "name": template.name,
                "stage": template.stage,
                "chunk": template.chunk,
                "ops": counts[i],
                "alone_s": float(costs.alone_s[i]),
                "compute_s": float(costs.compute_s[i]),
                "fixed_s": float(costs.fixed_s[i]),
                "drag_fraction": float(costs.drag[i]),
                "by_category_s": {key: seconds for key, seconds in parts if seconds > 0.0},
            }
        )
    return {
        "device": prepared.platform.device.name,
        "profile": prepared.platform.device.profile,
        "templates": rows,
    }


LEGENDS = {
    Stage.PROGRAM: "a row is all templates of one name; mean: of one op; sum: of all ops, one rank "
    "a stage",
    Stage.COSTS: "a row is all templates of one name; mean: of one op; sum: of all ops, one rank "
    "a stage\nalone = compute, stretched by a slow GPU, and fixed, which is not; drag: taken from "
    "kernels beside",
}
MOST_STAGES = 8  # columns of the table of memory; of more, the first, fullest and last are shown
TERM_NAMES = {"cached_blocks_bytes": "cached blocks, returned on demand"}
GROUP_COLUMNS = (
    "group",
    "ranks",
    "nodes",
    "ranks_per_node",
    "scale_up_link",
    "scale_up_bytes_per_s",
    "nic_link",
    "nic_bytes_per_s",
    "switch_hops",
)


def _condensed(document: Document) -> Document:
    """The document for a screen: templates of one name joined, terms of memory as rows."""
    from clustersim.cli.show_serving import without_zeros

    shown = dict(document)
    if isinstance(shown.get("stages"), list):
        shown["stages"] = len(document["stages"])
        shown["needed"] = _by_term(document["stages"], document["worst_stage"])
    if "groups" in shown:
        shown["groups"] = [{key: row[key] for key in GROUP_COLUMNS} for row in shown["groups"]]
    if "templates" in shown:
        shown["templates"] = _by_name(shown["templates"])
    if "batches" in shown:
        shown["batches"] = without_zeros(shown["batches"])
    return shown


def _by_term(stages: list[Document], fullest: int) -> list[Document]:
    """One row a term that is not zero everywhere, one column a stage."""
    from clustersim.cli.tables import words

    ends = sorted({0, fullest, len(stages) - 1})
    columns = range(len(stages)) if len(stages) <= MOST_STAGES else ends
    return [
        {
            "term": TERM_NAMES.get(term, words(term)),
            **{f"stage_{stage}_bytes": stages[stage][term] for stage in columns},
        }
        for term in stages[0]
        if term != "stage" and any(row[term] for row in stages)
    ]


def _by_name(templates: list[Document]) -> list[Document]:
    """One row a name: templates and ops, each figure's mean over the ops, and the first's sum."""
    groups: dict[str, list[Document]] = {}
    for row in templates:
        groups.setdefault(row["name"], []).append(row)
    joined = []
    for name, rows in groups.items():
        ops = sum(row["ops"] for row in rows)
        entry: Document = {"name": name, "templates": len(rows), "ops": ops}
        figures = [key for key, value in rows[0].items() if isinstance(value, float)]
        for key in figures:
            total = sum(row["ops"] * row[key] for row in rows)
            if key == figures[0]:
                entry[f"sum_{key}"] = total
            entry[f"mean_{key}"] = total / max(1, ops)
        joined.append(entry)
    return joined
