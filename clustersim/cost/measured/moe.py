"""Measured expert layers of one rank (``moe``): routed grouped products, activation, reduction.

Tokens are those of all ranks; with a skewed routing the fullest rank is priced. The two kernel
families of nvfp4 have a section each. Experts must divide over the ranks, and an expert over its
tensor-parallel shares.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.moe import FORMATS, ExpertShape, moe_row, moe_s
from clustersim.cost.compute.routing import BALANCED, POWER_LAW, expert_loads
from clustersim.cost.measured.columns import numbers, take, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

SHAPE = ("tokens", "hidden", "intermediate", "experts", "topk", "tp", "ep")
MIN_LATENCY = "_min_latency"

COEFFICIENTS = (
    Coefficient("matmul_efficiency", 0.02, 1.0),
    Coefficient("sm_bandwidth", 5e9, 5e12),
    Coefficient("tile_fill_s", 1e-8, 5e-5),
    Coefficient("weight_efficiency", 0.1, 1.0),
    Coefficient("pass_efficiency", 0.1, 1.0),
    Coefficient("cache_ratio", 1.0, 20.0),
    Coefficient("pair_s", 1e-13, 1e-8),
    Coefficient("sort_s", 1e-8, 5e-5),
    Coefficient("expert_s", 1e-11, 1e-5),
    Coefficient("kernel_floor_s", 1e-6, 2e-4),
)


def exponents(routing: NDArray[np.str_]) -> Floats:
    """Exponent of the power law that each routing names.

    Parameters
    ----------
    routing : ndarray of str (n,)
        Such as "balanced", "uniform", "" or "power_law_1.2".

    Returns
    -------
    ndarray (n,)
        0 is balanced, NaN a word that is not known.
    """
    names, place = np.unique(routing, return_inverse=True)
    return np.array([_exponent(str(name)) for name in names])[place.reshape(-1)]


def _exponent(name: str) -> float:
    if name in (BALANCED, "uniform", ""):
        return 0.0
    try:
        return float(name.removeprefix(POWER_LAW))
    except ValueError:
        return float("nan")


def sections(columns: Columns) -> NDArray[np.str_]:
    """Section of each row, by the format of its experts and the family of its kernel.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them; the label in ``kernel``, if any, tells the families apart.

    Returns
    -------
    ndarray of str (n,)
        ``moe/<format>``; "" outside the domain.
    """
    dtype = words(columns, "dtype")
    fast = np.char.find(words(columns, "kernel"), "min_latency") >= 0
    keys = np.char.add(dtype, np.where(fast, MIN_LATENCY, ""))
    tokens, hidden, intermediate, experts, top_k, tp, ep = numbers(columns, *SHAPE)
    sizes = np.stack([tokens, hidden, intermediate, experts, top_k, tp, ep])
    legal = (sizes >= 1).all(axis=0) & (top_k <= experts)
    legal &= np.mod(experts, np.maximum(ep, 1.0)) == 0
    legal &= np.mod(intermediate, np.maximum(tp, 1.0)) == 0
    legal &= np.isfinite(exponents(words(columns, "routing"))) & np.isin(keys, tuple(FORMATS))
    return np.where(legal, np.char.add("moe/", keys), "")


def coefficients(section: str) -> tuple[Coefficient, ...]:
    """Free coefficients of a section."""
    return COEFFICIENTS


def predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    """Time of each row on its fullest rank.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.
    device, profile
        The accelerator and its fitted behaviour.

    Returns
    -------
    ndarray (n,)
        NaN outside the domain or without coefficients. [s]

    Raises
    ------
    ModelDomainError
        The device has no matrix units for a format that its profile has coefficients of.
    """
    found = sections(columns)
    time_s = np.full(found.shape, np.nan)
    known = np.isin(found, [f"moe/{key}" for key in profile.moe])
    if not known.any():
        return time_s
    chosen = take(columns, known)
    tokens, hidden, intermediate, experts, top_k, tp, ep = numbers(chosen, *SHAPE)
    exponent = exponents(words(chosen, "routing"))
    gated = np.asarray(chosen["gated"]).astype(bool)
    shape = ExpertShape(hidden, intermediate / tp, experts / ep, gated)
    part_s = np.empty(tokens.shape)
    for section in np.unique(found[known]):
        rows = np.flatnonzero(found[known] == section)
        key = str(section).removeprefix("moe/")
        computed = profile.moe[key].computed
        loads = expert_loads(
            tokens[rows], experts[rows], top_k[rows], ep[rows], exponent[rows], computed
        )
        part_s[rows] = moe_s(shape.take(rows), loads, moe_row(device, profile, key))[0]
    time_s[known] = part_s
    return time_s


def size(columns: Columns) -> Floats:
    """Arithmetic of a balanced rank.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.

    Returns
    -------
    ndarray (n,)
        Of three products where gated, else two. [FLOP]
    """
    tokens, hidden, intermediate, top_k, tp, ep = numbers(
        columns, "tokens", "hidden", "intermediate", "topk", "tp", "ep"
    )
    products = np.where(np.asarray(columns["gated"]).astype(bool), 3.0, 2.0)
    return np.asarray(2.0 * products * tokens * top_k / ep * hidden * intermediate / tp)


def variant(columns: Columns) -> NDArray[np.str_]:
    """Routing of each row."""
    return words(columns, "routing")


FAMILY = Family(
    stem="moe",
    required=("dtype", "tokens", "hidden", "intermediate", "experts", "topk", "tp", "ep",
              "routing", "gated"),
    sections=sections,
    coefficients=coefficients,
    predict=predict,
    size=size,
    variant=variant,
)  # fmt: skip
