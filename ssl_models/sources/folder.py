"""Images of the user's own, in a folder for each class."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from population.errors import InputError
from population.samples import SampleSet
from ssl_models.images import ImageData, ImageSplit
from ssl_models.sources.pictures import is_grey, read_picture

#: Digests below this are a third of all.
_A_THIRD = (2**256 // 3).to_bytes(32)
_IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_RESOLUTION = 64


def folder_name(root: Path) -> str:
    """Name for reports: only the folder's last part, so that no path is shown."""
    return f"imagefolder:{root.expanduser().resolve().name}"


def load_folder(root: Path) -> ImageData:
    """One folder per class: ``root/train`` and ``root/test`` (or ``val``), or one set that is split here.

    Of an undivided folder each image is for testing with a chance of a third, decided by a digest of
    its name, so that adding images moves no others. Grey images stay grey where all are grey; else
    all become RGB. The shorter side is scaled to 64 pixels and the centre is kept. Images are in the
    order of the same digest, so that the first ones are of every class.

    Raises:
        InputError: if the folder does not do; says why.
    """
    if not root.is_dir():
        raise InputError(f"no such image folder: {root}")
    held_out = next((n for n in ("test", "val") if (root / n).is_dir()), None)
    if (root / "train").is_dir() and held_out:
        train, test = _image_files(root / "train"), _image_files(root / held_out)
        if train.keys() != test.keys():
            raise InputError(f"{root}/train and {root}/{held_out} have different class folders")
    elif any(p.is_dir() for p in (root / "train").glob("*")):
        raise InputError(f"{root} has a folder train of classes, but neither test nor val beside it")
    else:
        every = _image_files(root)
        test = {c: [f for f in files if _name_digest(f, root) < _A_THIRD] for c, files in every.items()}
        train = {c: [f for f in files if _name_digest(f, root) >= _A_THIRD] for c, files in every.items()}
    for c in train:
        if not train[c] or not test[c]:
            raise InputError(
                f"class {c!r} in {root} has too few images to train and to test on;"
                " add images, or divide the folder into train and test"
            )
    grey = all(is_grey(f) for part in (train, test) for files in part.values() for f in files)
    splits = [_read_split(part, root, "L" if grey else "RGB") for part in (train, test)]
    return ImageData(folder_name(root), splits[0], splits[1])


def _read_split(files_of: Mapping[str, Sequence[Path]], root: Path, mode: str) -> ImageSplit:
    rows = sorted(
        (_name_digest(f, root), f, index) for index, files in enumerate(files_of.values()) for f in files
    )
    images = np.empty((len(rows), len(mode), _RESOLUTION, _RESOLUTION), dtype=np.uint8)
    for image, (_, path, _) in zip(images, rows, strict=True):
        pixels = np.asarray(read_picture(path, _RESOLUTION).convert(mode))
        image[:] = np.atleast_3d(pixels).transpose(2, 0, 1)
    ids = np.array([path.relative_to(root).as_posix() for _, path, _ in rows])
    labels = np.array([index for _, _, index in rows], dtype=np.int64)
    return ImageSplit(images, SampleSet(ids, labels, tuple(files_of)))


def _image_files(root: Path) -> dict[str, list[Path]]:
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {
        c.name: sorted(f for f in c.rglob("*") if f.suffix.lower() in _IMAGE_SUFFIXES and f.is_file())
        for c in classes
    }
    if len([name for name, files in found.items() if files]) < 2:
        raise InputError(
            f"{root} has no images in at least two class folders (expected {root.name}/CLASS/NAME.png)"
        )
    return found


def _name_digest(path: Path, root: Path) -> bytes:
    name = path.relative_to(root).as_posix()
    try:
        return hashlib.sha256(name.encode()).digest()
    except UnicodeEncodeError as error:
        raise InputError(f"the name of the image {name!a} in {root} is not UTF-8; rename it") from error
