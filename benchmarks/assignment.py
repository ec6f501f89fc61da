"""Clustering of channels: ours against scikit-learn's k-means, time and inertia from one run.

``python -m benchmarks.assignment``; needs ``PIE_TEST_DATA``, as benchmarks/trained.py says.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import nn

from benchmarks.trained import cifar10_resnet18
from compressors.contract import ChannelGroup, channels_kept
from compressors.groups import find_groups
from merging.assign import inertia, kmeans_clusters
from merging.similarity import channel_gram

AMOUNT = 0.5
REPEATS = 3
HEAD = ("group", "n", "features", "k", "ours s", "sklearn s", "faster", "inertia ratio")
LINE = "{:18} {:>5} {:>9} {:>5} {:>8} {:>10} {:>7} {:>14}"

T = TypeVar("T")


def main() -> None:
    """Prints one line per group, the sum, and a group of a VGG's size."""
    model = cifar10_resnet18()
    example = torch.rand(1, 3, 32, 32)
    print(f"Trained ResNet-18, amount {AMOUNT}, {torch.get_num_threads()} threads")
    print(LINE.format(*HEAD))
    ours, theirs = 0.0, 0.0
    for group in find_groups(model, example).groups:
        points = _joint_matrix(model, group)
        k = channels_kept(group.size, AMOUNT)
        mine = _compare(group.name, points, k, 10, partial(_weight_gram, model, group))
        ours, theirs = ours + mine[0], theirs + mine[1]
    print(LINE.format("together", "", "", "", f"{ours:.3f}", f"{theirs:.2f}", f"{theirs / ours:.0f}x", ""))
    print("\nAs many channels as a VGG's classifier; scikit-learn with one start in place of ten:")
    rng = np.random.default_rng(0)
    # Noise around 1365 centres, so that there is something to find.
    points = (
        rng.normal(size=(1365, 1024))[rng.integers(1365, size=4096)] + rng.normal(size=(4096, 1024))
    ).astype(np.float32)
    _compare("4096 channels", points, 2048, 1, lambda: (points @ points.T).astype(np.float64))


def _weight_gram(model: nn.Module, group: ChannelGroup) -> NDArray[np.float64]:
    gram: NDArray[np.float64] = channel_gram(model, group).numpy()
    return gram


def _joint_matrix(model: nn.Module, group: ChannelGroup) -> NDArray[np.float32]:
    """What ``channel_gram`` has the inner products of; each slice here has each channel once, in order."""
    state = model.state_dict()
    pieces = [p for p in group.slices if not p.tensor.endswith(("running_mean", "running_var"))]
    rows = [state[p.tensor].moveaxis(p.axis, 0).reshape(group.size, -1) for p in pieces]
    return torch.cat(rows, 1).numpy()


def _compare(
    name: str, points: NDArray[np.float32], k: int, starts: int, gram: Callable[[], NDArray[np.float64]]
) -> tuple[float, float]:
    labels, ours = _timed(lambda: kmeans_clusters(gram(), k, seed=0))
    begin = time.perf_counter()
    reference = KMeans(k, n_init=starts, random_state=0).fit(points)
    theirs = time.perf_counter() - begin
    exact = points.astype(np.float64) @ points.T.astype(np.float64)
    ratio = inertia(exact, labels) / inertia(exact, reference.labels_.astype(np.int64))
    row = (name, *points.shape, k, f"{ours:.3f}", f"{theirs:.2f}", f"{theirs / ours:.0f}x", f"{ratio:.4f}")
    print(LINE.format(*row), flush=True)
    return ours, theirs


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result, and the least time of three calls."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begin)
    return result, min(seconds)


if __name__ == "__main__":
    main()
