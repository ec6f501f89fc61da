from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compressors.gradual import Window
from compressors.magnitude import prunable_weights
from ssl_models import build_model, load_data
from ssl_models.backbones import Classifier
from ssl_models.checkpoint import Checkpoints
from ssl_models.presets import preset
from ssl_models.pruning import PruningHook
from ssl_models.training import total_steps, train

Data = tuple[torch.Tensor, torch.Tensor]
SPECS = {
    name: replace(preset("digits", name).training, epochs=2, batch_size=16) for name in ("supervised", "byol")
}
WINDOW = Window(1, 2, 3)  # of 8 steps: changes at 1, 3, 5 and 7


@pytest.fixture(scope="module")
def digits() -> Data:
    split = load_data("digits", data_dir=None, download=False).train
    return torch.from_numpy(split.images[:64]), torch.from_numpy(split.samples.label[:64])


def network(objective: str = "supervised", seed: int = 0) -> Classifier:
    return build_model(
        f"{objective}_r18", num_classes=10, in_channels=1, width=2, seed=seed, mean=[0.3], std=[0.37]
    )


class Watcher:
    """Notes the masks and the weights under them after each step; may end training."""

    def __init__(self, model: Classifier, hook: PruningHook, kill: int = -1) -> None:
        self.model, self.hook, self.kill = model, hook, kill
        self.masks: list[dict[str, torch.Tensor]] = []

    def after_step(self, step: int, total: int) -> None:
        if step == self.kill:
            raise KeyboardInterrupt
        masks = {name: mask.clone() for name, mask in self.hook.masks.items()}
        assert all(not self.model.get_parameter(n)[~mask].any() for n, mask in masks.items())
        self.masks.append(masks)

    def after_epoch(self, epoch: int) -> None:
        pass

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        pass


def pruned(
    data: Data, sparsities: Mapping[int, float], objective: str = "supervised", **options: object
) -> tuple[Classifier, PruningHook, Watcher]:
    model = network(objective)
    hook = PruningHook(model, sparsities=sparsities, **options)  # type: ignore[arg-type]
    watcher = Watcher(model, hook)
    train(model, objective, *data, spec=SPECS[objective], seed=3, hooks=[hook, watcher])
    return model, hook, watcher


def same(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_hold_at_every_step_and_only_grow(scope: str, digits: Data) -> None:
    targets = WINDOW.sparsities(0.9)
    model, hook, watcher = pruned(digits, targets, scope=scope)
    names = prunable_weights(model)
    assert "head.weight" not in names
    total = sum(model.get_parameter(n).numel() for n in names)
    before = {n: torch.ones_like(model.get_parameter(n), dtype=torch.bool) for n in names}
    wanted = 0.0
    for step, masks in enumerate(watcher.masks, start=1):
        wanted = targets.get(step, wanted)
        assert not any((masks[n] & ~before[n]).any() for n in names)
        removed = {n: int((~masks[n]).sum()) for n in names}
        if scope == "global":
            assert sum(removed.values()) == round(wanted * total)
        else:
            assert removed == {n: round(wanted * before[n].numel()) for n in names}
        before = masks
    zeros = sum(int((model.get_parameter(n) == 0).sum()) for n in names)
    assert zeros == sum(int((~m).sum()) for m in hook.masks.values())
    assert hook.sparsity == pytest.approx(0.9, abs=len(names) / total)
    assert [step for step, _ in hook.curve] == [0, 1, 3, 5, 7]
    np.testing.assert_allclose([s for _, s in hook.curve], [0, *targets.values()], atol=len(names) / total)


def test_the_smallest_of_what_is_left_goes(digits: Data) -> None:
    model = network()
    hook = PruningHook(model, sparsities={0: 0.3, 1: 0.6})
    assert hook.curve[0] == (0, pytest.approx(0.3, abs=1e-3))
    sizes = torch.cat([model.get_parameter(n).abs().flatten() for n in hook.masks])
    with torch.no_grad():
        model.encoder.conv1.weight[hook.masks["encoder.conv1.weight"]] = 0.0  # smaller than all others
    hook.after_step(1, 8)
    kept = torch.cat([m.flatten() for m in hook.masks.values()])
    assert not hook.masks["encoder.conv1.weight"].any()
    assert int(kept.sum()) == len(kept) - round(0.6 * len(kept))
    others = len(hook.masks["encoder.conv1.weight"].flatten())
    rest, stays = sizes[others:], kept[others:]
    assert rest[stays].min() >= rest[~stays].max()


@pytest.mark.parametrize("objective", ["supervised", "byol"])
def test_sparsity_zero_is_dense_training_to_the_last_bit(objective: str, digits: Data) -> None:
    model, hook, _ = pruned(digits, WINDOW.sparsities(0.0), objective)
    dense = network(objective)
    train(dense, objective, *digits, spec=SPECS[objective], seed=3)
    assert same(model, dense)
    assert hook.sparsity == 0


def test_the_classifier_takes_part_if_asked(digits: Data) -> None:
    without, _, _ = pruned(digits, {0: 0.9}, scope="layer")
    model, hook, _ = pruned(digits, {0: 0.9}, scope="layer", classifier=True)
    assert bool((without.head.weight != 0).all())
    assert int((model.head.weight == 0).sum()) == round(0.9 * model.head.weight.numel())
    assert hook.curve == [(0, hook.sparsity)]


def test_masks_from_elsewhere_are_held(digits: Data) -> None:
    mask = torch.zeros_like(network().encoder.conv1.weight, dtype=torch.bool)
    mask[0] = True
    model, hook, _ = pruned(digits, {}, masks={"encoder.conv1.weight": mask})
    assert torch.equal(model.encoder.conv1.weight != 0, mask)
    assert hook.curve == [(0, hook.sparsity)]


@pytest.mark.parametrize("objective", ["supervised", "byol"])
@pytest.mark.parametrize("killed", [2, 4, 6])
def test_a_killed_run_goes_on_to_the_same_bits(
    objective: str, killed: int, digits: Data, tmp_path: Path
) -> None:
    targets = WINDOW.sparsities(0.8)
    expected, hook, _ = pruned(digits, targets, objective)
    model = network(objective)
    first = PruningHook(model, sparsities=targets)
    with pytest.raises(KeyboardInterrupt):
        train(
            model, objective, *digits, spec=SPECS[objective], seed=3,
            hooks=[first, Watcher(model, first, killed)], checkpoints=Checkpoints(tmp_path, seconds=0),
        )  # fmt: skip
    model = network(objective, seed=9)
    second = PruningHook(model, sparsities=targets)
    train(
        model, objective, *digits, spec=SPECS[objective], seed=3,
        hooks=[second, Watcher(model, second)], checkpoints=Checkpoints(tmp_path, seconds=0),
    )  # fmt: skip
    assert same(model, expected)
    assert second.curve == hook.curve
    assert all(torch.equal(mask, hook.masks[name]) for name, mask in second.masks.items())


def test_steps_of_a_training() -> None:
    assert total_steps(SPECS["byol"], 70) == 8
    assert total_steps(SPECS["byol"], 10) == 2
