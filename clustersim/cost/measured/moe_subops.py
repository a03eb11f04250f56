"""Measured steps of an expert layer (``moe_subops``): router product, top-k, shuffle, experts.

Eager calls: the host's time to issue a step is a floor. The grouped products are those of `moe` in
bf16 with the measured spread of tokens; their coefficients are not fitted here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.moe import ExpertShape, moe_row, moe_s
from clustersim.cost.compute.routing import ExpertLoads, loads_from_spread
from clustersim.cost.measured.columns import numbers, take, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

GROUPED = "grouped_gemm"
STEPS = ("gating_linear", "routing_topk", "shuffling", GROUPED)
FORMAT = "bf16"
SHAPE = ("tokens", "hidden", "intermediate", "experts", "experts_local", "topk", "tp", "ep",
         "routed_tokens", "load_cv")  # fmt: skip

HOST = Coefficient("host_s", 1e-6, 2e-3)
PASSES = Coefficient("pass_efficiency", 0.01, 1.0)


def sections(columns: Columns) -> NDArray[np.str_]:
    """Section of each row, by its step.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.

    Returns
    -------
    ndarray of str (n,)
        ``expert_steps/<step>``; "" outside the domain, which has 16-bit types alone.
    """
    step = words(columns, "op")
    dims = np.stack(numbers(columns, "tokens", "hidden", "experts_local", "topk", "tp", "ep"))
    legal = (dims >= 1).all(axis=0) & np.isin(step, STEPS)
    legal &= np.isin(words(columns, "dtype"), ("bf16", "fp16"))
    return np.where(legal, np.char.add("expert_steps/", step), "")


def coefficients(section: str) -> tuple[Coefficient, ...]:
    """Free coefficients of a section."""
    return (HOST,) if section.endswith(GROUPED) else (HOST, PASSES)


def predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    """Time of each row: the host, or the step if it is longer.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.
    device, profile
        The accelerator and its fitted behaviour; grouped products take the coefficients of bf16.

    Returns
    -------
    ndarray (n,)
        NaN outside the domain or without coefficients. [s]
    """
    found = sections(columns)
    time_s = np.full(found.shape, np.nan)
    for step, c in profile.expert_steps.items():
        rows = np.flatnonzero(found == f"expert_steps/{step}")
        if not rows.size or (step == GROUPED and FORMAT not in profile.moe):
            continue
        part = take(columns, rows)
        if step == GROUPED:
            busy_s = _grouped_s(part, device, profile)
        else:
            busy_s = _moved_bytes(step, part) / (c.pass_efficiency * device.memory_bandwidth)
        time_s[rows] = np.maximum(c.host_s, busy_s)
    return time_s


def _grouped_s(columns: Columns, device: Device, profile: Profile) -> Floats:
    """Time of the fused experts with the measured coefficient of variation of their loads. [s]"""
    tokens, hidden, intermediate, _, local, top_k, tp, _, routed, spread = numbers(columns, *SHAPE)
    loads: ExpertLoads = loads_from_spread(tokens, top_k, routed, local, spread)
    shape = ExpertShape(hidden, intermediate / tp, local, np.ones(tokens.shape, dtype=bool))
    return moe_s(shape, loads, moe_row(device, profile, FORMAT))[0]


def _moved_bytes(step: str, columns: Columns) -> Floats:
    """Traffic of a step: weights and tokens of the router, its scores, or rows of pairs. [bytes]"""
    tokens, hidden, experts, top_k = numbers(columns, "tokens", "hidden", "experts", "topk")
    if step == "gating_linear":
        return np.asarray(2.0 * (tokens * hidden + hidden * experts + tokens * experts))
    if step == "routing_topk":
        return np.asarray(4.0 * tokens * (experts + 2.0 * top_k))
    return np.asarray(8.0 * tokens * top_k)


def size(columns: Columns) -> Floats:
    """Elements of the tokens of a step.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With tokens and hidden.

    Returns
    -------
    ndarray (n,)
        [elements]
    """
    tokens, hidden = numbers(columns, "tokens", "hidden")
    return np.asarray(tokens * hidden)


def variant(columns: Columns) -> NDArray[np.str_]:
    """Step of each row."""
    return words(columns, "op")


FAMILY = Family(
    stem="moe_subops",
    required=("op", "dtype", *SHAPE),
    sections=sections,
    coefficients=coefficients,
    predict=predict,
    size=size,
    variant=variant,
)
