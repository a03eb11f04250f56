"""What the families of attention rows share: columns to shapes, groups of datatypes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.attention import AttentionShapes
from clustersim.cost.compute.sections import AttentionTimes
from clustersim.cost.measured.columns import no_variant, numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.datatypes import ELEMENT_BYTES
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

Names = NDArray[np.str_]
Rows = NDArray[np.int64]

PROMPT_COEFFICIENTS = (
    Coefficient("efficiency", 0.05, 1.0),
    Coefficient("head_exponent", 0.0, 0.3),
    Coefficient("tail_ratio", 0.33, 3.0),
    Coefficient("exponentials_per_cycle", 1.0, 1e4),
    Coefficient("masked_keys", 1.0, 256.0),
    Coefficient("block_setup_s", 1e-7, 1e-5),
    Coefficient("dim_setup_s", 1e-12, 1e-7),
    Coefficient("passes", 0.01, 2.0),
    Coefficient("memory_efficiency", 0.5, 1.0),
    Coefficient("l2_ratio", 1.2, 8.0),
    Coefficient("l2_fraction", 0.4, 2.0),
    Coefficient("kernel_floor_s", 1e-6, 3e-5),
)


def prompt_family(
    stem: str,
    required: tuple[str, ...],
    group: str,
    name: Callable[[str, str, Floats], Names],
    price: Callable[[AttentionShapes, Device, Profile, str, str], AttentionTimes],
) -> Family:
    """Family of attention over whole sequences, with or without a mask.

    Parameters
    ----------
    stem, required
        As those of `Family`.
    group : str
        Group of the profile that holds its sections.
    name : callable
        Datatypes of the arithmetic and of the cache ("" where a file has none), head sizes (n,):
        the section of each row in the group.
    price : callable
        Shapes, device, profile and both datatypes: times of calls with warm buffers.
    """

    def sections(columns: Columns) -> Names:
        (heads,) = numbers(columns, "head_dim")

        def named(dtype: str, kv_dtype: str, rows: Rows) -> Names:
            return np.char.add(f"{group}/", name(dtype, kv_dtype, heads[rows]))

        return by_names(words(columns, "dtype"), words(columns, "kv_dtype"), named, "U64").astype(
            str
        )

    def predict(columns: Columns, device: Device, profile: Profile) -> Floats:
        def priced(dtype: str, kv_dtype: str, rows: Rows) -> Floats:
            return price(_shapes_of(columns, rows), device, profile, dtype, kv_dtype).total_s

        found = by_names(words(columns, "dtype"), words(columns, "kv_dtype"), priced, "f8")
        return found.astype(np.float64)

    return Family(
        stem=stem,
        required=required,
        sections=sections,
        coefficients=lambda section: PROMPT_COEFFICIENTS,
        predict=predict,
        size=_flop,
        variant=no_variant,
    )


def by_names(
    first: Names, second: Names, price: Callable[[str, str, Rows], NDArray[np.generic]], kind: str
) -> NDArray[np.generic]:
    """Call a function once for each pair of datatypes, and put its results in their rows' places.

    Parameters
    ----------
    first, second : ndarray of str (n,)
        Datatypes; the second may be "".
    price : callable
        Two names and the numbers of their rows: a value for each of these rows.
    kind : str
        Datatype of the values: "f8" or "U64".

    Returns
    -------
    ndarray (n,)
        NaN, or "", where a datatype is not known: outside the domain.
    """
    out = np.full(first.size, np.nan if kind == "f8" else "", dtype=kind)
    joined = np.char.add(np.char.add(first, "|"), second)
    for pair in np.unique(joined):
        rows = np.flatnonzero(joined == pair)
        one, _, two = str(pair).partition("|")
        if one in ELEMENT_BYTES and (not two or two in ELEMENT_BYTES):
            out[rows] = price(one, two, rows)
    return out


def _shapes_of(columns: Columns, rows: Rows) -> AttentionShapes:
    """Shapes of some rows of a file of prefill or encoder attention."""
    names = ("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim")
    batch, q, kv, heads, kv_heads, d = (column[rows] for column in numbers(columns, *names))
    causal = np.asarray(columns["causal"], dtype=np.bool_)[rows]
    return AttentionShapes(batch, q, kv, heads, kv_heads, d, causal, _windows(columns)[rows])


def _windows(columns: Columns) -> Floats:
    """Sliding window of each row; 0, which is none, where the file lacks the column. [tokens]"""
    if "window" not in columns:
        return np.zeros(len(columns["batch"]))
    return numbers(columns, "window")[0]


def _flop(columns: Columns) -> Floats:
    """Arithmetic of attention over the keys that are seen. [FLOP]"""
    batch, q, kv, heads, d = numbers(columns, "batch", "q_len", "kv_len", "q_heads", "head_dim")
    window = _windows(columns)
    causal = np.asarray(columns["causal"], dtype=np.bool_)
    seen = np.where(causal, kv - (q - 1.0) / 2.0, kv)
    seen = np.where(window > 0, np.minimum(seen, window), seen)
    return np.asarray(4.0 * batch * q * heads * d * seen)
