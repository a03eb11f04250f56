"""Plain twins of serving attention: one sequence, one block, one tile of queries at a time.

Slow, and meant to be read beside the papers; tests hold the vectorised forms to them.

References
----------
.. [1] T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning,"
   arXiv:2307.08691, 2023.
.. [2] J. Shah et al., "FlashAttention-3: Fast and Accurate Attention with Asynchrony and
   Low-precision," arXiv:2407.08608, 2024.
.. [3] T. Dao, D. Haziza, F. Massa and G. Sizov, "Flash-Decoding for long-context inference,"
   PyTorch blog, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clustersim.cost.compute.reference import Core, block_keys
from clustersim.spec.profile_attention import DecodeCoefficients, PrefillCoefficients


@dataclass(frozen=True)
class ServingMachine:
    """What a serving kernel meets: SMs, their clock and peak, memory and L2."""

    sms: int
    cycles_per_s: float
    peak_flop_per_s: float
    memory_bytes_per_s: float
    l2_bytes: float


def missed(working_set_bytes: float, capacity_bytes: float) -> float:
    """Share of the traffic that a working set, read again and again, takes from memory.

    Parameters
    ----------
    working_set_bytes, capacity_bytes : float
        What is touched, and the set of which half misses, above 0. [bytes]

    Returns
    -------
    float
        Rises from 0 to 1.
    """
    return 1.0 - 1.0 / (1.0 + (working_set_bytes / capacity_bytes) ** 6)


def prefill_s(
    core: Core,
    machine: ServingMachine,
    c: PrefillCoefficients,
    arithmetic_bytes: float,
    kv_bytes: float,
) -> float:
    """Time of one prefill: passes over its inputs, then blocks of queries [1, 2].

    Parameters
    ----------
    core : Core
        All dims at least 1; kv_len >= q_len where causal.
    machine : ServingMachine
    c : PrefillCoefficients
        Those of the kernel.
    arithmetic_bytes, kv_bytes : float
        Of one element of the queries as they are multiplied, and of the cache. [bytes]

    Returns
    -------
    float
        Buffers warm. [s]
    """
    queries = core.batch * core.heads * core.q_len * core.head_dim
    new = 2 * core.batch * core.kv_heads * core.q_len * core.head_dim
    cache = 2 * core.batch * core.kv_heads * core.kv_len * core.head_dim
    arrived = 2.0 * (queries + new)
    written = queries * arithmetic_bytes + new * kv_bytes
    kernel = queries * arithmetic_bytes + cache * kv_bytes + 2.0 * queries
    held = arrived + kernel
    miss = missed(held, c.l2_fraction * machine.l2_bytes)
    byte_s = (miss + (1.0 - miss) / c.l2_ratio) / (machine.memory_bytes_per_s * c.memory_efficiency)
    passes_s = c.passes * (arrived + written) * byte_s
    blocks_s = tiles_s(core, machine, c)
    return float(c.kernel_floor_s + passes_s + (blocks_s**3 + (kernel * byte_s) ** 3) ** (1 / 3))


def tiles_s(core: Core, machine: ServingMachine, c: PrefillCoefficients) -> float:
    """Time of a core's tiles of queries: their work over the SMs, and the longest [1, 2].

    Parameters
    ----------
    core : Core
    machine : ServingMachine
        With the peak of the arithmetic that the kernel runs.
    c : PrefillCoefficients
        Those of the kernel.

    Returns
    -------
    float
        Without traffic and floor. [s]
    """
    width = c.head_step * math.ceil(core.head_dim / c.head_step)
    while c.head_powers and width & (width - 1):
        width += 1
    tile = c.q_tile
    if c.tile_by_head:
        tile = 16
        while 2 * tile * width <= 128 * c.q_tile:
            tile *= 2
    share = min(c.efficiency * (128 / width) ** c.head_exponent, 1.0)
    products_s = 2 * 2 * tile * width / (machine.peak_flop_per_s * share / machine.sms)
    softmax_s = tile / (c.exponentials_per_cycle * machine.cycles_per_s)
    masked = c.masked_keys * (2 if core.window else 1)
    head_s, longest_s, first = 0.0, 0.0, 0
    while first < core.q_len:
        keys = block_keys(core, tile, first) + masked
        block_s = c.block_setup_s + width * c.dim_setup_s + keys * (products_s + softmax_s)
        head_s += block_s
        longest_s = max(longest_s, block_s)
        first += tile
    spread_s = core.batch * core.heads * head_s / machine.sms
    return float((spread_s**1.5 + (c.tail_ratio * longest_s) ** 1.5) ** (2 / 3))


def decode_s(
    contexts: Sequence[int],
    window: int,
    heads: tuple[int, int, int],
    machine: ServingMachine,
    c: DecodeCoefficients,
    kv_bytes: float,
) -> float:
    """Time of one decoding step of a batch [3].

    Parameters
    ----------
    contexts : sequence of int
        Keys held for each sequence, at least 1.
    window : int
        Keys that a token sees at most; 0 is all.
    heads : tuple of int
        Query heads, KV heads, head size; the first a multiple of the second.
    machine : ServingMachine
        With the peak of 16-bit arithmetic.
    c : DecodeCoefficients
        Those of the kernel.
    kv_bytes : float
        Of one element of the cache. [bytes]

    Returns
    -------
    float
        Cache warm. [s]
    """
    q_heads, kv_heads, d = heads
    group = q_heads // kv_heads
    served, unit_heads = (group, kv_heads) if group <= c.group_limit else (1, q_heads)
    rows = 8 if group <= c.group_limit else 1
    while rows < served:
        rows *= 2
    units = unit_heads * len(contexts)
    most = max(max(contexts) / c.split_keys, 1.0) if c.splits else 1.0
    if c.split_root is not None:
        most = max(min(most, math.sqrt(c.split_root * most)), 1.0)
    pieces = min(max(machine.sms * c.split_waves / units, 1.0), most)
    width = 1
    while width < d:
        width *= 2
    setup_s = c.block_setup_s + width * c.dim_setup_s + rows * width * c.element_setup_s
    if c.crowd_elements is not None and rows * width > c.crowd_elements:
        setup_s *= 3 / 2
    feed_s = 2 * width * kv_bytes / c.block_bandwidth
    key_s = max(feed_s, 2 * 2 * rows * width / (machine.peak_flop_per_s / 2 / machine.sms))
    seen = [min(context, window) if window else context for context in contexts]
    block_s = sum(setup_s + keys / pieces * key_s for keys in seen) / len(seen)
    waves = units * pieces / machine.sms
    idle = math.ceil(waves) - waves
    work_s = (waves + c.wave_share * idle) * block_s
    longest_s = setup_s + min(max(seen), max(contexts) / pieces) * key_s
    moved = 2 * sum(seen) * kv_heads * d * kv_bytes + 2 * 2 * len(seen) * q_heads * d
    miss = missed(moved, c.l2_fraction * machine.l2_bytes)
    memory_bytes_per_s = machine.memory_bytes_per_s * c.memory_efficiency
    memory_s = miss * moved / memory_bytes_per_s
    if c.l2_ratio is not None:
        memory_s += (1 - miss) * moved / (c.l2_ratio * memory_bytes_per_s)
    blocks_s = (work_s**3 + longest_s**3) ** (1 / 3)
    launch_s = c.kernel_floor_s + c.split_overhead_s * (1 - 1 / most)
    launch_s += (pieces - 1) * served * d * c.element_combine_s
    launch_s += c.rotate_s if d <= c.rotate_heads else 0.0
    launch_s += miss * c.miss_s
    return float(launch_s + (blocks_s**3 + memory_s**3) ** (1 / 3))
