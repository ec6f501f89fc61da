import tracemalloc

import numpy as np
import pytest

from population.samples import SampleSet
from ssl_models.images import ImageData, ImageSplit


def small_data(
    images: np.ndarray, label: tuple[int, ...] = (0, 1), ids: str = "ab", names: str = "xy"
) -> ImageData:
    samples = SampleSet(np.array(list(ids)), np.array(label, dtype=np.int64), tuple(names))
    part = ImageSplit(images.astype(np.uint8), samples)
    return ImageData("small", part, part)


def test_everything_is_in_the_fingerprint() -> None:
    images = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    changed = images.copy()
    changed[1, 2, 3, 3] ^= 1
    prints = [
        small_data(images).fingerprint(),
        small_data(changed).fingerprint(),
        small_data(images.reshape(2, 3, 2, 8)).fingerprint(),
        small_data(images, label=(1, 1)).fingerprint(),
        small_data(images, ids="ac").fingerprint(),
        small_data(images, names="xz").fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert small_data(images).fingerprint() == prints[0]
    assert all(len(p) == 16 for p in prints)


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_are_numpys(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 200, (20, channels, 5, 5))
    images[:, 0] //= 3
    mean, std = small_data(images).channel_statistics()
    scaled = images / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), atol=5.1e-5)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), atol=5.1e-5)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_channel_without_variation_has_a_usable_standard_deviation(value: int) -> None:
    mean, std = small_data(np.full((2, 1, 4, 4), value)).channel_statistics()
    assert mean == [pytest.approx(value / 255, abs=1e-4)]
    assert std == [pytest.approx(1 / 255, abs=1e-4)]


def test_statistics_of_many_images_take_little_memory() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3000, 3, 16, 16)).astype(np.uint8)
    samples = SampleSet(np.arange(3000).astype(str), np.zeros(3000, dtype=np.int64), ("x",))
    part = ImageSplit(images, samples)
    tracemalloc.start()
    mean, _ = ImageData("many", part, part).channel_statistics()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)) / 255, atol=5.1e-5)
    # one channel of a thousand images as int64, and its bytes
    assert peak < 1000 * 16 * 16 * 9 + 100_000
