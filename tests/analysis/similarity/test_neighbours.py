import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

import analysis.similarity.neighbours as neighbours
from analysis.similarity.neighbours import mutual_neighbours, nearest
from population.errors import InputError


def features(n: int, p: int, *, seed: int) -> Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(x: Tensor, k: int) -> np.ndarray:
    found: np.ndarray = (
        NearestNeighbors(n_neighbors=k, metric="cosine").fit(x.numpy()).kneighbors(return_distance=False)
    )
    return found


@pytest.mark.parametrize("block", [7, 1024])
def test_equals_scikit_learn(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    x, y = features(40, 5, seed=0), features(40, 9, seed=1)
    y[:, :5] += 2 * x
    assert nearest(x, k=4).tolist() == reference(x, 4).tolist()
    pairs = zip(reference(x, 4), reference(y, 4), strict=True)
    expected = np.mean([len(set(a) & set(b)) / 4 for a, b in pairs])
    assert 0.2 < expected < 0.8
    assert mutual_neighbours(x, y, k=4) == pytest.approx(expected, rel=1e-12)


def test_by_hand_on_a_circle() -> None:
    # Directions 0, 10, 30 and 70 degrees: nearest are 1, 0, 1, 2. With 30 turned to 60: 1, 0, 3, 2.
    first, second = (
        torch.stack([torch.cos(a), torch.sin(a)], dim=1)
        for a in (torch.deg2rad(torch.tensor(d)) for d in ([0.0, 10, 30, 70], [0.0, 10, 60, 70]))
    )
    assert nearest(first, k=1).flatten().tolist() == [1, 0, 1, 2]
    assert mutual_neighbours(first, second, k=1) == 0.75


def test_invariances_and_chance() -> None:
    x, y = features(300, 6, seed=2), features(300, 6, seed=3)
    rotation, _ = torch.linalg.qr(features(6, 6, seed=4))
    scale = torch.rand(300, 1, generator=torch.Generator().manual_seed(5)) + 0.5
    assert mutual_neighbours(x, scale * x @ rotation, k=10) == 1.0
    assert mutual_neighbours(x, y, k=30) == pytest.approx(30 / 299, abs=0.02)


def test_unlike_cka_it_hardly_sees_a_shifted_subset() -> None:
    x = features(300, 6, seed=6)
    moved = x.clone()
    moved[:15] += torch.tensor([60.0, 0, 0, 0, 0, 0])
    assert mutual_neighbours(x, moved, k=10) > 0.8


@pytest.mark.parametrize("k", [0, 9])
def test_a_number_that_does_not_fit_is_refused(k: int) -> None:
    with pytest.raises(InputError, match="from 1 to 8 for 10 images"):
        mutual_neighbours(torch.rand(10, 2), torch.rand(10, 2), k=k)


def test_an_image_without_features_is_refused() -> None:
    dead = features(6, 3, seed=7)
    dead[1] = 0
    with pytest.raises(InputError, match="all features of an image are 0"):
        mutual_neighbours(dead, dead, k=2)
