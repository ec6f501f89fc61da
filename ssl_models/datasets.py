"""Images by name, as arrays in memory."""

from collections.abc import Callable
from pathlib import Path

from population.errors import unknown_name
from ssl_models.catalogue import DATA_SETS
from ssl_models.images import ImageData, ImageSplit
from ssl_models.sources.celeba import DEFAULT_ATTRIBUTE, load_celeba
from ssl_models.sources.digits import load_digits
from ssl_models.sources.folder import folder_name, load_folder
from ssl_models.sources.torchvision_sets import (
    load_cifar10,
    load_cifar100,
    load_fashion_mnist,
    load_mnist,
    load_stl10,
    load_svhn,
    load_usps,
)

__all__ = ["LOADERS", "ImageData", "ImageSplit", "check_data_name", "display_name", "load_data"]

_FOLDER, _CELEBA = "imagefolder:", "celeba:"

#: What reads a data set, given ``data_dir`` and ``download``. Names with a part of the user's own, as
#: ``imagefolder:PATH``, are not among them.
LOADERS: dict[str, Callable[[Path | None, bool], ImageData]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "usps": load_usps,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "svhn": load_svhn,
    "stl10": load_stl10,
    "celeba": lambda data_dir, download: load_celeba(DEFAULT_ATTRIBUTE, data_dir, download),
}


def load_data(name: str, *, data_dir: Path | None, download: bool) -> ImageData:
    """Reads a data set into memory.

    Args:
        name: a key of ``LOADERS``, ``celeba:ATTRIBUTE`` or ``imagefolder:PATH``.
        data_dir: where torchvision's data sets are; unused by the others.
        download: whether an absent torchvision data set may be fetched into ``data_dir``.

    Returns:
        The images at the data set's resolution.

    Raises:
        InputError: if the name is unknown, or the data are absent, damaged or empty.
    """
    check_data_name(name)
    if name.startswith(_FOLDER):
        return load_folder(Path(name.removeprefix(_FOLDER)).expanduser())
    if name.startswith(_CELEBA):
        return load_celeba(name.removeprefix(_CELEBA), data_dir, download)
    return LOADERS[name](data_dir, download)


def check_data_name(name: str) -> None:
    """Raises InputError unless the name is one that ``load_data`` knows."""
    with_part = any(name.startswith(kind) and name != kind for kind in (_FOLDER, _CELEBA))
    if not (name in LOADERS or with_part):
        raise unknown_name("data set", name, DATA_SETS)


def display_name(name: str) -> str:
    """Name for reports: of a folder only its last part, so that no path is shown."""
    return folder_name(Path(name.removeprefix(_FOLDER))) if name.startswith(_FOLDER) else name
