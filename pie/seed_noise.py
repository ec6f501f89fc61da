"""How many PIEs a change of seeds alone would make, estimated from one population."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from pie.vote_model import VoteShapes, change_probability, shape_grid, top_two_probability
from population.errors import InputError
from population.predictions import Predictions

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_STEPS = 300
_UNANIMOUS_AT_START = 0.1
_TAIL = 0.975  # two-sided 95 %
_TOO_FEW = 3  # so few models do not show how the votes on an image are shared


@dataclass(frozen=True)
class SeedNoise:
    """Expected number of PIEs between two independent dense populations, on the images at hand.

    Attributes:
        value: the estimate, in images.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


def expected_null(predictions: Predictions, *, other_k: int | None = None) -> SeedNoise:
    """Estimates how many PIEs two independent dense populations would have, from the votes of one.

    Counting with the observed vote shares in place of the true ones overstates the disagreement about
    twofold, because the shares carry the noise of K votes. So the distribution of true shares over images
    is estimated first: a mixture of the shapes in ``pie.vote_model``, fitted by EM to the two largest vote
    counts of every image. Its weights start smooth and EM stops after a fixed number of steps, which keeps
    them smooth where the votes do not decide. The estimate is N times the mixture's probability that two
    modal labels differ, which is known for populations of any size.

    Measured on simulated populations (N = 500 to 4000; K = 5 to 30; accuracy per image Beta(3, 1.2),
    Beta(8, .5), Beta(20, 1), Beta(.5, .5), or certain on 95 % and uniform on 5 %; 2, 10 and 100 classes,
    errors on one class or on four), where the truth is at least 20 images: mean ratio to the truth .85 to
    1.24, standard deviation of the ratio .02 to .23. Smaller truths are less certain (at 5 images the
    standard deviation is about half the truth). K = 2: mean ratio .93 to 1.20. K = 3 hardly shows how sharp
    the shares are: .18 (certain on 95 %) to 2.2 (Beta(20, 1)), but .94 to 1.13 for Beta(3, 1.2) and
    Beta(.5, .5). Where models differ in quality as a whole, the estimate varies more (standard deviation
    up to .6 for K >= 5).

    The interval is for the expectation over models on these images; it is neither for other images nor for
    the count of a single pair of populations. For K >= 4 it comes from the jackknife over models, so that
    dependence between images counts. Measured coverage for K >= 5: 99 % on average over the populations
    above (about twice as wide as it need be), 97 % where models differ in quality, at worst 75 % (K = 5).
    For K = 2 and 3 it spans every shape of votes that would give as many contested images, which for K = 3
    starts near 0: coverage 100 % where models are alike, but for K = 2 as little as 17 % where they differ,
    since two models cannot show it.

    Deviation: no random splits, so no seed. Split halves of growing size, extrapolated to K by a power law,
    gave .7 to 1.3 of such truths for K >= 10, and .7 to 10 for K = 5.

    Args:
        predictions: of K >= 2 models of one population. Labels are not used.
        other_k: size of the second population; by default K.

    Returns:
        The estimate and its interval; all 0 where every model agrees on every image.

    Raises:
        InputError: if there are fewer than 2 models.
    """
    k = predictions.k
    return noise_between(fit_shares(predictions), k, k if other_k is None else other_k)


@dataclass(frozen=True, eq=False)
class FittedShares:
    """The distribution of true vote shares over images, estimated from one population.

    Attributes:
        k: models in the population.
        n: images.
        contested: images on which the models differ.
        shapes: G shapes of votes.
        weight: share of the images with each shape, shape (G,).
        weight_without: the same without each of the models in turn, shape (K, G); without rows where K is too
            small for a jackknife, or nothing is contested.
    """

    k: int
    n: int
    contested: int
    shapes: VoteShapes
    weight: Floats
    weight_without: Floats


def fit_shares(predictions: Predictions) -> FittedShares:
    """Fits the mixture of ``expected_null``, which then tells the seed noise of populations of any size.

    Args:
        predictions: of K >= 2 models of one population.

    Returns:
        The mixture; unanimity alone where every model agrees on every image.

    Raises:
        InputError: if there are fewer than 2 models.
    """
    k, n = predictions.k, predictions.n
    if k < 2:
        raise InputError(f"seed noise needs at least 2 models, not {k}")
    is_contested = (predictions.predicted != predictions.predicted[0]).any(axis=0)
    contested = int(is_contested.sum())
    shapes = shape_grid(max(predictions.num_classes, 2))
    unanimous, none = np.eye(1, len(shapes.leader))[0], np.empty((0, len(shapes.leader)))
    if not contested:
        return FittedShares(k, n, contested, shapes, unanimous, none)
    counts, counts_without = _top_two_counts(predictions.predicted[:, is_contested], n)
    weight = _mixture(counts, top_two_probability(shapes, k))
    if k <= _TOO_FEW:
        return FittedShares(k, n, contested, shapes, weight, none)
    likelihood = top_two_probability(shapes, k - 1)
    return FittedShares(
        k, n, contested, shapes, weight, np.array([_mixture(row, likelihood) for row in counts_without])
    )


def noise_between(shares: FittedShares, k: int, other_k: int) -> SeedNoise:
    """Expected PIEs between independent dense populations of k and of other_k models.

    The fewer models the shares were fitted to, the less they tell of larger populations; the estimate is
    then too large as a rule. Measured for two populations of 30 (2000 images of six kinds, 50 repeats, truth
    at least 19; ``benchmarks/pie_statistics.py``): mean ratio to the truth 1.0 to 1.1 from K = 30, 1.0 to 1.7
    from 15, 1.05 to 2.5 from 10, 1.0 to 3.1 from 5. Coverage of the interval: at least 94 % from K >= 15,
    90 % from 10, 48 % from 5. From 2 and 3 the estimate says next to nothing (ratio .01 to 10), but the
    interval held the truth every time.

    Args:
        shares: fitted to one population, of any size.
        k: models in one population, at least 1.
        other_k: models in the other, at least 1.

    Returns:
        The estimate and its interval, as ``expected_null`` describes them.
    """
    if not shares.contested:
        return SeedNoise(0.0, 0.0, 0.0)
    change = change_probability(shares.shapes, k, other_k)
    value = shares.n * float(shares.weight @ change)
    if shares.k <= _TOO_FEW:
        unanimous = top_two_probability(shares.shapes, shares.k)[:, shares.k, 0]
        low, high = _range_over_shapes(shares.contested, change, 1 - unanimous)
        return SeedNoise(value, min(low, value), max(high, value))
    roots = np.sqrt(shares.n * (shares.weight_without @ change))
    error = float(np.sqrt((shares.k - 1) / shares.k * ((roots - roots.mean()) ** 2).sum()))
    return SeedNoise(value, *count_interval(value, error, models=shares.k))


def count_interval(count: float, error: float, *, models: int) -> tuple[float, float]:
    """95 % interval of an expected count, by Student's t on the scale of square roots.

    There the error of a count hardly depends on its size, and the lower end stays at least 0.

    Args:
        count: the estimate, at least 0.
        error: standard error of its square root.
        models: number of models that the error was estimated from, at least 2.

    Returns:
        Lower and upper end.
    """
    root, reach = np.sqrt(count), t.ppf(_TAIL, models - 1) * error
    return float(max(0.0, root - reach) ** 2), float((root + reach) ** 2)


def _top_two_counts(votes: Counts, n: int) -> tuple[Counts, Counts]:
    """Counts images by their two largest vote counts, with all k models and without each of them.

    Args:
        votes: on the contested images only, shape (k, images).
        n: number of all images; the others are unanimous.

    Returns:
        Shape ((k + 1)^2,), index most * (k + 1) + second; and shape (k, k^2), index most * k + second.
    """
    k = len(votes)
    agree = np.stack([(votes == row).sum(axis=0) for row in votes])
    # Sorted, a class with c votes fills c places with c, so the next class starts c places on.
    ranked = np.vstack([-np.sort(-agree, axis=0), np.zeros_like(agree[:1])])
    image = np.arange(votes.shape[1])
    most = ranked[0]
    second = ranked[most, image]
    third = ranked[most + second, image]
    counts = np.bincount(most * (k + 1) + second, minlength=(k + 1) ** 2)
    counts[k * (k + 1)] += n - len(image)
    counts_without = np.empty((k, k * k), dtype=np.int64)
    for row, votes_for_same in zip(counts_without, agree, strict=True):
        # Among equal counts it is the last that shrinks, so that the order holds.
        fewer_most = most - ((votes_for_same == most) & (most > second))
        fewer_second = second - ((votes_for_same == second) & (second > third))
        row[:] = np.bincount(fewer_most * k + fewer_second, minlength=k * k)
        row[(k - 1) * k] += n - len(image)
    return counts, counts_without


def _mixture(counts: Counts, likelihood: Floats) -> Floats:
    """Weights of the shapes, shape (G,), after a fixed number of EM steps from a smooth start."""
    seen = counts > 0
    likelihood = likelihood.reshape(len(likelihood), -1)
    table, share = likelihood[:, seen], counts[seen] / counts.sum()
    weight = np.full(len(table), (1 - _UNANIMOUS_AT_START) / (len(table) - 1))
    weight[0] = _UNANIMOUS_AT_START
    for _ in range(_STEPS):
        weight = weight * (table @ (share / (weight @ table)))
    return weight


def _range_over_shapes(contested: int, change: Floats, contest: Floats) -> tuple[float, float]:
    """Least and largest expectation, were every contested image of the same, most extreme shape.

    Args:
        contested: number of images on which models differ.
        change: probability of a PIE, shape (G,).
        contest: probability that models differ, shape (G,); the first shape is unanimity.

    Returns:
        Both ends, with the sampling error of ``contested`` (Poisson, on the scale of square roots).
    """
    ratio = change[1:] / contest[1:]
    reach = norm.ppf(_TAIL) / 2
    low = max(0.0, np.sqrt(contested) - reach) ** 2 * ratio.min()
    return float(low), float((np.sqrt(contested) + reach) ** 2 * ratio.max())
