"""The compressor that merges channels."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.contract import Calibration, ChannelGroup, CompressionResult
from compressors.finish import compress_channels
from merging.assign import kmeans_clusters
from merging.similarity import channel_gram
from population.errors import unknown_name


def merge_channels(
    model: nn.Module,
    example_inputs: Tensor,
    *,
    amount: float,
    seed: int,
    assign: Literal["kmeans"] = "kmeans",
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
        seed: of the clustering.
        assign: how clusters are found.
        repair: ``none``, ``data-free`` (variance correction) or ``bn`` (statistics re-estimated).
        calibration: batches of inputs for ``bn``.
        budget: how the amount is spread over groups; ``uniform`` removes the same fraction of each.

    Returns:
        The smaller model, the plan that rebuilds it, and its cost.

    Raises:
        InputError: if an argument is out of range, or the model cannot be traced or holds NaN.
    """
    if assign != "kmeans":
        raise unknown_name("assignment", assign, ["kmeans"])
    if budget != "uniform":
        raise unknown_name("budget", budget, ["uniform"])

    def choose(group: ChannelGroup, channels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
        gram = channel_gram(model, group).numpy()[np.ix_(channels, channels)]
        return kmeans_clusters(gram, k, seed=seed)

    return compress_channels(
        model,
        example_inputs,
        method="merge",
        amount=amount,
        choose=choose,
        repair=repair,
        calibration=calibration,
    )
