"""SimCLR: Chen, Kornblith, Norouzi, Hinton 2020, arXiv 2002.05709."""

from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from population.spec import TrainingSpec
from ssl_models.backbones import Classifier
from ssl_models.collective import gathered


class SimCLR(nn.Module):
    """NT-Xent (the paper's eq. 1) between two views of each image.

    Deviation: both views pass the encoder as one batch, so BatchNorm statistics are of both.
    """

    views = 2
    trains_head = False
    looks_at_labels = False

    def __init__(self, model: Classifier, spec: TrainingSpec) -> None:
        super().__init__()
        self.model = model
        width = model.encoder.embedding
        self.projection = SimCLRProjectionHead(width, width, 128)
        self.criterion = NTXentLoss(temperature=spec.temperature)

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Mean loss of two views (N, C, H, W) each; labels are not used."""
        del labels
        first, second = self.projection(self.model.features(torch.cat(list(views)))).float().chunk(2)
        loss: Tensor = self.criterion(gathered(first), gathered(second))
        return loss

    def after_step(self, progress: float) -> None:
        """Nothing to do."""

    def after_surgery(self) -> None:
        """Nothing to do."""
