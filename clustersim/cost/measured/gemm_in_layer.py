"""Rows of ``gemm_in_layer``: linear layers timed inside a layer that an eager framework runs.

A stream of kernels, so clocks are those of a training step. Where a profile has a section of its
own for these rows it is used; else that of the datatype.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.compute.quantised import FORMATS
from clustersim.cost.measured.columns import words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.cost.measured.gemm import PRODUCT, predict_by_dtype, product_shape, product_size
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

SUFFIX = "_in_layer"


def _sections(columns: Columns) -> NDArray[np.str_]:
    dtypes = words(columns, "dtype")
    names = np.char.add(np.char.add("gemm/", dtypes), SUFFIX)
    return np.where(np.isin(dtypes, list(FORMATS)), names, "")


def _coefficients(section: str) -> tuple[Coefficient, ...]:
    return PRODUCT


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    dtypes = words(columns, "dtype")
    return predict_by_dtype(product_shape(columns), dtypes, device, profile, SUFFIX, sustained=True)


FAMILY = Family(
    stem="gemm_in_layer",
    required=("dtype", "m", "n", "k"),
    sections=_sections,
    coefficients=_coefficients,
    predict=_predict,
    size=product_size,
    variant=lambda columns: words(columns, "kernel"),
)
