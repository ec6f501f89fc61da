"""How difficult images are before compression, by what networks say of them; ``pie.difficulty`` judges it.

A score is one number per image, shape (N,). Margins and agreement are small for difficult images; entropies,
error norms, forgetting events and memorisation are large.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import entropy

from population.errors import InputError
from population.predictions import Predictions

Floats = NDArray[np.float64]

_SUM_TO_ONE = 1e-3  # as pie.divergence: probabilities stored with few digits pass


def mean_margin(predictions: Predictions) -> Floats:
    """Mean margin over members, in the unit of the margins ([0, 1] for those of this toolkit).

    Raises:
        InputError: if there are no margins.
    """
    if predictions.margin is None:
        raise InputError("a mean margin needs the margins of the predictions, which are not known")
    mean: Floats = predictions.margin.mean(axis=0)
    return mean


def vote_agreement(predictions: Predictions) -> Floats:
    """Share of the members that predict the modal label, in [1 / K, 1]; 1 for a single member."""
    agreement: Floats = predictions.modal_votes / predictions.k
    return agreement


def vote_entropy(predictions: Predictions) -> Floats:
    """Entropy of the votes in nats, from 0 (all agree) to ``log(min(K, C))``.

    ``-sum_c v_c log v_c`` with v_c the share of the members that predict class c: the disagreement of a
    committee (Dagan and Engelson 1995), not divided by its largest value. Few members understate it.
    """
    # A mean over members of -log of the share that votes alike, so that no (N, C) table is needed.
    alike = np.stack([(predictions.predicted == row).sum(axis=0) for row in predictions.predicted])
    mean: Floats = np.log(predictions.k / alike).mean(axis=0)
    return mean


def ensemble_entropy(predictions: Predictions) -> Floats:
    """Entropy of the mean of the members' probabilities in nats, from 0 to ``log C``.

    The total uncertainty of a deep ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474): it is large
    where members disagree, and where they agree that they do not know.

    Raises:
        InputError: if there are no probabilities, or they do not sum to 1.
    """
    mean = _probabilities(predictions).mean(axis=0, dtype=np.float64)
    nats: Floats = entropy(mean.clip(min=0), axis=1)
    return nats


def el2n(predictions: Predictions) -> Floats:
    """Error L2-norm: mean over members of ``||p - onehot(label)||_2``, in [0, sqrt 2].

    Paul, Ganguli and Dziugaite 2021 (arXiv 2107.07075) take training images, about ten networks, and the
    probabilities of an early epoch, while networks still learn. Of finished networks it is something else: on
    the images they learnt it is nearly 0 for all; on others it is the root of each member's Brier score,
    which tells how wrong the members are, and how surely.

    Raises:
        InputError: if there are no labels or no probabilities, or these do not sum to 1.
    """
    if predictions.label is None:
        raise InputError("EL2N needs the true labels, which are not known")
    everywhere = np.arange(predictions.n)
    total = np.zeros(predictions.n)
    for probabilities in _probabilities(predictions):
        error = probabilities.astype(np.float64)
        error[everywhere, predictions.label] -= 1
        total += np.linalg.norm(error, axis=1)
    return total / predictions.k


def dense_scores(predictions: Predictions) -> pd.DataFrame:
    """All scores that the predictions of a dense population are enough for.

    Args:
        predictions: of K members.

    Returns:
        One row per image, whose index is ``sample_id``, and a column for each score of this module that can
        be known: mean_margin (with margins), vote_agreement and vote_entropy (of two members or more),
        ensemble_entropy (with probabilities), el2n (with probabilities and labels). There may be no column.

    Raises:
        InputError: if probabilities do not sum to 1.
    """
    with_probabilities = predictions.probabilities is not None
    known = {
        mean_margin: predictions.margin is not None,
        vote_agreement: predictions.k > 1,
        vote_entropy: predictions.k > 1,
        ensemble_entropy: with_probabilities,
        el2n: with_probabilities and predictions.label is not None,
    }
    columns = {score.__name__: score(predictions) for score, can_be in known.items() if can_be}
    return pd.DataFrame(columns, index=pd.Index(predictions.sample_id, name="sample_id"))


def forgetting_events(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How often an image that was right is wrong at the next look, while a network is trained.

    Toneva et al. 2019 (arXiv 1812.05159). An image that is never right gets E, where the paper has infinity:
    more than any other can have (at most E // 2). 0 events is the paper's "unforgettable". The paper looks at
    an image whenever it is in a batch, with the weights of that moment; looks at the ends of epochs, as
    ``ssl_models.recorder`` makes them, are of the same weights for all images, and without augmentation.

    Args:
        correct: whether each image is right at each of E looks, in order of time, shape (E, N), E >= 1.

    Returns:
        Number of events, shape (N,), in [0, E].

    Raises:
        InputError: if that is not what is given.
    """
    if correct.ndim != 2 or correct.dtype != np.bool_ or len(correct) == 0:
        raise InputError(
            "forgetting events need booleans of shape (E, N) with E >= 1,"
            f" not {correct.dtype} of shape {correct.shape}"
        )
    events = (correct[:-1] & ~correct[1:]).sum(axis=0)
    return np.where(correct.any(axis=0), events, len(correct))


def memorisation(predictions: Predictions, trained_on: NDArray[np.bool_]) -> pd.DataFrame:
    """How much more often an image is right for networks that learnt from it than for others.

    ``P[right | in] - P[right | out]`` over networks that are each trained on a random part of the images, a
    fixed share of them (Feldman and Zhang 2020, arXiv 2008.03703: the subsampled memorisation value). The
    estimate is the plain difference of shares, which may be negative and is coarse for few networks: the
    paper has 2,000 for ImageNet.

    The standard error is that of two binomial shares, with one success and one failure added to each share
    (Agresti and Caffo 2000, The American Statistician 54, 280; unlike there, not to the estimate and its
    number of networks): the plain one is 0 where the networks of each side agree, which is common. Computed
    for 35 networks with the image and 15 without it, right with probabilities of (.99, .95), (1, .9), (.95,
    .1) and (.99, .5): the estimate +- 1.96 standard errors holds the truth with a chance of .999, .998, .961
    and .923; with plain ones .533, .792, .840 and .923.

    Args:
        predictions: of M networks, with labels.
        trained_on: whether each network learnt from each image, shape (M, N).

    Returns:
        One row per image, in the order of the predictions: sample_id, inside, outside (numbers of networks
        that did and did not learn from it), right_inside, right_outside (share of these that are right),
        memorisation (the difference, in [-1, 1]) and standard_error. A share of no network is missing, and
        what follows from it.

    Raises:
        InputError: if there are no labels, or ``trained_on`` is not boolean and of that shape.
    """
    if predictions.label is None:
        raise InputError("memorisation needs the true labels, which are not known")
    if trained_on.shape != predictions.predicted.shape or trained_on.dtype != np.bool_:
        raise InputError(
            f"trained_on must be boolean and of shape {predictions.predicted.shape},"
            f" not {trained_on.dtype} of shape {trained_on.shape}"
        )
    right = predictions.predicted == predictions.label
    inside, right_inside, variance_inside = _share(right, trained_on)
    outside, right_outside, variance_outside = _share(right, ~trained_on)
    return pd.DataFrame(
        {
            "sample_id": predictions.sample_id,
            "inside": inside,
            "outside": outside,
            "right_inside": right_inside,
            "right_outside": right_outside,
            "memorisation": right_inside - right_outside,
            "standard_error": (variance_inside + variance_outside) ** 0.5,
        }
    )


def _share(
    right: NDArray[np.bool_], those: NDArray[np.bool_]
) -> "tuple[pd.Series[int], pd.Series[float], pd.Series[float]]":
    """Counts those networks; gives the share of them that is right, and its variance, missing for none."""
    count = pd.Series(those.sum(axis=0), dtype="Int64")
    hits = pd.Series((right & those).sum(axis=0), dtype="Int64")
    some = count.where(count > 0)
    shrunk = (hits + 1) / (some + 2)
    return count, hits / some, shrunk * (1 - shrunk) / some


def _probabilities(predictions: Predictions) -> NDArray[np.float32]:
    if predictions.probabilities is None:
        raise InputError("this score needs the probabilities of the predictions, which are not known")
    total = predictions.probabilities.sum(axis=2, dtype=np.float64)
    worst = total.flat[np.abs(total - 1).argmax()]
    if abs(worst - 1) > _SUM_TO_ONE:
        raise InputError(f"the probabilities of an image must sum to 1, not {worst:.4g}")
    return predictions.probabilities
