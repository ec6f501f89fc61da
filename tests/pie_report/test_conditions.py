"""One run with several repairs, end to end."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

import pie_report
from pie_report import attribution_maps, cli, pipeline
from pie_report.explanations import Explanation, explain
from pie_report.members import Population
from pie_report.pipeline import open_population
from pie_report.report import Report
from population.spec import CompressionSpec, PopulationSpec
from population.store import Store

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
NAMED = ("--model", "simclr_r18", "--members", "3", "--epochs", "1", "--width", "2")
ASKED = ("--merge", "0.25", "0.5", "--prune", "0.5", "0.9", "--repair", "none", "bn")


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
def report(run: Path) -> Report:
    return Report.load(run)


def test_every_condition_stands_under_each_repair(report: Report, run: Path, store: Path) -> None:
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
    named = PopulationSpec(members=3, epochs=1, width=2)
    people = open_population(named, store=Store(store), data_dir=None, download=False)
    for condition in document["compressed"]:
        method, amount, repair = condition["condition"].split()
        assert (condition["method"], condition["amount"], condition["repair"]) == (
            method, float(amount), repair,
        )  # fmt: skip
        assert (condition["calibration_images"] == 0) is (repair == "none")
        stored = people.compressed_population(CompressionSpec(method, float(amount), repair, "frozen"))
        np.testing.assert_array_equal(stored.predicted, report.predictions[condition["condition"]].predicted)
    assert (run / "figures" / "accuracy-cost.csv").read_text().count("merge none") == 2
