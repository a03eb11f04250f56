"""Coefficients of products that a plain one does without: quantised operands, repeated calls.

All have a neutral default, so that a profile names only what its device or datatype shows.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clustersim.spec.base import Record, Seconds


class QuantisedCoefficients(Record):
    """How a datatype's loop waits, how activations are quantised, what repetition leaves in L2."""

    step_latency_s: Seconds = Field(
        default=0.0, ge=0, description="least time of one element of k in the main loop of a tile"
    )
    overlap_norm: Literal[2, 3] = Field(
        default=3, description="norm in which tiles and traffic meet: 2 overlaps less than 3"
    )
    quantise_floor_s: Seconds = Field(
        default=0.0, ge=0, description="launches of the kernels that quantise the activations"
    )
    quantise_row_s: Seconds = Field(
        default=0.0, ge=0, description="time of one row of activations in these kernels"
    )
    quantise_efficiency: float = Field(
        default=1.0, gt=0, le=1, description="share of the memory bandwidth in these kernels"
    )
    cache_fraction: float = Field(
        default=0.0, ge=0, le=1.5, description="share of L2 that keeps operands between repetitions"
    )
    cache_speedup: float = Field(
        default=1.0, ge=1, description="rate of traffic found in L2 over that of the memory"
    )
    write_ratio: float = Field(
        default=1.0, ge=1, description="memory time of a written byte over that of a read one"
    )
    issue_s: Seconds = Field(
        default=0.0, ge=0, description="least interval of an eager loop of this benchmark"
    )
