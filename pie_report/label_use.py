"""What ``--label-fraction`` and ``--evaluation`` mean for a population that is trained here."""

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError
from population.spec import LabelSpec, PopulationSpec, TrainingSpec
from ssl_models.labels import labelled_images
from ssl_models.objectives import OBJECTIVES
from ssl_models.presets import for_fewer_images
from ssl_models.zoo import split_name


def check_label_use(spec: PopulationSpec) -> None:
    """Raises InputError if the model's objective does not go with what is asked of its labels."""
    objective = OBJECTIVES[split_name(spec.model)[0]]
    if spec.evaluation is not None and objective.trains_head:
        raise InputError(
            f"--evaluation is for encoders that get their classifier after training; {spec.model} is"
            " trained with it"
        )
    few = spec.label_fraction is not None and spec.label_fraction < 1
    if few and objective.looks_at_labels and not objective.trains_head:
        raise InputError(
            f"--label-fraction {spec.label_fraction:g}: {spec.model} needs the labels of all images to train"
            " its encoder"
        )


def use_labels(
    spec: PopulationSpec,
    training: TrainingSpec,
    finetuning: TrainingSpec,
    labels: NDArray[np.int64],
) -> tuple[TrainingSpec, LabelSpec | None]:
    """Settles how members are trained and which labels they see.

    Args:
        spec: the population, as ``check_label_use`` takes it.
        training: how its objective is trained on all images.
        finetuning: how an encoder is fine-tuned on all images.
        labels: of the training images, shape (N,).

    Returns:
        The training of the objective, which takes as many steps on few images as on all; and what is said of
        labels, None where all are seen as if nothing had been asked.

    Raises:
        InputError: if the fraction holds fewer images than there are classes.
    """
    trains_head = OBJECTIVES[split_name(spec.model)[0]].trains_head
    fraction = 1.0 if spec.label_fraction is None else spec.label_fraction
    evaluation = spec.evaluation or ("linear" if spec.label_fraction is None else "finetune")
    finetunes = evaluation == "finetune" and not trains_head
    if fraction == 1:
        return training, LabelSpec(1.0, 0, finetuning) if finetunes else None
    seen = len(labelled_images(labels, fraction, seed=spec.seed))
    if trains_head:
        shorter = for_fewer_images(training, images=seen, of=len(labels))
        return shorter, LabelSpec(fraction, spec.seed)
    chosen = for_fewer_images(finetuning, images=seen, of=len(labels)) if finetunes else None
    return training, LabelSpec(fraction, spec.seed, chosen)
