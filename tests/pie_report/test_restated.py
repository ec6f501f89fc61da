import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

import pie_report
from figures import thesis
from pie_report import cli
from population.predictions import Predictions
from population.store import file_digest

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
N = 200
IDS = np.array([f"s{i}" for i in range(N)])

Complaint = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thesis, "FIGURES", {})
        yield


def write_predictions(path: Path, *, seed: int, errors: float) -> str:
    rng, label = np.random.default_rng(seed), np.random.default_rng(0).integers(0, 3, N)
    wrong = rng.random((5, N)) < errors * np.linspace(0.2, 1.8, N)
    predicted = np.where(wrong, (label + rng.integers(1, 3, (5, N))) % 3, label)
    probabilities = np.full((5, N, 3), 0.2, dtype=np.float32)
    np.put_along_axis(probabilities, predicted[..., None], 0.6, axis=2)
    Predictions(IDS, predicted, label, rng.random((5, N)), probabilities).save(path)
    return str(path)


def write_side_data(path: Path) -> str:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"sample_id": IDS, "human_entropy": rng.random(N), "error": rng.random(N) < 0.2})
    table.to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that compares two files, with a seed of its own."""
    folder = tmp_path_factory.mktemp("files")
    pairs = (("dense", 0.2), ("compressed", 0.5))
    files = [write_predictions(folder / f"{n}.npz", seed=i, errors=e) for i, (n, e) in enumerate(pairs, 1)]
    return ["compare", *files, "--design", "paired", "--seed", "3"]


@pytest.fixture(scope="module")
def compared(compare: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "run"
    assert cli.main([*compare, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(compared: Path, tmp_path: Path) -> Path:
    """A copy of the comparison."""
    return shutil.copytree(compared, tmp_path / "run")


@pytest.fixture
def complaint(run: Path, capsys: pytest.CaptureFixture[str]) -> Complaint:
    """Runs ``pie stats``, which must be refused and change nothing, and returns what it says."""

    def refused(*options: str) -> str:
        before = contents(run)
        assert cli.main(["stats", str(run), *options]) == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
        assert contents(run) == before
        return printed.err

    return refused


def test_the_same_predictions_give_the_same_bytes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    assert cli.main(["stats", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'index.html'}\n"
    assert contents(run) == before
    assert {"predictions/dense.npz", "predictions/condition-1.npz", "tables/class_rates.csv"} <= set(before)


def test_statistics_are_computed_and_not_kept(run: Path) -> None:
    before = contents(run)
    document = json.loads(before["report.json"])
    document["compressed"][0]["statistics"]["flips"]["total"]["mean"] = 0.123
    (run / "report.json").write_text(json.dumps(document))
    (run / "tables" / "rarefaction.csv").unlink()
    (run / "tables" / "flags.csv").write_text("condition,flag,n\ncompressed,old,1\n")
    assert cli.main(["stats", str(run)]) == 0
    assert contents(run) == before


def test_side_data_are_added_and_taken_away_again(
    run: Path, compare: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, side = contents(run), write_side_data(tmp_path / "side.csv")
    assert cli.main(["stats", str(run), "--side-labels", side, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, SCHEMA)
    digest, spec = file_digest(tmp_path / "side.csv")[:16], json.loads(before["report.json"])["spec"]
    command_line = f"{spec['command_line']} --side-labels FILE"
    assert document["spec"] == spec | {"side_labels": digest, "command_line": command_line}
    found = document["compressed"][0]["statistics"]
    assert [row["score"] for row in found["difficulty"]["scores"]] == [
        "mean_margin", "vote_agreement", "vote_entropy", "ensemble_entropy", "el2n", "human_entropy",
    ]  # fmt: skip
    assert [row["flag"] for row in found["flags"]] == ["error"]
    scores = pd.read_csv(run / "tables" / "difficulty.csv")["score"].tolist()
    assert scores == [row["score"] for row in found["difficulty"]["scores"]]
    assert pd.read_csv(run / "tables" / "flags.csv")["flagged"].tolist() == [found["flags"][0]["flagged"]]
    assert f"digest <code>{digest}</code>" in (run / "index.html").read_text()

    # as if the comparison had had them from the start
    whole = tmp_path / "whole"
    assert cli.main([*compare, "--side-labels", side, "--out", str(whole)]) == 0
    assert contents(whole) == contents(run)

    assert cli.main(["stats", str(run)]) == 0
    assert contents(run) == before


def test_scores_in_the_folder_are_used_again(
    run: Path, complaint: Complaint, capsys: pytest.CaptureFixture[str]
) -> None:
    depth, place = np.random.default_rng(2).random(N) * 9, run / "tables" / "scores.csv"
    table = pd.DataFrame({"sample_id": IDS, "prediction_depth": depth})
    table.to_csv(place, index=False)
    assert cli.main(["stats", str(run)]) == 0
    scores = pd.read_csv(run / "tables" / "difficulty.csv")["score"].tolist()
    assert scores[-2:] == ["el2n", "prediction_depth"]
    capsys.readouterr()
    table[1:].to_csv(place, index=False)
    assert "tables/scores.csv is of other images than the predictions" in complaint()
    table[["prediction_depth"]].to_csv(place, index=False)
    assert "tables/scores.csv lacks the column sample_id" in complaint()


def test_groups_are_added_and_kept(
    run: Path, compare: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({"sample_id": IDS, "all ears": ["NA", "007"] * (N // 2), "x": np.arange(N) % 3})
    table.to_csv(tmp_path / "g.csv", index=False)
    option = ["--groups", str(tmp_path / "g.csv"), "--group-columns", "x", "all ears"]
    assert cli.main(["stats", str(run), *option, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, SCHEMA)
    spec = document["spec"]
    assert spec["command_line"].endswith(" --groups FILE --group-columns x 'all ears'")
    assert (spec["groups"]["columns"], spec["groups"]["from_file"]) == (["x", "all ears"], True)
    found = document["compressed"][0]["statistics"]
    names = ["x"] * 3 + ["all ears"] * 2 + ["x × all ears"] * 6
    assert [row["grouping"] for row in found["groups"]["accuracy"]] == names
    assert [row["group"] for row in found["groups"]["pies"]][3:6] == ["007", "NA", "0 × 007"]
    assert {row["grouping"] for row in found["calibration"]} == {"all", *names}
    rates = pd.read_csv(run / "tables" / "group_rates.csv", keep_default_na=False)
    assert rates["positive"].unique().tolist() == ["", "0", "1", "2"]

    # kept in the run, and with other groups replaced
    before = contents(run)
    assert cli.main(["stats", str(run)]) == 0
    assert contents(run) == before
    other = [*option[:3], "x"]
    assert cli.main(["stats", str(run), *other]) == 0
    assert json.loads((run / "report.json").read_text())["spec"]["groups"]["columns"] == ["x"]

    # as if the comparison had had them from the start
    whole = tmp_path / "whole"
    assert cli.main([*compare, *other, "--out", str(whole)]) == 0
    assert contents(whole) == contents(run)


@pytest.mark.parametrize("name", ["dense", "condition-1"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "no such predictions file: {}"),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), "{} is not a readable npz"),
        (lambda path: np.savez(path, sample_id=IDS), "{} lacks predicted"),
        (lambda path: np.savez(path, sample_id=IDS[1:], predicted=np.zeros((5, N - 1), int)), "samples"),
    ],
)
def test_missing_and_damaged_predictions_are_named(
    complaint: Complaint, run: Path, name: str, damage: Callable[[Path], None], expected: str
) -> None:
    path = run / "predictions" / f"{name}.npz"
    damage(path)
    assert expected.format(path) in complaint()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("absent.csv", None, "no such file of side data"),
        ("side.txt", "sample_id,x\ns0,1\n", "must be a .csv or .npz file"),
        ("side.csv", "sample_id,x\ns0,1,2\n", "3 cells under 2 column names"),
        ("side.csv", "sample_id,x\nother,0.5\n", "no sample_id of"),
        ("side.csv", "sample_id,x\ns0,0.5\ns0,0.5\n", "more than once"),
        ("side.csv", "sample_id,el2n\ns0,0.5\n", "--side-labels: el2n is computed here"),
    ],
)
def test_a_bad_file_of_side_data_changes_nothing(
    complaint: Complaint, tmp_path: Path, name: str, content: str | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert expected in complaint("--side-labels", str(tmp_path / name))


def test_only_a_run_has_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err == f"pie: {tmp_path / 'absent'} is not a run: it has no report.json\n"
    assert not (tmp_path / "absent").exists()
