"""SupCon: Khosla et al. 2020, arXiv 2004.11362."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from population.spec import TrainingSpec
from ssl_models.backbones import Classifier
from ssl_models.collective import gathered


class SupCon(nn.Module):
    """Views of all images of one class attract each other; the encoder alone is trained.

    Deviations: both views pass the encoder as one batch, so BatchNorm statistics are of both; the loss
    is the mean over anchors, not their sum.
    """

    views = 2
    trains_head = False
    looks_at_labels = True

    def __init__(self, model: Classifier, spec: TrainingSpec) -> None:
        super().__init__()
        self.model = model
        width = model.encoder.embedding
        self.projection = SimCLRProjectionHead(width, width, 128)
        self.temperature = spec.temperature

    def forward(self, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Mean loss of two views (N, C, H, W) each with labels (N,)."""
        projected = self.projection(self.model.features(torch.cat(list(views)))).float()
        both = torch.cat([gathered(view) for view in projected.chunk(2)])
        return supcon_loss(both, labels.repeat(2), temperature=self.temperature)

    def after_step(self, progress: float) -> None:
        """Nothing to do."""

    def after_surgery(self) -> None:
        """Nothing to do."""


def supcon_loss(projected: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Supervised contrastive loss, L_out (the paper's eq. 2), as a mean over anchors.

    An anchor's loss is minus the mean, over all others of its class, of the log share that the other
    has among all others: ``-mean_p log(exp(z_a z_p / t) / sum_b exp(z_a z_b / t))``.

    Args:
        projected: shape (M, D); scaled to unit length here.
        labels: classes, shape (M,); every class that is there has at least two rows.
        temperature: positive t.

    Returns:
        The loss, a scalar in float32.
    """
    # Autocast would round the similarities to bfloat16 before they are divided by the temperature.
    with torch.autocast(projected.device.type, enabled=False):
        unit = F.normalize(projected.float(), dim=1)
        similarity = unit @ unit.T / temperature
        itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        log_share = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
        positive = (labels[:, None] == labels) & ~itself
        return -((log_share * positive).sum(1) / positive.sum(1)).mean()
