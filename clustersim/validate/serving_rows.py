"""A published serving row as a scenario, by the rules of the published README that it cites.

Nothing is guessed silently: whatever a row leaves open is filled by a rule that is the same for
every row, and named in `assumed`. A row that lacks an input, or asks for what is not simulated,
raises `NotComparableError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clustersim.parallel.replica import memory_of_replica
from clustersim.run.replicas import admitted
from clustersim.spec.model import Model
from clustersim.spec.serving import (
    Routing,
    ServingParallelism,
    ServingScenario,
    Speculation,
)
from clustersim.spec.serving_checks import check_serving
from clustersim.spec.serving_engine import ServingEngine
from clustersim.spec.workload import Arrivals, Lengths, Sampling, Spread, Workload
from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.serving_model import serving_model
from clustersim.validate.serving_records import (
    ServingCase,
    ServingRow,
    ServingRun,
    StepBatch,
    first_problem,
)
from clustersim.validate.serving_stack import (
    Stock,
    adjust_engine,
    cache_format,
    check_simulated,
    formats_of,
    node_cluster,
    pick_engine,
    precision_of,
    published_by,
    split_words,
    stated_version,
)

SEEDS = 5  # rules 8 and 10
STATIC_OUTPUT = 128  # rule 4
OFFLINE_LEAST, OFFLINE_BATCHES = 1_000, 8  # rule 5
TOLERATED = frozenset({"engine.token_budget"})
PROTOCOLS = (
    "closed_loop",
    "static_batch",
    "offline",
    "saturated",
    "single_step_prefill",
    "single_step_decode",
    "open_loop_trace",
    "open_loop_poisson",
)
PER_GPU = ("per_gpu_sequences", "per_gpu_tokens")


def check_complete(data: Mapping[str, Any]) -> None:
    """Refuse a row that its author calls incomplete, with the reason.

    Raises
    ------
    NotComparableError
        Such a row is not run, whatever it holds.
    """
    complete = data.get("complete", True)
    if complete in (False, 0, "0", "false", "False"):
        why = data.get("incomplete_because") or "not stated"
        reasons = why if isinstance(why, str) else "; ".join(map(str, why))
        raise NotComparableError(f"incomplete: {reasons}")


def convert_row(row: ServingRow, stock: Stock) -> ServingRun:
    """Turn a row of ``rows:`` into something to run.

    Raises
    ------
    NotComparableError
        With the reason, if the row lacks an input or asks for what is not simulated.
    """
    check_complete(row.data)
    try:
        case = ServingCase.model_validate(row.data)
        return _convert(case, row.folder, stock)
    except ValidationError as error:
        raise NotComparableError(f"cannot be a scenario: {first_problem(error)}") from error


def _convert(case: ServingCase, folder: Path, stock: Stock) -> ServingRun:
    notes: list[str] = []
    if case.protocol not in PROTOCOLS:
        raise NotComparableError(f"protocol {case.protocol or 'not stated'} is not simulated")
    check_simulated(case.engine)
    device = stock.device(case.device)
    if case.device == "RTXPRO6000":
        notes.append("RTX PRO 6000: edition not stated, server edition")
    model = serving_model(case.model, case.model.name or case.id, notes)
    parallelism = _degrees(case, model, notes)
    gpus = _check_gpus(case, parallelism)
    version = stated_version(case.engine.name, case.source.key)
    published = published_by(case.source.ref or "")
    engine = pick_engine(stock, case.engine.name, version, published, notes)
    engine = adjust_engine(engine.on_device(device.name, device.memory), case.engine)
    words = case.interconnect or ""
    limits = (case.power_limit_w, case.memory_limit_gb)
    scenario = ServingScenario(
        kind="serving",
        name=case.id,
        model=model,
        cluster=node_cluster(device, case.gpus or gpus, words, *limits, notes),
        parallelism=parallelism,
        engine=engine,
        precision=precision_of(*_formats(case, engine, notes)),
        speculation=_speculation(case, notes),
        routing=_routing(case, model, notes),
        workload=_ANY_LOAD,
    )
    return finish(_with_load(case, scenario, folder, notes), case.protocol, case, notes)


_ANY_LOAD = Workload(
    arrivals=Arrivals(kind="static"),
    lengths=Lengths(input=Spread(mean=1.0), output=Spread(mean=1.0)),
    requests=1,
)


def finish(
    scenario: ServingScenario, protocol: str, case: ServingCase | None, notes: list[str]
) -> ServingRun:
    """Check a scenario and name what its answer rests on.

    Raises
    ------
    NotComparableError
        If its numbers do not fit together.
    """
    for problem in check_serving(scenario).problems:
        if problem.field not in TOLERATED:
            raise NotComparableError(f"cannot run: {problem.field}: {problem.message}")
    step, kv_tokens, drawn = None, None, scenario.workload.arrivals.kind == "poisson"
    if case is not None:
        step = _decode_step(case, scenario) if protocol == "single_step_decode" else None
        kv_tokens = case.engine.kv_tokens_capacity
    lengths = scenario.workload.lengths
    drawn = drawn or (lengths is not None and lengths.file is not None)
    engine, precision = scenario.engine, scenario.precision
    notes.append(
        f"rule 12: at most {engine.token_budget:,} tokens and {engine.max_sequences:,} sequences "
        "a step"
    )
    notes.append(f"rule 13: KV cache {precision.kv_cache}")
    if scenario.model.experts is not None and scenario.routing.popularity == "power_law":
        notes.append("rule 15: popularity of experts by default")
    return ServingRun(scenario, protocol, SEEDS if drawn else 1, kv_tokens, step, tuple(notes))


def _degrees(case: ServingCase, model: Model, notes: list[str]) -> ServingParallelism:
    """Degrees of one replica, and how many there are (rule 11)."""
    p, has_experts = case.parallel, model.experts is not None
    if p.tp is None:
        raise NotComparableError("parallel.tp is not stated")
    tp, pp, ep, dp = p.tp, p.pp or 1, p.ep, p.dp
    if dp is None and has_experts and ep is not None and ep == case.gpus:
        tp, dp = ep, 1
        notes.append(f"rule 11: one engine, attention tensor-parallel over {ep} GPUs")
    if dp is None:
        dp = max(1, (case.gpus or tp * pp) // (tp * pp))
        notes.append(f"rule 11: dp {dp}")
    ranks = _attention_ranks(case, has_experts, tp, ep, dp)
    if ep is None or not has_experts:
        of_tables = has_experts and re.search(r"tensorrt-llm 1\.0\b", case.engine.name.lower())
        ep = tp * ranks if of_tables else 1
        if of_tables:
            notes.append(f"rule 11: ep {ep}, the GPUs of the instance")
    return ServingParallelism(
        tensor_parallel=tp,
        pipeline_parallel=pp,
        attention_data_parallel=ranks,
        expert_parallel=ep,
        replicas=1 if ranks == dp else dp,
    )


def _attention_ranks(case: ServingCase, has_experts: bool, tp: int, ep: int | None, dp: int) -> int:
    """Attention ranks of one replica: those of attention data parallelism, else one."""
    flag = case.parallel.attention_dp
    if isinstance(flag, int) and not isinstance(flag, bool) and flag > 1:
        return flag
    if not has_experts or dp == 1:
        return 1
    return dp if flag or (ep is not None and ep > 1 and ep == tp * dp) else 1


def _check_gpus(case: ServingCase, p: ServingParallelism) -> int:
    each = p.tensor_parallel * p.pipeline_parallel * p.attention_data_parallel
    gpus = each * p.replicas
    if case.gpus is not None and gpus != case.gpus:
        raise NotComparableError(
            f"rule 11: tp {p.tensor_parallel} x pp {p.pipeline_parallel} x dp "
            f"{p.attention_data_parallel * p.replicas} is not {case.gpus} GPUs"
        )
    if case.gpus_per_node is not None and gpus > case.gpus_per_node:
        nodes = -(-gpus // case.gpus_per_node)
        raise NotComparableError(f"{nodes} nodes: several nodes are not simulated yet")
    return gpus


def _formats(
    case: ServingCase, engine: ServingEngine, notes: list[str]
) -> tuple[dict[str, str], str]:
    weights, cache = split_words(case.quantisation or "")
    formats = formats_of(case.model, case.model.name, weights, None, notes)
    return formats, cache_format(cache, engine.family, formats)


def _speculation(case: ServingCase, notes: list[str]) -> Speculation | None:
    """Drafts by the words of the row, the accept length as an input (rule 14)."""
    words = case.engine.speculative
    if not words:
        return None
    length = case.measured.get("mean_accept_length")
    if not isinstance(length, int | float):
        raise NotComparableError("rule 14: speculation without its accept length")
    found = re.search(r"\d+", str(words))
    drafts = max(int(found[0]) if found else 1, math.ceil(length) - 1)
    notes.append(f"rule 14: {drafts} drafted tokens, accept length {length:g}")
    return Speculation(draft_tokens=drafts, accept_length=length)


def _routing(case: ServingCase, model: Model, notes: list[str]) -> Routing:
    if model.experts is None:
        return Routing()
    if case.engine.balanced_routing:
        notes.append("rule 15: even loads")
        return Routing(popularity="balanced")
    if case.engine.eplb:
        notes.append("rule 15: copies of popular experts, loads taken as even")
        return Routing(popularity="balanced")
    return Routing()


def _with_load(
    case: ServingCase, scenario: ServingScenario, folder: Path, notes: list[str]
) -> ServingScenario:
    """The scenario with the requests of its protocol."""

    def asked(arrivals: Arrivals, requests: int | None = None) -> ServingScenario:
        workload = Workload(
            arrivals=arrivals, lengths=lengths, requests=requests, sampling=sampling
        )
        return scenario.model_copy(update={"workload": workload})

    load, gpus = case.workload, scenario.gpus
    if case.protocol == "open_loop_trace":
        if load.trace is None:
            raise NotComparableError("the trace is not stated")
        workload = Workload(arrivals=Arrivals(kind="trace"), trace=find_trace(load.trace, folder))
        return scenario.model_copy(update={"workload": workload})
    lengths, batch = _lengths(case, folder, notes), _batch(case, gpus)
    sampling = _sampling(lengths, scenario.engine, notes)
    match case.protocol:
        case "closed_loop":
            concurrency = load.concurrency or _stated(batch, "concurrency")
            return asked(Arrivals(kind="closed_loop", concurrency=concurrency))
        case "static_batch":
            return asked(Arrivals(kind="static"), batch or 1)
        case "offline":
            wanted = load.requests or batch or _offline_requests(asked, notes)
            return asked(Arrivals(kind="offline"), wanted)
        case "saturated":
            return asked(Arrivals(kind="saturated", concurrency=batch))
        case "open_loop_poisson":
            if load.rate is None:
                raise NotComparableError("the rate is not stated")
            return asked(Arrivals(kind="poisson", rate=load.rate))
        case "single_step_prefill":
            return _prefill_step(case, asked, batch)
        case _:
            return asked(Arrivals(kind="static"), _stated(batch, "batch"))


def _sampling(lengths: Lengths, engine: ServingEngine, notes: list[str]) -> Sampling:
    """Greedy for fixed lengths; for those of a data set what the server does by itself."""
    if lengths.file is None:
        return "greedy"
    notes.append(f"rule 12: sampling {engine.default_sampling}, by the engine")
    return "engine"


def _offline_requests(asked: Any, notes: list[str]) -> int:
    """Eight batches that memory admits, at least a thousand (rule 5)."""
    probe = asked(Arrivals(kind="offline"))
    running = admitted(probe, memory_of_replica(probe))
    wanted = max(OFFLINE_LEAST, OFFLINE_BATCHES * running)
    notes.append(f"rule 5: {wanted:,} requests")
    return wanted


def _stated(value: int | None, name: str) -> int:
    if value is None:
        raise NotComparableError(f"the {name} is not stated")
    return value


def _batch(case: ServingCase, gpus: int) -> int | None:
    """The batch of the whole row, by its scope."""
    if case.workload.batch is None:
        return None
    scale = gpus if case.batch_scope in PER_GPU else 1
    return max(1, round(case.workload.batch * scale))


def _prefill_step(case: ServingCase, asked: Any, batch: int | None) -> ServingScenario:
    """One step that computes whole prompts: as many as fill the batch (rule 7)."""
    wanted = _stated(batch, "batch")
    each = max(1, round(case.workload.input_len or 1))
    prompts = max(1, wanted // each) if case.batch_scope == "per_gpu_tokens" else wanted
    scenario: ServingScenario = asked(Arrivals(kind="static"), prompts)
    p = scenario.parallelism
    share = -(-prompts // (p.attention_data_parallel * p.replicas))
    update = {
        "token_budget": max(share * each, 1),
        "max_sequences": max(share, 1),
        "policy": "vllm_v1",
        "chunked_prefill": True,
    }
    engine = scenario.engine.model_copy(update=update)
    return scenario.model_copy(update={"engine": engine})


def _decode_step(case: ServingCase, scenario: ServingScenario) -> StepBatch:
    """Sequences of one step and what each has behind it (rule 7)."""
    load = case.workload
    context = load.kv_len
    if context is None and load.input_len is not None:
        context = load.input_len + (load.output_len or 0.0) / 2.0
    if context is None:
        raise NotComparableError("the context of a decode step is not stated")
    return StepBatch(_stated(_batch(case, scenario.gpus), "batch"), round(context))


def _lengths(case: ServingCase, folder: Path, notes: list[str]) -> Lengths:
    """Fixed lengths, or pairs drawn from a file (rule 10)."""
    load, origin = case.workload, case.lengths_from
    output = load.output_len
    if output is None and case.protocol == "static_batch":
        output = float(STATIC_OUTPUT)
        notes.append(f"rule 4: {STATIC_OUTPUT} generated tokens")
    if case.protocol in ("single_step_prefill", "single_step_decode"):
        return _fixed(load.input_len or load.kv_len, 1.0)
    if origin is not None and origin.file is not None:
        if origin.assumed:
            notes.append(f"rule 10: lengths of {origin.file}")
        return Lengths(
            file=find_trace(origin.file, folder),
            input_mean=_scale(origin.input_mean, load.input_len, "input"),
            output_mean=_scale(origin.output_mean, load.output_len, "output"),
        )
    if origin is not None and origin.distribution not in (None, "fixed"):
        raise NotComparableError(f"lengths by {origin.distribution} are not simulated")
    prompt = load.input_len
    if origin is not None and origin.input is not None:
        prompt = origin.input
    return _fixed(prompt, output)


def _scale(how: str, mean: float | None, side: str) -> float | None:
    if how != "row":
        return None
    if mean is None:
        raise NotComparableError(f"rule 10: {side} lengths are scaled to a mean that is not stated")
    return mean


def _fixed(prompt: float | None, output: float | None) -> Lengths:
    if prompt is None or output is None:
        raise NotComparableError("lengths are not stated")
    sides = (Spread(mean=max(1.0, round(one))) for one in (prompt, output))
    return Lengths(input=next(sides), output=next(sides))


def find_trace(name: str, folder: Path) -> str:
    """A trace or file of lengths beside the validated file or in ``../traces`` of it (rule 9).

    Raises
    ------
    NotComparableError
        If it is in neither place.
    """
    for place in (folder, folder.parent / "traces"):
        path = place / name
        if path.is_file():
            return str(path.resolve())
    raise NotComparableError(f"rule 9: {name} is neither beside the file nor in ../traces")
