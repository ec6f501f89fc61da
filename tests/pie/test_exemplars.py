import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pie import PieTable, find_exemplars, find_pies
from pie.exemplars import rank, top_images
from population.errors import InputError
from population.predictions import Predictions

NAMES = np.array(["ant", "bee", "cat"])


def population(votes: object, **further: object) -> Predictions:
    table = np.asarray(votes)
    return Predictions(np.arange(table.shape[1]).astype(str), table, **further)  # type: ignore[arg-type]


@pytest.fixture
def pies() -> PieTable:
    """Distances 0, 4, 4 and 2; all but image 0 are PIEs; the dense modal label is right on 0 and 1."""
    label = np.array([0, 1, 2, 1])
    dense = population([[0, 1, 0, 0], [0, 1, 0, 2], [0, 1, 2, 1]], label=label, class_names=NAMES)
    compressed = population([[0, 2, 2, 2], [0, 2, 2, 2], [0, 1, 2, 1]])
    return find_pies(dense, compressed, design="paired", seed=0)


def test_three_models_and_four_images_by_hand(pies: PieTable) -> None:
    found = find_exemplars(pies, share=0.25)
    assert found.samples["sample_id"].tolist() == ["0", "1", "2", "3"]
    assert found.samples["modal"].tolist() == [False, True, True, True]
    assert found.samples["taxicab"].tolist() == [False, True, True, False]
    assert found.samples["distance"].tolist() == [0, 4, 4, 2]
    assert found.samples["rank"].tolist() == [4, 1, 1, 3]
    assert found.samples["reference_right"].tolist() == [True, True, False, False]
    assert (found.modal, found.taxicab, found.both) == (3, 2, 2)
    assert (found.modal_right, found.taxicab_right) == (1, 1)
    # One image was asked for; two are level.
    assert (found.share, found.cut, found.tied) == (0.25, 4, 2)


def test_modal_exemplars_with_a_right_reference_are_the_forgotten(pies: PieTable) -> None:
    assert find_exemplars(pies, share=0.5).modal_right == pies.forgotten


def test_votes_that_shift_under_one_modal_label_are_seen_by_distance_only() -> None:
    dense = population([[0, 0, 0]] * 10)
    compressed = population([[0, 0, 0]] * 6 + [[1, 0, 0]] * 4)
    found = find_exemplars(find_pies(dense, compressed, design="paired", seed=0), share=0.34)
    assert found.samples["modal"].tolist() == [False] * 3
    assert found.samples["taxicab"].tolist() == [True, False, False]
    assert (found.modal, found.taxicab, found.both, found.cut) == (0, 1, 0, 8)


def test_without_labels_nothing_is_said_of_the_reference() -> None:
    found = find_exemplars(
        find_pies(population([[0], [0]]), population([[1], [1]]), design="paired", seed=0), share=1
    )
    assert (found.modal, found.taxicab, found.modal_right, found.taxicab_right) == (1, 1, None, None)
    assert found.samples["reference_right"].isna().all()


@pytest.mark.parametrize(
    ("share", "chosen", "wanted", "cut", "tied"),
    [
        (0.01, [3], 1, 7, 1),
        (0.2, [3], 1, 7, 1),
        (0.4, [1, 2, 3], 2, 5, 2),
        (0.6, [1, 2, 3], 3, 5, 2),
        (0.8, [1, 2, 3], 4, 0, 0),
        (1.0, [1, 2, 3], 5, 0, 0),
    ],
)
def test_ties_at_the_cut_are_all_chosen_and_zeros_never(
    share: float, chosen: list[int], wanted: int, cut: float, tied: int
) -> None:
    top = top_images(np.array([0.0, 5, 5, 7, 0]), share=share)
    assert np.flatnonzero(top.chosen).tolist() == chosen
    assert (top.wanted, top.cut, top.tied) == (wanted, cut, tied)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.floats(0.001, 1))
def test_chosen_images_lead_and_no_fewer_ties_would_do(scores: list[int], share: float) -> None:
    score = np.array(scores, dtype=float)
    top = top_images(score, share=share)
    changed = int((score > 0).sum())
    assert top.chosen.sum() >= min(top.wanted, changed)
    assert top.chosen.sum() - top.tied < top.wanted or top.tied == 0
    assert score[top.chosen].min(initial=np.inf) > score[~top.chosen].max(initial=0)
    assert (rank(score)[top.chosen] <= top.wanted).all()


def test_ranks_begin_at_the_largest_and_ties_share_the_smallest() -> None:
    assert rank(np.array([0.5, 2.0, 0.5, 1.0, 0.0])).tolist() == [3, 1, 3, 2, 5]


@pytest.mark.parametrize("share", [0, -0.1, 1.01, np.nan])
def test_a_share_out_of_range_is_refused(pies: PieTable, share: float) -> None:
    with pytest.raises(InputError, match=r"must be in \(0, 1\]"):
        find_exemplars(pies, share=share)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_scores_that_cannot_be_ranked_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="finite and not negative"):
        top_images(np.array([0.0, bad]), share=0.5)
