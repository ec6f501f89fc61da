"""BYOL: Grill et al. 2020, arXiv 2006.07733."""

import copy
import math
from collections.abc import Sequence

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from population.spec import TrainingSpec
from ssl_models.backbones import Classifier
from ssl_models.collective import gathered


class BYOL(nn.Module):
    """Predicts a slowly moving target network's projection of the other view (eq. 2, symmetrised).

    Deviations: the hidden layers are 4 times the embedding (the paper's 4096 for 2048 features is 2
    times), and both views pass each network as one batch.
    """

    views = 2
    trains_head = False
    looks_at_labels = False

    def __init__(self, model: Classifier, spec: TrainingSpec) -> None:
        super().__init__()
        self.model = model
        width = model.encoder.embedding
        self.projection = BYOLProjectionHead(width, 4 * width, 128)
        self.prediction = BYOLPredictionHead(128, 4 * width, 128)
        self.after_surgery()
        self.criterion = NegativeCosineSimilarity()
        self.base_momentum = spec.momentum

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Mean loss of two views (N, C, H, W) each; labels are not used."""
        del labels
        both = torch.cat(list(views))
        online = self._of_all(self.prediction(self.projection(self.model.features(both))))
        with torch.no_grad():
            target = self._of_all(self.target_projection(self.target_encoder(self.model.normalize(both))))
        loss: Tensor = (self.criterion(online[0], target[1]) + self.criterion(online[1], target[0])) / 2
        return loss

    @staticmethod
    def _of_all(outputs: Tensor) -> list[Tensor]:
        return [gathered(view) for view in outputs.float().chunk(2)]

    def after_surgery(self) -> None:
        """Makes the target network a copy of the online one: a smaller one, where that was made smaller."""
        self.target_encoder = copy.deepcopy(self.model.encoder)
        self.target_projection = copy.deepcopy(self.projection)
        deactivate_requires_grad(self.target_encoder)
        deactivate_requires_grad(self.target_projection)

    def after_step(self, progress: float) -> None:
        """Moves the target network; its momentum rises to 1 along a cosine (section 3.2).

        Args:
            progress: share of training that is done, in [0, 1].
        """
        momentum = 1 - (1 - self.base_momentum) * (math.cos(math.pi * progress) + 1) / 2
        update_momentum(self.model.encoder, self.target_encoder, m=momentum)
        update_momentum(self.projection, self.target_projection, m=momentum)
