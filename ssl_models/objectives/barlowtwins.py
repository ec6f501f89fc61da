"""Barlow Twins: Zbontar, Jing, Misra, LeCun, Deny 2021, arXiv 2103.03230."""

from collections.abc import Sequence

import torch
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor, nn

from population.spec import TrainingSpec
from ssl_models.backbones import Classifier
from ssl_models.collective import gathered


class BarlowTwins(nn.Module):
    """Makes the cross-correlation matrix of two views' projections the identity (the paper's eq. 1).

    Deviations: the projector is 4 times as wide as the embedding, as the paper's 8192 is for 2048
    features, so a small encoder has a small one; both views pass encoder and projector as one batch, so
    BatchNorm statistics are of both.
    """

    views = 2
    trains_head = False
    looks_at_labels = False

    def __init__(self, model: Classifier, spec: TrainingSpec) -> None:
        super().__init__()
        self.model = model
        width = model.encoder.embedding
        self.projection = BarlowTwinsProjectionHead(width, 4 * width, 4 * width)
        self.criterion = BarlowTwinsLoss(lambda_param=spec.redundancy)

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Loss of two views (N, C, H, W) each, N >= 2; labels are not used."""
        del labels
        first, second = self.projection(self.model.features(torch.cat(list(views)))).float().chunk(2)
        # Autocast would round the projections to bfloat16 before they are correlated.
        with torch.autocast(first.device.type, enabled=False):
            loss: Tensor = self.criterion(gathered(first), gathered(second))
        return loss

    def after_step(self, progress: float) -> None:
        """Nothing to do."""

    def after_surgery(self) -> None:
        """Nothing to do."""
