"""Compiled prices of matrix products; the formula and its plain form are in `gemm`.

A tile shape whose arithmetic alone, spread evenly, is no faster than the best so far is skipped:
no split or wave count can undercut that, so the result is the same.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]


@njit(cache=True, error_model="numpy")
def gemm_s(
    m: Array,
    n: Array,
    k: Array,
    batch: Array,
    traffic_bytes: Array,
    slow: Array,
    row: Array,
    tiles: Array,
    splits: Array,
    out_s: Array,
) -> None:
    """Time of products into out_s (3, n): kernel, tiles, traffic; row is `gemm.gemm_row`."""
    loop_s = np.empty(tiles.shape[0])  # arithmetic of one element of k
    for t in range(tiles.shape[0]):
        edge = 1.0 + row[5] * (1.0 / tiles[t, 0] + 1.0 / tiles[t, 1] - 3.0 / 256.0)
        loop_s[t] = 2.0 * tiles[t, 0] * tiles[t, 1] / row[1] * edge
    for i in range(m.size):
        results = m[i] * n[i] * batch[i]
        operands = (m[i] + n[i]) * k[i] * batch[i] * row[4]
        result_bytes = max((traffic_bytes[i] - operands) / results, row[4])
        tiles_s = best_tiles_s(
            m[i], n[i], k[i], batch[i], result_bytes, slow[i], row, tiles, splits, loop_s
        )
        traffic_s = traffic_bytes[i] / row[2]
        roof_s = np.cbrt(tiles_s * tiles_s * tiles_s + traffic_s * traffic_s * traffic_s)
        power_s = 2.0 * results * k[i] / row[9] * (roof_s / (roof_s + row[10]))
        roof_4, power_4 = (roof_s * roof_s) ** 2, (power_s * power_s) ** 2
        limit = math.sqrt(math.sqrt(math.sqrt(roof_4 * roof_4 + power_4 * power_4)))
        out_s[0, i] = limit + row[11]
        out_s[1, i] = tiles_s
        out_s[2, i] = traffic_s


@njit(cache=True, error_model="numpy")
def best_tiles_s(
    m: float,
    n: float,
    k: float,
    batch: float,
    result_bytes: float,
    slow: float,
    row: Array,
    tiles: Array,
    splits: Array,
    loop_s: Array,
) -> float:
    """Time on the SMs with the best tile and split of the lists."""
    per_sm, feed_s = 1.0 / row[0], 1.0 / row[6]
    padded_k = np.ceil(k * 0.03125) * 32.0
    best_s = np.inf
    for t in range(tiles.shape[0]):
        a, b = tiles[t, 0], tiles[t, 1]
        rows, columns = min(m, a), min(n, b)
        count = np.ceil(m / a) * np.ceil(n / b) * batch
        step_s = max(loop_s[t] * slow, (rows + columns) * row[4] * feed_s)
        if count * per_sm * padded_k * step_s >= best_s:
            continue
        end_s = rows * columns * result_bytes * feed_s + row[7]
        best_s = min(best_s, np.ceil(count / row[0]) * (padded_k * step_s + end_s))
        if count >= 4.0 * row[0]:
            continue
        for s in range(splits.size):
            pieces = splits[s]
            partial = pieces * m * n * batch
            if pieces == 0.0:
                pieces = min(max(np.floor(row[0] / count), 1.0), 32.0)
                partial = min(row[0], 32.0 * count) * rows * columns
            if pieces > 1.0:
                piece_k = max(np.ceil(padded_k / pieces * 0.03125) * 32.0, 128.0)
                waves = np.ceil(count * pieces / row[0])
                split_s = waves * (piece_k * step_s + end_s) + row[8] + 8.0 * partial / row[3]
                best_s = min(best_s, split_s)
    return best_s
