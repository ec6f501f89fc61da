"""Digits with a planted bias: a minority in another style, which networks lose first; and its control."""

from dataclasses import replace

import numpy as np

from population.errors import InputError
from population.samples import SampleSet
from ssl_models.images import ImageData, ImageSplit
from ssl_models.sources.digits import load_digits

#: Name of the group column.
STYLE = "style"
#: The first classes have a minority; the others show that what is lost is no matter of class alone.
STYLED_CLASSES = 5


def load_planted(share: str, *, planted: bool) -> ImageData:
    """Scikit-learn's digits, of which a share of the images of 0 to 4 is in inverted contrast.

    White on black becomes black on white. The group column ``style`` says ``inverted`` or ``plain``. In the
    control the same images are called inverted, and none is: whatever differs between its groups is chance.
    The images of a class are drawn once (seed 0), and a larger share holds the smaller ones.

    Args:
        share: of the images of each of these classes, in training and test images alike, in (0, 0.5].
        planted: False gives the control.

    Raises:
        InputError: if the share is no number in (0, 0.5].
    """
    amount = _share(share, "planted" if planted else "unplanted")
    digits = load_digits(None, False)
    rng = np.random.default_rng(0)
    parts = []
    for split in (digits.train, digits.test):
        label, chosen = split.samples.label, np.zeros(len(split.samples), dtype=bool)
        for c in range(STYLED_CLASSES):
            order = rng.permutation(np.flatnonzero(label == c))
            chosen[order[: max(1, round(amount * len(order)))]] = True
        images = np.where(chosen[:, None, None, None] & planted, 255 - split.images, split.images)
        groups = {STYLE: np.where(chosen, "inverted", "plain")}
        samples = SampleSet(split.samples.sample_id, label, split.samples.class_names, groups)
        parts.append(ImageSplit(images, samples))
    name = f"{'planted' if planted else 'unplanted'}:{amount:g}"
    return replace(digits, name=name, train=parts[0], test=parts[1])


def _share(text: str, kind: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 0.5:
        raise InputError(f"{kind}:SHARE needs a share in (0, 0.5], as in {kind}:0.15, not {text!r}")
    return share
