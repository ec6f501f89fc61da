import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score

import pie_report
from pie_report.compare import compare, describe_pair, load_pair
from population.errors import InputError
from population.predictions import Predictions

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
N, CLASSES = 60, ("ant", "bee", "cat")


def arrays(k: int = 4, *, seed: int, errors: float = 0.2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.random.default_rng(0).integers(0, 3, N)
    wrong = rng.random((k, N)) < errors
    predicted = np.where(wrong, (label + rng.integers(1, 3, (k, N))) % 3, label)
    return {
        "sample_id": np.array([f"s{i:02d}" for i in range(N)]),
        "predicted": predicted,
        "label": label,
        "class_names": np.array(CLASSES),
    }


def write(path: Path, content: dict[str, np.ndarray], *without: str) -> Path:
    np.savez(path, **{name: a for name, a in content.items() if name not in without})
    return path


def by_hand(predicted: np.ndarray) -> list[int]:
    """Most frequent class of each image, the smallest of several."""
    return [
        min(c for c, n in Counter(col).items() if n == max(Counter(col).values()))
        for col in predicted.T.tolist()
    ]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write(tmp_path / "a.npz", arrays(5, seed=1)),
        write(tmp_path / "b.npz", arrays(4, seed=2, errors=0.5)),
    )


def test_numbers_are_those_of_scikit_learn_and_of_counting(pair: tuple[Path, Path]) -> None:
    dense, compressed = load_pair(*pair)
    report = compare(dense, compressed, design="independent", seed=3)
    document = report.document
    jsonschema.validate(document, SCHEMA)
    sides = arrays(5, seed=1), arrays(4, seed=2, errors=0.5)
    label = sides[0]["label"]
    condition = document["compressed"][0]
    for found, side in zip((document["dense"], condition), sides, strict=True):
        expected = np.mean([accuracy_score(label, row) for row in side["predicted"]])
        assert found["accuracy"]["mean"] == pytest.approx(expected)
        assert found["k"] == len(side["predicted"])
    recalls = [
        np.mean([recall_score(label, row, average=None) for row in side["predicted"]], axis=0)
        for side in sides
    ]
    assert [row["name"] for row in condition["classes"]] == list(CLASSES)
    assert [row["n"] for row in condition["classes"]] == np.bincount(label).tolist()
    np.testing.assert_allclose([row["recall_dense"] for row in condition["classes"]], recalls[0])
    np.testing.assert_allclose([row["recall_compressed"] for row in condition["classes"]], recalls[1])
    np.testing.assert_allclose([row["recall"] for row in document["dense"]["per_class"]], recalls[0])

    modes = [by_hand(side["predicted"]) for side in sides]
    pies = [i for i in range(N) if modes[0][i] != modes[1][i]]
    assert condition["pies"]["count"] == len(pies) > 0
    assert condition["pies"]["share"] == pytest.approx(len(pies) / N)
    assert condition["pies"]["forgotten"] == sum(modes[0][i] == label[i] for i in pies)
    assert condition["pies"]["gained"] == sum(modes[1][i] == label[i] for i in pies)
    assert condition["pies"]["excess"] == pytest.approx(len(pies) - condition["pies"]["expected_null"])
    table = report.tables["pies"]
    assert set(table["condition"]) == {"compressed"}
    assert table.loc[table["pie"], "sample_id"].tolist() == [f"s{i:02d}" for i in pies]
    assert table["modal_dense"].tolist() == [CLASSES[m] for m in modes[0]]


def test_what_a_comparison_cannot_know_is_null(pair: tuple[Path, Path]) -> None:
    document = compare(*load_pair(*pair), design="independent", seed=0).document
    assert document["baselines"] is None
    assert document["dense"]["cost"] is None
    assert document["dense"]["accuracy_reestimated"] is None
    condition = document["compressed"][0]
    assert [condition[n] for n in ("method", "amount", "repair", "cost", "cka", "attribution")] == [None] * 6
    spec = document["spec"]
    assert (spec["command"], spec["design"], spec["seed"]) == ("compare", "independent", 0)
    assert spec["command_line"] == "pie compare DENSE.npz COMPRESSED.npz --design independent --seed 0"
    assert {spec[n] for n in ("model", "data", "members", "probe", "repair", "device", "training")} == {None}
    assert document["environment"]["torch"] is None
    assert document["data"]["class_names"] == list(CLASSES)
    assert document["data"]["n_test"] == N


def test_without_labels_what_needs_them_is_null(tmp_path: Path) -> None:
    a = write(tmp_path / "a.npz", arrays(seed=1), "label", "class_names")
    b = write(tmp_path / "b.npz", arrays(seed=2), "label", "class_names")
    report = compare(*load_pair(a, b), design="paired", seed=0)
    jsonschema.validate(report.document, SCHEMA)
    condition = report.document["compressed"][0]
    assert report.document["dense"]["accuracy"] is report.document["dense"]["per_class"] is None
    assert condition["accuracy"] is condition["classes"] is condition["pies"]["forgotten"] is None
    assert condition["pies"]["excess"] is None  # a paired design
    assert report.document["data"]["class_names"] is None
    assert "classes" not in report.tables
    assert report.tables["pies"]["modal_dense"].isin(["0", "1", "2"]).all()


@pytest.mark.parametrize("side", ["a", "b"])
def test_labels_and_names_of_one_file_serve_both(tmp_path: Path, side: str) -> None:
    without = {"a": (), "b": ()} | {side: ("label", "class_names")}
    files = [write(tmp_path / f"{s}.npz", arrays(seed=n), *without[s]) for n, s in enumerate("ab")]
    full = [write(tmp_path / f"full-{s}.npz", arrays(seed=n)) for n, s in enumerate("ab")]
    found = compare(*load_pair(*files), design="paired", seed=0).document
    assert found == compare(*load_pair(*full), design="paired", seed=0).document


def test_samples_are_matched_by_id(tmp_path: Path) -> None:
    content = arrays(seed=2)
    order = np.random.default_rng(5).permutation(N)
    mixed = {n: a[..., order] if n != "class_names" else a for n, a in content.items()}
    a = write(tmp_path / "a.npz", arrays(seed=1))
    straight = compare(*load_pair(a, write(tmp_path / "b.npz", content)), design="paired", seed=0)
    found = compare(*load_pair(a, write(tmp_path / "c.npz", mixed)), design="paired", seed=0)
    assert found.document == straight.document
    assert found.tables["pies"].equals(straight.tables["pies"])


def test_equal_predictions_have_no_pies(tmp_path: Path) -> None:
    a = write(tmp_path / "a.npz", arrays(seed=1))
    document = compare(*load_pair(a, a), design="paired", seed=0).document
    condition = document["compressed"][0]
    assert condition["pies"]["count"] == 0
    assert condition["pies"]["p_value"] == 1
    assert all(row["delta"] == 0 for row in condition["classes"])


def test_the_fingerprint_tells_files_apart_and_the_seed_repeats(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    dense, compressed = load_pair(*pair)
    sections = describe_pair(dense, compressed, design="independent", seed=0)
    assert sections == describe_pair(*load_pair(*pair), design="independent", seed=0)
    content = arrays(4, seed=2, errors=0.5)
    content["predicted"][0, 0] = (content["predicted"][0, 0] + 1) % 3
    other = describe_pair(
        *load_pair(pair[0], write(tmp_path / "c.npz", content)), design="independent", seed=0
    )
    assert other["data"]["fingerprint"] != sections["data"]["fingerprint"]
    assert describe_pair(compressed, dense, design="independent", seed=0)["data"] != sections["data"]
    runs = [compare(dense, compressed, design="independent", seed=s).document for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("k", "arguments", "message"),
    [
        ((4, 4), {"design": "paird", "seed": 0}, "unknown design 'paird' .did you mean 'paired'"),
        ((4, 4), {"design": "paired", "seed": -1}, "--seed must not be negative"),
        ((4, 3), {"design": "paired", "seed": 0}, "a paired design needs equal K, not 4 and 3"),
        (
            (1, 4),
            {"design": "independent", "seed": 0},
            "at least 2 models are needed on each side, or 1 on both, not 1 and 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, k: tuple[int, int], arguments: dict[str, Any], message: str
) -> None:
    files = [write(tmp_path / f"{n}.npz", arrays(k[n], seed=n)) for n in (0, 1)]
    with pytest.raises(InputError, match=message):
        compare(*load_pair(*files), **arguments)


def test_labels_that_differ_are_refused(tmp_path: Path) -> None:
    other = arrays(seed=2)
    other["label"] = (other["label"] + 1) % 3
    pair = load_pair(write(tmp_path / "a.npz", arrays(seed=1)), write(tmp_path / "b.npz", other))
    with pytest.raises(InputError, match="disagree on the true labels"):
        compare(*pair, design="paired", seed=0)


def test_torch_is_not_needed(pair: tuple[Path, Path]) -> None:
    script = (
        "import sys; from pie_report.compare import compare, load_pair; from pathlib import Path;"
        "pair = load_pair(*map(Path, sys.argv[1:]));"
        "assert isinstance(compare(*pair, design='independent', seed=0).document, dict);"
        "print(sorted({'torch', 'torchvision', 'lightly', 'captum'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, pair)], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_predictions_of_this_toolkit_are_accepted(tmp_path: Path) -> None:
    Predictions(**arrays(seed=1)).save(tmp_path / "a.npz")  # type: ignore[arg-type]
    dense, compressed = load_pair(tmp_path / "a.npz", tmp_path / "a.npz")
    np.testing.assert_array_equal(dense.predicted, compressed.predicted)
