import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from population.preemption import NOTICE, notices_held
from population.spec import TrainingSpec
from ssl_models import build_model, load_data
from ssl_models.backbones import Classifier
from ssl_models.checkpoint import Checkpoints
from ssl_models.presets import preset
from ssl_models.training import DivergedError, train


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    split = load_data("digits", data_dir=None, download=False).train
    return torch.from_numpy(split.images[:300]), torch.from_numpy(split.samples.label[:300])


def spec(objective: str, **changes: object) -> TrainingSpec:
    chosen = replace(preset("digits", objective).training, epochs=2, batch_size=64)
    return replace(chosen, **changes)  # type: ignore[arg-type]


def network(objective: str, seed: int = 0) -> Classifier:
    return build_model(
        f"{objective}_r18", num_classes=10, in_channels=1, width=2, seed=seed, mean=[0.3], std=[0.37]
    )


def trained(
    objective: str, data: tuple[torch.Tensor, torch.Tensor], *, seed: int, **changes: object
) -> tuple[dict[str, torch.Tensor], list[float]]:
    model = network(objective)
    losses = train(model, objective, *data, spec=spec(objective, **changes), seed=seed)
    assert not model.training
    return model.state_dict(), losses


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("objective", ["supervised", "simclr", "byol", "supcon", "barlowtwins"])
def test_the_seed_decides_every_bit(objective: str, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, losses = trained(objective, digits, seed=3)
    torch.rand(7)
    again, losses_again = trained(objective, digits, seed=3)
    other, losses_other = trained(objective, digits, seed=4)
    assert same(first, again)
    assert losses == losses_again
    assert len(losses) == 2
    assert not torch.equal(first["encoder.conv1.weight"], other["encoder.conv1.weight"])
    assert losses != losses_other


@pytest.mark.parametrize("architecture", ["r34", "r50", "wrn16_2", "vgg11_bn", "mobilenet_v2"])
def test_every_encoder_is_trained_and_the_seed_decides(
    architecture: str, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    few, chosen = (digits[0][:48], digits[1][:48]), spec("supervised", epochs=1, batch_size=24)
    states = []
    for _ in range(2):
        model = build_model(f"supervised_{architecture}", num_classes=10, in_channels=1, width=2, seed=0)
        start = {name: tensor.clone() for name, tensor in model.named_parameters()}
        train(model, "supervised", *few, spec=chosen, seed=3)
        assert not any(torch.equal(start[name], tensor) for name, tensor in model.named_parameters())
        states.append(model.state_dict())
    assert same(*states)


@pytest.mark.parametrize("objective", ["supervised", "simclr", "byol"])
def test_global_state_is_left_as_it_was(objective: str, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        trained(objective, digits, seed=3, epochs=1)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    trained(objective, digits, seed=3, epochs=1)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("objective", ["simclr", "byol", "barlowtwins"])
def test_contrastive_training_looks_at_no_labels_and_leaves_the_head(
    objective: str, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = digits
    first, _ = trained(objective, (images, labels), seed=3, epochs=1)
    other, _ = trained(objective, (images, labels.flip(0)), seed=3, epochs=1)
    assert same(first, other)
    start = network(objective).state_dict()
    assert torch.equal(first["head.weight"], start["head.weight"])
    assert not torch.equal(first["encoder.conv1.weight"], start["encoder.conv1.weight"])


def test_supervised_training_changes_the_head(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    after, _ = trained("supervised", digits, seed=3, epochs=1)
    assert not torch.equal(after["head.weight"], network("supervised").state_dict()["head.weight"])


@pytest.mark.parametrize("objective", ["supervised", "simclr", "supcon", "barlowtwins"])
def test_losses_fall(objective: str, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, losses = trained(objective, digits, seed=0, epochs=6)
    assert losses[-1] < losses[0] - 0.2
    assert np.argmin(losses) >= 3


def test_a_loss_that_is_not_finite_is_an_error(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(DivergedError, match=r"its loss is (nan|inf) in epoch 1"):
        trained("supervised", digits, seed=3, learning_rate=1e30)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("rate", "what"), [(1e39, "weights"), (1e30, "outputs")])
def test_what_the_last_step_breaks_is_an_error(
    digits: tuple[torch.Tensor, torch.Tensor], rate: float, what: str
) -> None:
    # One step: the only loss is that of the initial weights, and is finite.
    few = digits[0][:20], digits[1][:20]
    with pytest.raises(DivergedError, match=f"^its {what} are not finite after the last step$"):
        trained("supervised", few, seed=3, epochs=1, learning_rate=rate)


def test_fewer_images_than_a_batch_are_one_batch(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    few = digits[0][:20], digits[1][:20]
    after, losses = trained("simclr", few, seed=0, epochs=3)
    assert len(losses) == 3
    assert not torch.equal(
        after["encoder.conv1.weight"], network("simclr").state_dict()["encoder.conv1.weight"]
    )


def test_the_first_step_is_adams(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    # One step, whose warm-up has rate 1: Adam's first step moves a weight by the learning rate, against
    # its gradient's sign, after a decay by rate x decay.
    few = digits[0][:20], digits[1][:20]
    start = network("supervised").state_dict()
    after, _ = trained("supervised", few, seed=0, epochs=1, learning_rate=0.01, weight_decay=0.5)
    moved = (after["head.bias"] - start["head.bias"] * (1 - 0.01 * 0.5)).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0)


class KilledError(Exception):
    """Stands for a kill."""


class KilledAfter:
    """A hook that ends training at one step, and keeps a number that it counts."""

    def __init__(self, step: int) -> None:
        self.step, self.count = step, torch.zeros(1, dtype=torch.int64)

    def after_step(self, step: int, total: int) -> None:
        if step == self.step:
            raise KilledError
        self.count += step

    def after_epoch(self, epoch: int) -> None:
        pass

    def state(self) -> dict[str, torch.Tensor]:
        return {"count": self.count}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        self.count = state["count"].clone()


@pytest.mark.parametrize("objective", ["supervised", "simclr", "byol", "supcon", "barlowtwins"])
@pytest.mark.parametrize("killed", [2, 5, 6])  # there are 4 steps an epoch: within one, and at an end
def test_training_that_was_killed_goes_on_to_the_same_bits(
    objective: str, killed: int, digits: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    expected, losses = trained(objective, digits, seed=3)
    with pytest.raises(KilledError):
        train(
            network(objective), objective, *digits, spec=spec(objective), seed=3,
            hooks=[KilledAfter(killed)], checkpoints=Checkpoints(tmp_path, seconds=0),
        )  # fmt: skip
    resumed = Checkpoints(tmp_path, seconds=0)
    state = resumed.load()
    assert state is not None
    assert state.step == killed - 1
    model, hook = network(objective, seed=9), KilledAfter(-1)
    assert (
        train(model, objective, *digits, spec=spec(objective), seed=3, hooks=[hook], checkpoints=resumed)
        == losses
    )
    assert same(expected, model.state_dict())
    assert int(hook.count) == sum(range(1, 9))


@pytest.mark.parametrize("noticed", [3, 8])  # of 8 steps
def test_notice_is_answered_after_a_checkpoint_at_the_end_of_the_step(
    noticed: int, digits: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    expected, losses = trained("simclr", digits, seed=3)

    def leave(number: int, frame: object) -> None:
        raise SystemExit(17)

    class NoticeIn(KilledAfter):
        def after_step(self, step: int, total: int) -> None:
            if step == noticed:
                signal.raise_signal(NOTICE)
            super().after_step(step, total)

    before = signal.signal(NOTICE, leave)
    try:
        with pytest.raises(SystemExit, match="17"), notices_held() as notice:
            train(
                network("simclr"), "simclr", *digits, spec=spec("simclr"), seed=3,
                hooks=[NoticeIn(-1)], checkpoints=Checkpoints(tmp_path, notice=notice),
            )  # fmt: skip
    finally:
        signal.signal(NOTICE, before)
    resumed = Checkpoints(tmp_path)
    state = resumed.load()
    assert state is not None
    assert state.step == noticed
    model, hook = network("simclr", seed=9), KilledAfter(-1)
    assert (
        train(model, "simclr", *digits, spec=spec("simclr"), seed=3, hooks=[hook], checkpoints=resumed)
        == losses
    )
    assert same(expected, model.state_dict())
    assert int(hook.count) == sum(range(1, 9))


def test_what_follows_training_may_be_stopped_without_a_loss_of_steps(
    digits: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    model, again = network("simclr"), network("simclr")
    arguments = {"spec": spec("simclr"), "seed": 3}
    losses = train(
        model, "simclr", *digits, hooks=[KilledAfter(-1)], checkpoints=Checkpoints(tmp_path), **arguments
    )
    hook = KilledAfter(-1)
    resumed = Checkpoints(tmp_path)
    assert train(again, "simclr", *digits, hooks=[hook], checkpoints=resumed, **arguments) == losses
    assert same(model.state_dict(), again.state_dict())
    assert int(hook.count) == sum(range(1, 9)), "steps were taken twice"


def test_a_damaged_checkpoint_is_named_and_training_starts_again(
    digits: tuple[torch.Tensor, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, losses = trained("supervised", digits, seed=3)
    (tmp_path / "training.safetensors").write_bytes(b"half a file")
    model = network("supervised")
    checkpoints = Checkpoints(tmp_path)
    arguments = {"spec": spec("supervised"), "seed": 3, "checkpoints": checkpoints}
    assert train(model, "supervised", *digits, **arguments) == losses
    assert same(expected, model.state_dict())
    assert "training.safetensors is damaged" in caplog.text


def test_checkpoints_come_no_more_often_than_asked(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, seconds=0).due
    assert not Checkpoints(tmp_path, seconds=60).due
