import numpy as np
import pytest

from figures.gallery.overlay import AGAINST_COLOUR, FOR_COLOUR, overlay, shared_scale


def test_full_positive_full_negative_and_zero():
    image = np.zeros((1, 4, 3), np.uint8)
    attribution = np.array([[2.0, -2.0, 0.0, 5.0]], np.float32)
    picture = overlay(image, attribution, scale=2.0)
    # Black paper: 255 - 0.25 * 255 = 191.25.
    assert picture.tolist() == [[list(FOR_COLOUR), list(AGAINST_COLOUR), [191] * 3, list(FOR_COLOUR)]]


def test_half_strength_is_half_way_between_paper_and_ink():
    white = np.full((1, 1, 3), 255, np.uint8)
    picture = overlay(white, np.array([[-0.5]], np.float32), scale=1.0)
    np.testing.assert_allclose(picture[0, 0], (255 + np.array(AGAINST_COLOUR)) / 2, atol=0.51)


def test_scale_is_the_same_whichever_map_is_large():
    small, large = np.full((10, 10), 0.1, np.float32), np.full((10, 10), -3.0, np.float32)
    assert shared_scale(small, large) == shared_scale(large, small) == pytest.approx(3.0)


def test_scale_of_one_bright_pixel_and_of_nothing():
    spot = np.zeros((20, 20), np.float32)
    assert shared_scale(spot, spot) == 1.0
    spot[0, 0] = -4.0
    assert shared_scale(spot, np.zeros_like(spot)) == 4.0
