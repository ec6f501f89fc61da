"""Linear CKA: how alike two representations of the same samples are, up to rotation and scale.

Kornblith et al. 2019 (arXiv 1905.00414): ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` of the linear Gram
matrices ``K = x x'`` and ``L = y y'``. HSIC has two estimators. With H the centring matrix,
``Kc = H K H``, ``Lc = H L H`` and n samples:

- biased: ``<Kc, Lc> / (n - 1)^2``. It grows with the number of features: two unrelated
  representations with many more features than samples come out near 1.
- unbiased (Song et al. 2012): the U-statistic of Gram matrices without their diagonals. On centred
  features the row sums without the diagonal are ``-Kc_ii``, so that it becomes
  ``[<Kc, Lc> - n/(n-2) sum_i Kc_ii Lc_ii + tr Kc tr Lc / ((n-1)(n-2))] / (n (n-3))``.

Both need three sums alone, which follow from n x n Gram matrices or from feature covariances.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from population.errors import InputError

Floats = NDArray[np.float64]
Estimator = Literal["unbiased", "biased"]
ESTIMATORS: tuple[Estimator, ...] = ("unbiased", "biased")

KNOWN_PITFALL = (
    "CKA can fall although the networks work alike: moving a few images far away from the others, "
    "which need not change a single prediction, is enough (Davari et al. 2022), so read it beside its "
    "references and the other measures."
)
"""One sentence for readers of a CKA value; arXiv 2210.16156."""

MIN_SAMPLES = 4
"""The unbiased HSIC divides by n - 3."""

GRAM_ROUNDING = 1e-12
"""A Gram matrix of float32 features keeps about this share of its squared size in rounding."""

COVARIANCE_ROUNDING = 1e-5
"""The same for sums that are taken from covariances, where the diagonal is subtracted at the end."""


@dataclass(frozen=True, eq=False)
class HsicSums:
    """What both estimators of HSIC need; each array holds one number per pair of representations.

    Attributes:
        inner: ``<Kc, Lc>``.
        diagonal: ``sum_i Kc_ii Lc_ii``.
        traces: ``tr Kc tr Lc``.
        n: number of samples.
    """

    inner: Floats
    diagonal: Floats
    traces: Floats
    n: int

    def hsic(self, estimator: Estimator) -> Floats:
        """Returns HSIC of every pair."""
        n = self.n
        if estimator == "biased":
            biased: Floats = self.inner / (n - 1) ** 2
            return biased
        corrected = self.inner - n / (n - 2) * self.diagonal + self.traces / ((n - 1) * (n - 2))
        unbiased: Floats = corrected / (n * (n - 3))
        return unbiased


@dataclass(frozen=True, eq=False)
class HsicTerms:
    """HSIC between the representations of two networks, and of each representation with itself.

    Attributes:
        cross: shape (L, M).
        first: of the L representations with themselves, shape (L,); 0 where nothing varies.
        second: of the M others, shape (M,).
    """

    cross: Floats
    first: Floats
    second: Floats

    def __add__(self, other: "HsicTerms") -> "HsicTerms":
        return HsicTerms(self.cross + other.cross, self.first + other.first, self.second + other.second)

    def cka(self, names: Sequence[str] = ()) -> Floats:
        """Takes the ratio, shape (L, M).

        Args:
            names: of the layers, for the error; of both networks alike.

        Raises:
            InputError: if a representation does not vary over the samples.
        """
        for side, terms in (("first", self.first), ("second", self.second)):
            for index in np.flatnonzero(terms == 0).tolist():
                of_layer = f" of layer {names[index]!r}" if names else ""
                raise InputError(
                    f"the features{of_layer} do not vary over the images in the {side} network:"
                    " CKA is undefined"
                )
        ratio: Floats = self.cross / np.sqrt(np.outer(self.first, self.second))
        return ratio


@dataclass(frozen=True, eq=False)
class PairSums:
    """The sums for the representations of two networks.

    Attributes:
        cross: of all pairs, shape (L, M).
        first: of each representation with itself, shape (L,).
        second: the same, shape (M,).
        rounding: share of ``<Kc, Kc>`` that may be rounding.
    """

    cross: HsicSums
    first: HsicSums
    second: HsicSums
    rounding: float

    def terms(self, estimator: Estimator) -> HsicTerms:
        """Returns HSIC of every pair; what is left of a representation that does not vary becomes 0.

        Raises:
            InputError: if features are not finite.
        """
        own = []
        for sums in (self.first, self.second):
            if not np.isfinite(sums.inner).all():
                raise InputError("features must be finite, and some are NaN, infinite or too large")
            values = sums.hsic(estimator)
            # Features that differ on one image only leave the unbiased estimator nothing but rounding.
            own.append(np.where(values > self.rounding * sums.hsic("biased"), values, 0.0))
        return HsicTerms(self.cross.hsic(estimator), own[0], own[1])


def centred_gram(features: Tensor) -> Tensor:
    """Returns the doubly centred linear Gram matrix, shape (n, n), float64, of features (n, ...)."""
    centred = _centred(features.flatten(start_dim=1))
    gram = (centred @ centred.T).double()
    rows = gram.mean(dim=1)
    return gram - rows[:, None] - rows[None, :] + gram.mean()


def gram_sums(first: Sequence[Tensor], second: Sequence[Tensor]) -> PairSums:
    """Sums for all pairs of centred Gram matrices, each of shape (n, n); the side for few samples."""
    grams = torch.stack(tuple(first)), torch.stack([gram.to(first[0].device) for gram in second])
    n = grams[0].shape[1]
    flat = [gram.flatten(start_dim=1) for gram in grams]
    diagonals = [gram.diagonal(dim1=1, dim2=2) for gram in grams]
    traces = [diagonal.sum(dim=1) for diagonal in diagonals]
    own = [
        _sums(f.square().sum(dim=1), d.square().sum(dim=1), t.square(), n)
        for f, d, t in zip(flat, diagonals, traces, strict=True)
    ]
    cross = _sums(flat[0] @ flat[1].T, diagonals[0] @ diagonals[1].T, torch.outer(*traces), n)
    return PairSums(cross, own[0], own[1], GRAM_ROUNDING)


def linear_cka(x: Tensor, y: Tensor, *, estimator: Estimator = "unbiased") -> float:
    """Compares two representations of the same samples, on all samples at once.

    It does not change when either representation is rotated, scaled by a number or shifted as a
    whole; other linear maps change it. Gram matrices or covariances are used, whichever take fewer
    operations; float32 features are centred before they are multiplied in float32.

    Args:
        x: features of the first network, shape (n, p), n >= 4.
        y: features of the second network, shape (n, q).
        estimator: ``unbiased`` or ``biased``.

    Returns:
        1 for equal representations. For independent ones the unbiased value is about 0, and may fall
        a little below by chance; the biased one is above 0.

    Raises:
        InputError: if the shapes disagree, n < 4, or a representation does not vary over the samples.
    """
    check_pair(x, y)
    n, p, q = len(x), x.shape[1], y.shape[1]
    if n * (p + q) <= p * p + p * q + q * q:
        sums = gram_sums([centred_gram(x)], [centred_gram(y)])
    else:
        sums = _covariance_sums(_centred(x), _centred(y))
    return float(sums.terms(estimator).cka().item())


def minibatch_linear_cka(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Compares two representations that arrive in batches of samples.

    The three unbiased HSIC terms are averaged over the batches before the ratio is taken (Nguyen et
    al. 2021, arXiv 2010.15327); a mean of ratios would be biased. Every batch counts as much, so
    batches should be of about equal size. It estimates what the full set would give; the two differ
    by chance, the less the larger the batches.

    Args:
        batches: pairs of features of the same samples, shapes (b, p) and (b, q), b >= 4.

    Returns:
        The CKA.

    Raises:
        InputError: if there is no batch, a batch does not fit, or a representation does not vary.
    """
    total: HsicTerms | None = None
    for x, y in batches:
        check_pair(x, y)
        terms = gram_sums([centred_gram(x)], [centred_gram(y)]).terms("unbiased")
        total = terms if total is None else total + terms
    if total is None:
        raise InputError("CKA needs at least one batch")
    return float(total.cka()[0, 0])


def check_pair(x: Tensor, y: Tensor) -> None:
    """Raises InputError unless x and y are features (n, p) and (n, q) of enough samples."""
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise InputError(f"features must have shapes (n, p) and (n, q), not {(*x.shape,)} and {(*y.shape,)}")
    if len(x) < MIN_SAMPLES:
        raise InputError(f"features of at least {MIN_SAMPLES} samples are needed, not {len(x)}")


def check_finite(features: Tensor) -> None:
    """Raises InputError if a feature is NaN or infinite."""
    if not bool(torch.isfinite(features).all()):
        raise InputError("features must be finite, and some are NaN or infinite")


def _covariance_sums(x: Tensor, y: Tensor) -> PairSums:
    """Sums from centred features: ``<x x', y y'> = |x'y|^2``; the side for many samples."""
    y = y.to(x.device)
    if x.dtype != y.dtype:
        x, y = x.double(), y.double()

    def sums(a: Tensor, b: Tensor) -> HsicSums:
        k, m = (part.double().square().sum(dim=1) for part in (a, b))
        return _sums((a.T @ b).double().square().sum(), k @ m, k.sum() * m.sum(), len(a))

    own = [sums(part, part) for part in (x, y)]
    return PairSums(sums(x, y), own[0], own[1], COVARIANCE_ROUNDING)


def _centred(features: Tensor) -> Tensor:
    wide = features if features.dtype == torch.float64 else features.float()
    # Taking one sample out first keeps float32 from drowning small differences in a large mean, and
    # makes equal rows exactly zero.
    shifted = wide - wide[:1]
    return shifted - shifted.mean(dim=0)


def _sums(inner: Tensor, diagonal: Tensor, traces: Tensor, n: int) -> HsicSums:
    arrays = [part.double().cpu().numpy() for part in (inner, diagonal, traces)]
    return HsicSums(arrays[0], arrays[1], arrays[2], n)
