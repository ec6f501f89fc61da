import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from pie.difficulty import flag_rates
from pie.side_data import read_side_data
from population.errors import InputError

IDS = np.array([f"test/{i:05d}" for i in range(5)])


def written(folder: Path, text: str) -> Path:
    path = folder / "side.csv"
    path.write_text(text, encoding="utf-8")
    return path


def cells(column: "pd.Series[float]") -> list[object]:
    return [None if missing else value for value, missing in zip(column, column.isna(), strict=True)]


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "entropy,sample_id,error,seen,rank\n"
        "0.5,test/00003,yes,1,2\n"
        "-1e-2,test/00001,no,1,1\n"
        "\n"
        ",test/00000,,0,NA\n"
        'nan,"train/00000",TRUE,0,0\n'
        "3,test/00004,False,,-1\n",
    )
    found = read_side_data(path, IDS)
    assert (found.known, found.unknown) == (4, 1)
    assert found.scores.index.tolist() == found.flags.index.tolist() == IDS.tolist()
    assert found.scores.index.name == "sample_id"
    assert found.scores.columns.tolist() == ["entropy", "rank"]
    assert found.flags.columns.tolist() == ["error", "seen"]
    assert (found.scores.dtypes == "Float64").all()
    assert (found.flags.dtypes == "boolean").all()
    assert cells(found.scores["entropy"]) == [None, -0.01, None, 0.5, 3]
    assert cells(found.scores["rank"]) == [None, 1, None, 2, -1]
    assert cells(found.flags["error"]) == [None, False, None, True, False]
    assert cells(found.flags["seen"]) == [False, True, None, True, None]


def test_the_docstrings_file_has_a_score_and_a_flag(tmp_path: Path) -> None:
    assert read_side_data.__doc__ is not None
    lines = [line.strip() for line in read_side_data.__doc__.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("sample_id,"))
    found = read_side_data(written(tmp_path, "\n".join(lines[start : start + 4])), IDS)
    assert cells(found.scores["human_entropy"]) == [0.0974, None, 0.6931, None, None]
    assert cells(found.flags["label_error"]) == [False, False, True, None, None]


def test_what_a_column_is_does_not_depend_on_which_samples_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "sample_id,n\ntest/00000,1\ntest/00001,0\nother,2\n")
    found = read_side_data(path, IDS)
    assert found.flags.shape == (5, 0)
    assert cells(found.scores["n"]) == [1, 0, None, None, None]


def test_pandas_own_files_come_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"score": [0.25, np.nan, 1e-7], "flag": [True, False, None]}, index=IDS[:3])
    table.to_csv(tmp_path / "a.csv", index_label="sample_id")
    found = read_side_data(tmp_path / "a.csv", IDS[[2, 1, 0]])
    assert cells(found.scores["score"]) == [1e-7, None, 0.25]
    assert cells(found.flags["flag"]) == [None, False, True]


def test_a_spreadsheets_mark_and_line_ends_are_no_part_of_the_names(tmp_path: Path) -> None:
    path = tmp_path / "Side.CSV"
    path.write_bytes(b"\xef\xbb\xbfsample_id,x\r\ntest/00000,2\r\n")
    assert cells(read_side_data(path, IDS[:1]).scores["x"]) == [2]


def test_arrays_are_read_as_the_same_csv_is(tmp_path: Path) -> None:
    arrays = {
        "sample_id": IDS[[4, 0, 2]],
        "truth": np.array([True, False, True]),
        "count": np.array([0, 1, 1]),
        "score": np.array([0.5, np.nan, 3], dtype=np.float32),
        "word": np.array(["yes", "", "no"]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    pd.DataFrame(arrays).to_csv(tmp_path / "a.csv", index=False)
    ours, text = (read_side_data(tmp_path / name, IDS) for name in ("a.npz", "a.csv"))
    assert ours.flags.columns.tolist() == ["truth", "count", "word"]
    assert cells(ours.scores["score"]) == [None, None, 3, None, 0.5]
    pd.testing.assert_frame_equal(ours.scores, text.scores)
    pd.testing.assert_frame_equal(ours.flags, text.flags)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=5, max_size=5),
    st.permutations(range(5)),
)
@settings(max_examples=50)
def test_numbers_come_back_exactly_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float], order: list[int]
) -> None:
    rows = "\n".join(f"{IDS[i]},{numbers[i]!r}" for i in order)
    path = written(tmp_path_factory.mktemp("side"), f"sample_id,x\n{rows}\n")
    found = read_side_data(path, IDS)
    both = pd.concat([found.scores, found.flags], axis=1)
    assert both["x"].astype(float).tolist() == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a column sample_id and at least one other; its columns are none"),
        (
            "id,x\ntest/00000,1\n",
            "must have a column sample_id and at least one other; its columns are id, x",
        ),
        ("sample_id;x\ntest/00000;1\n", "its columns are sample_id;x"),
        ("sample_id\ntest/00000\n", "at least one other; its columns are sample_id"),
        ("sample_id,x\n", "sample_id must be text, one id per row, not 0"),
        (
            "sample_id,x,x\ntest/00000,1,2\n",
            "every column needs a name of its own, not 'sample_id', 'x', 'x'",
        ),
        (",sample_id,x\n0,test/00000,2\n", "every column needs a name of its own, not '', 'sample_id', 'x'"),
        ("sample_id,x\ntest/00000,1\ntest/00001,1,2\n", "line 3: 3 cells under 2 column names"),
        ("sample_id,x\ntest/00000\n", "line 2: 1 cells under 2 column names"),
        ("sample_id,x\na,1\nb,1\na,1\n", "has the sample_id 'a' more than once"),
        (
            "sample_id,x\n12,1\n",
            r"no sample_id of .* is in the data; ids look like 'test/00000', .* like '12'",
        ),
        ("sample_id,x,who\ntest/00000,1,Ann\n", "column 'who' has the text 'Ann'; a column has numbers, or"),
        ("sample_id,x\ntest/00000,yes\ntest/00001,2\n", "column 'x' has numbers among words"),
        ("sample_id,x\ntest/00000,inf\n", "column 'x' has infinite numbers"),
        ("sample_id,x\ntest/00000,\ntest/00001,NA\n", "column 'x' has no value"),
        ('sample_id,x\ntest/00000,"1\n', "is not a readable CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_csv_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_side_data(written(tmp_path, text), IDS)


def test_what_is_no_csv_or_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no such file of side data: .*absent\.csv$"):
        read_side_data(tmp_path / "absent.csv", IDS)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match=r"must be a \.csv or \.npz file"):
        read_side_data(tmp_path / "a.json", IDS)
    (tmp_path / "a.csv").write_bytes(b"sample_id,x\ntest/00000,\xff\n")
    with pytest.raises(InputError, match="is not a readable CSV file in UTF-8"):
        read_side_data(tmp_path / "a.csv", IDS)
    for content in (b"", b"PK\x03\x04", b"no archive"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match="is not a readable npz of plain arrays"):
            read_side_data(tmp_path / "a.npz", IDS)
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "b.npz")
    with pytest.raises(InputError, match="is not a readable npz of plain arrays"):
        read_side_data(tmp_path / "b.npz", IDS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(5)}, "must have a column sample_id"),
        (
            {"sample_id": np.arange(5), "x": np.ones(5)},
            "sample_id must be text, one id per row, not 5 of type int",
        ),
        ({"sample_id": IDS, "x": np.ones((5, 2))}, r"all arrays must have one shape \(M,\), not"),
        ({"sample_id": IDS, "x": np.ones(4)}, r"all arrays must have one shape \(M,\), not"),
        (
            {"sample_id": IDS, "x": np.ones(5, dtype=complex)},
            "column 'x' must be of numbers or booleans, not",
        ),
        ({"sample_id": IDS, "x": np.array([1, 2, 3, 4, np.inf])}, "column 'x' has infinite numbers"),
        ({"sample_id": IDS, "x": np.full(5, np.nan)}, "column 'x' has no value"),
        ({"sample_id": IDS, "x": np.array(list("abcde"))}, "column 'x' has the text 'a'"),
    ],
)
def test_what_is_wrong_with_arrays_is_said(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        read_side_data(tmp_path / "a.npz", IDS)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.place,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    np.savez(tmp_path / "a.npz", sample_id=IDS, x=np.array([Trap(sprung)] * 5, dtype=object))
    with pytest.raises(InputError, match="is not a readable npz of plain arrays"):
        read_side_data(tmp_path / "a.npz", IDS)
    assert not sprung.exists()
    with np.load(tmp_path / "a.npz", allow_pickle=True) as archive:  # so the trap does work
        archive["x"]
    assert sprung.exists()


def test_a_damaged_array_is_an_error(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", sample_id=IDS, x=np.arange(5.0))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        start = archive.infolist()[1].header_offset
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[start + 60 : start + 90] = bytes(30)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="is not a readable npz of plain arrays"):
        read_side_data(tmp_path / "a.npz", IDS)


@pytest.fixture(scope="module")
def cifar10_labels() -> Path:
    if "PIE_TEST_DATA" not in os.environ:
        pytest.skip("PIE_TEST_DATA does not name a folder with cifar10_labels")
    return Path(os.environ["PIE_TEST_DATA"], "cifar10_labels")


def test_human_votes_and_label_errors_of_cifar10(cifar10_labels: Path, tmp_path: Path) -> None:
    votes = np.load(cifar10_labels / "cifar10h" / "cifar10h-counts.npy")
    judged = json.loads((cifar10_labels / "label_errors" / "cifar10_mturk.json").read_text())
    wrong = {row["id"] for row in judged if row["mturk"]["given"] < 3}
    shares = votes / votes.sum(axis=1, keepdims=True)
    nats = entropy(votes, axis=1)
    path = tmp_path / "cifar10.csv"
    with path.open("w") as file:
        file.write("sample_id,human_entropy,label_error\n")
        for i in np.random.default_rng(0).permutation(10_000):
            file.write(f"test/{i:05d},{nats[i]:.17g},{'yes' if i in wrong else 'no'}\n")

    ids = np.array([f"test/{i:05d}" for i in range(10_000)])
    found = read_side_data(path, ids)
    assert (found.known, found.unknown) == (10_000, 0)
    assert int(found.flags["label_error"].sum()) == 54
    assert set(np.flatnonzero(found.flags["label_error"])) == wrong
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    read = found.scores["human_entropy"].to_numpy(dtype=float)
    np.testing.assert_allclose(read, -(shares * logs).sum(axis=1), atol=1e-14)
    assert read.mean() == pytest.approx(-(shares * logs).sum() / 10_000)

    # Where people disagree with each other, labels are wrong more often.
    unsure = read > np.quantile(read, 0.9)
    row = flag_rates(unsure, found.flags).iloc[0]
    assert (row["n"], row["flagged"]) == (10_000, 54)
    assert row["low"] > 5
