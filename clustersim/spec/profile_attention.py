"""Fitted behaviour of attention in serving: prefill, decoding over a KV cache, encoders.

Training kernels have records of their own (`AttentionCoefficients`): a serving framework adds
passes that rotate, copy and quantise around its kernels. Where one library holds several kernels
for a datatype, each has a section: the functions below name the section of a shape.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clustersim.errors import ModelDomainError
from clustersim.spec.base import BytesPerS, Record, Seconds

T = TypeVar("T")
Share = Annotated[float, Field(gt=0, le=1)]
Array = NDArray[np.float64]
Names = NDArray[np.str_]

FP8_HEADS = (128.0, 192.0)  # head sizes, least and most, that fp8 kernels are tuned for
WHOLE_HEADS = 16.0  # head sizes that are no multiple of this run in kernels of older generations


class PrefillCoefficients(Record):
    """How attention over whole sequences runs, for one kernel and pair of datatypes."""

    arithmetic: str | None = Field(
        default=None, description="datatype of the products, where it is not that of the queries"
    )
    efficiency: Share = Field(description="share of the dense peak in the products of a block")
    q_tile: int = Field(gt=0, description="query rows of one thread block")
    tile_by_head: bool = Field(
        default=False,
        description="whether q_tile is that of heads of 128, a block holding as many elements of "
        "other heads",
    )
    head_step: int = Field(gt=0, description="head sizes are padded to a multiple of this")
    head_powers: bool = Field(
        default=False, description="whether they are padded on, to the next power of two"
    )
    head_exponent: float = Field(
        default=0.0, ge=0, description="the share falls with the head size, over 128, to this power"
    )
    tail_ratio: float = Field(
        default=1.0, gt=0, description="time of the longest block over its share of a full SM"
    )
    exponentials_per_cycle: float = Field(
        gt=0, description="softmax: exponentials of one SM in a clock cycle, at the boost clock"
    )
    masked_keys: float = Field(ge=0, description="keys a block visits in vain, behind its mask")
    block_setup_s: Seconds = Field(ge=0, description="start and finish of one thread block")
    dim_setup_s: Seconds = Field(ge=0, description="more of it for each element of a head")
    passes: float = Field(
        ge=0, description="passes over queries, keys and values, in and out, before the kernel"
    )
    memory_efficiency: Share = Field(description="share of the memory bandwidth beyond L2")
    l2_ratio: float = Field(ge=1, description="rate of traffic inside L2 over that beyond it")
    l2_fraction: float = Field(gt=0, description="working set, over L2, of which half hits")
    kernel_floor_s: Seconds = Field(ge=0, description="least time of the call")


class DecodeCoefficients(Record):
    """How one-token attention over a KV cache runs, for one kernel and cache datatype."""

    group_least: int = Field(
        default=1, gt=0, description="fewest query heads of a KV head that the kernel is used for"
    )
    group_limit: int = Field(
        gt=0, description="query heads of one KV head that a block serves together"
    )
    fill_least: float = Field(
        default=0.0,
        ge=0,
        description="fewest blocks on each SM, contexts cut in 128 keys, that it is used for",
    )
    rotate_heads: int = Field(
        default=0, ge=0, description="queries of heads up to this are rotated in a launch of theirs"
    )
    rotate_s: Seconds = Field(default=0.0, ge=0, description="that launch")
    crowd_elements: int | None = Field(
        default=None,
        gt=0,
        description="query elements of a block beyond which an SM holds two blocks, not three",
    )
    block_setup_s: Seconds = Field(ge=0, description="start and finish of one thread block")
    dim_setup_s: Seconds = Field(ge=0, description="more of it for each element of a head")
    element_setup_s: Seconds = Field(
        ge=0, description="more for each element of its queries, heads padded to eight, 16, 32 ..."
    )
    block_bandwidth: BytesPerS = Field(gt=0, description="keys and values into one thread block")
    splits: bool = Field(default=True, description="whether contexts are split among blocks")
    split_waves: float = Field(gt=0, description="blocks on each SM that splitting aims at")
    wave_share: float = Field(
        ge=0, le=1, description="what an idle place of the last wave costs, over a busy one"
    )
    split_keys: float = Field(gt=0, description="fewest keys that a split is worth")
    split_root: float | None = Field(
        default=None,
        gt=0,
        description="splits are at most the root of this times those worth it; none: no such bound",
    )
    split_overhead_s: Seconds = Field(ge=0, description="combination of split results")
    element_combine_s: Seconds = Field(
        default=0.0, ge=0, description="more of it for each element of a split's result"
    )
    memory_efficiency: Share = Field(description="share of the memory bandwidth beyond L2")
    l2_ratio: float | None = Field(
        default=None, gt=1, description="rate of hits in L2 over that beyond it; none: no time"
    )
    l2_fraction: float = Field(gt=0, description="working set, over L2, of which half hits")
    miss_s: Seconds = Field(
        default=0.0, ge=0, description="more of a call whose keys and values L2 cannot hold"
    )
    kernel_floor_s: Seconds = Field(ge=0, description="least time of the call")


def prefill_sections(dtype: str, kv_dtype: str, head_dim: Array) -> Names:
    """Section of each prefill: arithmetic, cache where it differs, and untuned fp8 head sizes.

    Parameters
    ----------
    dtype : str
        Of the arithmetic.
    kv_dtype : str
        Of the keys and values in the cache.
    head_dim : ndarray (n,)
        Elements of a head.

    Returns
    -------
    ndarray of str (n,)
        Such as `bf16`, `bf16_kv_fp8`, and `fp8_other_heads` outside `FP8_HEADS`.
    """
    name = dtype if dtype == kv_dtype else f"{dtype}_kv_{kv_dtype}"
    tuned = (head_dim >= FP8_HEADS[0]) & (head_dim <= FP8_HEADS[1])
    return np.where(tuned | (dtype != "fp8"), name, f"{name}_other_heads")


def decode_sections(kv_dtype: str, group: Array, blocks: Array, c: DecodeCoefficients) -> Names:
    """Section of each decoding step: blocks of a whole group, or `single` query heads.

    Parameters
    ----------
    group : ndarray (n,)
        Query heads of a KV head.
    blocks : ndarray (n,)
        Blocks that the grouped kernel would have on each SM.
    c : DecodeCoefficients
        The grouped kernel.
    """
    grouped = (group >= c.group_least) & (group <= c.group_limit) & (blocks >= c.fill_least)
    return np.where(grouped, kv_dtype, f"{kv_dtype}_single")


def bidirectional_sections(dtype: str, head_dim: Array) -> Names:
    """Section of each encoder core: some head sizes have their own.

    Parameters
    ----------
    dtype : str
        Of the arithmetic.
    head_dim : ndarray (n,)
        Elements of a head.

    Returns
    -------
    ndarray of str (n,)
        The datatype; with `_odd_heads` where the size is no multiple of `WHOLE_HEADS`.
    """
    return np.where(head_dim % WHOLE_HEADS == 0, dtype, f"{dtype}_odd_heads")


def pick(what: str, table: dict[str, T], section: str) -> T:
    """Coefficients of a section, or of the plainest kernel of its datatype, or of 16 bits.

    Parameters
    ----------
    what : str
        Names the table in a message.
    table : dict
        Coefficients by section.
    section : str
        Datatype and kernel, such as `fp8_single`. Looked for in turn: the section, its datatype
        alone, the same kernel in bf16, and bf16.

    Returns
    -------
    T
        An entry of the table.

    Raises
    ------
    ModelDomainError
        The table has none of them.
    """
    dtype, rule, kernel = section.partition("_")
    for key in (section, dtype, f"bf16{rule}{kernel}", "bf16"):
        if key in table:
            return table[key]
    raise ModelDomainError(
        f"no {what} coefficients for {section!r}; the profile has "
        f"{', '.join(sorted(table)) or 'none'}"
    )
