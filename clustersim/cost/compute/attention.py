"""Time of fused attention kernels: one thread block a tile of queries, looping over keys.

Left out: the exact tile schedule of a library version, dropout, bias, a head size of values that
differs from that of keys, splitting the keys of one query among blocks (decoding).

References
----------
.. [1] T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning,"
   arXiv:2307.08691, 2023.
.. [2] J. Shah et al., "FlashAttention-3: Fast and Accurate Attention with Asynchrony and
   Low-precision," arXiv:2407.08608, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.gemm import dtype_bytes, matrix_peak
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

Array = NDArray[np.float64]
HEAD_STEP = 32.0  # kernels are compiled for head sizes that are multiples of 32 [1]
KEY_STEP = 64.0  # keys are visited in tiles of 64, the smaller of those in [1]
BACKWARD_FLOP = 2.5  # five products instead of two [1]
BACKWARD_BYTES = 2.5  # q k v o do and statistics in, dq dk dv out, dq in fp32


@dataclass(frozen=True)
class AttentionShapes:
    """Shapes of attention cores on one rank, each an ndarray (n,); `window` 0 is full."""

    batch: Array
    q_len: Array
    kv_len: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    causal: NDArray[np.bool_]
    window: Array

    def take(self, rows: NDArray[np.intp]) -> AttentionShapes:
        """The cores of these numbers."""
        return replace(self, **{name: column[rows] for name, column in vars(self).items()})


def attention_row(
    device: Device, profile: Profile, dtype: str, generation: str, backward: bool
) -> Array:
    """Numbers of a device and a generation, as `attention_s` takes them.

    Parameters
    ----------
    device, profile
        The accelerator and its fitted behaviour.
    dtype : str
        Datatype of the arithmetic and of all operands.
    generation : str
        Such as "flash_3"; "" is "flash_2".
    backward : bool
        The backward pass: other efficiency, 2.5 times the arithmetic and traffic [1].

    Returns
    -------
    ndarray (8,)
        SMs, rate of one [FLOP/s], elements of a forward pass that memory moves a second, queries of
        a block, its setup [s], penalty of small heads, floor [s], arithmetic over the forward's.

    Raises
    ------
    ModelDomainError
        The profile lacks the generation, or the device a matrix peak for the datatype.
    """
    c = profile.attention_coefficients(generation)
    efficiency = c.backward_efficiency if backward else c.forward_efficiency
    moved = BACKWARD_BYTES if backward else 1.0
    return np.array(
        [
            device.sms,
            matrix_peak(device, dtype) * efficiency / device.sms,
            device.memory_bandwidth * c.memory_efficiency / (moved * dtype_bytes(dtype)),
            c.q_tile,
            c.tile_setup_s,
            c.head_dim_penalty,
            c.kernel_floor_s,
            BACKWARD_FLOP if backward else 1.0,
        ]
    )


def attention_s(shapes: AttentionShapes, row: Array) -> tuple[Array, Array, Array]:
    """Time of fused attention cores, softmax(Q K^T) V.

    Parameters
    ----------
    shapes : AttentionShapes
        q_len, kv_len, heads, head_dim >= 1; kv_len >= q_len where causal.
    row : ndarray (8,)
        Device and coefficients, from `attention_row`.

    Returns
    -------
    tuple of ndarray (n,)
        Time of one kernel, of its blocks alone, of its traffic alone. [s]

    Notes
    -----
    A block of q_tile queries takes setup + 4 q_tile d keys / rate, over the keys it may see; the
    backward pass 2.5 times the arithmetic and traffic [1]. With W the work of all blocks over the
    SMs and L the longest block, blocks_s = (W^1.5 + L^1.5)^(2/3), the exponent being assumed. The
    traffic of q, k, v and o is added: loads and stores at the ends of a block are not hidden.
    Attention draws less power than a matrix product, and no power limit is applied. Domain: head
    sizes up to 256.
    """
    sms, rate, elements_per_s, q_tile, setup_s, penalty, floor_s, work = row
    d = np.ceil(shapes.head_dim / HEAD_STEP) * HEAD_STEP
    all_keys, most_keys = visible_keys(shapes, q_tile)
    small = 1.0 + penalty * np.maximum(128.0 / d - 1.0, 0.0)
    key_s = 4.0 * q_tile * d * work / rate * small
    blocks = np.ceil(shapes.q_len / q_tile)
    work_s = shapes.batch * shapes.heads * (blocks * setup_s + all_keys * key_s) / sms
    longest_s = setup_s + most_keys * key_s
    blocks_s = np.cbrt((work_s * np.sqrt(work_s) + longest_s * np.sqrt(longest_s)) ** 2)
    elements = 2.0 * shapes.batch * shapes.head_dim * (
        shapes.q_len * shapes.heads + shapes.kv_len * shapes.kv_heads
    )  # fmt: skip
    traffic_s = elements / elements_per_s
    return blocks_s + traffic_s + floor_s, blocks_s, traffic_s


def visible_keys(shapes: AttentionShapes, q_tile: float | Array) -> tuple[Array, Array]:
    """Keys that the blocks of one head visit.

    Parameters
    ----------
    shapes : AttentionShapes
        Its q_len, kv_len, causal and window.
    q_tile : float or ndarray (n,)
        Queries of a block.

    Returns
    -------
    all_keys : ndarray (n,)
        Sum over the blocks of a head.
    most_keys : ndarray (n,)
        Of the block that visits most.

    Notes
    -----
    Blocks without a mask visit whole tiles of 64 keys. The queries of a causal core stand at the
    end of the keys, and block i of B sees the kv - q + min((i+1) q_tile, q) keys up to its last
    query. A sliding window limits any block to window + q_tile keys: the first `rising` causal
    blocks stay below that.
    """
    q, kv = shapes.q_len, shapes.kv_len
    blocks = np.ceil(q / q_tile)
    band = np.where(shapes.window > 0, shapes.window + q_tile, np.inf)
    before = kv - q
    most = np.minimum(np.where(shapes.causal, kv, np.ceil(kv / KEY_STEP) * KEY_STEP), band)
    rising = np.clip(np.floor((band - before) / q_tile), 0.0, blocks - 1.0)
    level = blocks - 1.0 - rising
    causal = rising * before + q_tile * rising * (rising + 1.0) / 2.0 + most
    causal += level * np.where(level > 0, most, 0.0)
    return np.where(shapes.causal, causal, blocks * most), most
