"""How members are trained on each data set: one row of numbers per data set and kind of objective.

The presets are sized for two CPU cores; ``--width`` and ``--epochs`` change the two that matter.
"""

from dataclasses import dataclass, replace

from population.spec import Augmentation, TrainingSpec


@dataclass(frozen=True)
class Preset:
    """Width of the network and how it is trained."""

    width: int
    training: TrainingSpec


_DIGITS_LABELLED = TrainingSpec(
    epochs=12,
    batch_size=64,
    learning_rate=2e-3,
    weight_decay=5e-2,
    temperature=0.2,
    momentum=0.99,
    augmentation=Augmentation(min_scale=0.7, rotation=10, flip=False, colour=0, grey=0),
)
_DIGITS_VIEWS = replace(
    _DIGITS_LABELLED,
    epochs=15,
    batch_size=128,
    learning_rate=3e-3,
    weight_decay=1e-4,
    augmentation=Augmentation(min_scale=0.5, rotation=15, flip=False, colour=0.4, grey=0),
)
_PHOTOS_LABELLED = replace(
    _DIGITS_LABELLED,
    epochs=20,
    batch_size=128,
    augmentation=Augmentation(min_scale=0.6, rotation=0, flip=True, colour=0, grey=0),
)
_PHOTOS_VIEWS = replace(
    _PHOTOS_LABELLED,
    epochs=100,
    batch_size=256,
    learning_rate=2e-3,
    weight_decay=1e-4,
    temperature=0.5,
    augmentation=Augmentation(min_scale=0.2, rotation=0, flip=True, colour=0.5, grey=0.2),
)


def preset(data: str, objective: str) -> Preset:
    """Looks up the preset of a data set for an objective.

    Args:
        data: a name that ``load_data`` takes.
        objective: a key of ``OBJECTIVES``.
    """
    labelled, views = (
        (_DIGITS_LABELLED, _DIGITS_VIEWS) if data == "digits" else (_PHOTOS_LABELLED, _PHOTOS_VIEWS)
    )
    return Preset(width=16, training=labelled if objective == "supervised" else views)
