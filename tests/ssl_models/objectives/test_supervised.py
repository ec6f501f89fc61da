import torch
import torch.nn.functional as F

from ssl_models import build_model
from ssl_models.objectives.supervised import Supervised
from ssl_models.presets import preset

TRAINING = preset("digits", "supervised").training


def test_the_loss_is_cross_entropy_of_the_first_view() -> None:
    model = build_model("supervised_r18", num_classes=5, in_channels=1, width=2, seed=0)
    learner = Supervised(model, TRAINING).eval()
    torch.manual_seed(0)
    views, labels = [torch.rand(6, 1, 16, 16)], torch.tensor([0, 1, 2, 3, 4, 0])
    logits = model(views[0])
    torch.testing.assert_close(learner(views, labels), F.cross_entropy(logits, labels))
    by_hand = -logits.log_softmax(1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(learner(views, labels), by_hand)


def test_all_of_the_model_and_nothing_else_is_trained() -> None:
    model = build_model("supervised_r18", num_classes=5, in_channels=1, width=2, seed=0)
    learner = Supervised(model, TRAINING)
    assert {id(p) for p in learner.parameters()} == {id(p) for p in model.parameters()}
    assert (learner.views, learner.trains_head) == (1, True)
    learner([torch.rand(6, 1, 16, 16)], torch.tensor([0, 1, 2, 3, 4, 0])).backward()
    assert all(p.grad is not None for p in model.parameters())
