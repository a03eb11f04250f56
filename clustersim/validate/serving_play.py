"""A serving run to its published metrics: the rules of statistics, and single steps by price."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from clustersim.analysis.serving import Answered, gap_spread, in_window, latencies, throughput
from clustersim.engine.serving.reference_step import table_at
from clustersim.engine.serving.replica import Replica
from clustersim.engine.serving.state import Tally
from clustersim.parallel.replica import memory_of_replica
from clustersim.run.replicas import Played, PriceBook, draw_requests, play, with_budget
from clustersim.run.serving_answer import breakdown_s, power_w
from clustersim.spec.serving import ServingScenario
from clustersim.validate.serving_records import ServingRun, StepBatch

LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
REFUSED = "refused"  # requests longer than the cache, beside the metrics
FIRST_STRIDE, MOST_COPIES = 512, 16  # steps between copies of a replica, and how many are kept
Metrics = dict[str, float]


def predict(run: ServingRun, book: PriceBook) -> Metrics:
    """All metrics of a run by name, the mean over its draws (rules 8 and 10).

    Parameters
    ----------
    run : ServingRun
    book : PriceBook
        Prices shared with other runs.

    Returns
    -------
    dict
        What cannot be said of a run, such as TPOT of single tokens, is absent.

    Raises
    ------
    CapacityError
        If the model or a request does not fit.
    """
    if run.step is not None:
        return decode_step(run.scenario, run.step, book)
    draws = [_measure(run, book, draw) for draw in range(run.draws)]
    names = [name for name in draws[0] if all(name in draw for draw in draws)]
    return {name: math.fsum(draw[name] for draw in draws) / len(draws) for name in names}


def _measure(run: ServingRun, book: PriceBook, draw: int) -> Metrics:
    if run.protocol == "saturated":
        return _steady(_play(run, _stopped(run.scenario), book, draw))
    played = _play(run, run.scenario, book, draw)
    answered = played.answered
    found = _latencies(answered) | _gaps(played) | throughput(answered)
    if run.protocol != "static_batch":
        found["decode_tokens_per_s"] = _decode_rate(answered)
    if run.protocol == "single_step_prefill":
        found["step_time_s"] = found["makespan_s"]
    found["power_w"] = power_w(played, breakdown_s(played))
    return found | {REFUSED: float(played.refused)}


def _play(run: ServingRun, scenario: ServingScenario, book: PriceBook, draw: int) -> Played:
    memory = memory_of_replica(scenario)
    requests = draw_requests(scenario, memory, None, draw)
    scale = 1.0
    if run.kv_tokens is not None:
        whole = memory_of_replica(with_budget(scenario, requests))
        if whole.fits:
            scale = run.kv_tokens / scenario.engine.block_tokens / whole.kv_blocks + 1e-12
    return play(scenario, None, draw, book, requests, scale)


def _stopped(scenario: ServingScenario) -> ServingScenario:
    """The scenario stopped after its first step."""
    run = scenario.run.model_copy(update={"time_limit": 1e-9})
    return scenario.model_copy(update={"run": run})


def _latencies(answered: Answered) -> Metrics:
    times = latencies(answered)
    return {
        f"{key}_{stat}": value
        for key in LATENCIES
        for stat, value in times[key].items()
        if value is not None
    }


def _gaps(played: Played) -> Metrics:
    counts = np.sum([replica.tally.gaps for replica in played.replicas], axis=0)
    first_s, step = played.replicas[0].tally.gap_axis
    found = gap_spread(counts, float(first_s), float(step))
    return {f"itl_s_{stat}": value for stat, value in found.items() if value is not None}


def _decode_rate(answered: Answered) -> float:
    """Tokens after the first of each request over the time after the first of all. [1/s]"""
    made = answered.made > 0
    span_s = float(answered.last_s[made].max() - answered.first_s[made].min())
    later = float(answered.made[made].sum() - made.sum())
    return later / span_s if span_s > 0.0 else 0.0


def _steady(begun: Played) -> Metrics:
    """Metrics of the second half of the time up to the last entry (rule 6).

    The middle is known at the end. Each replica leaves copies of itself on the way, so that its
    state at the middle and at the end is that of a copy played a little further.
    """
    trails = [_trail(replica) for replica in begun.replicas]
    whole = [trail[-1] for trail in trails]
    end_s = max(float(replica.progress.queued_s.max()) for replica in whole)
    begin_s = end_s / 2.0
    window = [_after(_at(trail, begin_s), _at(trail, end_s)) for trail in trails]
    played = replace(begun, replicas=tuple(window))
    answered = _joined(whole)
    ended = np.flatnonzero((answered.last_s >= begin_s) & (answered.last_s < end_s))
    found = _latencies(answered.take(ended)) | _gaps(played)
    found |= in_window(answered, begin_s, end_s)
    found["power_w"] = power_w(played, breakdown_s(played))
    return found | {REFUSED: float(begun.refused)}


def _trail(replica: Replica) -> list[Replica]:
    """Copies of a replica in the course of its run, the last one at its end."""
    stride, trail, count = FIRST_STRIDE, [_copy(replica)], replica.progress.made.size
    while replica.count("finished") < count:
        replica.advance(steps=stride)
        trail.append(_copy(replica))
        if len(trail) > MOST_COPIES:  # every second one, the first and the last among them
            trail = trail[::2] if len(trail) % 2 else [*trail[:-1:2], trail[-1]]
            stride *= 2
    return trail


def _copy(replica: Replica) -> Replica:
    """A replica that can be played on without this one; load and prices are shared."""
    parts = {name: getattr(replica, name) for name in ("progress", "ranks", "cache", "tally")}
    return replace(
        replica, **{name: part._make(map(np.copy, part)) for name, part in parts.items()}
    )


def _at(trail: list[Replica], time_s: float) -> Replica:
    """The replica of a trail at a time: no later step has begun. [s]"""
    earlier = [replica for replica in trail if replica.now_s <= time_s]
    found = _copy(earlier[-1])
    found.advance(time_s)
    return found


def _joined(replicas: list[Replica]) -> Answered:
    """Requests of all replicas, one replica after the other."""
    columns = ("queued_s", "scheduled_s", "first_s", "last_s", "made", "preempted", "hit_tokens")
    loads = [replica.load for replica in replicas]
    return Answered(
        input_tokens=np.concatenate([load.input_tokens for load in loads]),
        output_tokens=np.concatenate([load.output_tokens for load in loads]),
        replica=np.repeat(np.arange(len(loads)), [load.input_tokens.size for load in loads]),
        **{
            name: np.concatenate([getattr(replica.progress, name) for replica in replicas])
            for name in columns
        },
    )


def _after(early: Replica, late: Replica) -> Replica:
    """A replica with what it counted after an earlier moment."""
    counted = ("token_steps", "all_steps", "sequence_steps", "totals", "gaps", "clock", "counters")
    tally: Tally = late.tally
    differences = {name: getattr(tally, name) - getattr(early.tally, name) for name in counted}
    return replace(late, tally=tally._replace(**differences))


def decode_step(scenario: ServingScenario, step: StepBatch, book: PriceBook) -> Metrics:
    """One step in which every sequence gets its next tokens, by the price tables (rule 7).

    All attention ranks have equal shares of the sequences, and all sequences one context.

    Parameters
    ----------
    scenario : ServingScenario
    step : StepBatch
        Its sequences are those of all replicas and attention ranks.
    book : PriceBook
        Prices shared with other runs.

    Returns
    -------
    dict
        `step_time_s` and `tpot_s_mean` [s], the latter over the tokens that a step is expected to
        give a sequence; `output_tokens_per_s` and `decode_tokens_per_s`, which are the same.
        [tokens/s]

    Raises
    ------
    CapacityError
        If the model does not fit.
    """
    p = scenario.parallelism
    share = math.ceil(step.sequences / (p.attention_data_parallel * p.replicas))
    engine = scenario.engine.model_copy(
        update={"max_sequences": max(share, scenario.engine.max_sequences)}
    )
    scenario = scenario.model_copy(update={"engine": engine})
    one = scenario.workload.model_copy(update={"requests": 1})
    played = play(scenario.model_copy(update={"workload": one}), None, 0, book)
    replica = played.replicas[0]
    step_s = _decode_s(replica, share, step.context, p.attention_data_parallel)
    made = step.sequences * replica.policy.accepted
    return {
        "step_time_s": step_s,
        "tpot_s_mean": step_s / replica.policy.accepted,
        "output_tokens_per_s": made / step_s,
        "decode_tokens_per_s": made / step_s,
    }


def _decode_s(replica: Replica, share: int, context: int, ranks: int) -> float:
    """Time of a step of `share` sequences on each rank. [s]"""
    prices, policy = replica.prices, replica.policy
    lanes = policy.stages
    sequences = math.ceil(share / lanes)
    tokens = sequences * (1 + policy.drafted)
    axes = (prices.decode_n, prices.decode_context, prices.decode_ratio)
    device_s = table_at(axes, prices.decode_s, (sequences, context, 1.0))
    graph = int(prices.padded[min(tokens, prices.padded.size - 1)])
    rows = graph if graph > 0 else tokens
    everyone = rows if ranks == 1 else tokens * ranks
    device_s += float(prices.token_s[min(rows, prices.token_s.size - 1)])
    of_all_s = prices.all_token_s.mean(axis=0)
    device_s += float(of_all_s[min(everyone, of_all_s.size - 1)])
    device_s += float(prices.sequence_s[min(tokens, prices.sequence_s.size - 1)])
    if graph <= 0:
        device_s = max(device_s, policy.launch_s)
    host_s = policy.step_s + policy.sequence_s * share
    if policy.asynchronous:
        return max(device_s, host_s) + policy.gap_s
    return device_s + host_s
