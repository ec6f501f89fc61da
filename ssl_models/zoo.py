"""Models by name: ``simclr_r18`` is the objective SimCLR on the encoder ResNet-18."""

from typing import TYPE_CHECKING

from population.errors import unknown_name
from population.spec import STEMS, ModelSpec
from ssl_models.catalogue import ARCHITECTURES, OBJECTIVES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssl_models.backbones import Classifier

#: Largest resolution in pixels for which an encoder begins at full resolution. The ImageNet stem quarters
#: it at once: of 64 pixels it would leave the last stage of a ResNet maps of 2x2, fewer than a 3x3
#: convolution looks at. Of 96 pixels it leaves 3x3, where full resolution would cost 9 times what it
#: does for 32.
SMALL_IMAGES = 64


def model_names() -> tuple[str, ...]:
    """Every objective with every architecture, as ``objective_architecture``."""
    return tuple(f"{o}_{a}" for o in OBJECTIVES for a in ARCHITECTURES)


def split_name(name: str) -> tuple[str, str]:
    """Objective and architecture of a name of the zoo.

    Raises:
        InputError: if the name is unknown; says which is nearest.
    """
    check_model_name(name)
    objective, _, architecture = name.partition("_")
    return objective, architecture


def check_model_name(name: str) -> None:
    """Raises InputError unless the name is in the zoo."""
    if name not in model_names():
        raise unknown_name("model", name, model_names())


def stem_for(resolution: int) -> str:
    """The stem for images of a resolution in pixels: ``small`` up to 64, ``imagenet`` above."""
    return "small" if resolution <= SMALL_IMAGES else "imagenet"


def model_spec(
    name: str, *, num_classes: int, in_channels: int, width: int, stem: str = "small"
) -> ModelSpec:
    """Turns a name of the zoo into a spec.

    Raises:
        InputError: if the name or the stem is unknown; says which is nearest.
    """
    objective, architecture = split_name(name)
    if stem not in STEMS:
        raise unknown_name("stem", stem, STEMS)
    return ModelSpec(objective, architecture, num_classes, in_channels, width, stem)


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    width: int,
    seed: int,
    stem: str = "small",
    mean: "Sequence[float] | None" = None,
    std: "Sequence[float] | None" = None,
) -> "Classifier":
    """Builds an untrained network of the zoo.

    Args:
        name: for example ``simclr_r18``.
        num_classes: outputs.
        in_channels: 1 for grey images, 3 for colour.
        width: channels of the first convolution. All others scale with it; the papers' are 64 for the
            ResNets and VGG-11, 32 for MobileNetV2, 16 for WRN-16-2.
        seed: of the initial weights; the global random state is left as it was.
        stem: ``small`` for images of 16 to 64 pixels, ``imagenet`` for larger ones; see ``stem_for``.
        mean: subtracted from each channel of images in [0, 1]; by default 0.
        std: divides each channel after that; by default 1.

    Returns:
        A module from images (N, C, H, W) in [0, 1] to logits (N, num_classes), in eval mode.

    Raises:
        InputError: if the name or the stem is unknown or a number is below 1.
    """
    import torch

    from ssl_models.backbones import ARCHITECTURES, Classifier, Normalize

    spec = model_spec(name, num_classes=num_classes, in_channels=in_channels, width=width, stem=stem)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        build = ARCHITECTURES[spec.architecture].build
        encoder = build(in_channels=in_channels, width=width, stem=stem)
        normalize = Normalize(mean or [0.0] * in_channels, std or [1.0] * in_channels)
        return Classifier(normalize, encoder, num_classes).eval()
