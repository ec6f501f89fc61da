"""Speed of kNN probes, and what averages do to prediction depth: ``python -m benchmarks.depth``.

The part ``pooled`` needs ``PIE_TEST_DATA`` and ``CIFAR10``, as benchmarks/trained.py says; whole feature maps
are held in float16.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from lightly.utils.benchmarking.knn import knn_predict as lightly_predict
from scipy.stats import spearmanr
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from analysis.depth import settled_depth
from analysis.knn import knn_predict
from analysis.similarity.activations import layer_outputs, position_means
from benchmarks.trained import cifar10_resnet18
from pie_report.pipeline import open_population
from population.spec import PopulationSpec
from population.store import Store
from ssl_models import load_data
from ssl_models.predict import batches

BATCH = 256
CLASSES = 10
WIDTHS = 4 * (64,) + 4 * (128,) + 4 * (256,) + 4 * (512,)
BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))
LAYERS = ("bn1", *BLOCKS, "avgpool")
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "means": position_means,
    "4 x 4 grid": lambda out: F.adaptive_avg_pool2d(out, min(4, out.shape[-1])).flatten(1),
    "whole": lambda out: out.flatten(1).half(),
}


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        parts: any of speed, pooled.
        samples: samples to predict, and as many training samples, for the speed.
        turns: how often each speed is taken.
        seeds: networks of each kind that are trained on the digits.
    """

    parts: tuple[str, ...] = ("speed", "pooled")
    samples: int = 10_000
    turns: int = 5
    seeds: int = 3


@dataclass(frozen=True, eq=False)
class Task:
    """A trained network, in eval mode, and what its probes are made of.

    Attributes:
        model: from images to logits.
        prefix: of the names of its encoder's layers.
        train: images that neighbours are chosen from.
        train_labels: their classes.
        images: test images.
        labels: their classes.
    """

    model: nn.Module
    prefix: str
    train: Tensor
    train_labels: np.ndarray
    images: Tensor
    labels: np.ndarray


def speed(settings: Settings) -> None:
    """Seconds for the probes of 16 layers, against scikit-learn and lightly on the same random features.

    Both sides take turns, and the best of their turns counts. Both have all features in memory.
    """
    rng = np.random.default_rng(0)
    n = settings.samples
    labels = rng.integers(CLASSES, size=2 * n)
    known = labels[:n]
    print(f"{n} samples, {n} training samples, {torch.get_num_threads()} threads")
    print(
        "\n| channels | layers | scikit-learn, s | here, s | ratio | equal predictions |",
        "|---|---|---|---|---|---|",
        sep="\n",
    )
    rows = []
    for width in WIDTHS:
        train, queries = torch.from_numpy(_features(labels, width, rng)).split(n)
        rows.append(
            _in_turn(
                lambda train=train, queries=queries: (
                    KNeighborsClassifier(30).fit(train.numpy(), known).predict(queries.numpy())
                ),
                lambda train=train, queries=queries: knn_predict(
                    train, known, queries, k=30, num_classes=CLASSES, batch_size=BATCH
                ),
                settings.turns,
            )
        )
    for width in (*dict.fromkeys(WIDTHS), "all"):
        part = [row for row, other in zip(rows, WIDTHS, strict=True) if width in (other, "all")]
        theirs, ours, equal = np.array(part).T
        print(
            f"| {width} | {len(part)} | {theirs.sum():.1f} | {ours.sum():.1f}"
            f" | {theirs.sum() / ours.sum():.2f} | {equal.mean():.3%} |"
        )
    unit, targets = F.normalize(queries), torch.from_numpy(known)
    bank = F.normalize(train).T.contiguous()
    theirs, ours, equal = _in_turn(
        lambda: torch.cat(
            [lightly_predict(part, bank, targets, CLASSES, 200, 0.07)[:, 0] for part in unit.split(BATCH)]
        ).numpy(),
        lambda: knn_predict(
            train, known, queries, k=200, num_classes=CLASSES, temperature=0.07, batch_size=BATCH
        ),
        settings.turns,
    )
    print(
        f"\ncosines, k = 200, {WIDTHS[-1]} channels:"
        f" lightly {theirs:.1f} s, here {ours:.1f} s, {equal:.3%} equal"
    )


def _in_turn(
    theirs: Callable[[], np.ndarray], ours: Callable[[], np.ndarray], turns: int
) -> tuple[float, float, float]:
    """Least seconds of each, and the share of equal predictions."""
    seconds: list[list[float]] = [[], []]
    for _ in range(turns):
        found = []
        for times, call in zip(seconds, (theirs, ours), strict=True):
            begin = time.perf_counter()
            found.append(call())
            times.append(time.perf_counter() - begin)
    return min(seconds[0]), min(seconds[1]), float((found[0] == found[1]).mean())


def _features(labels: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """Like outputs of a ReLU: class means and 20 shared directions, under noise, cut at 0."""
    means = rng.normal(size=(CLASSES, width))[labels]
    shared = rng.normal(size=(len(labels), 20)) @ rng.normal(size=(20, width)) / 3
    noise = rng.normal(size=(len(labels), width))
    return np.maximum(means + shared + noise, 0).astype(np.float32)


def pooled(settings: Settings) -> None:
    """Prediction depth from averaged outputs, a 4 x 4 grid of averages, and whole feature maps."""
    columns = (
        "network", "outputs", "probe accuracy, first to last layer", "mean depth", "of errors",
        "rank correlation with whole", "equal to whole", "rank correlation with margin",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, task in _tasks(settings):
        with torch.no_grad():
            logits = torch.cat([task.model(batch) for batch in task.images.split(BATCH)])
        final = logits.argmax(dim=1).numpy()
        top = logits.softmax(dim=1).topk(2, dim=1).values
        margin = (top[:, 0] - top[:, 1]).numpy()
        probes = {kind: _probes(task, reduce) for kind, reduce in REDUCTIONS.items()}
        depths = {kind: settled_depth(part, final) for kind, part in probes.items()}
        for kind, depth in depths.items():
            cells = [
                " ".join(f"{value:.2f}" for value in (probes[kind] == task.labels).mean(axis=1)),
                f"{depth.mean():.2f}",
                f"{depth[final != task.labels].mean():.2f}",
                f"{spearmanr(depth, depths['whole']).statistic:.2f}",
                f"{(depth == depths['whole']).mean():.0%}",
                f"{spearmanr(depth, margin).statistic:.2f}",
            ]
            print(f"| {name} | {kind} | {' | '.join(cells)} |", flush=True)


def _probes(task: Task, reduce: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Predictions of the probes, shape (L, N)."""
    layers = [task.prefix + layer for layer in LAYERS]
    with torch.no_grad():
        banks, found = (
            [layer_outputs(task.model, batch, layers, reduce) for batch in images.split(BATCH)]
            for images in (task.train, task.images)
        )
    rows = []
    for layer in layers:
        bank, queries = (torch.cat([part.pop(layer) for part in parts]) for parts in (banks, found))
        rows.append(
            knn_predict(bank, task.train_labels, queries, k=30, num_classes=CLASSES, batch_size=BATCH)
        )
    return np.stack(rows)


def _tasks(settings: Settings) -> Iterator[tuple[str, Task]]:
    for name in ("supervised_r18", "simclr_r18"):
        for seed in range(settings.seeds):
            spec = PopulationSpec(model=name, members=2, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                digits = open_population(spec, data_dir=None, download=False, store=Store(Path(folder)))
                with digits.fixed_threads():
                    model = digits.dense(0).eval()
            train, test = (torch.cat(list(batches(p))) for p in (digits.train_images, digits.test_images))
            known, truth = digits.data.train.samples.label, digits.data.test.samples.label
            yield f"digits, {name}, seed {seed}", Task(model, "encoder.", train, known, test, truth)
    data = load_data("cifar10", data_dir=Path(os.environ["CIFAR10"]), download=False)
    mean, std = (
        torch.tensor(v).reshape(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    )
    pixels = (data.train.images[:4000], data.test.images[:1000])
    train, test = ((torch.from_numpy(part).float() / 255 - mean) / std for part in pixels)
    known, truth = data.train.samples.label[:4000], data.test.samples.label[:1000]
    yield "CIFAR-10, resnet18", Task(cifar10_resnet18(), "", train, known, test, truth)


def main(settings: Settings) -> None:
    """Prints the tables that were asked for."""
    tables = {"speed": speed, "pooled": pooled}
    for part in settings.parts:
        print(f"\n{tables[part].__doc__}")
        tables[part](settings)


if __name__ == "__main__":
    main(tyro.cli(Settings))
