import numpy as np
import pytest

from population.errors import InputError
from population.samples import SampleSet


def samples(
    ids: list[str], label: list[int], names: tuple[str, ...] = ("cat", "dog"), **groups: object
) -> SampleSet:
    columns = {name: np.array(column) for name, column in groups.items()}
    return SampleSet(np.array(ids, dtype=np.str_), np.array(label, dtype=np.int64), names, columns)


def test_what_was_given_is_kept() -> None:
    found = samples(["a", "b", "c"], [0, 1, 1], sex=["f", "m", "f"])
    assert len(found) == 3
    assert found.sample_id.tolist() == ["a", "b", "c"]
    assert found.label.tolist() == [0, 1, 1]
    assert found.groups["sex"].tolist() == ["f", "m", "f"]
    assert len(samples([], [])) == 0


@pytest.mark.parametrize(
    ("arguments", "groups", "message"),
    [
        ((["a", "b", "a"], [0, 1, 1]), {}, "sample ids repeat"),
        ((["a", "b"], [0, 1, 1]), {}, "label has 3 entries for 2 samples"),
        ((["a", "b"], [0, 1]), {"age": ["young"]}, "age has 1 entries for 2 samples"),
        ((["a", "b"], [0, 2]), {}, r"labels must be in \[0, 2\)"),
        ((["a", "b"], [-1, 0]), {}, r"labels must be in \[0, 2\)"),
        ((["a"], [0], ()), {}, r"labels must be in \[0, 0\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple, groups: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        samples(*arguments, **groups)
