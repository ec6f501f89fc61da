"""Image folders whose labels and groups are in a table."""

import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from population.errors import InputError
from population.spec import AttributeSpec
from ssl_models import ImageData, load_data


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(path)


def load(root: Path, table: Path, **options: object) -> ImageData:
    spec = AttributeSpec(groups=str(table), **options)  # type: ignore[arg-type]
    return load_data(f"imagefolder:{root}", data_dir=None, download=False, attributes=spec)


@pytest.fixture
def flat(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    """60 images in one folder, and what is known of them; the grey level is the age."""
    rows = [(f"{i:03d}.png", i, "mf"[i % 2], f"r{i % 3}") for i in range(60)]
    for name, age, *_ in rows:
        save(tmp_path / "faces" / name, age)
    return tmp_path / "faces", pd.DataFrame(rows, columns=["file", "age", "sex", "race"])


def write(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False)
    return path


def test_a_flat_folder_takes_classes_and_groups_from_the_table(
    flat: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    root, table = flat
    path = write(table.sample(frac=1, random_state=0), tmp_path / "t.csv")
    data = load(root, path, label_column="age", label_bins=(20, 40), group_columns=("race", "sex"))
    assert data.name == "imagefolder:faces"
    assert data.test.samples.class_names == ("under 20", "20-39", "40+")
    everything = 0
    for split in (data.train, data.test):
        for name, label, image in zip(
            split.samples.sample_id, split.samples.label, split.images, strict=True
        ):
            age = int(name.removesuffix(".png"))
            assert label == (age >= 20) + (age >= 40)
            assert (image == age).all()
            everything += 1
    assert everything == 60
    ids = data.test.samples.sample_id
    known = table.set_index("file").loc[ids]
    assert list(data.test.samples.groups) == ["race", "sex"]
    assert data.test.samples.groups["sex"].tolist() == known["sex"].tolist()
    assert data.test.samples.groups["race"].tolist() == known["race"].tolist()


def test_groups_do_not_change_the_data_and_labels_do(flat: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    root, table = flat
    path = write(table, tmp_path / "t.csv")
    whole = load(root, path, label_column="sex").fingerprint()
    assert load(root, path, label_column="sex", group_columns=("race",)).fingerprint() == whole
    assert load(root, path, label_column="race").fingerprint() != whole
    banded = [load(root, path, label_column="age", label_bins=b).fingerprint() for b in ((20,), (21,))]
    assert len({whole, *banded}) == 3


def test_class_folders_may_have_groups_and_keep_their_classes(tmp_path: Path) -> None:
    for c in ("cat", "dog"):
        for i in range(20):
            save(tmp_path / "pets" / c / f"{i}.png", i)
    names = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(20)]
    table = pd.DataFrame({"file": names, "place": ["in" if i % 3 else "out" for i in range(40)]})
    path = write(table, tmp_path / "t.csv")
    plain = load_data(f"imagefolder:{tmp_path / 'pets'}", data_dir=None, download=False)
    data = load(tmp_path / "pets", path, group_columns=("place",))
    assert data.test.samples.class_names == ("cat", "dog")
    assert data.fingerprint() == plain.fingerprint()
    wanted = table.set_index("file").loc[data.test.samples.sample_id, "place"]
    assert data.test.samples.groups["place"].tolist() == wanted.tolist()
    # The label column takes the place of the folders.
    other = load(tmp_path / "pets", path, label_column="place")
    assert other.test.samples.class_names == ("in", "out")


def test_a_divided_folder_stays_divided(tmp_path: Path) -> None:
    names = [f"{part}/{i}.png" for part in ("train", "test") for i in range(6)]
    for i, name in enumerate(names):
        save(tmp_path / "d" / name, i)
    path = write(pd.DataFrame({"file": names, "kind": list("ab") * 6}), tmp_path / "t.csv")
    data = load(tmp_path / "d", path, label_column="kind")
    assert sorted(data.test.samples.sample_id) == sorted(names[6:])
    assert sorted(data.train.samples.sample_id) == sorted(names[:6])


def test_rows_of_other_images_are_left_out_and_counted(
    flat: tuple[Path, pd.DataFrame], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, table = flat
    extra = pd.DataFrame([("gone.png", "", "", "")] * 1 + [("lost.png", 7, "m", "")], columns=table.columns)
    path = write(pd.concat([table, extra]), tmp_path / "t.csv")
    with caplog.at_level(logging.WARNING):
        data = load(root, path, label_column="sex", group_columns=("race",))
    assert caplog.messages == [f"{path}: 2 rows of images that imagefolder:faces does not have left out"]
    assert len(data.train.samples) + len(data.test.samples) == 60


def test_other_data_may_have_groups_too(tmp_path: Path) -> None:
    digits = load_data("digits", data_dir=None, download=False)
    ids = digits.test.samples.sample_id
    path = write(pd.DataFrame({"sample_id": ids, "odd": digits.test.samples.label % 2}), tmp_path / "t.csv")
    spec = AttributeSpec(groups=str(path), group_columns=("odd",))
    data = load_data("digits", data_dir=None, download=False, attributes=spec)
    assert data.test.samples.groups["odd"].tolist() == (digits.test.samples.label % 2).astype(str).tolist()
    assert data.fingerprint() == digits.fingerprint()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"label_column": "gender"}, "has no column 'gender' to use; it has age, sex, race"),
        ({}, {"label_column": "file"}, "has no column 'file' to use"),
        ({"drop": 3}, {"label_column": "sex"}, "has no row for 1 of 60 images, for example '003.png'"),
        ({"twice": 3}, {"label_column": "sex"}, "has the file '003.png' more than once"),
        ({"empty": "sex"}, {"label_column": "sex"}, "column 'sex' is empty for '005.png'"),
        ({"empty": "race"}, {"label_column": "sex", "group_columns": ("race",)}, "'race' is empty"),
        ({"rename": "x/"}, {"label_column": "sex"}, "called like '000.png', the rows' like 'x/000.png'"),
        ({}, {"label_column": "age"}, "column 'age' has 60 different numbers, too many for classes"),
        ({}, {"label_column": "age", "label_bins": (200.0,)}, "puts all 60 images into one class"),
        ({}, {"label_column": "sex", "label_bins": (1.0,)}, "has the value 'm', which --label-bins cannot"),
        ({}, {"label_column": "age", "label_bins": (1.0,)}, "class 'under 1' in .* has too few images"),
        ({"set": ("race", "r")}, {"label_column": "sex", "group_columns": ("race",)}, "have the race 'r'"),
    ],
)
def test_a_table_that_does_not_do(
    flat: tuple[Path, pd.DataFrame],
    tmp_path: Path,
    change: dict[str, object],
    options: dict[str, object],
    message: str,
) -> None:
    root, table = flat
    table = table.astype(str)
    match change:
        case {"drop": row}:
            table = table.drop(index=row)
        case {"twice": row}:
            table = pd.concat([table, table.loc[[row]]])
        case {"empty": column}:
            table.loc[5, column] = ""
        case {"rename": prefix}:
            table["file"] = str(prefix) + table["file"]
        case {"set": (column, value)}:
            table[column] = value
    path = write(table, tmp_path / "t.csv")
    with pytest.raises(InputError, match=message):
        load(root, path, **options)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    path = write(pd.DataFrame({"file": ["a.png"], "x": ["y"]}), tmp_path / "t.csv")
    with pytest.raises(InputError, match="none has no images"):
        load(tmp_path / "none", path, label_column="x")


def test_a_flat_folder_without_a_table_is_told_of_it(flat: tuple[Path, pd.DataFrame]) -> None:
    with pytest.raises(InputError, match="give --groups FILE --label-column COLUMN"):
        load_data(f"imagefolder:{flat[0]}", data_dir=None, download=False)


def test_utkface_ages_with_groups_of_gender_and_race(tmp_path: Path) -> None:
    if "PIE_TEST_DATA" not in os.environ:
        pytest.skip("set PIE_TEST_DATA to a folder with utkface")
    source = Path(os.environ["PIE_TEST_DATA"], "utkface")
    with zipfile.ZipFile(source / "images.zip") as archive:
        archive.extractall(tmp_path)
    bins, columns = (20.0, 40.0, 60.0), ("gender", "race")
    table = source / "attributes.csv"
    data = load(tmp_path / "images", table, label_column="age", label_bins=bins, group_columns=columns)
    assert data.test.samples.class_names == ("under 20", "20-39", "40-59", "60+")
    assert data.train.images.shape[1:] == (3, 64, 64)
    counts = sum(np.bincount(split.samples.label) for split in (data.train, data.test))
    assert counts.tolist() == [625, 1627, 495, 253]
    groups = data.test.samples.groups
    assert {name: len(np.unique(column)) for name, column in groups.items()} == {"gender": 2, "race": 5}
    # The names of the files say the same: age, gender, race.
    for name, gender, race in zip(data.test.samples.sample_id, groups["gender"], groups["race"], strict=True):
        assert name.split("_")[1:3] == [gender, race]
