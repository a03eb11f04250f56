"""Time of multi-head latent attention: over a prompt, over a cache, and as a whole block.

Keys and values are one latent vector a token with a small rotary part [1]_. Over a prompt they are
expanded to ordinary heads (192 for keys, 128 for values); over a cache the expansion is absorbed
in the queries, and all heads read the same 576 numbers of a key. The block adds the projections,
priced as matrix products, and small operators. Left out: choices of a library between kernels (one
set of coefficients stands for all), prefixes already in the cache of a prompt, sparse attention.

References
----------
.. [1] DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language
   Model," arXiv:2405.04434, 2024, section 2.1.
.. [2] DeepSeek-AI, "DeepSeek-V3 Technical Report," arXiv:2412.19437, 2024, section 4.2 (sizes).
.. [3] T. Dao et al., "Flash-Decoding for long-context inference," 2023 (splitting keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.elementwise import l2_traffic_s
from clustersim.cost.compute.gemm import dtype_bytes, matrix_peak
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.profile_mla import MlaDecodeCoefficients, MlaPrefillCoefficients

Array = NDArray[np.float64]
C = TypeVar("C")
KEY_STEP = 64.0  # keys are visited in tiles of 64, a page of the cache in FlashMLA
DECODE_L2_FRACTION = 0.8  # cache, over L2, of which half is found there again; assumed
ROOF_POWER = 4.0  # assumed: smooth maxima of decoding
OVERLAP_POWER = 4.0  # assumed: blocks of a prompt and their traffic hide each other
TAIL_POWER = 1.5  # assumed: all blocks and the longest one, as in ordinary attention
SPLITS = tuple(2.0**power for power in range(8))
WIDE, WIDE_HEADS = "_wide", 128.0  # kernels that serve all heads of a sequence in one block
BYTES = 2.0  # queries, expanded keys and results are 16-bit


@dataclass(frozen=True)
class MlaSizes:
    """Widths of a latent attention block; the defaults are those of DeepSeek-V3 [2]_."""

    hidden: float = 7168.0
    query_latent: float = 1536.0
    latent: float = 512.0
    rotary: float = 64.0
    key: float = 128.0  # of one head, without the rotary part
    value: float = 128.0


@dataclass(frozen=True)
class MlaShapes:
    """Sequences on one rank, each an ndarray (n,); kv_len >= q_len, with the new tokens."""

    batch: Array
    q_len: Array
    kv_len: Array
    heads: Array


def arithmetic_peak(device: Device, kv_dtype: str) -> float:
    """Peak of the products: that of the cache's datatype where there is one, else bf16.

    Parameters
    ----------
    device : Device
    kv_dtype : str
        Datatype of the cache.

    Returns
    -------
    float
        Dense. [FLOP/s]

    Raises
    ------
    ModelDomainError
        The device has matrix units for neither.
    """
    known = kv_dtype in device.matrix_peak
    return matrix_peak(device, kv_dtype if known else "bf16")


def of_cache(table: Mapping[str, C], kv_dtype: str, group: str, profile: Profile) -> C:
    """Coefficients of attention over a cache of a datatype.

    Parameters
    ----------
    table : mapping of str to C
        Coefficients by section.
    kv_dtype : str
        Datatype of the cache.
    group : str
        Name of the table in messages: "mla_prefill" or "mla_decode".
    profile : Profile
        Holds the table.

    Returns
    -------
    C
        An entry of the table.

    Raises
    ------
    ModelDomainError
        It has none of this datatype.
    """
    if kv_dtype not in table:
        known = ", ".join(sorted(name for name in table if "_" not in name))
        raise ModelDomainError(
            f"profile {profile.name}: no {group} coefficients for a cache of {kv_dtype!r}; "
            f"it has {known or 'none'}"
        )
    return table[kv_dtype]


def mla_prefill_s(
    shapes: MlaShapes,
    sizes: MlaSizes,
    kv_dtype: str,
    device: Device,
    coefficients: MlaPrefillCoefficients,
) -> Array:
    """Time of causal latent attention over whole prompts, expanded to ordinary heads.

    Parameters
    ----------
    shapes : MlaShapes
        Sequences; queries stand at the end of the keys.
    sizes : MlaSizes
        Widths.
    kv_dtype : str
        Datatype of the cache, and of the products where the device has it.
    device, coefficients
        The accelerator and the fitted behaviour of its kernel.

    Returns
    -------
    ndarray (n,)
        Time of one call. [s]

    Notes
    -----
    A block of t queries takes setup + 2 t (d_k + d_v) keys / rate over the keys it may see; with W
    the work of all blocks over the SMs and L the longest, which runs at another pace than its
    share of a busy device, blocks_s = (W^1.5 + (`tail_ratio` L)^1.5)^(2/3). The
    traffic of q, k, v and o once runs beside, (blocks_s^4 + traffic_s^4)^(1/4), and `serial_passes`
    of it before: rotation, copies, quantisation. To this comes the floor. A working set inside L2
    runs `l2_ratio` times as fast, the one exception from the memory roof.
    """
    c = coefficients
    tile = float(c.q_tile)
    rate = arithmetic_peak(device, kv_dtype) * c.efficiency / device.sms
    width = sizes.key + sizes.rotary + sizes.value
    key_s = 2.0 * tile * width / rate
    blocks = np.ceil(shapes.q_len / tile)
    before = shapes.kv_len - shapes.q_len
    seen = (blocks - 1.0) * (before + tile * blocks / 2.0) + shapes.kv_len
    heads = shapes.batch * shapes.heads
    work_s = heads * (blocks * c.block_setup_s + seen * key_s) / device.sms
    longest_s = c.tail_ratio * (c.block_setup_s + shapes.kv_len * key_s)
    blocks_s = _norm(work_s, longest_s, TAIL_POWER)
    moved = BYTES * heads * width * (shapes.q_len + shapes.kv_len)
    beyond = device.memory_bandwidth * c.memory_efficiency
    traffic_s = l2_traffic_s(moved, moved, (beyond, c.l2_ratio, c.l2_fraction * device.l2_cache))
    attention_s = _norm(blocks_s, traffic_s, OVERLAP_POWER)
    return np.asarray(attention_s + c.serial_passes * traffic_s + c.kernel_floor_s)


def mla_cache_s(
    shapes: MlaShapes,
    sizes: MlaSizes,
    kv_dtype: str,
    device: Device,
    profile: Profile,
    library: str = "",
) -> Array:
    """Time of `mla_decode_s` with the kernel that a device has for each row.

    From 128 heads on a sequence is one block of a wide kernel where the profile has one
    (``fp8_wide``); elsewhere the kernel of the cache's datatype serves all.

    Parameters
    ----------
    shapes, sizes, kv_dtype, device
        As for `mla_decode_s`.
    profile : Profile
        The fitted behaviour of the device.
    library : str
        Where it has kernels of its own (``bf16_triton`` for "triton"), else "".

    Returns
    -------
    ndarray (n,)
        Time of one call. [s]

    Raises
    ------
    ModelDomainError
        The profile has no coefficients of attention over a cache of this datatype.
    """
    own = profile.mla_decode.get(f"{kv_dtype}_{library}") if library else None
    if own is not None:
        return mla_decode_s(shapes, sizes, kv_dtype, device, own)
    usual = of_cache(profile.mla_decode, kv_dtype, "mla_decode", profile)
    plain = mla_decode_s(shapes, sizes, kv_dtype, device, usual)
    wide = profile.mla_decode.get(f"{kv_dtype}{WIDE}")
    if wide is None:
        return plain
    every = mla_decode_s(shapes, sizes, kv_dtype, device, wide)
    return np.where(shapes.heads >= WIDE_HEADS, every, plain)


def mla_decode_s(
    shapes: MlaShapes,
    sizes: MlaSizes,
    kv_dtype: str,
    device: Device,
    coefficients: MlaDecodeCoefficients,
) -> Array:
    """Time of latent attention of one token a sequence over its cache, expansion absorbed.

    Parameters
    ----------
    shapes : MlaShapes
        Sequences; `q_len` is not looked at.
    sizes : MlaSizes
        Widths.
    kv_dtype : str
        Datatype of the cache, and of the products where the device has it.
    device, coefficients
        The accelerator and the fitted behaviour of its kernel.

    Returns
    -------
    ndarray (n,)
        Time of one call. [s]

    Notes
    -----
    g = batch ceil(heads/t) blocks of t heads read the cache, those of one sequence mostly out of
    L2 (`group_reads`). Work W = 2 g t (2 latent + rotary) keys / rate and the traffic D of the
    cache make R = (W^4 + D^4)^(1/4). A lone block takes key_s a key; s splits
    [3]_ leave it L = max(keys/s, 64) key_s, and longer where splits make gs blocks exceed the SMs.
    The time is the least over s = 1, 2, 4 ... of ((R + tail L)^4 + L^4)^(1/4) + overhead log2 s,
    plus floor, bookkeeping of g groups and `query_passes` of queries and results, which stay in L2
    if the cache leaves them room. Every term grows with every shape, and so does the least.
    """
    c = coefficients
    tile, of_one = float(c.head_tile), np.ceil(shapes.heads / c.head_tile)
    groups = shapes.batch * of_one
    keys = np.ceil(shapes.kv_len / KEY_STEP) * KEY_STEP
    width = 2.0 * sizes.latent + sizes.rotary
    work = 2.0 * groups * tile * width * keys
    work_s = work / (arithmetic_peak(device, kv_dtype) * c.efficiency)
    cached = shapes.batch * shapes.kv_len * (sizes.latent + sizes.rotary) * dtype_bytes(kv_dtype)
    rates = (
        device.memory_bandwidth * c.memory_efficiency,
        c.l2_ratio,
        DECODE_L2_FRACTION * device.l2_cache,
    )
    read = cached * (1.0 + c.group_reads * (of_one - 1.0))
    roof_s = _norm(work_s, l2_traffic_s(read, cached, rates), ROOF_POWER)
    best_s = np.full(roof_s.shape, np.inf)
    for split in SPLITS:
        if split > c.splits:
            break
        waiting = np.maximum(groups * split / device.sms, 1.0) if split > 1 else 1.0
        longest_s = np.maximum(keys / split, KEY_STEP) * c.key_s * waiting
        split_s = _norm(roof_s + c.tail_fraction * longest_s, longest_s, ROOF_POWER)
        best_s = np.minimum(best_s, split_s + c.split_overhead_s * np.log2(split))
    query_bytes = BYTES * shapes.batch * shapes.heads * width
    query_rates = (device.memory_bandwidth, c.l2_ratio, rates[2])
    query_s = l2_traffic_s(c.query_passes * query_bytes, query_bytes + cached, query_rates)
    return np.asarray(c.kernel_floor_s + best_s + query_s + groups * c.group_s)


def _norm(first: Array, second: Array, power: float) -> Array:
    """A smooth maximum, scaled so that no power of a small time underflows."""
    most = np.maximum(np.maximum(first, second), np.finfo(np.float64).tiny)
    least = np.minimum(first, second)
    return np.asarray(most * (1.0 + (least / most) ** power) ** (1.0 / power))
