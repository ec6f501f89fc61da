"""Picture files become squares of one size."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from population.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


def is_grey(path: Path) -> bool:
    """Whether a picture file has no colours, by its header.

    Raises:
        InputError: if the header cannot be read.
    """
    with _open(path) as image:
        return _mode(image) == "L"


def read_picture(path: Path, resolution: int) -> "Image":
    """Reads a picture, scales its shorter side to ``resolution`` and keeps the centre.

    Returns:
        A square picture of mode L where the file is grey, else RGB.

    Raises:
        InputError: if the file cannot be read or has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    with _open(path) as image:
        if image.mode.startswith(("I", "F")):  # Pillow would cut all values off at 255
            raise InputError(f"the image {path} has more than 8 bits a channel; convert it to 8")
        square = (resolution, resolution)
        return ImageOps.fit(image.convert(_mode(image)), square, Image.Resampling.BILINEAR)


def _mode(image: "Image") -> str:
    return "L" if image.mode in {"1", "L"} else "RGB"


@contextmanager
def _open(path: Path) -> "Iterator[Image]":
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except InputError:
        raise
    # All that Pillow's decoders raise on damaged files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from error
