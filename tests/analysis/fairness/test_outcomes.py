import numpy as np
import pytest

from analysis.fairness import member_outcomes
from population.errors import InputError
from population.predictions import Predictions

LABEL = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])  # no sample of class 3
NAMES = np.array(["a", "b", "c", "d"])


def says(*rows: str, label: np.ndarray | None = LABEL) -> Predictions:
    """One row of digits per member, in two shuffled orders of samples if asked."""
    ids = np.array([f"s{i}" for i in range(len(LABEL))])
    return Predictions(ids, np.array([[*map(int, row)] for row in rows]), label, class_names=NAMES)


def test_two_members_by_hand() -> None:
    # recalls before: 1, 1, 1 and .5, 1, .75; after: .75, 0, 1 and 1, .5, .75
    dense = says("0000112222", "0033112223")
    compressed = says("0001002222", "0000132223")
    found = member_outcomes(dense, compressed)
    assert found["member"].tolist() == [0, 1]
    assert found["accuracy"].tolist() == pytest.approx([0.7, 0.8])
    assert found["flips"].tolist() == pytest.approx([0.3, 0.3])
    assert found["accuracy_change"].tolist() == pytest.approx([-0.3, 0.1])
    # the worst class: 1 -> 0 (class b), and .5 (class a) -> .5 (class b)
    assert found["worst_recall_change"].tolist() == pytest.approx([-1.0, 0.0])
    changes = [[-0.25, -1.0, 0.0], [0.5, -0.5, 0.0]]
    assert found["recall_change_spread"].tolist() == pytest.approx([np.std(c) for c in changes])


def test_samples_are_matched_by_id_and_nothing_changes_nothing() -> None:
    dense = says("0000112222", "0033112223")
    turned = dense.align(dense.sample_id[::-1])
    found = member_outcomes(dense, turned)
    for name in ("flips", "accuracy_change", "worst_recall_change", "recall_change_spread"):
        assert found[name].tolist() == [0, 0]


def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(InputError, match="need the true labels"):
        member_outcomes(says("0000112222", label=None), says("0000112222", label=None))
    with pytest.raises(InputError, match="at least 2 models are needed on each side"):
        member_outcomes(says("0000112222", "0000112222"), says("0000112222"))
