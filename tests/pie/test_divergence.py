from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon

from pie import find_pies, mean_divergence
from population.errors import InputError
from population.pairing import Design
from population.predictions import Predictions


def population(probabilities: object) -> Predictions:
    table = np.asarray(probabilities, dtype=np.float32)
    return Predictions(np.arange(table.shape[1]).astype(str), table.argmax(axis=2), probabilities=table)


def draw(rng: np.random.Generator, k: int, n: int, classes: int = 3) -> np.ndarray:
    table: np.ndarray = rng.dirichlet(np.full(classes, 0.5), (k, n)).astype(np.float32)
    return table


def slow_divergence(dense: np.ndarray, compressed: np.ndarray) -> np.ndarray:
    """Divergence of every image; scipy gives its root."""
    before, after = dense.astype(float).mean(axis=0), compressed.astype(float).mean(axis=0)
    return np.array([jensenshannon(p, q, base=2) ** 2 for p, q in zip(before, after, strict=True)])


def test_three_images_by_hand() -> None:
    # Image 0: the same on average; 1: no class in common; 2: (1, 0) against (1/2, 1/2).
    dense = [[[1, 0], [1, 0], [1, 0]], [[0, 1], [1, 0], [1, 0]]]
    compressed = [[[0.5, 0.5], [0, 1], [0.25, 0.75]], [[0.5, 0.5], [0, 1], [0.75, 0.25]]]
    found = mean_divergence(population(dense), population(compressed), design="paired", seed=0)
    last = (2 - 0.75 * np.log2(3)) - (0 + 1) / 2  # H(3/4, 1/4) less the mean of H(1, 0) and H(1/2, 1/2)
    np.testing.assert_allclose(found.samples["divergence"], [0, 1, last], atol=1e-9)
    assert found.samples["sample_id"].tolist() == ["0", "1", "2"]
    assert found.samples["rank"].tolist() == [3, 1, 2]
    assert found.mean == pytest.approx(found.samples["divergence"].mean())
    assert (found.design, found.p_floor) == ("paired", 0.5)


@pytest.mark.parametrize(
    ("k", "other", "design"), [(4, 4, "paired"), (3, 3, "independent"), (3, 5, "independent")]
)
def test_values_and_p_agree_with_scipy_over_every_rearrangement(k: int, other: int, design: Design) -> None:
    rng = np.random.default_rng(k + other)
    dense, compressed = draw(rng, k, 6), draw(rng, other, 6)
    found = mean_divergence(population(dense), population(compressed), design=design, seed=0)
    np.testing.assert_allclose(found.samples["divergence"], slow_divergence(dense, compressed), atol=1e-9)
    networks, everyone = np.concatenate([dense, compressed]), set(range(k + other))
    if design == "paired":
        choices = [[m + k * s for m, s in enumerate(swap)] for swap in product([0, 1], repeat=k)]
    else:
        choices = [list(chosen) for chosen in combinations(range(k + other), k)]
    null = [slow_divergence(networks[c], networks[sorted(everyone - set(c))]).mean() for c in choices]
    assert found.p_value == pytest.approx(np.mean(np.array(null) >= found.mean - 1e-9))
    assert found.p_floor is not None
    assert found.p_value >= found.p_floor


def test_exchanging_the_sides_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    one, other = population(draw(rng, 5, 20)), population(draw(rng, 5, 20))
    there, back = (mean_divergence(a, b, design="paired", seed=0) for a, b in ((one, other), (other, one)))
    pd.testing.assert_frame_equal(there.samples, back.samples)
    assert there.p_value == back.p_value


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_doing_nothing_leaves_exactly_zero(design: Design) -> None:
    # Sums of probabilities of very different sizes depend on their order.
    dense = population(np.random.default_rng(1).dirichlet(np.full(10, 0.05), (7, 30)))
    found = mean_divergence(dense, dense, design=design, seed=0)
    assert (found.samples["divergence"] == 0).all()
    assert (found.samples["rank"] == 1).all()
    assert (found.mean, found.p_value) == (0, 1)


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_single_networks_are_measured_and_not_tested(design: Design) -> None:
    found = mean_divergence(population([[[1, 0]]]), population([[[0, 1]]]), design=design, seed=0)
    assert (found.mean, found.p_value, found.p_floor) == (1, None, None)


def test_networks_that_grow_less_sure_are_seen_though_no_label_changes() -> None:
    rng = np.random.default_rng(2)
    sure = np.tile([0.9, 0.1], (8, 40, 1)) + rng.normal(0, 0.02, (8, 40, 1)) * [1, -1]
    unsure = 0.6 * sure + 0.4 * 0.5
    found = mean_divergence(population(sure), population(unsure), design="paired", seed=0)
    assert found.p_value == found.p_floor
    assert find_pies(population(sure), population(unsure), design="paired", seed=0).count == 0


def test_the_test_keeps_its_level_and_has_power() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (1, 30, 3))

    def rejections(shift: float, design: Design, repeats: int) -> float:
        p = []
        for _ in range(repeats):
            # Networks differ in temperature as a whole, so images are not independent.
            scores = logits + rng.normal(0, 0.7, (10, 30, 3))
            scores *= np.exp(rng.normal(0, 0.3, (10, 1, 1)) - shift * (np.arange(10) >= 5)[:, None, None])
            table = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
            two = population(table[:5]), population(table[5:])
            p.append(mean_divergence(*two, design=design, seed=0).p_value)
        return float(np.mean(np.array(p) <= 0.0625))

    # 5 pairs give p in steps of 1/16; the standard error of 200 repeats is 1.7 points.
    assert 0.02 < rejections(0, "paired", 200) < 0.115
    assert 0.02 < rejections(0, "independent", 200) < 0.115
    assert rejections(1, "independent", 30) > 0.8


def test_blocks_of_images_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    dense, compressed = population(draw(rng, 6, 25)), population(draw(rng, 8, 25))
    whole = mean_divergence(dense, compressed, design="independent", seed=0)
    monkeypatch.setattr("pie.divergence._BLOCK", 1)
    pieces = mean_divergence(dense, compressed, design="independent", seed=0)
    np.testing.assert_allclose(whole.samples["divergence"], pieces.samples["divergence"], atol=1e-11)
    assert whole.p_value == pieces.p_value


def test_samples_are_matched_by_id() -> None:
    rng = np.random.default_rng(5)
    dense, compressed = population(draw(rng, 4, 9)), population(draw(rng, 4, 9))
    mixed = compressed.take(rng.permutation(9))
    pd.testing.assert_frame_equal(
        mean_divergence(dense, mixed, design="paired", seed=0).samples,
        mean_divergence(dense, compressed, design="paired", seed=0).samples,
    )


def test_what_has_no_probabilities_is_refused() -> None:
    good = population(draw(np.random.default_rng(6), 3, 4))
    bare = Predictions(good.sample_id, good.predicted)
    with pytest.raises(InputError, match="the compressed predictions have none"):
        mean_divergence(good, bare, design="paired", seed=0)
    with pytest.raises(InputError, match="the dense predictions have none"):
        mean_divergence(bare, good, design="paired", seed=0)
    assert good.probabilities is not None
    with pytest.raises(InputError, match=r"sum to 1 over the classes; in the compressed .* is 0.5"):
        mean_divergence(good, population(good.probabilities / 2), design="paired", seed=0)
    four = population(draw(np.random.default_rng(7), 3, 4, classes=4))
    with pytest.raises(InputError, match="3 classes before and 4 after"):
        mean_divergence(good, four, design="paired", seed=0)
