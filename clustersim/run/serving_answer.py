"""The answer to a serving scenario as one document: what ``clustersim run --json`` prints.

Seconds, bytes and fractions; `vllm_bench` alone keeps the units of that tool.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from clustersim.analysis.serving import (
    gap_spread,
    goodput,
    in_window,
    latencies,
    throughput,
    vllm_bench,
)
from clustersim.cost.power import STATIC_SHARE, serving_power_share
from clustersim.cost.serving.prices import PARTS
from clustersim.engine.serving.state import SERIES_COLUMNS
from clustersim.errors import CapacityError
from clustersim.model.transformer import (
    attention_weights,
    expert_weights,
    mlp_weights,
)
from clustersim.parallel.replica import ReplicaMemory
from clustersim.run.answer import digest_of
from clustersim.run.replicas import Played, PriceBook, capacity_of, play
from clustersim.spec.serving import ServingScenario
from clustersim.spec.workload import OPEN
from clustersim.workload.iteration import iteration_of

SCHEMA_VERSION = 1
# Half-width of a 90 % interval over the mean absolute error of a normal: 1.645 sqrt(pi / 2).
HALF_WIDTH_PER_MAE = 1.645 * math.sqrt(math.pi / 2.0)
# Mean absolute error of TPOT: `clustersim validate silicon_e2e.csv` prints a median of about 10 %,
# which is that of a normal distribution with this mean.
TPOT_ERROR = 0.12
CACHE_MARGIN = 0.02  # of the cache: what it is predicted to
FULL = 0.95  # offered load over capacity at which queues have no steady state in a run
CACHE_FULL = 0.9  # mean use of the cache at which it bounds the run

BOUNDS = {
    "products and weights": ("products", "head", "passes", "draft"),
    "attention and KV cache": ("attention",),
    "experts": ("experts",),
    "exchange between GPUs": ("all_reduce", "exchange", "lockstep"),
    "host": ("host", "launch"),
    "idle: the offered load": ("idle",),
}


def answer_serving(
    first: Played, others: list[Played], base: Path | None, book: PriceBook
) -> dict[str, Any]:
    """Everything that is said of a serving scenario.

    Parameters
    ----------
    first : Played
        The replication whose requests are reported.
    others : list of Played
        Further draws, for intervals.
    base, book
        As for `simulate_serving`.
    """
    scenario, answered = first.scenario, first.answered
    rates = _rates(first)
    times = latencies(answered)
    breakdown = breakdown_s(first)
    offered = scenario.workload.arrivals.kind
    load = None
    rate = offered_rate(first)
    if (offered in OPEN or offered == "trace") and math.isfinite(rate):
        load = rate / capacity_of(first, base, book)
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "serving",
        "name": scenario.name,
        "gpus": scenario.gpus,
        "replicas": scenario.parallelism.replicas,
        **rates,
        "ttft_s": times["ttft_s"],
        "tpot_s": times["tpot_s"],
        "itl_s": _gaps(first),
        "e2e_s": times["e2e_s"],
        "queue_s": times["queue_s"],
        "requests": _counts(first),
        "preemptions": sum(r.count("preemptions") for r in first.replicas),
        "kv_blocks": _blocks(first),
        "prefix_hit_fraction": _hits(first),
        "goodput": _goodput(first),
        "expert_imbalance": imbalance(first) if scenario.model.experts else None,
        "expert_imbalance_s": imbalance_s(first) if scenario.model.experts else None,
        "batch": _batch(first),
        "breakdown_s": breakdown,
        "bound": _bound(first, breakdown, load),
        "power_w": power_w(first, breakdown),
        "memory_bytes_per_gpu": first.memory.terms(),
        "memory_capacity_bytes": first.memory.capacity,
        "fits": True,
        "engine": "compiled",
        "engine_ops": sum(r.count("steps") for r in first.replicas),
        "replications": 1 + len(others),
        "seed": scenario.run.seed,
        "assumed": _assumed(first),
    }
    document["energy_j_per_output_token"] = _ratio(
        document["power_w"], document["output_tokens_per_s"]
    )
    if scenario.gpu_hour_price is not None:
        cost_per_s = scenario.gpu_hour_price * scenario.gpus / 3600.0
        document["cost_per_million_output_tokens"] = _ratio(
            1e6 * cost_per_s, document["output_tokens_per_s"]
        )
    document["interval"] = interval_of(document, first, others, base, book)
    document["warnings"] = _warnings(document)
    document["vllm_bench"] = vllm_bench(document)
    document["result_digest"] = digest_of({**document, "step_time_s": 1.0})
    return document


def refuse_serving(scenario: ServingScenario, memory: ReplicaMemory, reason: str) -> dict[str, Any]:
    """The answer where the model does not fit: terms and the nearest fix.

    Parameters
    ----------
    scenario : ServingScenario
    memory : ReplicaMemory
    reason : str
        From `misfit`: two lines.

    Returns
    -------
    dict
        With ``"fits": False`` and terms in bytes; no times.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "serving",
        "name": scenario.name,
        "gpus": scenario.gpus,
        "fits": False,
        "reason": reason,
        "memory_bytes_per_gpu": memory.terms(),
        "memory_capacity_bytes": memory.capacity,
    }


def _ratio(value: float, over: float) -> float | None:
    return value / over if over > 0 else None


def _rates(played: Played) -> dict[str, float]:
    """Throughput of the whole run, or of its steady half where the load is saturated."""
    answered = played.answered
    if played.scenario.workload.arrivals.kind == "saturated" and answered.finished.any():
        end_s = float(answered.queued_s.max())
        if end_s > 0:
            return in_window(answered, end_s / 2.0, end_s)
    return throughput(answered)


def _gaps(played: Played) -> dict[str, float | None]:
    counts = np.sum([replica.tally.gaps for replica in played.replicas], axis=0)
    first_s, step = played.replicas[0].tally.gap_axis
    return gap_spread(counts, float(first_s), float(step))


def _goodput(played: Played) -> dict[str, float] | None:
    limits = played.scenario.slo
    return goodput(played.answered, limits.model_dump(), played.refused) if limits else None


def _counts(played: Played) -> dict[str, int]:
    admitted, finished = played.requests.count, int(played.answered.finished.sum())
    return {
        "offered": admitted + played.refused,
        "finished": finished,
        "unfinished": admitted - finished,
        "refused": played.refused,
        "skipped": played.requests.skipped,
    }


def _blocks(played: Played) -> dict[str, float]:
    """Blocks of one attention rank, their use, and tokens that they hold."""
    layout = played.memory.layout
    series = np.concatenate([replica.series() for replica in played.replicas])
    used = series[:, SERIES_COLUMNS.index("kv_fraction")]
    busy_s = sum(replica.total("busy_s") for replica in played.replicas)
    held = sum(replica.total("kv_s") for replica in played.replicas)
    return {
        "total": played.memory.kv_blocks,
        "block_tokens": layout.block_tokens,
        "tokens": played.memory.kv_blocks * layout.block_tokens if layout.full else 0,
        "block_bytes": layout.block_bytes,
        "mean_used_fraction": held / busy_s if busy_s > 0 else 0.0,
        "most_used_fraction": float(used.max()) if used.size else 0.0,
    }


def _hits(played: Played) -> float:
    """Prompt tokens found in the cache, over all prompt tokens that were asked."""
    asked = float(played.answered.input_tokens.sum())
    return float(played.answered.hit_tokens.sum()) / asked if asked else 0.0


def _batch(played: Played) -> dict[str, float]:
    busy_s = sum(replica.total("busy_s") for replica in played.replicas)
    running = sum(replica.total("running_s") for replica in played.replicas)
    steps = sum(replica.count("steps") for replica in played.replicas)
    tokens = sum(
        replica.total("decode_tokens") + replica.total("chunk_tokens")
        for replica in played.replicas
    )
    return {
        "mean_running": running / busy_s if busy_s > 0 else 0.0,
        "steps": steps,
        "mean_step_s": busy_s / steps if steps else 0.0,
        "mean_tokens": tokens / steps if steps else 0.0,
    }


def breakdown_s(played: Played) -> dict[str, float]:
    """Where the time of a replica went, mean over replicas; sums to its last moment. [s]

    Parameters
    ----------
    played : Played

    Returns
    -------
    dict of str to float
        Keys of `PARTS`, then "attention", "lockstep" (ranks that wait for the one with most
        attention), "launch", "host" and "idle". [s]
    """
    prices, parts = played.prices, dict.fromkeys(PARTS, 0.0)
    copies = len(played.replicas)
    all_s = prices.all_token_s.mean(axis=0)
    others = {"attention": 0.0, "lockstep": 0.0, "launch": 0.0, "host": 0.0, "idle": 0.0}
    for replica in played.replicas:
        tally = replica.tally
        sums = prices.token_s @ tally.token_steps + all_s @ tally.all_steps
        sums += prices.sequence_s @ tally.sequence_steps
        for name, value in zip(PARTS, sums, strict=True):
            parts[name] += float(value) / copies
        waited = replica.total("lockstep_s")
        others["attention"] += (replica.total("attention_s") - waited) / copies
        others["lockstep"] += waited / copies
        others["launch"] += replica.total("launch_s") / copies
        others["host"] += replica.total("host_s") / copies
        others["idle"] += (replica.now_s - replica.total("busy_s")) / copies
    return {**parts, **others}


def imbalance(played: Played) -> float:
    """Fullest rank over the mean of routed tokens, mean over layers and steps.

    Parameters
    ----------
    played : Played

    Returns
    -------
    float
        At least 1; 1 where no step ran.
    """
    steps = np.sum([replica.tally.all_steps for replica in played.replicas], axis=0)
    total = steps.sum()
    return float(steps @ played.prices.imbalance / total) if total else 1.0


def imbalance_s(played: Played) -> float:
    """Time that even loads of experts would save a replica. [s]

    Parameters
    ----------
    played : Played

    Returns
    -------
    float
        Over the whole run, mean over replicas. [s]
    """
    steps = np.sum([replica.tally.all_steps for replica in played.replicas], axis=0)
    prices = played.prices
    uneven_s = prices.all_token_s[:, PARTS.index("experts")].mean(axis=0)
    return float(steps @ (uneven_s - prices.even_experts_s)) / len(played.replicas)


def offered_rate(played: Played) -> float:
    """Requests that arrive, over the time from the first arrival to the last.

    Parameters
    ----------
    played : Played

    Returns
    -------
    float
        Infinite where all arrive at once. [1/s]
    """
    arrival_s = played.requests.arrival_s
    span_s = float(arrival_s.max() - arrival_s.min())
    return played.requests.count / span_s if span_s > 0 else math.inf


def _bound(played: Played, breakdown: dict[str, float], load: float | None) -> dict[str, Any]:
    """What limits the run, and the shares of everything that could."""
    total_s = sum(breakdown.values())
    shares = {
        name: sum(breakdown[part] for part in parts) / total_s if total_s > 0 else 0.0
        for name, parts in BOUNDS.items()
    }
    by = max(shares, key=lambda name: shares[name])
    blocks = _blocks(played)
    waiting = np.concatenate(
        [r.series()[:, SERIES_COLUMNS.index("waiting")] for r in played.replicas]
    )
    short = blocks["mean_used_fraction"] > CACHE_FULL and waiting.mean() >= 1.0
    return {
        "by": "KV cache: requests wait for blocks" if short else by,
        "share": shares[by],
        "shares": shares,
        "load": load,
    }


def power_w(played: Played, breakdown: dict[str, float]) -> float:
    """Mean electrical power of all GPUs. [W]

    Parameters
    ----------
    played : Played
    breakdown : dict of str to float
        From `breakdown_s`. [s]

    Returns
    -------
    float
        Over all time, idle included. [W]

    Notes
    -----
    Busy time draws what `serving_power_share` says, idle time the device's idle power; where none
    is stated, `STATIC_SHARE` of its limit.
    """
    scenario, total_s = played.scenario, sum(breakdown.values())
    device = scenario.cluster.node.device
    limit = float(device.power_limit)
    idle = STATIC_SHARE * limit if device.idle_power is None else float(device.idle_power)
    if total_s <= 0:
        return idle * scenario.gpus
    waiting_s = sum(breakdown[n] for n in ("all_reduce", "exchange", "lockstep", "host", "launch"))
    attention_s, idle_s = breakdown["attention"], breakdown["idle"]
    products_s = total_s - waiting_s - attention_s - idle_s
    peak = _peak(played) * scenario.replica_gpus
    reached = _flop(played) / (peak * max(products_s, 1e-12))
    drawn = serving_power_share(products_s, attention_s, waiting_s, reached) * limit
    return (drawn * (total_s - idle_s) + idle * idle_s) / total_s * scenario.gpus


def _peak(played: Played) -> float:
    peaks = played.scenario.cluster.node.device.matrix_peak
    dtype = played.scenario.precision.weights.removesuffix("_block")
    return peaks.get(dtype, peaks.get("bf16", max(peaks.values())))


def _flop(played: Played) -> float:
    """Arithmetic of products of one replica's run. [FLOP]"""
    model = played.scenario.model
    weights = float(model.layers * attention_weights(model))
    weights += (model.layers - model.expert_layers) * mlp_weights(model)
    if model.experts is not None:
        each = model.experts.top_k + model.experts.shared_experts
        weights += model.expert_layers * each * expert_weights(model)
    tokens = sum(
        replica.total("decode_tokens") + replica.total("chunk_tokens")
        for replica in played.replicas
    )
    return 2.0 * weights * tokens / len(played.replicas)


def _assumed(played: Played) -> list[str]:
    """What the answer rests on that nobody measured."""
    scenario, lines = played.scenario, []
    device = scenario.cluster.node.device
    from clustersim.spec.resolve import load_profile

    profile = load_profile(device.profile)
    if profile.derived or profile.device != device.name:
        lines.append(f"kernels of {device.name}: profile {profile.name} of {profile.device}")
    if scenario.engine.host.basis == "assumed":
        lines.append(f"host of {scenario.engine.name}: {scenario.engine.host.evidence}")
    if scenario.model.experts is not None and scenario.routing.popularity == "power_law":
        lines.append(
            f"popularity of experts: a power law of exponent {scenario.routing.exponent:g}"
        )
    experts = iteration_of(scenario).experts
    if experts is not None and experts.padded:
        lines.append(f"experts of {scenario.engine.name}: 127 rows more are computed for each")
    return lines


def interval_of(
    document: dict[str, Any],
    first: Played,
    others: list[Played],
    base: Path | None,
    book: PriceBook,
) -> dict[str, dict[str, float]]:
    """5th to 95th percentile over draws, the cache's margin, and the error of prices, joined.

    Parameters
    ----------
    document : dict
        Has the reported values already.
    first : Played
    others : list of Played
        Further draws; may be empty.
    base, book
        As for `simulate_serving`.

    Returns
    -------
    dict of str to dict
        `low`, at least 0, and `high` of output tokens a second and the means of TTFT and TPOT; a
        figure without a value in some run is left out. [1/s], [s]

    Notes
    -----
    Where requests were preempted, the first draw is run again with 2 % more and 2 % less cache. Far
    below capacity the error of prices does not move the throughput: it is weighed with load^4,
    assumed.
    """
    found = {}
    runs = [first, *others]
    if document["preemptions"]:
        for scale in (1.0 - CACHE_MARGIN, 1.0 + CACHE_MARGIN):
            try:
                runs.append(play(first.scenario, base, 0, book, first.requests, scale))
            except CapacityError:
                continue
    for key in ("output_tokens_per_s", "tpot_s", "ttft_s"):
        values = np.array([_headline(run, key) for run in runs], dtype=np.float64)
        value = document[key]["mean"] if isinstance(document[key], dict) else document[key]
        if value is None or not np.isfinite(values).all():
            continue
        residual = HALF_WIDTH_PER_MAE * TPOT_ERROR * value
        load = document["bound"]["load"]
        if key == "output_tokens_per_s" and load is not None:
            residual *= min(1.0, load) ** 4  # far below capacity all that is offered is answered
        low, high = np.percentile(values, (5, 95))
        found[key] = {
            "low": max(0.0, value - math.hypot(max(0.0, value - low), residual)),
            "high": value + math.hypot(max(0.0, high - value), residual),
        }
    return found


def _headline(played: Played, key: str) -> float:
    if key in ("tpot_s", "ttft_s"):
        mean = latencies(played.answered)[key]["mean"]
        return math.nan if mean is None else mean
    return _rates(played)[key]


def _warnings(document: dict[str, Any]) -> list[str]:
    """What a reader has to know before the numbers."""
    found = []
    load = document["bound"]["load"]
    if load is not None and load > FULL:
        found.append(
            f"the offered load is {load:.2f} of capacity: queues grow as long as requests arrive, "
            "so latencies speak of the length of the trace"
        )
    if unfinished := document["requests"]["unfinished"]:
        found.append(f"{unfinished:,} requests were unfinished at run.time_limit")
    if refused := document["requests"]["refused"]:
        found.append(f"{refused:,} requests were refused: they are longer than the KV cache")
    if skipped := document["requests"]["skipped"]:
        lines = "1 line" if skipped == 1 else f"{skipped:,} lines"
        found.append(f"bad lines are left out: {lines} of the trace")
    return found
