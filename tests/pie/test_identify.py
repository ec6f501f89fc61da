import json
from collections import Counter
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pie import PieTable, find_pies
from pie.seed_noise import expected_null
from population.errors import InputError
from population.pairing import Design
from population.predictions import Predictions

NAMES = np.array(["ant", "bee", "cat"])


def population(votes: object, **further: object) -> Predictions:
    table = np.asarray(votes)
    return Predictions(np.arange(table.shape[1]).astype(str), table, **further)  # type: ignore[arg-type]


@pytest.fixture
def by_hand() -> PieTable:
    """Three models, four images. Image 0: unchanged; 1: forgotten; 2: gained; 3: still wrong, from a tie."""
    label = np.array([0, 1, 2, 1])
    dense = population([[0, 1, 0, 0], [0, 1, 0, 2], [0, 1, 2, 1]], label=label, class_names=NAMES)
    compressed = population(
        [[0, 2, 2, 2], [0, 2, 2, 2], [0, 1, 2, 1]], margin=np.full((3, 4), [0.1, 0.2, 0.3, 0.4])
    )
    return find_pies(dense, compressed, design="paired", seed=0)


def test_three_models_and_four_images_by_hand(by_hand: PieTable) -> None:
    table = by_hand.samples
    assert table["modal_dense"].tolist() == ["ant", "bee", "ant", "ant"]
    assert table["modal_compressed"].tolist() == ["ant", "cat", "cat", "cat"]
    assert table["label"].tolist() == ["ant", "bee", "cat", "bee"]
    assert table["pie"].tolist() == [False, True, True, True]
    assert table["kind"].tolist() == ["", "forgotten", "gained", "still wrong"]
    assert table["agree_dense"].tolist() == [3, 3, 2, 1]
    assert table["agree_compressed"].tolist() == [3, 2, 3, 2]
    assert table["tie_dense"].tolist() == [False, False, False, True]
    assert table["tie_compressed"].tolist() == [False] * 4
    assert table["votes_dense"].map(json.loads).tolist() == [
        {"ant": 3}, {"bee": 3}, {"ant": 2, "cat": 1}, {"ant": 1, "bee": 1, "cat": 1},
    ]  # fmt: skip
    assert table["votes_compressed"].tolist()[1] == '{"cat": 2, "bee": 1}'
    assert table["distance"].tolist() == [0, 4, 4, 2]
    # Four sign patterns: +++ and the flips of model 0, 1, 2. Image 1 has differences in models 0 and 1 only:
    # alike in +++ and --+ (4), opposed in the other two (0).
    assert table["p_value"].tolist() == [1, 0.5, 0.5, 1]
    assert table["p_adjusted"].tolist() == [1, 1, 1, 1]
    assert table["margin_dense"].isna().all()
    assert table["margin_compressed"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert (by_hand.count, by_hand.share, by_hand.ties, by_hand.rejected) == (3, 0.75, 1, 0)
    assert (by_hand.forgotten, by_hand.gained, by_hand.still_wrong) == (1, 1, 1)
    assert (by_hand.k_dense, by_hand.k_compressed, by_hand.design) == (3, 3, "paired")
    assert by_hand.accuracy_dense_on_pies == pytest.approx(5 / 9)
    assert by_hand.accuracy_compressed_on_pies == pytest.approx(5 / 9)
    assert by_hand.accuracy_dense_on_rest == 1
    assert by_hand.accuracy_compressed_on_rest == 1
    assert by_hand.excess is None
    assert by_hand.p_floor == 0.25


def slow_distance(dense: np.ndarray, compressed: np.ndarray) -> np.ndarray:
    """Shares times the mean K, image by image; exact as a fraction of 2 K K'."""
    k, other = len(dense), len(compressed)
    return np.array(
        [
            sum(abs((a == c).sum() * other - (b == c).sum() * k) for c in range(5))
            for a, b in zip(dense.T, compressed.T, strict=True)
        ]
    )


def slow_p(dense: np.ndarray, compressed: np.ndarray, design: str) -> tuple[np.ndarray, float]:
    seen = slow_distance(dense, compressed)
    members = np.vstack([dense, compressed])
    k, everyone = len(dense), set(range(len(members)))
    if design == "paired":
        choices = [[m + k * s for m, s in enumerate(swap)] for swap in product([0, 1], repeat=k)]
    else:
        choices = [list(c) for c in combinations(range(len(members)), k)]
    null = np.array([slow_distance(members[c], members[sorted(everyone - set(c))]) for c in choices])
    return (null >= seen).mean(axis=0), float((null.sum(axis=1) >= seen.sum()).mean())


@pytest.mark.parametrize(
    ("k", "other", "design"),
    [(5, 5, "paired"), (2, 2, "paired"), (4, 4, "independent"), (3, 5, "independent"), (4, 2, "independent")],
)
def test_p_values_agree_with_listing_every_rearrangement(k: int, other: int, design: str) -> None:
    rng = np.random.default_rng(k + other)
    dense, compressed = rng.integers(3, size=(k, 12)), rng.integers(1, 4, size=(other, 12))
    dense[:, 0] = compressed[:, 0] = 1  # an image on which all agree
    found = find_pies(population(dense), population(compressed), design=design, seed=0)  # type: ignore[arg-type]
    wanted, wanted_global = slow_p(dense, compressed, design)
    np.testing.assert_allclose(found.samples["p_value"], wanted)
    assert found.p_value == pytest.approx(wanted_global)
    np.testing.assert_allclose(
        found.samples["distance"], slow_distance(dense, compressed) * (k + other) / (2 * k * other)
    )
    assert found.samples["p_value"].min() >= found.p_floor - 1e-12


def test_blocks_of_images_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    dense, compressed = population(rng.integers(4, size=(9, 50))), population(rng.integers(4, size=(11, 50)))
    whole = find_pies(dense, compressed, design="independent", seed=3)
    monkeypatch.setattr("pie.ballots._PRODUCTS", 1)
    monkeypatch.setattr("pie.ballots._IMAGES", 7)
    pieces = find_pies(dense, compressed, design="independent", seed=3)
    pd.testing.assert_frame_equal(whole.samples, pieces.samples)
    assert whole.p_value == pieces.p_value
    assert whole.p_floor == 1 / 2000


def test_sampled_p_values_are_near_the_exact_ones() -> None:
    rng = np.random.default_rng(3)
    dense = rng.integers(2, size=(14, 30))
    compressed = np.where(rng.random((14, 30)) < 0.4, 1, dense)
    found = find_pies(population(dense), population(compressed), design="paired", seed=4)
    changed = dense != compressed
    # Every change goes from 0 to 1, so the distance is 2 |sum of m random signs|, with m at its largest.
    wanted = np.where(changed.any(axis=0), 2.0 ** (1 - changed.sum(axis=0)), 1.0)
    np.testing.assert_allclose(found.samples["p_value"], wanted, atol=0.035)


def test_rejected_images_are_those_whose_adjusted_p_is_at_most_the_level() -> None:
    dense = np.random.default_rng(1).integers(2, size=(8, 40))
    compressed = np.where(np.arange(40) < 15, 2, dense)
    found = find_pies(population(dense), population(compressed), design="paired", seed=0)
    # On 15 images all eight pairs change, from two classes to a third: p is the least of 128 patterns.
    assert found.samples["p_value"].tolist() == [1 / 128] * 15 + [1] * 25
    assert found.samples["rejected"].tolist() == [True] * 15 + [False] * 25
    assert found.rejected == 15


@given(
    arrays(np.int64, (4, 6), elements=st.integers(0, 3)), arrays(np.int64, (5, 6), elements=st.integers(0, 3))
)
@settings(max_examples=40, deadline=None)
def test_ties_go_to_the_smallest_class_and_are_counted(before: np.ndarray, after: np.ndarray) -> None:
    found = find_pies(population(before), population(after), design="independent", seed=0)

    def modes(votes: np.ndarray) -> list[list[int]]:
        counts = (votes == np.arange(4)[:, None, None]).sum(axis=1)
        return [np.flatnonzero(c == c.max()).tolist() for c in counts.T]

    leaders = list(zip(modes(before), modes(after), strict=True))
    assert found.ties == sum(len(a) > 1 or len(b) > 1 for a, b in leaders)
    assert found.count == sum(min(a) != min(b) for a, b in leaders)
    assert found.samples["tie_dense"].tolist() == [len(a) > 1 for a, _ in leaders]
    assert found.samples["tie_compressed"].tolist() == [len(b) > 1 for _, b in leaders]
    assert found.samples["modal_dense"].tolist() == [str(min(a)) for a, _ in leaders]


def test_a_tie_broken_otherwise_would_be_no_pie() -> None:
    # The published rule takes the largest class, 1, for the tied dense votes, and finds nothing here.
    found = find_pies(population([[0], [1]]), population([[1], [1]]), design="paired", seed=0)
    assert (found.count, found.ties) == (1, 1)


def test_votes_are_written_as_a_json_library_would_write_them() -> None:
    names = np.array(["plain", 'a "quote"', "Ölbaum\\n", "never"])
    votes = np.random.default_rng(2).integers(3, size=(5, 200))
    votes[:, :50] = votes[0, :50]
    found = find_pies(population(votes, class_names=names), population(votes), design="paired", seed=0)
    for column, text in zip(votes.T, found.samples["votes_dense"], strict=True):
        wanted = dict(sorted(Counter(column.tolist()).items(), key=lambda item: (-item[1], item[0])))
        assert text == json.dumps({str(names[c]): n for c, n in wanted.items()}, ensure_ascii=False)


def test_unequal_sizes_and_independent_design_use_the_matching_seed_noise() -> None:
    rng = np.random.default_rng(6)
    dense = population((rng.random((8, 300)) < rng.beta(3, 1.2, 300)).astype(int))
    compressed = population(rng.integers(2, size=(5, 300)))
    found = find_pies(dense, compressed, design="independent", seed=0)
    noise = expected_null(dense, other_k=5)
    assert (found.expected_null, found.expected_null_low) == (noise.value, noise.low)
    assert found.expected_null_high == noise.high
    assert found.excess == found.count - noise.value
    assert found.excess > 0


def test_without_labels_the_parts_that_need_them_are_none() -> None:
    found = find_pies(population([[0, 1], [0, 1]]), population([[0, 2], [0, 2]]), design="paired", seed=0)
    assert (found.count, found.forgotten, found.gained, found.still_wrong) == (1, None, None, None)
    assert found.accuracy_dense_on_pies is None
    assert found.accuracy_compressed_on_rest is None
    assert found.samples["kind"].tolist() == ["", ""]
    assert found.samples["label"].tolist() == ["", ""]
    assert found.samples["modal_compressed"].tolist() == ["0", "2"]


def test_doing_nothing_gives_no_pie() -> None:
    votes = np.random.default_rng(7).integers(3, size=(6, 20))
    found = find_pies(population(votes, label=votes[0]), population(votes), design="paired", seed=0)
    assert (found.count, found.p_value, found.rejected) == (0, 1, 0)
    assert (found.samples["distance"] == 0).all()
    assert (found.samples["p_value"] == 1).all()
    assert found.accuracy_dense_on_pies is None
    assert found.accuracy_dense_on_rest == pytest.approx((votes == votes[0]).mean())


def test_samples_are_matched_by_id() -> None:
    rng = np.random.default_rng(8)
    dense, compressed = population(rng.integers(3, size=(4, 9))), population(rng.integers(3, size=(4, 9)))
    mixed = compressed.take(rng.permutation(9))
    pd.testing.assert_frame_equal(
        find_pies(dense, mixed, design="paired", seed=0).samples,
        find_pies(dense, compressed, design="paired", seed=0).samples,
    )
    with pytest.raises(InputError, match="different samples"):
        find_pies(dense, compressed.take(np.arange(8)), design="paired", seed=0)


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_two_single_models_have_flips_and_nothing_that_needs_seeds(design: Design) -> None:
    dense = population([[0, 1, 0, 2]], label=[0, 1, 2, 0], class_names=NAMES)
    found = find_pies(dense, population([[0, 2, 2, 1]]), design=design, seed=0)
    assert (found.count, found.share, found.ties) == (3, 0.75, 0)
    assert (found.forgotten, found.gained, found.still_wrong) == (1, 1, 1)
    assert (found.expected_null, found.expected_null_low, found.expected_null_high) == (None, None, None)
    assert (found.excess, found.p_value, found.p_floor, found.rejected) == (None, None, None, None)
    assert found.samples[["p_value", "p_adjusted"]].isna().all(axis=None)
    assert not found.samples["rejected"].any()
    assert found.samples["distance"].tolist() == [0, 2, 2, 2]
    assert (found.accuracy_dense_on_pies, found.accuracy_compressed_on_rest) == (pytest.approx(1 / 3), 1)
