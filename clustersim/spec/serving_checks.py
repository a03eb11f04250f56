"""Cross checks on a valid serving scenario: numbers that are each legal but do not fit together.

Left out: whether weights and cache fit in memory, which is an answer and not a mistake.
"""

from __future__ import annotations

from clustersim.spec.documents import Document
from clustersim.spec.findings import Checked, Report, checked
from clustersim.spec.serving import ServingScenario

TP = "parallelism.tensor_parallel"
EP = "parallelism.expert_parallel"
PP = "parallelism.pipeline_parallel"


def check_serving(scenario: ServingScenario, document: Document | None = None) -> Checked:
    """Check that the numbers of a serving scenario fit together.

    Parameters
    ----------
    scenario : ServingScenario
        A valid record.
    document : Document, optional
        What it was read from, for places; without it problems name fields only.

    Returns
    -------
    Checked
    """
    report = Report(document)
    for check in (_check_shards, _check_experts, _check_cluster, _check_formats, _check_run):
        check(report, scenario)
    return checked(report.findings)


def _check_shards(report: Report, scenario: ServingScenario) -> None:
    model, size = scenario.model, scenario.parallelism.tensor_parallel
    if model.attention_heads % size:
        heads = report.said("model.attention_heads", model.attention_heads, TP)
        report.error(TP, f"{size} does not divide {heads}", "use a divisor of the heads")
    elif model.kv_heads % size and size % model.kv_heads:
        heads = report.said("model.kv_heads", model.kv_heads, TP)
        fix = "use a divisor or a multiple: heads are then copied"
        report.error(TP, f"{size} neither divides {heads} nor is a multiple of them", fix)
    if model.attention_heads % model.kv_heads:
        heads = report.said("model.attention_heads", model.attention_heads, "model.kv_heads")
        fix = "use a divisor of the heads"
        report.error("model.kv_heads", f"{model.kv_heads} does not divide {heads}", fix)
    if scenario.parallelism.pipeline_parallel > model.layers:
        layers = report.said("model.layers", model.layers, PP)
        stages = scenario.parallelism.pipeline_parallel
        report.error(PP, f"{stages} stages have only {layers}", "use fewer stages")


def _check_experts(report: Report, scenario: ServingScenario) -> None:
    p, experts = scenario.parallelism, scenario.model.experts
    if p.expert_parallel == 1:
        return
    if experts is None:
        report.error(EP, "the model has no experts", "use 1, or a model with experts")
        return
    width = p.tensor_parallel * p.attention_data_parallel
    if width % p.expert_parallel:
        message = f"{p.expert_parallel} does not divide the {width} GPUs of a stage"
        report.error(EP, message, "use a divisor of tensor_parallel x attention_data_parallel")
    if experts.experts % p.expert_parallel:
        count = report.said("model.experts.experts", experts.experts, EP)
        report.error(EP, f"{p.expert_parallel} does not divide {count}", "use a divisor")


def _check_cluster(report: Report, scenario: ServingScenario) -> None:
    cluster = scenario.cluster
    here = cluster.nodes * cluster.node.gpus
    path = "parallelism.replicas"
    if scenario.gpus > here:
        message = f"{scenario.gpus} GPUs are needed, and cluster {cluster.name} has {here}"
        report.error(path, message, "use fewer replicas or a larger cluster")
    if scenario.replica_gpus > cluster.node.gpus:
        message = (
            f"a replica of {scenario.replica_gpus} GPUs does not fit in a node of"
            f" {cluster.node.gpus}: replicas that span nodes are not simulated"
        )
        report.error(TP, message, "use smaller degrees")


def _check_formats(report: Report, scenario: ServingScenario) -> None:
    device, precision = scenario.cluster.node.device, scenario.precision
    blackwell = device.architecture == "blackwell"
    for name in ("weights", "experts", "attention", "head"):
        if getattr(precision, name) == "nvfp4" and not blackwell:
            message = f"{device.name} ({device.architecture}) has no 4-bit matrix units for nvfp4"
            report.error(f"precision.{name}", message, "use w4a16_int, fp8 or bf16")


def _check_run(report: Report, scenario: ServingScenario) -> None:
    workload, engine = scenario.workload, scenario.engine
    if workload.arrivals.kind == "static" and workload.requests is None:
        report.error("workload.requests", "a static batch needs its size", "add requests: N")
    if engine.policy in ("vllm_v1", "sarathi") and engine.token_budget < engine.max_sequences:
        message = f"{engine.token_budget} is less than max_sequences ({engine.max_sequences})"
        fix = "every running sequence takes a token a step: raise it, or lower max_sequences"
        report.warn("engine.token_budget", message, fix)
    if scenario.run.engine == "event":
        message = "one replica is stepped by the compiled engine alone"
        report.error("run.engine", message, "use auto or compiled")
