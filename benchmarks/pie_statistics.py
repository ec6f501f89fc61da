"""Level, power, bias, coverage and speed of the statistics of PIEs: ``python -m benchmarks.pie_statistics``.

All votes are simulated, so that the truth is known. An image has a distribution of one model's vote, with a
share for the right class and the rest on one other class or on several. Models vote independently, or
differ as a whole: each raises all shares to a power of its own, exp(0.3 z) with z standard normal. Compressed
models draw their votes anew from flatter shares; in a paired design, on some images only.
"""

import inspect
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import tyro

from pie.identify import find_pies
from pie.permutation import LEVEL, compare_votes
from pie.rarefaction import k_needed, rarefy
from pie.seed_noise import fit_shares, noise_between
from population.pairing import Design
from population.predictions import Predictions

ACCURACIES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "Beta(3, 1.2)": lambda n, rng: rng.beta(3, 1.2, n),
    "Beta(8, .5)": lambda n, rng: rng.beta(8, 0.5, n),
    "Beta(20, 1)": lambda n, rng: rng.beta(20, 1, n),
    "Beta(.5, .5)": lambda n, rng: rng.beta(0.5, 0.5, n),
    "95 % certain": lambda n, rng: np.where(rng.random(n) < 0.05, rng.random(n), 1.0),
}
DESIGNS: tuple[Design, ...] = ("paired", "independent")
REDRAWN = 0.3  # share of images on which a paired compressed model draws anew
QUALITY = 0.3


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        parts: any of test, fdr, null, rarefaction, needed, speed.
        repeats: simulated data sets per row of a table.
        images: images of the data set whose time is taken.
    """

    parts: tuple[str, ...] = ("test", "fdr", "null", "rarefaction", "needed", "speed")
    repeats: int = 200
    images: int = 1_281_167


def shares(
    accuracy: str, n: int, rng: np.random.Generator, *, classes: int = 10, several: bool = True
) -> np.ndarray:
    """Distribution of one model's vote on each image, shape (n, classes)."""
    right, label, image = ACCURACIES[accuracy](n, rng), rng.integers(classes, size=n), np.arange(n)
    p = rng.dirichlet(np.full(classes, 0.3), size=n) if several else np.zeros((n, classes))
    if not several:
        p[image, (label + rng.integers(1, classes, size=n)) % classes] = 1
    p[image, label] = 1e-9
    p *= ((1 - right) / p.sum(axis=1))[:, None]
    p[image, label] = right
    return p / p.sum(axis=1, keepdims=True)


def draw(p: np.ndarray, powers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Votes of one model per power, shape (K, n)."""
    votes = np.empty((len(powers), len(p)), dtype=np.int64)
    for row, power in zip(votes, powers, strict=True):
        edges = (p**power).cumsum(axis=1)
        row[:] = (edges < rng.random((len(p), 1)) * edges[:, -1:]).sum(axis=1)
    return votes


def powers(k: int, quality: float, rng: np.random.Generator) -> np.ndarray:
    """How sharp each of k models is."""
    return np.exp(quality * rng.normal(size=k))


def pair_of_populations(
    p: np.ndarray, k: int, design: Design, rng: np.random.Generator, *, quality: float, damage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Votes before and after; without damage the two are exchangeable."""
    sharp = powers(k, quality, rng)
    dense = draw(p, sharp, rng)
    if design == "independent":
        return dense, draw(p, powers(k, quality, rng) * (1 - damage), rng)
    redrawn = rng.random(dense.shape) < REDRAWN
    return dense, np.where(redrawn, draw(p, sharp * (1 - damage), rng), dense)


def predictions(votes: np.ndarray, classes: int = 10) -> Predictions:
    """Votes as the toolkit takes them."""
    return Predictions(
        np.arange(votes.shape[1]).astype(str), votes, class_names=np.arange(classes).astype(str)
    )


def heading(*columns: str) -> None:
    """Begins a table."""
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


def test_table(settings: Settings) -> None:
    """Level and power of the global test at .05, 300 images."""
    heading("design", "K", "models", "level", "power, damage .1", "power, damage .3")
    for design in DESIGNS:
        for k in (3, 5, 6, 10, 15, 30):
            for quality in (0.0, QUALITY):
                cells = []
                for damage in (0.0, 0.1, 0.3):
                    rng = np.random.default_rng(k)
                    hits = 0
                    for _ in range(settings.repeats):
                        p = shares("Beta(8, .5)", 300, rng)
                        votes = pair_of_populations(p, k, design, rng, quality=quality, damage=damage)
                        hits += compare_votes(*votes, design=design, rng=rng).global_p <= LEVEL
                    cells.append(f"{hits / settings.repeats:.3f}")
                kind = "differ" if quality else "alike"
                print(f"| {design} | {k} | {kind} | {' | '.join(cells)} |", flush=True)


def fdr_table(settings: Settings) -> None:
    """False discoveries among the rejected images: 5000 images, of which 1 % are damaged."""
    heading("design", "K", "models", "FDR", "found of the damaged", "found without leaving images out")
    for design in DESIGNS:
        for k in (6, 10, 15, 30):
            for quality in (0.0, QUALITY):
                rng = np.random.default_rng(k)
                rows = [_discoveries(k, design, quality, rng) for _ in range(settings.repeats)]
                false, found, plain = np.mean(rows, axis=0)
                kind = "differ" if quality else "alike"
                print(f"| {design} | {k} | {kind} | {false:.4f} | {found:.3f} | {plain:.3f} |", flush=True)


def _discoveries(k: int, design: Design, quality: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Share of false ones among the rejected images, and share of the damaged ones that are found."""
    n = 5000
    p = shares("Beta(8, .5)", n, rng)
    dense, compressed = pair_of_populations(p, k, design, rng, quality=quality, damage=0)
    damaged = np.arange(n) < n // 100
    shifted = 0.3 * p[damaged] + 0.7 * np.roll(p[damaged], 1, axis=1)
    compressed[:, damaged] = draw(shifted, np.ones(k), rng)
    test = compare_votes(dense, compressed, design=design, rng=rng)
    rejected = test.p_adjusted <= LEVEL
    of_all = np.sort(test.p_value)
    below = np.flatnonzero(of_all <= LEVEL * np.arange(1, n + 1) / n)
    plain = test.p_value <= (of_all[below[-1]] if len(below) else 0)
    false = (rejected & ~damaged).sum() / max(rejected.sum(), 1)
    return float(false), float(rejected[damaged].mean()), float(plain[damaged].mean())


def null_table(settings: Settings) -> None:
    """Expected seed noise of 2000 images against the truth, from K models for K and for 30."""
    heading(
        *("accuracy per image", "classes", "K", "models", "truth", "ratio", "its sd", "coverage"),
        *("width / needed", "ratio at 30", "coverage at 30"),
    )
    cases = [(name, 10, True, 0.0) for name in ACCURACIES]
    cases += [
        ("Beta(3, 1.2)", 2, False, 0.0),
        ("Beta(3, 1.2)", 100, True, 0.0),
        ("Beta(3, 1.2)", 10, True, QUALITY),
    ]
    for name, classes, several, quality in cases:
        rng = np.random.default_rng(0)
        p = shares(name, 2000, rng, classes=classes, several=several)
        at_30 = _noise(p, 30, quality, rng)
        for k in (2, 3, 5, 10, 15, 30):
            truth = _noise(p, k, quality, rng)
            rows = []
            for _ in range(settings.repeats // 4):
                fit = fit_shares(predictions(draw(p, powers(k, quality, rng), rng), classes))
                rows.append([
                    (e.value, e.low, e.high) for e in (noise_between(fit, k, k), noise_between(fit, 30, 30))
                ])  # fmt: skip
            (value, low, high), (value_30, low_30, high_30) = np.array(rows).transpose(1, 2, 0)
            needed = 2 * 1.96 * np.sqrt(value).std(ddof=1)
            width = (np.sqrt(high) - np.sqrt(low)).mean() / needed
            print(
                f"| {name} | {classes} | {k} | {'differ' if quality else 'alike'} | {truth:.0f} |"
                f" {_over(value.mean(), truth)} | {_over(value.std(ddof=1), truth)} |"
                f" {((low <= truth) & (truth <= high)).mean():.2f} | {width:.1f} |"
                f" {_over(value_30.mean(), at_30)} | {((low_30 <= at_30) & (at_30 <= high_30)).mean():.2f} |",
                flush=True,
            )


def _over(value: float, truth: float) -> str:
    """Ratio to the truth, where that is large enough for a ratio."""
    return f"{value / truth:.2f}" if truth >= 5 else ""


def _noise(p: np.ndarray, k: int, quality: float, rng: np.random.Generator) -> float:
    """PIEs between two new populations of k, mean over all pairs of 40 populations."""
    modes = [predictions(draw(p, powers(k, quality, rng), rng), p.shape[1]).modal_label for _ in range(40)]
    return float(np.mean([(a != b).sum() for i, a in enumerate(modes) for b in modes[:i]]))


def rarefaction_table(settings: Settings) -> None:
    """Intervals of the number of PIEs among 300 images, against the mean over new populations of k."""
    heading("design", "K", "models", "k", "truth", "mean", "coverage", "width / needed")
    for design in DESIGNS:
        for k in (5, 10, 30):
            for quality in (0.0, QUALITY):
                rng = np.random.default_rng(k)
                p = shares("Beta(3, 1.2)", 300, rng)

                def new(size: int) -> list[Predictions]:
                    votes = pair_of_populations(p, size, design, rng, quality=quality, damage=0.3)  # noqa: B023
                    return [predictions(side) for side in votes]

                curves = [rarefy(*new(k), design=design, seed=0).table for _ in range(settings.repeats // 2)]
                for size in sorted({1, 2, k // 2, k - 1, k}):
                    truths = [
                        (a.modal_label != b.modal_label).sum() for a, b in (new(size) for _ in range(400))
                    ]
                    truth = np.mean(truths)
                    rows = np.array([c.loc[size - 1, ["count", "low", "high"]] for c in curves], dtype=float)
                    count, low, high = rows.T
                    covered = ((low <= truth) & (truth <= high)).mean()
                    width = (np.sqrt(high) - np.sqrt(low)).mean() / (2 * 1.96 * np.sqrt(count).std(ddof=1))
                    print(
                        f"| {design} | {k} | {'differ' if quality else 'alike'} | {size} | {truth:.1f} |"
                        f" {count.mean():.1f} | {covered:.2f} | {width:.1f} |",
                        flush=True,
                    )


def needed_table(settings: Settings) -> None:
    """K needed for a share of seed noise, against the K at which new populations have it; 2000 images.

    "none" is none up to 100.
    """
    heading("accuracy per image", "share", "K needed", "from K", "estimate, middle 90 %", "safe, middle 90 %")
    for name, share in (("Beta(3, 1.2)", 0.08), ("Beta(8, .5)", 0.02), ("95 % certain", 0.015)):
        rng = np.random.default_rng(0)
        p = shares(name, 2000, rng)
        truth = next(k for k in range(1, 101) if _noise(p, k, 0, rng) <= share * len(p))
        for k in (5, 10, 30):
            found = [
                k_needed(predictions(draw(p, np.ones(k), rng)), share=share)
                for _ in range(max(10, settings.repeats // 10))
            ]
            cells = []
            for values in ([f.k for f in found], [f.k_high for f in found]):
                low, high = np.quantile(
                    [np.inf if v is None else v for v in values], [0.05, 0.95], method="nearest"
                )
                cells.append(f"{low:.0f} to {high:.0f}".replace("inf", "none"))
            print(f"| {name} | {share} | {truth} | {k} | {' | '.join(cells)} |", flush=True)


def speed_table(settings: Settings) -> None:
    """CPU seconds and peak memory of 30 + 30 models on 1000 classes, the votes included.

    Each row is a process of its own; where all images are contested, ``rarefy`` is left out. ``find_pies``
    makes 1999 rearrangements; the plain loop, which counts the votes of all images anew for each, is timed
    for 5 rearrangements of 10,000 images and multiplied up to 1000 of all images.
    """
    print(f"{settings.images} images")
    heading("contested", "design", "predictions", "find_pies", "peak", "rarefy", "peak", "plain loop")
    context = multiprocessing.get_context("spawn")
    for contested in (0.05, 1.0):
        for design in DESIGNS:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                cells = pool.submit(_speed, settings.images, contested, design).result()
            print(f"| {contested:.0%} | {design} | {' | '.join(cells)} |", flush=True)


def _speed(n: int, contested: float, design: Design) -> list[str]:
    rng = np.random.default_rng(0)
    dense, compressed = _many_votes(n, contested, design, rng)
    loop = _plain_loop(dense[:, :10_000], compressed[:, :10_000], design, rng) * n / 10_000
    ids = np.char.add("image", np.arange(n).astype(str))
    begin = time.process_time()
    before, after = Predictions(ids, dense), Predictions(ids, compressed)
    cells = [f"{time.process_time() - begin:.1f} s"]
    for call in (find_pies, rarefy):
        if call is rarefy and contested == 1:
            cells += ["", ""]
            continue
        begin = time.process_time()
        call(before, after, design=design, seed=0)
        seconds = time.process_time() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        cells += [f"{seconds:.1f} s", f"{peak:.1f} GiB"]
    return [*cells, f"{loop / 3600:.1f} h"]


def _many_votes(
    n: int, contested: float, design: Design, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Votes of 30 + 30 models: unanimous, or with Beta(3, 1.2) for one class and the rest on four others."""
    right = np.where(rng.random(n) < contested, rng.beta(3, 1.2, n), 1).astype(np.float32)
    label = rng.integers(1000, size=n, dtype=np.int16)
    sides = []
    for damage in (0.0, 0.2):
        votes = np.empty((30, n), dtype=np.int16)
        for row in votes:
            rival = label + 1 + (4 * rng.random(n, dtype=np.float32) ** 2).astype(np.int16)
            wrong = rng.random(n, dtype=np.float32) > np.where(right < 1, right * (1 - damage), 1)
            row[:] = np.where(wrong, rival % 1000, label)
        sides.append(votes)
    if design == "paired":
        kept = rng.random(sides[0].shape, dtype=np.float32) > REDRAWN
        sides[1] = np.where(kept, *sides)
    return sides[0], sides[1]


def _plain_loop(dense: np.ndarray, compressed: np.ndarray, design: Design, rng: np.random.Generator) -> float:
    """CPU seconds that 1000 permutations would take, from 5: count all votes anew for each."""
    k, n = dense.shape
    members = np.vstack([dense, compressed]).astype(np.int64)

    def distances(order: np.ndarray) -> np.ndarray:
        cells = members[order] + 1000 * np.arange(n)
        sides = (np.bincount(part.ravel(), minlength=1000 * n) for part in (cells[:k], cells[k:]))
        first, second = sides
        return np.abs(first - second).reshape(n, 1000).sum(axis=1)

    observed = distances(np.arange(2 * k))
    at_least = np.zeros(n)
    begin = time.process_time()
    for _ in range(5):
        swapped = rng.random(k) < 0.5
        pairs = np.where(swapped, [np.arange(k) + k, np.arange(k)], [np.arange(k), np.arange(k) + k]).ravel()
        at_least += distances(pairs if design == "paired" else rng.permutation(2 * k)) >= observed
    return (time.process_time() - begin) * 200


def main(settings: Settings) -> None:
    """Prints the tables that were asked for."""
    tables = {
        "test": test_table, "fdr": fdr_table, "null": null_table,
        "rarefaction": rarefaction_table, "needed": needed_table, "speed": speed_table,
    }  # fmt: skip
    for part in settings.parts:
        begin = time.perf_counter()
        print(f"\n{inspect.getdoc(tables[part])}")
        tables[part](settings)
        print(f"({time.perf_counter() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))
