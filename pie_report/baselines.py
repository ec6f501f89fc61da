"""What a linear probe reaches without any learned representation: raw pixels and an untrained encoder."""

import json
from pathlib import Path

from pie_report.members import Population
from population.spec import key
from ssl_models.probe import extract_features, logistic_regression

#: Most training images that the two probes are fitted on: the first ones with labels that may be looked at.
_TRAIN_IMAGES = 5000


def baseline_accuracies(population: Population) -> dict[str, float | int]:
    """Accuracies of two linear probes on the test images, as fractions.

    Returns:
        ``raw_pixels``, ``untrained_encoder`` (the first member's initial weights), and
        ``train_images``, the number of images that both were fitted on.
    """

    def compute(folder: Path) -> None:
        test, untrained = population.data.test, population.untrained(0)
        images, label = population.labelled_images(0)
        images, label = images[:_TRAIN_IMAGES], label[:_TRAIN_IMAGES]
        features = {
            "raw_pixels": [
                part.reshape(len(part), -1) / 255.0 for part in (images.cpu().numpy(), test.images)
            ],
            "untrained_encoder": [
                extract_features(untrained, images),
                extract_features(untrained, population.test_images),
            ],
        }
        accuracies: dict[str, float | int] = {"train_images": len(label)}
        for name, (fitted, held_out) in features.items():
            weight, bias = logistic_regression(fitted, label)
            predicted = (held_out @ weight.T + bias).argmax(1)
            accuracies[name] = float((predicted == test.samples.label).mean())
        (folder / "baselines.json").write_text(json.dumps(accuracies))

    entry = population.store.once("baselines", key(population.member, _TRAIN_IMAGES), compute)
    result: dict[str, float | int] = json.loads((entry / "baselines.json").read_text())
    return result
