"""What the three families of attention rows share: columns to shapes, groups of datatypes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.attention import AttentionShapes
from clustersim.cost.measured.family import Coefficient, Columns, Floats

Names = NDArray[np.str_]
Rows = NDArray[np.int64]

PREFILL_COEFFICIENTS = (
    Coefficient("efficiency", 0.05, 1.0),
    Coefficient("exponentials_per_cycle", 1.0, 1e4),
    Coefficient("masked_keys", 0.1, 300.0),
    Coefficient("block_setup_s", 1e-9, 1e-5),
    Coefficient("dim_setup_s", 1e-12, 1e-7),
    Coefficient("passes", 0.01, 2.0),
    Coefficient("memory_efficiency", 0.5, 1.0),
    Coefficient("l2_ratio", 1.0, 10.0),
    Coefficient("l2_fraction", 0.4, 2.0),
    Coefficient("kernel_floor_s", 1e-6, 3e-5),
)


def column(columns: Columns, name: str) -> Floats:
    """A shape column in 64 bits: the files hold 32-bit integers, whose products overflow."""
    return np.asarray(columns[name], dtype=np.float64)


def text(columns: Columns, name: str, absent: str = "") -> Names:
    """A column of names; a file that lacks it has `absent` in all rows."""
    if name not in columns:
        return np.full(len(columns["batch"]), absent)
    return np.asarray(columns[name]).astype(str)


def shapes_of(columns: Columns, rows: Rows) -> AttentionShapes:
    """Shapes of some rows of a file of prefill or encoder attention."""

    def take(name: str) -> Floats:
        return column(columns, name)[rows]

    windowed = "window" in columns
    return AttentionShapes(
        batch=take("batch"),
        q_len=take("q_len"),
        kv_len=take("kv_len"),
        heads=take("q_heads"),
        kv_heads=take("kv_heads"),
        head_dim=take("head_dim"),
        causal=np.asarray(columns["causal"], dtype=np.bool_)[rows],
        window=take("window") if windowed else np.zeros(rows.size),
    )


def by_names(
    first: Names, second: Names, price: Callable[[str, str, Rows], NDArray[np.generic]], kind: str
) -> NDArray[np.generic]:
    """Call `price` once for each pair of names and put its results in the places of their rows."""
    out = np.zeros(first.size, dtype=kind)
    joined = np.char.add(np.char.add(first, "|"), second)
    for pair in np.unique(joined):
        rows = np.flatnonzero(joined == pair)
        one, two = str(pair).split("|")
        out[rows] = price(one, two, rows)
    return out


def attention_flop(columns: Columns) -> Floats:
    """Arithmetic of attention over the keys that are seen. [FLOP]"""
    batch, q, kv, heads, d = (
        column(columns, name) for name in ("batch", "q_len", "kv_len", "q_heads", "head_dim")
    )
    window = column(columns, "window") if "window" in columns else np.zeros(q.size)
    causal = np.asarray(columns["causal"], dtype=np.bool_)
    seen = np.where(causal, kv - (q - 1.0) / 2.0, kv)
    seen = np.where(window > 0, np.minimum(seen, window), seen)
    return np.asarray(4.0 * batch * q * heads * d * seen)


def no_variant(columns: Columns) -> Names:
    """Attention files hold one operator each."""
    return np.full(len(columns["batch"]), "")
