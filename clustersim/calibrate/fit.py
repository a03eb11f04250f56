"""Least squares on the logarithm of predicted over measured, and the error on what was not fitted.

Coefficients move between physical bounds, those that span decades by their logarithm. A weak pull
towards the starting values keeps a coefficient that the data do not determine where it was. The
loss is soft L1, so that a few odd rows do not carry the fit. Held-out error comes from five folds
over shapes and from the largest tenth of the rows, predicted by a fit to the others. Starting
values that were themselves fitted would hand the rows left out to these fits, so they start, and
are pulled, from the middle of the bounds. Models round to tiles and waves, which leaves local
minima: each fit also tries scattered points for a few steps, and goes on from the lowest loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.measured.family import Coefficient

Floats = NDArray[np.float64]
Predict = Callable[[Floats, NDArray[np.int64]], Floats]
"""Coefficients and row numbers to seconds of these rows."""

FOLDS = 5
LEAST_POINTS, POINTS_A_PARAMETER = 10, 3
F_SCALE = 0.1  # errors beyond ten per cent count less than squared
PULL = 0.01  # an e-fold off its start weighs like an error of one per cent
EVALUATIONS = 40  # of the residuals with their derivatives
STEP = 1e-3  # of derivatives: models round to tiles, so a small step sees nothing
FAR = 5.0  # residual where a trial step leaves the domain
SCATTERED = 4  # points tried beside the starting values
SCATTER = (0.2, 0.8)  # part of the bounds that they lie in
TRIAL = 12  # evaluations of each


@dataclass(frozen=True)
class Sample:
    """Rows to fit to.

    Attributes
    ----------
    measured_s : ndarray (n,)
        [s]
    groups : ndarray of int (n,)
        Shape of each row: folds never split one.
    size : ndarray (n,)
        Work, by which the largest tenth is taken.
    weight : ndarray (n,)
        Mean 1.
    """

    measured_s: Floats
    groups: NDArray[np.int64]
    size: Floats
    weight: Floats


@dataclass(frozen=True)
class FitResult:
    """Coefficients and what they miss, as fractions.

    Attributes
    ----------
    values : ndarray (p,)
        Coefficients.
    before, in_sample : float
        Mean absolute error of all rows with the starting values and with `values`.
    held_out : float or None
        Mean absolute error over the folds; None of fewer than five shapes.
    tenth_points : int
    tenth_in_sample, tenth_held_out : float or None
        Of the largest tenth, fitted with it and without it.
    """

    values: Floats
    before: float
    in_sample: float
    held_out: float | None
    tenth_points: int
    tenth_in_sample: float | None
    tenth_held_out: float | None


def fit_document(result: FitResult | None, names: Sequence[str]) -> dict[str, Any]:
    """Errors and coefficients as JSON, fractions.

    Parameters
    ----------
    result : FitResult or None
        None: nothing was fitted.
    names : sequence of str
        Coefficients, in the order of `result.values`.

    Returns
    -------
    dict
        Keys of `FitResult`; ``values`` by name. All null where nothing was fitted.
    """
    keys = [field.name for field in fields(FitResult) if field.name != "values"]
    document: dict[str, Any] = {key: getattr(result, key) if result else None for key in keys}
    values = dict(zip(names, result.values.tolist(), strict=True)) if result else None
    return {**document, "values": values}


def least_points(parameters: int) -> int:
    """Rows without which a section is not fitted.

    Parameters
    ----------
    parameters : int
        Free coefficients.

    Returns
    -------
    int
        Three for each, and at least 10.
    """
    return max(LEAST_POINTS, POINTS_A_PARAMETER * parameters)


def fit(
    predict: Predict,
    start: Floats,
    coefficients: Sequence[Coefficient],
    sample: Sample,
    rng: np.random.Generator,
) -> FitResult:
    """Fit to all rows, then to folds and to the smaller nine tenths.

    Parameters
    ----------
    predict : callable
        The model, with the rows of the sample behind it.
    start : ndarray (p,)
        Values to start from.
    coefficients : sequence of Coefficient
        Their bounds.
    sample : Sample
        At least `least_points` rows.
    rng : Generator
        Scatters starting points and deals shapes to folds.

    Returns
    -------
    FitResult
        Values inside the bounds; rows that they cannot price count in no error.
    """
    everything = np.arange(sample.measured_s.size)
    middle = np.array([coefficient.middle for coefficient in coefficients])
    others = (middle, *(scattered(coefficients, rng) for _ in range(SCATTERED)))

    def solve(rows: NDArray[np.int64]) -> Floats:
        return _solve(predict, others, coefficients, sample, rows)

    def error(values: Floats, rows: NDArray[np.int64]) -> Floats:
        return np.abs(predict(values, rows) / sample.measured_s[rows] - 1)

    values = _solve(predict, (start, *others), coefficients, sample, everything)
    large = _largest_tenth(sample.size)
    small = np.flatnonzero(~large)
    tenth = np.flatnonzero(large)
    tested = tenth.size > 0 and small.size >= least_points(len(coefficients))
    return FitResult(
        values=values,
        before=_mean(error(start, everything)) or 0.0,
        in_sample=_mean(error(values, everything)) or 0.0,
        held_out=_folds(solve, error, sample.groups, rng),
        tenth_points=tenth.size,
        tenth_in_sample=_mean(error(values, tenth)) if tested else None,
        tenth_held_out=_mean(error(solve(small), tenth)) if tested else None,
    )


def scattered(coefficients: Sequence[Coefficient], rng: np.random.Generator) -> Floats:
    """A point in the inner part of the bounds.

    Parameters
    ----------
    coefficients : sequence of Coefficient
        By the logarithm where both bounds are positive.
    rng : Generator
        One draw a coefficient.

    Returns
    -------
    ndarray (p,)
        From 0.2 to 0.8 of the way between the bounds.
    """
    share = rng.uniform(*SCATTER, len(coefficients))
    return np.array([c.between(part) for c, part in zip(coefficients, share, strict=True)])


def _mean(errors: Floats) -> float | None:
    finite = errors[np.isfinite(errors)]
    return float(finite.mean()) if finite.size else None


def _largest_tenth(size: Floats) -> NDArray[np.bool_]:
    """Rows above the ninth decile; none where all are alike."""
    return np.asarray(size > np.quantile(size, 0.9))


def _folds(
    solve: Callable[[NDArray[np.int64]], Floats],
    error: Callable[[Floats, NDArray[np.int64]], Floats],
    groups: NDArray[np.int64],
    rng: np.random.Generator,
) -> float | None:
    names, codes = np.unique(groups, return_inverse=True)
    if names.size < FOLDS:
        return None
    fold = rng.permutation(np.arange(names.size) % FOLDS)[codes]
    errors = [
        error(solve(np.flatnonzero(fold != part)), np.flatnonzero(fold == part))
        for part in range(FOLDS)
    ]
    return _mean(np.concatenate(errors))


def _solve(
    predict: Predict,
    starts: Sequence[Floats],
    coefficients: Sequence[Coefficient],
    sample: Sample,
    rows: NDArray[np.int64],
) -> Floats:
    """Coefficients of least loss from these starts, pulled towards the first."""
    from scipy.optimize import least_squares

    low = np.array([coefficient.low for coefficient in coefficients])
    high = np.array([coefficient.high for coefficient in coefficients])
    by_log = low > 0
    span = np.where(by_log, 1.0, high - low)  # one unit is an e-fold, or the whole range

    def inward(values: Floats) -> Floats:
        safe = np.where(by_log, np.maximum(values, np.finfo(float).tiny), 1.0)
        return np.where(by_log, np.log(safe), (values - low) / span)

    def outward(position: Floats) -> Floats:
        values = np.where(by_log, np.exp(np.where(by_log, position, 0.0)), low + position * span)
        return np.clip(values, low, high)

    first, last = inward(low), inward(high)
    margin = 1e-6 * (last - first)
    positions = [
        np.clip(inward(np.clip(start, low, high)), first + margin, last - margin)
        for start in starts
    ]
    origin = positions[0]
    log_measured = np.log(sample.measured_s[rows])
    weight = np.sqrt(sample.weight[rows])
    pull = PULL * np.sqrt(rows.size)

    def residuals(position: Floats) -> Floats:
        predicted_s = predict(outward(position), rows)
        inside = np.isfinite(predicted_s) & (predicted_s > 0)
        miss = np.log(np.where(inside, predicted_s, 1.0)) - log_measured
        return np.concatenate((weight * np.where(inside, miss, FAR), pull * (position - origin)))

    def descend(position: Floats, evaluations: int) -> tuple[float, Floats]:
        found = least_squares(
            residuals,
            position,
            bounds=(first, last),
            loss="soft_l1",
            f_scale=F_SCALE,
            diff_step=STEP,
            max_nfev=evaluations,
            ftol=1e-5,
            xtol=1e-5,
        )
        return float(found.cost), found.x

    trials = [descend(position, TRIAL) for position in positions]
    _, best = min(trials, key=lambda trial: trial[0])
    return outward(descend(best, EVALUATIONS)[1])
