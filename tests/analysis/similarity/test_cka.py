import math

import pytest
import torch
from torch import Tensor

from analysis.similarity.cka import ESTIMATORS, KNOWN_PITFALL, Estimator, linear_cka, minibatch_linear_cka
from population.errors import InputError


def features(n: int, p: int, *, seed: int) -> Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_biased_hsic(x: Tensor, y: Tensor) -> float:
    """tr(K H L H) / (n - 1)^2 with every matrix written out."""
    n = len(x)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    return float(torch.trace(x @ x.T @ centring @ y @ y.T @ centring)) / (n - 1) ** 2


def slow_unbiased_hsic(x: Tensor, y: Tensor) -> float:
    """The U-statistic as a mean over quadruples of distinct samples (Song et al. 2012, theorem 5)."""
    k, m = (x @ x.T).tolist(), (y @ y.T).tolist()
    n = len(x)
    total, count = 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i][j] * m[i][j] + k[i][j] * m[q][r] - 2 * k[i][j] * m[i][q]
                        count += 1
    return total / count


SLOW = {"biased": slow_biased_hsic, "unbiased": slow_unbiased_hsic}


def slow_cka(x: Tensor, y: Tensor, estimator: Estimator) -> float:
    hsic = SLOW[estimator]
    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


class TestLinearCka:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize(("n", "p", "q"), [(4, 3, 2), (5, 9, 2), (9, 2, 3), (9, 2, 30), (8, 1, 1)])
    def test_equals_the_definition_written_out(self, n: int, p: int, q: int, estimator: Estimator) -> None:
        x = features(n, p, seed=n)
        y = x[:, :1] ** 2 + 0.5 * features(n, q, seed=50 + n)
        assert linear_cka(x, y, estimator=estimator) == pytest.approx(slow_cka(x, y, estimator), rel=1e-9)

    def test_value_worked_by_hand(self) -> None:
        # x = (1, 0, -1, 0), y = (1, 1, -1, -1) are centred: <Kc, Lc> = (x'y)^2 = 4, <Kc, Kc> = 4 and
        # <Lc, Lc> = 16, so that biased CKA is 4 / 8.
        x = torch.tensor([[1.0], [0.0], [-1.0], [0.0]])
        y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        assert linear_cka(x, y, estimator="biased") == pytest.approx(0.5, rel=1e-12)
        # Kc_ii = (1, 0, 1, 0), Lc_ii = 1: tr = 2, 4. Terms <> - 2 sum + tr tr / 6 are
        # 4 - 4 + 8/6, 4 - 4 + 4/6 and 16 - 8 + 16/6: (4/3) / sqrt(2/3 * 32/3) = 1/2.
        assert linear_cka(x, y) == pytest.approx(0.5, rel=1e-12)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("n", [12, 60])
    def test_rotation_scale_and_shift_change_nothing_other_maps_do(
        self, n: int, estimator: Estimator
    ) -> None:
        x, y = features(n, 6, seed=1), features(n, 40, seed=2)
        y[:, 0] = 5 * x[:, 0]
        rotation, _ = torch.linalg.qr(features(6, 6, seed=3))
        value = linear_cka(x, y, estimator=estimator)
        moved = 7.5 * x @ rotation + features(1, 6, seed=4)
        assert linear_cka(moved, y, estimator=estimator) == pytest.approx(value, rel=1e-9)
        invertible = x * torch.tensor([9.0, 1, 1, 1, 1, 1])
        assert abs(linear_cka(invertible, y, estimator=estimator) - value) > 0.1

    def test_covariances_and_gram_matrices_agree(self) -> None:
        # 40 samples of 5 features go by covariances; with 200 more features that are zero, by Grams.
        x, y = features(40, 5, seed=5), features(40, 3, seed=6)
        y[:, 0] += x[:, 0]
        wide = torch.cat([x, torch.zeros(40, 200)], dim=1)
        for estimator in ESTIMATORS:
            few = linear_cka(x, y, estimator=estimator)
            assert linear_cka(wide, y, estimator=estimator) == pytest.approx(few, rel=1e-10)

    def test_float32_with_a_large_mean_is_exact_on_both_sides(self) -> None:
        for n, p in ((300, 8), (30, 80)):
            x = features(n, p, seed=7)
            y = x + features(n, p, seed=8)
            found = linear_cka((x + 1000).float(), y.float())
            assert found == pytest.approx(linear_cka(x, y), abs=1e-4)

    def test_biased_is_inflated_where_features_are_many_unbiased_is_not(self) -> None:
        pairs = [(features(20, 200, seed=s), features(20, 200, seed=100 + s)) for s in range(20)]
        biased = [linear_cka(x, y, estimator="biased") for x, y in pairs]
        unbiased = [linear_cka(x, y) for x, y in pairs]
        assert min(biased) > 0.8
        assert abs(sum(unbiased) / 20) < 0.05

    def test_known_pitfall_a_shifted_subset_moves_cka_but_no_prediction(self) -> None:
        # Two classes, told apart by the sign of the first feature. A tenth of the samples moves along
        # the second feature, which the classifier does not read.
        x = features(400, 10, seed=9)
        x[:, 0] += torch.where(torch.arange(400) % 2 == 0, 3.0, -3.0)
        moved = x.clone()
        moved[:40, 1] += 60.0
        assert torch.equal(x[:, 0] > 0, moved[:, 0] > 0)
        assert linear_cka(x, moved) < 0.2
        assert linear_cka(x[40:], moved[40:]) == pytest.approx(1, rel=1e-12)
        assert KNOWN_PITFALL.count(".") == 2  # one sentence, and "et al."

    @pytest.mark.parametrize("n", [6, 100])
    def test_what_does_not_vary_is_refused(self, n: int) -> None:
        flat = torch.full((n, 4), 0.1)
        for estimator in ESTIMATORS:
            with pytest.raises(InputError, match="do not vary over the images in the second network"):
                linear_cka(features(n, 3, seed=10), flat, estimator=estimator)
        flat[2] += 3.0  # one image alone differs: nothing is left for the unbiased estimator
        with pytest.raises(InputError, match="do not vary over the images in the first network"):
            linear_cka(flat, features(n, 3, seed=10).float())

    @pytest.mark.parametrize("n", [6, 100])
    def test_features_that_are_not_finite_are_refused(self, n: int) -> None:
        x = features(n, 3, seed=13)
        broken = x.clone()
        broken[1, 1] = torch.nan
        with pytest.raises(InputError, match="must be finite"):
            linear_cka(x, broken)

    @pytest.mark.parametrize(
        ("shape_x", "shape_y"), [((3, 2), (3, 2)), ((5, 2), (6, 2)), ((5, 2, 2), (5, 4))]
    )
    def test_unfit_shapes_are_refused(self, shape_x: tuple[int, ...], shape_y: tuple[int, ...]) -> None:
        with pytest.raises(InputError):
            linear_cka(torch.rand(shape_x), torch.rand(shape_y))


class TestMinibatchLinearCka:
    def test_terms_are_averaged_before_the_ratio(self) -> None:
        parts = [(features(n, 3, seed=n), features(n, 2, seed=20 + n)) for n in (5, 6, 7)]
        for x, y in parts:
            y[:, 0] += x[:, 0]
        cross, first, second = (
            sum(slow_unbiased_hsic(p[a], p[b]) for p in parts) for a, b in ((0, 1), (0, 0), (1, 1))
        )
        found = minibatch_linear_cka(iter(parts))
        assert found == pytest.approx(cross / math.sqrt(first * second), rel=1e-9)
        assert abs(found - sum(slow_cka(x, y, "unbiased") for x, y in parts) / 3) > 1e-3

    def test_many_small_batches_estimate_the_value_of_the_full_set(self) -> None:
        x = features(4000, 30, seed=11)
        y = x[:, :20] + features(4000, 20, seed=12)
        batches = zip(x.split(20), y.split(20), strict=True)
        assert minibatch_linear_cka(batches) == pytest.approx(linear_cka(x, y), abs=0.02)

    def test_nothing_and_small_batches_are_refused(self) -> None:
        with pytest.raises(InputError, match="at least one batch"):
            minibatch_linear_cka([])
        with pytest.raises(InputError, match="at least 4 samples"):
            minibatch_linear_cka([(torch.rand(3, 2), torch.rand(3, 2))])
