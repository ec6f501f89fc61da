import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import pie_report
from compressors.magnitude import prune_weights
from pie_report import attribution_maps, cli, scheduled
from pie_report.members import Population
from pie_report.pipeline import open_population
from pie_report.probes import further_conditions
from population.schedule import Schedule, ScheduleSpec
from population.spec import CompressionSpec, PopulationSpec, ReportSpec
from population.store import Store

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
TINY = ("--members", "2", "--epochs", "1", "--width", "2", "--workers", "1", "--quiet")
OPTIONS = (
    "--model", "byol_r18", "--merge", "0.5", "--prune", "0.9", "--schedule", "end", "midway", "gradual",
    "--finetune-epochs", "1", "--prune-window", "0", "0.5", "--prune-classifier",
)  # fmt: skip
TIMING = ScheduleSpec(("end", "midway", "gradual"), (1,), (0, 0.5), prune_classifier=True)
CONDITIONS = {c.title: c for c in ReportSpec(merge=(0.5,), prune=(0.9,), timing=TIMING).conditions}
PAIRED = ("merge 0.5 + 1 epoch", "prune 0.9 + 1 epoch")
OWN = ("merge 0.5 midway", "prune 0.9 midway", "prune 0.9 gradual 0 0.5")
STEPS = 898 // 128


@pytest.fixture(scope="module", autouse=True)
def few_maps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribution_maps, "IMAGES", 4)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scheduled")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    assert (
        cli.main(["report", *OPTIONS, *TINY, "--store", str(folder / "store"), "--out", str(folder / "r")])
        == 0
    )
    return folder / "r"


@pytest.fixture(scope="module")
def population(folder: Path, run: Path) -> Population:
    named = PopulationSpec(model="byol_r18", members=2, epochs=1, width=2)
    return open_population(named, store=Store(folder / "store"), data_dir=None, download=False)


def conditions(run: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((run / "report.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["spec"]["design"] == "mixed"
    return {c["condition"]: c for c in document["compressed"]}


def test_every_schedule_is_a_condition_of_its_design(run: Path) -> None:
    found = conditions(run)
    assert set(found) == {*PAIRED, *OWN}
    for name, condition in found.items():
        own = name in OWN
        assert condition["design"] == ("independent" if own else "paired")
        assert (condition["pies"]["excess"] is None) != own
        assert (condition["statistics"]["flips"] is None) == own
        assert all((condition[part] is None) == own for part in ("cka", "similarity", "maps"))
        assert condition["pruning"] == (
            {"scope": "global", "classifier": True} if name.startswith("prune") else None
        )
        assert condition["repair"] == ("none" if own else "bn")
    assert found["merge 0.5 + 1 epoch"]["schedule"] == {
        "when": "end", "finetune_epochs": 1, "first": STEPS, "last": STEPS, "every": None, "total": STEPS
    }  # fmt: skip
    assert found["merge 0.5 midway"]["schedule"]["first"] == STEPS // 2
    assert found["prune 0.9 gradual 0 0.5"]["schedule"] == {
        "when": "gradual", "finetune_epochs": 0, "first": 0, "last": 4, "every": 1, "total": STEPS
    }  # fmt: skip


def test_costs_are_those_of_compression_after_training(run: Path) -> None:
    found = conditions(run)
    assert found["merge 0.5 midway"]["cost"] == found["merge 0.5 + 1 epoch"]["cost"]
    zeros = [found[name]["cost"]["params"] for name in (PAIRED[1], *OWN[1:])]
    assert max(zeros) - min(zeros) <= 1  # the classifier is pruned by itself, and rounded
    document = json.loads((run / "report.json").read_text())
    assert document["dense"]["cost"]["params"] > 3 * zeros[0]


def test_sparsity_over_the_training_is_a_table_and_a_figure(run: Path) -> None:
    table = pd.read_csv(run / "tables" / "sparsity.csv")
    assert list(table["condition"].unique()) == list(OWN[1:])
    for _, rows in table.groupby("condition"):
        assert rows["step"].iloc[0] == 0
        assert rows["step"].iloc[-1] == STEPS
        assert rows["sparsity"].is_monotonic_increasing
        assert rows["sparsity"].iloc[-1] == pytest.approx(0.9, abs=1e-3)
        np.testing.assert_allclose(rows["share"], rows["step"] / STEPS)
    gradual = table[table["condition"] == OWN[2]].set_index("step")["sparsity"]
    np.testing.assert_allclose(gradual[2], 0.9 * (1 - 0.5**3), atol=1e-3)
    for ending in ("pdf", "png", "csv"):
        assert (run / "figures" / f"sparsity.{ending}").stat().st_size > 100


def test_the_page_says_how_and_why_something_is_left_out(run: Path) -> None:
    page = " ".join((run / "index.html").read_text().split())
    assert "This is done after 3 of 7 steps of training, which then goes on." in page
    assert "by and by from step 0 to step 4 of 7" in page
    assert "train on for 1 epoch; what is zero stays zero" in page
    assert "so are those of the classifier" in page
    assert f"({', '.join((OWN[0], *OWN[1:]))}) are left out here" in page
    assert "--schedule end midway gradual --finetune-epochs 1 --prune-window 0 0.5 --prune-classifier" in page


def test_members_are_stored_whole_and_have_seeds_of_their_own(run: Path, population: Population) -> None:
    assert population.seeds == [0, 1]
    for title in OWN:
        members = population.scheduled(CONDITIONS[title])
        assert members.source.seeds == [2, 3]
        network = members.network(0)
        saved = load_file(members.entry(0) / "model.safetensors")
        assert all(torch.equal(t, saved[n]) for n, t in network.state_dict().items())
        with population.fixed_threads():
            again = network(population.example)
            stored = population.compressed_predictions(0, CONDITIONS[title])
        torch.testing.assert_close(again.softmax(1), torch.from_numpy(stored.probabilities[:, 0]))
    assert network.head.in_features == 16
    assert population.compressed(0, CONDITIONS["merge 0.5 midway"]).head.in_features == 8
    zeros = float((network.head.weight == 0).float().mean())
    assert zeros == pytest.approx(0.9, abs=0.01)


def test_networks_that_train_on_keep_their_zeros(run: Path, population: Population) -> None:
    before = prune_weights(population.dense(0), amount=0.9, seed=0, classifier=False).model
    after = population.compressed(0, CONDITIONS["prune 0.9 + 1 epoch"])
    for name, weight in before.named_parameters():
        moved = after.get_parameter(name)
        if weight.dim() > 1 and name != "head.weight":
            assert torch.equal(weight == 0, moved == 0)
            assert not torch.equal(weight, moved)
    assert float((after.head.weight == 0).float().mean()) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("schedule", [None, Schedule("end", 1)])
def test_costs_count_the_classifier_that_was_pruned_last(
    schedule: Schedule | None, population: Population
) -> None:
    probe = "frozen" if schedule else "refit"
    condition = CompressionSpec("prune", 0.9, "bn", probe, schedule, classifier=True)
    with population.fixed_threads():
        network = population.compressed(0, condition)
        found = population.costs(0, condition)
    weights = [w for name, w in network.state_dict().items() if w.dim() > 1 and "normalize" not in name]
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert int((network.head.weight == 0).sum()) == round(0.9 * network.head.weight.numel())
    assert found["change"]["achieved"] == pytest.approx(zeros / sum(w.numel() for w in weights), abs=1e-9)
    assert found["before"]["params"] - found["after"]["params"] == zeros


def test_encoders_that_train_on_have_no_frozen_probe(population: Population) -> None:
    spec = ReportSpec(
        merge=(0.5,), probe=("frozen", "refit", "knn"), timing=ScheduleSpec(finetune_epochs=(0, 1))
    )
    asked = [(c.title, c.probe) for c in further_conditions(population, spec) if c.method == "merge"]
    assert asked == [("merge 0.5", "refit"), ("merge 0.5", "knn"), ("merge 0.5 + 1 epoch", "knn")]


def test_finished_members_are_not_trained_again(
    run: Path, population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduled.ScheduledMembers, "_produce", None)
    monkeypatch.setattr(Population, "_compress", None)
    assert all(population.is_finished(i, [*CONDITIONS.values()]) for i in range(2))
    assert all(population.compressed_population(c).k == 2 for c in CONDITIONS.values())
