"""Rows of ``gemm``: products of serving frameworks, every datatype, in a captured graph.

A row of 8 or 4 bits includes the quantisation of its activations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.quantised import FORMATS, format_of, repeated_s
from clustersim.cost.measured.columns import no_variant, numbers, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

STEM = "gemm"

PRODUCT = (
    Coefficient("matmul_efficiency", 0.2, 1.0),
    Coefficient("power_fraction", 0.2, 1.0),
    Coefficient("power_ramp_s", 1e-7, 1e-2),
    Coefficient("tile_edge_penalty", 0.01, 100.0),
    Coefficient("sm_bandwidth", 5e9, 8e11),
    Coefficient("tile_fill_s", 1e-9, 1e-5),
    Coefficient("memory_efficiency", 0.3, 0.97),
    Coefficient("split_overhead_s", 1e-8, 3e-5),
    Coefficient("kernel_floor_s", 1e-8, 4e-5),
)
LOOP = Coefficient("step_latency_s", 1e-12, 1e-8)
QUANTISE = (
    Coefficient("quantise_floor_s", 1e-8, 4e-5),
    Coefficient("quantise_row_s", 1e-13, 1e-7),
    Coefficient("quantise_efficiency", 0.02, 4.0),
)


def product_shape(columns: Columns) -> tuple[Floats, Floats, Floats, Floats]:
    """Shapes of products.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With m, n and k.

    Returns
    -------
    tuple of ndarray (n,)
        m, n, k and a batch of one, float64; all NaN in rows with a dim below 1.
    """
    m, n, k = numbers(columns, "m", "n", "k")
    legal = (m >= 1) & (n >= 1) & (k >= 1)
    return tuple(np.where(legal, dim, np.nan) for dim in (m, n, k, np.ones(m.size)))  # type: ignore[return-value]


def dtype_sections(columns: Columns) -> NDArray[np.str_]:
    """Section of each row by its datatype.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)

    Returns
    -------
    ndarray of str (n,)
        ``gemm/DTYPE``; "" where the datatype is not known.
    """
    dtypes = words(columns, "dtype")
    return np.where(np.isin(dtypes, list(FORMATS)), np.char.add("gemm/", dtypes), "")


def _coefficients(section: str) -> tuple[Coefficient, ...]:
    form = format_of(section.partition("/")[2])
    if form.quantise_bytes:
        return (*PRODUCT, LOOP, *QUANTISE)
    return PRODUCT


def predict_by_dtype(
    shape: tuple[Floats, Floats, Floats, Floats],
    dtypes: NDArray[np.str_],
    device: Device,
    profile: Profile,
    suffix: str = "",
    sustained: bool = False,
) -> Floats:
    """Time of products, datatype by datatype.

    Parameters
    ----------
    shape : tuple of ndarray (n,)
        m, n, k, batch; NaN outside the domain.
    dtypes : ndarray of str (n,)
    device, profile
        The accelerator and its fitted behaviour.
    suffix : str
        What follows the datatype in the name of a section.
    sustained : bool
        An unbroken stream of kernels. Coefficients of a section with the suffix were fitted to
        such a stream and know its clocks, those of the datatype do not.

    Returns
    -------
    ndarray (n,)
        NaN outside the domain: unknown datatypes, and those that the device cannot run. [s]
    """
    times = np.full(dtypes.size, np.nan)
    for dtype in np.unique(dtypes):
        rows = np.flatnonzero((dtypes == dtype) & np.isfinite(shape[0]))
        if dtype not in FORMATS or rows.size == 0:
            continue
        dims = tuple(np.ascontiguousarray(dim[rows]) for dim in shape)
        name = str(dtype) + suffix
        own = name in profile.gemm
        try:
            times[rows] = repeated_s(
                (dims[0], dims[1], dims[2], dims[3]),
                str(dtype),
                device,
                profile,
                name if own else str(dtype),
                sustained and not own,
            )
        except ModelDomainError:
            continue  # a device without matrix units for it
    return times


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    dtypes = words(columns, "dtype")
    return predict_by_dtype(product_shape(columns), dtypes, device, profile)


def product_size(columns: Columns) -> Floats:
    """Arithmetic of each product.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With m, n and k.

    Returns
    -------
    ndarray (n,)
        NaN in rows with a dim below 1. [FLOP]
    """
    m, n, k, _ = product_shape(columns)
    return 2.0 * m * n * k


FAMILY = Family(
    stem=STEM,
    required=("dtype", "m", "n", "k"),
    sections=dtype_sections,
    coefficients=_coefficients,
    predict=_predict,
    size=product_size,
    variant=no_variant,
)
