from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from population.errors import InputError
from population.predictions import Predictions

TABLES = st.tuples(st.integers(1, 7), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(0, 4))
)


def predictions(predicted: object, **further: object) -> Predictions:
    table = np.asarray(predicted)
    return Predictions(np.arange(table.shape[1]).astype(str), table, **further)  # type: ignore[arg-type]


def test_three_models_and_four_samples_by_hand() -> None:
    table = predictions([[0, 2, 1, 2], [0, 1, 2, 2], [0, 1, 0, 1]])
    np.testing.assert_array_equal(table.modal_label, [0, 1, 0, 2])
    np.testing.assert_array_equal(table.modal_tie, [False, False, True, False])
    np.testing.assert_array_equal(table.modal_votes, [3, 2, 1, 2])
    np.testing.assert_array_equal(table.votes(), [[3, 0, 0], [0, 2, 1], [1, 1, 1], [0, 1, 2]])
    assert (table.k, table.n, table.num_classes) == (3, 4, 3)


@given(TABLES)
@settings(max_examples=60, deadline=None)
def test_modal_label_agrees_with_counting(table: np.ndarray) -> None:
    found = predictions(table)
    for image, column in enumerate(table.T):
        votes = Counter(column.tolist())
        most = max(votes.values())
        leaders = sorted(c for c, n in votes.items() if n == most)
        assert found.modal_label[image] == leaders[0]
        assert found.modal_votes[image] == most
        assert found.modal_tie[image] == (len(leaders) > 1)
        assert found.votes(6)[image].tolist() == [votes[c] for c in range(6)]


@given(TABLES, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_of_models_and_samples_does_not_matter(table: np.ndarray, random: object) -> None:
    order = np.random.default_rng(random.getrandbits(32)).permutation(table.shape[1])  # type: ignore[attr-defined]
    found = predictions(table)
    mixed = predictions(table[::-1]).take(order)
    np.testing.assert_array_equal(mixed.modal_label, found.modal_label[order])
    back = mixed.align(found.sample_id)
    np.testing.assert_array_equal(back.predicted, table[::-1])


def test_stack_matches_samples_by_id() -> None:
    a = Predictions(
        np.array(["x", "y"]), np.array([[0, 1]]), label=np.array([0, 1]), margin=np.array([[0.5, 0.1]])
    )
    b = Predictions(
        np.array(["y", "x"]), np.array([[2, 0]]), label=np.array([1, 0]), margin=np.array([[0.2, 0.9]])
    )
    both = Predictions.stack([a, b])
    np.testing.assert_array_equal(both.predicted, [[0, 1], [0, 2]])
    assert both.margin is not None
    np.testing.assert_array_equal(both.margin, [[0.5, 0.1], [0.9, 0.2]])
    with pytest.raises(InputError, match="true labels"):
        Predictions.stack([a, Predictions(np.array(["x", "y"]), np.array([[0, 1]]))])


def test_npz_round_trip_keeps_every_field(tmp_path: Path) -> None:
    probabilities = np.array([[[0.7, 0.3], [0.4, 0.6]]], dtype=np.float32)
    table = predictions(
        [[0, 1]],
        label=np.array([1, 1]),
        margin=np.array([[0.4, 0.2]]),
        probabilities=probabilities,
        class_names=np.array(["cat", "Ölbaum"]),
    )
    table.save(tmp_path / "all.npz")
    back = Predictions.load(tmp_path / "all.npz")
    for name in ("sample_id", "predicted", "label", "margin", "probabilities", "class_names"):
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
        assert getattr(back, name).dtype == getattr(table, name).dtype
    predictions([[0, 1]]).save(tmp_path / "least.npz")
    least = Predictions.load(tmp_path / "least.npz")
    assert least.label is None
    assert least.margin is None
    assert least.class_names is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_id": ["a", "a"]}, "repeated ids"),
        ({"sample_id": []}, "at least one id"),
        ({"predicted": [[0, 1, 1]]}, r"shape \(K, 2\)"),
        ({"predicted": [0, 1]}, "shape"),
        ({"predicted": np.empty((0, 2), dtype=int)}, "K >= 1"),
        ({"predicted": [[0, -1]]}, "negative"),
        ({"predicted": [[0.0, np.nan]]}, "NaN"),
        ({"predicted": [[0.0, 0.5]]}, "whole class indices"),
        ({"predicted": [["cat", "dog"]]}, "class indices"),
        ({"label": [0]}, "label must have shape"),
        ({"margin": [[0.1, np.inf]]}, "NaN or infinite"),
        ({"margin": [0.1, 0.2]}, "margin must have shape"),
        ({"probabilities": [[0.1, 0.2]]}, r"\(K, N, C\)"),
        ({"probabilities": [[[1.5, 0], [0, 1]]]}, r"\[0, 1\]"),
        ({"class_names": ["only"]}, "class index 1 is outside"),
        ({"class_names": ["a", "b", "c"], "probabilities": [[[1, 0], [0, 1]]]}, "disagree"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictions(**{"sample_id": ["a", "b"], "predicted": [[0, 1]]} | change)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such predictions file"):
        Predictions.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(InputError, match="not a readable npz"):
        Predictions.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", predicted=np.zeros((2, 2), dtype=int))
    with pytest.raises(InputError, match="lacks sample_id"):
        Predictions.load(tmp_path / "other.npz")
    np.savez(
        tmp_path / "pickled.npz", sample_id=np.array([{}], dtype=object), predicted=np.zeros((1, 1), int)
    )
    with pytest.raises(InputError, match="not a readable npz"):
        Predictions.load(tmp_path / "pickled.npz")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.npz"
    predictions([[0, 1]]).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a readable npz"):
        Predictions.load(path)
