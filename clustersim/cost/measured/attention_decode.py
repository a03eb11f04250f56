"""Measured attention of one token a sequence, priced by `clustersim.cost.compute.decode`."""

from __future__ import annotations

import numpy as np

from clustersim.cost.compute.decode import DecodeShapes, decode_s, kernel_sections
from clustersim.cost.measured.attention_rows import Names, Rows, by_names
from clustersim.cost.measured.columns import no_variant, numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.datatypes import ELEMENT_BYTES
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

COEFFICIENTS = (
    Coefficient("block_setup_s", 1e-8, 3e-5),
    Coefficient("dim_setup_s", 1e-11, 1e-7),
    Coefficient("element_setup_s", 1e-13, 1e-8),
    Coefficient("block_bandwidth", 5e8, 2e12),
    Coefficient("split_waves", 0.35, 8.0),
    Coefficient("wave_share", 0.0, 1.0),
    Coefficient("split_keys", 16.0, 1024.0),
    Coefficient("split_root", 0.5, 128.0),
    Coefficient("split_overhead_s", 1e-8, 3e-5),
    Coefficient("element_combine_s", 0.0, 1e-10),
    Coefficient("memory_efficiency", 0.75, 1.0),
    Coefficient("l2_ratio", 1.2, 8.0),
    Coefficient("l2_fraction", 0.4, 1.2),
    Coefficient("miss_s", 0.0, 2e-5),
    Coefficient("kernel_floor_s", 1e-7, 3e-5),
)


def shapes_of(columns: Columns, rows: Rows) -> DecodeShapes:
    """Batches of some rows: all sequences of a row have the same context.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With batch, kv_len, window (0 is none), q_heads, kv_heads and head_dim.
    rows : ndarray of int (r,)
        Row numbers.

    Returns
    -------
    DecodeShapes
        Of r batches.
    """
    names = ("batch", "kv_len", "window", "q_heads", "kv_heads", "head_dim")
    batch, context, window, heads, kv_heads, d = (
        column[rows] for column in numbers(columns, *names)
    )
    keys = np.where(window > 0, np.minimum(context, window), context)
    return DecodeShapes(batch, batch * keys, keys, context, heads, kv_heads, d)


def sections(columns: Columns) -> Names:
    """`decode/` and the cache datatype of each row; "" where it is not known."""
    kv_dtype = words(columns, "kv_dtype")
    known = np.isin(kv_dtype, tuple(ELEMENT_BYTES))
    return np.where(known, np.char.add("decode/", kv_dtype), "")


def kernels(columns: Columns, device: Device, profile: Profile) -> Names:
    """Section of each row, single query heads apart: devices differ in the groups they pack.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
    device, profile
        The accelerator, and its behaviour, which says when a kernel packs a group.

    Returns
    -------
    ndarray of str (n,)
        Such as ``decode/bf16`` and ``decode/bf16_single``; "" as from `sections`.
    """

    def name(kv_dtype: str, _: str, rows: Rows) -> Names:
        found = kernel_sections(shapes_of(columns, rows), device, profile, kv_dtype)
        return np.char.add("decode/", found)

    return by_names(words(columns, "kv_dtype"), no_variant(columns), name, "U64").astype(str)


def coefficients(section: str) -> tuple[Coefficient, ...]:
    """The same free coefficients in every section."""
    return COEFFICIENTS


def predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    """Time of one call of each row, cache warm.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.
    device, profile
        The accelerator and its fitted behaviour.

    Returns
    -------
    ndarray (n,)
        NaN where the datatype of a cache is not known. [s]

    Raises
    ------
    ModelDomainError
        The profile has no coefficients of decoding that could stand in.
    """

    def price(kv_dtype: str, _: str, rows: Rows) -> Floats:
        return decode_s(shapes_of(columns, rows), device, profile, kv_dtype).total_s

    out = by_names(words(columns, "kv_dtype"), no_variant(columns), price, "f8")
    return out.astype(np.float64)


def size(columns: Columns) -> Floats:
    """Keys and values read, less those beyond the window.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.

    Returns
    -------
    ndarray (n,)
        NaN where the datatype of a cache is not known. [bytes]
    """
    shapes = shapes_of(columns, np.arange(len(columns["batch"])))
    kv_bytes = np.array([ELEMENT_BYTES.get(name, np.nan) for name in words(columns, "kv_dtype")])
    return np.asarray(2.0 * shapes.total_keys * shapes.kv_heads * shapes.head_dim * kv_bytes)


FAMILY = Family(
    stem="attention_decode",
    required=("kv_dtype", "batch", "kv_len", "q_heads", "kv_heads", "head_dim", "window"),
    sections=sections,
    kernels=kernels,
    coefficients=coefficients,
    predict=predict,
    size=size,
    variant=no_variant,
)
