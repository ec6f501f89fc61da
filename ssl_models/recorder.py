"""What a network has learnt and forgotten again, epoch by epoch."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from population.errors import InputError
from ssl_models.backbones import Classifier
from ssl_models.objectives import OBJECTIVES
from ssl_models.predict import batches


class CorrectnessRecorder:
    """Notes which images the classifier has right at the end of each epoch; a ``TrainingHook``.

    ``pie.scores.forgetting_events`` counts what it notes. It predicts in float32, without augmentation and
    with the running statistics of BatchNorm, and changes nothing: training with it gives the same bits.
    It costs a forward pass of all images per epoch: training supervised_r18 on digits took 1.4 times as long.
    """

    def __init__(self, model: Classifier, objective: str, images: Tensor, labels: Tensor) -> None:
        """Nothing is predicted yet.

        Args:
            model: that is going to be trained.
            objective: that it is going to be trained for.
            images: usually those it learns from, in the order of the columns of ``correct``, shape
                (N, C, H, W), uint8, on the model's device.
            labels: class indices, shape (N,), int64, on the same device.

        Raises:
            InputError: if the objective leaves the classifier as it is.
        """
        if not OBJECTIVES[objective].trains_head:
            able = ", ".join(name for name, other in OBJECTIVES.items() if other.trains_head)
            raise InputError(
                f"{objective} trains no classifier that could forget images; objectives that do: {able}"
            )
        self._model, self._images, self._labels = model, images, labels
        self._rows: list[NDArray[np.bool_]] = []

    def after_step(self, step: int, total: int) -> None:
        """Nothing to note."""

    def after_epoch(self, epoch: int) -> None:
        """Notes the next row of ``correct``."""
        with torch.inference_mode():
            predicted = torch.cat([self._model(batch).argmax(1) for batch in batches(self._images)])
        self._rows.append((predicted == self._labels).cpu().numpy())

    def state(self) -> dict[str, Tensor]:
        """The rows so far, one tensor per epoch."""
        return {f"epoch-{i}": torch.from_numpy(row) for i, row in enumerate(self._rows)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes the rows that ``state`` gave."""
        self._rows = [state[f"epoch-{i}"].numpy() for i in range(len(state))]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image was right at the end of each epoch so far, shape (E, N)."""
        return np.stack(self._rows)
