"""How K models vote on one image, and how often K others would disagree: exact, for a grid of vote shares."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import binom

from population.errors import InputError

Floats = NDArray[np.float64]

_LEVELS = 20  # leading shares per curve of the grid
_RIVAL_STEPS = (0.0, 1 / 3, 2 / 3, 1.0)  # from "all rivals alike" to "one rival only"
_OTHERS = (2, 8)  # numbers of classes that share what leader and rival leave, besides "all of them"


@dataclass(frozen=True)
class VoteShapes:
    """G distributions of one model's vote: a leader, a rival, and some classes that share the rest.

    Attributes:
        leader: share of the leading class, shape (G,), in (0, 1]; the first entry with 1 is unanimity.
        rival: share of the strongest rival, shape (G,), at most ``leader``.
        others: number of classes among which the rest is split equally, shape (G,).
    """

    leader: Floats
    rival: Floats
    others: NDArray[np.int64]


def shape_grid(num_classes: int) -> VoteShapes:
    """Lays out the grid of vote shares.

    Leading shares are spaced evenly in arcsin(sqrt(share)), where a binomial share has the same error
    everywhere. The grid runs from an image that all classes share evenly, so that no vote is impossible,
    to one on which every model agrees.

    Args:
        num_classes: number of classes, at least 2.

    Returns:
        The grid; exactly one of its shapes is unanimous.
    """
    if num_classes < 2:
        raise InputError(f"votes need at least 2 classes, not {num_classes}")
    rows = [(1.0, 0.0, 0)]
    spreads = sorted({min(others, num_classes - 2) for others in (*_OTHERS, num_classes)})
    for others in spreads:
        for step in _RIVAL_STEPS if others else (1.0,):
            if step == 1.0 and others > spreads[0]:
                continue  # with a single rival nothing is left to spread, and it is in the grid already
            of_rest = (1 + step * others) / (others + 1)
            least = np.arcsin(np.sqrt(of_rest / (1 + of_rest)))  # here leader and rival are level
            leader = np.sin(np.linspace(least, np.pi / 2, _LEVELS)[:-1]) ** 2
            rows += [(a, (1 - a) * of_rest, others if step < 1 else 0) for a in leader]
    leader, rival, others = np.array(rows).T
    return VoteShapes(leader, rival, others.astype(np.int64))


def top_two_probability(shapes: VoteShapes, k: int) -> Floats:
    """Probability of the two largest vote counts among k models.

    Args:
        shapes: G vote distributions.
        k: number of models, at least 1.

    Returns:
        Probabilities, shape (G, k + 1, k + 1): entry [g, a, b] is that the most frequent class gets a
        votes and the next one b; every [g] sums to 1.
    """
    first, second, rest = _splits(k)
    table = np.empty((len(shapes.leader), (k + 1) ** 2))
    for others in np.unique(shapes.others):
        use = shapes.others == others
        among = _two_largest(int(others), k)
        moves = np.zeros((len(first), (k + 1) ** 2))
        for row, (a, b, m) in enumerate(zip(first, second, rest, strict=True)):
            c, d = np.nonzero(among[m])
            ranked = np.sort(np.stack([np.full_like(c, a), np.full_like(c, b), c, d]), axis=0)
            np.add.at(moves[row], ranked[3] * (k + 1) + ranked[2], among[m, c, d])
        table[use] = _split_probability(shapes, use, k) @ moves
    return table.reshape(-1, k + 1, k + 1)


def change_probability(shapes: VoteShapes, k: int, other_k: int) -> Floats:
    """Probability that two independent populations differ in their modal label.

    1 - sum_c P(mode of k models = c) P(mode of other_k models = c). Ties go to the smallest class index,
    as everywhere here; which class has it is not known to a shape, so all orders of leader, rival and
    others are averaged. The others count as equally likely modes (their order among themselves is left
    out, which matters for no image with a clear leader).

    Args:
        shapes: G vote distributions.
        k: number of models in one population, 1 to 600.
        other_k: number of models in the other, 1 to 600.

    Returns:
        Probabilities, shape (G,), in [0, 1].
    """
    mode, other_mode = _mode_probability(shapes, k), _mode_probability(shapes, other_k)
    same = mode * other_mode
    same[..., 2] /= np.maximum(shapes.others, 1)
    change: Floats = np.clip(1 - same.sum(axis=-1).mean(axis=0), 0, 1)
    return change


def _splits(k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Every way in which leader, rival and the rest can share k votes."""
    first, second = np.nonzero(np.add.outer(np.arange(k + 1), np.arange(k + 1)) <= k)
    return first, second, k - first - second


def _split_probability(shapes: VoteShapes, use: NDArray[np.bool_], k: int) -> Floats:
    first, second, rest = _splits(k)
    ways = np.exp(gammaln(k + 1) - gammaln(first + 1) - gammaln(second + 1) - gammaln(rest + 1))
    leader, rival = shapes.leader[use, None], shapes.rival[use, None]
    # Without other classes the rest is 0 up to rounding, and 0**0 = 1 is what is meant.
    left = np.where(shapes.others[use, None] > 0, np.clip(1 - leader - rival, 0, 1), 0.0)
    split: Floats = ways * leader**first * rival**second * left**rest
    return split


def _mode_probability(shapes: VoteShapes, k: int) -> Floats:
    """P(mode is leader, rival, one of the others) for each of the 6 tie orders, shape (6, G, 3)."""
    first, second, rest = _splits(k)
    mode = np.empty((6, len(shapes.leader), 3))
    for others in np.unique(shapes.others):
        use = shapes.others == others
        split, below = _split_probability(shapes, use, k), _largest_at_most(int(others), k)
        for row, (a, b, c) in enumerate(itertools.permutations(range(3))):
            leads = (first > second) | ((first == second) & (a < b))
            clears_first, clears_second = first - (a > c), second - (b > c)
            by_leader = leads & (clears_first >= 0)
            by_rival = ~leads & (clears_second >= 0)
            p_leader = split @ (by_leader * below[rest, np.maximum(clears_first, 0)])
            p_rival = split @ (by_rival * below[rest, np.maximum(clears_second, 0)])
            rest_mode = np.maximum(1 - p_leader - p_rival, 0)
            mode[row, use] = np.stack([p_leader, p_rival, rest_mode], axis=-1)
    return mode


def _largest_at_most(classes: int, k: int) -> Floats:
    """P(the largest of ``classes`` equal classes <= y | m votes), shape (k + 1, k + 1), index [m, y].

    m! / classes^m times the coefficient of t^m in (sum_{j <= y} t^j / j!)^classes.
    """
    table = np.zeros((k + 1, k + 1))
    votes = np.arange(k + 1)
    scale = k / max(classes, 1)  # t in units of 1 / k keeps all numbers within range for hundreds of models
    for y in range(k + 1):
        power = np.where(votes <= y, np.exp(votes * np.log(scale) - gammaln(votes + 1)), 0.0)
        product = np.eye(1, k + 1)[0]
        left = classes
        while left > 0:  # by squaring, since there may be a thousand classes
            if left % 2:
                product = np.convolve(product, power)[: k + 1]
            power, left = np.convolve(power, power)[: k + 1], left // 2
        table[:, y] = product * np.exp(gammaln(votes + 1) - votes * np.log(k))
    return np.clip(table, 0, 1)


def _two_largest(classes: int, k: int) -> Floats:
    """P(two largest counts are y and z | m votes on equal classes), shape (k + 1,) * 3, index [m, y, z]."""
    table = np.zeros((k + 1, k + 1, k + 1))
    table[0, 0, 0] = 1
    if classes == 0:
        return table
    all_below, rest_below = _largest_at_most(classes, k), _largest_at_most(classes - 1, k)
    for m in range(1, k + 1):
        for y in range(1, m + 1):
            alone = classes * binom.pmf(y, m, 1 / classes) * rest_below[m - y, :y]
            table[m, y, :y] = np.diff(alone, prepend=0)
            table[m, y, y] = max(0.0, all_below[m, y] - all_below[m, y - 1] - alone[-1])
    return table
