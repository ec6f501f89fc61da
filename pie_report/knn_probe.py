"""A probe that fits nothing: the nearest training images vote on an encoder's features."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.knn import knn_predict
from population.predictions import Predictions
from population.samples import SampleSet
from ssl_models.probe import Probed, extract_features

#: Most neighbours that vote, and the temperature of their votes (Wu et al. 2018, arXiv 1805.01978).
NEIGHBOURS, TEMPERATURE = 200, 0.07

_BATCH = 500


@dataclass(frozen=True, eq=False)
class KnnAnswers:
    """What the neighbours say.

    Attributes:
        predictions: one row; a vote has no margin and no probabilities.
        without_features: number of images whose features are all 0.
    """

    predictions: Predictions
    without_features: int


def neighbours(train_labels: NDArray[np.int64]) -> int:
    """Number of neighbours that vote: ``NEIGHBOURS``, but no more than a class has images on average.

    The cap is ours: of a small training set, most of 200 neighbours would be of other classes.
    """
    return min(NEIGHBOURS, len(train_labels) // len(np.unique(train_labels)))


def knn_answers(
    network: Probed, train_images: Tensor, train_labels: NDArray[np.int64], images: Tensor, samples: SampleSet
) -> KnnAnswers:
    """Predicts the class of images by a vote of the nearest training images, by cosine.

    Features that are all 0 have no direction. A strongly compressed encoder may give them: such a training
    image is nobody's neighbour, and such an image gets the class that is most frequent in training (the
    smallest of several), as a linear layer whose bias alone is left would say.

    Args:
        network: its features are compared; its last layer is not used.
        train_images: shape (n, C, H, W), uint8, on the network's device.
        train_labels: their classes, shape (n,).
        images: shape (N, C, H, W), uint8, on the network's device.
        samples: ids and labels of the images.
    """
    train, asked = (
        torch.from_numpy(extract_features(network, i)).float().to(i.device) for i in (train_images, images)
    )
    known, answered = (features.any(dim=1).cpu().numpy() for features in (train, asked))
    predicted = np.full(len(asked), np.bincount(train_labels).argmax(), dtype=np.int64)
    if known.any() and answered.any():
        predicted[answered] = knn_predict(
            train[known],
            train_labels[known],
            asked[answered],
            k=min(neighbours(train_labels), int(known.sum())),
            num_classes=len(samples.class_names),
            temperature=TEMPERATURE,
            batch_size=_BATCH,
        )
    return KnnAnswers(
        Predictions(
            sample_id=samples.sample_id,
            predicted=predicted[None],
            label=samples.label,
            class_names=np.array(samples.class_names),
        ),
        int((~answered).sum()),
    )
