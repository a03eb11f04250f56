"""Time of a product as a benchmark of serving kernels sees it: any datatype, called repeatedly.

Three things come to the tiles, roof and power limit of `gemm`. Activations arrive in 16 bits and
are quantised before a product in 8 or 4 bits. Weights may be narrower than activations and are
widened on the fly. And the call is repeated on the same activations and a few sets of weights, of
which a large L2 keeps what fits. Left out: reordering of scales, kernels chosen for one row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.gemm import COLUMNS, SPLITS, any_gemm_s, gemm_row, limited_s
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import GemmCoefficients, Profile

Array = NDArray[np.float64]

EVICTION = 0.1  # assumed: share of L2 over which a cyclic working set turns to all misses
SETS_OF_WEIGHTS = 5.0  # most that the collector of the measured rows cycles through
NO_SPLITS = SPLITS[:0]
SPLIT_COLUMN = COLUMNS.index("split_overhead_s")


@dataclass(frozen=True)
class Format:
    """What a datatype means for a product.

    Attributes
    ----------
    activation_bytes, weight_bytes : float
        Of one element as the main loop reads it, scales of blocks included. [bytes]
    math : tuple of str
        Datatype of the matrix units: the first that the device has.
    quantise_bytes : float
        Moved for one element of activations by the kernels that quantise them. [bytes]
    splits : bool
        Whether libraries split k.
    """

    activation_bytes: float
    weight_bytes: float
    math: tuple[str, ...]
    quantise_bytes: float = 0.0
    splits: bool = True


HALF = ("bf16", "fp16")
FORMATS = {
    "bf16": Format(2.0, 2.0, HALF),
    "fp16": Format(2.0, 2.0, HALF),
    # read for the largest value, read again to scale, written in 8 bits
    "fp8": Format(1.0, 1.0, ("fp8", *HALF), 5.0),
    # one kernel reads, scales blocks of 1 x 128 and writes
    "fp8_block": Format(1.0, 1.0, ("fp8", *HALF), 3.0, splits=False),
    # 4 bits and one scale of 8 bits for 16 elements
    "nvfp4": Format(0.5625, 0.5625, ("nvfp4", "fp8", *HALF), 2.5625, splits=False),
    # 4 bits and one scale of 8 bits for 32 elements
    "mxfp4": Format(0.53125, 0.53125, ("nvfp4", "fp8", *HALF), 2.53125, splits=False),
    "w4a16_mxfp4": Format(2.0, 0.53125, HALF),
    "w4a8_mxfp4_mxfp8": Format(1.03125, 0.53125, ("fp8", *HALF), 3.03125, splits=False),
    "int8": Format(1.0, 1.0, ("int8", *HALF)),
    "w8a8_int": Format(1.0, 1.0, ("int8", *HALF)),
    "w8a16_int": Format(2.0, 1.0, HALF),
    "w4a16_int": Format(2.0, 0.5, HALF),
}
ARRIVING_BYTES = 2.0  # of an element of the activations before they are quantised
RESULT_BYTES = 2.0  # results are written in 16 bits


def format_of(dtype: str) -> Format:
    """What a datatype means for a product, whatever the device.

    Parameters
    ----------
    dtype : str
        A key of `FORMATS`.

    Returns
    -------
    Format

    Raises
    ------
    ModelDomainError
        The datatype is not known.
    """
    if dtype not in FORMATS:
        raise ModelDomainError(f"unknown datatype {dtype!r}; known: {', '.join(FORMATS)}")
    return FORMATS[dtype]


def math_dtype(device: Device, dtype: str) -> str:
    """Datatype of the matrix units that run a product; 16 bits where a device lacks narrow ones.

    Parameters
    ----------
    device : Device
    dtype : str
        A key of `FORMATS`.

    Returns
    -------
    str
        A key of `device.matrix_peak`.

    Raises
    ------
    ModelDomainError
        The datatype is not known, or the device has no matrix units that could run it.
    """
    for candidate in format_of(dtype).math:
        if candidate in device.matrix_peak:
            return candidate
    raise ModelDomainError(
        f"device {device.name} has no matrix peak for {dtype!r}; "
        f"it has {', '.join(sorted(device.matrix_peak))}"
    )


def format_on(device: Device, dtype: str) -> Format:
    """What a datatype means on a device: without narrow matrix units only weights are narrow.

    Parameters
    ----------
    device : Device
    dtype : str
        A key of `FORMATS`.
    """
    form = format_of(dtype)
    if form.quantise_bytes and math_dtype(device, dtype) in HALF:
        return replace(form, activation_bytes=2.0, quantise_bytes=0.0)
    return form


def quantised_row(
    device: Device, profile: Profile, dtype: str, section: str, sustained: bool
) -> Array:
    """Numbers for `gemm.gemm_s`: peak and widths of a datatype, coefficients of a section.

    Parameters
    ----------
    device, profile
        The accelerator and its fitted behaviour.
    dtype : str
        A key of `FORMATS`.
    section : str
        Key of `profile.gemm` for the coefficients; 16-bit ones stand in for it.
    sustained : bool
        As for `gemm.gemm_row`.

    Returns
    -------
    ndarray (15,)

    Raises
    ------
    ModelDomainError
        As for `repeated_s`.
    """
    form = format_on(device, dtype)
    stand_in = profile.model_copy(
        update={"gemm": {math_dtype(device, dtype): profile.gemm_coefficients(section)}}
    )
    row = gemm_row(device, stand_in, math_dtype(device, dtype), sustained)
    row[4], row[12] = form.activation_bytes, form.weight_bytes
    return row


def miss_fraction(working_bytes: Array, kept_bytes: float) -> Array:
    """Share of a cyclic working set that a cache of some size has lost again.

    Parameters
    ----------
    working_bytes : ndarray (n,)
        Touched between two uses. [bytes]
    kept_bytes : float
        What the cache keeps; 0 keeps nothing. [bytes]

    Returns
    -------
    ndarray (n,)
        0 up to the size of the cache, 1 from a tenth beyond it.
    """
    if kept_bytes <= 0:
        return np.ones(working_bytes.shape)
    return np.clip((working_bytes / kept_bytes - 1.0) / EVICTION, 0.0, 1.0)


def repeated_s(
    shape: tuple[Array, Array, Array, Array],
    dtype: str,
    device: Device,
    profile: Profile,
    section: str = "",
    sustained: bool = False,
    most_sets: float = SETS_OF_WEIGHTS,
    arrives_quantised: bool = False,
    autotuned: bool = False,
) -> Array:
    """Time of one call of a product that is repeated, quantisation of activations included.

    Parameters
    ----------
    shape : tuple of ndarray (n,)
        m, n, k, batch; at least 1.
    dtype : str
        A key of `FORMATS`.
    device, profile
        The accelerator and its fitted behaviour.
    section : str
        Key of `profile.gemm`; the datatype where it is empty.
    sustained : bool
        An unbroken stream of kernels (True), or a short micro-benchmark.
    most_sets : float
        Sets of weights that repetitions cycle through, at most.
    arrives_quantised : bool
        The kernel before has quantised the activations (static scales).
    autotuned : bool
        Kernels were chosen by timing them, as serving engines do when they start: those that split
        k are among them, at the cost of a split in 16 bits where none was measured.

    Returns
    -------
    ndarray (n,)
        [s]

    Raises
    ------
    ModelDomainError
        The datatype is not known, the device has no matrix units that could run it, or the profile
        no coefficients that could stand in.

    Notes
    -----
    Operands and results that a repetition finds in L2 again move `cache_speedup` times as fast as
    memory. The benchmark cycles through min(5, ceil(L2 / weights)) sets of weights, so that weights
    whose sets just fill L2 stay there and slightly larger ones do not: the one case in which more
    work is cheaper. Only profiles with a `cache_fraction` know this.
    """
    c = profile.gemm_coefficients(section or dtype)
    form = format_on(device, dtype)
    m, n, k, batch = shape
    row = quantised_row(device, profile, dtype, section or dtype, sustained)
    activations = m * k * batch * form.activation_bytes
    weights = k * n * batch * form.weight_bytes
    results = m * n * batch * RESULT_BYTES
    total = activations + weights + results
    if autotuned and not form.splits:
        row[SPLIT_COLUMN] = profile.gemm_coefficients(HALF[0]).split_overhead_s
    splits = SPLITS if form.splits or autotuned else NO_SPLITS
    aligned = np.ones(total.size)
    _, tiles_s, _ = any_gemm_s(shape, total, aligned, row, splits)
    traffic = _memory_bytes((activations, weights, results), most_sets, device, c)
    call_s = limited_s(tiles_s, traffic / row[2], 2.0 * m * n * k * batch, row)
    if form.quantise_bytes and not arrives_quantised:
        call_s = call_s + _quantise_s((m, k, batch), total, form, device, c)
    if c.issue_s:
        call_s = c.issue_s * (1.0 + (call_s / c.issue_s) ** 8) ** 0.125
    return np.asarray(call_s)


def _memory_bytes(
    parts: tuple[Array, Array, Array], most_sets: float, device: Device, c: GemmCoefficients
) -> Array:
    """Traffic, counted as reads of the memory, of a call that is repeated. [bytes]"""
    activations, weights, results = parts
    kept = device.l2_cache * c.cache_fraction
    sets = np.clip(np.ceil(device.l2_cache / weights), 1.0, most_sets)
    working = activations + results
    written = results * c.write_ratio
    missed = miss_fraction(working + weights, kept) * (activations + written)
    missed = missed + miss_fraction(working + sets * weights, kept) * weights
    return np.asarray(missed + (activations + weights + written - missed) / c.cache_speedup)


def _quantise_s(
    shape: tuple[Array, Array, Array],
    product_bytes: Array,
    form: Format,
    device: Device,
    c: GemmCoefficients,
) -> Array:
    """Time of the kernels that quantise the activations, before a product of some traffic. [s]"""
    m, k, batch = shape
    elements = m * k * batch
    kept = device.l2_cache * c.cache_fraction
    missed = miss_fraction(product_bytes + ARRIVING_BYTES * elements, kept)
    moved = elements * form.quantise_bytes * (missed + (1.0 - missed) / c.cache_speedup)
    passes_s = moved / (device.memory_bandwidth * c.quantise_efficiency)
    return np.asarray(c.quantise_floor_s + m * batch * c.quantise_row_s + passes_s)
