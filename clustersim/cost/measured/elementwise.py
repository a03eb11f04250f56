"""Rows of ``elementwise``: memory-bound passes on buffers that are used again and again.

Two collectors stand behind the file: eager passes of a serving framework of early 2024, timed to
a microsecond, and quantisation of activations in a captured graph. Their classes never mix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.elementwise import Passes, warm_pass_s
from clustersim.cost.measured.columns import numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

STEM = "elementwise"
CLASSES = {
    "embedding": "embedding",
    "gelu": "activation",
    "layernorm": "layer_norm",
    "residual_add": "add",
    "rmsnorm": "rms_norm",
    "rope": "rope",
    "silu_mul": "gated",
    "quant_amax_scale": "quantise_scale",
    "quant_apply_scale": "quantise_apply",
}
ELEMENT_BYTES = {
    "embedding": 4.0, "gelu": 4.0, "layernorm": 4.0, "residual_add": 6.0, "rmsnorm": 4.0,
    "rope": 4.0, "silu_mul": 6.0, "quant_amax_scale": 2.0, "quant_apply_scale": 3.0,
}  # fmt: skip
"""Bytes read and written for each element of `cols`, of 16-bit data quantised to 8."""

PARALLEL_RESIDUAL_COLS = 2560  # the one model of the file with parallel residuals adds twice
COMMON = (
    Coefficient("bandwidth_efficiency", 0.05, 0.95),
    Coefficient("kernel_floor_s", 1e-7, 2e-5),
    Coefficient("sm_bandwidth", 1e9, 2e11),
    Coefficient("l2_fraction", 0.1, 2.5),
    Coefficient("ramp_s", 1e-9, 2e-5),
)
ROWS = (Coefficient("row_setup_s", 1e-9, 1e-5), Coefficient("row_bandwidth", 1e9, 3e11))


def _passes(columns: Columns) -> Passes:
    op = words(columns, "op")
    rows, cols = numbers(columns, "rows", "cols")
    element = np.zeros(op.size)
    for name, size in ELEMENT_BYTES.items():
        element[op == name] = size
    twice = (op == "residual_add") & (cols == PARALLEL_RESIDUAL_COLS)
    kernels = np.where(twice, 2.0, 1.0)
    return Passes(rows, cols * element * kernels, kernels)


def _sections(columns: Columns) -> NDArray[np.str_]:
    op = words(columns, "op")
    sections = np.full(op.size, "", dtype="<U32")
    legal = (columns["rows"] >= 1) & (columns["cols"] >= 1)
    for name, kind in CLASSES.items():
        sections[(op == name) & legal] = f"{STEM}/{kind}"
    return sections


def _coefficients(section: str) -> tuple[Coefficient, ...]:
    return COMMON if "quantise" in section else COMMON + ROWS


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    sections, passes = _sections(columns), _passes(columns)
    seconds = np.full(sections.size, np.nan)
    for kind in profile.elementwise:
        mine = np.flatnonzero(sections == f"{STEM}/{kind}")
        if mine.size:
            chosen = Passes(passes.rows[mine], passes.row_bytes[mine], passes.kernels[mine])
            seconds[mine] = warm_pass_s(chosen, kind, device, profile)
    return seconds


def _size(columns: Columns) -> Floats:
    passes = _passes(columns)
    return np.asarray(passes.rows * passes.row_bytes)


FAMILY = Family(
    stem=STEM,
    required=("op", "rows", "cols"),
    sections=_sections,
    coefficients=_coefficients,
    predict=_predict,
    size=_size,
    variant=lambda columns: words(columns, "op"),
)
