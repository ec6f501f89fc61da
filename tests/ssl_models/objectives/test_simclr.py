import math
from dataclasses import replace

import pytest
import torch

from ssl_models import build_model
from ssl_models.objectives.simclr import SimCLR
from ssl_models.presets import preset

TRAINING = preset("digits", "simclr").training
LABELS = torch.zeros(5, dtype=torch.int64)


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Eq. 1 of the paper, one pair after the other."""
    rows = [row / row.norm() for row in torch.cat([first, second]).double()]
    n = len(first)
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        similarity = [float(rows[i] @ rows[k]) / temperature for k in range(2 * n)]
        denominator = sum(math.exp(s) for k, s in enumerate(similarity) if k != i)
        total -= math.log(math.exp(similarity[partner]) / denominator)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.2, 0.5])
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_nt_xent(temperature: float, training: bool) -> None:
    model = build_model("simclr_r18", num_classes=5, in_channels=1, width=2, seed=0)
    torch.manual_seed(0)
    learner = SimCLR(model, replace(TRAINING, temperature=temperature)).train(training)
    views = [torch.rand(5, 1, 16, 16), torch.rand(5, 1, 16, 16)]
    with torch.no_grad():
        first, second = learner.projection(model.features(torch.cat(views))).chunk(2)
        assert first.shape == (5, 128)
        expected = nt_xent(first, second, temperature)
        assert float(learner(views, LABELS)) == pytest.approx(expected, rel=1e-5)
        assert float(learner(views, LABELS + 3)) == pytest.approx(expected, rel=1e-5)


def test_two_equal_views_cost_least() -> None:
    model = build_model("simclr_r18", num_classes=5, in_channels=1, width=2, seed=0)
    torch.manual_seed(0)
    learner = SimCLR(model, TRAINING)
    view = torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        assert learner([view, view], LABELS) < learner([view, view.roll(1, 0)], LABELS)


def test_encoder_and_projection_are_trained_and_the_head_is_not() -> None:
    model = build_model("simclr_r18", num_classes=5, in_channels=1, width=2, seed=0)
    torch.manual_seed(0)
    learner = SimCLR(model, TRAINING)
    learner([torch.rand(5, 1, 16, 16), torch.rand(5, 1, 16, 16)], LABELS).backward()
    without = {name for name, p in learner.named_parameters() if p.grad is None}
    assert without == {"model.head.weight", "model.head.bias"}
    assert (learner.views, learner.trains_head) == (2, False)
