"""One run with several repairs and probes, end to end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from sklearn.preprocessing import normalize

import pie_report
from pie_report import attribution_maps, cli, members, pipeline
from pie_report.explanations import Explanation, explain
from pie_report.members import Population
from pie_report.pipeline import open_population
from pie_report.report import Report
from population.spec import CompressionSpec, PopulationSpec
from population.store import Store
from ssl_models.probe import extract_features, fit_probe

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
NAMED = ("--model", "simclr_r18", "--members", "3", "--epochs", "1", "--width", "2")
ASKED = (
    "--merge",
    "0.25",
    "0.5",
    "--prune",
    "0.5",
    "0.9",
    "--repair",
    "none",
    "bn",
    "--probe",
    "frozen",
    "refit",
    "knn",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribution_maps, "IMAGES", 4)
        explained: list[Explanation] = []

        def explain_once(people: Population, first: Any, samples: pd.DataFrame, targets: Any) -> Explanation:
            """Of all conditions it would take a minute; without PIEs it suits them all."""
            if not explained:
                explained.append(explain(people, first, samples.assign(pie=False), targets))
            return explained[0]

        patch.setattr(pipeline, "explain", explain_once)
        places = ("--workers", "1", "--quiet", "--store", str(store), "--out", str(out))
        assert cli.main(["report", *NAMED, *ASKED, *places]) == 0
    return out


@pytest.fixture
def people(store: Path) -> Population:
    named = PopulationSpec(members=3, epochs=1, width=2)
    return open_population(named, store=Store(store), data_dir=None, download=False)


@pytest.fixture
def report(run: Path) -> Report:
    return Report.load(run)


def test_every_condition_stands_under_each_repair(report: Report, run: Path, people: Population) -> None:
    document = report.document
    jsonschema.validate(document, SCHEMA)
    assert document["spec"]["repair"] == ["none", "bn"]
    assert "--repair none bn --width 2" in document["spec"]["command_line"]
    assert [c["condition"] for c in document["compressed"]] == [
        f"{method} {repair}"
        for method in ("merge 0.25", "merge 0.5", "prune 0.5", "prune 0.9")
        for repair in ("none", "bn")
    ]
    summary = report.tables["summary"]
    assert summary["condition"].tolist()[:3] == ["dense", "dense, re-estimated", "merge 0.25 none"]
    assert summary["repair"].tolist()[:4] == ["", "bn", "none", "bn"]
    for condition in document["compressed"]:
        method, amount, repair = condition["condition"].split()
        assert (condition["method"], condition["amount"], condition["repair"]) == (
            method, float(amount), repair,
        )  # fmt: skip
        assert (condition["calibration_images"] == 0) is (repair == "none")
        stored = people.compressed_population(CompressionSpec(method, float(amount), repair, "frozen"))
        np.testing.assert_array_equal(stored.predicted, report.predictions[condition["condition"]].predicted)
    assert (run / "figures" / "accuracy-cost.csv").read_text().count("merge none") == 2


def modal(predicted: np.ndarray) -> np.ndarray:
    return np.array([np.bincount(votes).argmax() for votes in predicted.T])


def test_the_same_encoders_answer_through_each_probe(report: Report, people: Population) -> None:
    section = report.document["probes"]
    assert (section["neighbours"], section["temperature"]) == (90, 0.07)  # 901 images of 10 classes
    rows = {(row["condition"], row["probe"]): row for row in section["conditions"]}
    assert len(rows) == 8 * 3
    label = people.data.test.samples.label
    for condition in report.document["compressed"]:
        title = condition["condition"]
        first = report.predictions["dense"].predicted, report.predictions[title].predicted
        expected = modal(first[0]) != modal(first[1])
        row = rows[title, "frozen"]
        assert (row["pies"], row["accuracy"]) == (condition["pies"]["count"], condition["accuracy"]["mean"])
        assert row["common"] is row["kappa"] is row["without_features"] is None
        spec = CompressionSpec(condition["method"], condition["amount"], condition["repair"], "frozen")
        for probe in ("refit", "knn"):
            before = people.compressed_population(CompressionSpec("identity", 0.0, "none", probe)).predicted
            after = people.compressed_population(replace(spec, probe=probe)).predicted
            row, found = rows[title, probe], modal(before) != modal(after)
            assert row["accuracy_dense"] == pytest.approx((before == label).mean())
            assert row["accuracy"] == pytest.approx((after == label).mean())
            assert (row["pies"], row["common"]) == (found.sum(), (found & expected).sum())
            assert row["forgotten"] == (found & (modal(before) == label)).sum()
            assert row["jaccard"] == pytest.approx((found & expected).sum() / (found | expected).sum())
            assert row["kappa"] == pytest.approx(cohen_kappa_score(found, expected))
            if probe == "refit":  # what is fitted on the dense encoder is what was kept through compression
                np.testing.assert_array_equal(before, first[0])


def test_neighbours_are_those_of_the_compressed_encoder(people: Population) -> None:
    spec = CompressionSpec("merge", 0.25, "bn", "frozen")
    network, parts = people.compressed(1, spec), (people.train_images, people.test_images)
    train, test = (normalize(extract_features(network, images)) for images in parts)
    label = people.data.train.samples.label
    cosines = test @ train.T
    expected = []
    for row in cosines:
        nearest = np.argsort(-row)[:90]
        expected.append(np.bincount(label[nearest], np.exp(row[nearest] / 0.07), minlength=10).argmax())
    found = people.compressed_predictions(1, replace(spec, probe="knn"))
    assert (found.predicted[0] == expected).mean() > 0.99  # ties of the 90th place


def test_a_refit_is_made_of_the_encoder_that_is_there(
    people: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = CompressionSpec("prune", 0.9, "none", "refit")
    stored = people.store.root / "compressed" / people._compressed_key(0, spec)
    before = {path.name: path.read_bytes() for path in stored.iterdir()}
    shutil.rmtree(stored)
    monkeypatch.setattr(members, "METHODS", {})  # nothing is compressed again
    frozen = people.compressed(0, replace(spec, probe="frozen"))
    refitted = people.compressed(0, spec)
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == before
    torch.testing.assert_close(refitted.encoder.state_dict(), frozen.encoder.state_dict(), rtol=0, atol=0)
    fit_probe(frozen, people.train_images, people.data.train.samples.label)
    torch.testing.assert_close(refitted.state_dict(), frozen.state_dict(), rtol=0, atol=0)
    assert people.costs(0, spec) == people.costs(0, replace(spec, probe="frozen"))


def test_methods_are_compared_at_equal_cost_and_accuracy(report: Report, people: Population) -> None:
    fair, curves = report.document["fair"], report.tables["fair_curves"]
    assert [(r["repair"], r["axis"], r["reason"]) for r in fair["not_compared"]] == [
        (repair, "macs_kept", "prune keeps all MACs whatever the amount") for repair in ("none", "bn")
    ]
    assert set(curves["amount"]) == {0, 0.25, 0.5, 0.9}
    dense, label = report.predictions["dense"].predicted, people.data.test.samples.label
    again = report.predictions["dense, re-estimated"].predicted
    start = curves[curves["amount"] == 0].set_index(["repair", "method"])
    assert start.loc[("none", "merge"), "flips"] == 0
    assert start.loc[("bn", "merge"), "flips"] == pytest.approx((again != dense).mean())
    for condition in report.document["compressed"]:
        after = report.predictions[condition["condition"]].predicted
        names = ("repair", "method", "amount")
        row = curves[np.logical_and.reduce([curves[n] == condition[n] for n in names])].iloc[0]
        assert row["flips"] == pytest.approx((after != dense).mean())
        assert row["accuracy_sd"] == pytest.approx((after == label).mean(axis=1).std(ddof=1))
        assert row["params_kept"] == pytest.approx(condition["cost"]["params_kept"])
    flips = [r for r in fair["comparisons"] if (r["axis"], r["outcome"]) == ("params_kept", "flips")]
    assert [r["repair"] for r in flips] == ["none"] * 5 + ["bn"] * 5
    for row in flips:
        for which in ("first", "second"):
            chosen = (curves["repair"] == row["repair"]) & (curves["method"] == row[which])
            line = curves[chosen].sort_values("params_kept").astype({"params_kept": float, "flips": float})
            expected = np.interp(row["point"], line["params_kept"], line["flips"])
            assert row[f"outcome_{which}"] == pytest.approx(expected)


def test_statistics_are_computed_again_to_the_byte(run: Path, tmp_path: Path) -> None:
    again = shutil.copytree(run, tmp_path / "again")
    assert cli.main(["stats", str(again)]) == 0
    for name in (
        "report.json",
        "tables/fair.csv",
        "tables/fair_curves.csv",
        "tables/probes.csv",
        "index.html",
    ):
        assert (again / name).read_bytes() == (run / name).read_bytes()
