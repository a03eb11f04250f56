"""``clustersim list`` and ``clustersim schema``: what ships, and what a file may hold."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clustersim.cli import console
from clustersim.cli.run import AsJson

if TYPE_CHECKING:
    from clustersim.spec.scenario import Scenario
    from clustersim.spec.serving import ServingScenario


class Shelf(StrEnum):
    """Kinds of shipped files, as people ask for them."""

    DEVICES = "devices"
    MODELS = "models"
    TOPOLOGIES = "topologies"
    SCENARIOS = "scenarios"
    SOFTWARE = "software"
    ENGINES = "engines"
    FLEETS = "fleets"
    LINKS = "links"
    PROFILES = "profiles"


LEGENDS = {
    Shelf.TOPOLOGIES: "rates in one direction; nics: all adapters of a node together",
    Shelf.LINKS: "simple efficiency: share of the nominal rate that a ring over the Simple "
    "protocol reaches;\nnominal rates belong to clusters and devices, see list topologies",
}


class Described(StrEnum):
    """Kinds of files that have a JSON Schema."""

    SCENARIO = "scenario"
    SERVING = "serving"
    TOPOLOGY = "topology"
    DEVICE = "device"
    MODEL = "model"
    SOFTWARE = "software"
    ENGINE = "engine"
    FLEET = "fleet"


def list_command(
    kind: Annotated[Shelf, typer.Argument(help="Which files.")], json: AsJson = False
) -> None:
    """List the files that ship with clustersim and can be named in a scenario."""
    with console.answering():
        rows = [_describe(kind, name) for name in _names(kind)]
        if json:
            console.print_json({kind.value: rows})
        elif rows:
            from clustersim.cli.tables import print_rows

            print_rows(rows, console.output())
            if kind in LEGENDS:
                typer.echo(f"\n{LEGENDS[kind]}")


def _names(kind: Shelf) -> tuple[str, ...]:
    from typing import get_args

    from clustersim.spec.names import FOLDERS, Kind, list_names

    kinds: tuple[Kind, ...] = get_args(Kind)
    return next(list_names(one) for one in kinds if FOLDERS[one] == kind.value)


def _describe(kind: Shelf, name: str) -> dict[str, Any]:
    """A name and the few figures by which one chooses."""
    from clustersim.spec import resolve

    match kind:
        case Shelf.DEVICES:
            return _device(name)
        case Shelf.MODELS:
            return _model(name)
        case Shelf.TOPOLOGIES:
            return _topology(name)
        case Shelf.SCENARIOS:
            return _scenario(name)
        case Shelf.SOFTWARE:
            features = resolve.load_software(name).features.model_dump()
            on = [key for key, value in features.items() if value is True]
            return {"name": name, "attention": features["attention"], "features": on}
        case Shelf.ENGINES:
            return _engine(name)
        case Shelf.FLEETS:
            fleet = resolve.load_fleet(name)
            return {"name": name, **fleet.model_dump(exclude={"name", "sources", "slowdowns"})}
        case Shelf.LINKS:
            return _link(name)
        case Shelf.PROFILES:
            profile = resolve.load_profile(name)
            return {"name": name, "device": profile.device, "derived": profile.derived}


def _device(name: str) -> dict[str, Any]:
    from clustersim.spec.resolve import load_device

    device = load_device(name)
    return {
        "name": name,
        "title": device.title,
        "memory_bytes": device.memory,
        "memory_bandwidth_bytes_per_s": device.memory_bandwidth,
        "peak_16_bit_flop_per_s": device.matrix_peak.get("bf16", device.matrix_peak.get("fp16")),
    }


def _model(name: str) -> dict[str, Any]:
    from clustersim.model.transformer import total_parameters
    from clustersim.spec.resolve import load_model

    model = load_model(name)
    return {
        "name": name,
        "parameters": total_parameters(model),
        "layers": model.layers,
        "hidden": model.hidden,
        "heads": model.attention_heads,
        "kv_heads": model.kv_heads,
        "ffn": model.ffn,
    }


def _engine(name: str) -> dict[str, Any]:
    """Defaults on a small device; a larger one may take others."""
    from clustersim.spec.resolve import load_engine

    engine = load_engine(name)
    return {
        "name": name,
        "released": engine.released,
        "policy": engine.policy,
        "token_budget": engine.token_budget,
        "max_sequences": engine.max_sequences,
        "block_tokens": engine.block_tokens,
        "memory_fraction": engine.memory_fraction,
        "prefix_caching": engine.prefix_caching,
        "host": engine.host.basis,
    }


def _topology(name: str) -> dict[str, Any]:
    from clustersim.spec.resolve import load_topology

    topology = load_topology(name)
    return {
        "name": name,
        "gpus": topology.nodes * topology.node.gpus,
        "device": topology.node.device.name,
        "scale_up_bytes_per_s_per_gpu": topology.node.scale_up.bandwidth,
        "nics_bytes_per_s_per_node": topology.node.nics.count * topology.node.nics.bandwidth,
        "fabric": topology.fabric.kind,
    }


def _link(name: str) -> dict[str, Any]:
    """Rates are those of the adapters and switches of a cluster; a link says what is reached."""
    from clustersim.spec.resolve import load_link

    link = load_link(name)
    simple = link.protocols.get("simple")
    return {
        "name": name,
        "title": link.title,
        "kind": link.kind,
        "base_latency_s": link.base_latency,
        "simple_efficiency_fraction": simple.efficiency if simple else None,
        "basis": link.pedigree.basis,
    }


def _scenario(name: str) -> dict[str, Any]:
    from clustersim.spec.resolve import load_scenario
    from clustersim.spec.serving import ServingScenario

    scenario = load_scenario(name)
    asked = _served(scenario) if isinstance(scenario, ServingScenario) else _trained(scenario)
    return {
        "name": name,
        "model": scenario.model.name,
        "cluster": scenario.cluster.name,
        "gpus": scenario.gpus,
        **asked,
    }


def _trained(scenario: Scenario) -> dict[str, Any]:
    parallel = scenario.parallelism
    layout = f"tp{parallel.tensor_parallel}_pp{parallel.pipeline_parallel}_dp"
    asked = f"train, batch {scenario.training.global_batch:,}"
    return {"layout": f"{layout}{scenario.data_parallel}", "asked": asked}


def _served(scenario: ServingScenario) -> dict[str, Any]:
    parallel, arrivals = scenario.parallelism, scenario.workload.arrivals
    layout = [
        f"{label}{degree}"
        for label, degree in (
            ("tp", parallel.tensor_parallel),
            ("pp", parallel.pipeline_parallel),
            ("dp", parallel.attention_data_parallel),
            ("ep", parallel.expert_parallel),
        )
        if degree > 1 or label == "tp"
    ]
    copies = f" x {parallel.replicas}" if parallel.replicas > 1 else ""
    rate = f" {arrivals.rate:g}/s" if arrivals.rate is not None else ""
    return {"layout": "_".join(layout) + copies, "asked": f"serve, {arrivals.kind}{rate}"}


def schema_command(
    kind: Annotated[Described, typer.Argument(help="Which files.")] = Described.SCENARIO,
) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
    with console.answering():
        from clustersim.spec.schema import json_schema

        console.print_json(json_schema(kind.value))
