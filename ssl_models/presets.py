"""How members are trained on each data set: one row of numbers per data set and kind of objective.

The presets are sized for two CPU cores; ``--width`` and ``--epochs`` change the two that matter.
"""

from dataclasses import dataclass, replace

from population.errors import unknown_name
from population.spec import Augmentation, TrainingSpec
from ssl_models.catalogue import DEFAULT_WIDTH, OBJECTIVES


@dataclass(frozen=True)
class Preset:
    """Width of the network and how it is trained.

    Attributes:
        width: of the network.
        training: with the objective.
        finetuning: with cross-entropy, from the weights that the objective has found.
    """

    width: int
    training: TrainingSpec
    finetuning: TrainingSpec


@dataclass(frozen=True)
class Pair:
    """How to train on one data set.

    Attributes:
        labelled: with cross-entropy.
        views: with an objective that compares two views of each image.
    """

    labelled: TrainingSpec
    views: TrainingSpec

    def lasting(self, labelled: int, views: int) -> "Pair":
        """The same with other numbers of epochs."""
        return Pair(replace(self.labelled, epochs=labelled), replace(self.views, epochs=views))


_LABELLED = TrainingSpec(
    epochs=12,
    batch_size=64,
    learning_rate=2e-3,
    weight_decay=5e-2,
    temperature=0.2,
    momentum=0.99,
    augmentation=Augmentation(min_scale=0.7, rotation=10, flip=False, colour=0, grey=0),
)
_DIGITS = Pair(
    _LABELLED,
    replace(
        _LABELLED,
        epochs=15,
        batch_size=128,
        learning_rate=3e-3,
        weight_decay=1e-4,
        augmentation=Augmentation(min_scale=0.5, rotation=15, flip=False, colour=0.4, grey=0),
    ),
)
_MANY_DIGITS = replace(_DIGITS, labelled=replace(_DIGITS.labelled, batch_size=128))
_PHOTOS_LABELLED = replace(
    _LABELLED,
    epochs=20,
    batch_size=128,
    augmentation=Augmentation(min_scale=0.6, rotation=0, flip=True, colour=0, grey=0),
)
_PHOTOS = Pair(
    _PHOTOS_LABELLED,
    replace(
        _PHOTOS_LABELLED,
        epochs=100,
        batch_size=256,
        learning_rate=2e-3,
        weight_decay=1e-4,
        temperature=0.5,
        augmentation=Augmentation(min_scale=0.2, rotation=0, flip=True, colour=0.5, grey=0.2),
    ),
)
# Clothes stand upright and have no reading direction.
_CLOTHES = Pair(
    replace(_MANY_DIGITS.labelled, augmentation=Augmentation(0.7, rotation=5, flip=True, colour=0, grey=0)),
    replace(_MANY_DIGITS.views, augmentation=Augmentation(0.4, rotation=5, flip=True, colour=0.4, grey=0)),
)
# Photographs, but of digits: mirrored they would be no digits, and a small crop would show a neighbour.
_HOUSE_NUMBERS = Pair(
    replace(_PHOTOS.labelled, augmentation=Augmentation(0.7, rotation=5, flip=False, colour=0, grey=0)),
    replace(_PHOTOS.views, augmentation=Augmentation(0.5, rotation=5, flip=False, colour=0.5, grey=0.2)),
)

#: By the part of the data set's name before a colon.
PRESETS: dict[str, Pair] = {
    "digits": _DIGITS,
    "mnist": _MANY_DIGITS.lasting(3, 5),
    "fashion_mnist": _CLOTHES.lasting(6, 15),
    "usps": _MANY_DIGITS.lasting(8, 15),
    "cifar10": _PHOTOS,
    "cifar100": _PHOTOS,
    "svhn": _HOUSE_NUMBERS.lasting(8, 30),
    "stl10": _PHOTOS.lasting(60, 200),
    "celeba": _PHOTOS.lasting(3, 10),
    "imagefolder": _PHOTOS,
    "planted": _DIGITS,
    "unplanted": _DIGITS,
}
#: Of the supervised contrastive loss: the paper's (section 4.4).
_SUPCON_TEMPERATURE = 0.1
#: Images a step of Barlow Twins on few digits: with 128, a probe is no better than one of the untrained
#: encoder (93% of the test images of ``digits``); with 64, three seeds of ``r18`` have 95.9, 96.7 and 96.0%.
_BARLOW_TWINS_BATCH = dict.fromkeys(("digits", "planted", "unplanted"), 64)
#: Share of the labelled preset's learning rate that encoders are fine-tuned with.
_FINETUNING_RATE = 0.25


def preset(data: str, objective: str) -> Preset:
    """Looks up the preset of a data set for an objective.

    Args:
        data: a name that ``load_data`` takes.
        objective: a key of ``OBJECTIVES``.

    Raises:
        InputError: if the objective or the data set is unknown.
    """
    kind = data.partition(":")[0]
    if kind not in PRESETS:
        raise unknown_name("data set", kind, PRESETS)
    if objective not in OBJECTIVES:
        raise unknown_name("objective", objective, OBJECTIVES)
    training = PRESETS[kind].labelled if objective == "supervised" else PRESETS[kind].views
    if objective == "supcon":
        training = replace(training, temperature=_SUPCON_TEMPERATURE)
    if objective == "barlowtwins" and kind in _BARLOW_TWINS_BATCH:
        training = replace(training, batch_size=_BARLOW_TWINS_BATCH[kind])
    labelled = PRESETS[kind].labelled
    # As long as the supervised training beside it, and without regularisation (SimCLR, appendix B.5).
    finetuning = replace(labelled, learning_rate=_FINETUNING_RATE * labelled.learning_rate, weight_decay=0.0)
    return Preset(DEFAULT_WIDTH, training, finetuning)


def for_fewer_images(training: TrainingSpec, *, images: int, of: int) -> TrainingSpec:
    """The same number of steps on some of the images as on all, so that few labels do not mean few steps.

    Args:
        training: how to train on all images.
        images: number of images to train on, 1 to ``of``.
        of: number of all images.

    Returns:
        The same with as many more epochs, rounded to the nearest whole number.
    """

    def steps(n: int) -> int:
        return n // min(training.batch_size, n)

    return replace(training, epochs=round(training.epochs * steps(of) / steps(images)))
