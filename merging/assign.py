"""Distances between channels make clusters. Points are known by their inner products alone."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_Labels = NDArray[np.int64]

# Restarts of k-means change each distance that Ward's method sees by up to this fraction of it. Small
# changes find better clusters of few members, large ones better clusters of many. Such starts end lower
# than as many k-means++ ones, in less time, since few exchanges are left to do.
_RESTARTS = (0.02, 0.1, 0.5, 0.02, 0.1, 0.5)

# Points times clusters up to which restarts are made. Time grows with this product, and beyond it
# restarts lowered the inertia of weights by less than a thousandth.
_MOST_RESTARTED = 2**15

# Costs that the exchange evaluates at once: 2 MiB of float64, which stays in the cache.
_BLOCK = 2**18


def kmeans_clusters(gram: _Floats, k: int, *, seed: int) -> _Labels:
    """Clusters points by k-means: least sum of squared distances to the clusters' means (inertia).

    Each start is improved by Hartigan's exchange (Hartigan 1975; Telgarsky & Vattani 2010): single
    points move while the exact inertia falls. So no move of one point improves the result. Deviation:
    the starts are not random centres but Ward's clusters and, up to n k = 32,768, those that Ward's
    method finds for randomly changed distances; the best result is taken.

    Args:
        gram: inner products, shape (n, n), symmetric and positive semi-definite up to rounding.
        k: number of clusters, 1 <= k <= n.
        seed: of the random starts.

    Returns:
        Cluster of each point, shape (n,), in [0, k), each used, numbered by first appearance.
    """
    n = len(gram)
    if k == n:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    distances = _distances(gram)
    starts = [_merge_nearest(distances, k, "ward")]
    for change in _RESTARTS if n * k <= _MOST_RESTARTED else ():
        factors = 1 + change * rng.uniform(-1, 1, len(distances))
        starts.append(_merge_nearest(distances * factors, k, "ward"))
    results = [exchange(gram, start) for start in starts]
    return _number_by_appearance(min(results, key=lambda labels: inertia(gram, labels)))


def ward_clusters(gram: _Floats, k: int) -> _Labels:
    """Clusters points by Ward's method: the two clusters that raise the inertia least become one.

    Ward 1963, by scipy's nearest-neighbour chain. Arguments and result as for ``kmeans_clusters``.
    """
    return np.arange(k) if k == len(gram) else _merge_nearest(_distances(gram), k, "ward")


def greedy_clusters(gram: _Floats, k: int) -> _Labels:
    """Clusters points by greedy pairs: the two clusters whose means are nearest become one.

    Iterative feature merging (Chen, Zhou & Yan 2023, arXiv 2310.06756). A merged channel is the mean of
    all channels in it, which makes this centroid linkage. Deviation: distances are those of the matrix
    at hand, and merging ends at a number of clusters. Arguments and result as for ``kmeans_clusters``.
    """
    return np.arange(k) if k == len(gram) else _merge_nearest(_distances(gram), k, "centroid")


def inertia(gram: _Floats, labels: _Labels) -> float:
    """Sum of squared distances of points to the means of their clusters.

    Args:
        gram: inner products, shape (n, n).
        labels: cluster of each point, shape (n,), in [0, k), each used.
    """
    own = _sums_by_cluster(gram, labels)[labels, np.arange(len(labels))]
    return float(np.trace(gram) - (own / np.bincount(labels)[labels]).sum())


def ward_inertias(gram: _Floats) -> _Floats:
    """Inertia of Ward's 1, 2, ..., n clusters of n points with these inner products, shape (n,)."""
    from scipy.cluster.hierarchy import linkage

    if len(gram) == 1:
        return np.zeros(1)
    # The square of a merge's height is twice what it adds to the inertia.
    rises = linkage(_distances(gram), "ward")[:, 2] ** 2 / 2
    inertias: _Floats = np.append(np.cumsum(rises)[::-1], 0.0)
    return inertias


def exchange(gram: _Floats, labels: _Labels) -> _Labels:
    """Moves single points between clusters until no move lowers the inertia.

    Points go where the inertia falls most. A cluster never loses its last point.

    Args:
        gram: inner products, shape (n, n).
        labels: cluster of each point, shape (n,), in [0, k), each used.

    Returns:
        Cluster of each point, shape (n,), in [0, k), each used.
    """
    partition = _Partition(gram, labels)
    tolerance = 1e-12 * float(np.diag(gram).max())  # far above the rounding of sums, so the loop ends
    step = max(1, _BLOCK // len(partition.sizes))
    moved = True
    while moved:
        moved = False
        for first in range(0, len(labels), step):
            points = np.arange(first, min(first + step, len(labels)))
            gains = partition.gains(points)
            promising = points[gains > tolerance]
            for point in promising[np.argsort(-gains[gains > tolerance], kind="stable")]:
                # Asked again, since the moves before this one may have changed what is best.
                target, gain = partition.best_move(point)
                if gain > tolerance:
                    partition.move(point, target)
                    moved = True
    return partition.labels


class _Partition:
    """Clusters, with the sums that say what a move changes.

    Moving a point from a cluster of m points to one of n changes the inertia by n / (n + 1) of its
    squared distance to the new mean, less m / (m - 1) of that to the old one (Hartigan 1975).

    Attributes:
        labels: cluster of each point, shape (n,).
        sizes: points in each cluster, shape (k,).
    """

    def __init__(self, gram: _Floats, labels: _Labels) -> None:
        self.labels = labels.copy()
        self.sizes = np.bincount(labels).astype(np.float64)
        self._gram = gram
        self._norms = np.diag(gram)
        # Sums of inner products: of each point with a cluster's members, (k, n), and among members, (k,).
        self._sums = _sums_by_cluster(gram, labels)
        self._within = np.bincount(labels, self._sums[labels, np.arange(len(labels))])
        # Joining cluster c raises the inertia by weight[c] |x|^2 + slope[c] sums[c, x] + offset[c].
        self._weight, self._slope, self._offset = np.empty((3, len(self.sizes)))
        self._refresh(np.arange(len(self.sizes)))

    def gains(self, points: _Labels) -> _Floats:
        """How much the inertia falls by each point's best move; the points follow each other."""
        home = self.labels[points]
        cost = self._sums[:, points[0] : points[-1] + 1] * self._slope[:, None]
        cost += self._weight[:, None] * self._norms[points]
        cost += self._offset[:, None]
        cost[home, points - points[0]] = np.inf
        gains: _Floats = self._relief(points) - cost.min(axis=0)
        return gains

    def best_move(self, point: np.int64) -> tuple[np.int64, np.float64]:
        """The cluster where a point should go, and how much the inertia falls."""
        cost = self._sums[:, point] * self._slope + self._weight * self._norms[point] + self._offset
        cost[self.labels[point]] = np.inf
        target = cost.argmin()
        return target, self._relief(point) - cost[target]

    def move(self, point: np.int64, target: np.int64) -> None:
        """Puts a point in another cluster."""
        home = self.labels[point]
        for cluster, sign in ((home, -1), (target, 1)):
            self._within[cluster] += self._norms[point] + sign * 2 * self._sums[cluster, point]
            self._sums[cluster] += sign * self._gram[point]
            self.sizes[cluster] += sign
        self.labels[point] = target
        self._refresh(np.array([home, target]))

    def _relief(self, points: _Labels | np.int64) -> _Floats:
        """How much the inertia falls when a point is taken out; the last one has to stay."""
        home = self.labels[points]
        size = self.sizes[home]
        mean_product = self._sums[home, points] / size
        distance = self._norms[points] - 2 * mean_product + self._within[home] / size**2
        return np.where(size > 1, size / np.maximum(size - 1, 1) * distance, -np.inf)

    def _refresh(self, clusters: _Labels) -> None:
        size = self.sizes[clusters]
        self._weight[clusters] = size / (size + 1)
        self._slope[clusters] = -2 / (size + 1)
        self._offset[clusters] = self._within[clusters] / (size * (size + 1))


def _distances(gram: _Floats) -> _Floats:
    """Distances of all pairs, in scipy's condensed order, shape (n (n - 1) / 2,)."""
    from scipy.spatial.distance import squareform

    norms = np.diag(gram)
    squared = gram * -2
    squared += norms
    squared += norms[:, None]
    distances: _Floats = squareform(squared, checks=False)
    return np.sqrt(np.maximum(distances, 0))


def _merge_nearest(distances: _Floats, k: int, measure: Literal["ward", "centroid"]) -> _Labels:
    from scipy.cluster.hierarchy import linkage

    tree = linkage(distances, measure)
    n = len(tree) + 1
    # Points are nodes 0 to n - 1, merge i makes node n + i, and the first n - k merges leave k nodes.
    # Scipy's own cuts go by height and miss k where heights are tied or fall, as centroids' may.
    root = np.arange(2 * n - k)
    root[tree[: n - k, :2].astype(np.int64)] = np.arange(n, 2 * n - k)[:, None]
    while (root != root[root]).any():
        root = root[root]
    return _number_by_appearance(root[:n])


def _sums_by_cluster(gram: _Floats, labels: _Labels) -> _Floats:
    """Sums of the Gram matrix's rows over each cluster, shape (k, n)."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    sums: _Floats = np.add.reduceat(gram[order], first, axis=0)
    return sums


def _number_by_appearance(labels: _Labels) -> _Labels:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
