"""When requests arrive that nobody recorded: Poisson, bursty, by the hour of the day.

Left out: clients that give up, retries, and bursts that several clients have in common.

References
----------
.. [1] Y. Wang et al., "BurstGPT: a real-world workload dataset to optimize LLM serving systems,"
   2024, https://arxiv.org/abs/2401.17644 (gaps between requests are Gamma distributed)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clustersim.spec.workload import Arrivals

Floats = NDArray[np.float64]

BISECTIONS = 64


def draw_arrivals_s(
    arrivals: Arrivals, count: int, rate: float, rng: np.random.Generator
) -> Floats:
    """Arrival times of an open loop.

    Parameters
    ----------
    arrivals : Arrivals
        Of kind poisson, gamma or diurnal.
    count : int
        Arrivals; the first ones are the same whatever their number.
    rate : float
        Mean rate. [1/s]
    rng : Generator

    Returns
    -------
    ndarray of float64 (count,)
        Rising. [s]

    Notes
    -----
    Gaps of `gamma` have shape 1/cv^2 and scale cv^2/rate. `diurnal` is a Poisson process of rate
    ``rate (1 + a sin(2 pi t / period))`` with ``a = peak_to_mean - 1``: a process of rate 1 whose
    clock is the integral of that.
    """
    match arrivals.kind:
        case "poisson":
            return np.cumsum(rng.standard_exponential(count)) / rate
        case "gamma":
            shape = arrivals.variation**-2
            return np.cumsum(rng.standard_gamma(shape, count)) / (shape * rate)
        case "diurnal":
            mean_s = np.cumsum(rng.standard_exponential(count)) / rate
            return diurnal_s(mean_s, arrivals.peak_to_mean - 1.0, arrivals.period)
    raise AssertionError(arrivals.kind)


def diurnal_s(mean_s: Floats, swing: float, period_s: float) -> Floats:
    """Times at which a daily rhythm has brought as much as an even flow had by `mean_s`.

    Parameters
    ----------
    mean_s : ndarray of float64 (n,)
        Rising times of the even flow. [s]
    swing : float
        Amplitude of the rate over its mean, 0 to 1.
    period_s : float
        Of the sine. [s]

    Returns
    -------
    ndarray of float64 (n,)
        Rising. [s]

    Notes
    -----
    Solves ``t + swing period / (2 pi) (1 - cos(2 pi t / period)) = mean`` by bisection: the left
    side rises, and the root lies at most ``swing period / pi`` below the mean.
    """
    if swing == 0.0:
        return mean_s
    span_s = swing * period_s / math.pi
    low_s, high_s = np.maximum(mean_s - span_s, 0.0), mean_s.copy()
    for _ in range(BISECTIONS):
        middle_s = 0.5 * (low_s + high_s)
        turned_s = middle_s + 0.5 * span_s * (1.0 - np.cos(2.0 * math.pi / period_s * middle_s))
        below = turned_s < mean_s
        low_s = np.where(below, middle_s, low_s)
        high_s = np.where(below, high_s, middle_s)
    return np.maximum.accumulate(high_s)
