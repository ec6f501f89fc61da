import numpy as np
import pytest

from population.errors import InputError
from ssl_models.sources.label_column import labels_of


def test_values_are_classes_sorted_as_numbers_or_names() -> None:
    label, names = labels_of(["10", "9", "9.5", "10"], (), where="x")
    assert names == ("9", "9.5", "10")
    assert label.tolist() == [2, 0, 1, 2]
    label, names = labels_of(["b", "10", "a", "9"], (), where="x")
    assert names == ("10", "9", "a", "b")
    assert label.dtype == np.int64


def test_a_bound_belongs_to_the_band_above() -> None:
    ages = ["19", "20", "39", "40", "0", "116", "60"]
    label, names = labels_of(ages, (20, 40, 60), where="x")
    assert names == ("under 20", "20-39", "40-59", "60+")
    assert [names[i] for i in label] == ["under 20", "20-39", "20-39", "40-59", "under 20", "60+", "60+"]


def test_bands_of_broken_numbers_say_where_they_end() -> None:
    label, names = labels_of(["0.5", "2", "-1", "1.5"], (0, 1.5), where="x")
    assert names == ("under 0", "0 to under 1.5", "1.5+")
    assert label.tolist() == [1, 2, 0, 2]
    # a band of one whole number is called by it; a band without images is no class
    label, names = labels_of(["3", "4", "4", "9"], (4, 5, 8), where="x")
    assert names == ("under 4", "4", "8+")
    assert label.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("values", "bins", "message"),
    [
        ([str(i) for i in range(31)], (), "age has 31 different numbers, too many .*--label-bins 20 40 60"),
        (["3", "old"], (20.0,), "age has the value 'old', which --label-bins cannot place"),
        (["3", "nan"], (20.0,), "age has the value 'nan'"),
        (["3", "4"], (20.0,), "age puts all 2 images into one class, 'under 20'"),
        (["a", "a"], (), "age puts all 2 images into one class, 'a'"),
    ],
)
def test_what_gives_no_classes_is_refused(values: list[str], bins: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        labels_of(values, bins, where="age")


def test_thirty_numbers_and_any_number_of_names_are_classes() -> None:
    assert len(labels_of([str(i) for i in range(30)], (), where="x")[1]) == 30
    assert len(labels_of([f"c{i}" for i in range(99)], (), where="x")[1]) == 99
