"""The digits that come with scikit-learn."""

from pathlib import Path

import numpy as np

from ssl_models.images import ImageData, divide


def load_digits(data_dir: Path | None, download: bool) -> ImageData:
    """Scikit-learn's 1,797 handwritten digits, 8x8 grey levels 0-16, enlarged to 16x16 (bilinear).

    Every second image of each class is for testing.
    """
    del data_dir, download
    from PIL import Image
    from sklearn import datasets

    digits = datasets.load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(p).resize((16, 16), Image.Resampling.BILINEAR)) for p in pixels]
    )
    labels = digits.target.astype(np.int64)
    ids = np.array([f"digits/{i:04d}" for i in range(len(labels))])
    test = np.zeros(len(labels), dtype=bool)
    for c in range(10):
        test[np.flatnonzero(labels == c)[1::2]] = True
    return divide("digits", images[:, None], labels, ids, test, tuple("0123456789"))
