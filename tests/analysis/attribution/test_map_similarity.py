import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from analysis.attribution.map_similarity import (
    MEASURES,
    centroid_shift,
    rank_correlation,
    structural_similarity,
    top_k_iou,
)
from population.errors import InputError


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(6, 9, 7, generator=draw)
    return a, a + torch.randn(6, 9, 7, generator=draw)


class TestAll:
    @pytest.mark.parametrize("name", MEASURES)
    def test_a_map_is_like_itself_whatever_its_scale_and_constant_maps_are_masked(
        self, name: str, pair: tuple[Tensor, Tensor]
    ) -> None:
        a, _ = pair
        found = MEASURES[name](a, 3 * a)
        np.testing.assert_allclose(found, 0 if name == "centroid_shift" else 1, atol=1e-6)
        flat = a.clone()
        flat[2], flat[4] = 0, 1
        for masked in (MEASURES[name](a, flat), MEASURES[name](flat, a)):
            assert np.ma.getmaskarray(masked).tolist() == [False, False, True, False, True, False]
            assert np.isnan(np.asarray(masked)[[2, 4]]).all()

    @pytest.mark.parametrize("name", MEASURES)
    def test_is_symmetric_and_refuses_unequal_shapes(self, name: str, pair: tuple[Tensor, Tensor]) -> None:
        a, b = pair
        np.testing.assert_allclose(MEASURES[name](a, b), MEASURES[name](b, a), atol=1e-6)
        with pytest.raises(InputError, match="one shape"):
            MEASURES[name](a, b[:, :8])
        assert MEASURES[name](a[:0], b[:0]).shape == (0,)

    def test_spearman_is_scipys(self, pair: tuple[Tensor, Tensor]) -> None:
        expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(*pair, strict=True)]
        np.testing.assert_allclose(MEASURES["spearman"](*pair), expected, rtol=1e-12)


class TestTopKIou:
    def test_equals_a_loop_over_sets(self, pair: tuple[Tensor, Tensor]) -> None:
        k = 6  # a tenth of 63 pixels
        expected = []
        for a, b in zip(*pair, strict=True):
            top_a, top_b = (set(np.argsort(-m.numpy().ravel())[:k].tolist()) for m in (a, b))
            expected.append(len(top_a & top_b) / len(top_a | top_b))
        assert 0 < min(expected) < max(expected) < 1
        np.testing.assert_allclose(top_k_iou(*pair), expected)

    def test_ties_share_the_last_places(self) -> None:
        # 20 pixels, two places. a: one clear winner, four tie for the second place, a quarter each.
        a = torch.zeros(1, 4, 5)
        a[0, 0, 0], a[0, 1, :4] = 2, 1
        # b: the winner of a and one of its four.
        b = torch.zeros(1, 4, 5)
        b[0, 0, 0], b[0, 1, 0] = 2, 1
        # minima 1 + 1/4, maxima 1 + 1 + 3/4
        assert top_k_iou(a, b)[0] == pytest.approx(1.25 / 2.75)

    def test_unrelated_maps_overlap_by_chance(self) -> None:
        draw = torch.Generator().manual_seed(1)
        a, b = torch.rand(400, 20, 20, generator=draw), torch.rand(400, 20, 20, generator=draw)
        assert top_k_iou(a, b).mean() == pytest.approx(40 / (800 - 40), abs=0.004)


class TestStructuralSimilarity:
    def test_equals_a_loop_over_windows(self, pair: tuple[Tensor, Tensor]) -> None:
        offset = np.arange(-5, 6)
        window = np.exp(-(offset**2) / (2 * 1.5**2))
        window = np.outer(window, window) / window.sum() ** 2
        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        expected = []
        for a, b in zip(*pair, strict=True):
            x, y = (np.pad((m / m.abs().max()).double().numpy(), 5, mode="reflect") for m in (a, b))
            values = []
            for row in range(9):
                for column in range(7):
                    u, v = (m[row : row + 11, column : column + 11] for m in (x, y))
                    mean_u, mean_v = (window * u).sum(), (window * v).sum()
                    var_u, var_v = (window * (u - mean_u) ** 2).sum(), (window * (v - mean_v) ** 2).sum()
                    both = (window * (u - mean_u) * (v - mean_v)).sum()
                    values.append(
                        (2 * mean_u * mean_v + c1) * (2 * both + c2)
                        / ((mean_u**2 + mean_v**2 + c1) * (var_u + var_v + c2))
                    )  # fmt: skip
            expected.append(np.mean(values))
        np.testing.assert_allclose(structural_similarity(*pair), expected, atol=1e-5)

    def test_maps_below_the_window_are_refused(self) -> None:
        assert structural_similarity(torch.rand(1, 6, 6), torch.rand(1, 6, 6)).shape == (1,)
        with pytest.raises(InputError, match="at least 6 pixels"):
            structural_similarity(torch.rand(1, 5, 9), torch.rand(1, 5, 9))


class TestCentroidShift:
    def test_equals_a_loop_over_pixels(self, pair: tuple[Tensor, Tensor]) -> None:
        expected = []
        for maps in zip(*pair, strict=True):
            centres = []
            for single in maps:
                mass, row_sum, column_sum = 0.0, 0.0, 0.0
                for row in range(9):
                    for column in range(7):
                        value = max(0.0, float(single[row, column]))
                        mass, row_sum, column_sum = (
                            mass + value, row_sum + row * value, column_sum + column * value
                        )  # fmt: skip
                centres.append((row_sum / mass, column_sum / mass))
            (r0, c0), (r1, c1) = centres
            expected.append(((r0 - r1) ** 2 + (c0 - c1) ** 2) ** 0.5 / (8**2 + 6**2) ** 0.5)
        np.testing.assert_allclose(centroid_shift(*pair), expected)

    def test_opposite_corners_are_1_apart_and_maps_without_evidence_are_masked(self) -> None:
        a, b = -torch.ones(2, 3, 4), -torch.ones(2, 3, 4)
        a[0, 0, 0], b[0, 2, 3] = 5, 7
        b[1, 0, 0] = -2
        found = centroid_shift(a, b)
        assert found[0] == pytest.approx(1)
        assert np.ma.getmaskarray(found).tolist() == [False, True]


class TestRankCorrelation:
    def test_equals_scipy_with_and_without_ties(self) -> None:
        draw = torch.Generator().manual_seed(5)
        a = torch.randn(6, 4, 5, generator=draw)
        b = a + torch.randn(6, 4, 5, generator=draw)
        a[3:], b[3:] = a[3:].round(), b[3:].round()
        expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
        found = rank_correlation(a, b)
        assert not np.ma.getmaskarray(found).any()
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    def test_only_ranks_count(self) -> None:
        a = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(6))
        np.testing.assert_allclose(rank_correlation(a, torch.exp(3 * a)), 1)
        np.testing.assert_allclose(rank_correlation(a, -a), -1)

    def test_a_constant_map_is_masked_and_left_out_of_means(self) -> None:
        a = torch.arange(8.0).reshape(2, 2, 2)
        b = a.clone()
        b[1] = 0
        found = rank_correlation(a, b)
        assert np.ma.getmaskarray(found).tolist() == [False, True]
        assert found.mean() == 1
        assert np.isnan(np.asarray(found)[1])
