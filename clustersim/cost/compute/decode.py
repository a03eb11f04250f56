"""Time of attention while decoding: one new token a sequence over a paged KV cache.

A thread block reads the keys and values of one KV head of one sequence once, for all query heads
that share it. Long contexts are split among blocks until the SMs are full. Left out: page tables
and page rounding, the schedule of a library version, several new tokens a sequence.

References
----------
.. [1] T. Dao, D. Haziza, F. Massa and G. Sizov, "Flash-Decoding for long-context inference,"
   PyTorch blog, 2023.
.. [2] N. Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need," arXiv:1911.02150.
.. [3] NVIDIA TensorRT-LLM: choice of the grouped kernel in decoderXQARunner.cpp, number of splits
   in decoderXQAImplJIT/kernelUtils.h, blocks of an SM in cpp/kernels/xqa/mha_sm90.cu.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.elementwise import hit_fraction
from clustersim.cost.compute.gemm import dtype_bytes, matrix_peak
from clustersim.cost.compute.sections import AttentionTimes, by_section
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.profile_attention import DecodeCoefficients, decode_sections, pick

Array = NDArray[np.float64]
OVERLAP = 3.0  # assumed: exponent of the smooth maximum of work, longest block and memory
QUERY_BYTES = 2.0  # queries and results
ROWS = 8.0  # query rows of one matrix instruction: groups are padded to it, doubled as needed
MATRIX_SHARE = 0.5  # assumed: share of the dense peak in the products of a block
FILL_KEYS = 128.0  # least keys of a block when the blocks of a kernel are counted [3]
CROWD = 1.5  # three blocks on an SM against two, by the launch bounds of a Hopper kernel [3]


@dataclass(frozen=True)
class DecodeShapes:
    """Batches of one-token queries on one rank, each field an ndarray (n,).

    Attributes
    ----------
    sequences : ndarray
        Sequences of the batch.
    total_keys, longest_keys : ndarray
        Keys seen by all sequences together, and by the one that sees most: a sliding window
        bounds what a sequence sees.
    longest_context : ndarray
        Keys held for the longest sequence, seen or not: what splits are chosen by.
    heads, kv_heads, head_dim : ndarray
    """

    sequences: Array
    total_keys: Array
    longest_keys: Array
    longest_context: Array
    heads: Array
    kv_heads: Array
    head_dim: Array

    def take(self, rows: NDArray[np.intp]) -> DecodeShapes:
        """The batches of these numbers."""
        return replace(self, **{name: column[rows] for name, column in vars(self).items()})


def batch_contexts(
    contexts: NDArray[np.generic], starts: NDArray[np.integer], window: float = 0.0
) -> tuple[Array, Array, Array]:
    """Sequences, total keys and longest keys of batches of unequal contexts.

    Parameters
    ----------
    contexts : ndarray (s,)
        Keys of every sequence, batch after batch.
    starts : ndarray of int (n,)
        Index of each batch's first sequence, rising; no batch is empty.
    window : float
        Sliding window, 0 is none. [tokens]

    Returns
    -------
    tuple of ndarray (n,)
        The three in this order; keys beyond the window are not counted.

    Raises
    ------
    ModelDomainError
        The starts do not begin at 0, or leave a batch empty.
    """
    starts = np.asarray(starts, dtype=np.int64)
    keys = np.asarray(contexts, dtype=np.float64)
    counts = np.diff(np.append(starts, keys.size))
    if starts.size and (starts[0] != 0 or np.any(counts < 1)):
        raise ModelDomainError(
            f"starts of batches {starts.tolist()} over {keys.size} contexts: they begin at 0, "
            "rise and leave no batch empty"
        )
    if window > 0:
        keys = np.minimum(keys, window)
    total, longest = np.add.reduceat(keys, starts), np.maximum.reduceat(keys, starts)
    return counts.astype(np.float64), total, longest


def decode_s(
    shapes: DecodeShapes,
    device: Device,
    profile: Profile,
    kv_dtype: str = "bf16",
    warm: bool = True,
) -> AttentionTimes:
    """Time of one-token attention over a KV cache.

    Parameters
    ----------
    shapes : DecodeShapes
        All at least 1; heads a multiple of kv_heads.
    device, profile
        The accelerator and its fitted behaviour.
    kv_dtype : str
        Datatype of the cache; arithmetic and queries have 16 bits.
    warm : bool
        The same cache is read again and again, as in a micro-benchmark: what fits in L2 stays.
        Between the layers of a model it does not (False).

    Returns
    -------
    AttentionTimes

    Notes
    -----
    A unit is a KV head of a sequence with its group of query heads, or one query head where a
    kernel does not pack that group [2]. A context is worth n = context / split_keys pieces; U units
    are cut in p = min(n, sqrt(split_root n), split_waves S / U) of them, 1 at least [1, 3]. A block
    takes setup(d, group) + keys max(2 d bytes / block_bandwidth, arithmetic at half the dense
    peak); its group is padded to 8, 16, 32 ... rows and its heads to a power of two. W is all
    blocks over S, with `wave_share` of the idle places of the last wave; L the longest block; M the
    traffic, `l2_ratio` times as fast inside L2; a cache too large for L2 costs `miss_s` more.
    time = floor + combination of splits + misses + (W^3 + L^3 + M^3)^(1/3). Contexts of unequal
    length enter by their sum (W, M) and their longest (L). Domain: one new token a sequence.
    """
    sections = kernel_sections(shapes, device, profile, kv_dtype)
    return by_section(
        sections,
        lambda rows, name: _kernel_s(
            shapes.take(rows), device, pick("decode", profile.decode, name), kv_dtype, warm
        ),
    )


def kernel_sections(
    shapes: DecodeShapes, device: Device, profile: Profile, kv_dtype: str
) -> NDArray[np.str_]:
    """Section of each batch: a library packs a group where blocks of it fill the device [3].

    Parameters
    ----------
    shapes : DecodeShapes
        Its sequences, heads and longest contexts decide.
    device : Device
        Its SMs are to be filled.
    profile : Profile
        Its coefficients of the cache's datatype say which groups are packed, and from which fill.
    kv_dtype : str
        Datatype of the cache.

    Returns
    -------
    ndarray of str (n,)
        The datatype, or with ``_single`` where each query head has a block of its own.

    Raises
    ------
    ModelDomainError
        The profile has no coefficients of decoding that could stand in.
    """
    packed = pick("decode", profile.decode, kv_dtype)
    cuts = np.maximum(np.floor(shapes.longest_context / FILL_KEYS), 1.0)
    blocks = shapes.sequences * shapes.kv_heads * cuts / device.sms
    return decode_sections(kv_dtype, shapes.heads / shapes.kv_heads, blocks, packed)


def _kernel_s(
    shapes: DecodeShapes, device: Device, c: DecodeCoefficients, kv_dtype: str, warm: bool
) -> AttentionTimes:
    """Steps of one kernel."""
    kv_bytes = 2.0 * shapes.head_dim * dtype_bytes(kv_dtype)
    blocks_s, launch_s = _blocks_s(shapes, device, c, kv_bytes)
    cache = shapes.total_keys * shapes.kv_heads * kv_bytes
    moved = cache + 2.0 * QUERY_BYTES * shapes.sequences * shapes.heads * shapes.head_dim
    held = hit_fraction(moved, c.l2_fraction * device.l2_cache)
    hit = held if warm else 0.0
    beyond = 1.0 - hit + (0.0 if c.l2_ratio is None else hit / c.l2_ratio)
    memory_s = moved * beyond / (device.memory_bandwidth * c.memory_efficiency)
    launch_s += np.where(shapes.head_dim <= c.rotate_heads, c.rotate_s, 0.0)
    launch_s += c.miss_s * (1.0 - held)
    total_s = launch_s + np.cbrt(blocks_s**OVERLAP + memory_s**OVERLAP)
    return AttentionTimes(total_s, blocks_s, memory_s, launch_s)


def _blocks_s(
    shapes: DecodeShapes, device: Device, c: DecodeCoefficients, kv_bytes: Array
) -> tuple[Array, Array]:
    """Time of all thread blocks, and of the launch with the combination of their results."""
    group = shapes.heads / shapes.kv_heads
    packed = group <= c.group_limit
    heads = np.where(packed, shapes.kv_heads, shapes.heads)
    group = np.where(packed, group, 1.0)
    rows = np.where(packed, np.exp2(np.ceil(np.log2(np.maximum(group, ROWS)))), 1.0)
    units = shapes.sequences * heads
    most = _most_pieces(shapes.longest_context, c)
    pieces = np.clip(device.sms * c.split_waves / units, 1.0, most)
    width = np.exp2(np.ceil(np.log2(shapes.head_dim)))
    setup_s = c.block_setup_s + width * (c.dim_setup_s + rows * c.element_setup_s)
    if c.crowd_elements is not None:
        setup_s = np.where(rows * width > c.crowd_elements, CROWD * setup_s, setup_s)
    flop_s = 4.0 * rows * width * device.sms / matrix_peak(device, "bf16")
    feed_s = width / shapes.head_dim * kv_bytes / c.block_bandwidth
    key_s = np.maximum(feed_s, flop_s / MATRIX_SHARE)
    waves = units * pieces / device.sms
    waves += c.wave_share * (np.ceil(waves) - waves)
    work_s = waves * (setup_s + shapes.total_keys / shapes.sequences / pieces * key_s)
    keys = np.minimum(shapes.longest_keys, shapes.longest_context / pieces)
    longest_s = setup_s + keys * key_s
    launch_s = c.kernel_floor_s + c.split_overhead_s * (1.0 - 1.0 / most)
    launch_s += (pieces - 1.0) * group * shapes.head_dim * c.element_combine_s
    return np.asarray(np.cbrt(work_s**OVERLAP + longest_s**OVERLAP)), launch_s


def _most_pieces(context: Array, c: DecodeCoefficients) -> Array:
    """Pieces that a context is worth: many cost more to combine than the longest block saves."""
    if not c.splits:
        return np.ones(context.shape)
    worth = np.maximum(context / c.split_keys, 1.0)
    if c.split_root is None:
        return worth
    return np.maximum(np.minimum(worth, np.sqrt(c.split_root * worth)), 1.0)
