import math

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from population.spec import Augmentation
from ssl_models.augment import random_view

NOTHING = {"min_scale": 1.0, "rotation": 0.0, "flip": False, "colour": 0.0, "grey": 0.0}


def view(images: torch.Tensor, *, seed: int = 0, **changes: object) -> torch.Tensor:
    augmentation = Augmentation(**(NOTHING | changes))  # type: ignore[arg-type]
    return random_view(images, augmentation, generator=torch.Generator().manual_seed(seed))


def photos(n: int = 20, channels: int = 3) -> torch.Tensor:
    return torch.rand(n, channels, 17, 17, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmentation_of_nothing_changes_nothing(channels: int) -> None:
    images = photos(channels=channels)
    torch.testing.assert_close(view(images), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_seeded_in_range_and_of_the_same_shape(channels: int) -> None:
    images = photos(channels=channels)
    strong = {"min_scale": 0.2, "rotation": 30.0, "flip": True, "colour": 1.0, "grey": 0.2}
    first = view(images, **strong)
    assert torch.equal(first, view(images, **strong))
    assert not torch.equal(first, view(images, seed=1, **strong))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(images, photos(channels=channels))


def test_a_generator_goes_on_from_view_to_view() -> None:
    generator = torch.Generator().manual_seed(0)
    augmentation = Augmentation(min_scale=0.3, rotation=0, flip=False, colour=0, grey=0)
    first, second = (random_view(photos(), augmentation, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_the_global_random_state_plays_no_part() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = view(photos(), min_scale=0.3, colour=0.5, grey=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first, view(photos(), min_scale=0.3, colour=0.5, grey=0.5))


def test_every_image_draws_its_own_parameters() -> None:
    same = photos(1).expand(12, -1, -1, -1)
    for changes in ({"min_scale": 0.3}, {"rotation": 30.0}, {"colour": 0.5}):
        views = view(same, **changes)
        distances = torch.cdist(views.flatten(1), views.flatten(1)) + torch.eye(12)
        assert distances.min() > 1e-3, changes


SIZE = 65


def measured_maps(n: int, **changes: object) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of each view, read off two ramps: matrix (n, 2, 2) and centre (n, 2), in (x, y).

    Both are in half-sizes of the image, as torch's affine grids have them.
    """
    line = torch.linspace(0.3, 0.7, SIZE)
    ramps = torch.stack([line.expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE)])
    views = view(ramps.expand(n, -1, -1, -1), **changes).double().numpy()
    step, middle = 0.4 / (SIZE - 1), SIZE // 2
    # Near the middle a crop may reach beyond the border only if it is large: use one pixel each way.
    along_x = (views[:, :, middle, middle + 1] - views[:, :, middle, middle - 1]) / (2 * step)
    along_y = (views[:, :, middle + 1, middle] - views[:, :, middle - 1, middle]) / (2 * step)
    centre = (views[:, :, middle, middle] - 0.5) / step / (SIZE / 2)
    return np.stack([along_x, along_y], axis=2), centre


@pytest.mark.parametrize("min_scale", [0.2, 0.7, 0.95, 1.0])
def test_crops_keep_their_share_and_stay_inside(min_scale: float) -> None:
    matrix, centre = measured_maps(500, min_scale=min_scale)
    np.testing.assert_allclose(matrix[:, [0, 1], [1, 0]], 0, atol=1e-4)
    width, height = matrix[:, 0, 0], matrix[:, 1, 1]
    area, ratio = width * height, width / height
    assert area.min() >= min_scale - 1e-3
    assert area.max() <= 1 + 1e-3
    assert ratio.min() >= 3 / 4 - 1e-3
    assert ratio.max() <= 4 / 3 + 1e-3
    assert (np.abs(centre) + matrix[:, [0, 1], [0, 1]]).max() <= 1 + 1e-3
    # uniform in the area, on average in the middle
    assert area.mean() == pytest.approx(
        (1 + min_scale) / 2, abs=4 * (1 - min_scale) / math.sqrt(12 * 500) + 1e-3
    )
    np.testing.assert_allclose(centre.mean(0), 0, atol=0.06)
    if min_scale == 0.2:
        assert (ratio < 0.8).any()
        assert (ratio > 1.25).any()


@pytest.mark.parametrize("degrees", [0.0, 15.0, 90.0])
def test_rotations_are_uniform_up_to_the_bound(degrees: float) -> None:
    matrix, centre = measured_maps(500, rotation=degrees)
    np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-3)
    np.testing.assert_allclose(
        matrix @ matrix.transpose(0, 2, 1), np.broadcast_to(np.eye(2), (500, 2, 2)), atol=1e-3
    )
    np.testing.assert_allclose(centre, 0, atol=1e-3)
    angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert np.abs(angle).max() <= degrees + 0.1
    assert np.abs(angle).max() >= 0.97 * degrees - 0.1
    assert angle.mean() == pytest.approx(0, abs=4 * degrees / math.sqrt(3 * 500) + 0.1)


def test_a_quarter_turn_is_torchs() -> None:
    images = photos(1, 1).expand(40, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    views = random_view(images, Augmentation(1, 90, False, 0, 0), generator=generator)
    matrix, _ = measured_maps(40, rotation=90.0)
    angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    for index in np.abs(angle).argsort()[:5]:
        turned = functional.rotate(
            images[index], float(angle[index]), functional.InterpolationMode.BILINEAR, fill=[0.0]
        )
        inner = slice(4, 13)
        torch.testing.assert_close(views[index, :, inner, inner], turned[:, inner, inner], rtol=0, atol=0.02)


def test_images_are_mirrored_only_where_asked_and_then_half_of_them() -> None:
    images = photos(400, 1)
    unflipped = view(images)
    torch.testing.assert_close(unflipped, images, rtol=0, atol=1e-5)
    views = view(images, flip=True)
    as_is = (views - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (views - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (as_is ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 200) < 4 * math.sqrt(100)


def test_a_grey_image_gets_brightness_and_contrast_as_torchvision_has_them() -> None:
    images = 0.4 + 0.2 * photos(200, 1)
    found = view(images, colour=0.4)
    mean = images.mean((1, 2, 3))
    brightness = found.mean((1, 2, 3)) / mean
    contrast = found.flatten(1).std(1) / images.flatten(1).std(1) / brightness
    for factor in (brightness, contrast):
        assert factor.min() >= 1 - 0.32 - 1e-3
        assert factor.max() <= 1 + 0.32 + 1e-3
        assert float(factor.mean()) == pytest.approx(1, abs=4 * 0.32 / math.sqrt(3 * 200))
    for index in range(20):
        image = functional.adjust_contrast(images[index], float(contrast[index]))
        image = functional.adjust_brightness(image, float(brightness[index]))
        torch.testing.assert_close(found[index], image, rtol=0, atol=1e-4)


def test_colours_that_leave_the_range_are_cut_off() -> None:
    bright = view(photos(50, 1), colour=1.0)
    assert (bright == 1).any()
    assert bright.max() <= 1


def channel_maps(n: int, colour: float) -> np.ndarray:
    """The linear map of the channels that each view applied, divided by brightness x contrast: (n, 3, 3)."""
    images = (0.45 + 0.1 * photos(1)).expand(n, -1, -1, -1)
    found = view(images, colour=colour).flatten(2).double().numpy()
    source = images[0].flatten(1).double().numpy()
    design = np.vstack([source, np.ones(source.shape[1])])
    maps = np.stack([np.linalg.lstsq(design.T, one.T, rcond=None)[0].T for one in found])[:, :, :3]
    grey = maps.sum(axis=2)
    # the grey axis stays where it is: (1, 1, 1) goes to a multiple of itself
    np.testing.assert_allclose(grey, np.repeat(grey[:, :1], 3, axis=1), atol=1e-3)
    return maps / grey[:, :1, None]


def test_colour_changes_are_a_saturation_and_a_turn_around_grey() -> None:
    colour = 0.3
    maps = channel_maps(60, colour)
    # saturation s has the eigenvalues s, s and 1; a rotation has determinant 1
    saturation = np.sqrt(np.linalg.det(maps))
    assert saturation.min() >= 1 - 0.8 * colour - 1e-2
    assert saturation.max() <= 1 + 0.8 * colour + 1e-2
    assert np.ptp(saturation) > 0.3
    luma = np.tile([0.299, 0.587, 0.114], (3, 1))
    turns = []
    for one, s in zip(maps, saturation, strict=True):
        rotation = np.linalg.inv(s * np.eye(3) + (1 - s) * luma) @ one
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=2e-2)
        np.testing.assert_allclose(rotation @ np.ones(3), np.ones(3), atol=1e-2)
        turns.append(math.acos(min(1.0, (np.trace(rotation) - 1) / 2)))
    assert max(turns) <= 2 * math.pi * 0.2 * colour + 1e-2
    assert max(turns) > 0.5 * 2 * math.pi * 0.2 * colour


def test_a_grey_colour_image_stays_grey() -> None:
    images = photos(30, 1).expand(-1, 3, -1, -1)
    found = view(images, colour=0.8, grey=0.5)
    assert float((found - found[:, :1]).abs().max()) < 1e-5


def test_greying_is_torchvisions_luma() -> None:
    images = photos()
    found = view(images, grey=1.0)
    expected = functional.rgb_to_grayscale(images, num_output_channels=3)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("colour", [0.0, 0.3])
def test_greying_has_its_probability(colour: float) -> None:
    found = view(photos(1000)[:, :, :4, :4], colour=colour, grey=0.2)
    is_grey = (found - found[:, :1]).abs().amax((1, 2, 3)) < 1e-5
    assert abs(int(is_grey.sum()) - 200) < 4 * math.sqrt(1000 * 0.2 * 0.8)


def test_a_one_channel_image_stays_one_channel() -> None:
    assert view(photos(4, 1), colour=1.0, grey=1.0).shape == (4, 1, 17, 17)
