import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from analysis.knn import knn_predict
from population.errors import InputError


def blobs(n: int, p: int, *, seed: int) -> tuple[Tensor, np.ndarray]:
    """Four classes whose means are as far apart as samples of one class, so that neighbours disagree."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    means = np.random.default_rng(99).normal(size=(4, p))
    return torch.from_numpy(rng.normal(size=(n, p)) + means[labels]), labels


def one_by_one(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, *, k: int, temperature: float
) -> list[int]:
    predicted = []
    for query in queries:
        cosine = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
        votes = np.zeros(labels.max() + 1)
        for index in np.argsort(-cosine)[:k]:
            votes[labels[index]] += np.exp(cosine[index] / temperature)
        predicted.append(int(votes.argmax()))
    return predicted


@pytest.mark.parametrize("batch_size", [7, 1000])
@pytest.mark.parametrize("k", [1, 2, 30, 150])
def test_a_majority_vote_is_that_of_scikit_learn(k: int, batch_size: int) -> None:
    (train, labels), (queries, truth) = blobs(150, 6, seed=0), blobs(90, 6, seed=1)
    found = knn_predict(train, labels, queries, k=k, num_classes=4, batch_size=batch_size)
    expected = KNeighborsClassifier(k, algorithm="brute").fit(train.numpy(), labels).predict(queries.numpy())
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64
    assert k == 150 or 0.5 < (found == truth).mean() < 0.95


@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.5])
def test_a_weighted_vote_is_that_of_a_plain_loop(temperature: float) -> None:
    (train, labels), (queries, _) = blobs(150, 6, seed=2), blobs(90, 6, seed=3)
    train += 1.5  # cosines feel where the origin is
    queries += 1.5
    found = knn_predict(train, labels, queries, k=40, num_classes=4, temperature=temperature, batch_size=25)
    expected = one_by_one(train.numpy(), labels, queries.numpy(), k=40, temperature=temperature)
    assert found.tolist() == expected
    plain = knn_predict(train, labels, queries, k=40, num_classes=4, batch_size=25)
    assert (found != plain).any()


def test_votes_by_hand() -> None:
    degrees = torch.tensor([0.0, 40, 50, 90, 100])
    train = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)
    labels = np.array([2, 0, 0, 2, 1])

    def predict(degree: float, k: int, temperature: float | None = None) -> int:
        angle = torch.tensor(degree).deg2rad()
        query = torch.stack([angle.cos(), angle.sin()])[None]
        return int(
            knn_predict(
                train, labels, query, k=k, num_classes=3, temperature=temperature, batch_size=1
            ).item()
        )

    assert predict(5, 1) == 2
    assert predict(5, 3) == 0  # 2 has one vote, 0 has two
    assert predict(5, 3, 0.05) == 2  # cosines .996, .819, .707: exp(19.9) against exp(16.4) + exp(14.1)
    assert predict(5, 3, 10.0) == 0
    assert predict(94, 2) == 1  # 2 is nearer, but each has one vote and 1 is the smaller index
    assert predict(94, 2, 0.001) == 2
    assert predict(94, 5) == 0  # two votes each for 0 and 2


def test_a_tiny_temperature_is_the_nearest_neighbour() -> None:
    (train, labels), (queries, _) = blobs(150, 6, seed=4), blobs(50, 6, seed=5)
    found = knn_predict(
        train.float(), labels, queries.float(), k=20, num_classes=4, temperature=1e-5, batch_size=50
    )
    assert found.tolist() == one_by_one(train.numpy(), labels, queries.numpy(), k=1, temperature=1.0)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
@settings(max_examples=30, deadline=None)
def test_distances_ignore_rotation_shift_and_scale_and_cosines_rotation_and_lengths(
    seed: int, scale: float, shift: float
) -> None:
    (train, labels), (queries, _) = blobs(60, 5, seed=seed), blobs(40, 5, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))

    def predict(a: Tensor, b: Tensor, temperature: float | None) -> list[int]:
        return knn_predict(a, labels, b, k=10, num_classes=4, temperature=temperature, batch_size=64).tolist()

    moved = (scale * part @ rotation + shift for part in (train, queries))
    assert predict(*moved, None) == predict(train, queries, None)
    stretched = (
        (torch.rand(len(part), 1, generator=generator) + scale) * (part @ rotation)
        for part in (train, queries)
    )
    assert predict(*stretched, 0.1) == predict(train, queries, 0.1)


def test_features_far_from_the_origin_keep_their_neighbours_in_float32() -> None:
    (train, labels), (queries, _) = blobs(400, 20, seed=6), blobs(200, 20, seed=7)
    train, queries = (train + 2000).float(), (queries + 2000).float()
    found = knn_predict(train, labels, queries, k=5, num_classes=4, batch_size=64)
    expected = knn_predict(train.double(), labels, queries.double(), k=5, num_classes=4, batch_size=64)
    np.testing.assert_array_equal(found, expected)


def test_half_precision_is_taken_as_float32_and_nothing_given_is_changed() -> None:
    (train, labels), (queries, _) = blobs(100, 6, seed=8), blobs(50, 6, seed=9)
    half = train.half(), queries.half()
    before = [part.clone() for part in half]
    found = knn_predict(half[0], labels, half[1], k=5, num_classes=4, batch_size=64)
    expected = knn_predict(half[0].float(), labels, half[1].float(), k=5, num_classes=4, batch_size=64)
    np.testing.assert_array_equal(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(half, before, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(2, 4)}, r"shapes \(n, p\) and \(m, p\), not \(5, 3\) and \(2, 4\)"),
        ({"features": torch.zeros(3)}, r"not \(5, 3\) and \(3,\)"),
        ({"train_labels": np.zeros(4, dtype=np.int64)}, r"shape \(5,\), one per training sample, not \(4,\)"),
        ({"train_labels": np.array([0, 1, 2, 0, 1])}, "from 0 to 1"),
        ({"train_labels": np.array([0, 1, -1, 0, 1])}, "from 0 to 1"),
        ({"k": 6}, "from 1 to 5 for 5 training samples, not 6"),
        ({"k": 0}, "from 1 to 5 for 5 training samples, not 0"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive, not nan"),
        ({"batch_size": 0}, "batch size must be at least 1, not 0"),
        ({"features": torch.full((2, 3), torch.nan)}, "must be finite"),
        ({"train_features": torch.full((5, 3), torch.inf)}, "must be finite"),
        ({"features": torch.zeros(2, 3), "temperature": 0.1}, "all features of an image are 0"),
    ],
)
def test_input_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    given = {
        "train_features": torch.ones(5, 3), "train_labels": np.array([0, 1, 0, 0, 1]),
        "features": torch.ones(2, 3), "k": 2, "num_classes": 2, "batch_size": 4,
    }  # fmt: skip
    assert knn_predict(**given).tolist() == [0, 0]  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        knn_predict(**given | change)  # type: ignore[arg-type]
