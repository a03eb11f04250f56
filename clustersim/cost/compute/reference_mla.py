"""Plain twins of latent attention: one block of queries, one split of keys at a time.

References
----------
.. [1] DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language
   Model," arXiv:2405.04434, 2024, section 2.1.
.. [2] DeepSeek-AI, "DeepSeek-V3 Technical Report," arXiv:2412.19437, 2024, section 4.2 (sizes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LatentCore:
    """One call: sequences, new tokens, keys with them, heads."""

    batch: int
    q_len: int
    kv_len: int
    heads: int


@dataclass(frozen=True)
class LatentMachine:
    """What a call meets: SMs, their rate together, memory, L2."""

    sms: int
    flop_per_s: float
    memory_bytes_per_s: float
    l2_bytes: float


@dataclass(frozen=True)
class PromptKernel:
    """Coefficients of a kernel over prompts; L2 holds `l2_bytes` of the machine."""

    q_tile: int
    block_setup_s: float
    tail_ratio: float
    serial_passes: float
    l2_ratio: float
    kernel_floor_s: float


@dataclass(frozen=True)
class CacheKernel:
    """Coefficients of a kernel over a cache."""

    cache_element_bytes: float
    query_bytes_per_s: float
    l2_ratio: float
    key_s: float
    tail_fraction: float
    splits: int
    split_overhead_s: float
    group_s: float
    query_passes: float
    kernel_floor_s: float
    head_tile: int
    group_reads: float


def prompt_s(core: LatentCore, machine: LatentMachine, kernel: PromptKernel) -> float:
    """Time over whole prompts, blocks of queries one after the other.

    Parameters
    ----------
    core : LatentCore
        All at least 1; kv_len >= q_len.
    machine : LatentMachine
        Its rate is what the kernel reaches, not the peak.
    kernel : PromptKernel

    Returns
    -------
    float
        Of one call, heads expanded to 192 for keys and 128 for values [2]. [s]
    """
    head_s, longest_s, first = 0.0, 0.0, 0
    while first < core.q_len:
        last = first + kernel.q_tile
        keys = core.kv_len - core.q_len + last if last < core.q_len else core.kv_len
        flop = 2 * kernel.q_tile * (192 + 128) * keys
        block_s = kernel.block_setup_s + flop * machine.sms / machine.flop_per_s
        head_s, longest_s, first = head_s + block_s, max(longest_s, block_s), last
    work_s = core.batch * core.heads * head_s / machine.sms
    blocks_s = (work_s**1.5 + (kernel.tail_ratio * longest_s) ** 1.5) ** (2 / 3)
    per_head = core.q_len * (192 + 128) + core.kv_len * (192 + 128)
    moved = 2 * core.batch * core.heads * per_head
    traffic_s = cached_s(moved, moved, machine, machine.memory_bytes_per_s, kernel.l2_ratio)
    kernel_s = (blocks_s**4 + traffic_s**4) ** (1 / 4)
    return float(kernel_s + kernel.serial_passes * traffic_s + kernel.kernel_floor_s)


def cache_s(core: LatentCore, machine: LatentMachine, kernel: CacheKernel) -> float:
    """Time of one new token a sequence, with the best number of splits.

    Parameters
    ----------
    core : LatentCore
        All at least 1; `q_len` is not looked at.
    machine : LatentMachine
        Its rate is what the kernel reaches, not the peak.
    kernel : CacheKernel

    Returns
    -------
    float
        Of one call; all heads read the same 576 numbers of a key, 512 of them its value [1, 2]. [s]
    """
    of_one = math.ceil(core.heads / kernel.head_tile)
    groups = core.batch * of_one
    keys = 64 * math.ceil(core.kv_len / 64)
    work_s = groups * kernel.head_tile * keys * 2 * (576 + 512) / machine.flop_per_s
    stored = core.batch * core.kv_len * 576 * kernel.cache_element_bytes
    read = stored + (of_one - 1) * kernel.group_reads * stored
    read_s = cached_s(read, stored, machine, machine.memory_bytes_per_s, kernel.l2_ratio)
    roof_s = (work_s**4 + read_s**4) ** (1 / 4)
    best_s, split = math.inf, 1
    while split <= kernel.splits:
        piece_s = max(keys / split, 64) * kernel.key_s
        if split > 1 and groups * split > machine.sms:
            piece_s *= groups * split / machine.sms
        busy_s = roof_s + kernel.tail_fraction * piece_s
        split_s = (busy_s**4 + piece_s**4) ** (1 / 4)
        best_s = min(best_s, split_s + kernel.split_overhead_s * math.log2(split))
        split *= 2
    queries = 2 * core.batch * core.heads * (576 + 512)
    moved = queries * kernel.query_passes
    query_s = cached_s(moved, queries + stored, machine, kernel.query_bytes_per_s, kernel.l2_ratio)
    return float(best_s + query_s + groups * kernel.group_s + kernel.kernel_floor_s)


def cached_s(
    moved: float, working: float, machine: LatentMachine, bytes_per_s: float, ratio: float
) -> float:
    """Time of traffic of which L2 holds a share.

    Parameters
    ----------
    moved, working : float
        Traffic, and the buffers it goes through. [bytes]
    machine : LatentMachine
        Its `l2_bytes` is the working set of which half hits.
    bytes_per_s : float
        Rate beyond L2. [bytes/s]
    ratio : float
        Rate inside L2 over that.

    Returns
    -------
    float
        [s]
    """
    hits = 1 / (1 + (working / machine.l2_bytes) ** 6)
    return float((1 - hits) * moved / bytes_per_s + hits * moved / (bytes_per_s * ratio))
