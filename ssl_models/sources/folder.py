"""Images of the user's own: in a folder for each class, or in any folders with a table of labels."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from population.attributes import AttributeTable
from population.errors import InputError
from population.samples import SampleSet
from population.spec import AttributeSpec
from ssl_models.images import ImageData, ImageSplit
from ssl_models.sources.label_column import labels_of
from ssl_models.sources.pictures import is_grey, read_picture

#: Digests below this are a third of all.
_A_THIRD = (2**256 // 3).to_bytes(32)
_IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_RESOLUTION = 64


def folder_name(root: Path) -> str:
    """Name for reports: only the folder's last part, so that no path is shown."""
    return f"imagefolder:{root.expanduser().resolve().name}"


def load_folder(root: Path, table: AttributeTable | None, attributes: AttributeSpec) -> ImageData:
    """``root/train`` and ``root/test`` (or ``val``), or one set that is split here; a folder for each class.

    With a label column the classes are those of the table, and images may lie in any folders below.

    Of an undivided folder each image is for testing with a chance of a third, decided by a digest of
    its name, so that adding images moves no others. Grey images stay grey where all are grey; else
    all become RGB. The shorter side is scaled to 64 pixels and the centre is kept. Images are in the
    order of the same digest, so that the first ones are of every class.

    Args:
        root: the folder.
        table: has a row for every image, under its path inside the folder; or None.
        attributes: which of its columns has the labels, and how they are banded.

    Raises:
        InputError: if the folder or the table does not do; says why.
    """
    if not root.is_dir():
        raise InputError(f"no such image folder: {root}")
    held_out = next((n for n in ("test", "val") if (root / n).is_dir()), None)
    divided = (root / "train").is_dir() and held_out is not None
    places = [root / "train", root / str(held_out)] if divided else [root]
    if table is None or attributes.label_column is None:
        found = [_class_folders(place) for place in places]
        if table is not None:
            _rows(table, root, found)
        if divided and found[0].keys() != found[1].keys():
            raise InputError(f"{root}/train and {root}/{held_out} have different class folders")
        if not divided and any(p.is_dir() for p in (root / "train").glob("*")):
            raise InputError(f"{root} has a folder train of classes, but neither test nor val beside it")
    else:
        found = _labelled(places, root, table, attributes)
    if divided:
        train, test = found
    else:
        every = found[0]
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
    ids = np.array([_name(path, root) for _, path, _ in rows])
    labels = np.array([index for _, _, index in rows], dtype=np.int64)
    return ImageSplit(images, SampleSet(ids, labels, tuple(files_of)))


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """Images of every class folder, by its name."""
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {c.name: _images(c) for c in classes}
    if len([name for name, files in found.items() if files]) < 2:
        flat = any(f.suffix.lower() in _IMAGE_SUFFIXES for f in root.iterdir())
        hint = "; where all lie in one folder, give --groups FILE --label-column COLUMN" if flat else ""
        raise InputError(
            f"{root} has no images in at least two class folders (expected {root.name}/CLASS/NAME.png){hint}"
        )
    return found


def _images(root: Path) -> list[Path]:
    return sorted(f for f in root.rglob("*") if f.suffix.lower() in _IMAGE_SUFFIXES and f.is_file())


def _labelled(
    places: Sequence[Path], root: Path, table: AttributeTable, attributes: AttributeSpec
) -> list[dict[str, list[Path]]]:
    """Images of every place by the class that the table gives them."""
    files = [_images(place) for place in places]
    for place, some in zip(places, files, strict=True):
        if not some:
            raise InputError(f"{place} has no images")
    rows = _rows(table, root, [{"": some} for some in files])
    values = rows[attributes.label_column].tolist()
    where = f"{table.path}: column {attributes.label_column!r}"
    label, names = labels_of(values, attributes.label_bins, where=where)
    class_of = dict(zip(rows.index, label.tolist(), strict=True))
    found: list[dict[str, list[Path]]] = []
    for some in files:
        of_class: dict[str, list[Path]] = {name: [] for name in names}
        for file in some:
            of_class[names[class_of[_name(file, root)]]].append(file)
        found.append(of_class)
    return found


def _rows(table: AttributeTable, root: Path, found: Sequence[Mapping[str, Sequence[Path]]]) -> pd.DataFrame:
    """The table's rows of all images."""
    files = [file for part in found for files in part.values() for file in files]
    return table.rows(np.array([_name(file, root) for file in files], dtype=np.str_))


def _name_digest(path: Path, root: Path) -> bytes:
    return hashlib.sha256(_name(path, root).encode()).digest()


def _name(path: Path, root: Path) -> str:
    """Path inside the folder, which is the id of an image."""
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the name of the image {name!a} in {root} is not UTF-8; rename it") from error
    return name
