"""Ridge regression towards given weights, with the ridge chosen on held-out rows. Maths only."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from population.errors import InputError

Array = NDArray[Any]

# Ridges that are tried, in units of the mean second moment of a feature.
_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Steps towards the best fit in front of a ReLU. More of them gain little. Any stride in (0, 2) lowers the
# loss, and the longer ones are the quicker ones.
_RECTIFIED_STEPS = 3
_STRIDE = 1.8


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """A linear map, float64.

    Attributes:
        weight: shape (k, d).
        intercept: shape (k,); zeros where none was asked for.
        mean: of the fitted values over all rows, shape (k,).
        variance: of the fitted values over all rows, shape (k,).
    """

    weight: Array
    intercept: Array
    mean: Array
    variance: Array


def ridge_regression(
    x: Array, y: Array, old: Array, *, held_out: int, has_intercept: bool, added: Array | None
) -> RidgeFit:
    """Fits outputs to features.

    Without a ReLU, minimises ``|X W + b - Y|^2 + r |W - S|^2``, S being the old weights, each output's
    at the scale that fits best alone, and r the ridge that has the least error on the held-out rows; all
    rows are fitted with it then. In front of a ReLU the loss is ``(p - t)^2`` where the wanted sum t is
    positive and ``max(p, 0)^2`` elsewhere, p being the fitted sum: every value below zero is as good. A
    few steps of majorisation lower that loss, which is convex, from the fit without it: the fitted
    value, or zero if that is less, becomes the target wherever t is not positive.

    Args:
        x: features, shape (n, d), float32 or float64; they are centred in place if there is an intercept.
        y: targets, shape (n, k), of the same type.
        old: the weights that the ridge pulls towards, shape (k, d), of the same type.
        held_out: number of rows, the last ones, that the ridge is chosen on.
        has_intercept: whether the outputs have an intercept.
        added: what is added to the outputs before a ReLU takes them, shape (n, k); None without ReLU.

    Raises:
        InputError: if there are values that are not finite.
    """
    mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
    if not (np.isfinite(mean_x).all() and np.isfinite(mean_y).all()):
        raise InputError("calibration gives NaN or infinite values; layers cannot be fitted to them")
    if not has_intercept:
        mean_x, mean_y = np.zeros_like(mean_x), np.zeros_like(mean_y)
    x -= mean_x.astype(x.dtype)
    prior, reach = _rescaled(old, x, y - mean_y.astype(y.dtype))
    residual = y - mean_y.astype(y.dtype) - reach
    train = len(x) - held_out
    some, every = _grams(x, train)
    place = _best_ridge(x, residual, some, train)
    # With few rows a small ridge may be too small for all of them together: then the next one.
    factors = (_factor(every, ridge, x.shape[1]) for ridge in _RIDGES[place:])
    factor = next(f for f in factors if f is not None)
    weight, intercept = prior + _weights(factor, x, _moments(every, x, residual)), mean_y
    for _ in range(0 if added is None else _RECTIFIED_STEPS):
        fitted = x @ weight.astype(x.dtype) + intercept.astype(x.dtype)
        wanted = np.where(y + added > 0, y, np.minimum(fitted, -cast("Array", added)))
        mean = wanted.mean(0, dtype=np.float64) if has_intercept else mean_y
        residual = wanted - mean.astype(x.dtype) - reach
        target = prior + _weights(factor, x, _moments(every, x, residual))
        weight, intercept = weight + _STRIDE * (target - weight), intercept + _STRIDE * (mean - intercept)
    # Features whose mean was taken away give fitted values of mean zero.
    offset = np.zeros_like(mean_y) if has_intercept else x.mean(0, dtype=np.float64) @ weight
    return RidgeFit(
        np.ascontiguousarray(weight.T),
        intercept - mean_x @ weight,
        intercept + offset,
        np.maximum(_mean_square(every, x, weight) - offset**2, 0),
    )


def _rescaled(old: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Old weights, each output's at the scale that fits best, shape (d, k), and what they give, (n, k)."""
    reach = x @ old.T
    squares = np.square(reach).sum(0, dtype=np.float64)
    products = (reach * y).sum(0, dtype=np.float64)
    scale = np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0)
    return old.T * scale, reach * scale.astype(x.dtype)


def _grams(x: Array, train: int) -> tuple[Array, Array]:
    """Inner products of features over the first and over all rows; of rows, where these are fewer.

    Numpy takes half the operations of torch, as it sees that the product is symmetric.
    """
    if len(x) < x.shape[1]:
        between = (x @ x.T).astype(np.float64)
        return between[:train, :train], between
    some = (x[:train].T @ x[:train]).astype(np.float64)
    return some, some + x[train:].T @ x[train:]


def _factor(gram: Array, ridge: float, features: int) -> Array | None:
    """Cholesky factor with a ridge; None where the ridge is below the rounding of the products."""
    matrix = gram.copy()
    matrix[np.diag_indices(len(matrix))] += ridge * max(np.trace(gram) / features, 1e-12)
    try:
        return cast("Array", cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)[0])
    except LinAlgError:
        return None


def _moments(gram: Array, x: Array, y: Array) -> Array:
    """What a fit needs of the targets (n, k), whatever the ridge: (d, k), or (n, k) for rows."""
    return x.T @ y if len(gram) == x.shape[1] else y


def _weights(factor: Array, x: Array, moments: Array) -> Array:
    """Ridge weights, shape (d, k)."""
    solved = cast("Array", cho_solve((factor, True), moments, check_finite=False))
    return solved if len(factor) == x.shape[1] else x.T @ solved


def _mean_square(gram: Array, x: Array, weight: Array) -> Array:
    """Mean square of what weights (d, k) give on all rows, shape (k,)."""
    if len(gram) == x.shape[1]:
        return cast("Array", (weight * (gram @ weight)).sum(0) / len(x))
    return cast("Array", np.square(x @ weight).mean(0))


def _best_ridge(x: Array, y: Array, gram: Array, train: int) -> int:
    """Place of the ridge of least error on the rows after the first ones: from the largest downhill."""
    moments = _moments(gram, x[:train], y[:train])

    def error(place: int) -> float:
        factor = _factor(gram, _RIDGES[place], x.shape[1])
        if factor is None:
            return float("inf")
        fitted = x[train:] @ _weights(factor, x[:train], moments).astype(x.dtype)
        return float(np.square(y[train:] - fitted).sum(dtype=np.float64))

    place = len(_RIDGES) - 1
    least = error(place)
    while place > 0 and (smaller := error(place - 1)) < least:
        place, least = place - 1, smaller
    return place
