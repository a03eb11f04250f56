"""Measured attention without a mask, priced by `clustersim.cost.compute.prefill`."""

from __future__ import annotations

import numpy as np

from clustersim.cost.compute.prefill import bidirectional_s
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
from clustersim.spec.profile_attention import bidirectional_sections


def sections(columns: Columns) -> Names:
    """`bidirectional/` and the datatype of each row, with odd head sizes apart."""
    heads = column(columns, "head_dim")

    def name(dtype: str, _: str, rows: Rows) -> Names:
        return np.char.add("bidirectional/", bidirectional_sections(dtype, heads[rows]))

    return by_names(text(columns, "dtype"), no_variant(columns), name, "U64").astype(str)


def coefficients(section: str) -> tuple[Coefficient, ...]:
    """Those of prefill, in every section."""
    return PREFILL_COEFFICIENTS


def predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    """Seconds of one call, buffers warm."""

    def price(dtype: str, _: str, rows: Rows) -> Floats:
        return bidirectional_s(shapes_of(columns, rows), device, profile, dtype).total_s

    return by_names(text(columns, "dtype"), no_variant(columns), price, "f8").astype(np.float64)


FAMILY = Family(
    stem="attention_bidirectional",
    required=(*("dtype", "batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim", "causal"),),
    sections=sections,
    coefficients=coefficients,
    predict=predict,
    size=attention_flop,
    variant=no_variant,
)
