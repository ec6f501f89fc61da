"""Distances between channels make clusters."""

import warnings

import numpy as np
from numpy.typing import NDArray

_STARTS = 10


def kmeans_clusters(gram: NDArray[np.float64], k: int, *, seed: int) -> NDArray[np.int64]:
    """Clusters points that are known by their inner products.

    Scikit-learn's k-means (10 starts) on coordinates with the same distances: the eigenvectors of
    the Gram matrix times the roots of its eigenvalues. n coordinates stand for any number of features.

    Args:
        gram: inner products, shape (n, n), symmetric and positive semi-definite.
        k: number of clusters, 1 <= k <= n.
        seed: of the starts.

    Returns:
        Cluster of each point, shape (n,), in [0, k), each used, numbered by first appearance.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    values, vectors = np.linalg.eigh(gram)
    coordinates = vectors * np.sqrt(np.maximum(values, 0))
    with warnings.catch_warnings():
        # Fewer distinct points than clusters is no fault here: duplicates are filled in below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(k, n_init=_STARTS, random_state=seed).fit(coordinates).labels_
    return _number_by_appearance(_fill_empty(labels.astype(np.int64), k))


def _fill_empty(labels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Gives each unused cluster one point of the largest cluster."""
    labels = labels.copy()
    for unused in np.setdiff1d(np.arange(k), labels):
        largest = np.bincount(labels, minlength=k).argmax()
        labels[np.flatnonzero(labels == largest)[-1]] = unused
    return labels


def _number_by_appearance(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
