"""k-nearest-neighbour probe: an image gets the class that most of the training images nearest to it have.

Nothing is fitted, so the answer is about the features alone: whether a layer, or an encoder trained without
labels, puts images of one class together.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.similarity.cka import check_finite
from population.errors import InputError


def knn_predict(
    train_features: Tensor,
    train_labels: NDArray[np.int64],
    features: Tensor,
    *,
    k: int,
    num_classes: int,
    temperature: float | None = None,
    batch_size: int,
) -> NDArray[np.int64]:
    """Predicts classes by a vote of the k nearest training samples; all are searched.

    Two kinds of vote:

    - Without a temperature, the nearest are those by Euclidean distance, with one vote each, as in the probes
      of prediction depth (Baldock et al. 2021, arXiv 2106.09647).
    - With a temperature T, the nearest are those by cosine similarity s, and a vote weighs ``exp(s / T)``, as
      in instance discrimination (Wu et al. 2018, arXiv 1805.01978, with k = 200 and T = 0.07).

    The class with the most votes wins; of several, the one with the smallest index. Where training samples
    are equally near, which of them are among the k is arbitrary, but the same for the same input.

    Distances come from inner products, so in float32 neighbours whose distances are almost equal may be
    exchanged. Memory holds ``batch_size`` times n distances, and a copy of all features.

    Args:
        train_features: shape (n, p); their device is the one that searches.
        train_labels: their classes, shape (n,), from 0 to ``num_classes - 1``.
        features: of the samples to predict, shape (m, p). Any dtype but float64 is taken as float32.
        k: number of neighbours, 1 to n.
        num_classes: number of classes.
        temperature: T, positive.
        batch_size: number of samples whose distances are held at once.

    Returns:
        The predicted classes, shape (m,).

    Raises:
        InputError: if shapes disagree, a label or number is out of range, features are not finite, or (with a
            temperature) all features of a sample are 0.
    """
    n = len(train_features)
    if train_features.ndim != 2 or features.ndim != 2 or train_features.shape[1] != features.shape[1]:
        shapes = f"{(*train_features.shape,)} and {(*features.shape,)}"
        raise InputError(f"features must have shapes (n, p) and (m, p), not {shapes}")
    if train_labels.shape != (n,):
        raise InputError(f"labels must have shape ({n},), one per training sample, not {train_labels.shape}")
    if not 1 <= k <= n:
        raise InputError(f"the number of neighbours must be from 1 to {n} for {n} training samples, not {k}")
    if train_labels.min() < 0 or train_labels.max() >= num_classes:
        raise InputError(f"training labels must be from 0 to {num_classes - 1}")
    if temperature is not None and not temperature > 0:
        raise InputError(f"the temperature must be positive, not {temperature}")
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, not {batch_size}")
    train, queries = _prepared(train_features, temperature), _prepared(features, temperature)
    # No distance changes when all points are shifted, and rounding is least around the centre.
    centre = train.mean(dim=0)
    train = train - centre
    # |x - t|^2 = |x|^2 - 2 (x't - |t|^2 / 2). The nearest have the largest bracket, which on the unit sphere
    # is the cosine less a number that depends on x alone.
    offset = train.square().sum(dim=1) / -2
    labels = torch.tensor(train_labels, device=train.device)
    predicted = []
    for block in torch.split(queries, batch_size):
        similarity, nearest = torch.addmm(offset, block.to(train) - centre, train.T).topk(k, dim=1)
        weights = (
            torch.ones_like(similarity) if temperature is None else (similarity / temperature).softmax(1)
        )
        votes = weights.new_zeros(len(block), num_classes).scatter_add_(1, labels[nearest], weights)
        predicted.append(votes.argmax(dim=1).cpu())
    return torch.cat(predicted).numpy()


def _prepared(features: Tensor, temperature: float | None) -> Tensor:
    """Float32 or float64; of length 1 where cosines are asked for."""
    check_finite(features)
    wide = features if features.dtype == torch.float64 else features.float()
    if temperature is None:
        return wide
    size: Tensor = wide.norm(dim=1, keepdim=True)
    if bool((size == 0).any()):
        raise InputError("all features of an image are 0: it has no nearest neighbours by cosine")
    return wide / size
