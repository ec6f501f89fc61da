import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pie.scores import forgetting_events
from population.errors import InputError
from population.spec import TrainingSpec
from ssl_models import build_model, load_data
from ssl_models.augment import random_view
from ssl_models.backbones import Classifier
from ssl_models.predict import predict
from ssl_models.presets import preset
from ssl_models.recorder import CorrectnessRecorder
from ssl_models.training import train

EPOCHS = 5


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    split = load_data("digits", data_dir=None, download=False).train
    return torch.from_numpy(split.images[:300]), torch.from_numpy(split.samples.label[:300])


def spec(objective: str = "supervised", epochs: int = EPOCHS) -> TrainingSpec:
    return replace(preset("digits", objective).training, epochs=epochs, batch_size=50)


def network(objective: str = "supervised") -> Classifier:
    return build_model(f"{objective}_r18", num_classes=10, in_channels=1, width=4, seed=0)


def recorded(digits: tuple[Tensor, Tensor]) -> tuple[Classifier, list[float], np.ndarray]:
    model = network()
    recorder = CorrectnessRecorder(model, "supervised", *digits)
    losses = train(model, "supervised", *digits, spec=spec(), seed=3, hooks=[recorder])
    return model, losses, recorder.correct


def by_hand(digits: tuple[Tensor, Tensor]) -> np.ndarray:
    """The same training, written down again; a copy of the network predicts, image by image."""
    (images, labels), chosen, model = digits, spec(), network().to(memory_format=torch.channels_last)
    generator, twin = torch.Generator().manual_seed(3), network().eval()
    optimizer = torch.optim.AdamW(
        model.train().parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay, fused=True
    )
    step, total, rows = 0, EPOCHS * 6, []
    for _ in range(EPOCHS):
        for index in torch.randperm(300, generator=generator).reshape(6, 50):
            warm = step < total // 10
            rate = (step + 1) / 3 if warm else (1 + math.cos(math.pi * (step - 3) / (total - 3))) / 2
            optimizer.param_groups[0]["lr"] = chosen.learning_rate * rate
            view = random_view(images[index].float() / 255, chosen.augmentation, generator=generator)
            with torch.autocast("cpu", torch.bfloat16):
                scores = model(view.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            F.cross_entropy(scores.float(), labels[index]).backward()
            optimizer.step()
            step += 1
        twin.load_state_dict(model.state_dict())
        with torch.no_grad():
            guesses = [int(twin(image[None] / 255).argmax()) for image in images]
        rows.append(np.array(guesses) == labels.numpy())
    return np.stack(rows)


def test_the_recorder_counts_what_a_loop_by_hand_counts(digits: tuple[Tensor, Tensor]) -> None:
    _, _, correct = recorded(digits)
    expected = by_hand(digits)
    assert (correct.shape, correct.dtype) == ((EPOCHS, 300), np.bool_)
    # Sums in another order may change a prediction that is nearly a tie.
    assert (correct != expected).mean() < 0.005
    events, others = forgetting_events(correct), forgetting_events(expected)
    assert (events != others).mean() < 0.02
    assert len(np.unique(events)) > 2, "some images were never right, some always, some forgotten"


def test_training_gives_the_same_bits_with_and_without_it(digits: tuple[Tensor, Tensor]) -> None:
    model, losses, _ = recorded(digits)
    other = network()
    assert train(other, "supervised", *digits, spec=spec(), seed=3) == losses
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_last_row_is_what_the_trained_network_predicts(digits: tuple[Tensor, Tensor]) -> None:
    model, _, correct = recorded(digits)
    samples = load_data("digits", data_dir=None, download=False).train.samples
    few = type(samples)(samples.sample_id[:300], samples.label[:300], samples.class_names)
    found = predict(model, digits[0], few)
    np.testing.assert_array_equal(correct[-1], found.predicted[0] == found.label)


class Modes:
    """Notes the epochs it is told of, and the modes of the modules."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.told: list[tuple[int, bool]] = []

    def after_step(self, step: int, total: int) -> None:
        pass

    def after_epoch(self, epoch: int) -> None:
        self.told.append((epoch, any(module.training for module in self.model.modules())))

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        pass


@pytest.mark.parametrize("objective", ["supervised", "byol"])
def test_a_hook_is_told_of_each_epoch_in_eval_mode_and_training_goes_on_as_without(
    objective: str, digits: tuple[Tensor, Tensor]
) -> None:
    model, other = network(objective), network(objective)
    hook = Modes(model)
    losses = train(model, objective, *digits, spec=spec(objective, 3), seed=3, hooks=[hook])
    assert hook.told == [(0, False), (1, False), (2, False)]
    assert losses == train(other, objective, *digits, spec=spec(objective, 3), seed=3)


@pytest.mark.parametrize("objective", ["simclr", "byol", "supcon", "barlowtwins"])
def test_without_a_trained_classifier_nothing_is_forgotten(
    objective: str, digits: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(InputError, match=f"^{objective} trains no classifier.*that do: supervised$"):
        CorrectnessRecorder(network(objective), objective, *digits)
