import dataclasses

import numpy as np
import pytest

from figures.gallery import Exhibits
from population.errors import InputError


def nothing() -> Exhibits:
    return Exhibits(
        sample_id=np.array([], dtype=str),
        image=np.zeros((0, 8, 8, 3), np.uint8),
        map_condition=np.array([], dtype=str),
        map_sample_id=np.array([], dtype=str),
        map_dense=np.zeros((0, 8, 8), np.float32),
        map_compressed=np.zeros((0, 8, 8), np.float32),
    )


def test_what_is_saved_is_loaded(exhibits, tmp_path):
    exhibits.save(tmp_path / "exhibits.npz")
    loaded = Exhibits.load(tmp_path / "exhibits.npz")
    for field in dataclasses.fields(Exhibits):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(exhibits, field.name))


def test_equal_exhibits_give_equal_bytes(exhibits, tmp_path):
    exhibits.save(tmp_path / "a.npz")
    Exhibits.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_no_pies_are_allowed(tmp_path):
    nothing().save(tmp_path / "none.npz")
    assert len(Exhibits.load(tmp_path / "none.npz").sample_id) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {"image": e.image.astype(np.float32)}, "uint8"),
        (lambda e: {"image": e.image[..., :1]}, "H, W, 3"),
        (lambda e: {"image": e.image[1:]}, "H, W, 3"),
        (lambda e: {"sample_id": np.repeat(e.sample_id[:1], len(e.sample_id))}, "repeated"),
        (lambda e: {"map_condition": e.map_condition[1:]}, "one condition"),
        (lambda e: {"map_sample_id": np.full(len(e.map_sample_id), e.sample_id[0])}, "two pairs"),
        (lambda e: {"map_sample_id": np.array([f"x{i}" for i in range(len(e.map_sample_id))])}, "no image"),
        (lambda e: {"map_dense": e.map_dense.astype(np.float64)}, "map_dense must be float32"),
        (lambda e: {"map_compressed": e.map_compressed[:, 1:]}, "images are"),
        (lambda e: {"map_dense": e.map_dense * np.float32("nan")}, "NaN"),
    ],
)
def test_inconsistent_parts_are_refused(exhibits, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(exhibits, **change(exhibits))


def test_absent_damaged_and_foreign_files_are_refused(exhibits, tmp_path):
    with pytest.raises(InputError, match="no such"):
        Exhibits.load(tmp_path / "absent.npz")
    exhibits.save(tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable npz"):
        Exhibits.load(tmp_path / "cut.npz")
    np.savez(tmp_path / "foreign.npz", image=exhibits.image)
    with pytest.raises(InputError, match="lacks map_compressed, map_condition"):
        Exhibits.load(tmp_path / "foreign.npz")
