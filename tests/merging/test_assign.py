import itertools

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.cluster import AgglomerativeClustering, KMeans

from compressors.groups import find_groups
from merging.assign import exchange, greedy_clusters, inertia, kmeans_clusters, ward_clusters
from merging.similarity import channel_gram

METHODS = {
    "kmeans": lambda gram, k: kmeans_clusters(gram, k, seed=0),
    "ward": ward_clusters,
    "greedy": greedy_clusters,
}


def slow_inertia(points, labels):
    return sum(((points[labels == c] - points[labels == c].mean(0)) ** 2).sum() for c in np.unique(labels))


def partition(labels):
    return {frozenset(np.flatnonzero(labels == c).tolist()) for c in np.unique(labels)}


def check_labels(labels, n, k):
    assert labels.dtype == np.int64
    assert labels.shape == (n,)
    first = [int(np.flatnonzero(labels == c)[0]) for c in range(k)]  # fails where a cluster is unused
    assert labels.max() == k - 1
    assert first == sorted(first)


def blobs(n, features, centres, seed):
    rng = np.random.default_rng(seed)
    means = 3 * rng.normal(size=(centres, features))
    return rng.normal(size=(n, features)) + means[rng.integers(centres, size=n)]


POINTS = {
    "normal, wide": np.random.default_rng(0).normal(size=(96, 700)),
    "normal, narrow": np.random.default_rng(1).normal(size=(128, 20)),
    "heavy tails": np.random.default_rng(2).standard_t(2, size=(128, 30)),
    "blobs": blobs(100, 10, 8, seed=3),
    "far from the origin": 100 + np.random.default_rng(4).normal(size=(60, 12)),
}


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("name", POINTS)
def test_inertia_is_at_most_that_of_scikit_learn(name, fraction):
    points = POINTS[name]
    k = max(1, round(len(points) * fraction))
    reference = KMeans(k, n_init=10, random_state=0).fit(points).inertia_
    labels = kmeans_clusters(points @ points.T, k, seed=0)
    check_labels(labels, len(points), k)
    assert slow_inertia(points, labels) <= 1.0005 * reference


@pytest.mark.parametrize("amount", [0.25, 0.5, 0.75])
def test_inertia_on_a_network_s_groups_is_at_most_that_of_scikit_learn(amount):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    groups = find_groups(model, torch.rand(1, 3, 32, 32)).groups
    for group in [g for g in groups if g.size <= 128]:
        gram = channel_gram(model, group).numpy()
        k = round(group.size * (1 - amount))
        values, vectors = np.linalg.eigh(gram)
        coordinates = vectors * np.sqrt(np.maximum(values, 0))
        reference = KMeans(k, n_init=10, random_state=0).fit(coordinates).inertia_
        assert inertia(gram, kmeans_clusters(gram, k, seed=0)) <= reference


@given(
    points=hnp.arrays(
        np.float64, st.tuples(st.integers(2, 10), st.integers(1, 3)), elements=st.floats(-9, 9)
    ),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_no_move_of_one_point_lowers_the_inertia(points, data):
    n = len(points)
    k = data.draw(st.integers(1, n))
    start = np.array(data.draw(st.permutations(range(n)))) % k
    gram = points @ points.T
    labels = exchange(gram, start)
    assert set(labels.tolist()) == set(range(k))
    reached = slow_inertia(points, labels)
    assert reached <= slow_inertia(points, start) + 1e-9
    for point, target in itertools.product(range(n), range(k)):
        moved = labels.copy()
        moved[point] = target
        if len(np.unique(moved)) == k:
            assert slow_inertia(points, moved) >= reached - 1e-9 * (1 + np.trace(gram))


def test_exchange_in_blocks_ends_at_an_optimum(monkeypatch):
    points = POINTS["normal, narrow"]
    gram, start = points @ points.T, np.arange(128) % 30
    monkeypatch.setattr("merging.assign._BLOCK", 30 * 7)
    labels = exchange(gram, start)
    assert np.array_equal(exchange(gram, labels), labels)
    monkeypatch.undo()
    assert np.array_equal(exchange(gram, labels), labels)  # nor does a single block find a move
    assert inertia(gram, labels) < 0.9 * inertia(gram, start)


def test_exchange_by_hand():
    # 0, 1 and 9, 10 on a line; 1 has been put with 9 and 10. Its way home takes
    # 3/2 (1 - 20/3)^2 = 48.17 from that cluster and costs 1/2 (1 - 0)^2 = 0.5.
    points = np.array([[0.0], [1], [9], [10]])
    gram, start = points @ points.T, np.array([0, 1, 1, 1])
    assert inertia(gram, start) == pytest.approx(146 / 3)
    labels = exchange(gram, start)
    assert labels.tolist() == [0, 0, 1, 1]
    assert inertia(gram, labels) == pytest.approx(1.0)
    assert start.tolist() == [0, 1, 1, 1]


def all_partitions(n):
    """Every partition of n points, numbered by first appearance."""
    partial = [[0]]
    for _ in range(n - 1):
        partial = [[*labels, c] for labels in partial for c in range(max(labels) + 2)]
    return partial


@pytest.mark.parametrize("k", range(1, 9))
def test_kmeans_finds_the_optimum_of_small_problems(k):
    points = np.random.default_rng(5).normal(size=(8, 2))
    candidates = [np.array(labels) for labels in all_partitions(8) if max(labels) == k - 1]
    best = min(slow_inertia(points, labels) for labels in candidates)
    found = kmeans_clusters(points @ points.T, k, seed=0)
    assert slow_inertia(points, found) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 7, 30, 59, 60])
def test_ward_is_scikit_learn_s(k):
    points = np.random.default_rng(6).normal(size=(60, 5))
    expected = AgglomerativeClustering(k, linkage="ward").fit(points).labels_
    assert partition(ward_clusters(points @ points.T, k)) == partition(expected)


@pytest.mark.parametrize("k", [1, 2, 7, 15, 29, 30])
def test_greedy_pairs_merge_the_nearest_means(k):
    points = np.random.default_rng(7).normal(size=(30, 4))
    clusters = [[i] for i in range(30)]
    while len(clusters) > k:
        means = [points[c].mean(0) for c in clusters]
        pairs = itertools.combinations(range(len(clusters)), 2)
        i, j = min(pairs, key=lambda pair: ((means[pair[0]] - means[pair[1]]) ** 2).sum())
        clusters[i] += clusters.pop(j)
    assert partition(greedy_clusters(points @ points.T, k)) == set(map(frozenset, clusters))


def test_greedy_pairs_differ_from_ward_by_the_size_of_clusters():
    # Means 0 (of four points) and 2.9 are nearer than 7 and 10, but to merge them costs more:
    # 4/5 2.9^2 = 6.7 against 1/2 3^2 = 4.5.
    points = np.array([[0.0], [0], [0], [0], [2.9], [7], [10]])
    gram = points @ points.T
    assert greedy_clusters(gram, 3).tolist() == [0, 0, 0, 0, 0, 1, 2]
    assert ward_clusters(gram, 3).tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert kmeans_clusters(gram, 3, seed=0).tolist() == [0, 0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_are_found(method):
    rng = np.random.default_rng(8)
    originals = rng.normal(size=(20, 400)).astype(np.float32)
    which = np.concatenate([np.arange(20), rng.integers(20, size=30)])
    rng.shuffle(which)
    points = originals[which]
    gram = (points @ points.T).astype(np.float64)  # with float32's rounding, as for weights
    labels = METHODS[method](gram, 20)
    check_labels(labels, 50, 20)
    assert partition(labels) == partition(which)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "points",
    [
        np.zeros((9, 3)),
        np.ones((9, 3)),
        np.repeat(np.arange(3.0), 3)[:, None],
        np.arange(9.0)[:, None],  # all neighbours are equally far
        np.eye(9),  # all points are
        np.eye(9)[:1],
        1e-150 * np.eye(9),
        1e100 * np.eye(9),
    ],
    ids=["zero", "one", "triples", "line", "simplex", "single", "tiny", "huge"],
)
def test_any_k_works_on_ties_and_duplicates(method, points):
    for k in range(1, len(points) + 1):
        labels = METHODS[method](points @ points.T, k)
        check_labels(labels, len(points), k)


@pytest.mark.parametrize("method", METHODS)
def test_as_many_clusters_as_points_leave_all_alone(method):
    points = np.ones((5, 2))
    assert METHODS[method](points @ points.T, 5).tolist() == [0, 1, 2, 3, 4]


@given(
    points=hnp.arrays(
        np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.floats(-5, 5)
    ),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_kmeans_is_no_worse_than_ward_and_repeats(points, seed, data):
    gram = points @ points.T
    k = data.draw(st.integers(1, len(points)))
    before = gram.copy()
    labels = kmeans_clusters(gram, k, seed=seed)
    check_labels(labels, len(points), k)
    assert np.array_equal(gram, before)
    assert np.array_equal(labels, kmeans_clusters(gram, k, seed=seed))
    ward = slow_inertia(points, ward_clusters(gram, k))
    assert slow_inertia(points, labels) <= ward + 1e-9 * (1 + ward)
    assert inertia(gram, labels) == pytest.approx(
        slow_inertia(points, labels), abs=1e-9 * (1 + np.trace(gram))
    )


def test_the_seed_chooses_among_local_optima():
    points = POINTS["normal, wide"]
    results = {kmeans_clusters(points @ points.T, 48, seed=seed).tobytes() for seed in range(5)}
    assert len(results) > 1


@pytest.mark.parametrize("method", METHODS)
def test_rotations_shifts_and_scales_change_nothing(method):
    points = blobs(40, 6, 5, seed=9)
    rotation = np.linalg.qr(np.random.default_rng(10).normal(size=(6, 6)))[0]
    moved = 7 * (points @ rotation) + 3
    for k in (5, 20):
        assert np.array_equal(METHODS[method](points @ points.T, k), METHODS[method](moved @ moved.T, k))


def test_large_groups_take_ward_s_start_alone():
    points = np.random.default_rng(11).normal(size=(300, 8))
    gram = points @ points.T
    labels = kmeans_clusters(gram, 150, seed=0)
    assert np.array_equal(labels, kmeans_clusters(gram, 150, seed=1))
    assert inertia(gram, labels) < inertia(gram, ward_clusters(gram, 150))
    assert not np.array_equal(kmeans_clusters(gram, 20, seed=0), kmeans_clusters(gram, 20, seed=1))
