from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssl_models import build_model
from ssl_models.objectives.barlowtwins import BarlowTwins
from ssl_models.presets import preset

TRAINING = preset("digits", "barlowtwins").training
LABELS = torch.zeros(6, dtype=torch.int64)


def learner(redundancy: float = 5e-3) -> BarlowTwins:
    model = build_model("barlowtwins_r18", num_classes=5, in_channels=1, width=2, seed=0)
    torch.manual_seed(0)
    return BarlowTwins(model, replace(TRAINING, redundancy=redundancy))


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(6, 1, 16, 16, generator=generator) for _ in range(2)]


def by_hand(first: Tensor, second: Tensor, weight: float) -> float:
    """Eq. 1 of the paper, one pair of features after the other; 1e-5 keeps a constant feature finite."""
    rows = [
        [(c - c.mean()) / (c.var(correction=0) + 1e-5).sqrt() for c in view.double().T]
        for view in (first, second)
    ]
    total = 0.0
    for i, a in enumerate(rows[0]):
        for j, b in enumerate(rows[1]):
            correlation = float(a @ b) / len(a)
            total += (1 - correlation) ** 2 if i == j else weight * correlation**2
    return total


@pytest.mark.parametrize("redundancy", [5e-3, 0.3])
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_papers(redundancy: float, training: bool) -> None:
    twins = learner(redundancy).train(training)
    with torch.no_grad():
        first, second = twins.projection(twins.model.features(torch.cat(views()))).chunk(2)
        assert first.shape == (6, 4 * twins.model.encoder.embedding) == (6, 64)
        expected = by_hand(first, second, redundancy)
        assert float(twins(views(), LABELS)) == pytest.approx(expected, rel=1e-4)
        assert float(twins(views(), LABELS + 3)) == pytest.approx(expected, rel=1e-4)


def test_the_order_of_the_views_does_not_matter_and_equal_views_cost_least() -> None:
    twins, (first, second) = learner(), views()
    with torch.no_grad():
        one, other = float(twins([first, second], LABELS)), float(twins([second, first], LABELS))
        assert one == pytest.approx(other, rel=1e-4)
        assert float(twins([first, first], LABELS)) < one


def test_autocast_does_not_round_the_correlations() -> None:
    twins = learner(0.3)
    rows = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    twins.projection = torch.nn.Identity()
    twins.model.features = lambda _: rows  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        inside = twins(views(), LABELS)
    assert torch.equal(inside, twins(views(), LABELS))
    assert float(inside) == pytest.approx(by_hand(rows[:6], rows[6:], 0.3), rel=1e-4)


def test_encoder_and_projection_are_trained_and_the_head_is_not() -> None:
    twins = learner()
    twins(views(), LABELS).backward()
    without = {name for name, p in twins.named_parameters() if p.grad is None}
    assert without == {"model.head.weight", "model.head.bias"}
    assert (twins.views, twins.trains_head) == (2, False)
