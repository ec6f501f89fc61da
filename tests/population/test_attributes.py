from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from population.attributes import check_groups, groups_of, read_attributes
from population.errors import InputError
from population.samples import SampleSet

IDS = np.array(["b.png", "a/c.png"])


def write(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path = folder / "attributes.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_are_those_of_the_images_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, "sex, note,file,age\n f ,x,a/c.png,NA\nm,y,b.png,007\nf,z,gone.png,\n")
    table = read_attributes(path, ["age", "sex"])
    rows = table.rows(IDS)
    assert rows.index.tolist() == ["b.png", "a/c.png"]
    assert rows.to_dict("list") == {"age": ["007", "NA"], "sex": ["m", "f"]}
    assert table.left_out(IDS) == 1


def test_spreadsheets_mark_their_files_and_other_programs_say_sample_id(tmp_path: Path) -> None:
    path = write(tmp_path, "sample_id,sex\r\nb.png,ü\r\na/c.png,m\r\n", encoding="utf-8-sig")
    assert read_attributes(path, ["sex"]).rows(IDS)["sex"].tolist() == ["ü", "m"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,sex\nb.png,m\n", "must have one column of ids, file or sample_id; its columns are name, sex"),
        ("file,sample_id,sex\nb.png,1,m\n", "must have one column of ids"),
        ("file,sexx\nb.png,m\n", "has no column 'sex' to use; it has sexx"),
        ("file\nb.png\n", "has no column 'sex' to use; it has none"),
        ("file,sex\n", "has no rows"),
        ("file,sex\nb.png,m\na/c.png,f\nb.png,m\n", "has the file 'b.png' more than once"),
        ("file,sex\nb.png,m\n", "has no row for 1 of 2 images, for example 'a/c.png'"),
        ("file,sex\nx/b.png,m\n", "these are called like 'b.png', the rows' like 'x/b.png'"),
        ("file,sex\nb.png,m\na/c.png,  \n", "column 'sex' is empty for 'a/c.png'"),
        ("file,sex\nb.png\n", "line 2: 1 cells under 2 column names"),
        ("file,sex,sex\nb.png,m,m\n", "every column needs a name of its own"),
        ("", "must have one column of ids"),
    ],
)
def test_a_table_that_does_not_do_is_an_input_error(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_attributes(path, ["sex"]).rows(IDS)
    assert str(path) in str(caught.value)


def test_files_that_are_absent_or_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--groups: no such file"):
        read_attributes(tmp_path / "gone.csv", ["sex"])
    with pytest.raises(InputError, match="not a readable CSV file in UTF-8"):
        read_attributes(write(tmp_path, "file,sex\nb.png,ü\n", encoding="latin-1"), ["sex"])


def test_columns_that_cannot_divide_images() -> None:
    many = pd.DataFrame({"a": np.arange(101).astype(str)})
    check_groups(many.head(100))
    with pytest.raises(InputError, match="--group-columns a make 101 groups, more than 100"):
        check_groups(many)
    crossed = pd.DataFrame({"a": [str(i // 11) for i in range(121)], "b": [str(i % 11) for i in range(121)]})
    with pytest.raises(InputError, match="--group-columns a b make 121 groups"):
        check_groups(crossed)
    with pytest.raises(InputError, match="all 2 images to compare have the sex 'm'"):
        check_groups(pd.DataFrame({"sex": ["m", "m"]}))
    with pytest.raises(InputError, match="no column may be called 'all'"):
        check_groups(pd.DataFrame({"all": ["m", "f"]}))


def test_groups_of_samples_are_a_table() -> None:
    samples = SampleSet(IDS, np.array([0, 0]), ("x",), {"sex": np.array(["m", "f"])})
    table = groups_of(samples)
    assert table is not None
    assert table.to_dict() == {"sex": {"b.png": "m", "a/c.png": "f"}}
    assert groups_of(SampleSet(IDS, np.array([0, 0]), ("x",))) is None
