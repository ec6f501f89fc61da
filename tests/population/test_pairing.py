import numpy as np
import pytest

from population.errors import InputError
from population.pairing import compare
from population.predictions import Predictions

IDS = np.array(["a", "b", "c"])
ROWS = np.array([[0, 1, 2], [0, 1, 1]])


def test_samples_are_put_in_the_order_of_the_dense_side() -> None:
    other = Predictions(IDS[[2, 0, 1]], ROWS[:, [2, 0, 1]], label=np.array([2, 0, 1]))
    matched = compare(Predictions(IDS, ROWS), other, design="paired")
    np.testing.assert_array_equal(matched.compressed.predicted, ROWS)
    assert matched.label is not None
    np.testing.assert_array_equal(matched.label, [0, 1, 2])
    assert matched.class_names.tolist() == ["0", "1", "2"]


def test_names_come_from_either_side() -> None:
    names = np.array(["x", "y", "z"])
    plain, named = Predictions(IDS, ROWS), Predictions(IDS, ROWS, class_names=names)
    for dense, compressed in ((plain, named), (named, plain), (named, named)):
        assert compare(dense, compressed, design="paired").class_names.tolist() == ["x", "y", "z"]
    assert compare(plain, plain, design="paired").label is None


@pytest.mark.parametrize(
    ("dense", "compressed", "design", "message"),
    [
        ({}, {"sample_id": np.array(["a", "b", "d"])}, "paired", "different samples"),
        ({"label": [0, 1, 2]}, {"label": [0, 1, 1]}, "paired", "true labels"),
        ({"class_names": ["x", "y", "z"]}, {"class_names": ["x", "z", "y"]}, "paired", "class names"),
        ({"class_names": ["x", "y", "z"]}, {"predicted": ROWS + 1}, "paired", "3 class names for 4"),
        (
            {"predicted": ROWS[:1]},
            {},
            "paired",
            "at least 2 models are needed on each side, or 1 on both, not 1 and 2",
        ),
        ({}, {"predicted": ROWS[:1]}, "independent", "at least 2 models"),
        ({}, {"predicted": ROWS[[0, 1, 1]]}, "paired", "equal K"),
        ({}, {}, "pared", "did you mean 'paired'"),
    ],
)
def test_what_cannot_be_compared_is_refused(dense: dict, compressed: dict, design: str, message: str) -> None:
    base = {"sample_id": IDS, "predicted": ROWS}
    with pytest.raises(InputError, match=message):
        compare(Predictions(**base | dense), Predictions(**base | compressed), design=design)  # type: ignore[arg-type]
