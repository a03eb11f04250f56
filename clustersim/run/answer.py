"""The answer to a scenario as one document: what ``clustersim run --json`` prints.

Seconds, bytes and fractions, but for `model_tflops_per_gpu`, `days` and `gpu_hours`, whose names
say their units.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from clustersim.analysis.breakdown import breakdown_s
from clustersim.analysis.critical_path import critical_path
from clustersim.analysis.waterfall import waterfall
from clustersim.parallel.memory import Memory
from clustersim.run.flop import step_flop
from clustersim.run.prepare import Prepared
from clustersim.run.replicate import Replications

SCHEMA_VERSION = 1
# Half-width of a 90 % interval over the mean absolute error of a normal: 1.645 sqrt(pi / 2).
HALF_WIDTH_PER_MAE = 1.645 * math.sqrt(math.pi / 2.0)
MOST_GROUPS = 4  # groups of ranks named on the critical path

BOUNDS = {
    "compute": ("matmul", "attention", "recompute"),
    "memory bandwidth": ("elementwise", "optimizer"),
    "tensor-parallel communication": ("tp_comm",),
    "pipeline bubble": ("bubble",),
    "pipeline communication": ("pp_comm",),
    "data-parallel communication": ("dp_comm", "overlap_slowdown"),
    "host": ("launch", "host"),
    "stragglers": ("straggler", "imbalance", "jitter"),
}


def answer(prepared: Prepared, memory: Memory, replications: Replications) -> dict[str, Any]:
    """Everything that is said of a scenario, what-ifs aside.

    Parameters
    ----------
    prepared : Prepared
    memory : Memory
    replications : Replications
        The timeline of its median draw is reported.

    Returns
    -------
    dict
        Keys of the document without `sensitivities`, `stragglers` and `result_digest`. `days` and
        `gpu_hours` are there where the scenario has a token budget.
    """
    scenario, training = prepared.scenario, prepared.scenario.training
    step_s = replications.timeline.step_time_s
    flop = step_flop(scenario)
    peak = scenario.cluster.node.device.matrix_peak[training.dtype] * scenario.gpus
    tokens = training.global_batch * training.sequence_length
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "training",
        "name": scenario.name,
        "step_time_s": step_s,
        "interval": interval_of(prepared, replications),
        "mfu": flop.model / (step_s * peak),
        "hfu": flop.executed / (step_s * peak),
        "model_tflops_per_gpu": flop.model / step_s / scenario.gpus / 1e12,
        "tokens_per_s": tokens / step_s,
        "gpus": scenario.gpus,
        "memory_bytes_per_gpu": memory.terms(),
        "memory_capacity_bytes": memory.capacity_bytes,
        "fits": memory.fits,
        **_where(prepared, replications, flop.model / peak, flop.attention / peak),
        "critical_path": _critical(prepared, replications),
        "engine": replications.timeline.engine,
        "engine_ops": replications.engine_ops,
        "engine_s": replications.engine_s,
        "replications": int(replications.step_time_s.size),
        "replica_classes": int(replications.draw.multiplicity.size),
        "seed": scenario.run.seed,
        "assumed": _assumed(prepared),
        "notes": _notes(prepared),
    }
    if training.token_budget:
        steps_s = training.token_budget / tokens * step_s
        document["days"] = steps_s / 86400.0
        document["gpu_hours"] = steps_s / 3600.0 * scenario.gpus
    return document


def _where(
    prepared: Prepared, replications: Replications, ideal_s: float, ideal_attention_s: float
) -> dict[str, Any]:
    """Where the step of one rank goes, from the peak down, and what bounds it."""
    step_s, costs = replications.timeline.step_time_s, prepared.costs
    parts, (stage, klass) = breakdown_s(
        prepared.program,
        replications.timeline,
        costs.by_category,
        costs.compute_s,
        costs.fixed_s,
        replications.draw.factor,
        costs.drag,
    )
    shares = {
        name: sum(parts.get(key, 0.0) for key in keys) / step_s for name, keys in BOUNDS.items()
    }
    bound = max(shares, key=lambda name: shares[name])
    return {
        "breakdown_s": parts,
        "breakdown_of": {"stage": stage, "replica_class": klass},
        "waterfall": waterfall(parts, step_s, ideal_s, ideal_attention_s),
        "bound": {"by": bound, "share": shares[bound]},
    }


def interval_of(prepared: Prepared, replications: Replications) -> dict[str, float]:
    """Interval of the step time: spread of the draws, and error of the profile.

    Parameters
    ----------
    prepared : Prepared
    replications : Replications

    Returns
    -------
    dict of str to float
        `low`, at least 0, and `high`. [s]

    Notes
    -----
    The distances of the 5th and 95th percentile from the median are joined in quadrature with the
    half-width of a 90 % interval of the profile's step error, taken as normal.
    """
    step_s = replications.timeline.step_time_s
    residual_s = HALF_WIDTH_PER_MAE * prepared.platform.profile.step_error * step_s
    below_s = step_s - replications.percentile_s(0.05)
    above_s = replications.percentile_s(0.95) - step_s
    return {
        "low": max(0.0, step_s - math.hypot(below_s, residual_s)),
        "high": step_s + math.hypot(above_s, residual_s),
    }


def _critical(prepared: Prepared, replications: Replications) -> dict[str, Any]:
    """Which ops and which ranks the step waits for."""
    program, step_s = prepared.program, replications.timeline.step_time_s
    path = critical_path(program, replications.timeline, prepared.costs.by_category)
    by_op: dict[str, float] = {}
    by_group: dict[tuple[int, int], float] = {}
    for row, klass, seconds in zip(
        path.row.tolist(), path.klass.tolist(), path.seconds.tolist(), strict=True
    ):
        name = program.templates[program.template[row]].name
        by_op[name] = by_op.get(name, 0.0) + seconds
        group = (int(program.stage[row]), klass)
        by_group[group] = by_group.get(group, 0.0) + seconds
    largest = sorted(by_group.items(), key=lambda item: -item[1])[:MOST_GROUPS]
    stages = []
    for (stage, klass), seconds in largest:
        replica = int(replications.draw.first[klass])
        ranks = prepared.mesh.tensor_group(stage, replica)
        stages.append(
            {
                "stage": stage,
                "replica": replica,
                "first_rank": int(ranks[0]),
                "ranks": int(ranks.size),
                "seconds": seconds,
                "share": seconds / step_s if step_s else 0.0,
            }
        )
    return {"by_category": path.by_category, "by_op": by_op, "stages": stages}


def _assumed(prepared: Prepared) -> list[str]:
    """What the answer rests on that nobody measured."""
    platform, lines = prepared.platform, []
    device, profile = platform.device, platform.profile
    if profile.derived:
        lines.append(f"no kernel of {device.name} was measured: profile {profile.name} is derived")
    elif not profile.has_step_error:
        lines.append(
            f"no published step on {device.name} was compared: the interval follows its kernels"
        )
    lines += [
        f"link {name}: coefficients are assumed"
        for name, link in platform.links.items()
        if link.pedigree.basis == "assumed"
    ]
    return lines


def _notes(prepared: Prepared) -> list[str]:
    """What a reader of the answer may stumble over."""
    training = prepared.scenario.training
    attention = prepared.scenario.software.features.attention
    notes = []
    if training.recompute.kind == "selective" and attention.startswith("flash"):
        notes.append("recompute selective adds nothing: fused attention keeps no scores")
    return notes


def digest_of(document: dict[str, Any]) -> str:
    """A hash of the answer to nine digits, without the engine that found it and the what-ifs.

    Times count to 1e-9 of the step and fractions to 1e-9, so that what engines may differ by, such
    as a change of 1e-16 for one of 0, leaves no trace.

    Parameters
    ----------
    document : dict
        Times in it are measured against its `step_time_s`, or as they are where that is 0.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    step_s = float(document["step_time_s"])

    def rounded(value: Any, unit: float) -> Any:
        if isinstance(value, float):
            near = round(value / unit, 9) + 0.0  # no negative zero
            return f"{near:.9f}" if abs(near) < 1.0 else f"{near:.9g}"
        if isinstance(value, dict):
            return {key: rounded(entry, _unit(key, unit, step_s)) for key, entry in value.items()}
        return [rounded(entry, unit) for entry in value] if isinstance(value, list) else value

    hidden = ("engine", "engine_ops", "engine_s", "sensitivities", "stragglers", "notes")
    kept = {key: entry for key, entry in document.items() if key not in hidden}
    text = json.dumps([f"{step_s:.9g}", rounded(kept, 1.0)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unit(key: str, outer: float, step_s: float) -> float:
    """What the entries under a key are measured against: the step for times, else 1."""
    is_time = key in ("seconds", "interval") or (key.endswith("_s") and not key.endswith("_per_s"))
    return step_s if is_time and step_s > 0.0 else outer
