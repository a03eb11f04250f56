"""Compiled prices of matrix products; the formula and its plain form are in `gemm`.

A tile shape is skipped when its work, spread evenly over the SMs, is no faster than the best so
far: no split or wave count can undercut that, so the result is the same. Divisions of integers are
products with a reciprocal less a thousandth before rounding up, which is exact: a quotient that is
no integer is further than that above one.
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
    """Time of products; see `gemm.gemm_s`.

    Parameters
    ----------
    m, n, k, batch : ndarray (n,)
        Shapes, at least 1.
    traffic_bytes : ndarray (n,)
        Least traffic with memory. [bytes]
    slow : ndarray (n,)
        Factor on the main loop.
    row : ndarray (15,)
        From `gemm.gemm_row`.
    tiles : ndarray (t, 2)
        Rows and columns of the output of a block.
    splits : ndarray (s,)
        Pieces of k; 0 is as many as there are idle SMs, an empty array is no split.
    out_s : ndarray (3, n)
        Filled with the time of the kernel, of its tiles alone, of its traffic alone. [s]
    """
    shapes = tile_table(row, tiles)
    for i in range(m.size):
        operands = (m[i] * row[4] + n[i] * row[12]) * k[i] * batch[i]
        result_bytes = max((traffic_bytes[i] - operands) / (m[i] * n[i] * batch[i]), row[4])
        out_s[1, i] = best_tiles_s(
            m[i], n[i], k[i], batch[i], result_bytes, slow[i], row, shapes, splits
        )
    per_memory_s, per_power_s, ramp_s, floor_s = 1.0 / row[2], 2.0 / row[9], row[10], row[11]
    if row[14] == 2.0:  # loops without branches, so that they vectorise
        for i in range(m.size):
            out_s[0, i] = math.sqrt(out_s[1, i] ** 2 + (traffic_bytes[i] * per_memory_s) ** 2)
    else:
        for i in range(m.size):
            out_s[0, i] = cubic_norm(out_s[1, i], traffic_bytes[i] * per_memory_s)
    for i in range(m.size):
        roof_s = out_s[0, i]
        power_s = m[i] * n[i] * k[i] * batch[i] * per_power_s * (roof_s / (roof_s + ramp_s))
        roof_4, power_4 = (roof_s * roof_s) ** 2, (power_s * power_s) ** 2
        limit = math.sqrt(math.sqrt(math.sqrt(roof_4 * roof_4 + power_4 * power_4)))
        out_s[0, i] = limit + floor_s
        out_s[2, i] = traffic_bytes[i] * per_memory_s


@njit(cache=True, error_model="numpy")
def cubic_norm(x: float, y: float) -> float:
    """(x^3 + y^3)^(1/3) by two Halley steps from four terms of the series: exact to 1e-15.

    Parameters
    ----------
    x, y : float
        At least 0, and one of them above it.

    Returns
    -------
    float
        In the unit of both.
    """
    longer, shorter = max(x, y), min(x, y)
    share = shorter / longer
    c = share * share * share
    root = 1.0 + c * (1.0 / 3.0 - c * (1.0 / 9.0 - c * (5.0 / 81.0 - c * 0.0243)))
    for _ in range(2):
        cube = root * root * root
        root *= (cube + 2.0 + 2.0 * c) / (2.0 * cube + 1.0 + c)
    return longer * root


@njit(cache=True, error_model="numpy")
def tile_table(row: Array, tiles: Array) -> Array:
    """What products of all shapes share of each tile.

    Parameters
    ----------
    row : ndarray (15,)
        From `gemm.gemm_row`.
    tiles : ndarray (t, 2)
        Rows and columns of the output of a block.

    Returns
    -------
    ndarray (t, 5)
        Rows, columns, their reciprocals, arithmetic of one element of k on an SM. [s]
    """
    table = np.empty((tiles.shape[0], 5))
    for t in range(tiles.shape[0]):
        a, b = tiles[t, 0], tiles[t, 1]
        edge = 1.0 + row[5] * (1.0 / a + 1.0 / b - 3.0 / 256.0)
        table[t, 0], table[t, 1] = a, b
        table[t, 2], table[t, 3] = 1.0 / a, 1.0 / b
        table[t, 4] = 2.0 * a * b / row[1] * edge
    return table


@njit(cache=True, error_model="numpy")
def best_tiles_s(
    m: float,
    n: float,
    k: float,
    batch: float,
    result_bytes: float,
    slow: float,
    row: Array,
    shapes: Array,
    splits: Array,
) -> float:
    """Time on the SMs with the best tile and split of the lists.

    Parameters
    ----------
    m, n, k, batch : float
        Shape of one launch, at least 1.
    result_bytes : float
        Written for one element of the result. [bytes]
    slow : float
        Factor on the main loop.
    row : ndarray (15,)
        From `gemm.gemm_row`.
    shapes : ndarray (t, 5)
        From `tile_table`.
    splits : ndarray (s,)
        Pieces of k; 0 is as many as there are idle SMs.

    Returns
    -------
    float
        Without memory roof, power limit and floor. [s]
    """
    sms, per_sm, feed_s = row[0], 1.0 / row[0], 1.0 / row[6]
    fill_s, result_s = row[7], result_bytes * feed_s
    operand_s, weight_s, least_s = row[4] * feed_s, row[12] * feed_s, row[13]
    steps = np.ceil(k * 0.03125)
    best_s = np.inf
    for t in range(shapes.shape[0]):
        rows, columns = min(m, shapes[t, 0]), min(n, shapes[t, 1])
        count = np.ceil(m * shapes[t, 2] - 1e-3) * np.ceil(n * shapes[t, 3] - 1e-3) * batch
        loaded_s = max(rows * operand_s + columns * weight_s, least_s)
        step_s = 32.0 * max(shapes[t, 4] * slow, loaded_s)
        end_s = rows * columns * result_s + fill_s
        tile_s = steps * step_s + end_s
        if count * per_sm * tile_s >= best_s:
            continue
        best_s = min(best_s, np.ceil(count * per_sm - 1e-3) * tile_s)
        if count >= 4.0 * sms:
            continue
        for s in range(splits.size):
            pieces = splits[s]
            partial = pieces * m * n * batch
            if pieces == 0.0:
                if count + count > sms:
                    continue
                pieces = min(np.floor(sms / count), 32.0)
                partial = min(sms, 32.0 * count) * rows * columns
            piece_steps = max(np.ceil(steps / pieces - 1e-3), 4.0)
            waves = np.ceil(count * pieces * per_sm - 1e-3)
            split_s = waves * (piece_steps * step_s + end_s) + row[8] + 8.0 * partial / row[3]
            best_s = min(best_s, split_s)
    return best_s
