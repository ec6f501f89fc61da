import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_models import build_model
from ssl_models.objectives.byol import BYOL
from ssl_models.presets import preset

TRAINING = preset("digits", "byol").training
LABELS = torch.zeros(5, dtype=torch.int64)


@pytest.fixture
def learner() -> BYOL:
    model = build_model("byol_r18", num_classes=5, in_channels=1, width=2, seed=0, mean=[0.3], std=[0.5])
    torch.manual_seed(0)
    return BYOL(model, TRAINING)


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(5, 1, 16, 16, generator=generator) for _ in range(2)]


def move_target(learner: BYOL) -> None:
    """Makes the target differ from the online network, as after some steps."""
    with torch.no_grad():
        for parameter in learner.target_encoder.parameters():
            parameter.mul_(1.3).add_(0.01)


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_minus_the_cosine_to_the_other_view(learner: BYOL, training: bool) -> None:
    learner.train(training)
    move_target(learner)
    both = torch.cat(views())
    with torch.no_grad():
        twin = copy.deepcopy(learner)
        online = twin.prediction(twin.projection(twin.model.features(both)))
        target = twin.target_projection(twin.target_encoder((both - 0.3) / 0.5))
        found = float(learner(views(), LABELS))
    cosines = [float(F.cosine_similarity(online[i], target[(i + 5) % 10], dim=0)) for i in range(10)]
    assert found == pytest.approx(-sum(cosines) / 10, abs=1e-5)
    assert -1 <= found <= 1


def test_the_target_starts_as_a_copy_and_is_never_trained(learner: BYOL) -> None:
    online, target = learner.model.encoder.state_dict(), learner.target_encoder.state_dict()
    assert all(torch.equal(online[name], target[name]) for name in online)
    learner(views(), LABELS).backward()
    without = {name.split(".")[0] for name, p in learner.named_parameters() if p.grad is None}
    assert without == {"target_encoder", "target_projection", "model"}
    assert [n for n, p in learner.model.named_parameters() if p.grad is None] == ["head.weight", "head.bias"]
    assert not any(p.requires_grad for p in learner.target_encoder.parameters())
    assert not any(p.requires_grad for p in learner.target_projection.parameters())


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.01), (0.5, 0.005), (1.0, 0.0), (0.25, None)])
def test_the_target_moves_by_hand(learner: BYOL, progress: float, share: float | None) -> None:
    # momentum 0.99 at the start and 1 at the end, on half a cosine
    if share is None:
        share = 0.01 * (math.cos(math.pi / 4) + 1) / 2
    move_target(learner)
    pairs = [
        (learner.model.encoder, learner.target_encoder),
        (learner.projection, learner.target_projection),
    ]
    with torch.no_grad():
        for p in learner.projection.parameters():
            p.add_(0.5)
    expected = [
        [t + share * (o - t) for o, t in zip(a.parameters(), b.parameters(), strict=True)] for a, b in pairs
    ]
    online_before = copy.deepcopy(learner.model.state_dict())
    learner.after_step(progress)
    for (_, target), values in zip(pairs, expected, strict=True):
        for found, value in zip(target.parameters(), values, strict=True):
            torch.testing.assert_close(found.detach(), value.detach(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(online_before[n], t) for n, t in learner.model.state_dict().items())
