"""CelebA: faces with forty attributes, one of which is the class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from population.errors import unknown_name
from population.samples import SampleSet
from ssl_models.catalogue import DATA_SETS
from ssl_models.images import ImageData, ImageSplit
from ssl_models.sources.pictures import read_picture
from ssl_models.sources.torchvision_sets import read_intact

#: The usual target where groups are studied, for example by Sagawa et al. 2020 (arXiv 1911.08731).
DEFAULT_ATTRIBUTE = "Blond_Hair"


def load_celeba(
    attribute: str, data_dir: Path | None, download: bool, *, group_columns: Sequence[str] = ()
) -> ImageData:
    """CelebA (Liu 2015) with torchvision's parts for training and testing; the one between is not used.

    The aligned faces, 178x218, lose what is above and below the middle square, which is scaled to 64x64.

    Args:
        attribute: what is told, for example ``Smiling``.
        data_dir: where torchvision's data sets are.
        download: whether torchvision may fetch it, for which it needs the package gdown.
        group_columns: further attributes, by which images are compared; Hooker et al. 2020 (arXiv 2010.03058)
            take ``Male`` and ``Young``.

    Raises:
        InputError: if the data are absent or damaged, or there is no such attribute.
    """
    train, test = (
        _load_part(attribute, split, data_dir, download, group_columns) for split in ("train", "test")
    )
    return ImageData(f"celeba:{attribute}", train, test)


def _load_part(
    attribute: str, split: str, data_dir: Path | None, download: bool, group_columns: Sequence[str]
) -> ImageSplit:
    from torchvision.datasets import CelebA

    part = read_intact(
        "celeba", data_dir, download, lambda root: CelebA(root, split=split, download=download)
    )
    names = [name for name in part.attr_names if name]
    for name in (attribute, *group_columns):
        if name not in names:
            raise unknown_name("attribute of celeba", name, names)
    labels = part.attr[:, names.index(attribute)].numpy().astype(np.int64)
    groups = {
        name: np.where(part.attr[:, names.index(name)].numpy() == 1, name, f"not {name}")
        for name in group_columns
    }
    resolution = DATA_SETS["celeba"].resolution
    images = np.empty((len(labels), 3, resolution, resolution), dtype=np.uint8)
    folder = Path(part.root, part.base_folder, "img_align_celeba")
    for image, file_name in zip(images, part.filename, strict=True):
        image[:] = np.asarray(read_picture(folder / file_name, resolution).convert("RGB")).transpose(2, 0, 1)
    ids = np.array([f"{split}/{Path(file_name).stem}" for file_name in part.filename])
    return ImageSplit(images, SampleSet(ids, labels, (f"not {attribute}", attribute), groups))
