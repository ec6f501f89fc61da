import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, recall_score

import pie_report
from pie_report import attribution_maps, cli
from pie_report.explained import EXPLANATION_TABLES
from pie_report.members import Population
from pie_report.pipeline import open_population
from population.spec import CompressionSpec, PopulationSpec, key
from population.store import Store

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
TINY = ("--members", "2", "--epochs", "1", "--width", "4", "--workers", "1", "--quiet")
ALL_METHODS = ("--merge", "0.5", "--prune", "0.5", "--filters", "0.5", "--random", "0.5")
FIGURES = ("accuracy-cost", "class-change", "pies", "cka", "cka-map", "embedding-map")
STATISTICS = ("rarefaction", "class_rates", "calibration", "difficulty")
TABLES = ("summary", "classes", "pies", "scores", "embedding_map", *STATISTICS, *EXPLANATION_TABLES)
NAMES = [str(c) for c in range(10)]


@dataclass(frozen=True)
class Run:
    """A finished run and what it was asked for."""

    out: Path
    store: Path
    argv: tuple[str, ...]

    @property
    def document(self) -> dict[str, Any]:
        return json.loads((self.out / "report.json").read_text())

    @property
    def data(self) -> str:
        return self.argv[self.argv.index("--data") + 1]

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.out / "tables" / f"{name}.csv", keep_default_na=False, dtype=str)

    def again(self, *more: str, workers: int = 1) -> int:
        argv = [*self.argv, *more]
        argv[argv.index("--workers") + 1] = str(workers)
        return cli.main(argv)


def report(folder: Path, store: Path, *argv: str, tiny: tuple[str, ...] = TINY) -> Run:
    command = ("report", *argv, *tiny, "--store", str(store), "--out", str(folder))
    assert cli.main(command) == 0
    return Run(folder, store, command)


#: Enough for every image of the smallest data set, which worker processes explain as well.
FEW = 12


@pytest.fixture(scope="module", autouse=True)
def few_maps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribution_maps, "IMAGES", FEW)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def simclr(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return report(tmp_path_factory.mktemp("out") / "simclr", store, "--model", "simclr_r18", *ALL_METHODS)


UNCHANGED = ("--model", "supervised_r18", "--merge", "0", "--prune", "0", "--repair", "none")


@pytest.fixture(scope="module")
def unchanged(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return report(tmp_path_factory.mktemp("out") / "unchanged", store, *UNCHANGED)


@pytest.fixture(scope="module")
def refitted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = ("--model", "byol_r18", "--merge", "0.5", "--probe", "refit", "--repair", "data-free")
    return report(tmp_path_factory.mktemp("out") / "refitted", store, *options)


def make_pets(root: Path) -> Path:
    """Two classes of grey pictures that differ in brightness: 12 of each to train on, 6 to test on."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 12), ("test", 6)):
        for c, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 120, (64, 64)) + 100 * c
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pets(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = make_pets(tmp_path_factory.mktemp("data") / "pets")
    out = tmp_path_factory.mktemp("out") / "pets"
    options = ("--model", "supervised_r18", "--data", f"imagefolder:{root}", "--random", "0.5")
    return report(out, store, *options)


@pytest.fixture(params=["simclr", "unchanged", "refitted", "pets"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


def population(run: Run, model: str, data: str = "digits") -> Population:
    named = PopulationSpec(model=model, data=data, members=2, epochs=1, width=4)
    return open_population(named, store=Store(run.store), data_dir=None, download=False)


def stored(run: Run, kind: str, *parts: Any) -> dict[str, np.ndarray]:
    with np.load(run.store / kind / key(*parts) / "predictions.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def modes(predicted: np.ndarray) -> list[int]:
    counts = [Counter(column) for column in predicted.T.tolist()]
    return [min(c for c, n in count.items() if n == max(count.values())) for count in counts]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- every run


def test_the_report_has_the_schema_and_holds_no_place_and_no_time(run: Run) -> None:
    jsonschema.validate(run.document, SCHEMA)
    text = (run.out / "report.json").read_text()
    assert str(run.out.parent.parent) not in text
    assert str(run.store) not in text
    assert time.strftime("%Y-%m") not in text


def test_everything_is_there(run: Run) -> None:
    files = contents(run.out)
    expected = {"index.html", "report.json", "exhibits.npz", "gallery/index.html"}
    expected |= {f"tables/{name}.csv" for name in TABLES}
    expected |= {f"figures/{name}.{suffix}" for name in FIGURES for suffix in ("pdf", "png", "csv")}
    assert expected <= files.keys()
    assert all(files[name] for name in expected)
    assert files["figures/pies.pdf"].startswith(b"%PDF")
    assert files["figures/pies.png"].startswith(b"\x89PNG")
    assert {p.name for p in run.out.iterdir()} == {
        "index.html", "report.json", "exhibits.npz", "gallery", "tables", "figures", "predictions",
    }  # fmt: skip


def test_document_and_tables_agree(run: Run) -> None:
    document = run.document
    conditions = {c["condition"]: c for c in document["compressed"]}
    n_test = document["data"]["n_test"]
    summary = run.table("summary").set_index("condition")
    pies = run.table("pies")
    assert list(pies["condition"].drop_duplicates()) == list(conditions)
    for title, condition in conditions.items():
        rows = pies[pies["condition"] == title]
        assert len(rows) == n_test
        found = condition["pies"]
        assert (rows["pie"] == "True").sum() == found["count"] == int(float(summary.loc[title, "pies"]))
        kinds = Counter(rows.loc[rows["pie"] == "True", "kind"])
        assert [kinds[k] for k in ("forgotten", "gained", "still wrong")] == [
            found["forgotten"], found["gained"], found["still_wrong"],
        ]  # fmt: skip
        assert float(summary.loc[title, "accuracy"]) == pytest.approx(condition["accuracy"]["mean"])
        assert found["excess"] is None
        assert found["p_floor"] == 0.5  # two members, paired: 2^(1-2)
        assert [row["layer"] for row in condition["cka"]] == run.table("cka")[
            "layer"
        ].drop_duplicates().tolist()
        for row in condition["cka"]:
            assert -0.01 <= row["value"] <= 1 + 1e-6
        assert_explained(condition, n_test)
        shown = condition["attribution"]
        assert shown["pies"]["n"] == min(FEW, found["count"])
        assert shown["rest"]["n"] == min(FEW, n_test - found["count"])


def assert_explained(condition: dict[str, Any], n_test: int) -> None:
    found, matching = condition["pies"]["count"], condition["matching"]
    pairs = found if 20 <= found <= n_test - found else 0
    assert matching["pairs"] == pairs
    assert (matching["missing"] is None) is (matching["margin_gap"] is not None) is bool(pairs)
    similarity = condition["similarity"]
    assert similarity["images"] == {"all": n_test, "pies": min(pairs, 512), "matched": min(pairs, 512)}
    sets = ["all", "pies", "matched"] if pairs else ["all"]
    layers = [row["layer"] for row in condition["cka"]]
    assert [(r["measure"], r["images"], r["layer"]) for r in similarity["layers"]] == [
        (measure, images, layer) for measure in ("cka", "neighbours") for images in sets for layer in layers
    ]
    for row in similarity["layers"]:
        for name in ("value", "reference", "untrained"):
            if row[name] is not None:
                assert row[f"{name}_low"] <= row[name] + 1e-12 <= row[f"{name}_high"] + 2e-12
    explained = {(r["method"], r["measure"], r["group"]): r["n"] for r in condition["maps"]["means"]}
    shown, rest = min(FEW, found), min(FEW, n_test - found)
    for method in ("integrated_gradients", "occlusion"):
        assert explained[method, "ssim", "other"] == rest
        assert explained.get((method, "ssim", "pie"), 0) == shown
        assert explained.get((method, "insertion", "matched"), 0) == min(pairs, FEW)
    for test in condition["maps"]["tests"]:
        means = {r["group"]: r for r in condition["maps"]["means"] if same_measure(r, test)}
        if test["pairs"] == shown == means["matched"]["n"]:
            change = {g: r["compressed"] - (r["dense"] or 0) for g, r in means.items() if g != "other"}
            assert test["difference"] == pytest.approx(change["pie"] - change["matched"], abs=1e-9)
        assert test["p_floor"] <= test["p_value"] <= test["p_adjusted"] <= 1
    assert (len(condition["maps"]["tests"]) > 0) is (pairs > 0)


def same_measure(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(first[name] == second[name] for name in ("method", "measure"))


def test_every_pie_is_in_the_gallery(run: Run) -> None:
    with np.load(run.out / "exhibits.npz", allow_pickle=False) as exhibits:
        pies = run.table("pies")
        assert set(exhibits["sample_id"]) == set(pies.loc[pies["pie"] == "True", "sample_id"])
        assert exhibits["image"].shape[1:] == (*[run.document["data"]["resolution"]] * 2, 3)
    images = list((run.out / "gallery" / "images").glob("*"))
    assert len(images) >= len(set(pies.loc[pies["pie"] == "True", "sample_id"]))


# --- single runs


def test_the_dense_numbers_are_those_of_the_stored_predictions(simclr: Run) -> None:
    people = population(simclr, "simclr_r18")
    rows = [stored(simclr, "predictions", people.spec(i)) for i in range(2)]
    label = people.data.test.samples.label
    dense = simclr.document["dense"]
    for row in rows:
        np.testing.assert_array_equal(row["label"], label)
        np.testing.assert_array_equal(row["probabilities"].argmax(2), row["predicted"])
    accuracies = [accuracy_score(label, row["predicted"][0]) for row in rows]
    assert dense["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert dense["accuracy"]["low"] == pytest.approx(min(accuracies))
    assert dense["accuracy"]["high"] == pytest.approx(max(accuracies))
    recalls = np.mean([recall_score(label, row["predicted"][0], average=None) for row in rows], axis=0)
    assert [row["name"] for row in dense["per_class"]] == NAMES
    np.testing.assert_allclose([row["recall"] for row in dense["per_class"]], recalls)
    assert [row["n"] for row in dense["per_class"]] == np.bincount(label).tolist()


def test_the_compressed_numbers_are_those_of_the_stored_predictions(simclr: Run) -> None:
    people = population(simclr, "simclr_r18")
    label = people.data.test.samples.label
    dense = np.concatenate([stored(simclr, "predictions", people.spec(i))["predicted"] for i in range(2)])
    before = modes(dense)
    for condition in simclr.document["compressed"]:
        spec = CompressionSpec(condition["method"], condition["amount"], "bn", "frozen")
        members = [people.compressed_predictions(i, spec) for i in range(2)]
        predicted = np.concatenate([m.predicted for m in members])
        assert condition["accuracy"]["mean"] == pytest.approx(
            np.mean([accuracy_score(label, row) for row in predicted])
        )
        after = modes(predicted)
        pies = np.not_equal(before, after)
        assert condition["pies"]["count"] == pies.sum() > 0
        assert condition["pies"]["forgotten"] == (pies & np.equal(before, label)).sum()
        assert condition["pies"]["gained"] == (pies & np.equal(after, label)).sum()
        expected = {
            f"accuracy_{side}_on_{part}": (rows == label)[:, mask].mean()
            for side, rows in (("dense", dense), ("compressed", predicted))
            for part, mask in (("pies", pies), ("rest", ~pies))
        }
        for name, value in expected.items():
            assert condition["pies"][name] == pytest.approx(value), name
        rows = condition["classes"]
        recall = np.mean([recall_score(label, row, average=None) for row in predicted], axis=0)
        np.testing.assert_allclose([row["recall_compressed"] for row in rows], recall)


def test_what_was_done_is_said(simclr: Run, refitted: Run, pets: Run) -> None:
    spec = simclr.document["spec"]
    assert spec["command_line"] == (
        "pie report --model simclr_r18 --data digits --merge 0.5 --prune 0.5 --filters 0.5 --random 0.5"
        " --members 2 --probe frozen --repair bn --width 4 --epochs 1 --seed 0"
    )
    assert (spec["members"], spec["seeds"], spec["design"], spec["device"]) == (2, [0, 1], "paired", "cpu")
    assert spec["training"]["objective"] == "simclr"
    assert (spec["training"]["epochs"], spec["training"]["width"], spec["training"]["resolution"]) == (
        1,
        4,
        16,
    )
    assert simclr.document["data"] == {
        "n_train": 901, "n_test": 896, "class_names": NAMES, "in_channels": 1, "resolution": 16,
        "fingerprint": population(simclr, "simclr_r18").data.fingerprint(),
    }  # fmt: skip
    assert refitted.document["spec"]["probe"] == ["refit"]
    assert refitted.document["spec"]["repair"] == ["data-free"]
    assert pets.document["spec"]["data"] == "imagefolder:pets"
    assert "imagefolder:pets" in pets.document["spec"]["command_line"]
    assert pets.document["data"]["class_names"] == ["cat", "dog"]
    assert (pets.document["data"]["n_train"], pets.document["data"]["n_test"]) == (24, 12)


def test_channels_are_removed_and_weights_are_zeroed(simclr: Run) -> None:
    dense = simclr.document["dense"]["cost"]
    for condition in simclr.document["compressed"]:
        cost = condition["cost"]
        assert cost["requested"] == condition["amount"] == 0.5
        assert cost["achieved"] == pytest.approx(0.5, abs=0.02)
        for name in ("params", "macs", "bytes"):
            assert cost[f"{name}_kept"] == pytest.approx(cost[name] / dense[name], rel=1e-3)
        if condition["method"] == "prune":
            assert 0.5 <= cost["params_kept"] < 0.53
            assert (cost["macs_kept"], cost["bytes_kept"]) == (1, 1)
        else:
            # half of the channels on both sides of most layers
            assert 0.24 < cost["params_kept"] < 0.3
            assert 0.24 < cost["macs_kept"] < 0.35
        assert condition["calibration_images"] == 901


def test_doing_nothing_changes_nothing(unchanged: Run) -> None:
    document = unchanged.document
    assert document["dense"]["accuracy_reestimated"] is None
    assert [c["condition"] for c in document["compressed"]] == ["merge 0", "prune 0"]
    for condition in document["compressed"]:
        assert condition["pies"]["count"] == 0
        assert condition["pies"]["p_value"] == 1
        assert condition["accuracy"] == document["dense"]["accuracy"]
        assert condition["calibration_images"] == 0
        cost = condition["cost"]
        assert {n: cost[n] for n in ("params", "macs", "bytes")} == document["dense"]["cost"]
        assert [cost[f"{n}_kept"] for n in ("params", "macs", "bytes")] == [1, 1, 1]
        assert cost["achieved"] == 0
        assert all(row["delta"] == 0 for row in condition["classes"])
        assert all(row["value"] == pytest.approx(1, abs=1e-5) for row in condition["cka"])
        assert condition["attribution"]["rest"]["spearman"] == pytest.approx(1, abs=1e-6)
        assert condition["attribution"]["pies"] == {"n": 0, "spearman": None}


def test_the_probe_is_fitted_again_on_the_compressed_encoder(refitted: Run) -> None:
    from ssl_models.probe import extract_features, logistic_regression

    people = population(refitted, "byol_r18")
    spec = CompressionSpec("merge", 0.5, "data-free", "refit")
    with people.fixed_threads():
        network = people.compressed(0, spec)
        features = extract_features(network, people.train_images)
        weight, bias = logistic_regression(features, people.data.train.samples.label)
        logits = extract_features(network, people.test_images) @ weight.T + bias
    found = people.compressed_predictions(0, spec)
    assert (found.predicted[0] == logits.argmax(1)).mean() > 0.995
    np.testing.assert_allclose(network.head.bias.detach().numpy(), bias, rtol=1e-3, atol=1e-4)


def test_the_re_estimated_dense_members_are_shown_beside(simclr: Run) -> None:
    people = population(simclr, "simclr_r18")
    identity = CompressionSpec("identity", 0.0, "bn", "frozen")
    predicted = [people.compressed_predictions(i, identity).predicted[0] for i in range(2)]
    label = people.data.test.samples.label
    expected = np.mean([accuracy_score(label, row) for row in predicted])
    assert simclr.document["dense"]["accuracy_reestimated"]["mean"] == pytest.approx(expected)
    assert simclr.table("summary")["condition"].tolist()[:2] == ["dense", "dense, re-estimated"]


def test_the_baselines_are_probes_on_the_same_images(simclr: Run) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = population(simclr, "simclr_r18").data
    pixels = [split.images.reshape(len(split.images), -1) / 255 for split in (data.train, data.test)]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    accuracy = probe.fit(pixels[0], data.train.samples.label).score(pixels[1], data.test.samples.label)
    baselines = simclr.document["baselines"]
    assert baselines["raw_pixels"] == pytest.approx(accuracy, abs=2 / 896)
    assert baselines["train_images"] == 901
    assert 0.1 < baselines["untrained_encoder"] < 1


# --- once, and once only


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was done before")

    import ssl_models.training
    from pie_report import dense_map, layer_cka, layer_similarity, members, network_scores
    from population import executor

    monkeypatch.setattr(ssl_models.training, "train", refuse)
    monkeypatch.setattr(members, "predict", refuse)
    monkeypatch.setattr(members, "METHODS", {})
    monkeypatch.setattr(layer_cka, "minibatch_cka_maps", refuse)
    monkeypatch.setattr(layer_similarity, "pooled_features", refuse)
    monkeypatch.setattr(network_scores, "prediction_depth", refuse)
    monkeypatch.setattr(network_scores, "extract_features", refuse)
    monkeypatch.setattr(dense_map, "embedding_map", refuse)
    monkeypatch.setattr(attribution_maps, "population_maps", refuse)
    monkeypatch.setattr(attribution_maps, "removal_areas", refuse)
    monkeypatch.setattr(executor, "multiprocessing", None)  # no further process


@pytest.mark.usefixtures("no_work")
def test_a_second_run_repeats_every_byte_and_does_no_work(
    simclr: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(simclr.out)
    times = {p: p.stat().st_mtime_ns for p in simclr.store.rglob("*") if not p.name.endswith(".lock")}
    assert simclr.again("--json", workers=2) == 0
    printed = capsys.readouterr()
    assert printed.out == (simclr.out / "report.json").read_text()
    assert contents(simclr.out) == before
    assert {p: p.stat().st_mtime_ns for p in simclr.store.rglob("*") if not p.name.endswith(".lock")} == times


@pytest.mark.usefixtures("no_work")
def test_statistics_are_computed_again_to_the_byte(simclr: Run, tmp_path: Path) -> None:
    before, again = contents(simclr.out), shutil.copytree(simclr.out, tmp_path / "again")
    assert cli.main(["stats", str(again)]) == 0
    assert contents(again) == before
    assert {"tables/overlap.csv", "tables/intersections.csv", "figures/overlap.pdf"} <= before.keys()
    assert {f"predictions/{name}.npz" for name in ("dense", "condition-4")} <= before.keys()
    assert len(simclr.document["overlap"]) == 6  # pairs of four conditions


@pytest.mark.usefixtures("no_work")
def test_figures_and_gallery_are_drawn_again_to_the_byte(
    unchanged: Run, pets: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for done in (unchanged, pets):
        before = contents(done.out)
        capsys.readouterr()
        assert cli.main(["figures", str(done.out)]) == 0
        assert capsys.readouterr().out == f"{done.out / 'figures'}\n"
        assert cli.main(["gallery", str(done.out)]) == 0
        assert capsys.readouterr().out == f"{done.out / 'gallery' / 'index.html'}\n"
        assert contents(done.out) == before


@pytest.mark.usefixtures("no_work")
def test_another_spec_is_refused_before_any_work(pets: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(pets.out)
    capsys.readouterr()
    assert pets.again("--prune", "0.5") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert pets.document["spec"]["command_line"] in printed.err
    assert contents(pets.out) == before


def test_force_replaces_the_report_of_another_spec(pets: Run, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_bytes((pets.out / "report.json").read_bytes())
    options = ("--model", "supervised_r18", "--data", pets.data, "--prune", "0.5", "--force")
    done = report(out, store, *options)
    assert [c["condition"] for c in done.document["compressed"]] == ["prune 0.5"]


def test_training_images_can_be_judged(pets: Run, store: Path, tmp_path: Path) -> None:
    asked = ("--judged", "train", "--train-share", "0.75", "--forgetting")
    done = report(
        tmp_path / "out", store, "--model", "supervised_r18", "--data", pets.data, "--random", "0.5", *asked
    )
    document = done.document
    jsonschema.validate(document, SCHEMA)
    assert (document["spec"]["judged"], pets.document["spec"]["judged"]) == ("train", "test")
    assert (document["data"]["n_train"], document["data"]["n_test"]) == (24, 24)
    assert document["baselines"] is None
    assert document["compressed"][0]["calibration_images"] == 18
    assert all(name.startswith("train/") for name in done.table("pies")["sample_id"])
    scores = done.table("scores")
    assert list(scores) == [
        "sample_id", "prediction_depth", "label_depth", "q_score_corti", "q_score_kalibhat",
        "forgetting_events", "memorisation",
    ]  # fmt: skip
    # Each of two networks leaves a quarter out; both may have an image, or neither.
    assert (scores["memorisation"] != "").sum() == 24 - (scores["memorisation"] == "").sum() <= 12
    page = (done.out / "index.html").read_text()
    assert "24 training images" in page
    assert "Each learnt from a random 75% of these images" in page
    before = contents(done.out)
    assert cli.main(["stats", str(done.out)]) == 0
    assert contents(done.out) == before


def test_training_alone_fills_the_store(pets: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    command = ["train", "--model", "supervised_r18", "--data", pets.data, *TINY, "--store", str(pets.store)]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["seed", "0", "accuracy"], ["seed", "1", "accuracy"]]
    for line in lines:
        assert (Path(line.split()[-1]) / "model.safetensors").is_file()
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [0, 1]
    assert np.mean(found["accuracy"]) == pytest.approx(pets.document["dense"]["accuracy"]["mean"])


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it did not get there"
        time.sleep(0.002)


def test_a_killed_run_goes_on_and_ends_in_the_same_report(pets: Run, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    command = [{str(pets.store): str(store), str(pets.out): str(out)}.get(a, a) for a in pets.argv]
    members = store / "members"
    people = population(pets, "supervised_r18", pets.data)
    first, second = (key(people.spec(i)) for i in range(2))

    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pie_report.cli import main; sys.exit(main(sys.argv[1:]))",
            *command,
        ]
    )
    wait_for((members / f".{second}.partial").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (members / first).is_dir()
    assert not (members / second).exists()
    assert not out.exists()
    kept = (members / first / "model.safetensors").stat().st_mtime_ns

    assert cli.main(command) == 0
    assert (members / first / "model.safetensors").stat().st_mtime_ns == kept
    assert (out / "report.json").read_bytes() == (pets.out / "report.json").read_bytes()
    assert contents(out) == contents(pets.out)
    assert not list(store.rglob("*.partial"))


def test_worker_processes_make_the_same_report(pets: Run, tmp_path: Path) -> None:
    options = ("--model", "supervised_r18", "--data", pets.data, "--random", "0.5")
    two_workers = ("--members", "2", "--epochs", "1", "--width", "4", "--workers", "2", "--quiet")
    done = report(tmp_path / "out", tmp_path / "store", *options, tiny=two_workers)
    assert (done.out / "report.json").read_bytes() == (pets.out / "report.json").read_bytes()
