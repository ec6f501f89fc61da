"""Random views of a batch of images, made on the device for all images at once.

Each image draws its own parameters. Geometry is one affine resampling, colour one affine map of the
channels, so that a batch takes a few tensor operations whatever its size.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from population.spec import Augmentation

_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


#: Numbers in [low, high), one for each image: (low, high) -> shape (N,).
_Draw = Callable[[float, float], Tensor]


def random_view(
    images: Tensor,
    augmentation: Augmentation,
    *,
    generator: torch.Generator,
    batch: int | None = None,
    part: slice = slice(None),
) -> Tensor:
    """Draws one view of each image.

    Deviations from SimCLR's augmentation (arXiv 2002.05709, appendix A): colour changes are applied
    together in a fixed order, hue turns around the grey axis of RGB, and there is no blur, as usual
    for small images.

    Args:
        images: shape (N, C, H, W), float in [0, 1].
        augmentation: how strong each change is.
        generator: source of all randomness, on the device of the images.
        batch: number of images of the batch that these are a part of (default: these are all). The views
            are those that they would have if the whole batch were given.
        part: where in the batch they are.

    Returns:
        Views of the same shape, float in [0, 1].
    """
    n = len(images) if batch is None else batch

    def draw(low: float, high: float) -> Tensor:
        numbers = low + (high - low) * torch.rand(n, generator=generator, device=generator.device)
        return numbers[part]

    view = _random_crop(images, augmentation, draw)
    changes_colour = augmentation.colour > 0 or augmentation.grey > 0
    return _random_colour(view, augmentation, draw) if changes_colour else view


def _random_crop(images: Tensor, augmentation: Augmentation, draw: _Draw) -> Tensor:
    area = draw(augmentation.min_scale, 1)
    # Width to height is in [3/4, 4/3], and as near to 1 as a crop of this area needs to fit.
    flattest = (-area.log()).clamp(max=math.log(4 / 3))
    ratio = (draw(-1, 1) * flattest).exp().sqrt()
    width, height = area.sqrt() * ratio, area.sqrt() / ratio
    left = draw(-1, 1) * (1 - width)
    top = draw(-1, 1) * (1 - height)
    radians = math.radians(augmentation.rotation)
    angle = draw(-radians, radians)
    sign = torch.where(draw(0, 1) < 0.5, -1.0, 1.0) if augmentation.flip else 1.0
    rows = [
        torch.stack([sign * width * angle.cos(), -height * angle.sin(), left], 1),
        torch.stack([sign * width * angle.sin(), height * angle.cos(), top], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _random_colour(images: Tensor, augmentation: Augmentation, draw: _Draw) -> Tensor:
    n, channels = images.shape[:2]
    strength = 0.8 * augmentation.colour
    brightness = draw(1 - strength, 1 + strength).reshape(n, 1, 1)
    contrast = draw(1 - strength, 1 + strength).reshape(n, 1, 1)
    mean = images.mean((1, 2, 3)).reshape(n, 1, 1)
    flat = images.flatten(2)
    if channels == 3:
        flat = torch.bmm(_colour_matrix(n, augmentation, strength, draw, images.device), flat)
    flat = brightness * (contrast * flat + (1 - contrast) * mean)
    return flat.reshape(images.shape).clamp(0, 1)


def _colour_matrix(
    n: int, augmentation: Augmentation, strength: float, draw: _Draw, device: torch.device
) -> Tensor:
    """Saturation, hue and greying as one 3x3 matrix per image, shape (n, 3, 3)."""
    saturation = draw(1 - strength, 1 + strength)
    grey = draw(0, 1) < augmentation.grey
    saturation = torch.where(grey, 0.0, saturation).reshape(n, 1, 1)
    luma = torch.tensor(_GREY, device=device).expand(3, 3)
    eye = torch.eye(3, device=device)
    turn = 2 * math.pi * 0.2 * augmentation.colour
    hue = draw(-turn, turn).reshape(n, 1, 1)
    # Rodrigues' rotation around the unit vector (1, 1, 1) / sqrt(3).
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / math.sqrt(3)
    rotation = hue.cos() * eye + hue.sin() * cross + (1 - hue.cos()) * torch.full_like(eye, 1 / 3)
    return (saturation * eye + (1 - saturation) * luma) @ rotation
