"""A published row as a scenario, by rules 1 to 19 of the published README, in their order.

Nothing is guessed silently: whatever a row leaves open is filled by a rule that is the same for
every row, and named in `assumed`. A row that lacks an input raises `NotComparableError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from clustersim.errors import SpecError
from clustersim.spec.checks import check_scenario
from clustersim.spec.device import Device
from clustersim.spec.fleet import Fleet
from clustersim.spec.model import Model
from clustersim.spec.scenario import Parallelism, Recompute, Scenario, Training
from clustersim.validate.capabilities import NotComparableError, limits_met
from clustersim.validate.cases import Case
from clustersim.validate.clusters import build_topology
from clustersim.validate.stack import build_software, dropout, gradient_dtypes

Fits = Callable[[Scenario], bool]
TOLERATED = frozenset({"training.global_batch"})  # rule 6: the last micro-batch may be smaller


@dataclass(frozen=True)
class Catalogue:
    """What a row refers to by name."""

    device: Callable[[str], Device]
    fleet: Fleet


@dataclass(frozen=True)
class Conversion:
    """A row as a scenario.

    Attributes
    ----------
    scenario : Scenario
    assumed : tuple of str
        What the row left open and how it was filled, in the order of the rules.
    doubled : Scenario or None
        The same run with twice the micro-batches, where the global batch is not stated: the two
        throughputs must agree within 5 % (rule 6).
    """

    scenario: Scenario
    assumed: tuple[str, ...]
    doubled: Scenario | None = None


@dataclass(frozen=True)
class _Mesh:
    """Degrees after rules 2, 7 and 8."""

    gpus: int
    tp: int
    pp: int
    dp: int
    vpp: int
    layers_per_chunk: tuple[int, ...] | None


def shipped_catalogue() -> Catalogue:
    """Devices of the shipped catalogue and the one default fleet."""
    from clustersim.spec.resolve import load_device, load_fleet

    return Catalogue(load_device, load_fleet("production"))


def convert(case: Case, catalogue: Catalogue, fits: Fits) -> Conversion:
    """Turn a row into a scenario.

    Parameters
    ----------
    fits : callable
        Whether a scenario fits in 0.92 of device memory, by our own memory model; asked only
        where micro-batch or recompute are open.

    Raises
    ------
    NotComparableError
        With the reason, if the row lacks an input or asks for what cannot be modelled.
    """
    check_inputs(case)
    if reasons := limits_met(case):
        raise NotComparableError("; ".join(reasons))
    try:
        return _convert(case, catalogue, fits)
    except ValidationError as error:
        details = error.errors()[0]
        field = ".".join(map(str, details["loc"]))
        raise NotComparableError(f"cannot be a scenario: {field}: {details['msg']}") from error


def _convert(case: Case, catalogue: Catalogue, fits: Fits) -> Conversion:
    notes: list[str] = []
    device = find_device(case, catalogue)
    mesh = _mesh(case, notes)
    model = build_model(case, notes)
    scenario = _assemble(case, mesh, model, device, catalogue.fleet, notes)
    open_batch = case.batch.global_ is None and case.batch.local is None
    scenario = _choose_micro_batch(case, scenario, open_batch, fits, notes)
    scenario = _choose_recompute(case, scenario, fits, notes)
    notes.append(f"fleet {scenario.fleet.name}")
    for problem in check_scenario(scenario).problems:
        if problem.field not in TOLERATED:
            raise NotComparableError(f"cannot run: {problem.field}: {problem.message}")
    doubled = None
    if open_batch:
        doubled = _with_training(scenario, global_batch=2 * scenario.training.global_batch)
    return Conversion(scenario, tuple(notes), doubled)


def check_inputs(case: Case) -> None:
    """Refuse a row that lacks what it must have (rule 1).

    Parameters
    ----------
    case : Case

    Raises
    ------
    NotComparableError
        If the row is of a kind that is not simulated (`context`, `scaling`, `relative`), lacks its
        device, GPUs, layers, hidden size, sequence length, tp or pp, or recomputes what has no word
        here.
    """
    if case.kind in {"context", "scaling", "relative"}:
        raise NotComparableError(f"rule 1: kind {case.kind} is not simulated")
    if not case.device:
        raise NotComparableError("rule 1: device is not stated")
    shape, degrees = case.model, case.parallel
    required = {
        "gpus": case.gpus,
        "model.layers": shape.layers,
        "model.hidden": shape.hidden,
        "model.seq_len": shape.seq_len,
        "parallel.tp": degrees.tp,
        "parallel.pp": degrees.pp,
    }
    missing = [name for name, value in required.items() if not value]
    if missing:
        raise NotComparableError(f"rule 1: {', '.join(missing)} not stated")
    if case.recompute.kind == "unknown" and case.recompute.detail:
        raise NotComparableError(f"rule 1: recompute cannot be expressed: {case.recompute.detail}")


def find_device(case: Case, catalogue: Catalogue) -> Device:
    """Device of the catalogue.

    Parameters
    ----------
    case : Case
        Its device in lower case, dashes as underscores, is the id or an alias.
    catalogue : Catalogue

    Returns
    -------
    Device

    Raises
    ------
    NotComparableError
        If the catalogue does not have it (rule 1).
    """
    name = (case.device or "").lower().replace("-", "_")
    try:
        return catalogue.device(name)
    except SpecError as error:
        raise NotComparableError(f"rule 1: device {case.device} has no catalogue id") from error


def _mesh(case: Case, notes: list[str]) -> _Mesh:
    degrees = case.parallel
    gpus, tp, pp, layers = case.gpus, degrees.tp, degrees.pp, case.model.layers
    assert gpus
    assert tp
    assert pp
    assert layers
    dp = degrees.dp
    if dp is None:
        dp, rest = divmod(gpus, tp * pp)
        if rest or not dp:
            raise NotComparableError(f"{gpus} GPUs are no multiple of tp {tp} x pp {pp}")
        notes.append(f"rule 2: dp {dp}")
    if tp * pp * dp != gpus:
        raise NotComparableError(f"tp {tp} x pp {pp} x dp {dp} is not {gpus} GPUs")
    vpp = degrees.vpp
    if vpp is None:
        vpp = -(-layers // pp) if case.schedule == "interleaved" else 1
        notes.append(f"rule 7: vpp {vpp}")
    if pp == 1 and vpp > 1:
        notes.append(f"one stage: vpp {vpp} has no effect")
        vpp = 1
    named = case.tokens & {"embedding_balanced_partition", "flexible_layout"}
    vpp, chunks = split_uneven(layers, pp, vpp, bool(named), notes)
    return _Mesh(gpus, tp, pp, dp, vpp, chunks)


def split_uneven(
    layers: int, pp: int, vpp: int, balanced: bool, notes: list[str]
) -> tuple[int, tuple[int, ...] | None]:
    """Layers of each chunk in model order (rule 8), None where they divide evenly.

    Parameters
    ----------
    balanced : bool
        Embedding and head count as one layer each, by the row's own word.

    Returns
    -------
    vpp : int
        Chunks a stage, lowered where there are more chunks than units.
    layers_per_chunk : tuple of int or None
    """
    chunks = pp * vpp
    if layers % chunks == 0 and not balanced:
        return vpp, None
    front = 1 if balanced or (layers + 2) % chunks == 0 else 0
    back = 1 if front or (layers + 1) % chunks == 0 else 0
    units = layers + front + back
    if chunks > units:
        vpp = units // pp  # rule 8: the largest that leaves no chunk empty
        if vpp == 0:
            raise NotComparableError(f"{layers} layers do not fill {pp} stages")
        chunks = pp * vpp
        notes.append(f"rule 8: vpp lowered to {vpp}")
    each, rest = divmod(units, chunks)
    first = (chunks - rest) // 2
    split = [each + (first <= chunk < first + rest) for chunk in range(chunks)]
    split[0] -= front
    split[-1] -= back
    if len(set(split)) == 1:
        return vpp, None
    counted = {2: "embedding and head as one layer each", 1: "the head as one layer", 0: "layers"}
    notes.append(f"rule 8: uneven stages, counting {counted[front + back]}: {_runs(split)}")
    return vpp, tuple(split)


def _runs(values: list[int]) -> str:
    """Write 5, 6, 6, 6, 5 as "5 3x6 5"."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and runs[-1][1] == value:
            runs[-1] = (runs[-1][0] + 1, value)
        else:
            runs.append((1, value))
    return " ".join(f"{count}x{value}" if count > 1 else str(value) for count, value in runs)


def build_model(case: Case, notes: list[str]) -> Model:
    """Shape of the model (rules 2 and 3); norm, bias and tying follow its family.

    Parameters
    ----------
    case : Case
        It has passed `check_inputs`.
    notes : list of str
        What the row left open and how it was filled is added.

    Returns
    -------
    Model
        Of the Llama family where the MLP is gated, of the GPT family else; named by the row's id.
    """
    shape = case.model
    assert shape.layers
    assert shape.hidden
    assert shape.seq_len
    heads = shape.heads or max(1, shape.hidden // 128)
    vocab = shape.vocab or 51200
    ffn = shape.ffn or 4 * shape.hidden
    gated = bool(shape.gated_mlp)
    model = Model(
        name=case.id,
        layers=shape.layers,
        hidden=shape.hidden,
        ffn=ffn,
        attention_heads=heads,
        kv_heads=shape.kv_heads or heads,
        head_dim=shape.head_dim or 0,
        vocab=vocab,
        padded_vocab_to=shape.padded_vocab_to,
        gated_mlp=gated,
        position=shape.position or ("rotary" if gated else "learned"),  # type: ignore[arg-type]
        max_positions=shape.seq_len,
        norm="rms_norm" if gated else "layer_norm",
        bias=not gated,
        parallel_block=bool(shape.parallel_block),
        sliding_window=_window(case, notes),
        tied_embeddings=not gated,
        source=case.source.title,
    )
    family = "Llama: rotary, RMS norm, no bias, untied" if gated else "GPT: norm, bias, tied"
    filled = {
        f"rule 2: heads {heads}": shape.heads is None,
        f"rule 2: vocab {vocab}": shape.vocab is None,
        f"ffn {ffn}, 4 x hidden": shape.ffn is None,
        f"family {family}": True,
        f"rule 3: vocabulary padded from {vocab} to {model.padded_vocab}": (
            model.padded_vocab != vocab
        ),
    }
    notes += [note for note, holds in filled.items() if holds]
    return model


def _window(case: Case, notes: list[str]) -> int | None:
    """Sliding window where it is stated and shorter than the sequence."""
    window = case.model.sliding_window.window if case.model.sliding_window else None
    if window is None and "sliding_window_attention" in case.tokens:
        notes.append("rule 10: window not stated, full attention")
    assert case.model.seq_len
    return window if window is not None and window < case.model.seq_len else None


def _assemble(
    case: Case, mesh: _Mesh, model: Model, device: Device, fleet: Fleet, notes: list[str]
) -> Scenario:
    """Scenario with the row's batch and recompute, where open with the least of each."""
    software = build_software(case, device, notes)
    topology = build_topology(case, device, mesh.gpus, notes)
    fused = software.features.attention.startswith("flash")
    return Scenario(
        name=case.id,
        model=model,
        cluster=topology,
        parallelism=_parallelism(case, mesh),
        training=_training(case, mesh, fused, notes),
        software=software,
        fleet=fleet,
    )


def _parallelism(case: Case, mesh: _Mesh) -> Parallelism:
    """Degrees and schedule; several chunks a stage are interleaved whatever the row calls it."""
    schedule = "gpipe" if case.schedule == "gpipe" else "1f1b"
    degrees = case.parallel
    group = degrees.zero1_group
    return Parallelism.model_validate(
        {
            "tensor_parallel": mesh.tp,
            "pipeline_parallel": mesh.pp,
            "data_parallel": mesh.dp,
            "virtual_stages": mesh.vpp,
            "sequence_parallel": bool(degrees.sp) and mesh.tp > 1,
            "zero_stage": degrees.zero or 0,
            "optimizer_shard_group": group if degrees.zero and group != mesh.dp else None,
            "schedule": "interleaved" if mesh.vpp > 1 else schedule,
            "layers_per_chunk": mesh.layers_per_chunk,
        }
    )


def _training(case: Case, mesh: _Mesh, fused: bool, notes: list[str]) -> Training:
    """Batch, datatypes, dropout and recompute; `fused` attention leaves no scores to recompute."""
    grad_dtype, comm_dtype = gradient_dtypes(case, notes)
    micro, total = _stated_batch(case, mesh, notes)
    kind = "full" if case.recompute.kind == "unknown" else case.recompute.kind
    if kind == "selective" and fused:
        kind = "none"
        notes.append("rule 9: selective recomputes nothing beyond flash attention")
    if case.precision is None:
        notes.append("precision bf16")
    if dropout(case):
        notes.append("rule 15: dropout masks are stored")
    return Training.model_validate(
        {
            "micro_batch": micro,
            "global_batch": total,
            "sequence_length": case.model.seq_len,
            "dtype": case.precision or "bf16",
            "recompute": {"kind": kind, "layers": case.recompute.layers},
            "grad_dtype": grad_dtype,
            "comm_dtype": comm_dtype,
            "dropout": dropout(case),
        }
    )


def _stated_batch(case: Case, mesh: _Mesh, notes: list[str]) -> tuple[int, int]:
    """Micro-batch and global batch; micro-batch 1 and rule 6's count where they are open."""
    micro = case.batch.micro or 1
    if case.batch.global_ is not None:
        return micro, case.batch.global_
    if case.batch.local is not None:
        notes.append(f"global batch {case.batch.local * mesh.dp}, local batch x dp")
        return micro, case.batch.local * mesh.dp
    count = 8 * mesh.pp * mesh.vpp
    notes.append(f"rule 6: global batch of {count} micro-batches a replica")
    return micro, count * mesh.dp * micro


def _with_training(scenario: Scenario, **changes: object) -> Scenario:
    training = scenario.training.model_copy(update=changes)
    return scenario.model_copy(update={"training": training})


def _choose_micro_batch(
    case: Case, scenario: Scenario, open_batch: bool, fits: Fits, notes: list[str]
) -> Scenario:
    """Rule 6: the largest power of two up to 16 that divides the replica's batch and fits."""
    if case.batch.micro is not None:
        if scenario.training.global_batch % (scenario.data_parallel * case.batch.micro):
            notes.append("rule 6: the last micro-batch is smaller")
        return scenario
    chosen = scenario
    for micro in (16, 8, 4, 2, 1):
        total = scenario.training.global_batch * (micro if open_batch else 1)
        if micro > 1 and total % (scenario.data_parallel * micro):
            continue
        chosen = _with_training(scenario, micro_batch=micro, global_batch=total)
        if micro == 1 or fits(chosen):
            break
    notes.append(f"rule 6: micro-batch {chosen.training.micro_batch}")
    return chosen


def _choose_recompute(case: Case, scenario: Scenario, fits: Fits, notes: list[str]) -> Scenario:
    """Rule 9: the least recomputation that fits."""
    if case.recompute.kind != "unknown":
        return scenario
    kinds = ["none", "selective"]
    if scenario.software.features.attention.startswith("flash"):
        kinds = ["none"]
    for kind in kinds:
        choice = _with_training(scenario, recompute=Recompute.model_validate(kind))
        if fits(choice):
            notes.append(f"rule 9: recompute {kind}")
            return choice
    low, high = 1, _layers_of_a_stage(scenario)
    while low < high:  # more recomputed layers never need more memory
        middle = (low + high) // 2
        if fits(_with_training(scenario, recompute=Recompute(kind="full", layers=middle))):
            high = middle
        else:
            low = middle + 1
    if low == _layers_of_a_stage(scenario):
        choice = _with_training(scenario, recompute=Recompute(kind="full"))
        doubt = "" if fits(choice) else ", and still does not fit"
        notes.append(f"rule 9: recompute full{doubt}")
        return choice
    notes.append(f"rule 9: recompute full, {low} layers of each stage")
    return _with_training(scenario, recompute=Recompute(kind="full", layers=low))


def _layers_of_a_stage(scenario: Scenario) -> int:
    """Layers of the fullest stage."""
    parallelism = scenario.parallelism
    stages = parallelism.pipeline_parallel
    listed = parallelism.layers_per_chunk
    if listed is None:
        return scenario.model.layers // stages
    return max(sum(listed[stage::stages]) for stage in range(stages))
