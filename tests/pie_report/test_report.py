import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pie_report.report import Report, load_document
from population.errors import InputError
from population.predictions import Predictions

TEXT = {
    "axis", "class", "comparison", "condition", "design", "first", "flag", "group", "grouping", "images",
    "kind", "label", "layer", "layer_compressed", "layer_dense", "maps", "measure", "method",
    "modal_compressed", "modal_dense", "name", "outcome", "pair", "positive", "probe", "rate", "repair",
    "sample_id", "score", "scored_on", "second", "target", "votes_compressed", "votes_dense",
}  # fmt: skip
EMPTY: dict[str, Any] = {"schema": 2, "spec": {}, "data": {}, "dense": {}, "compressed": []}
ONE = {"dense": Predictions(np.array(["x"]), np.array([[0]]))}


def as_report(source: Any) -> Report:
    return Report(source.document, source.tables, source.exhibits, source.predictions)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_saved_is_loaded(report: Any, tmp_path: Path) -> None:
    as_report(report).save(tmp_path)
    loaded = Report.load(tmp_path)
    assert loaded.document == json.loads(json.dumps(report.document))
    assert set(loaded.tables) == set(report.tables)
    for name, table in report.tables.items():
        found = loaded.tables[name]
        assert list(found.columns) == list(table.columns)
        assert len(found) == len(table)
        for column in table.columns:
            if column in TEXT:
                expected = ["" if pd.isna(v) else str(v) for v in table[column]]
                assert found[column].tolist() == expected, (name, column)
            else:
                np.testing.assert_array_equal(
                    pd.to_numeric(found[column]).to_numpy(dtype=float, na_value=np.nan),
                    pd.to_numeric(table[column]).to_numpy(dtype=float, na_value=np.nan),
                    err_msg=f"{name}.{column}",
                )
    assert loaded.tables["pies"]["pie"].dtype == bool
    assert loaded.exhibits is not None
    np.testing.assert_array_equal(loaded.exhibits.image, report.exhibits.image)
    np.testing.assert_array_equal(loaded.exhibits.sample_id, report.exhibits.sample_id)
    assert list(loaded.predictions) == [
        "dense",
        "dense, re-estimated",
        *(c["condition"] for c in report.document["compressed"]),
    ]
    for name, expected in report.predictions.items():
        for field in ("sample_id", "predicted", "label", "class_names"):
            np.testing.assert_array_equal(getattr(loaded.predictions[name], field), getattr(expected, field))
        assert loaded.predictions[name].margin is loaded.predictions[name].probabilities is None


def test_loading_and_saving_again_gives_the_same_bytes(report: Any, tmp_path: Path) -> None:
    as_report(report).save(tmp_path / "a")
    Report.load(tmp_path / "a").save(tmp_path / "b")
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first == second
    assert {f"predictions/condition-{i}.npz" for i in (1, 2, 3)} <= first.keys()


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_survives(tmp_path: Path, names: list[str]) -> None:
    table = pd.DataFrame({"sample_id": names, "p_value": 0.5})
    Report(EMPTY, {"summary": table, "pies": table}, None, ONE).save(tmp_path)
    assert Report.load(tmp_path).tables["pies"]["sample_id"].tolist() == names


@pytest.mark.parametrize(
    "name", ["NA", "nan", "None", "True", "007", "1e5", " spaced ", 'quo"te', "a,b", "a\rb", "a\nb"]
)
def test_names_that_look_like_values_stay_names(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"sample_id": [name, "x"], "label": [name, ""], "margin_dense": [None, 0.25]})
    Report(EMPTY, {"summary": table, "pies": table}, None, ONE).save(tmp_path)
    found = Report.load(tmp_path).tables["pies"]
    assert found["sample_id"].tolist() == [name, "x"]
    assert found["label"].tolist() == [name, ""]
    assert found["margin_dense"].isna().tolist() == [True, False]
    assert found["margin_dense"].iloc[1] == 0.25


def test_a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Report(EMPTY | {"spec": {"x": float("nan")}}, {}, None, ONE).save(tmp_path)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("report.json", None, "is not a run: it has no report.json"),
        ("report.json", b"", "report.json is damaged"),
        ("report.json", b'{"schema": 2, "spec"', "report.json is damaged"),
        ("report.json", b"\xff\xfe", "report.json is damaged"),
        ("report.json", b"[1]", "is not a report of schema 2"),
        ("report.json", b'{"schema": 3, "spec": {}, "data": {}, "dense": {}, "compressed": []}', "schema 2"),
        ("report.json", b'{"name": "a package"}', "is not a report of schema 2"),
        ("report.json", b'{"schema": 2}', "is not a report of schema 2"),
        ("tables/pies.csv", None, "lacks tables/pies.csv"),
        ("tables/summary.csv", None, "lacks tables/summary.csv"),
        ("tables/pies.csv", b"", "a table in .* is damaged"),
        ("tables/pies.csv", b"sample_id,distance\nx,\xff\n", "a table in .* is damaged"),
        ("tables/pies.csv", b"sample_id,distance\nx,wide\n", "a table in .* is damaged"),
        ("exhibits.npz", b"PK\x03\x04 cut", "exhibits.npz is not a readable npz"),
        ("predictions/dense.npz", None, "no such predictions file: .*predictions/dense.npz"),
        ("predictions/condition-3.npz", None, "no such predictions file: .*predictions/condition-3.npz"),
        ("predictions/condition-1.npz", b"PK\x03\x04 cut", "condition-1.npz is not a readable npz"),
    ],
)
def test_damage_is_an_input_error(
    report: Any, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    as_report(report).save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Report.load(tmp_path)


def test_a_comparison_has_no_exhibits(comparison: Any, tmp_path: Path) -> None:
    Report(comparison.document, comparison.tables, None, comparison.predictions).save(tmp_path)
    assert not (tmp_path / "exhibits.npz").exists()
    assert Report.load(tmp_path).exhibits is None
    assert load_document(tmp_path)["spec"]["command"] == "compare"
