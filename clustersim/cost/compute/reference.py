"""Plain twins of the kernel models: one wave, one block, one tile of keys at a time.

Slow, and meant to be read beside the papers; tests hold the vectorised and compiled forms to them.

References
----------
.. [1] NVIDIA, "Matrix Multiplication Background User's Guide", 2023 (tile and wave quantisation).
.. [2] T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning,"
   arXiv:2307.08691, 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ProductMachine:
    """What a product meets: an SM's rate and feed, memory, power, and the cost of a tile."""

    sms: int
    sm_flop_per_s: float
    memory_bytes_per_s: float
    raw_memory_bytes_per_s: float
    operand_bytes: float
    tile_edge_penalty: float
    sm_bytes_per_s: float
    tile_fill_s: float
    split_overhead_s: float
    power_flop_per_s: float
    power_ramp_s: float
    kernel_floor_s: float
    weight_bytes: float = 2.0
    step_latency_s: float = 0.0
    overlap_norm: float = 3.0


@dataclass(frozen=True)
class Product:
    """One launch of `batch` products [m,k] x [k,n], its traffic and its slow-down by alignment."""

    m: int
    n: int
    k: int
    batch: int
    traffic_bytes: float
    slow: float


TILE_SHAPES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))


def gemm_s(product: Product, machine: ProductMachine) -> float:
    """Time of one launch of products [1].

    Parameters
    ----------
    product : Product
        All dims at least 1.
    machine : ProductMachine

    Returns
    -------
    float
        The best tile under roof and power limit, and the floor. [s]
    """
    tiles_s = min(tiled_s(product, machine, shape) for shape in TILE_SHAPES)
    traffic_s = product.traffic_bytes / machine.memory_bytes_per_s
    norm = machine.overlap_norm
    roof_s = (tiles_s**norm + traffic_s**norm) ** (1 / norm)
    flop = 2 * product.m * product.n * product.k * product.batch
    felt = roof_s / (roof_s + machine.power_ramp_s)
    power_s = flop / machine.power_flop_per_s * felt
    return float((roof_s**8 + power_s**8) ** (1 / 8) + machine.kernel_floor_s)


def tiled_s(product: Product, machine: ProductMachine, shape: tuple[int, int]) -> float:
    """Time of the product's tiles of one shape, with the best split of k.

    Parameters
    ----------
    product : Product
    machine : ProductMachine
    shape : tuple of int
        Rows and columns of the output of a tile.

    Returns
    -------
    float
        Splits are tried below four tiles an SM: 2, 3 or 5 pieces, or as many as SMs are idle. [s]
    """
    tile_rows = -(-product.m // shape[0])
    tile_columns = -(-product.n // shape[1])
    tiles = product.batch * tile_rows * tile_columns
    times = [waves_s(product, machine, shape, tiles, product.k)]
    if tiles < 4 * machine.sms:
        idle = min(machine.sms // tiles, 32)
        if idle > 1:
            times.append(split_s(product, machine, shape, tiles, idle, fills_idle=True))
        for pieces in (2, 3, 5):
            times.append(split_s(product, machine, shape, tiles, pieces, fills_idle=False))
    return min(times)


def split_s(
    product: Product,
    machine: ProductMachine,
    shape: tuple[int, int],
    tiles: int,
    pieces: int,
    fills_idle: bool,
) -> float:
    """Time with k cut in pieces: shorter tiles, then partial sums written and read in fp32.

    Parameters
    ----------
    product : Product
    machine : ProductMachine
    shape : tuple of int
        Rows and columns of the output of a tile.
    tiles : int
        Of the launch, before the cut.
    pieces : int
        At least 2; one walks at least 128 elements of k.
    fills_idle : bool
        The pieces fill the idle SMs: partial sums are those of one tile an SM, at most 32 a tile.

    Returns
    -------
    float
        [s]
    """
    steps = -(-product.k // 32)
    piece_k = max(32 * -(-steps // pieces), 128)
    if fills_idle:  # every SM holds one partial tile, unless tiles are very few
        partial = min(machine.sms, 32 * tiles) * min(product.m, shape[0]) * min(product.n, shape[1])
    else:
        partial = pieces * product.m * product.n * product.batch
    sums_s = 2 * 4 * partial / machine.raw_memory_bytes_per_s
    tiles_s = waves_s(product, machine, shape, tiles * pieces, piece_k)
    return tiles_s + machine.split_overhead_s + sums_s


def waves_s(
    product: Product, machine: ProductMachine, shape: tuple[int, int], tiles: int, k: int
) -> float:
    """Time of tiles that walk k in steps of 32, one tile an SM, wave after wave [1].

    Parameters
    ----------
    product : Product
    machine : ProductMachine
    shape : tuple of int
        Rows and columns of the output of a tile.
    tiles : int
        Thread blocks of the launch, pieces of k among them.
    k : int
        Elements of k that one of them walks, padded to whole steps.

    Returns
    -------
    float
        [s]
    """
    used_rows, used_columns = min(product.m, shape[0]), min(product.n, shape[1])
    small = 1 / shape[0] + 1 / shape[1] - (1 / 128 + 1 / 256)
    arithmetic_s = 2 * shape[0] * shape[1] / machine.sm_flop_per_s
    arithmetic_s *= (1 + machine.tile_edge_penalty * small) * product.slow
    used = used_rows * machine.operand_bytes + used_columns * machine.weight_bytes
    feed_s = max(used / machine.sm_bytes_per_s, machine.step_latency_s)
    loop_s = 32 * max(arithmetic_s, feed_s) * -(-k // 32)
    read = product.m * product.k * product.batch * machine.operand_bytes
    read += product.n * product.k * product.batch * machine.weight_bytes
    results = product.m * product.n * product.batch
    result_bytes = max((product.traffic_bytes - read) / results, machine.operand_bytes)
    store_s = used_rows * used_columns * result_bytes / machine.sm_bytes_per_s
    total_s, left = 0.0, tiles
    while left > 0:
        total_s += loop_s + store_s + machine.tile_fill_s
        left -= machine.sms
    return total_s


@dataclass(frozen=True)
class Core:
    """One launch of an attention core; `window` 0 is full, `work` 2.5 is a backward pass."""

    batch: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    window: int
    work: float = 1.0


@dataclass(frozen=True)
class AttentionMachine:
    """What an attention core meets."""

    sms: int
    sm_flop_per_s: float
    elements_per_s: float
    q_tile: int
    tile_setup_s: float
    head_dim_penalty: float
    kernel_floor_s: float


def attention_s(core: Core, machine: AttentionMachine) -> float:
    """Time of one launch: blocks of queries one after the other, then the traffic [2].

    Parameters
    ----------
    core : Core
        All dims at least 1; kv_len >= q_len where causal.
    machine : AttentionMachine
        Its `elements_per_s` knows the direction of the pass.

    Returns
    -------
    float
        [s]
    """
    width = 32 * -(-core.head_dim // 32)
    small = 1 + machine.head_dim_penalty * max(128 / width - 1, 0)
    key_s = core.work * small * 2 * 2 * machine.q_tile * width / machine.sm_flop_per_s
    head_s, longest_s, first = 0.0, 0.0, 0
    while first < core.q_len:
        block_s = machine.tile_setup_s + block_keys(core, machine.q_tile, first) * key_s
        head_s += block_s
        longest_s = max(longest_s, block_s)
        first += machine.q_tile
    spread_s = core.batch * core.heads * head_s / machine.sms
    blocks_s = (spread_s**1.5 + longest_s**1.5) ** (2 / 3)
    queries = core.batch * core.heads * core.q_len * core.head_dim
    keys = core.batch * core.kv_heads * core.kv_len * core.head_dim
    traffic_s = (2 * queries + 2 * keys) / machine.elements_per_s
    return float(blocks_s + traffic_s + machine.kernel_floor_s)


def block_keys(core: Core, q_tile: int, first: int) -> float:
    """Keys that one block of queries visits: whole tiles of 64 without a mask [2].

    Parameters
    ----------
    core : Core
        The queries of a causal core stand at the end of its keys.
    q_tile : int
        Queries of a block; the last one may have fewer.
    first : int
        Query that the block starts at, from 0.

    Returns
    -------
    float
        With a window at most window + q_tile.
    """
    if core.causal:
        last = min(first + q_tile, core.q_len)
        keys = core.kv_len - core.q_len + last
    else:
        keys = 64 * math.ceil(core.kv_len / 64)
    if core.window:
        keys = min(keys, core.window + q_tile)
    return float(keys)
