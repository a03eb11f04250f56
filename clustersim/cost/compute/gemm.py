"""Time of a matrix product: tiles on streaming multiprocessors, a memory roof and a power limit.

The library's choice of tile and split is replaced by the best one of a short list, so that a shape
never seen before is priced like its neighbours. Left out: the exact heuristics of a library
version, grouped rasterisation, residency of operands in L2 between kernels.

References
----------
.. [1] NVIDIA, "Matrix Multiplication Background User's Guide", 2023 (tile and wave quantisation).
.. [2] S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance
   model for multicore architectures," Commun. ACM 52(4), 2009.
.. [3] Q. Anthony et al., "The Case for Co-Designing Model Architectures with Hardware,"
   arXiv:2401.14489, 2024 (alignment, wave quantisation in training).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import ModelDomainError
from clustersim.kernel_cache import prepare_numba_cache
from clustersim.spec.datatypes import ELEMENT_BYTES
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

Array = NDArray[np.float64]

COMPILED_ROWS = 2000  # from here on the compiled kernel is worth loading

# (rows, columns) of the output that one thread block computes: those that [1] names for cuBLAS,
# without 256 x 64 and 64 x 256.
TILES = np.array(
    [[256, 128], [128, 256], [128, 128], [128, 64], [64, 128], [64, 64]], dtype=np.float64
)
# A product of few tiles shares k among idle SMs (first entry: as many as are idle). What follows
# on splits is assumed, one rule for all devices: libraries do not print their heuristics.
SPLITS = np.array([0, 2, 3, 5], dtype=np.float64)
K_STEP = 32.0  # elements of k that one main-loop iteration consumes
LEAST_SPLIT_K = 128.0  # elements; shorter pieces of k are not worth a split
MOST_SPLITS = 32.0
SPLIT_WAVES = 4.0  # libraries split k only below so many waves

# One float64 row describes a device, a datatype and its coefficients to the kernels.
COLUMNS = (
    "sms",
    "sm_flop_per_s",
    "memory_bytes_per_s",
    "raw_memory_bytes_per_s",
    "operand_bytes",
    "tile_edge_penalty",
    "sm_bytes_per_s",
    "tile_fill_s",
    "split_overhead_s",
    "power_flop_per_s",
    "power_ramp_s",
    "kernel_floor_s",
    "weight_bytes",
    "step_latency_s",
    "overlap_norm",
)


def dtype_bytes(dtype: str) -> float:
    """Bytes of one element of a datatype.

    Parameters
    ----------
    dtype : str
        A key of `ELEMENT_BYTES`.

    Returns
    -------
    float
        Scales of blocks are not included; 4-bit types have half a byte. [bytes]

    Raises
    ------
    ModelDomainError
        The datatype is not known.
    """
    if dtype not in ELEMENT_BYTES:
        raise ModelDomainError(f"unknown datatype {dtype!r}; known: {', '.join(ELEMENT_BYTES)}")
    return ELEMENT_BYTES[dtype]


def matrix_peak(device: Device, dtype: str) -> float:
    """Dense matrix peak of a datatype; fp32 without a matrix path runs on vector units.

    Parameters
    ----------
    device : Device
    dtype : str
        A key of `device.matrix_peak`, or fp32.

    Returns
    -------
    float
        [FLOP/s]

    Raises
    ------
    ModelDomainError
        The device has no matrix units for the datatype: no other stands in for it.
    """
    if dtype in device.matrix_peak:
        return device.matrix_peak[dtype]
    if dtype == "fp32":
        return device.vector_peak
    raise ModelDomainError(
        f"device {device.name} has no matrix peak for {dtype!r}; "
        f"it has {', '.join(sorted(device.matrix_peak))}"
    )


def gemm_row(device: Device, profile: Profile, dtype: str, sustained: bool) -> Array:
    """Numbers of a device, a datatype and its coefficients, for `gemm_s` and its kernel.

    Parameters
    ----------
    device, profile
        The accelerator and its fitted behaviour.
    dtype : str
        Datatype of both operands.
    sustained : bool
        A training step: the power limit holds from the first microsecond (a ramp of zero), at the
        level that an unbroken stream of products sustains (`training_clock_fraction`). Products
        that the limit does not reach run at the boost clock.

    Returns
    -------
    ndarray (15,)
        In the order of `COLUMNS`.

    Raises
    ------
    ModelDomainError
        The device has no matrix peak for the datatype, or the profile no coefficients of it or of a
        16-bit type.
    """
    c = profile.gemm_coefficients(dtype)
    limit = profile.training_clock_fraction if sustained else 1.0
    peak = matrix_peak(device, dtype)
    return np.array(
        [
            device.sms,
            peak * c.matmul_efficiency / device.sms,
            device.memory_bandwidth * c.memory_efficiency,
            device.memory_bandwidth,
            dtype_bytes(dtype),
            c.tile_edge_penalty,
            c.sm_bandwidth,
            c.tile_fill_s,
            c.split_overhead_s,
            peak * c.power_fraction * limit,
            0.0 if sustained else c.power_ramp_s,
            c.kernel_floor_s,
            dtype_bytes(dtype),
            c.step_latency_s,
            c.overlap_norm,
        ]
    )


def alignment_factor(
    elements: Array, batched: NDArray[np.bool_], dtype: str, device: Device, profile: Profile
) -> Array:
    """Slow-down of the main loop when the rows in memory are not multiples of 64 bytes.

    Parameters
    ----------
    elements : ndarray of int64 (n,)
        Greatest common divisor of the contiguous dims of a product.
    batched : ndarray of bool (n,)
        Many products in one launch.
    dtype : str
        Datatype of the operands.
    device, profile
        The accelerator and its fitted behaviour.

    Returns
    -------
    ndarray (n,)
        Factor on the main loop, at least 1.

    Notes
    -----
    Below 16 bytes a single product keeps the matrix units since cuBLAS 11 [1]_, at about half
    their rate. Batched products leave them: they run in fp32 on the vector units, at vector_peak
    times vector_efficiency (kernels named ``fp16_sgemm_fp16`` in traces).

    References
    ----------
    .. [1] NVIDIA, "Matrix Multiplication Background User's Guide", 2023, section 2.2.
    """
    size = np.asarray(elements, dtype=np.float64) * dtype_bytes(dtype)
    a = profile.alignment
    matrix = matrix_peak(device, dtype) * profile.gemm_coefficients(dtype).matmul_efficiency
    vector = max(a.below_16, matrix / (device.vector_peak * a.vector_efficiency))
    narrow = np.where(batched, vector, a.below_16)
    return np.where(
        size % 64 == 0,
        1.0,
        np.where(size % 32 == 0, a.bytes_32, np.where(size % 16 == 0, a.bytes_16, narrow)),
    )


def gemm_s(
    shape: tuple[Array, Array, Array, Array],
    traffic_bytes: Array,
    slow: Array,
    row: Array,
    splits: Array = SPLITS,
) -> tuple[Array, Array, Array]:
    """Time of products C[m,n] = A[m,k] B[k,n], `batch` of them in one launch.

    Parameters
    ----------
    shape : tuple of ndarray (n,)
        m, n, k, batch; at least 1.
    traffic_bytes : ndarray (n,)
        Least traffic with memory, at least the operands and the result once. [bytes]
    slow : ndarray (n,)
        Factor on the main loop, from `alignment_factor`.
    row : ndarray (15,)
        Device and coefficients, from `gemm_row`.
    splits : ndarray
        Ways to split k; none for libraries that do not.

    Returns
    -------
    tuple of ndarray (n,)
        Time of one kernel, of its tiles alone, of its traffic alone. [s]

    Notes
    -----
    Of each tile (a, b) in `TILES`, T = batch ceil(m/a) ceil(n/b) tiles run on S SMs in ceil(T/S)
    waves. A wave lasts k step + epilogue; step is the longer of the arithmetic 2ab/rate and the
    operands (a+b) bytes / sm_bandwidth, never below step_latency. A split of k in s pieces runs
    ceil(sT/S) shorter waves and pays for writing and reading partial sums. The best choice,
    tiles_s, meets the traffic as (tiles_s^3 + traffic_s^3)^(1/3), or as squares where overlap_norm
    is 2, and the power limit flop / power_flop_per_s as an 8-norm; the
    limit is felt by x/(1+x), x = t / power_ramp. The exponents 3 and 8 are assumed, smooth maxima
    of one sharpness for all devices. Domain: 1 <= m, n, k <= 2^20.
    """
    m, n, k, batch = shape
    tiles_s = _best_tiles_s(shape, traffic_bytes, slow, row, splits)
    traffic_s = traffic_bytes / row[2]
    return limited_s(tiles_s, traffic_s, 2.0 * m * n * k * batch, row), tiles_s, traffic_s


def any_gemm_s(
    shape: tuple[Array, Array, Array, Array],
    traffic_bytes: Array,
    slow: Array,
    row: Array,
    splits: Array = SPLITS,
) -> tuple[Array, Array, Array]:
    """Times of `gemm_s`: of a long list by the compiled kernel, which short ones never load.

    Parameters
    ----------
    shape : tuple of ndarray (n,)
        m, n, k, batch; at least 1.
    traffic_bytes, slow, row, splits
        As for `gemm_s`.

    Returns
    -------
    tuple of ndarray (n,)
        Time of one kernel, of its tiles alone, of its traffic alone; those of `gemm_s` but for
        rounding. [s]
    """
    if traffic_bytes.size < COMPILED_ROWS:
        return gemm_s(shape, traffic_bytes, slow, row, splits)
    prepare_numba_cache()
    from clustersim.cost.compute import kernels  # Numba: only where it pays

    out: Array = np.empty((3, traffic_bytes.size))
    kernels.gemm_s(*shape, traffic_bytes, slow, row, TILES, splits, out)
    return out[0], out[1], out[2]


def limited_s(tiles_s: Array, traffic_s: Array, flop: Array, row: Array) -> Array:
    """Time of one kernel from that of its tiles: memory roof, power limit and floor.

    Parameters
    ----------
    tiles_s, traffic_s : ndarray (n,)
        Time of the tiles alone, of the traffic alone. [s]
    flop : ndarray (n,)
        Arithmetic. [FLOP]
    row : ndarray (15,)
        Device and coefficients, from `gemm_row`.

    Returns
    -------
    ndarray (n,)
        [s]
    """
    if row[14] == 2.0:
        roof_s = np.sqrt(tiles_s**2 + traffic_s**2)
    else:
        roof_s = np.cbrt(tiles_s**3 + traffic_s**3)
    power_s = flop / row[9] * (roof_s / (roof_s + row[10]))
    return np.asarray(np.sqrt(np.sqrt(np.sqrt(roof_s**8 + power_s**8))) + row[11])


def _best_tiles_s(
    shape: tuple[Array, Array, Array, Array],
    traffic_bytes: Array,
    slow: Array,
    row: Array,
    splits: Array,
) -> Array:
    """Time on the SMs with the best tile and split of the lists."""
    m, n, k, batch = shape
    sms, size, raw_bytes_per_s = row[0], row[4], row[3]
    padded_k = np.ceil(k / K_STEP) * K_STEP
    operands = (m * k * size + k * n * row[12]) * batch
    result_bytes = np.maximum((traffic_bytes - operands) / (m * n * batch), size)
    best_s = np.full(m.shape, np.inf)
    for a, b in TILES:
        rows, columns = np.minimum(m, a), np.minimum(n, b)
        tiles = np.ceil(m / a) * np.ceil(n / b) * batch
        edge = 1.0 + row[5] * (1.0 / a + 1.0 / b - 3.0 / 256.0)
        feed_s = np.maximum((rows * size + columns * row[12]) / row[6], row[13])
        step_s = np.maximum(2.0 * a * b / row[1] * edge * slow, feed_s)
        end_s = rows * columns * result_bytes / row[6] + row[7]
        best_s = np.minimum(best_s, np.ceil(tiles / sms) * (padded_k * step_s + end_s))
        idle = np.clip(np.floor(sms / tiles), 1.0, MOST_SPLITS)
        for split in splits:
            pieces = idle if split == 0 else split
            piece_k = np.maximum(np.ceil(padded_k / pieces / K_STEP) * K_STEP, LEAST_SPLIT_K)
            waves = np.ceil(tiles * pieces / sms)
            partial = (
                np.minimum(sms, MOST_SPLITS * tiles) * rows * columns
                if split == 0
                else split * m * n * batch
            )
            split_s = waves * (piece_k * step_s + end_s) + row[8] + 8.0 * partial / raw_bytes_per_s
            allowed = (pieces > 1) & (tiles < SPLIT_WAVES * sms)
            best_s = np.where(allowed, np.minimum(best_s, split_s), best_s)
    return best_s
