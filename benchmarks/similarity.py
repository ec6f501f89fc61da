"""CKA of all pairs of layers, in one pass, against a loop over pairs: ``python -m benchmarks.similarity``.

Needs ``PIE_TEST_DATA`` and ``CIFAR10``, as benchmarks/trained.py says. Times are CPU seconds of one process.
The loops get the same features, averaged over positions and stored, so that they differ in what comes
after the networks alone:

- Gram loop: each pair of layers makes its two full n x n Gram matrices and takes the unbiased CKA.
- covariance loop: each pair makes its three products of features and takes the biased CKA.

Both are timed on some pairs and multiplied up to all. Times grow as n^2 for the Gram loop, and as n
for the rest.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import tyro
from torch import Tensor
from torchvision.models import resnet18

from analysis.similarity.activations import comparable_layers, layer_outputs, pooled_features
from analysis.similarity.cka import linear_cka, minibatch_linear_cka
from analysis.similarity.layers import cka_maps, minibatch_cka_maps
from analysis.similarity.measures import MEASURES, measure_map
from benchmarks.trained import trained
from merging import merge_channels

T = TypeVar("T")
BATCH = 250
NAMESAKES = ("bn1", "layer1.1", "layer2.1", "layer3.1", "layer4.1", "avgpool")


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        images: number of test images.
        pairs: number of pairs of layers that the loops are timed on.
        target: number of images that times are extrapolated to.
    """

    images: int = 1000
    pairs: int = 60
    target: int = 10_000


def main(settings: Settings) -> None:
    """Prints times, peak memory, differences to the full set, and the values of some layers."""
    network = trained("resnet18", seed=0, images=settings.images)
    dense, images = network.model, network.images
    merged = merge_channels(
        dense, images[:1], amount=0.5, seed=0, repair="bn", calibration=network.calibration[:2]
    ).model
    torch.manual_seed(0)
    untrained = resnet18(num_classes=10)
    untrained.conv1, untrained.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    layers = comparable_layers(dense, images[:2])
    n, scale = len(images), settings.target / len(images)
    print(f"{n} images, {len(layers)} layers of ResNet-18, {torch.get_num_threads()} threads")

    subsets = {"all": np.arange(n)}
    timed("networks and data are ready", lambda: None)
    found, stream = timed(
        "one pass, dense against merged",
        lambda: cka_maps(dense, {"merged": merged}, images, layers, subsets=subsets, batch_size=BATCH),
    )
    (first, second), forward = timed(
        "of it the networks and the means",
        lambda: tuple(pooled_features(m, images, layers, batch_size=BATCH) for m in (dense, merged)),
    )
    rng = np.random.default_rng(0)
    pairs = [divmod(int(i), len(layers)) for i in rng.choice(len(layers) ** 2, settings.pairs, replace=False)]
    chosen = [(first[layers[a]], second[layers[b]]) for a, b in pairs]
    times = {}
    for name, cka in (("Gram", gram_cka), ("covariance", covariance_cka)):
        label = f"{name} loop, {len(pairs)} pairs"
        _, seconds = timed(label, lambda cka=cka: [cka(x, y) for x, y in chosen])
        times[name] = seconds * len(layers) ** 2 / len(pairs)
    exact = [linear_cka(x.double(), y.double()) for x, y in chosen]
    map_ = found["merged"]["all"].unbiased
    off = max(abs(map_[pair] - value) for pair, value in zip(pairs, exact, strict=True))
    print(f"largest difference to float64 on the full set, {len(pairs)} pairs: {off:.1e}")

    for count, linear, square in ((n, 1.0, 1.0), (settings.target, scale, scale**2)):
        ours, networks = stream * linear, forward * linear
        for name, factor in (("Gram", square), ("covariance", linear)):
            loop = times[name] * factor
            print(
                f"{count:6} images, {name + ' loop':16} {networks + loop:8.0f} s, ours {ours:6.0f} s:"
                f" {(networks + loop) / ours:6.1f}x; without the networks"
                f" {loop:8.0f} s, {max(ours - networks, 0):5.0f} s"
            )

    whole, _ = timed(
        "minibatches of whole maps, two networks",
        lambda: minibatch_cka_maps(
            dense, {"merged": merged, "untrained": untrained}, images, layers, batch_size=BATCH
        ),
    )
    for layer in ("layer2.1", "layer4.1"):
        x, y = (flattened(model, images, layer) for model in (dense, merged))
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        full, batches = linear_cka(x, y), minibatch_linear_cka(parts)
        print(f"whole maps of {layer}: full set {full:.5f}, minibatches {batches:.5f}")

    names = [name for name in NAMESAKES if name in layers]
    reference = cka_maps(dense, {"untrained": untrained}, images, names, subsets=subsets, batch_size=BATCH)
    third = pooled_features(untrained, images, names, batch_size=BATCH)
    rows = {"CKA unbiased": (map_, reference["untrained"]["all"].unbiased)}
    rows["CKA biased"] = found["merged"]["all"].biased, reference["untrained"]["all"].biased
    rows["CKA whole maps"] = whole["merged"], whole["untrained"]
    some = [{name: part[name] for name in names} for part in (first, second)]
    for name, measure in MEASURES.items():
        rows[name] = timed(
            f"{name}, {len(names)} layers, merged and untrained",
            lambda measure=measure: tuple(measure_map(some[0], part, measure) for part in (some[1], third)),
        )[0]
    print(f"{'merged | untrained':18}" + "".join(f"{name:>16}" for name in names))
    for name, maps in rows.items():
        cells = [diagonal(part, names if len(part) == len(names) else layers, names) for part in maps]
        print(f"{name:18}" + "".join(f"{a:8.3f} |{b:6.3f}" for a, b in zip(*cells, strict=True)))


def gram_cka(x: Tensor, y: Tensor) -> float:
    """Unbiased linear CKA from two full Gram matrices."""
    n = len(x)
    k, m = (x @ x.T).fill_diagonal_(0), (y @ y.T).fill_diagonal_(0)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        rows_a, rows_b = a.sum(1), b.sum(1)
        both = rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2))
        return ((a * b).sum() + both - 2 / (n - 2) * (rows_a @ rows_b)) / (n * (n - 3))

    return float(hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt())


def covariance_cka(x: Tensor, y: Tensor) -> float:
    """Biased linear CKA from three products of centred features."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def flattened(model: torch.nn.Module, images: Tensor, layer: str) -> Tensor:
    """Whole outputs of one layer, shape (n, p)."""
    with torch.no_grad():
        parts = [
            layer_outputs(model, batch, [layer], lambda out: out.flatten(1).clone())[layer]
            for batch in images.split(BATCH)
        ]
    return torch.cat(parts)


def diagonal(values: np.ndarray, layers: list[str], names: list[str]) -> list[float]:
    """Values of layers with their namesakes."""
    return [float(values[layers.index(name), layers.index(name)]) for name in names]


def timed(label: str, call: Callable[[], T]) -> tuple[T, float]:
    """The result and its CPU seconds, which are printed with the peak memory of the process so far."""
    begin = time.process_time()
    result = call()
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{label:50} {seconds:8.2f} CPU s, peak so far {peak:5.2f} GiB", flush=True)
    return result, seconds


if __name__ == "__main__":
    main(tyro.cli(Settings))
