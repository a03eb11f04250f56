"""Cross checks on a valid scenario: numbers that are each legal but do not fit together.

An error is what no training stack can run, a warning what runs but is seldom meant. Every message
names both numbers and, where a file is known, both lines. Left out: whether the run fits in
memory, which is an answer and not a mistake, and what the cost models cannot express.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass

from clustersim.spec.documents import Document
from clustersim.spec.findings import Checked, Finding, Report, checked
from clustersim.spec.scenario import Dtype, Scenario

MOST_SLOWDOWN = 1000  # of a straggler; more is a dead GPU


def check_scenario(scenario: Scenario, document: Document | None = None) -> Checked:
    """Check that the numbers of a scenario fit together.

    Parameters
    ----------
    scenario : Scenario
        A valid record.
    document : Document, optional
        What it was read from, for places; without it problems name fields only.

    Returns
    -------
    Checked
        All problems and warnings, in the order of the checks.
    """
    return checked(find_conflicts(scenario, document))


def find_conflicts(scenario: Scenario, document: Document | None = None) -> list[Finding]:
    """Return the findings of `check_scenario` with the fields that each depends on.

    Parameters
    ----------
    scenario : Scenario
        A valid record, or what `problems.rest_of` left of a wrong document.
    document : Document, optional
        What it was read from; without it problems name fields only.

    Returns
    -------
    list of Finding
        Problems and warnings mixed, in the order of the checks.
    """
    report = _Report(document, scenario=scenario)
    checks = (
        _check_cluster,
        _check_nics,
        _check_width,
        _check_dense,
        _check_heads,
        _check_tensor_parallel,
        _check_scale_up_domain,
        _check_pipeline,
        _check_layers_per_chunk,
        _check_world_size,
        _check_batch,
        _check_schedule,
        _check_sharding,
        _check_dtype,
        _check_sequence,
        _check_recompute,
        _check_fleet,
    )
    for check in checks:
        check(report)
    return report.findings


TP = "parallelism.tensor_parallel"
PP = "parallelism.pipeline_parallel"
DP = "parallelism.data_parallel"
VPP = "parallelism.virtual_stages"


@dataclass
class _Report(Report):
    """Findings about one scenario."""

    scenario: Scenario

    @property
    def replicas_from(self) -> tuple[str, ...]:
        """Return the fields that decide the number of replicas."""
        if self.scenario.parallelism.data_parallel:
            return (DP,)
        return (TP, PP, "cluster.nodes", "cluster.node.gpus")


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _near(wanted: int, choices: list[int], count: int = 4) -> list[int]:
    return sorted(sorted(choices, key=lambda choice: abs(choice - wanted))[:count])


def _one_of(numbers: list[int]) -> str:
    words = [f"{number}" for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _check_nics(report: _Report) -> None:
    nics = report.scenario.cluster.node.nics
    if nics.count and nics.bandwidth < 1:
        path = "cluster.node.nics.bandwidth"
        count = report.said("cluster.node.nics.count", nics.count, path)
        report.error(path, f"{count} adapters carry nothing", "use a rate such as '400 Gb/s'")


def _check_width(report: _Report) -> None:
    """Where no head size is stated it is hidden over heads, which has to be whole."""
    model = report.scenario.model
    floored = model.head_dim == model.hidden // model.attention_heads
    if floored and model.hidden % model.attention_heads:
        path = "model.hidden"
        heads = report.said("model.attention_heads", model.attention_heads, path)
        message = f"{model.hidden} is no multiple of {heads}, so a head has no whole size"
        report.error(path, message, "change one of them, or state model.head_dim")


def _check_dense(report: _Report) -> None:
    """A training step is compiled for dense layers that all attend alike."""
    model = report.scenario.model
    absent = {
        "model.experts": model.experts is not None,
        "model.latent": model.latent is not None,
        "model.layer_pattern": len(set(model.layer_pattern)) > 1
        or not set(model.layer_pattern) <= {"full", "window"},
    }
    for path, here in absent.items():
        if here:
            message = "training steps of such a model are not simulated"
            report.error(path, message, "use a dense model, or a serving scenario")


def _check_cluster(report: _Report) -> None:
    cluster = report.scenario.cluster
    path = "cluster.nodes"
    if cluster.nodes == 1:
        return
    if cluster.fabric.kind == "single_node":
        kind = report.said("cluster.fabric.kind", "single_node", path)
        message = f"{cluster.nodes} nodes have no network: fabric {kind}"
        report.error(path, message, "use 1 node, or fabric.kind: fat_tree with a switch")
    elif cluster.fabric.switch is None:
        report.error(
            "cluster.fabric.kind",
            f"{cluster.fabric.kind} needs a switch, and none is described",
            "add fabric.switch with ports, port_bandwidth and latency",
        )
    if cluster.fabric.kind != "single_node" and cluster.node.nics.count == 0:
        count = report.said("cluster.node.nics.count", 0, path)
        report.error(path, f"{cluster.nodes} nodes cannot be joined: nics {count}", "add NICs")


def _check_heads(report: _Report) -> None:
    model = report.scenario.model
    if model.attention_heads % model.kv_heads:
        path = "model.kv_heads"
        heads = report.said("model.attention_heads", model.attention_heads, path)
        choices = _near(model.kv_heads, _divisors(model.attention_heads))
        message = f"{model.kv_heads} does not divide {heads}"
        report.error(path, message, f"use {_one_of(choices)}", "model.attention_heads")


def _check_tensor_parallel(report: _Report) -> None:
    model, tp = report.scenario.model, report.scenario.parallelism.tensor_parallel
    sizes = {"model.attention_heads": model.attention_heads, "model.ffn": model.ffn}
    if model.kv_heads < model.attention_heads:
        sizes["model.kv_heads"] = model.kv_heads
    for path, size in sizes.items():
        if size % tp == 0:
            continue
        if path == "model.kv_heads" and tp % size == 0:
            said = report.said(path, size, TP)
            message = f"{tp} is more than {said}: key and value heads are replicated {tp // size}x"
            report.warn(TP, message, f"use at most {size}, or accept the copies", path)
            continue
        message = f"{tp} does not divide {report.said(path, size, TP)}"
        report.error(TP, message, _tensor_fix(report.scenario, size, path), path)
    if model.padded_vocab % tp:
        said = report.said("model.vocab", model.vocab, TP)
        message = f"{tp} does not divide the padded vocabulary {model.padded_vocab} of {said}"
        up = report.scenario.cluster.node.scale_up.domain_gpus
        choices = [degree for degree in _divisors(model.padded_vocab) if degree <= max(1, up)]
        fix = f"set model.padded_vocab_to to {128 * tp}, a multiple of {tp}, "
        fix += f"or use {_one_of(choices)}"
        report.error(TP, message, fix, "model.vocab", "model.padded_vocab_to")


def _tensor_fix(scenario: Scenario, size: int, path: str) -> str:
    """Name the degrees that divide every size of the model, within one scale-up domain."""
    model, up = scenario.model, scenario.cluster.node.scale_up
    common = math.gcd(model.attention_heads, model.ffn, model.kv_heads)
    limit = max(1, min(up.domain_gpus, scenario.cluster.nodes * scenario.cluster.node.gpus))
    choices = [degree for degree in _divisors(common) if degree <= limit]
    where = f"the {up.domain_gpus}-GPU {up.link} domain"
    if common == math.gcd(common, size) and choices == [d for d in _divisors(size) if d <= limit]:
        return f"use {_one_of(choices)}: divisors of {size} that fit {where}"
    name = path.rpartition(".")[2]
    return f"use {_one_of(choices)}: they divide {name} and the other widths, and fit {where}"


def _check_scale_up_domain(report: _Report) -> None:
    tp, up = report.scenario.parallelism.tensor_parallel, report.scenario.cluster.node.scale_up
    if up.domain_gpus % tp == 0:
        return
    path = "cluster.node.scale_up.domain_gpus"
    said = report.said(path, up.domain_gpus, TP)
    if tp > up.domain_gpus:
        message = f"{tp} is more than {said}: tensor-parallel collectives cross the network"
    else:
        message = f"{tp} does not divide {said}: some tensor-parallel groups cross the network"
    fix = f"use {_one_of(_divisors(up.domain_gpus))}, unless this is the question"
    report.warn(TP, message, fix, path)


def _check_pipeline(report: _Report) -> None:
    p, layers = report.scenario.parallelism, report.scenario.model.layers
    if p.layers_per_chunk is not None:
        return
    if layers % p.pipeline_parallel:
        choices = _one_of(_near(p.pipeline_parallel, _divisors(layers), 2))
        fix = f"use {choices}, or list layers_per_chunk, {_chunks_wanted(report.scenario)}"
        message = f"{p.pipeline_parallel} does not divide {report.said('model.layers', layers, PP)}"
        report.error(PP, message, fix, "model.layers", "parallelism.layers_per_chunk")
    elif layers % (p.pipeline_parallel * p.virtual_stages):
        per_stage = layers // p.pipeline_parallel
        choices = _one_of(_near(p.virtual_stages, _divisors(per_stage), 3))
        stages = report.said(PP, p.pipeline_parallel, VPP)
        said = report.said("model.layers", layers, VPP)
        message = f"{p.virtual_stages} does not divide the {per_stage} layers of a stage: "
        message += f"{said} over {stages}"
        fix = f"use {choices}, or list layers_per_chunk, {_chunks_wanted(report.scenario)}"
        report.error(VPP, message, fix, PP, "model.layers", "parallelism.layers_per_chunk")


def _chunks_wanted(scenario: Scenario) -> str:
    p = scenario.parallelism
    chunks = p.pipeline_parallel * p.virtual_stages
    return f"{chunks} numbers that sum to {scenario.model.layers}"


def _check_layers_per_chunk(report: _Report) -> None:
    p, layers = report.scenario.parallelism, report.scenario.model.layers
    if p.layers_per_chunk is None:
        return
    path = "parallelism.layers_per_chunk"
    chunks, total = p.pipeline_parallel * p.virtual_stages, sum(p.layers_per_chunk)
    fix = f"list {_chunks_wanted(report.scenario)}, or leave it out for an even split"
    if len(p.layers_per_chunk) != chunks:
        stages = report.said(PP, p.pipeline_parallel, path)
        virtual = report.said(VPP, p.virtual_stages, path)
        message = f"has {len(p.layers_per_chunk)} entries for {chunks} chunks: {stages} x {virtual}"
        report.error(path, message, fix, PP, VPP)
    if any(count < 0 for count in p.layers_per_chunk):
        report.error(path, f"{min(p.layers_per_chunk)} layers are less than none", fix)
    if total != layers:
        said = report.said("model.layers", layers, path)
        report.error(path, f"sums to {total}, which is not {said}", fix, "model.layers")


def _check_schedule(report: _Report) -> None:
    p = report.scenario.parallelism
    path = "parallelism.schedule"
    virtual = report.said(VPP, p.virtual_stages, path)
    stages = report.said(PP, p.pipeline_parallel, path)
    if p.schedule != "interleaved":
        if p.virtual_stages > 1:
            said = report.said(path, p.schedule, VPP)
            message = f"{p.virtual_stages} chunks a rank need schedule interleaved, not {said}"
            fix = "set schedule: interleaved, or virtual_stages: 1"
            report.error(VPP, message, fix, path)
        return
    if p.virtual_stages < 2:
        message = f"interleaved needs 2 chunks a rank or more: {virtual}"
        report.error(path, message, "set virtual_stages: 2, or schedule: 1f1b", VPP)
    if p.pipeline_parallel < 2:
        message = f"interleaved needs 2 stages or more: {stages}"
        report.error(path, message, "set schedule: 1f1b and virtual_stages: 1", PP)
    elif report.scenario.micro_batches % p.pipeline_parallel:
        if report.is_wrong(*report.replicas_from, "training.global_batch"):
            return
        t, dp = report.scenario.training, report.scenario.data_parallel
        unit = t.micro_batch * dp * p.pipeline_parallel
        said = report.said("training.global_batch", t.global_batch, path)
        message = f"interleaved runs micro-batches in groups of {stages}, which does not divide "
        message += f"{report.scenario.micro_batches} micro-batches a replica: {said}, "
        message += f"micro_batch {t.micro_batch}, {dp} replicas"
        fix = f"use a global_batch of {_multiples(t.global_batch, unit)}, or schedule: 1f1b"
        batch = ("training.global_batch", "training.micro_batch")
        report.error(path, message, fix, PP, *batch, *report.replicas_from)


def _multiples(near: int, unit: int) -> str:
    """Name the multiples of `unit` around a number."""
    below = near // unit * unit
    return _one_of([number for number in (below, below + unit) if number > 0])


def _check_world_size(report: _Report) -> None:
    scenario, p = report.scenario, report.scenario.parallelism
    per_node = scenario.cluster.node.gpus
    available = scenario.cluster.nodes * per_node
    replica = p.tensor_parallel * p.pipeline_parallel
    path = DP if p.data_parallel else (PP if p.pipeline_parallel > 1 else TP)
    degrees = f"{p.tensor_parallel} tp x {p.pipeline_parallel} pp x {scenario.data_parallel} dp"
    nodes = report.said("cluster.nodes", scenario.cluster.nodes, path)
    owned = f"the cluster has {available:,}: {nodes} of {per_node}"
    involves = (TP, PP, DP, "cluster.nodes", "cluster.node.gpus")
    if scenario.gpus > available:
        message = f"{degrees} needs {scenario.gpus:,} GPUs, {owned}"
        fix = f"use at least {-(-scenario.gpus // per_node)} nodes"
        if replica <= available:
            fix += f", or data_parallel of at most {available // replica}"
        report.error(path, message, fix, *involves)
    elif scenario.gpus < available:
        message = f"{degrees} uses {scenario.gpus:,} GPUs, {owned}; "
        message += f"{available - scenario.gpus:,} stay idle"
        fix = f"set cluster.nodes to {-(-scenario.gpus // per_node)}"
        if available // replica > scenario.data_parallel:
            fix += f", or data_parallel to {available // replica}"
        report.warn(path, message, fix, *involves)


def _check_batch(report: _Report) -> None:
    t, dp = report.scenario.training, report.scenario.data_parallel
    path = "training.global_batch"
    unit = t.micro_batch * dp
    if t.global_batch % unit == 0 or report.is_wrong(*report.replicas_from):
        return
    micro = report.said("training.micro_batch", t.micro_batch, path)
    replicas = report.said(DP, dp, path)
    message = f"{t.global_batch} is not a multiple of {micro} x {replicas} = {unit}"
    fix = f"use {_multiples(t.global_batch, unit)}"
    if not report.scenario.parallelism.data_parallel:
        fix += "; or set parallelism.data_parallel, which follows the size of the cluster here"
    report.error(path, message, fix, "training.micro_batch", *report.replicas_from)


def _check_sharding(report: _Report) -> None:
    p, dp = report.scenario.parallelism, report.scenario.data_parallel
    path = "parallelism.zero_stage"
    replicas = report.said(DP, dp, path)
    if p.zero_stage == 1 and dp == 1:
        message = f"1 shards the optimizer over {replicas}: nothing is saved"
        report.warn(path, message, "set zero_stage: 0, or use more replicas", DP)
    if p.optimizer_shard_group is None:
        return
    path = "parallelism.optimizer_shard_group"
    if dp % p.optimizer_shard_group and not report.is_wrong(*report.replicas_from):
        message = f"{p.optimizer_shard_group} does not divide {report.said(DP, dp, path)}"
        choices = _near(p.optimizer_shard_group, _divisors(dp))
        report.error(path, message, f"use {_one_of(choices)}", *report.replicas_from)
    if p.zero_stage == 0:
        stage = report.said("parallelism.zero_stage", 0, path)
        report.warn(path, f"has no effect with {stage}", "set zero_stage: 1", path)


def _check_dtype(report: _Report) -> None:
    device, dtype = report.scenario.cluster.node.device, report.scenario.training.dtype
    if dtype in device.matrix_peak:
        return
    path = "training.dtype"
    known = [name for name in typing.get_args(Dtype) if name in device.matrix_peak]
    peaks = ", ".join(device.matrix_peak)
    message = f"{dtype} has no matrix peak on {device.name}, which has {peaks}"
    fix = f"use {' or '.join(known)}" if known else "use another device"
    report.error(path, message, fix, "cluster.node.device")


def _check_sequence(report: _Report) -> None:
    scenario, tp = report.scenario, report.scenario.parallelism.tensor_parallel
    length, model = scenario.training.sequence_length, scenario.model
    path = "training.sequence_length"
    if model.position == "learned" and length > model.max_positions:
        rows = report.said("model.max_positions", model.max_positions, path)
        message = f"{length} is more than {rows}, the learned position table"
        fix = f"use at most {model.max_positions}, or set model.max_positions to {length}"
        report.error(path, message, fix, "model.max_positions", "model.position")
    if not scenario.parallelism.sequence_parallel:
        return
    if tp == 1:
        path = "parallelism.sequence_parallel"
        said = report.said(TP, 1, path)
        report.warn(path, f"has no effect with {said}", "set sequence_parallel: false", TP)
    elif length % tp and not report.is_wrong(TP):
        message = f"{length} cannot be split over {report.said(TP, tp, path)} by sequence_parallel"
        report.error(path, message, f"use {_multiples(length, tp)}", TP)


def _check_recompute(report: _Report) -> None:
    scenario, p = report.scenario, report.scenario.parallelism
    recompute = scenario.training.recompute
    if recompute.layers is None:
        return
    path = "training.recompute.layers"
    if recompute.kind != "full":
        said = report.said("training.recompute.kind", recompute.kind, path)
        message = f"{recompute.layers} has no effect with recompute {said}"
        report.warn(path, message, "set kind: full, or leave layers out", path)
    stages = p.pipeline_parallel
    per_stage = scenario.model.layers // stages
    if p.layers_per_chunk is not None:
        per_stage = max(sum(p.layers_per_chunk[stage::stages]) for stage in range(stages))
    if recompute.layers > per_stage > 0:
        layers = report.said("model.layers", scenario.model.layers, path)
        message = f"{recompute.layers} is more than the {per_stage} layers of a stage: {layers} "
        message += f"over {report.said(PP, stages, path)}"
        fix = f"use at most {per_stage}, or leave it out for all"
        report.error(path, message, fix, "model.layers", PP, "parallelism.layers_per_chunk")


def _check_fleet(report: _Report) -> None:
    gpus = report.scenario.gpus
    for rank, slowdown in report.scenario.fleet.slowdowns.items():
        path = f"fleet.slowdowns.{rank}"
        if not 0 <= rank < gpus:
            message = f"rank {rank} is not one of the {gpus:,} ranks of the job"
            report.error(path, message, f"use a rank from 0 to {gpus - 1}", TP, PP, DP)
        if not 0 <= slowdown <= MOST_SLOWDOWN:
            faster = f"{slowdown:g} would make rank {rank} faster than its data sheet"
            slower = f"{slowdown:g} is more than {MOST_SLOWDOWN:,}"
            message = slower if slowdown > MOST_SLOWDOWN else faster
            report.error(path, message, "use 0 or more: 0.1 is 10 % more time")
