import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssl_models import build_model
from ssl_models.objectives.simclr import SimCLR
from ssl_models.objectives.supcon import SupCon, supcon_loss
from ssl_models.presets import preset

TRAINING = preset("digits", "supcon").training
LABELS = torch.tensor([2, 0, 2, 1, 0])


def by_hand(projected: Tensor, labels: Tensor, temperature: float) -> float:
    """Eq. 2 of the paper, one anchor and one positive after the other, divided by the number of anchors."""
    rows = [row / row.norm() for row in projected.double()]
    n = len(rows)
    total = 0.0
    for i in range(n):
        others = [a for a in range(n) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        share = sum(math.exp(float(rows[i] @ rows[a]) / temperature) for a in others)
        total += -sum(
            math.log(math.exp(float(rows[i] @ rows[p]) / temperature) / share) for p in positives
        ) / len(positives)
    return total / n


def learner(temperature: float = 0.1) -> SupCon:
    model = build_model("supcon_r18", num_classes=3, in_channels=1, width=2, seed=0)
    torch.manual_seed(0)
    return SupCon(model, replace(TRAINING, temperature=temperature))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_papers(temperature: float, training: bool) -> None:
    torch.manual_seed(1)
    views = [torch.rand(5, 1, 16, 16), torch.rand(5, 1, 16, 16)]
    both = learner(temperature).train(training)
    with torch.no_grad():
        projected = both.projection(both.model.features(torch.cat(views)))
        assert projected.shape == (10, 128)
        expected = by_hand(projected, torch.cat([LABELS, LABELS]), temperature)
        assert float(both(views, LABELS)) == pytest.approx(expected, rel=1e-5)
        assert float(both(views, LABELS.clamp(max=1))) != pytest.approx(expected, rel=1e-5)


def test_without_shared_classes_it_is_simclrs() -> None:
    torch.manual_seed(1)
    views = [torch.rand(5, 1, 16, 16), torch.rand(5, 1, 16, 16)]
    ours = learner(0.3)
    theirs = SimCLR(ours.model, replace(TRAINING, temperature=0.3))
    theirs.projection.load_state_dict(ours.projection.state_dict())
    with torch.no_grad():
        found = ours(views, torch.arange(5))
        torch.testing.assert_close(found, theirs(views, torch.arange(5)), rtol=1e-5, atol=0)


def test_one_class_of_equal_rows_by_hand() -> None:
    # All similarities are equal: each positive has a share of 1/(M-1) of the others.
    rows = torch.ones(6, 4)
    assert float(supcon_loss(rows, torch.zeros(6), temperature=0.1)) == pytest.approx(math.log(5), rel=1e-6)
    # Two classes at a right angle, two rows each: one positive at 1/t, two others at 0.
    rows = torch.eye(2).repeat(2, 1) * 7
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert float(supcon_loss(rows, torch.tensor([0, 1, 0, 1]), temperature=0.5)) == pytest.approx(expected)


def test_small_temperatures_do_not_overflow() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 2, 2, 0, 1])
    found = supcon_loss(rows.float(), labels, temperature=1e-3)
    scaled = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T / 1e-3
    total = 0.0
    for i in range(8):
        others = [a for a in range(8) if a != i]
        top = max(float(scaled[i, a]) for a in others)
        log_sum = top + math.log(sum(math.exp(float(scaled[i, a]) - top) for a in others))
        positives = [p for p in others if labels[p] == labels[i]]
        total += sum(log_sum - float(scaled[i, p]) for p in positives) / len(positives)
    assert float(found) == pytest.approx(total / 8, rel=1e-4)


def test_autocast_does_not_round_the_similarities() -> None:
    rows = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 3
    with torch.autocast("cpu", torch.bfloat16):
        inside = supcon_loss(rows, labels, temperature=0.1)
    assert torch.equal(inside, supcon_loss(rows, labels, temperature=0.1))


def test_encoder_and_projection_are_trained_and_the_head_is_not() -> None:
    both = learner()
    both([torch.rand(5, 1, 16, 16), torch.rand(5, 1, 16, 16)], LABELS).backward()
    without = {name for name, p in both.named_parameters() if p.grad is None}
    assert without == {"model.head.weight", "model.head.bias"}
    assert (both.views, both.trains_head) == (2, False)
    assert all(torch.isfinite(p.grad).all() for p in both.parameters() if p.grad is not None)
