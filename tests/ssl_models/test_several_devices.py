import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.multiprocessing import ProcessExitedException

from population.errors import InputError
from population.preemption import NOTICE, Notice, notices_held
from population.spec import TrainingSpec
from ssl_models import build_model, load_data
from ssl_models.backbones import Classifier
from ssl_models.checkpoint import Checkpoints
from ssl_models.collective import CommonBatchNorm, with_common_statistics
from ssl_models.objectives import OBJECTIVES
from ssl_models.presets import preset
from ssl_models.pruning import PruningHook
from ssl_models.several_devices import train_on_devices
from ssl_models.training import DivergedError, train

Data = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Data:
    split = load_data("digits", data_dir=None, download=False).train
    return torch.from_numpy(split.images[:130]), torch.from_numpy(split.samples.label[:130])


def spec(objective: str) -> TrainingSpec:
    return replace(preset("digits", objective).training, epochs=2, batch_size=64)  # of 2 steps each


def network(objective: str, seed: int = 0) -> Classifier:
    return build_model(
        f"{objective}_r18", num_classes=10, in_channels=1, width=2, seed=seed, mean=[0.3], std=[0.37]
    )


# --- the parts: a loss, its gradients and statistics are those of the whole batch


def of_a_batch(objective: str, views: list[Tensor], labels: Tensor, rank: int | None) -> dict[str, Tensor]:
    """Loss, gradients and BatchNorm statistics after a batch; of two processes, or of one with all of it."""
    torch.manual_seed(5)
    learner = OBJECTIVES[objective](network(objective), spec(objective)).double()
    learner.train()
    if rank is not None:
        with_common_statistics(learner)
        half = len(labels) // 2
        views = [view[rank * half : (rank + 1) * half] for view in views]
    loss = learner(views[: learner.views], labels)
    torch.autograd.backward(loss)
    gradients = {f"gradient/{n}": p.grad for n, p in learner.named_parameters() if p.grad is not None}
    buffers = {f"buffer/{n}": buffer for n, buffer in learner.named_buffers() if "running" in n}
    return {"loss": loss.detach(), **gradients, **buffers}


def in_two_processes(fabric: Fabric, views: list[Tensor], labels: Tensor, file: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    for objective in OBJECTIVES:
        tensors = of_a_batch(objective, views, labels, fabric.global_rank)
        for name, tensor in tensors.items():
            if name.startswith("gradient/"):
                fabric.all_reduce(tensor, reduce_op="mean")
        found[objective] = tensors
    if fabric.is_global_zero:
        torch.save(found, file)
    fabric.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def views(digits: Data) -> tuple[list[Tensor], Tensor]:
    images, labels = digits
    pixels = images[:24].double().div(255)
    return [pixels, (pixels.flip(3) + 0.1 * pixels.roll(1, 2)).clamp(0, 1)], labels[:24]


@pytest.fixture(scope="module")
def together(
    views: tuple[list[Tensor], Tensor], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Tensor]]:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn", plugins=[LightningEnvironment()])
    file = tmp_path_factory.mktemp("together") / "found.pt"
    fabric.launch(in_two_processes, *views, file)
    found: dict[str, dict[str, Tensor]] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_and_statistics_are_those_of_the_whole_batch(
    objective: str, views: tuple[list[Tensor], Tensor], together: dict[str, dict[str, Tensor]]
) -> None:
    expected = of_a_batch(objective, *views, None)
    assert together[objective].keys() == expected.keys()
    assert sum(name.endswith("running_var") for name in expected) > 10
    for name, tensor in expected.items():
        # Objectives round projections to float32.
        scale = float(tensor.abs().sum()) / max(1, tensor.numel()) + 1e-6
        torch.testing.assert_close(
            together[objective][name].to(tensor.dtype) / scale, tensor / scale, rtol=0, atol=2e-4, msg=name
        )


# --- the whole


class Note:
    """A hook that notes steps, and acts in one of them."""

    def __init__(self, at: int = -1, act: str = "") -> None:
        self.at, self.act, self.steps = at, act, torch.zeros(0, dtype=torch.int64)

    def after_step(self, step: int, total: int) -> None:
        assert total == 4
        first = torch.distributed.is_initialized() and torch.distributed.get_rank() == 0
        if step == self.at and self.act == "kill" and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.at and self.act == "notice" and first:
            os.kill(os.getppid(), NOTICE)  # to the parent alone, which passes it on
            time.sleep(3)
        if step == self.at and self.act == "fail":
            raise RuntimeError("told to fail")
        self.steps = torch.cat([self.steps, torch.tensor([step])])

    def after_epoch(self, epoch: int) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return {"steps": self.steps}

    def restore(self, state: Any) -> None:
        self.steps = state["steps"].clone()


def trained(
    digits: Data, note: Note, folder: Path, notice: Notice | None = None
) -> tuple[dict[str, Tensor], list[float], dict[str, Tensor]]:
    """Weights, losses and masks of SimCLR whose weights are pruned on the way, on two devices."""
    model = network("simclr")
    hook = PruningHook(model, sparsities={2: 0.5})
    losses = train_on_devices(
        model, "simclr", *digits, spec=spec("simclr"), seed=3, devices=2, hooks=[note, hook],
        checkpoints=Checkpoints(folder, seconds=0, notice=notice),
    )  # fmt: skip
    assert not model.training
    assert not any(isinstance(module, CommonBatchNorm) for module in model.modules())
    assert note.steps.tolist() == [1, 2, 3, 4]
    assert hook.curve[-1] == (2, hook.sparsity)
    return model.state_dict(), losses, hook.masks


Trained = tuple[dict[str, Tensor], list[float], dict[str, Tensor]]


@pytest.fixture(scope="module")
def undisturbed(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(digits, Note(), tmp_path_factory.mktemp("undisturbed"))


def test_two_devices_train_as_one_but_for_rounding(digits: Data, undisturbed: Trained) -> None:
    model, before = network("simclr"), network("simclr").state_dict()
    hook = PruningHook(model, sparsities={2: 0.5})
    losses = train(model, "simclr", *digits, spec=spec("simclr"), seed=3, hooks=[hook])
    weights, losses_of_two, masks = undisturbed
    # Products are rounded to bfloat16 in both.
    assert losses_of_two == pytest.approx(losses, rel=2e-2)
    for name, mask in masks.items():
        assert bool((weights[name][~mask] == 0).all())
        assert bool((weights[name][mask] != 0).all())
    other = network("simclr")
    hook = PruningHook(other, sparsities={2: 0.5})
    train(other, "simclr", *digits, spec=spec("simclr"), seed=4, hooks=[hook])

    def moved(state: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([(state[name] - before[name]).flatten() for name in masks])

    with_one, with_two, with_another_seed = map(moved, (model.state_dict(), weights, other.state_dict()))
    assert float(torch.cosine_similarity(with_one, with_two, dim=0)) > 0.95
    assert float(torch.cosine_similarity(with_one, with_another_seed, dim=0)) < 0.94


@pytest.fixture
def left() -> Iterator[None]:
    """A handler of notices that leaves, as that of a job does."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(17)

    before = signal.signal(NOTICE, leave)
    yield
    signal.signal(NOTICE, before)


def test_what_was_stopped_goes_on_to_the_same_bits(
    digits: Data, undisturbed: Trained, tmp_path: Path, left: None
) -> None:
    with pytest.raises(SystemExit, match="17"), notices_held() as notice:
        trained(digits, Note(2, "notice"), tmp_path, notice)
    state = Checkpoints(tmp_path).load()
    assert state is not None
    assert state.step == 2
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        trained(digits, Note(4, "kill"), tmp_path)
    state = Checkpoints(tmp_path).load()
    assert state is not None
    assert state.step == 3
    weights, losses, masks = trained(digits, Note(), tmp_path)
    assert losses == undisturbed[1]
    assert all(torch.equal(weights[name], tensor) for name, tensor in undisturbed[0].items())
    assert all(torch.equal(masks[name], tensor) for name, tensor in undisturbed[2].items())


def test_a_failure_is_told_with_its_traceback(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a process failed:.*RuntimeError: told to fail"):
        trained(digits, Note(1, "fail"), tmp_path)


def test_divergence_is_told_as_that_of_one_device(digits: Data) -> None:
    broken = replace(spec("supervised"), learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"not finite|loss is nan"):
        train_on_devices(network("supervised"), "supervised", *digits, spec=broken, seed=3, devices=2)


def test_a_batch_that_cannot_be_divided_is_told_before_anything_starts(digits: Data) -> None:
    with pytest.raises(InputError, match="--gpus 3 cannot divide batches of 64 images"):
        train_on_devices(network("simclr"), "simclr", *digits, spec=spec("simclr"), seed=3, devices=3)


def test_common_statistics_keep_the_tensors() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    before = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with_common_statistics(module)
    after = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    x = torch.randn(4, 3, 2, 2)
    module.eval()
    assert torch.equal(module[0](x), x / (1 + 1e-5) ** 0.5)
