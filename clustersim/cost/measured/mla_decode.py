"""Rows of ``mla_decode``: latent attention of one token over a cache, by `cost.compute.mla`.

From 128 heads on, kernels over an 8-bit cache serve all heads of a sequence in one block where the
device has such a kernel: rows of that kind are a section of their own, ``fp8_wide``, for which a
profile without one uses ``fp8``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.mla import WIDE, WIDE_HEADS, MlaSizes, mla_cache_s
from clustersim.cost.measured.columns import no_variant
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.cost.measured.mla_prefill import FIELDS, by_cache, mla_shapes, work
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

STEM = "mla_decode"
COEFFICIENTS = (
    Coefficient("efficiency", 0.05, 1.0),
    Coefficient("memory_efficiency", 0.1, 1.0),
    Coefficient("l2_ratio", 1.0, 10.0),
    Coefficient("key_s", 1e-10, 3e-7),
    Coefficient("tail_fraction", 0.005, 1.0),
    Coefficient("split_overhead_s", 1e-9, 2e-5),
    Coefficient("group_s", 1e-10, 2e-6),
    Coefficient("query_passes", 1.0, 30.0),
    Coefficient("kernel_floor_s", 1e-6, 3e-5),
)


def _sections(columns: Columns) -> NDArray[np.str_]:
    plain = by_cache(STEM, columns)
    wide = (plain == f"{STEM}/fp8") & (columns["q_heads"] >= WIDE_HEADS)
    return np.where(wide, f"{STEM}/fp8{WIDE}", plain)


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    sections = by_cache(STEM, columns)
    shapes = mla_shapes(columns)
    seconds = np.full(sections.size, np.nan)
    for kv_dtype in ("bf16", "fp8"):
        mine = sections == f"{STEM}/{kv_dtype}"
        if mine.any() and kv_dtype in profile.mla_decode:
            every = mla_cache_s(shapes, MlaSizes(), kv_dtype, device, profile)
            seconds[mine] = every[mine]
    return seconds


FAMILY = Family(
    stem=STEM,
    required=("kv_dtype", *FIELDS),
    sections=_sections,
    coefficients=lambda section: COEFFICIENTS,
    predict=_predict,
    size=work,
    variant=no_variant,
)
