"""The compressor that merges channels."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.budget import Budget
from compressors.contract import Calibration, ChannelGroup, CompressionResult
from compressors.finish import Decisions, compress_channels
from merging.assign import greedy_clusters, kmeans_clusters, ward_clusters, ward_inertias
from merging.similarity import activation_grams, channel_gram
from population.errors import InputError, unknown_name

_TINY = float(np.finfo(np.float64).tiny)  # for groups whose features are all zero

#: Maps a Gram matrix, a number of clusters and a seed to clusters.
Assign = Callable[[NDArray[np.float64], int, int], NDArray[np.int64]]

ASSIGNMENTS: Mapping[str, Assign] = {
    "kmeans": lambda gram, k, seed: kmeans_clusters(gram, k, seed=seed),
    "ward": lambda gram, k, _: ward_clusters(gram, k),
    "greedy": lambda gram, k, _: greedy_clusters(gram, k),
    "activations": lambda gram, k, seed: kmeans_clusters(gram, k, seed=seed),
}


def merge_channels(
    model: nn.Module,
    example_inputs: Tensor,
    *,
    amount: float,
    seed: int,
    assign: Literal["kmeans", "ward", "greedy", "activations"] = "kmeans",
    repair: str = "none",
    calibration: Calibration | None = None,
    budget: Budget | Literal["uniform", "params", "macs"] = "uniform",
) -> CompressionResult:
    """Merges similar channels of every coupled group (model folding).

    Channels are clustered by the weights that make and read them. A cluster becomes one channel:
    filters, norm parameters and statistics are averaged, the columns of the layers that read it are
    summed (Wang et al. 2025, arXiv 2502.10216, eq. 4-6). Channels that are copies of each other
    merge without any loss.

    Args:
        model: any module of convolutions, linear layers, norms and attention; it is not changed.
        example_inputs: a batch that the model accepts.
        amount: fraction removed, in [0, 1): of the channels of every group, where
            ``max(1, round(n (1 - amount)))`` of n channels stay, or of what the budget spends.
        seed: of the clustering; ``ward`` and ``greedy`` draw nothing.
        assign: how clusters are found: ``kmeans``, ``ward`` (Ward's method) or ``greedy`` (the pair with
            the nearest means, again and again) on weights; ``activations``: k-means on the channels'
            values on calibration data (query/key pairs of attention, which no layer reads: on weights).
        repair: ``none``, ``data-free`` (variance correction), ``bn`` (statistics re-estimated) or
            ``least-squares`` (changed layers fitted again).
        calibration: batches of inputs for ``bn``, ``least-squares`` and ``activations``; read once for
            each.
        budget: how the amount is spread over groups. ``uniform`` removes the same fraction of each;
            ``params`` and ``macs`` remove that fraction of the model's parameters or multiply-accumulates
            where it hurts least (see ``compressors.allocation``): a group loses the share of its squared
            features, as they are compared for ``assign``, that is not in the means of Ward's clusters.
            A ``Budget`` also sets single groups.

    Returns:
        The smaller model, the plan that rebuilds it, and its cost.

    Raises:
        InputError: if an argument is out of range, calibration is missing or unfit, the budget cannot
            be met, the model cannot be traced or holds NaN, has weights too large to be compared or
            nothing that could be merged, or the repair does not apply to it.
    """
    if assign not in ASSIGNMENTS:
        raise unknown_name("assignment", assign, ASSIGNMENTS)
    if assign == "activations" and calibration is None:
        raise InputError("assign='activations' needs calibration: batches of inputs")

    def decide(groups: Sequence[ChannelGroup]) -> Decisions:
        @cache
        def by_activations() -> Mapping[str, Tensor]:
            return activation_grams(model, groups, calibration) if assign == "activations" else {}

        @cache
        def gram_of(group: ChannelGroup) -> NDArray[np.float64]:
            by_data = by_activations().get(group.name)
            return (channel_gram(model, group) if by_data is None else by_data).numpy()

        def choose(group: ChannelGroup, channels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
            return ASSIGNMENTS[assign](gram_of(group)[np.ix_(channels, channels)], k, seed)

        def errors(group: ChannelGroup, channels: NDArray[np.int64]) -> NDArray[np.float64]:
            gram = gram_of(group)
            lost = ward_inertias(gram[np.ix_(channels, channels)])
            return lost / max(float(gram.trace()), _TINY)

        return Decisions(choose, errors)

    return compress_channels(
        model,
        example_inputs,
        method="merge",
        amount=amount,
        budget=budget,
        decide=decide,
        repair=repair,
        calibration=calibration,
    )
