"""The trained networks that the benchmarks shrink, with their data."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import resnet18

from pie_report.pipeline import open_population
from population.spec import PopulationSpec
from population.store import Store
from ssl_models import load_data
from ssl_models.predict import batches


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and its data.

    Attributes:
        model: in eval mode.
        calibration: batches of training images, as the network takes them.
        images: test images, as the network takes them.
        labels: their classes.
        by_seed: whether another seed gives another network.
    """

    model: nn.Module
    calibration: Sequence[Tensor]
    images: Tensor
    labels: Tensor
    by_seed: bool


def trained(name: str, *, seed: int, images: int) -> Trained:
    """A network by name.

    Args:
        name: a key of ``NETWORKS``. The ResNets read their weights from the folder ``weights`` in the one
            that ``PIE_TEST_DATA`` names, and CIFAR-10 from the one that ``CIFAR10`` names, which holds
            ``cifar-10-batches-py``. ``simclr`` is trained here, on the embedded digits.
        seed: of a network that is trained here.
        images: number of test images, the first ones.
    """
    return NETWORKS[name](seed, images)


def cifar10_resnet18() -> nn.Module:
    """Torchvision's ResNet-18 with a stem for small images, trained on CIFAR-10."""
    model = resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    state = load_file(Path(os.environ["PIE_TEST_DATA"], "weights", "resnet18_cifar10.safetensors"))
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return model.eval()


class PadShortcut(nn.Module):
    """Every second pixel, between channels of zeros (option A of He et al. 2016, section 4.2)."""

    def __init__(self, zeros: int) -> None:
        super().__init__()
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        """Halves the map of (N, C, H, W) and adds the zeros on both sides of its channels."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros))


class Block(nn.Module):
    """Two convolutions and a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = PadShortcut((outputs - inputs) // 2) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


class CifarResNet20(nn.Module):
    """The ResNet-20 of He et al. 2016, section 4.2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [(16, 16), (16, 32), (32, 64)]
        stages = [nn.Sequential(Block(a, b), Block(b, b), Block(b, b)) for a, b in widths]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images to logits."""
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.linear(x.mean((2, 3)))


def cifar10_resnet20() -> nn.Module:
    """A ResNet-20 with zero-padding shortcuts, trained on CIFAR-10."""
    path = Path(os.environ["PIE_TEST_DATA"], "weights", "resnet20-12fca82f.th")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = CifarResNet20()
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return model.eval()


def _cifar10(model: nn.Module, images: int, mean: Sequence[float], std: Sequence[float]) -> Trained:
    data = load_data("cifar10", data_dir=Path(os.environ["CIFAR10"]), download=False)
    shift, scale = (torch.tensor(values).reshape(3, 1, 1) for values in (mean, std))

    def normalised(pixels: Tensor) -> Tensor:
        return (pixels.float() / 255 - shift) / scale

    train, test = (torch.from_numpy(part.images) for part in (data.train, data.test))
    return Trained(
        model,
        normalised(train[:5000]).split(500),
        normalised(test[:images]),
        torch.from_numpy(data.test.samples.label[:images]),
        by_seed=False,
    )


def _simclr(seed: int, images: int) -> Trained:
    """A SimCLR encoder with a linear probe, trained by the toolkit's preset for the digits."""
    spec = PopulationSpec(model="simclr_r18", members=2, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        population = open_population(spec, data_dir=None, download=False, store=Store(Path(folder)))
        with population.fixed_threads():
            model = population.dense(0)
    return Trained(
        model.eval(),
        list(batches(population.train_images)),
        torch.cat(list(batches(population.test_images[:images]))),
        torch.from_numpy(population.data.test.samples.label[:images]),
        by_seed=True,
    )


NETWORKS = {
    "resnet18": lambda seed, images: _cifar10(
        cifar10_resnet18(), images, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    ),
    "resnet20": lambda seed, images: _cifar10(
        cifar10_resnet20(), images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ),
    "simclr": _simclr,
}
