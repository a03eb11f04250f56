"""Rows of ``mla_prefill``: latent attention over whole prompts, by `cost.compute.mla`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.mla import MlaShapes, MlaSizes, mla_prefill_s
from clustersim.cost.measured.columns import no_variant, numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

STEM = "mla_prefill"
FIELDS = ("batch", "q_len", "kv_len", "q_heads")
COEFFICIENTS = (
    Coefficient("efficiency", 0.05, 1.0),
    Coefficient("block_setup_s", 1e-8, 1e-5),
    Coefficient("tail_ratio", 0.3, 2.0),
    Coefficient("memory_efficiency", 0.05, 1.0),
    Coefficient("serial_passes", 0.01, 10.0),
    Coefficient("l2_ratio", 1.0, 12.0),
    Coefficient("l2_fraction", 0.1, 2.0),
    Coefficient("kernel_floor_s", 1e-6, 3e-5),
)


def mla_shapes(columns: Columns) -> MlaShapes:
    """Shape columns as float64.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With `FIELDS`; heads are those of the rank.

    Returns
    -------
    MlaShapes
    """
    return MlaShapes(*numbers(columns, *FIELDS))


def legal(columns: Columns) -> NDArray[np.bool_]:
    """Rows of at least one token and head, whose keys hold the new tokens.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With `FIELDS`.

    Returns
    -------
    ndarray of bool (n,)
    """
    s = mla_shapes(columns)
    positive = (s.batch >= 1) & (s.q_len >= 1) & (s.heads >= 1)
    return np.asarray(positive & (s.kv_len >= s.q_len))


def by_cache(stem: str, columns: Columns) -> NDArray[np.str_]:
    """Section of each row: the family and the datatype of its cache.

    Parameters
    ----------
    stem : str
        Family, the first part of a section.
    columns : mapping of str to ndarray (n,)
        With `FIELDS`; a file without ``kv_dtype`` has no row in the domain.

    Returns
    -------
    ndarray of str (n,)
        ``STEM/bf16`` or ``STEM/fp8``; "" outside the domain.
    """
    kv_dtype = words(columns, "kv_dtype")
    known = legal(columns) & np.isin(kv_dtype, ("bf16", "fp8"))
    return np.where(known, np.strings.add(f"{stem}/", kv_dtype), "")


def work(columns: Columns) -> Floats:
    """Pairs of queries and keys over all heads, masked ones too.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With `FIELDS`.

    Returns
    -------
    ndarray (n,)
        A measure of size, without unit.
    """
    s = mla_shapes(columns)
    return np.asarray(s.batch * s.heads * s.q_len * s.kv_len)


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    sections = by_cache(STEM, columns)
    shapes = mla_shapes(columns)
    seconds = np.full(sections.size, np.nan)
    for kv_dtype, coefficients in profile.mla_prefill.items():
        mine = sections == f"{STEM}/{kv_dtype}"
        if mine.any():
            every = mla_prefill_s(shapes, MlaSizes(), kv_dtype, device, coefficients)
            seconds[mine] = every[mine]
    return seconds


FAMILY = Family(
    stem=STEM,
    required=("kv_dtype", *FIELDS),
    sections=lambda columns: by_cache(STEM, columns),
    coefficients=lambda section: COEFFICIENTS,
    predict=_predict,
    size=work,
    variant=no_variant,
)
