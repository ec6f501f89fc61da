"""Filter pruning: whole channels are removed, the least important first."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.budget import Budget
from compressors.contract import Calibration, ChannelGroup, CompressionResult
from compressors.finish import Decisions, compress_channels
from compressors.importance import (
    Scores,
    joint_squares,
    median_scores,
    norm_scores,
    random_scores,
    scale_scores,
    taylor_scores,
)
from population.errors import InputError, unknown_name

NORMS = ("l1", "l2", "random", "geometric-median", "bn-scale", "taylor")


def prune_filters(
    model: nn.Module,
    example_inputs: Tensor,
    *,
    amount: float,
    seed: int,
    norm: Literal["l1", "l2", "random", "geometric-median", "bn-scale", "taylor"] = "l1",
    repair: str = "none",
    calibration: Calibration | None = None,
    budget: Budget | Literal["uniform", "params", "macs"] = "uniform",
) -> CompressionResult:
    """Removes the least important channels of every coupled group.

    By default those whose filters have the smallest L1 norm (Li et al. 2017, arXiv 1608.08710).
    Deviation: channels that are coupled, as on a residual stream, are ranked together by all filters
    that make them. The other norms are described, with their sources, in ``compressors.importance``.

    Args:
        model: any module of convolutions, linear layers and norms; it is not changed.
        example_inputs: a batch that the model accepts.
        amount: fraction removed, in [0, 1): of the channels of every group, or of what the budget
            spends.
        seed: of the choice for ``random`` and of the labels for ``taylor``; the others draw nothing.
            Of equal channels the earlier stays.
        norm: ``l1`` or ``l2`` of the filters; ``random`` for a random choice; ``geometric-median``,
            where filters that are near to the others go first; ``bn-scale``, the norms' scales;
            ``taylor``, the change of the loss to first order.
        repair: ``none``, ``data-free`` (nothing to correct here), ``bn`` or ``least-squares``.
        calibration: batches of inputs for the last two and for ``taylor``; read once for each.
        budget: how the amount is spread over groups, as for merging. What a group loses is the share of
            its squared weights that are those of removed channels.

    Returns:
        The smaller model, the plan that rebuilds it, and its cost.

    Raises:
        InputError: if an argument is out of range, the budget cannot be met, the model cannot be traced
            or holds NaN, ``bn-scale`` meets a group without scales, or ``taylor`` has no calibration or
            a model that does not return logits.
    """
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    if norm == "taylor" and calibration is None:
        raise InputError("norm='taylor' needs calibration: batches of inputs")

    def decide(groups: Sequence[ChannelGroup]) -> Decisions:
        scores = _scores(model, groups, norm, seed, calibration)
        squares = cache(partial(joint_squares, model))

        def choose(group: ChannelGroup, channels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
            kept = np.sort(_best_first(scores(group, channels))[:k])
            clusters = np.full(len(channels), -1, dtype=np.int64)
            clusters[kept] = np.arange(k)
            return clusters

        def errors(group: ChannelGroup, channels: NDArray[np.int64]) -> NDArray[np.float64]:
            lengths = squares(group)
            ordered = lengths[channels][_best_first(scores(group, channels))]
            lost = np.append(np.cumsum(ordered[:0:-1])[::-1], 0.0)
            return lost / max(float(lengths.sum()), float(np.finfo(np.float64).tiny))

        return Decisions(choose, errors)

    return compress_channels(
        model,
        example_inputs,
        method=f"filters-{norm}",
        amount=amount,
        budget=budget,
        decide=decide,
        repair=repair,
        calibration=calibration,
    )


def _best_first(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")


def _scores(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    norm: str,
    seed: int,
    calibration: Calibration | None,
) -> Scores:
    by_gradient: Callable[[], Mapping[str, NDArray[np.float64]]] = cache(
        partial(taylor_scores, model, groups, calibration, seed=seed)
    )
    scores: dict[str, Scores] = {
        "l1": partial(norm_scores, model, order=1),
        "l2": partial(norm_scores, model, order=2),
        "random": partial(random_scores, seed=seed),
        "geometric-median": partial(median_scores, model),
        "bn-scale": partial(scale_scores, model),
        "taylor": lambda group, channels: by_gradient()[group.name][channels],
    }
    return scores[norm]
