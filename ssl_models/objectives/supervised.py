"""Supervised learning with cross-entropy."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from population.spec import TrainingSpec
from ssl_models.backbones import Classifier
from ssl_models.collective import gathered


class Supervised(nn.Module):
    """Cross-entropy of one view; the classifier is trained with the encoder."""

    views = 1
    trains_head = True
    looks_at_labels = True
    projection = None

    def __init__(self, model: Classifier, spec: TrainingSpec) -> None:
        super().__init__()
        del spec
        self.model = model

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Mean loss of one batch of views (N, C, H, W) with labels (N,)."""
        return F.cross_entropy(gathered(self.model(views[0]).float()), labels)

    def after_step(self, progress: float) -> None:
        """Nothing to do."""

    def after_surgery(self) -> None:
        """Nothing to do."""
