"""FLOP a step of each source's formula, and any printed speed as seconds a step (rules 3 to 5).

The formulas are those of the published README, section "MFU and FLOP formulas"; they count what the
*source* counts, so they say nothing of what our simulator executes. Mixture of experts and latent
attention are counted too, because a measured time is converted whether or not we can predict it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.cases import Case, Shape

SPEED_KEYS = (
    "iteration_s",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "samples_per_s_per_gpu",
    "tflops_per_gpu",
    "mfu",
    "hfu",
)
TERA = 1e12


@dataclass(frozen=True)
class Measured:
    """A printed speed as seconds a step, and the key it was converted from (None: printed so)."""

    step_time_s: float
    derived_from: str | None


@dataclass(frozen=True)
class Dims:
    """Shape of a model in the symbols of the README, blanks filled by rule 2.

    Attributes
    ----------
    s, l, h, a, d : sequence length, layers, hidden, heads, head size ((d_qk + d_v)/2 for MLA)
    V, Vp : vocabulary, padded vocabulary
    W : weights of the layers that one token meets in matrix products
    """

    s: int
    l: int  # noqa: E741
    h: int
    a: int
    d: float
    V: int
    Vp: int
    W: float


def speed_key(case: Case) -> str | None:
    """The speed figure that is compared.

    Parameters
    ----------
    case : Case

    Returns
    -------
    str or None
        The first of `SPEED_KEYS` that the row has as a number (rule 4); None where it has none.
    """
    for key in SPEED_KEYS:
        if isinstance(case.measured.get(key), int | float):
            return key
    return None


def bound_key(case: Case) -> str | None:
    """A speed that is printed only as a bound.

    Parameters
    ----------
    case : Case

    Returns
    -------
    str or None
        The first key such as `tokens_per_s_at_least`, in the order of the row; None where it has
        none.
    """
    keys = (key for key in case.measured if key.endswith(("_at_least", "_at_most")))
    return next((key for key in keys if key.startswith(SPEED_KEYS)), None)


def measured_step(case: Case, global_batch: int, peak_flop_per_s: float | None) -> Measured:
    """Seconds a step as the source measured it.

    Parameters
    ----------
    global_batch : int
        Sequences a step.
    peak_flop_per_s : float or None
        Peak to divide by where the row has no `peak_tflops`. [FLOP/s]

    Raises
    ------
    NotComparableError
        If the row prints no speed, or prints one by a formula that we do not have.
    """
    key = speed_key(case)
    if key is None:
        raise NotComparableError("no speed is printed")
    value = float(case.measured[key])
    if value <= 0:
        raise NotComparableError(f"{key} is {value}")
    if key == "iteration_s":
        return Measured(value, None)
    tokens = float(global_batch) * (case.model.seq_len or 0)
    gpus = case.gpus or 0
    if key == "tokens_per_s":
        return Measured(tokens / value, key)
    if key == "tokens_per_s_per_gpu":
        return Measured(tokens / (value * gpus), key)
    if key == "samples_per_s_per_gpu":
        return Measured(global_batch / (value * gpus), key)
    flop = step_flop(case, global_batch, key)
    if key == "tflops_per_gpu":
        return Measured(flop / (value * TERA * gpus), key)
    peak = case.peak_tflops * TERA if case.peak_tflops else peak_flop_per_s
    if not peak:
        raise NotComparableError(f"{key} is printed, but neither peak_tflops nor a device peak")
    return Measured(flop / (value / 100 * peak * gpus), key)


def fraction_of_peak(case: Case, global_batch: int, step_time_s: float, key: str) -> float | None:
    """MFU or HFU of a step time, by the source's own formula and peak.

    Parameters
    ----------
    case : Case
    global_batch : int
        Sequences a step.
    step_time_s : float
        Measured or predicted. [s]
    key : str
        `mfu` or `hfu`.

    Returns
    -------
    float or None
        A fraction, not per cent; None where the row lacks a formula, its GPUs or its own peak.

    Raises
    ------
    NotComparableError
        If the formula is not in the README, or the shape of the model is not stated.
    """
    if not case.peak_tflops or not case.gpus or formula_of(case, key) is None:
        return None
    flop = step_flop(case, global_batch, key)
    return flop / (step_time_s * case.gpus * case.peak_tflops * TERA)


def formula_of(case: Case, key: str) -> str | None:
    """Name of the FLOP formula behind a figure.

    Parameters
    ----------
    case : Case
    key : str
        `tflops_per_gpu`, `mfu` or `hfu`.

    Returns
    -------
    str or None
        As the row names it, None where it does not. For `unknown` (rule 5) the formula of Megatron:
        of executed FLOP where the key is `tflops_per_gpu` and recomputation is full, else of model
        FLOP.
    """
    if case.flop_formula != "unknown":
        return case.flop_formula
    full = case.recompute.kind == "full" and key == "tflops_per_gpu"
    return "megatron_hfu" if full else "megatron_mfu"


def step_flop(case: Case, global_batch: int, key: str) -> float:
    """FLOP a step behind `tflops_per_gpu`, `mfu` or `hfu` of a row. [FLOP]

    Parameters
    ----------
    case : Case
    global_batch : int
        Sequences a step.
    key : str
        The figure: where recomputation is counted, `hfu` counts more than `mfu`.

    Returns
    -------
    float
        Of all GPUs together. [FLOP]

    Raises
    ------
    NotComparableError
        If the row names no formula or one that is not in the README, or lacks the shape.
    """
    x = dims(case.model)
    formula = formula_of(case, key)
    B, hfu = global_batch, key == "hfu"
    match formula:
        case "megatron_hfu":
            flop = 96.0 * B * x.s * x.l * x.h**2
            flop *= 1 + x.s / (6 * x.h) + x.V / (16 * x.l * x.h)
            return 0.75 * flop if key == "mfu" else flop
        case "korthikanti_mfu":
            return _korthikanti(case, x, B, hfu)
        case "megatron_mfu" | "palm_6n_attn":
            return _dense(case, x, B, x.V, _attention(x), hfu)
        case "palm_6n_attn_causal":
            return _dense(case, x, B, x.V, _attention(x) / 2, hfu)
        case "megatron_core":
            return _megatron_core(case, x, B)
        case "foundry":
            checkpointed = hfu and case.recompute.kind == "full"
            weights, attention = (8, 16) if checkpointed else (6, 12)
            return B * (weights * parameters(case.model) * x.s + attention * x.l * x.h * x.s**2)
        case "params_8":
            return 8 * _printed_parameters(case, x) * B * x.s
        case _:
            raise NotComparableError(f"flop_formula {formula} is not known, and {key} needs it")


def _korthikanti(case: Case, x: Dims, B: int, hfu: bool) -> float:
    head = x.V / (12 * x.l * x.h)
    core = x.s / (6 * x.h)
    if hfu and case.recompute.kind == "selective":
        core = x.s / (3 * x.h)
    flop = 72 * B * x.l * x.s * x.h**2 * (1 + core + head)
    if hfu and case.recompute.kind == "full":  # the forward of the layers once more
        flop += 24 * B * x.l * x.s * x.h**2 * (1 + core)
    return flop


def _attention(x: Dims) -> float:
    """12 l s a d: scores and values of the whole matrix, forward and backward, a token."""
    return 12 * x.l * x.s * x.a * x.d


def _dense(case: Case, x: Dims, B: int, vocab: int, attention: float, hfu: bool) -> float:
    flop = B * x.s * (6 * (x.W + vocab * x.h) + attention)
    if hfu and case.recompute.kind == "full":
        flop += B * x.s * (2 * x.W + attention / 3)
    return flop


def _megatron_core(case: Case, x: Dims, B: int) -> float:
    """Causal attention, windows counted, every multi-token layer with its own head."""
    extra = case.model.mtp_layers or 0
    window = case.model.sliding_window
    full_context, windowed, layers = x.s / 2, 0, x.l + extra
    context = full_context
    if window and window.window and window.window < x.s:
        context = window.window - window.window * (window.window - 1) / (2 * x.s)
        windowed = x.l // window.every
    attention = 12 * x.a * x.d * ((layers - windowed) * full_context + windowed * context)
    weights = x.W + extra * (_layer_weights(case.model, x.l - 1) + 2 * x.h * x.h)
    return B * x.s * (6 * (weights + (1 + extra) * x.Vp * x.h) + attention)


def dims(shape: Shape) -> Dims:
    """Symbols of the formulas, blanks filled by rule 2.

    Parameters
    ----------
    shape : Shape
        As the row states it.

    Returns
    -------
    Dims
        Without heads, heads of 128; without a vocabulary, 51200. Weights of a mixture of experts
        are those that one token meets.

    Raises
    ------
    NotComparableError
        If layers, hidden or seq_len are not stated: no rule fills them.
    """
    if not (shape.layers and shape.hidden and shape.seq_len):
        raise NotComparableError("layers, hidden or seq_len are not stated")
    heads = shape.heads or max(1, shape.hidden // 128)
    vocab = shape.vocab or 51200
    multiple = shape.padded_vocab_to or 1
    size: float = shape.head_dim or shape.hidden / heads
    if mla := shape.attention:
        size = (mla.qk_nope_dim + mla.qk_rope_dim + mla.v_dim) / 2
    return Dims(
        s=shape.seq_len,
        l=shape.layers,
        h=shape.hidden,
        a=heads,
        d=size,
        V=vocab,
        Vp=-(-vocab // multiple) * multiple,
        W=sum(_layer_weights(shape, layer) for layer in range(shape.layers)),
    )


def _layer_weights(shape: Shape, layer: int) -> float:
    """Weights of one layer that a token meets in matrix products; the sources leave routers out."""
    h = shape.hidden or 0
    matrices = 3 if shape.gated_mlp else 2
    moe = shape.moe
    if moe is None or layer < moe.first_dense_layers:
        return _attention_weights(shape) + matrices * h * (shape.ffn or 4 * h)
    active = moe.top_k + moe.shared_experts
    return _attention_weights(shape) + active * matrices * h * moe.expert_ffn


def _attention_weights(shape: Shape) -> float:
    h = shape.hidden or 0
    heads = shape.heads or max(1, h // 128)
    if mla := shape.attention:
        qk = mla.qk_nope_dim + mla.qk_rope_dim
        rank = mla.q_lora_rank
        query = h * rank + rank * heads * qk if rank else h * heads * qk
        key_value = h * (mla.kv_lora_rank + mla.qk_rope_dim)
        key_value += mla.kv_lora_rank * heads * (mla.qk_nope_dim + mla.v_dim)
        return query + key_value + heads * mla.v_dim * h
    size = shape.head_dim or h / heads
    return h * size * (2 * heads + 2 * (shape.kv_heads or heads))


def parameters(shape: Shape) -> float:
    """All parameters of a dense model, a tied embedding once.

    Parameters
    ----------
    shape : Shape
        With a gated MLP, embedding and head count apart and there are no learned positions.

    Returns
    -------
    float
        Biases are left out, norms counted.

    Raises
    ------
    NotComparableError
        If layers, hidden or seq_len are not stated.
    """
    x = dims(shape)
    tables = 2 if shape.gated_mlp else 1  # Llama family: embedding and head apart
    positions = x.s * x.h if shape.position in {None, "learned"} and not shape.gated_mlp else 0
    return x.W + tables * x.Vp * x.h + positions + (2 * x.l + 1) * x.h


def _printed_parameters(case: Case, x: Dims) -> float:
    """Model size printed in the row, such as "52B table", else 12 l h^2."""
    if found := re.search(r"\b(\d+(?:\.\d+)?)B\b", case.source.table or ""):
        return float(found[1]) * 1e9
    return 12.0 * x.l * x.h**2
