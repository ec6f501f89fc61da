import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pie_report import knn_probe
from pie_report.knn_probe import knn_answers, neighbours
from population.samples import SampleSet


class Corners(nn.Module):
    """Features are the two pixels of an image, so that angles are set by hand."""

    head = nn.Linear(2, 3)

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def pixels(*pairs: tuple[int, int]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.uint8).reshape(-1, 1, 1, 2)


def answers(train: Tensor, labels: list[int], asked: Tensor) -> tuple[list[int], int]:
    ids = np.array([f"s{i}" for i in range(len(asked))])
    samples = SampleSet(ids, np.zeros(len(asked), dtype=np.int64), ("a", "b", "c"))
    found = knn_answers(Corners(), train, np.array(labels), asked, samples)
    assert found.predictions.margin is found.predictions.probabilities is None
    return found.predictions.predicted[0].tolist(), found.without_features


def test_the_nearest_by_angle_vote_whatever_their_length() -> None:
    # Classes 0 along x, 1 along y, 2 on the diagonal; two images each, so two neighbours vote.
    train = pixels((200, 0), (10, 0), (0, 200), (0, 9), (50, 50), (200, 200))
    asked = pixels((255, 9), (3, 100), (70, 75), (1, 0))
    assert answers(train, [0, 0, 1, 1, 2, 2], asked) == ([0, 1, 2, 0], 0)


def test_near_votes_weigh_more(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three neighbours: one of class 0 at the same angle (s = 1), two of class 1 at s = cos 45 = .7071.
    # exp(1 / T) against 2 exp(.7071 / T): 0 wins where T < .2929 / ln 2 = .4226.
    train = pixels((100, 0), (100, 100), (50, 50), (0, 100), (0, 50), (0, 20), (0, 5), (0, 9), (0, 200))
    labels = [0, 1, 1, 2, 2, 2, 2, 2, 2]
    assert neighbours(np.array(labels)) == 3
    for temperature, expected in ((0.07, 0), (0.42, 0), (0.43, 1)):
        monkeypatch.setattr(knn_probe, "TEMPERATURE", temperature)
        assert answers(train, labels, pixels((9, 0))) == ([expected], 0)


def test_images_without_features_are_counted_and_get_the_commonest_class() -> None:
    # A training image of zeros is nobody's neighbour: by distance on the sphere it would be the nearest.
    train = pixels((0, 0), (0, 0), (0, 0), (0, 100), (100, 0), (0, 50))
    labels = [0, 0, 0, 1, 2, 1]
    assert answers(train, labels, pixels((0, 0), (0, 9), (9, 0))) == ([0, 1, 2], 1)
    assert answers(train[:3], [2, 1, 2], pixels((0, 0), (0, 9))) == ([2, 2], 1)


@pytest.mark.parametrize(
    ("images", "classes", "expected"),
    [(901, 10, 90), (50_000, 10, 200), (50_000, 100, 200), (24, 2, 12), (3, 3, 1)],
)
def test_no_more_neighbours_than_a_class_has_images(images: int, classes: int, expected: int) -> None:
    assert neighbours(np.arange(images) % classes) == expected
