"""Rows of ``mla_bmm``: batched products of latent attention, one for each head.

`q_absorb` takes queries into the latent space, `v_up` values out of it. In 8 bits a library either
widens the weights first and multiplies in 16 bits, or quantises the activations in blocks: the
label of the kernel says which.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.quantised import repeated_s
from clustersim.cost.measured.columns import numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.cost.measured.gemm import LOOP, PRODUCT, QUANTISE
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

SUFFIX = "_bmm"
WIDENED = "dequant"  # part of the label of kernels that multiply in 16 bits
CASES = ("bf16", "fp8_block")


def _cases(columns: Columns) -> NDArray[np.str_]:
    """Datatype of the product itself, "" outside the domain."""
    dtypes, labels = words(columns, "dtype"), words(columns, "kernel")
    wide = (np.char.find(labels, WIDENED) >= 0) | np.isin(dtypes, ("bf16", "fp16"))
    narrow = np.isin(dtypes, ("fp8", "fp8_block"))
    return np.where(wide, "bf16", np.where(narrow, "fp8_block", ""))


def _sections(columns: Columns) -> NDArray[np.str_]:
    cases = _cases(columns)
    return np.where(cases == "", "", np.char.add(np.char.add("gemm/", cases), SUFFIX))


def _coefficients(section: str) -> tuple[Coefficient, ...]:
    product = tuple(c for c in PRODUCT if c.name not in ("power_fraction", "power_ramp_s"))
    return (*product, LOOP, *QUANTISE) if "fp8" in section else product


def _shape(columns: Columns) -> tuple[Floats, Floats, Floats, Floats]:
    tokens, heads, nope, latent, value = numbers(
        columns, "tokens", "heads", "qk_nope_dim", "kv_lora_rank", "v_dim"
    )
    absorb = words(columns, "op") == "q_absorb"
    legal = (np.minimum(tokens, heads) >= 1) & (np.minimum(nope, np.minimum(latent, value)) >= 1)
    m = np.where(legal, tokens, np.nan)
    return m, np.where(absorb, latent, value), np.where(absorb, nope, latent), heads


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    cases, dims = _cases(columns), _shape(columns)
    times = np.full(cases.size, np.nan)
    for case in CASES:
        rows = np.flatnonzero((cases == case) & np.isfinite(dims[0]))
        section = case + SUFFIX if case + SUFFIX in profile.gemm else case
        if rows.size:
            m, n, k, batch = (np.ascontiguousarray(dim[rows]) for dim in dims)
            try:
                times[rows] = repeated_s(
                    (m, n, k, batch), case, device, profile, section, most_sets=1.0
                )
            except ModelDomainError:
                continue  # a device without matrix units for it
    return times


def _size(columns: Columns) -> Floats:
    m, n, k, batch = _shape(columns)
    return 2.0 * m * n * k * batch


FAMILY = Family(
    stem="mla_bmm",
    required=("op", "dtype", "tokens", "heads", "qk_nope_dim", "kv_lora_rank", "v_dim"),
    sections=_sections,
    coefficients=_coefficients,
    predict=_predict,
    size=_size,
    variant=lambda columns: words(columns, "op"),
)
