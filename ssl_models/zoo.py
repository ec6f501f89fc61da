"""Models by name: ``simclr_r18`` is the objective SimCLR on the encoder ResNet-18."""

from typing import TYPE_CHECKING

from population.errors import unknown_name
from population.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssl_models.backbones import Classifier

OBJECTIVE_NAMES = ("supervised", "simclr", "byol")
ARCHITECTURE_NAMES = ("r18",)
MODEL_NAMES = tuple(f"{o}_{a}" for o in OBJECTIVE_NAMES for a in ARCHITECTURE_NAMES)


def model_spec(name: str, *, num_classes: int, in_channels: int, width: int) -> ModelSpec:
    """Turns a name of the zoo into a spec.

    Raises:
        InputError: if the name is unknown; says which is nearest.
    """
    check_model_name(name)
    objective, architecture = name.rsplit("_", 1)
    return ModelSpec(objective, architecture, num_classes, in_channels, width)


def check_model_name(name: str) -> None:
    """Raises InputError unless the name is in the zoo."""
    if name not in MODEL_NAMES:
        raise unknown_name("model", name, MODEL_NAMES)


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    width: int,
    seed: int,
    mean: "Sequence[float] | None" = None,
    std: "Sequence[float] | None" = None,
) -> "Classifier":
    """Builds an untrained network of the zoo.

    Args:
        name: for example ``simclr_r18``.
        num_classes: outputs.
        in_channels: 1 for grey images, 3 for colour.
        width: channels of the first stage.
        seed: of the initial weights; the global random state is left as it was.
        mean: subtracted from each channel of images in [0, 1]; by default 0.
        std: divides each channel after that; by default 1.

    Returns:
        A module from images (N, C, H, W) in [0, 1] to logits (N, num_classes), in eval mode.

    Raises:
        InputError: if the name is unknown or a number is below 1.
    """
    import torch

    from ssl_models.backbones import ARCHITECTURES, Classifier, Normalize

    spec = model_spec(name, num_classes=num_classes, in_channels=in_channels, width=width)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = ARCHITECTURES[spec.architecture](in_channels=in_channels, width=width)
        normalize = Normalize(mean or [0.0] * in_channels, std or [1.0] * in_channels)
        return Classifier(normalize, encoder, num_classes).eval()
