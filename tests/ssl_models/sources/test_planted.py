import numpy as np
import pytest

from population.errors import InputError
from population.spec import AttributeSpec
from ssl_models import ImageData, load_data


def load(name: str) -> ImageData:
    return load_data(name, data_dir=None, download=False)


def test_a_share_of_the_first_classes_is_inverted_and_nothing_else() -> None:
    digits, planted = load("digits"), load("planted:0.2")
    assert planted.name == "planted:0.2"
    for whole, split in ((digits.train, planted.train), (digits.test, planted.test)):
        label, inverted = split.samples.label, split.samples.groups["style"] == "inverted"
        np.testing.assert_array_equal(split.samples.sample_id, whole.samples.sample_id)
        np.testing.assert_array_equal(label, whole.samples.label)
        np.testing.assert_array_equal(split.images[inverted], 255 - whole.images[inverted])
        np.testing.assert_array_equal(split.images[~inverted], whole.images[~inverted])
        assert split.images.dtype == np.uint8
        for c in range(10):
            assert inverted[label == c].sum() == (round(0.2 * (label == c).sum()) if c < 5 else 0)


def test_the_control_has_the_same_groups_and_plain_images() -> None:
    digits, planted, control = load("digits"), load("planted:0.2"), load("unplanted:0.20")
    assert control.name == "unplanted:0.2"
    for name in ("train", "test"):
        whole, split, other = (getattr(data, name) for data in (digits, control, planted))
        np.testing.assert_array_equal(split.images, whole.images)
        np.testing.assert_array_equal(split.samples.groups["style"], other.samples.groups["style"])
    # Members trained on the digits serve the control as well: groups are no part of the data.
    assert control.fingerprint() == digits.fingerprint() != planted.fingerprint()


def test_a_larger_share_holds_the_smaller_ones() -> None:
    small, large = (load(f"planted:{s}").test.samples.groups["style"] == "inverted" for s in (0.05, 0.5))
    assert 0 < small.sum() < large.sum()
    assert large[small].all()


@pytest.mark.parametrize("name", ["planted:0", "planted:0.6", "unplanted:-1", "planted:nan", "planted:many"])
def test_a_share_that_is_no_minority_is_refused(name: str) -> None:
    kind = name.split(":")[0]
    with pytest.raises(InputError, match=rf"^{kind}:SHARE needs a share in \(0, 0.5\]"):
        load(name)


def test_its_only_column_is_the_style() -> None:
    def named(*columns: str) -> ImageData:
        spec = AttributeSpec(group_columns=columns)
        return load_data("planted:0.2", data_dir=None, download=False, attributes=spec)

    assert list(named("style").test.samples.groups) == ["style"]
    with pytest.raises(InputError, match="--group-columns sex: the only column of planted is style"):
        named("sex")
