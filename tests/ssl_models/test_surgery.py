from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from compressors.contract import CompressionPlan
from compressors.filters import prune_filters
from compressors.groups import find_groups
from ssl_models import build_model, load_data
from ssl_models.backbones import Classifier
from ssl_models.checkpoint import Checkpoints
from ssl_models.objectives import OBJECTIVES
from ssl_models.presets import preset
from ssl_models.surgery import Surgery
from ssl_models.training import train

Data = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def digits() -> Data:
    split = load_data("digits", data_dir=None, download=False).train
    return torch.from_numpy(split.images[:64]), torch.from_numpy(split.samples.label[:64])


def network(objective: str, seed: int = 0, architecture: str = "r18") -> Classifier:
    name = f"{objective}_{architecture}"
    return build_model(name, num_classes=10, in_channels=1, width=2, seed=seed, mean=[0.3], std=[0.37])


def decide(model: nn.Module, example: torch.Tensor, *, amount: float) -> CompressionPlan:
    return prune_filters(model, example, amount=amount, seed=0).plan


class Kill:
    """Ends training at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, step: int, total: int) -> None:
        if step == self.step:
            raise KeyboardInterrupt

    def after_epoch(self, epoch: int) -> None:
        pass

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        pass


def operated(
    objective: str, data: Data, *, amount: float, kill: int = -1, folder: Path | None = None, seed: int = 0
) -> tuple[Classifier, Surgery, list[float]]:
    model = network(objective, seed)
    surgery = Surgery(4, partial(decide, amount=amount), torch.rand(2, 1, 8, 8))
    spec = replace(preset("digits", objective).training, epochs=2, batch_size=16)
    checkpoints = None if folder is None else Checkpoints(folder, seconds=0)
    losses = train(
        model,
        objective,
        *data,
        spec=spec,
        seed=3,
        hooks=[Kill(kill)],
        surgery=surgery,
        checkpoints=checkpoints,
    )
    return model, surgery, losses


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def same(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())


@pytest.mark.parametrize("objective", [*OBJECTIVES])
def test_a_network_is_made_smaller_on_the_way_and_goes_on(objective: str, digits: Data) -> None:
    model, surgery, losses = operated(objective, digits, amount=0.5)
    dense = network(objective)
    direct = prune_filters(dense, torch.rand(2, 1, 8, 8), amount=0.5, seed=0)
    assert shapes(model) == shapes(direct.model)
    assert model.encoder.embedding == model.head.in_features == 8
    assert {n: tuple(c.shape) for n, c in surgery.clusters.items()} == {
        g.name: (g.size,) for g in find_groups(dense, torch.rand(2, 1, 8, 8)).groups
    }
    assert len(losses) == 2
    assert bool(torch.isfinite(model(torch.rand(3, 1, 8, 8))).all())


@pytest.mark.parametrize("objective", ["supervised", "simclr"])  # BYOL's target network begins again
def test_removing_nothing_changes_no_bit(objective: str, digits: Data) -> None:
    model, _, losses = operated(objective, digits, amount=0.0)
    dense = network(objective)
    spec = replace(preset("digits", objective).training, epochs=2, batch_size=16)
    assert train(dense, objective, *digits, spec=spec, seed=3) == losses
    assert same(model, dense)


def test_the_projection_loses_the_columns_of_lost_channels() -> None:
    model = network("byol")
    spec = preset("digits", "byol").training
    learner = OBJECTIVES["byol"](model, spec)
    with torch.no_grad():
        for parameter in learner.target_encoder.parameters():
            parameter.add_(1.0)  # as if it lagged behind
    before = learner.projection.layers[0].weight.detach().clone()
    surgery = Surgery(1, partial(decide, amount=0.5), torch.rand(2, 1, 8, 8))
    (group,) = (
        g.name
        for g in find_groups(model, torch.rand(2, 1, 8, 8)).groups
        if any(piece.tensor == "head.weight" for piece in g.slices)
    )
    surgery.operate(learner)
    last = surgery.clusters[group]
    assert torch.equal(learner.projection.layers[0].weight, before[:, last >= 0])
    assert learner.projection.layers[0].in_features == 8
    assert learner.projection.layers[0].out_features == before.shape[0]
    assert shapes(learner.target_encoder) == shapes(model.encoder)
    assert all(
        torch.equal(a, b)
        for a, b in zip(learner.target_encoder.parameters(), model.encoder.parameters(), strict=True)
    )
    assert not any(p.requires_grad for p in learner.target_encoder.parameters())


@pytest.mark.parametrize("objective", ["supervised", "byol"])
@pytest.mark.parametrize("killed", [4, 5, 7])  # before the surgery, right after it, and later
def test_a_killed_run_goes_on_to_the_same_bits(
    objective: str, killed: int, digits: Data, tmp_path: Path
) -> None:
    expected, done, losses = operated(objective, digits, amount=0.5)
    with pytest.raises(KeyboardInterrupt):
        operated(objective, digits, amount=0.5, kill=killed, folder=tmp_path)
    model, surgery, again = operated(objective, digits, amount=0.5, folder=tmp_path, seed=9)
    assert again == losses
    assert same(model, expected)
    assert {n: c.tolist() for n, c in surgery.clusters.items()} == {
        n: c.tolist() for n, c in done.clusters.items()
    }
