import itertools

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from analysis.similarity.rsa import rsa
from population.errors import InputError


def features(n: int, p: int, *, seed: int) -> Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_rsa(x: Tensor, y: Tensor) -> float:
    pairs = list(itertools.combinations(range(len(x)), 2))
    first, second = ([1 - pearsonr(z[i], z[j])[0] for i, j in pairs] for z in (x.numpy(), y.numpy()))
    return float(spearmanr(first, second)[0])


def test_equals_scipy_pair_by_pair() -> None:
    x = features(14, 5, seed=0)
    y = torch.cat([x[:, :3], features(14, 4, seed=1)], dim=1)
    expected = slow_rsa(x, y)
    assert 0.1 < expected < 0.9
    assert rsa(x, y) == pytest.approx(expected, abs=1e-6)
    assert rsa(x.float(), y.float()) == pytest.approx(expected, abs=1e-4)


def test_ties_share_their_rank() -> None:
    # Correlations are 1 and -1 alone; those of x tie in two classes, those of y in others.
    x = torch.tensor([[0.0, 1], [0, 2], [1, 0], [2, 0]])
    y = torch.tensor([[0.0, 1], [1, 0], [3, 0], [2, 0]])
    # Pairs 01 02 03 12 13 23 are unlike in x 0 1 1 1 1 0, in y 1 1 1 0 0 0. The covariance of the two
    # is 2/6 - 4/6 * 3/6 = 0.
    assert rsa(x, y) == pytest.approx(0, abs=1e-7)
    assert rsa(x, x[:, [1, 0]]) == pytest.approx(1, rel=1e-6)


def test_invariances() -> None:
    x, y = features(30, 8, seed=2), features(30, 6, seed=3)
    y[:, :4] += x[:, :4]
    value = rsa(x, y)
    scale, shift = (
        torch.rand(30, 1, generator=torch.Generator().manual_seed(4)) + 0.5,
        features(30, 1, seed=5),
    )
    assert rsa((scale * x + shift)[:, torch.randperm(8)], y) == pytest.approx(value, abs=1e-6)
    order = torch.arange(29, -1, -1)
    assert rsa(x[order], y[order]) == pytest.approx(value, abs=1e-6)
    assert abs(rsa(x * torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 1]), y) - value) > 0.02


def test_unrelated_features_give_about_zero() -> None:
    values = [rsa(features(25, 9, seed=s), features(25, 9, seed=50 + s)) for s in range(20)]
    assert abs(np.mean(values)) < 0.05


def test_what_is_undefined_is_refused() -> None:
    flat = features(6, 3, seed=6)
    flat[2] = 0.1
    with pytest.raises(InputError, match="all features of an image are equal"):
        rsa(features(6, 3, seed=7), flat)
    with pytest.raises(InputError, match="equally alike"):
        rsa(torch.eye(4), features(4, 3, seed=8))
