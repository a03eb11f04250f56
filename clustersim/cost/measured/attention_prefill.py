"""Measured attention over whole prompts, priced by `clustersim.cost.compute.prefill`."""

from __future__ import annotations

import numpy as np

from clustersim.cost.compute.prefill import prefill_s
from clustersim.cost.measured.attention_rows import (
    PREFILL_COEFFICIENTS,
    Names,
    Rows,
    attention_flop,
    by_names,
    column,
    no_variant,
    shapes_of,
    text,
)
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.profile_attention import prefill_sections


def sections(columns: Columns) -> Names:
    """`prefill/` and the datatypes of each row, with the fp8 head sizes apart."""
    heads = column(columns, "head_dim")

    def name(dtype: str, kv_dtype: str, rows: Rows) -> Names:
        return np.char.add("prefill/", prefill_sections(dtype, kv_dtype, heads[rows]))

    return by_names(text(columns, "dtype"), text(columns, "kv_dtype"), name, "U64").astype(str)


def coefficients(section: str) -> tuple[Coefficient, ...]:
    """The same free coefficients in every section."""
    return PREFILL_COEFFICIENTS


def predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    """Seconds of one call, buffers warm."""

    def price(dtype: str, kv_dtype: str, rows: Rows) -> Floats:
        return prefill_s(shapes_of(columns, rows), device, profile, dtype, kv_dtype).total_s

    out = by_names(text(columns, "dtype"), text(columns, "kv_dtype"), price, "f8")
    return out.astype(np.float64)


FAMILY = Family(
    stem="attention_prefill",
    required=(
        *("dtype", "kv_dtype", "batch", "q_len", "kv_len"),
        *("q_heads", "kv_heads", "head_dim", "window", "causal"),
    ),
    sections=sections,
    coefficients=coefficients,
    predict=predict,
    size=attention_flop,
    variant=no_variant,
)
