"""Compiled prices of matrix products; the formula and its plain form are in `gemm`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]


@njit(cache=True)
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
    for i in range(m.size):
        tiles_s = best_tiles_s(
            m[i], n[i], k[i], batch[i], traffic_bytes[i], slow[i], row, tiles, splits
        )
        traffic_s = traffic_bytes[i] / row[2]
        roof_s = np.cbrt(tiles_s**3 + traffic_s**3)
        power_s = 2.0 * m[i] * n[i] * k[i] * batch[i] / row[9] * (roof_s / (roof_s + row[10]))
        limit = roof_s**8 + power_s**8
        out_s[0, i] = math.sqrt(math.sqrt(math.sqrt(limit))) + row[11]
        out_s[1, i] = tiles_s
        out_s[2, i] = traffic_s


@njit(cache=True)
def best_tiles_s(
    m: float,
    n: float,
    k: float,
    batch: float,
    traffic_bytes: float,
    slow: float,
    row: Array,
    tiles: Array,
    splits: Array,
) -> float:
    """Time on the SMs with the best tile and split of the lists."""
    sms, size = row[0], row[4]
    padded_k = math.ceil(k / 32.0) * 32.0
    result_bytes = max((traffic_bytes - (m * k + k * n) * batch * size) / (m * n * batch), size)
    best_s = np.inf
    for t in range(tiles.shape[0]):
        a, b = tiles[t, 0], tiles[t, 1]
        rows, columns = min(m, a), min(n, b)
        count = math.ceil(m / a) * math.ceil(n / b) * batch
        edge = 1.0 + row[5] * (1.0 / a + 1.0 / b - 3.0 / 256.0)
        step_s = max(2.0 * a * b / row[1] * edge * slow, (rows + columns) * size / row[6])
        end_s = rows * columns * result_bytes / row[6] + row[7]
        best_s = min(best_s, math.ceil(count / sms) * (padded_k * step_s + end_s))
        if count >= 4.0 * sms:
            continue
        for s in range(splits.size):
            if splits[s] == 0.0:
                pieces = min(max(math.floor(sms / count), 1.0), 32.0)
                partial = min(sms, 32.0 * count) * rows * columns
            else:
                pieces = splits[s]
                partial = pieces * m * n * batch
            if pieces <= 1.0:
                continue
            piece_k = max(math.ceil(padded_k / pieces / 32.0) * 32.0, 128.0)
            waves = math.ceil(count * pieces / sms)
            split_s = waves * (piece_k * step_s + end_s) + row[8] + 8.0 * partial / row[3]
            best_s = min(best_s, split_s)
    return best_s
