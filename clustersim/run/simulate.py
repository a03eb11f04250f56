"""Scenario in, result out."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from clustersim.analysis.breakdown import breakdown_s
from clustersim.analysis.waterfall import waterfall
from clustersim.cost.platform import Platform
from clustersim.cost.program import CATEGORIES, ProgramCosts
from clustersim.model.transformer import model_flop_per_token, recomputed_flop_per_token
from clustersim.parallel.layers import split_layers
from clustersim.parallel.memory import Memory, memory_of
from clustersim.parallel.mesh import Mesh
from clustersim.run.prepare import Floats, Prepared, prepare
from clustersim.run.replicate import Replications, run_replications
from clustersim.run.whatif import sensitivities, straggler_report
from clustersim.spec.scenario import Scenario
from clustersim.timeline import Timeline
from clustersim.workload.program import Program

SCHEMA_VERSION = 1
# Half-width of a 90 % interval over the mean absolute error of a normal: 1.645 sqrt(pi / 2).
HALF_WIDTH_PER_MAE = 1.645 * math.sqrt(math.pi / 2.0)


@dataclass(frozen=True)
class Result:
    """The answer to one scenario, and everything it was derived from.

    Attributes
    ----------
    document : dict
        What ``clustersim run --json`` prints.
    timeline : Timeline
        Of the median replication, one column a class of replicas.
    factor : ndarray of float64 (stages, classes)
        Slowness of each class in that replication.
    """

    scenario: Scenario
    mesh: Mesh
    program: Program
    platform: Platform
    costs: ProgramCosts
    memory: Memory
    timeline: Timeline
    factor: Floats
    document: dict[str, Any]

    @property
    def step_time_s(self) -> float:
        """Median step time. [s]"""
        return float(self.document["step_time_s"])


def simulate(scenario: Scenario, what_ifs: bool = True) -> Result:
    """Simulate one optimizer step.

    Parameters
    ----------
    scenario : Scenario
    what_ifs : bool
        Whether to re-price and replay for sensitivities and stragglers.

    Returns
    -------
    Result
        Also where the job does not fit in memory; ``document["fits"]`` says so.
    """
    prepared = prepare(scenario)
    memory = memory_of(scenario)
    replications = run_replications(prepared)
    document = _document(prepared, memory, replications)
    if what_ifs:
        document["sensitivities"] = sensitivities(prepared, replications)
        document["stragglers"] = straggler_report(prepared, replications)
    document["result_digest"] = _digest(document)
    return Result(
        scenario,
        prepared.mesh,
        prepared.program,
        prepared.platform,
        prepared.costs,
        memory,
        replications.timeline,
        replications.draw.factor,
        document,
    )


def step_flop(scenario: Scenario) -> tuple[float, float]:
    """Model FLOP and executed FLOP of one step over all GPUs."""
    training, model = scenario.training, scenario.model
    tokens = float(training.global_batch * training.sequence_length)
    layers = split_layers(scenario)
    flash = scenario.software.features.attention.startswith("flash")
    core = model.layers if training.recompute.kind == "selective" and not flash else 0
    whole = float(layers.recomputed.sum())
    useful = model_flop_per_token(model, training.sequence_length)
    again = recomputed_flop_per_token(model, training.sequence_length, core, whole)
    return tokens * useful, tokens * (useful + again)


def _document(prepared: Prepared, memory: Memory, replications: Replications) -> dict[str, Any]:
    scenario, training = prepared.scenario, prepared.scenario.training
    step_s = replications.timeline.step_time_s
    useful, executed = step_flop(scenario)
    peak = scenario.cluster.node.device.matrix_peak[training.dtype] * scenario.gpus
    tokens = training.global_batch * training.sequence_length
    costs = prepared.costs
    parts, place = breakdown_s(
        prepared.program,
        replications.timeline,
        costs.by_category,
        costs.compute_s,
        costs.fixed_s,
        replications.draw.factor,
        costs.drag,
    )
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "training",
        "name": scenario.name,
        "step_time_s": step_s,
        "interval": _interval(prepared, replications),
        "mfu": useful / (step_s * peak),
        "hfu": executed / (step_s * peak),
        "model_tflops_per_gpu": useful / step_s / scenario.gpus / 1e12,
        "tokens_per_s": tokens / step_s,
        "gpus": scenario.gpus,
        "memory_bytes_per_gpu": memory.terms(),
        "memory_capacity_bytes": memory.capacity_bytes,
        "fits": memory.fits,
        "breakdown_s": parts,
        "breakdown_of": {"stage": place[0], "rank_class": place[1]},
        "waterfall": waterfall(parts, step_s, useful / peak),
        "bound": _bound(parts, step_s),
        "engine": replications.timeline.engine,
        "engine_ops": replications.engine_ops,
        "engine_s": replications.engine_s,
        "replications": int(replications.step_time_s.size),
        "rank_classes": int(replications.draw.multiplicity.size),
        "seed": scenario.run.seed,
    }
    if training.token_budget:
        steps_s = training.token_budget / tokens * step_s
        document["days"] = steps_s / 86400.0
        document["gpu_hours"] = steps_s / 3600.0 * scenario.gpus
    return document


def _interval(prepared: Prepared, replications: Replications) -> dict[str, float]:
    """5th to 95th percentile of the draws, joined with the profile's own error in quadrature."""
    step_s = replications.timeline.step_time_s
    residual_s = HALF_WIDTH_PER_MAE * prepared.platform.profile.step_error * step_s
    below_s = step_s - replications.percentile_s(0.05)
    above_s = replications.percentile_s(0.95) - step_s
    return {
        "low": step_s - math.hypot(below_s, residual_s),
        "high": step_s + math.hypot(above_s, residual_s),
    }


_GROUPS = {
    "compute": ("matmul", "attention", "recompute"),
    "memory bandwidth": ("elementwise", "optimizer"),
    "tensor-parallel communication": ("tp_comm",),
    "pipeline bubble": ("bubble",),
    "pipeline communication": ("pp_comm",),
    "data-parallel communication": ("dp_comm",),
    "host": ("launch", "host"),
    "stragglers": ("straggler", "imbalance", "jitter"),
}


def _bound(parts: dict[str, float], step_s: float) -> dict[str, Any]:
    """What most of the step goes to, and its share."""
    shares = {
        name: sum(parts.get(key, 0.0) for key in keys) / step_s for name, keys in _GROUPS.items()
    }
    name = max(shares, key=lambda key: shares[key])
    return {"by": name, "share": shares[name]}


def _digest(document: dict[str, Any]) -> str:
    """A hash of the answer to nine digits, without the engine that found it and its speed.

    Times count to 1e-9 of the step and fractions to 1e-9, so that what engines may differ by, such
    as a change of 1e-16 for one of 0, leaves no trace.
    """
    step_s = float(document["step_time_s"])

    def rounded(value: Any, unit: float) -> Any:
        if isinstance(value, float):
            near = round(value / unit, 9) + 0.0  # no negative zero
            return f"{near:.9f}" if abs(near) < 1.0 else f"{near:.9g}"
        if isinstance(value, dict):
            return {key: rounded(entry, _unit(key, unit, step_s)) for key, entry in value.items()}
        return [rounded(entry, unit) for entry in value] if isinstance(value, list) else value

    hidden = ("engine", "engine_ops", "engine_s")
    kept = {key: entry for key, entry in document.items() if key not in hidden}
    text = json.dumps([f"{step_s:.9g}", rounded(kept, 1.0)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unit(key: str, outer: float, step_s: float) -> float:
    """What the entries under a key are measured against: the step for times, else 1."""
    is_time = key.endswith("_s") or key in ("seconds", "interval")
    return step_s if is_time and step_s > 0.0 else outer


__all__ = ["CATEGORIES", "Result", "simulate", "step_flop"]
