"""``clustersim show``: what stands between a scenario and its answer, stage by stage."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clustersim.cli import console
from clustersim.cli.run import AsJson, Overrides, ScenarioName, load

if TYPE_CHECKING:
    from clustersim.spec.scenario import Scenario

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
    """Show a scenario as it is understood: resolved, placed, compiled or priced."""
    with console.answering():
        scenario = load(source, overrides)
        if stage is Stage.SPEC and not json:
            from clustersim.spec.resolve import dump_scenario

            typer.echo(dump_scenario(scenario).rstrip())
            return
        with console.progress(f"preparing {scenario.name}"):
            document = _document(scenario, stage)
        if json:
            console.print_json(document)
        else:
            from clustersim.cli.tables import print_document

            print_document(_condensed(document), console.output())


def _document(scenario: Scenario, stage: Stage) -> Document:
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


def _cluster(scenario: Scenario) -> Document:
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
    for stage in range(memory.allocated_bytes.size):
        terms = memory.terms(stage)
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
    """The document for a screen: templates of one name joined over stages and chunks."""
    shown = dict(document)
    if "groups" in shown:
        shown["groups"] = [{key: row[key] for key in GROUP_COLUMNS} for row in shown["groups"]]
    if "templates" in shown:
        shown["templates"] = _by_name(shown["templates"])
    return shown


def _by_name(templates: list[Document]) -> list[Document]:
    """One row a name: how many templates and ops, and the mean of each figure over the ops."""
    groups: dict[str, list[Document]] = {}
    for row in templates:
        groups.setdefault(row["name"], []).append(row)
    joined = []
    for name, rows in groups.items():
        ops = sum(row["ops"] for row in rows)
        entry: Document = {"name": name, "templates": len(rows), "ops": ops}
        for key, value in rows[0].items():
            if isinstance(value, float):
                entry[key] = sum(row["ops"] * row[key] for row in rows) / max(1, ops)
        joined.append(entry)
    return joined
