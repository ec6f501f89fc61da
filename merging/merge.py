"""The compressor that merges channels."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.contract import Calibration, ChannelGroup, CompressionResult
from compressors.finish import compress_channels
from compressors.groups import find_groups
from merging.assign import greedy_clusters, kmeans_clusters, ward_clusters
from merging.similarity import activation_grams, channel_gram
from population.errors import InputError, unknown_name

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
    budget: Literal["uniform"] = "uniform",
) -> CompressionResult:
    """Merges similar channels of every coupled group (model folding).

    Channels are clustered by the weights that make and read them. A cluster becomes one channel:
    filters, norm parameters and statistics are averaged, the columns of the layers that read it are
    summed (Wang et al. 2025, arXiv 2502.10216, eq. 4-6). Channels that are copies of each other
    merge without any loss.

    Args:
        model: any module of convolutions, linear layers and batch norms; it is not changed.
        example_inputs: a batch that the model accepts.
        amount: fraction of channels removed in every group, in [0, 1): ``max(1, round(n (1 - amount)))``
            of n channels stay.
        seed: of the clustering; ``ward`` and ``greedy`` draw nothing.
        assign: how clusters are found: ``kmeans``, ``ward`` (Ward's method) or ``greedy`` (the pair with
            the nearest means, again and again) on weights; ``activations``: k-means on the channels'
            values on calibration data.
        repair: ``none``, ``data-free`` (variance correction) or ``bn`` (statistics re-estimated).
        calibration: batches of inputs for ``bn`` and ``activations``; read once for each.
        budget: how the amount is spread over groups; ``uniform`` removes the same fraction of each.

    Returns:
        The smaller model, the plan that rebuilds it, and its cost.

    Raises:
        InputError: if an argument is out of range, or the model cannot be traced or holds NaN.
    """
    if assign not in ASSIGNMENTS:
        raise unknown_name("assignment", assign, ASSIGNMENTS)
    if budget != "uniform":
        raise unknown_name("budget", budget, ["uniform"])
    if assign == "activations" and calibration is None:
        raise InputError("assign='activations' needs calibration: batches of inputs")

    @cache
    def by_activations() -> Mapping[str, Tensor]:
        return activation_grams(model, find_groups(model, example_inputs).groups, calibration)

    def choose(group: ChannelGroup, channels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
        gram = by_activations()[group.name] if assign == "activations" else channel_gram(model, group)
        return ASSIGNMENTS[assign](gram.numpy()[np.ix_(channels, channels)], k, seed)

    return compress_channels(
        model,
        example_inputs,
        method="merge",
        amount=amount,
        choose=choose,
        repair=repair,
        calibration=calibration,
    )
