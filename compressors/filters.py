"""Filter pruning: whole channels are removed, the least important first."""

import hashlib
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.contract import Calibration, ChannelGroup, CompressionResult
from compressors.finish import compress_channels
from population.errors import unknown_name

NORMS = ("l1", "l2", "random")


def prune_filters(
    model: nn.Module,
    example_inputs: Tensor,
    *,
    amount: float,
    seed: int,
    norm: Literal["l1", "l2", "random"] = "l1",
    repair: str = "none",
    calibration: Calibration | None = None,
) -> CompressionResult:
    """Removes the channels whose filters have the smallest norm, in every coupled group.

    L1 filter pruning of Li et al. 2017 (arXiv 1608.08710). Deviation: channels that are coupled, as
    on a residual stream, are ranked together by the sum of the norms of all filters that make them.

    Args:
        model: any module of convolutions, linear layers and batch norms; it is not changed.
        example_inputs: a batch that the model accepts.
        amount: fraction of channels removed in every group, in [0, 1).
        seed: of the choice for ``random``; the norms draw nothing, and equal norms keep the earlier
            channel.
        norm: ``l1``, ``l2``, or ``random`` for a random choice.
        repair: ``none``, ``data-free`` (nothing to correct here), ``bn`` or ``least-squares``.
        calibration: batches of inputs for the last two.

    Raises:
        InputError: if an argument is out of range, or the model cannot be traced or holds NaN.
    """
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    rank = (
        partial(_random_scores, seed=seed) if norm == "random" else partial(_norms, model, order=int(norm[1]))
    )

    def choose(group: ChannelGroup, channels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
        kept = np.sort(np.argsort(-rank(group)[channels], kind="stable")[:k])
        clusters = np.full(len(channels), -1, dtype=np.int64)
        clusters[kept] = np.arange(k)
        return clusters

    method = "random" if norm == "random" else f"filters-{norm}"
    return compress_channels(
        model,
        example_inputs,
        method=method,
        amount=amount,
        choose=choose,
        repair=repair,
        calibration=calibration,
    )


def _norms(model: nn.Module, group: ChannelGroup, *, order: int) -> NDArray[np.float64]:
    scores = torch.zeros(group.size, dtype=torch.float64)
    for piece in group.slices:
        if piece.tensor in group.producers and piece.role == "out":
            rows = model.get_parameter(piece.tensor).detach().moveaxis(piece.axis, 0).flatten(1).double()
            scores[torch.from_numpy(piece.channels)] += rows[piece.positions].norm(p=order, dim=1).cpu()
    return scores.numpy()


def _random_scores(group: ChannelGroup, *, seed: int) -> NDArray[np.float64]:
    # Seeded by the group's name too, so that groups of one size do not lose the same channels.
    words = np.frombuffer(hashlib.sha256(group.name.encode()).digest(), dtype=np.uint32)
    return np.random.default_rng([seed, *words.tolist()]).random(group.size)
