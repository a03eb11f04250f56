"""Time of attention over whole prompts in a serving framework, and of encoders' attention.

The call is a chain: queries, keys and values are rotated (and quantised) and the cache is written,
then one thread block a tile of queries loops over keys. Left out: the tile schedule of a library
version, keys split among blocks, head sizes of values that differ from those of keys.

References
----------
.. [1] T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning,"
   arXiv:2307.08691, 2023.
.. [2] J. Shah et al., "FlashAttention-3: Fast and Accurate Attention with Asynchrony and
   Low-precision," arXiv:2407.08608, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.attention import AttentionShapes, visible_keys
from clustersim.cost.compute.elementwise import hit_fraction
from clustersim.cost.compute.gemm import dtype_bytes, matrix_peak
from clustersim.cost.compute.sections import AttentionTimes, by_section
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.profile_attention import (
    PrefillCoefficients,
    bidirectional_sections,
    pick,
    prefill_sections,
)

Array = NDArray[np.float64]
SOURCE_BYTES = 2.0  # queries, keys and values arrive, and results leave, in 16 bits
OVERLAP = 3.0  # assumed: exponent of the smooth maximum of blocks and their traffic
TUNED_HEAD = 128.0  # head size that tiles and shares of the peak are stated for
LEAST_TILE = 16.0  # query rows of one matrix instruction


@dataclass(frozen=True)
class _Traffic:
    """Bytes of a call: through the kernel, in one pass before it, and held by both."""

    kernel: Array
    before: Array
    held: Array

    def take(self, rows: NDArray[np.intp]) -> _Traffic:
        """The calls of these numbers."""
        return _Traffic(self.kernel[rows], self.before[rows], self.held[rows])


def prefill_s(
    shapes: AttentionShapes,
    device: Device,
    profile: Profile,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    warm: bool = True,
) -> AttentionTimes:
    """Time of attention over whole prompts, the passes that feed it included.

    Parameters
    ----------
    shapes : AttentionShapes
        q_len, kv_len, heads, head_dim >= 1; kv_len >= q_len where causal.
    device, profile
        The accelerator and its fitted behaviour.
    dtype, kv_dtype : str
        Of the arithmetic and of the cache.
    warm : bool
        The same buffers are used again and again, as in a micro-benchmark: what fits in L2 stays.

    Returns
    -------
    AttentionTimes

    Notes
    -----
    A block of t queries takes setup + t keys (4 d / rate + 1 / exponentials) [1, 2]; with W all
    blocks over the SMs and L the longest, B = (W^1.5 + L^1.5)^(2/3). M is the traffic of q, k, v
    and o. time = floor + passes + (B^3 + M^3)^(1/3): the passes run before the kernel. Heads are
    padded to `head_step`, or on to a power of two; the rate falls with (d / 128)^`head_exponent`.
    `tail_ratio` weighs L; a window is masked at both ends. Domain: head sizes up to 512, 16-bit
    inputs and outputs.
    """
    queries = shapes.batch * shapes.q_len * shapes.heads * shapes.head_dim
    new = 2.0 * shapes.batch * shapes.q_len * shapes.kv_heads * shapes.head_dim
    cache = 2.0 * shapes.batch * shapes.kv_len * shapes.kv_heads * shapes.head_dim
    q_bytes, kv_bytes = dtype_bytes(dtype), dtype_bytes(kv_dtype)
    kernel = queries * (SOURCE_BYTES + q_bytes) + cache * kv_bytes
    source = (queries + new) * SOURCE_BYTES
    before = source + queries * q_bytes + new * kv_bytes
    traffic = _Traffic(kernel, before, kernel + source)
    return by_section(
        prefill_sections(dtype, kv_dtype, shapes.head_dim),
        lambda rows, name: _call_s(
            shapes.take(rows),
            traffic.take(rows),
            device,
            pick("prefill", profile.prefill, name),
            dtype,
            warm,
        ),
    )


def bidirectional_s(
    shapes: AttentionShapes,
    device: Device,
    profile: Profile,
    dtype: str = "bf16",
    warm: bool = True,
) -> AttentionTimes:
    """Time of attention without a mask and without a cache, as in encoders.

    Parameters
    ----------
    shapes : AttentionShapes
        q_len, kv_len, heads, head_dim >= 1; `causal` is false.
    device, profile
        The accelerator and its fitted behaviour, of which `profile.bidirectional` is used.
    dtype : str
        Of the arithmetic and of all operands.
    warm : bool
        The same buffers are used again and again, as in a micro-benchmark: what fits in L2 stays.

    Returns
    -------
    AttentionTimes

    Raises
    ------
    ModelDomainError
        The profile has no coefficients that could stand in, or the device no matrix units for the
        datatype.

    Notes
    -----
    The model of `prefill_s`; kernel and passes before it move q, k, v and o once each.
    """
    queries = shapes.batch * shapes.q_len * shapes.heads * shapes.head_dim
    keys = shapes.batch * shapes.kv_len * shapes.kv_heads * shapes.head_dim
    moved = 2.0 * (queries + keys) * dtype_bytes(dtype)
    traffic = _Traffic(moved, moved, moved)
    return by_section(
        bidirectional_sections(dtype, shapes.head_dim),
        lambda rows, name: _call_s(
            shapes.take(rows),
            traffic.take(rows),
            device,
            pick("bidirectional", profile.bidirectional, name),
            dtype,
            warm,
        ),
    )


def _call_s(
    shapes: AttentionShapes,
    traffic: _Traffic,
    device: Device,
    c: PrefillCoefficients,
    dtype: str,
    warm: bool,
) -> AttentionTimes:
    """Calls of one kernel."""
    blocks_s = _blocks_s(shapes, device, c, dtype)
    hit = hit_fraction(traffic.held, c.l2_fraction * device.l2_cache) if warm else 0.0
    byte_s = (1.0 - hit + hit / c.l2_ratio) / (device.memory_bandwidth * c.memory_efficiency)
    kernel_s, passes_s = traffic.kernel * byte_s, c.passes * traffic.before * byte_s
    launch_s = np.full(kernel_s.shape, c.kernel_floor_s)
    total_s = launch_s + passes_s + np.cbrt(blocks_s**OVERLAP + kernel_s**OVERLAP)
    return AttentionTimes(total_s, blocks_s, kernel_s + passes_s, launch_s)


def _blocks_s(shapes: AttentionShapes, device: Device, c: PrefillCoefficients, dtype: str) -> Array:
    """All thread blocks of a call: spread over the SMs, and not before the longest ends."""
    d = padded_heads(shapes.head_dim, c)
    tile = tiles(d, c)
    blocks = np.ceil(shapes.q_len / tile)
    all_keys, most_keys = visible_keys(shapes, tile)
    share = np.minimum(c.efficiency * (TUNED_HEAD / d) ** c.head_exponent, 1.0)
    rate = matrix_peak(device, c.arithmetic or dtype) * share / device.sms
    exponentials = c.exponentials_per_cycle * device.boost_clock
    key_s = tile * (4.0 * d / rate + 1.0 / exponentials)
    masked_s = c.masked_keys * np.where(shapes.window > 0, 2.0, 1.0) * key_s
    setup_s = c.block_setup_s + d * c.dim_setup_s
    head_s = blocks * (setup_s + masked_s) + all_keys * key_s
    work_s = shapes.batch * shapes.heads * head_s / device.sms
    longest_s = c.tail_ratio * (setup_s + most_keys * key_s + masked_s)
    return np.asarray(np.cbrt((work_s * np.sqrt(work_s) + longest_s * np.sqrt(longest_s)) ** 2))


def padded_heads(head_dim: Array, c: PrefillCoefficients) -> Array:
    """Head sizes that a kernel computes.

    Parameters
    ----------
    head_dim : ndarray (n,)
        Head sizes that were asked for, at least 1.
    c : PrefillCoefficients
        Its `head_step`; with `head_powers` a power of two beyond that.

    Returns
    -------
    ndarray (n,)
        At least `head_dim`.
    """
    d = np.ceil(head_dim / c.head_step) * c.head_step
    return np.exp2(np.ceil(np.log2(d))) if c.head_powers else d


def tiles(d: Array, c: PrefillCoefficients) -> Array:
    """Query rows of a block: fewer of wider heads, where a block holds so many elements.

    Parameters
    ----------
    d : ndarray (n,)
        Head sizes, from `padded_heads`.
    c : PrefillCoefficients
        Its `q_tile`, which with `tile_by_head` is that of heads of 128.

    Returns
    -------
    ndarray (n,)
        With `tile_by_head` a power of two, at least 16.
    """
    if not c.tile_by_head:
        return np.full(d.shape, float(c.q_tile))
    return np.maximum(np.exp2(np.floor(np.log2(c.q_tile * TUNED_HEAD / d))), LEAST_TILE)
