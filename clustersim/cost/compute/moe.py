"""Time of a fused expert layer on one rank: two grouped products and the passes around them.

Tokens arrive routed; they are sorted by expert, multiplied by the weights of their experts (up and
gate, activation, down) and reduced to one row a token. The grouped products run tiles of all
experts on the SMs, each expert padding its last tile; at small batches the weights of the active
experts are the traffic. Left out: the router's own product, the exchange between ranks, a library
that picks a bad tile for a shape (measured rows up to five times slower than their neighbours).

References
----------
.. [1] T. Gale et al., "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts," MLSys 2023.
.. [2] S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance
   model for multicore architectures," Commun. ACM 52(4), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.gemm import matrix_peak
from clustersim.cost.compute.routing import HEIGHTS, ExpertLoads
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

Array = NDArray[np.float64]

WIDTHS = (128.0, 256.0)  # assumed: columns of the output that one thread block computes
SORT_TOKENS = 256.0  # assumed: tokens that one thread block sorts
RESULT_BYTES = 2.0  # results and what the reduction reads are 16 bit

# Datatype of the matrix units, bytes of a weight and of an activation, scales included: fp32 of
# 128 elements (fp8_block), 8 bits of 16 (nvfp4) and of 32 (mxfp4, mxfp8), 16 bits of 128 (int).
FORMATS = {
    "bf16": ("bf16", 2.0, 2.0),
    "fp16": ("fp16", 2.0, 2.0),
    "fp8": ("fp8", 1.0, 1.0),
    "fp8_block": ("fp8", 1.0, 1.0 + 4.0 / 128.0),
    "nvfp4": ("nvfp4", 0.5625, 0.5625),
    "nvfp4_min_latency": ("nvfp4", 0.5625, 0.5625),
    "w4a16_int": ("bf16", 0.5 + 2.0 / 128.0, 2.0),
    "w4a16_mxfp4": ("bf16", 0.5 + 1.0 / 32.0, 2.0),
    "w4a8_mxfp4_mxfp8": ("fp8", 0.5 + 1.0 / 32.0, 1.0 + 1.0 / 32.0),
}

COLUMNS = (
    "sms",
    "sm_flop_per_s",
    "weight_bytes_per_s",
    "pass_bytes_per_s",
    "weight_bytes",
    "activation_bytes",
    "l2_bytes",
    "cache_ratio",
    "sm_bytes_per_s",
    "tile_fill_s",
    "pair_s",
    "sort_s",
    "expert_s",
    "kernel_floor_s",
)


@dataclass(frozen=True)
class ExpertShape:
    """Dims of the expert layer of one rank, one entry a call.

    Attributes
    ----------
    hidden, intermediate : ndarray (n,)
        Model width, and width of one expert on this rank (after tensor parallelism).
    experts : ndarray (n,)
        Experts of this rank.
    gated : ndarray of bool (n,)
        Two products before the activation instead of one.
    """

    hidden: Array
    intermediate: Array
    experts: Array
    gated: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> ExpertShape:
        """The calls of these numbers."""
        columns = (self.hidden, self.intermediate, self.experts)
        hidden, intermediate, experts = (column[rows] for column in columns)
        return ExpertShape(hidden, intermediate, experts, self.gated[rows])


def moe_row(device: Device, profile: Profile, dtype: str) -> Array:
    """Numbers of a device, a format of the experts and its coefficients, for `moe_s`.

    Parameters
    ----------
    device, profile
        The accelerator and its fitted behaviour.
    dtype : str
        A key of `FORMATS` and of `profile.moe`; no other format stands in for it.

    Returns
    -------
    ndarray (14,)
        In the order of `COLUMNS`.

    Raises
    ------
    ModelDomainError
        The format is not known or has no coefficients, or the device lacks its matrix units.
    """
    if dtype not in FORMATS or dtype not in profile.moe:
        raise ModelDomainError(
            f"profile {profile.name}: no expert-layer coefficients for {dtype!r}; "
            f"it has {', '.join(sorted(profile.moe)) or 'none'}"
        )
    c = profile.moe[dtype]
    unit, weight, activation = FORMATS[dtype]
    return np.array(
        [
            device.sms,
            matrix_peak(device, unit) * c.matmul_efficiency / device.sms,
            device.memory_bandwidth * c.weight_efficiency,
            device.memory_bandwidth * c.pass_efficiency,
            weight,
            activation,
            device.l2_cache,
            c.cache_ratio,
            c.sm_bandwidth,
            c.tile_fill_s,
            c.pair_s,
            c.sort_s,
            c.expert_s,
            c.kernel_floor_s,
        ]
    )


def moe_s(shape: ExpertShape, loads: ExpertLoads, row: Array) -> tuple[Array, Array, Array]:
    """Time of an expert layer on one rank.

    Parameters
    ----------
    shape : ExpertShape
        Dims.
    loads : ExpertLoads
        Tokens of the rank, from `expert_loads`.
    row : ndarray (14,)
        Device and coefficients, from `moe_row`.

    Returns
    -------
    tuple of ndarray (n,)
        Time of the layer, of its tiles alone, of its traffic alone. [s]

    Notes
    -----
    Each grouped product [rows of an expert, k] x [k, n] runs tiles of (h, b) for the best h of
    `HEIGHTS` and b of `WIDTHS`: ceil(T/S) waves of k step + fill, step the longer of the arithmetic
    2hb / rate and of the operands (h + b) / sm_bandwidth; its traffic is the weights of the active
    experts, the rows and the results. Both meet as sqrt(tiles^2 + traffic^2): the weights of an
    expert load only partly behind the tiles of the last. Weights that stay in L2 from one call to
    the next (working set W, cache C) are read `cache_ratio` times as fast, a share 1/(1 + (W/C)^2)
    of them: the stated exception to the roofline, warm micro-benchmarks. Both squares are assumed.
    Permutation, activation and reduction are passes over memory; sorting costs `pair_s` for each
    pair, `sort_s` beyond 256 tokens (as y/(1+y), y = (tokens/256)^2) and `expert_s` for each local
    expert.
    """
    width = np.where(shape.gated, 2.0, 1.0) * shape.intermediate
    working = loads.active * (width + shape.intermediate) * shape.hidden * row[4]
    working = working + loads.rows * (2.0 * shape.hidden + width) * row[5]
    held = 1.0 / (1.0 + (working / row[6]) ** 2)
    memory_bytes_per_s = row[2] / (1.0 - held + held / row[7])
    total_s, tiles_s, traffic_s = (np.zeros(shape.hidden.shape) for _ in range(3))
    for n, k in ((width, shape.hidden), (shape.hidden, shape.intermediate)):
        tile_s = _tiles_s(n, k, shape, loads, row)
        moved = loads.active * n * k * row[4] + loads.rows * (k * row[5] + n * RESULT_BYTES)
        move_s = moved / memory_bytes_per_s
        total_s += np.hypot(tile_s, move_s)
        tiles_s += tile_s
        traffic_s += move_s
    passes_s = _passes_bytes(shape, loads, row[5]) / row[3]
    many = (loads.tokens / SORT_TOKENS) ** 2
    sort_s = row[10] * loads.pairs + row[11] * many / (1.0 + many) + row[12] * shape.experts
    return total_s + passes_s + sort_s + row[13], tiles_s, traffic_s + passes_s


def _tiles_s(n: Array, k: Array, shape: ExpertShape, loads: ExpertLoads, row: Array) -> Array:
    """Time on the SMs of one grouped product with the best tile."""
    best_s = np.full(n.shape, np.inf)
    for column, height in enumerate(HEIGHTS):
        for b in WIDTHS:
            feed_s = (height * row[5] + np.minimum(n, b) * row[4]) / row[8]
            step_s = np.maximum(2.0 * height * b / row[1], feed_s)
            waves = np.ceil(loads.row_tiles[:, column] * np.ceil(n / b) / row[0])
            best_s = np.minimum(best_s, waves * (k * step_s + row[9]))
    return best_s


def _passes_bytes(shape: ExpertShape, loads: ExpertLoads, activation_bytes: float) -> Array:
    """Bytes of the passes around the products: permute, activate, reduce."""
    width = np.where(shape.gated, 2.0, 1.0) * shape.intermediate
    permute = loads.routed * shape.hidden * (RESULT_BYTES + activation_bytes)
    activate = loads.rows * (width * RESULT_BYTES + shape.intermediate * activation_bytes)
    reduce = (loads.routed + loads.tokens) * shape.hidden * RESULT_BYTES
    return np.asarray(permute + activate + reduce)
