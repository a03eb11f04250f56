"""What a family of measured rows needs to be predicted and fitted.

A family stands for one file of the measured schema (its stem, such as ``gemm``). Rows fall into
*sections*, each with coefficients of its own in the profile; a section is written as a path, so
``gemm/bf16`` is ``profile.gemm["bf16"]`` and ``launch`` is ``profile.launch``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

Columns = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coefficient:
    """One free number of a section, with the bounds that physics puts on it."""

    name: str
    low: float
    high: float

    @property
    def middle(self) -> float:
        """Halfway; by the logarithm where the bounds are positive."""
        return self.between(0.5)

    def between(self, share: float) -> float:
        """A value between the bounds; by the logarithm where both are positive.

        Parameters
        ----------
        share : float
            Part of the way from the low bound, 0, to the high one, 1.

        Returns
        -------
        float
            In the unit of the coefficient.
        """
        if self.low > 0:
            return math.exp(math.log(self.low) * (1.0 - share) + math.log(self.high) * share)
        return self.low + (self.high - self.low) * share


@dataclass(frozen=True)
class Family:
    """How rows of one measured file are priced.

    Attributes
    ----------
    stem : str
        Name of the file without its ending.
    required : tuple of str
        Columns that a row cannot do without, `device` and `latency_s` aside.
    sections : callable
        Columns to the section of each row, ndarray of str (n,); "" where the row is outside the
        domain of the model.
    coefficients : callable
        Section to its free coefficients.
    predict : callable
        Columns, device and profile to seconds, ndarray (n,); NaN outside the domain. The time of
        one call on an idle device under the conditions of a micro-benchmark.
    size : callable
        Columns to the work of each row, ndarray (n,): what "the largest tenth" is taken by.
    variant : callable
        Columns to the row's own op, collective or mode, ndarray of str (n,); "" where there is one.
    kernels : callable, optional
        Columns, device and profile to the section of each row, where a library of the device
        chooses among several kernels; None: `sections` says all.
    """

    stem: str
    required: tuple[str, ...]
    sections: Callable[[Columns], NDArray[np.str_]]
    coefficients: Callable[[str], tuple[Coefficient, ...]]
    predict: Callable[[Columns, Device, Profile], Floats]
    size: Callable[[Columns], Floats]
    variant: Callable[[Columns], NDArray[np.str_]]
    kernels: Callable[[Columns, Device, Profile], NDArray[np.str_]] | None = None
