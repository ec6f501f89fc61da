"""Images by name, as arrays in memory, and the preset that belongs to each data set."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError, unknown_name
from population.samples import SampleSet

if TYPE_CHECKING:
    from PIL.Image import Image

#: Digests below this are a third of all.
_A_THIRD = (2**256 // 3).to_bytes(32)
_FOLDER = "imagefolder:"
_IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images and what is known of them.

    Attributes:
        images: shape (N, C, H, W), uint8.
        samples: ids, labels and class names of the N images.
    """

    images: NDArray[np.uint8]
    samples: SampleSet


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory.

    Attributes:
        name: as shown in reports; holds no path.
        train: what models learn from.
        test: what they are compared on.
    """

    name: str
    train: ImageSplit
    test: ImageSplit

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return int(self.train.images.shape[1])

    @property
    def resolution(self) -> int:
        """Height and width in pixels."""
        return int(self.train.images.shape[2])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.train.samples.class_names)

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel of the training images, on the scale [0, 1]."""
        counts = np.stack(
            [np.bincount(channel.ravel(), minlength=256) for channel in self.train.images.swapaxes(0, 1)]
        ).astype(np.float64)
        share, value = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
        mean = share @ value
        std = np.sqrt(share @ value**2 - mean**2)
        return mean.round(4).tolist(), np.maximum(std, 1 / 255).round(4).tolist()

    def fingerprint(self) -> str:
        """Digest of every image, label, id and class name: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(repr(split.images.shape).encode())
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(split.samples.label.tobytes())
            digest.update("\0".join([*split.samples.sample_id, *split.samples.class_names]).encode())
        return digest.hexdigest()[:16]


def load_data(name: str, *, data_dir: Path | None, download: bool) -> ImageData:
    """Reads a data set into memory.

    Args:
        name: ``digits`` (embedded), ``cifar10`` or ``imagefolder:PATH``.
        data_dir: where torchvision's data sets are; unused by the others.
        download: whether an absent torchvision data set may be fetched into ``data_dir``.

    Returns:
        The images at the data set's resolution.

    Raises:
        InputError: if the name is unknown, or the data are absent, damaged or empty.
    """
    check_data_name(name)
    if name.startswith(_FOLDER):
        return _image_folder(Path(name.removeprefix(_FOLDER)).expanduser())
    return _LOADERS[name](data_dir, download)


def check_data_name(name: str) -> None:
    """Raises InputError unless the name is one that ``load_data`` knows."""
    if not (name in _LOADERS or (name.startswith(_FOLDER) and len(name) > len(_FOLDER))):
        raise unknown_name("data set", name, [*_LOADERS, f"{_FOLDER}PATH"])


def display_name(name: str) -> str:
    """Name for reports: of a folder only its last part, so that no path is shown."""
    if name.startswith(_FOLDER):
        return _FOLDER + Path(name.removeprefix(_FOLDER)).expanduser().resolve().name
    return name


def _digits(data_dir: Path | None, download: bool) -> ImageData:
    """Scikit-learn's 1,797 handwritten digits, 8x8 grey levels 0-16, enlarged to 16x16 (bilinear).

    Every second image of each class is for testing.
    """
    del data_dir, download
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(p).resize((16, 16), Image.Resampling.BILINEAR)) for p in pixels]
    )
    labels = digits.target.astype(np.int64)
    ids = np.array([f"digits/{i:04d}" for i in range(len(labels))])
    test = np.zeros(len(labels), dtype=bool)
    for c in range(10):
        test[np.flatnonzero(labels == c)[1::2]] = True
    names = tuple(str(c) for c in range(10))
    return _split(display_name("digits"), images[:, None], labels, ids, test, names)


def _cifar10(data_dir: Path | None, download: bool) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009) with its own split of 50,000 and 10,000 images."""
    from torchvision.datasets import CIFAR10

    if data_dir is None:
        raise InputError("cifar10 needs --data-dir, the folder that holds (or, with --download, gets) it")
    try:
        parts = [CIFAR10(str(data_dir), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"no intact cifar10 in {data_dir} (expected its folder cifar-10-batches-py);"
            f" --download fetches it ({type(error).__name__})"
        ) from error
    splits = []
    for part, prefix in zip(parts, ("train", "test"), strict=True):
        ids = np.array([f"{prefix}/{i:05d}" for i in range(len(part.targets))])
        samples = SampleSet(ids, np.array(part.targets, dtype=np.int64), tuple(part.classes))
        splits.append(ImageSplit(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), samples))
    return ImageData("cifar10", splits[0], splits[1])


_LOADERS: dict[str, Callable[[Path | None, bool], ImageData]] = {"digits": _digits, "cifar10": _cifar10}


def _image_folder(root: Path) -> ImageData:
    """One folder per class: ``root/train`` and ``root/test`` (or ``val``), or one set that is split here.

    Of an undivided folder each image is for testing with a chance of a third, decided by a digest of
    its name, so that adding images moves no others. Grey images stay grey where all are grey; else
    all become RGB. The shorter side is scaled to 64 pixels and the centre is kept. Images are in the
    order of the same digest, so that the first ones are of every class.
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
    rows = sorted(
        (_name_digest(f, root), f, index, part is test)
        for part in (train, test)
        for index, files in enumerate(part.values())
        for f in files
    )
    _, paths, labels, is_test = zip(*rows, strict=True)
    ids = np.array([f.relative_to(root).as_posix() for f in paths])
    name = display_name(f"{_FOLDER}{root}")
    images = _decode(paths, 64)
    return _split(name, images, np.array(labels, dtype=np.int64), ids, np.array(is_test), tuple(train))


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


def _decode(files: Sequence[Path], resolution: int) -> NDArray[np.uint8]:
    pictures = [_read_image(path, resolution) for path in files]
    mode = "L" if all(p.mode == "L" for p in pictures) else "RGB"
    array = np.stack([np.asarray(p.convert(mode)) for p in pictures])
    return array[:, None] if mode == "L" else np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _read_image(path: Path, resolution: int) -> "Image":
    """A square picture of mode L where the file is grey, else RGB."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut all values off at 255
                raise InputError(f"the image {path} has more than 8 bits a channel; convert it to 8")
            mode = "L" if image.mode in {"1", "L"} else "RGB"
            return ImageOps.fit(image.convert(mode), (resolution, resolution), Image.Resampling.BILINEAR)
    except InputError:
        raise
    # All that Pillow's decoders raise on damaged files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from error


def _split(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    ids: NDArray[np.str_],
    is_test: NDArray[np.bool_],
    class_names: tuple[str, ...],
) -> ImageData:
    parts = [
        ImageSplit(np.ascontiguousarray(images[part]), SampleSet(ids[part], labels[part], class_names))
        for part in (~is_test, is_test)
    ]
    return ImageData(name, parts[0], parts[1])
