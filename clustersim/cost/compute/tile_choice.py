"""The tile and the split of k that one product is priced with, and what each part of them costs.

`gemm.gemm_s` takes the least time over its lists and keeps no account; this walks the same lists
for one product and names the winner. Tests hold the two together.

References
----------
.. [1] NVIDIA, "Matrix Multiplication Background User's Guide", 2023 (tile and wave quantisation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from clustersim.cost.compute.gemm import (
    COLUMNS,
    K_STEP,
    LEAST_SPLIT_K,
    MOST_SPLITS,
    SPLIT_WAVES,
    SPLITS,
    TILES,
    Array,
)


@dataclass(frozen=True)
class TileChoice:
    """The tile and split that one product is priced with; `total_s` is the sum of its parts.

    Attributes
    ----------
    rows, columns, pieces : int
        Of the output, of one thread block; pieces that k is split in.
    tiles, waves : int
        Thread blocks of the launch, and rounds that they take on all SMs.
    last_wave_fraction, useful_fraction : float
        Share of the SMs busy in the last wave; arithmetic asked for over that of full waves.
    main_loop_s, fill_s, split_s : float
        Main loop of all waves, their start and end, reduction after a split. [s]
    """

    rows: int
    columns: int
    pieces: int
    tiles: int
    waves: int
    last_wave_fraction: float
    useful_fraction: float
    main_loop_s: float
    fill_s: float
    split_s: float

    @property
    def total_s(self) -> float:
        """Time on the SMs. [s]"""
        return self.main_loop_s + self.fill_s + self.split_s


def best_tile(
    shape: tuple[float, float, float, float], traffic_bytes: float, slow: float, row: Array
) -> TileChoice:
    """Account for the tile and split that `gemm_s` takes for one product.

    Parameters
    ----------
    shape : tuple of float
        m, n, k, batch.
    traffic_bytes, slow, row
        As for `gemm_s`, for one product.

    Returns
    -------
    TileChoice
        Its total is the second result of `gemm_s`.
    """
    given = dict(zip(COLUMNS, row.tolist(), strict=True))
    choices = (
        choice
        for tile in TILES.tolist()
        for split in (1.0, *SPLITS.tolist())
        for choice in _choices(shape, (*tile, split), (traffic_bytes, slow), given)
    )
    return min(choices, key=lambda choice: choice.total_s)


def _choices(
    shape: tuple[float, float, float, float],
    tile: tuple[float, float, float],
    costs: tuple[float, float],
    given: Mapping[str, float],
) -> Iterator[TileChoice]:
    """Yield what a tile with a split (rows, columns, pieces; 0: as many as idle) comes to."""
    m, n, k, batch = shape
    a, b, split = tile
    traffic_bytes, slow = costs
    sms, size, sm_bytes_per_s = given["sms"], given["operand_bytes"], given["sm_bytes_per_s"]
    tiles = float(np.ceil(m / a) * np.ceil(n / b) * batch)
    pieces = split or float(np.clip(np.floor(sms / tiles), 1.0, MOST_SPLITS))
    if split != 1.0 and (pieces == 1.0 or tiles >= SPLIT_WAVES * sms):
        return
    rows, columns, piece_k = min(m, a), min(n, b), float(np.ceil(k / K_STEP) * K_STEP)
    split_s = 0.0
    if split != 1.0:
        piece_k = max(float(np.ceil(piece_k / pieces / K_STEP) * K_STEP), LEAST_SPLIT_K)
        partial = split * m * n * batch or min(sms, MOST_SPLITS * tiles) * rows * columns
        split_s = given["split_overhead_s"] + 8.0 * partial / given["raw_memory_bytes_per_s"]
    waves = float(np.ceil(tiles * pieces / sms))
    edge = 1.0 + given["tile_edge_penalty"] * (1.0 / a + 1.0 / b - 3.0 / 256.0)
    weight = given["weight_bytes"]
    loaded_s = max((rows * size + columns * weight) / sm_bytes_per_s, given["step_latency_s"])
    step_s = max(2.0 * a * b / given["sm_flop_per_s"] * edge * slow, loaded_s)
    operands = (m * k * size + k * n * weight) * batch
    result = max((traffic_bytes - operands) / (m * n * batch), size)
    yield TileChoice(
        rows=int(a),
        columns=int(b),
        pieces=int(pieces),
        tiles=int(tiles * pieces),
        waves=int(waves),
        last_wave_fraction=tiles * pieces / sms - (waves - 1.0),
        useful_fraction=m * n * k * batch / (waves * sms * a * b * piece_k),
        main_loop_s=waves * piece_k * step_s,
        fill_s=waves * (rows * columns * result / sm_bytes_per_s + given["tile_fill_s"]),
        split_s=split_s,
    )
