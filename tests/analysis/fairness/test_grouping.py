import numpy as np
import pandas as pd
import pytest

from analysis.fairness.grouping import groupings
from population.errors import InputError

IDS = np.array(["a", "b", "c", "d"])


def test_columns_and_their_crossing_by_hand() -> None:
    table = pd.DataFrame(
        {"sex": ["f", "m", "f", "m", "m"], "old": [True, True, False, True, False]},
        index=["c", "b", "a", "d", "further image"],
    )
    everything, sex, old, crossed = groupings(table, IDS)
    assert (everything.name, everything.groups, everything.code.tolist()) == ("all", ("all",), [0, 0, 0, 0])
    assert (sex.name, sex.groups, sex.code.tolist()) == ("sex", ("f", "m"), [0, 1, 0, 1])
    assert (old.name, old.groups, old.code.tolist()) == ("old", ("False", "True"), [0, 1, 1, 1])
    # No image is of a young man.
    assert (crossed.name, crossed.groups) == ("sex × old", ("f × False", "f × True", "m × True"))
    assert crossed.code.tolist() == [0, 2, 1, 2]
    assert crossed.n.tolist() == [1, 1, 2]
    events = np.array([[True, True, False, True], [False, True, True, False]])
    assert crossed.counts(events).tolist() == [[1, 0, 2], [0, 1, 1]]


def test_one_column_is_not_crossed_and_none_leaves_all_images() -> None:
    table = pd.DataFrame({"sex": list("fmfm")}, index=IDS)
    assert [grouping.name for grouping in groupings(table, IDS)] == ["all", "sex"]
    assert [grouping.name for grouping in groupings(table[[]], IDS)] == ["all"]


def test_numbers_as_ids_are_those_of_the_predictions() -> None:
    table = pd.DataFrame({"sex": ["f", "m"]}, index=[10, 9])
    assert groupings(table, np.array(["9", "10"]))[1].code.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("index", "values", "message"),
    [
        (["a", "b", "c", "x"], list("fmfm"), "lacks 1 of 4 predicted samples"),
        (["a", "b", "c", "c"], list("fmfm"), "repeated sample ids"),
        (["a", "b", "c", "d"], ["f", None, "m", None], "'sex' has 2 missing values"),
    ],
)
def test_groups_that_do_not_fit_are_refused(index: list[str], values: list[str | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        groupings(pd.DataFrame({"sex": values}, index=index), IDS)
