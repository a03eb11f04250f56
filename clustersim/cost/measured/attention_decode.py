"""Measured attention of one token a sequence, priced by `clustersim.cost.compute.decode`."""

from __future__ import annotations

import numpy as np

from clustersim.cost.compute.decode import DecodeShapes, decode_s
from clustersim.cost.compute.gemm import dtype_bytes
from clustersim.cost.measured.attention_rows import Names, Rows, by_names
from clustersim.cost.measured.columns import no_variant, numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.profile_attention import decode_sections

# Query heads of a KV head, least and most, that a library's grouped kernel serves. The others run
# in a kernel for single query heads.
GROUPS = {
    "a100_sxm": (1, 128),
    "b200_sxm": (1, 32),
    "b300_sxm": (1, 32),
    "gb200": (1, 32),
    "gb300": (1, 32),
}
USUAL_GROUPS = (2, 32)

COEFFICIENTS = (
    Coefficient("block_setup_s", 1e-8, 3e-5),
    Coefficient("dim_setup_s", 1e-11, 1e-7),
    Coefficient("element_setup_s", 1e-13, 1e-8),
    Coefficient("block_bandwidth", 5e8, 2e12),
    Coefficient("split_waves", 0.25, 16.0),
    Coefficient("wave_share", 0.001, 1.0),
    Coefficient("split_keys", 8.0, 4096.0),
    Coefficient("split_overhead_s", 1e-8, 3e-5),
    Coefficient("memory_efficiency", 0.5, 0.97),
    Coefficient("l2_fraction", 0.4, 1.2),
    Coefficient("kernel_floor_s", 1e-7, 3e-5),
)


def shapes_of(columns: Columns, rows: Rows) -> DecodeShapes:
    """Batches of some rows: all sequences of a row have the same context."""
    names = ("batch", "kv_len", "window", "q_heads", "kv_heads", "head_dim")
    batch, context, window, heads, kv_heads, d = (
        column[rows] for column in numbers(columns, *names)
    )
    keys = np.where(window > 0, np.minimum(context, window), context)
    return DecodeShapes(batch, batch * keys, keys, context, heads, kv_heads, d)


def sections(columns: Columns) -> Names:
    """`decode/` and the cache datatype of each row, single query heads apart.

    Which groups a library packs differs between devices.
    """
    heads, kv_heads = numbers(columns, "q_heads", "kv_heads")
    group = heads / kv_heads

    def name(kv_dtype: str, device: str, rows: Rows) -> Names:
        least, limit = GROUPS.get(device, USUAL_GROUPS)
        return np.char.add("decode/", decode_sections(kv_dtype, group[rows], least, limit))

    return by_names(words(columns, "kv_dtype"), words(columns, "device"), name, "U64").astype(str)


def coefficients(section: str) -> tuple[Coefficient, ...]:
    """The same free coefficients in every section."""
    return COEFFICIENTS


def predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    """Seconds of one call, cache warm."""

    def price(kv_dtype: str, _: str, rows: Rows) -> Floats:
        return decode_s(shapes_of(columns, rows), device, profile, kv_dtype).total_s

    out = by_names(words(columns, "kv_dtype"), no_variant(columns), price, "f8")
    return out.astype(np.float64)


def size(columns: Columns) -> Floats:
    """Keys and values read. [bytes]"""
    shapes = shapes_of(columns, np.arange(len(columns["batch"])))
    kv_bytes = np.array([dtype_bytes(name) for name in words(columns, "kv_dtype")])
    return np.asarray(2.0 * shapes.total_keys * shapes.kv_heads * shapes.head_dim * kv_bytes)


FAMILY = Family(
    stem="attention_decode",
    required=("kv_dtype", "batch", "kv_len", "q_heads", "kv_heads", "head_dim", "window"),
    sections=sections,
    coefficients=coefficients,
    predict=predict,
    size=size,
    variant=no_variant,
)
