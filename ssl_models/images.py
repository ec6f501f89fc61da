"""Images in memory and what is known of them."""

import hashlib
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from population.samples import SampleSet

_CHUNK = 1000


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
        test: what they are compared on, which may be the training images too.
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

    def judged_on(self, split: str) -> Self:
        """The same, to compare models on the images of a split, ``test`` or ``train``."""
        return self if split == "test" else replace(self, test=self.train)

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel of the training images, on the scale [0, 1]."""
        images = self.train.images
        counts = np.zeros((self.in_channels, 256))
        for start in range(0, len(images), _CHUNK):  # counting makes an int64 of every pixel
            for channel, pixels in enumerate(images[start : start + _CHUNK].swapaxes(0, 1)):
                counts[channel] += np.bincount(pixels.ravel(), minlength=256)
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


def divide(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    ids: NDArray[np.str_],
    is_test: NDArray[np.bool_],
    class_names: tuple[str, ...],
) -> ImageData:
    """Makes a data set of N images (N, C, H, W) and of which of them are for testing, shape (N,)."""
    parts = [
        ImageSplit(np.ascontiguousarray(images[part]), SampleSet(ids[part], labels[part], class_names))
        for part in (~is_test, is_test)
    ]
    return ImageData(name, parts[0], parts[1])
