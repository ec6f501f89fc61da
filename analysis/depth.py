"""Prediction depth: from which layer on a network has made up its mind about an image.

Every layer gets a probe, a vote of the k nearest training images in its features. Baldock, Maennel, Neyshabur
2021 (arXiv 2106.09647) call an image predicted at layer l if this probe and all later ones say what the
network says in the end, and the one before l does not. Images that are decided late are hard ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.inference import device_of
from analysis.knn import knn_predict
from analysis.similarity.activations import pooled_features
from analysis.similarity.cka import check_finite
from population.errors import InputError

MAX_TRAINING_IMAGES = 50_000
"""Of more training images than these, a random sample is used."""


@dataclass(frozen=True, eq=False)
class PredictionDepth:
    """What the probes of L layers say of N images.

    Attributes:
        layers: names of the layers, in the order of the rows of ``probes``.
        training_images: number of training images that the probes chose neighbours from.
        final: class that the network predicts, shape (N,).
        probes: class that each layer's probe predicts, shape (L, N). Their accuracies are
            ``(probes == labels).mean(axis=1)``, and the earlier study's depth is ``label_depth(probes,
            labels)``.
        depth: prediction depth, shape (N,), from 0 to L; see ``settled_depth``.
    """

    layers: tuple[str, ...]
    training_images: int
    final: NDArray[np.int64]
    probes: NDArray[np.int64]
    depth: NDArray[np.int64]


def prediction_depth(
    model: nn.Module,
    train_images: Tensor,
    train_labels: NDArray[np.int64],
    images: Tensor,
    layers: Sequence[str],
    *,
    k: int = 30,
    batch_size: int,
    seed: int,
) -> PredictionDepth:
    """Finds the layer from which on each image is predicted as in the end.

    Deviations from the paper, which probes whole activations, and the input and the softmax as well:

    - Outputs are averaged over positions (``position_means``), and that matters. With ten layers of a
      ResNet-18, the rank correlation with the depth from whole feature maps was 0.26 to 0.45 on the digits
      (supervised and SimCLR, 3 seeds each) and 0.48 on CIFAR-10 (4,000 training and 1,000 test images, one
      network). Of digits, which lie alike, whole maps of the first layer tell 95 % and averages 42 %; of
      photographs 23 % and 24 %. By both, images that the network gets wrong are settled later. So compare
      depths from averages with such depths alone.
    - Only the layers named are probed: depth 0 is the first of them, not the input.

    An image that is also among the training images is its own nearest neighbour, with one of the k votes.

    Memory holds the features of all layers, 4 bytes for each channel and image (0.5 GB for 50,000 training
    images and 2,500 channels, ten layers of a ResNet-18), and ``batch_size`` distances per training image.

    Args:
        model: from images to logits (N, C); its own modes and hooks are as before afterwards.
        train_images: network inputs, shape (n, ...). If there are more than ``MAX_TRAINING_IMAGES``, so many
            are drawn.
        train_labels: their classes, shape (n,), from 0 to C - 1.
        images: network inputs, shape (N, ...).
        layers: names of layers in forward order, as for ``pooled_features``.
        k: number of neighbours; 30 as in the paper.
        batch_size: number of images per forward pass, and per block of distances.
        seed: of the draw of training images.

    Raises:
        InputError: as ``pooled_features`` and ``knn_predict``; or if no layer is named, there is not one
            label per training image, or a logit is not finite.
    """
    if not layers:
        raise InputError("prediction depth needs at least one layer")
    n = len(train_images)
    if train_labels.shape != (n,):
        raise InputError(f"{n} training images need labels of shape ({n},), not {train_labels.shape}")
    if n > MAX_TRAINING_IMAGES:
        drawn = np.sort(np.random.default_rng(seed).choice(n, MAX_TRAINING_IMAGES, replace=False))
        train_images, train_labels = train_images[drawn], train_labels[drawn]
    train = pooled_features(model, train_images, layers, batch_size=batch_size)
    found = pooled_features(model, images, [*layers, ""], batch_size=batch_size)
    logits = found.pop("")  # torch's name for the model itself
    check_finite(logits)
    device = device_of(model)
    probes = np.stack(
        [
            knn_predict(
                train[layer].to(device),
                train_labels,
                found[layer],
                k=k,
                num_classes=logits.shape[1],
                batch_size=batch_size,
            )
            for layer in layers
        ]
    )
    final = logits.argmax(dim=1).numpy()
    return PredictionDepth(tuple(layers), len(train_images), final, probes, settled_depth(probes, final))


def settled_depth(probes: NDArray[np.int64], final: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts the probes up to the last one that disagrees: the prediction depth of Baldock et al. 2021.

    Args:
        probes: predicted classes, shape (L, N), the first layer first.
        final: the network's own predictions, shape (N,).

    Returns:
        Shape (N,): the index of the first probe from which on all agree; L where the last one does not.

    Raises:
        InputError: if the shapes disagree.
    """
    if probes.ndim != 2 or final.shape != probes.shape[1:]:
        raise InputError(
            f"probes and labels must have shapes (L, N) and (N,), not {probes.shape} and {final.shape}"
        )
    position = np.arange(1, len(probes) + 1)
    depth: NDArray[np.int64] = (position[:, None] * (probes != final)).max(axis=0)
    return depth


def label_depth(probes: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Depth against the true label, as the code of Corti et al. 2022 (arXiv 2207.00200) has it.

    It is 1 + the index of the last probe that is wrong, and 1 where none is. So an image on which only the
    first probe is wrong is as shallow as one on which none is, and an image that the network gets wrong is
    deep although it may have been decided at once.

    Args:
        probes: predicted classes, shape (L, N), L >= 1, the first layer first.
        labels: true classes, shape (N,).

    Returns:
        Shape (N,), from 1 to L.

    Raises:
        InputError: if the shapes disagree.
    """
    return np.maximum(settled_depth(probes, labels), 1)
