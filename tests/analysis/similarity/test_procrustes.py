import math

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes
from torch import Tensor

from analysis.similarity.procrustes import procrustes_distance, procrustes_similarity
from population.errors import InputError


def features(n: int, p: int, *, seed: int) -> Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, p: int, q: int) -> tuple[Tensor, Tensor]:
    x = features(n, p, seed=n)
    y = features(n, q, seed=n + 1)
    y[:, : min(p, q)] += x[:, : min(p, q)]
    return x, y


def unit(x: Tensor) -> np.ndarray:
    centred = x.numpy() - x.numpy().mean(axis=0)
    return centred / np.linalg.norm(centred)


@pytest.mark.parametrize(("n", "p"), [(20, 4), (6, 40)])
def test_equals_scipy(n: int, p: int) -> None:
    x, y = related(n, p, p)
    # scipy also scales y to fit best, which leaves a disparity of 1 - similarity^2.
    _, _, disparity = procrustes(x.numpy(), y.numpy())
    assert procrustes_similarity(x, y) == pytest.approx(math.sqrt(1 - disparity), rel=1e-10)
    a, b = unit(x), unit(y)
    rotation, scale = orthogonal_procrustes(a, b)
    assert procrustes_similarity(x, y) == pytest.approx(scale, rel=1e-10)
    assert procrustes_distance(x, y) == pytest.approx(np.linalg.norm(a @ rotation - b), rel=1e-8)


@pytest.mark.parametrize(("n", "p", "q"), [(20, 3, 5), (6, 4, 40), (8, 30, 50)])
def test_other_widths_are_padded_with_zeros(n: int, p: int, q: int) -> None:
    x, y = related(n, p, q)
    padded = torch.cat([x, torch.zeros(n, q - p)], dim=1)
    _, scale = orthogonal_procrustes(unit(padded), unit(y))
    assert procrustes_similarity(x, y) == pytest.approx(scale, rel=1e-9)
    assert procrustes_similarity(y, x) == pytest.approx(scale, rel=1e-9)


@pytest.mark.parametrize(("n", "p"), [(20, 4), (6, 40)])
def test_rotation_scale_and_shift_change_nothing_other_maps_do(n: int, p: int) -> None:
    x, y = related(n, p, 3)
    rotation, _ = torch.linalg.qr(features(p, p, seed=5))
    moved = 3 * x @ rotation + features(1, p, seed=6)
    assert procrustes_similarity(moved, y) == pytest.approx(procrustes_similarity(x, y), rel=1e-9)
    assert procrustes_similarity(x, moved) == pytest.approx(1, abs=1e-7)
    stretched = x.clone()
    stretched[:, 0] *= 20
    assert procrustes_similarity(stretched, x) < 0.9


def test_distance_keeps_the_triangle_inequality() -> None:
    parts = [features(12, 3, seed=s) for s in range(6)]
    for a in parts:
        for b in parts:
            for c in parts:
                through = procrustes_distance(a, b) + procrustes_distance(b, c)
                assert procrustes_distance(a, c) <= through + 1e-6


def test_features_that_do_not_vary_and_unfit_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="do not vary"):
        procrustes_similarity(torch.rand(5, 2), torch.full((5, 2), 0.1))
    with pytest.raises(InputError, match="shapes"):
        procrustes_distance(torch.rand(5, 2), torch.rand(6, 2))
