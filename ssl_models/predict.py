"""A model and samples make one row of Predictions."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from population.predictions import Predictions
from population.samples import SampleSet

_BATCH = 500


def batches(images: Tensor, size: int = _BATCH) -> Iterator[Tensor]:
    """Yields uint8 images (N, C, H, W) as float batches in [0, 1], channels last."""
    for start in range(0, len(images), size):
        # A copy: grey images are in every memory format as they are, with strides that depend on where
        # they come from, and sums in the last bit on the strides.
        yield images[start : start + size].float().div(255).clone(memory_format=torch.channels_last)


def predict(model: nn.Module, images: Tensor, samples: SampleSet) -> Predictions:
    """Runs a classifier in float32 over all images.

    Args:
        model: in eval mode, from images in [0, 1] to logits.
        images: shape (N, C, H, W), uint8, on the model's device.
        samples: ids and labels of the images.

    Returns:
        One row with probabilities, and with the difference of the two largest as margin.
    """
    with torch.inference_mode():
        probabilities = torch.cat([model(b).float().softmax(1) for b in batches(images)])
        top = probabilities.topk(2, dim=1).values
    return Predictions(
        sample_id=samples.sample_id,
        predicted=probabilities.argmax(1).cpu().numpy()[None],
        label=samples.label,
        margin=(top[:, 0] - top[:, 1]).cpu().numpy()[None],
        probabilities=probabilities.cpu().numpy()[None],
        class_names=np.array(samples.class_names),
    )
