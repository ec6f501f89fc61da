import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import pie_report
from figures import thesis
from pie_report import attribution_maps, cli, trained
from pie_report.pipeline import open_population
from population.predictions import Predictions
from population.spec import PopulationSpec, key
from population.store import Store

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
MODEL = ("--model", "supervised_wrn16_2", "--members", "3", "--epochs", "1", "--width", "2", "--seed", "5")
LINE = "member 1 (seed 6) diverged: its loss is nan in epoch 1; --exclude-diverged leaves such members out"

Break = Callable[..., list[int]]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribution_maps, "IMAGES", 4)
        patch.setattr(thesis, "FIGURES", {})
        yield


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Makes the training of some seeds diverge; returns a list that gets the seeds trained from then on."""
    train = trained.train

    def diverge(*seeds: int) -> list[int]:
        begun: list[int] = []

        def broken(*arguments: Any, spec: Any, **rest: Any) -> list[float]:
            seed = rest["seed"]
            begun.append(seed)
            rate = 1e30 if seed in seeds else spec.learning_rate
            return train(*arguments, spec=replace(spec, learning_rate=rate), **rest)

        monkeypatch.setattr(trained, "train", broken)
        return begun

    return diverge


def pie(command: str, store: Path, *options: str) -> int:
    fixed = ("--workers", "1", "--quiet", "--store", str(store))
    return cli.main([command, *MODEL, *fixed, *options])


def test_a_diverging_member_is_named_or_left_out(
    diverging: Break, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    begun = diverging(6)
    arguments = ("report", store, "--merge", "0.5", "--out", str(out))
    for _ in range(2):  # the second time from the store
        assert pie(*arguments) == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", f"pie: {LINE}\n")
    assert begun == [5, 6]
    assert not out.exists()

    assert pie(*arguments, "--exclude-diverged") == 0
    assert capsys.readouterr().err == ""
    assert begun == [5, 6, 7]
    first = check_report(out, store)
    assert pie(*arguments, "--exclude-diverged") == 0  # no other spec, although seeds were left out
    assert check_report(out, store) == first
    assert begun == [5, 6, 7]


def check_report(out: Path, store: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "report.json").read_text())
    jsonschema.validate(document, SCHEMA)
    spec = document["spec"]
    assert (spec["members"], spec["seeds"], spec["excluded_seeds"], spec["seed"]) == (3, [5, 7], [6], 5)
    assert spec["command_line"].endswith(" --epochs 1 --exclude-diverged --seed 5")
    assert document["dense"]["k"] == document["compressed"][0]["k"] == 2
    named = PopulationSpec("supervised_wrn16_2", members=3, epochs=1, width=2, seed=5)
    population = open_population(named, store=Store(store), data_dir=None, download=False)
    rows = [
        Predictions.load(store / "predictions" / key(population.spec(i)) / "predictions.npz") for i in (0, 2)
    ]
    accuracies = [(row.predicted[0] == row.label).mean() for row in rows]
    assert document["dense"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    page = " ".join((out / "index.html").read_text().split())
    assert "2 networks called" in page
    assert "The training of 1 more (seed 6) diverged" in page
    assert "networks: 5, 7; left out: 6" in page
    return document


def test_training_alone_leaves_them_out_too(
    diverging: Break, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    diverging(6)
    assert pie("train", tmp_path) == 2
    assert capsys.readouterr().err == f"pie: {LINE}\n"
    assert pie("train", tmp_path, "--exclude-diverged", "--json") == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [5, 7]
    assert caplog.messages == ["1 of 3 members diverged (seed 6) and are left out"]


def test_fewer_than_two_are_no_population(
    diverging: Break, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diverging(5, 7)
    assert pie("train", tmp_path, "--exclude-diverged") == 2
    assert capsys.readouterr().err == (
        "pie: 2 of 3 members diverged (seeds 5, 7); a population needs at least 2 others\n"
    )


def test_the_others_keep_their_seeds_and_get_keys_of_their_own(tmp_path: Path) -> None:
    named = PopulationSpec("supervised_wrn16_2", members=4, seed=5)
    source = open_population(named, store=Store(tmp_path), data_dir=None, download=False).source
    assert isinstance(source, trained.TrainedMembers)
    others = source.without([5, 7])
    assert others.seeds == [6, 8]
    assert [others.spec(i) for i in range(2)] == [source.spec(1), source.spec(3)]
    assert others.describe()["excluded_seeds"] == [5, 7]
    commons = [part.common for part in (source, others, source.without([5]), source.without([7]))]
    assert len({key(common) for common in commons}) == 4
    assert {common.seed for common in commons} == {5}
