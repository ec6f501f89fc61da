"""How many channels each group keeps, so that a whole model meets a budget where it hurts least.

What a group suffers is the square of the share of its weights that is lost (squared error of all that makes
and reads its channels, where merged channels are replaced by their mean and removed ones by zero), times the
number of layers that make or read them. Channels go one step at a time, where this grows least for what is
saved, and no group keeps less than 0.6 of what an equally tight uniform budget would leave it.

All three were chosen on one network, a ResNet-18 on CIFAR-10 (merged, BatchNorm re-estimated), by its
accuracy on 1,000 test images; docs/benchmarks has other images and networks. The share
alone is worse than a uniform budget, by 0.16 of accuracy at a quarter of the parameters and more below: it
spends all on the residual streams, which have much redundancy but pass through many layers. Times the
number of layers it is better, but it empties single groups where little is to be kept (0.37 against 0.62 at
a sixteenth); squares and floor prevent that. For L1 filter pruning at equal operations the uniform budget
was better (0.23 against 0.19 at three quarters of the channels).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.apply import build_compressed
from compressors.budget import Budget
from compressors.contract import ChannelGroup, CompressionPlan, channels_kept
from compressors.cost import count_macs
from compressors.parts import GroupPart
from compressors.sizes import Sizes, measure_sizes
from population.errors import InputError

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

#: Maps a group and n of its channels that can become one to the share of the group's squared weights
#: (all that makes and reads its channels) that is lost when 1, 2, ..., n of them are kept, shape (n,).
Errors = Callable[[ChannelGroup, _Ints], _Floats]

# Every part keeps at least this fraction of what it would keep if all lost the same fraction of channels.
_FLOOR = 0.6


def channel_counts(
    model: nn.Module,
    example_inputs: Tensor,
    parts: Sequence[GroupPart],
    *,
    amount: float,
    budget: Budget,
    errors: Errors,
) -> _Ints:
    """Channels that each block of a part keeps, shape (P,).

    Args:
        model: the dense model.
        example_inputs: a batch that the model accepts.
        parts: P parts of its groups.
        amount: fraction to remove: of channels, or of what the budget spends.
        budget: how it is spread.
        errors: what is lost; asked for ``params`` and ``macs`` alone.

    Raises:
        InputError: if the budget cannot be met; says how much can be removed.
    """
    if budget.spend == "uniform":
        return np.array(
            [_kept(part, budget.amounts.get(part.group.name, amount)) for part in parts], np.int64
        )
    sizes = measure_sizes(model, example_inputs, parts, budget.spend)
    full = sizes.total(np.array([part.size for part in parts], np.int64))
    target = full * (1 - amount)
    given = {p: budget.amounts[n] for p, n in enumerate(q.group.name for q in parts) if n in budget.amounts}
    least = sizes.total(_spread(parts, 1.0, given))
    if least > target:
        raise _out_of_reach(budget, amount, 1 - least / full)
    lost = [
        np.zeros(part.size) if p in given else _damage(model, part, errors) for p, part in enumerate(parts)
    ]
    limit = target
    while True:
        kept = allocate(_levels(parts, sizes, limit, given), lost, sizes, limit=limit)
        if budget.spend == "params":
            return kept
        # Operations between layers, as in attention, may shrink less than the weights say.
        beyond = _operations(model, example_inputs, parts, kept) - target
        if beyond <= 0:
            return kept
        limit -= beyond
        if least > limit:
            raise _out_of_reach(budget, amount, amount - beyond / full)


def _out_of_reach(budget: Budget, amount: float, most: float) -> InputError:
    most = math.floor(1e4 * most) / 1e4
    return InputError(f"at most {most} of the {budget.spend} can be removed under this budget, not {amount}")


def _damage(model: nn.Module, part: GroupPart, errors: Errors) -> _Floats:
    """What the model suffers when 1, 2, ..., n channels are kept in each block of a part, shape (n,)."""
    state = model.state_dict()
    layers = {(s.tensor, s.axis) for s in part.group.slices if state[s.tensor].dim() > 1}
    lost = np.sum([errors(part.group, block) for block in part.blocks], axis=0)
    return np.asarray(len(layers) * lost**2)


def _operations(model: nn.Module, example_inputs: Tensor, parts: Sequence[GroupPart], kept: _Ints) -> int:
    """Multiply-accumulates of the model with so many channels, whichever they are."""
    groups = {part.group.name: part.group for part in parts}
    clusters = {name: np.arange(group.size) for name, group in groups.items()}
    for part, k in zip(parts, kept.tolist(), strict=True):
        for block in part.blocks:
            clusters[part.group.name][block[k:]] = -1
    small = build_compressed(model, CompressionPlan("trial", "", clusters), tuple(groups.values()))
    return count_macs(small, example_inputs)


def _kept(part: GroupPart, amount: float) -> int:
    """Channels that a block keeps when a fraction is removed, as a multiple of the part's step."""
    exact = channels_kept(part.size, amount)
    if exact == part.size:
        return exact
    return min(part.size, max(part.step, round(exact / part.step) * part.step))


def _spread(parts: Sequence[GroupPart], amount: float, given: Mapping[int, float]) -> _Ints:
    return np.array([_kept(part, given.get(p, amount)) for p, part in enumerate(parts)], np.int64)


def _levels(
    parts: Sequence[GroupPart], sizes: Sizes, limit: float, given: Mapping[int, float]
) -> list[_Ints]:
    """Numbers of channels that a block of each part may keep, from all to fewest."""
    low, high = 0.0, 1.0  # the uniform amount that meets the limit
    while high - low > 1e-4:
        middle = (low + high) / 2
        met = sizes.total(_spread(parts, middle, given)) <= limit
        low, high = (low, middle) if met else (middle, high)
    levels = []
    for p, (part, uniform) in enumerate(zip(parts, _spread(parts, high, given).tolist(), strict=True)):
        multiples = np.arange((part.size - 1) // part.step * part.step, 0, -part.step)
        lowest = uniform if p in given else _FLOOR * uniform
        level = np.concatenate([[part.size], multiples[multiples >= lowest]])
        levels.append(level[-1:] if p in given else level)
    return levels


def allocate(levels: Sequence[_Ints], errors: Sequence[_Floats], sizes: Sizes, *, limit: float) -> _Ints:
    """Takes steps down, always where the error rises least for what is saved.

    Args:
        levels: numbers of channels that a block of each of P parts may keep, from all to fewest; the
            fewest of all parts meet the limit.
        errors: error of each part with 1, 2, ..., n channels in each block, shape (n,).
        sizes: of the model, for these parts.
        limit: what the model may take at most.

    Returns:
        Channels that each block of a part keeps, shape (P,). Where any part kept a step more, the limit
        would be passed.
    """
    slopes = [_slopes(error, level) for error, level in zip(errors, levels, strict=True)]
    at = np.zeros(len(levels), dtype=np.int64)
    kept = np.array([level[0] for level in levels], dtype=np.int64)
    slope = np.array([first[0] for first in slopes])
    while sizes.total(kept) > limit:
        p = int(np.argmin(_rates(slope, sizes.savings(kept))))
        at[p] += 1
        kept[p], slope[p] = levels[p][at[p]], slopes[p][at[p]]
    # The last step may have saved far more than was needed: what hurts most comes back where it fits.
    last = np.array([slopes[p][at[p] - 1] if at[p] else 0.0 for p in range(len(levels))])
    for p in np.argsort(-_rates(last, sizes.savings(kept)), kind="stable").tolist():
        while at[p]:
            more = kept.copy()
            more[p] = levels[p][at[p] - 1]
            if sizes.total(more) > limit:
                break
            kept, at[p] = more, at[p] - 1
    return kept


def _rates(slope: _Floats, savings: _Floats) -> _Floats:
    """Error for what is saved; infinite where nothing is."""
    rates = np.full(len(slope), np.inf)
    np.divide(slope, savings, out=rates, where=savings > 0)
    return rates


def _slopes(errors: _Floats, levels: _Ints) -> _Floats:
    """Error per channel for each step down; infinite after the last."""
    from sklearn.isotonic import isotonic_regression

    removed = -np.diff(levels)
    rises = np.diff(errors[levels - 1]) / removed
    # A cheap step behind a dear one is averaged with it, as one cannot be had without the other.
    convex = isotonic_regression(rises, sample_weight=removed) if len(rises) else rises
    return np.append(convex, np.inf)
