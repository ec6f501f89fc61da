"""Data sets that torchvision reads whole. Each keeps its own resolution and its own split."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError
from population.samples import SampleSet
from ssl_models.catalogue import DATA_SETS
from ssl_models.images import ImageData, ImageSplit

_T = TypeVar("_T")
_DIGITS = tuple("0123456789")
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
#: What torchvision's readers raise on absent and on damaged files.
_DAMAGE = (RuntimeError, OSError, ValueError, TypeError, LookupError, AssertionError, EOFError)


def read_intact(name: str, data_dir: Path | None, download: bool, read: Callable[[str], _T]) -> _T:
    """Reads something out of torchvision's folder, and says in one line what is wrong with it.

    Args:
        name: of the data set, a key of ``DATA_SETS``.
        data_dir: where torchvision's data sets are.
        download: whether the data set may be fetched; for the message.
        read: gets ``data_dir``.

    Raises:
        InputError: if no folder is named, or reading it fails.
    """
    if data_dir is None:
        raise InputError(f"{name} needs --data-dir, the folder that holds (or, with --download, gets) it")
    try:
        return read(str(data_dir))
    except _DAMAGE as error:
        places = " and ".join(DATA_SETS[name].places)
        advice = str(error) if download else "--download fetches it"
        raise InputError(
            f"no intact {name} in {data_dir} (expected {places} in it); {advice} ({type(error).__name__})"
        ) from error


def _load(
    name: str,
    data_dir: Path | None,
    download: bool,
    read: Callable[[str, bool], tuple[Any, Any, Sequence[str]]],
) -> ImageData:
    """Reads both parts.

    Args:
        name: a key of ``DATA_SETS``.
        data_dir: where torchvision's data sets are.
        download: whether an absent one may be fetched.
        read: maps ``data_dir`` and whether the training part is meant to images (N, C, H, W), labels
            and class names.
    """

    def part(root: str, *, train: bool) -> ImageSplit:
        images, labels, class_names = read(root, train)
        prefix = "train" if train else "test"
        ids = np.array([f"{prefix}/{i:05d}" for i in range(len(images))])
        samples = SampleSet(ids, np.asarray(labels, dtype=np.int64), tuple(class_names))
        return ImageSplit(np.ascontiguousarray(images), samples)

    train, test = (
        read_intact(name, data_dir, download, partial(part, train=train)) for train in (True, False)
    )
    return ImageData(name, train, test)


def load_mnist(data_dir: Path | None, download: bool) -> ImageData:
    """MNIST (LeCun 1998): 28x28 grey, not padded: the encoders take it as it is."""
    from torchvision.datasets import MNIST

    def read(root: str, train: bool) -> tuple[NDArray[np.uint8], Any, Sequence[str]]:
        part = MNIST(root, train=train, download=download)
        return part.data.numpy()[:, None], part.targets.numpy(), _DIGITS

    return _load("mnist", data_dir, download, read)


def load_fashion_mnist(data_dir: Path | None, download: bool) -> ImageData:
    """Fashion-MNIST (Xiao 2017): 28x28 grey."""
    from torchvision.datasets import FashionMNIST

    def read(root: str, train: bool) -> tuple[NDArray[np.uint8], Any, Sequence[str]]:
        part = FashionMNIST(root, train=train, download=download)
        return part.data.numpy()[:, None], part.targets.numpy(), part.classes

    return _load("fashion_mnist", data_dir, download, read)


def load_usps(data_dir: Path | None, download: bool) -> ImageData:
    """USPS (Hull 1994): 16x16 grey; torchvision cuts values in [-1, 1] to 256 levels."""
    from torchvision.datasets import USPS

    def read(root: str, train: bool) -> tuple[NDArray[np.uint8], Any, Sequence[str]]:
        part = USPS(root, train=train, download=download)
        return part.data[:, None], part.targets, _DIGITS

    return _load("usps", data_dir, download, read)


def load_cifar10(data_dir: Path | None, download: bool) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009): 32x32 colour."""
    from torchvision.datasets import CIFAR10

    def read(root: str, train: bool) -> tuple[NDArray[np.uint8], Any, Sequence[str]]:
        part = CIFAR10(root, train=train, download=download)
        return part.data.transpose(0, 3, 1, 2), part.targets, part.classes

    return _load("cifar10", data_dir, download, read)


def load_cifar100(data_dir: Path | None, download: bool) -> ImageData:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine classes: 32x32 colour."""
    from torchvision.datasets import CIFAR100

    def read(root: str, train: bool) -> tuple[NDArray[np.uint8], Any, Sequence[str]]:
        part = CIFAR100(root, train=train, download=download)
        return part.data.transpose(0, 3, 1, 2), part.targets, part.classes

    return _load("cifar100", data_dir, download, read)


def load_svhn(data_dir: Path | None, download: bool) -> ImageData:
    """SVHN (Netzer 2011), cropped digits without the extra part: 32x32 colour."""
    from torchvision.datasets import SVHN

    def read(root: str, train: bool) -> tuple[NDArray[np.uint8], Any, Sequence[str]]:
        part = SVHN(root, split="train" if train else "test", download=download)
        return part.data, part.labels, _DIGITS

    return _load("svhn", data_dir, download, read)


def load_stl10(data_dir: Path | None, download: bool) -> ImageData:
    """STL-10 (Coates 2011), the labelled images: 96x96 colour.

    Torchvision checks the file of unlabelled images too, which has to be there.
    """
    from torchvision.datasets import STL10

    def read(root: str, train: bool) -> tuple[NDArray[np.uint8], Any, Sequence[str]]:
        part = STL10(root, split="train" if train else "test", download=download)
        return part.data, part.labels, _STL10

    return _load("stl10", data_dir, download, read)
