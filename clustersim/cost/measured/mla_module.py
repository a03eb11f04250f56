"""Rows of ``mla_module``: whole blocks of latent attention, by `cost.compute.mla_module`.

The one model of the file, DeepSeek-V3, gives the widths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.mla import MlaShapes
from clustersim.cost.compute.mla_module import DEEPSEEK_V3, MlaBlock, mla_module_s
from clustersim.cost.measured.columns import words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.cost.measured.mla_prefill import FIELDS, legal, mla_shapes
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

STEM = "mla_module"
PHASES = ("prefill", "decode")
MODEL = "deepseek-ai/DeepSeek-V3"
LIBRARIES = {"TRITON_MLA": "triton"}  # labels of kernels with coefficients of their own
COEFFICIENTS = (
    Coefficient("small_operators_s", 1e-7, 3e-4),
    Coefficient("passes", 0.01, 30.0),
    Coefficient("projection_ratio", 0.5, 2.0),
    Coefficient("attention_ratio", 0.5, 2.0),
)


def _sections(columns: Columns) -> NDArray[np.str_]:
    phase = words(columns, "phase")
    known = np.isin(phase, PHASES) & legal(columns) & (words(columns, "model") == MODEL)
    known &= (phase == "prefill") | (columns["q_len"] == 1)
    return np.where(known, np.strings.add(f"{STEM}/", phase), "")


def _groups(columns: Columns) -> NDArray[np.str_]:
    groups = words(columns, "phase")
    for name in ("kv_dtype", "gemm_dtype", "kernel"):
        if name in columns:
            groups = np.strings.add(np.strings.add(groups, "|"), words(columns, name))
    return groups


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    inside, groups = _sections(columns) != "", _groups(columns)
    shapes = mla_shapes(columns)
    seconds = np.full(inside.size, np.nan)
    for group in np.unique(groups[inside]):
        phase, kv_dtype, gemm_dtype, *kernel = str(group).split("|")
        if not _fitted(profile, phase, kv_dtype):
            continue
        mine = np.flatnonzero(inside & (groups == group))
        chosen = MlaShapes(
            shapes.batch[mine], shapes.q_len[mine], shapes.kv_len[mine], shapes.heads[mine]
        )
        try:
            library = LIBRARIES.get("".join(kernel), "")
            block = MlaBlock(phase, kv_dtype, gemm_dtype, library=library)
            seconds[mine] = mla_module_s(chosen, block, device, profile)
        except ModelDomainError:
            continue  # a device without matrix units for the datatype
    return seconds


def _fitted(profile: Profile, phase: str, kv_dtype: str) -> bool:
    kernels = profile.mla_prefill if phase == "prefill" else profile.mla_decode
    return phase in profile.mla_module and kv_dtype in kernels


def _size(columns: Columns) -> Floats:
    """Arithmetic of projections and attention, up to a factor."""
    s = mla_shapes(columns)
    tokens = s.batch * s.q_len
    w = DEEPSEEK_V3
    down = w.hidden * (w.query_latent + w.latent + w.rotary)
    up = (w.key + w.rotary) * w.query_latent + (w.key + w.value) * w.latent
    weights = down + s.heads * (up + w.value * w.hidden)
    expanded, absorbed = (w.key + w.rotary + w.value) / 2.0, 2.0 * w.latent + w.rotary
    keys = np.where(words(columns, "phase") == "prefill", expanded, absorbed) * s.kv_len
    return np.asarray(tokens * (weights + s.heads * keys))


FAMILY = Family(
    stem=STEM,
    required=("phase", "kv_dtype", "gemm_dtype", "model", *FIELDS),
    sections=_sections,
    coefficients=lambda section: COEFFICIENTS,
    predict=_predict,
    size=_size,
    variant=lambda columns: words(columns, "phase"),
)
