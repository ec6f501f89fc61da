import errno
import os

import pytest

from population.errors import InputError, disk_is_full, unknown_name


def test_the_nearest_name_is_suggested() -> None:
    error = unknown_name("model", "simclr_r81", ["supervised_r18", "simclr_r18", "byol_r18"])
    assert isinstance(error, InputError)
    assert str(error) == (
        "unknown model 'simclr_r81' (did you mean 'simclr_r18'?);"
        " allowed: byol_r18, simclr_r18, supervised_r18"
    )


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert (
        str(unknown_name("probe", "xyz", ["refit", "frozen"]))
        == "unknown probe 'xyz'; allowed: frozen, refit"
    )


def test_an_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_words(code: int) -> None:
    assert disk_is_full(OSError(code, os.strerror(code), "file"))
    assert disk_is_full(RuntimeError(f"I/O error: {os.strerror(code)} (os error {code})"))


def test_other_errors_are_no_full_disk() -> None:
    assert not disk_is_full(OSError(errno.EACCES, os.strerror(errno.EACCES), "file"))
    assert not disk_is_full(RuntimeError("the disk"))
