import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from pie.identify import find_pies
from pie.overlap import pairwise_overlap
from pie_report import cli
from pie_report.across import compare_across, load_runs
from pie_report.report import Report
from population.errors import InputError
from population.predictions import Predictions

N, K = 120, 4
IDS = np.array([f"s{i:03d}" for i in range(N)])
LABEL = np.arange(N) % 3
WAY: dict[str, Any] = {"design": "paired", "repair": "bn", "pruning": None}
CONDITIONS = {"merge 0.5": 0.3, "prune 0.9": 0.1}


def votes(rng: np.random.Generator, start: np.ndarray, errors: float) -> np.ndarray:
    return np.where(rng.random((K, N)) < errors, rng.integers(0, 3, (K, N)), start)


def save_run(folder: Path, *, model: str | None = "simclr_r18", seed: int = 0, **changes: Any) -> Path:
    """A run folder with what ``pie across`` reads of it."""
    rng = np.random.default_rng(seed)
    ids, label = changes.get("ids", IDS), changes.get("label", LABEL)
    dense = Predictions(ids, votes(rng, LABEL, 0.2), label, rng.random((K, N)))
    populations = {"dense": dense}
    accuracy = {"k": K, "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1.0}
    summary = [{"condition": "dense", "method": "dense", "params_kept": 1.0, **accuracy}]
    pies, compressed = [], []
    for condition, errors in changes.get("conditions", CONDITIONS).items():
        after = Predictions(ids, votes(rng, dense.predicted, errors), label, rng.random((K, N)))
        found = find_pies(dense, after, design="paired", seed=0)
        populations[condition] = after
        pies.append(found.samples.assign(condition=condition))
        way = {name: changes.get(name, default) for name, default in WAY.items()}
        compressed.append({"condition": condition, **way})
        names = ("expected_null", "expected_null_low", "expected_null_high", "forgotten", "p_value")
        numbers = {name: getattr(found, name) for name in names}
        shares = {"pies": found.count, "pie_share": found.share}
        summary.append({"condition": condition, **accuracy, **shares, **numbers})
    document = {
        "schema": 2,
        "spec": {"model": model, "data": "cats", "seed": seed, "command_line": f"pie report --seed {seed}"},
        "data": {"n_test": N, "fingerprint": changes.get("fingerprint", "abc")},
        "dense": {"k": K, "accuracy": {"mean": 0.9, "low": 0.8, "high": 1.0}},
        "compressed": compressed,
    }
    tables = {"summary": pd.DataFrame(summary), "pies": pd.concat(pies, ignore_index=True)}
    Report(document, tables, None, populations).save(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    turned = np.random.default_rng(9).permutation(N)
    return [
        save_run(folder / "a", model="simclr_r18", seed=0),
        save_run(folder / "b", model="supervised_r18", seed=1),
        # The same images in another order, and one more condition.
        save_run(
            folder / "c", model="byol_r18", seed=2, ids=IDS[turned], label=LABEL[turned],
            conditions={**CONDITIONS, "merge 0.1": 0.05},
        ),
    ]  # fmt: skip


def test_overlap_is_that_of_the_sets_of_each_condition(runs: list[Path]) -> None:
    found = compare_across(load_runs(runs), seed=0)
    loaded = {r.document["spec"]["model"]: r for r in map(Report.load, runs)}
    expected = []
    for condition in CONDITIONS:
        sets, margins = {}, []
        for model, report in loaded.items():
            rows = report.tables["pies"]
            rows = rows[rows["condition"] == condition].set_index("sample_id").loc[IDS]
            sets[model] = rows["pie"].to_numpy(dtype=bool)
            margins.append(rows["margin_dense"].to_numpy(dtype=float))
        expected.append(
            pairwise_overlap(sets, dense_margin=np.mean(margins, axis=0)).assign(condition=condition)
        )
    table = pd.concat(expected, ignore_index=True)
    table["p_adjusted"] = false_discovery_control(table["p_value"])
    table["p_given_margin_adjusted"] = false_discovery_control(table["p_given_margin"])
    assert set(found.overlap["condition"]) == set(CONDITIONS)  # merge 0.1 is in one run alone
    pd.testing.assert_frame_equal(found.overlap, table[found.overlap.columns], check_exact=True)


def test_effects_are_shares_of_the_variation(runs: list[Path]) -> None:
    effects = compare_across(load_runs(runs), seed=0).effects
    values = []
    for report in map(Report.load, runs):
        dense = report.predictions["dense"]
        for condition in CONDITIONS:
            after = report.predictions[condition]
            values.append((after.predicted != dense.predicted).mean(axis=1))
    cube = np.stack(values).reshape(3, 2, K)  # runs, conditions, members
    total = ((cube - cube.mean()) ** 2).sum()
    by_condition = 3 * K * ((cube.mean((0, 2)) - cube.mean()) ** 2).sum() / total
    by_run = 2 * K * ((cube.mean((1, 2)) - cube.mean()) ** 2).sum() / total
    flips = effects[effects["outcome"] == "flips"].set_index("effect")
    assert flips.loc["method", "share"] == pytest.approx(by_condition)
    assert flips.loc["objective", "share"] == pytest.approx(by_run)
    assert flips.loc["method", "p_value"] < 0.01  # three times as many errors
    assert set(effects["outcome"]) == {"flips", "accuracy_change"}


def test_populations_are_the_rows_of_all_summaries(runs: list[Path]) -> None:
    found = compare_across(load_runs(runs), seed=0)
    assert found.populations.groupby("run", sort=False).size().to_dict() == {
        "simclr_r18": 3, "supervised_r18": 3, "byol_r18": 4
    }  # fmt: skip
    summary = Report.load(runs[0]).tables["summary"]
    assert found.populations["pies"].iloc[1:3].tolist() == summary["pies"].iloc[1:].tolist()
    assert set(found.populations["images"]) == {N}


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        ({"repair": "none"}, "bn", "none"),
        ({"pruning": {"scope": "layer", "classifier": True}}, "(global)", "(layer, classifier)"),
    ],
)
def test_what_was_compressed_in_other_ways_is_no_condition_of_both(
    change: dict[str, Any], first: str, second: str, tmp_path: Path
) -> None:
    given = {"pruning": {"scope": "global", "classifier": False}} | change
    runs = [
        save_run(tmp_path / "a", pruning={"scope": "global", "classifier": False}),
        save_run(tmp_path / "b", model="byol_r18", **given),
    ]
    found = compare_across(load_runs(runs), seed=0)
    assert len(found.overlap) == len(found.effects) == 0
    names = found.populations.groupby("run")["condition"].apply(list)
    assert names["simclr_r18"] == ["dense", f"merge 0.5 {first}", f"prune 0.9 {first}"]
    assert names["byol_r18"] == ["dense", f"merge 0.5 {second}", f"prune 0.9 {second}"]


def test_a_condition_of_several_repairs_meets_the_one_that_has_it(tmp_path: Path) -> None:
    one = save_run(tmp_path / "a", conditions={"merge 0.5": 0.3})
    other = save_run(tmp_path / "b", model="byol_r18", conditions={"merge 0.5 bn": 0.3})
    found = compare_across(load_runs([one, other]), seed=0)
    assert found.overlap["condition"].tolist() == ["merge 0.5"]


@pytest.mark.parametrize(
    ("models", "seeds", "expected"),
    [
        (("x", "y"), (0, 0), ["x", "y"]),
        (("x", "x"), (0, 5), ["x, seed 0", "x, seed 5"]),
        (("x", "x"), (0, 0), ["x, a", "x, b"]),
        ((None, "y"), (0, 0), ["a", "y"]),
    ],
)
def test_runs_have_the_shortest_names_that_differ(
    models: tuple[str | None, ...], seeds: tuple[int, ...], expected: list[str], tmp_path: Path
) -> None:
    folders = [
        save_run(tmp_path / name, model=model, seed=seed)
        for name, model, seed in zip("ab", models, seeds, strict=True)
    ]
    assert list(load_runs(folders)) == expected


def test_independent_conditions_have_no_flips_to_compare(tmp_path: Path) -> None:
    folders = [save_run(tmp_path / n, model=n, seed=i, design="independent") for i, n in enumerate("ab")]
    found = compare_across(load_runs(folders), seed=0)
    assert "effects" not in found.tables
    assert len(found.overlap) == len(CONDITIONS)


def test_the_command_writes_the_same_folder_twice(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folders = tmp_path / "out", list(map(str, runs))

    def contents() -> dict[str, bytes]:
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    assert cli.main(["across", *folders, "--out", str(out)]) == 0
    first = contents()
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    assert cli.main(["across", *folders, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["run"] == "simclr_r18"
    assert contents() == first
    assert {"across.json", "index.html", "figures/across.png", "tables/overlap.csv"} <= first.keys()
    page = first["index.html"].decode()
    for report in map(Report.load, runs):
        pies = report.tables["summary"]["pies"].dropna()
        assert all(f'<td class="n">{int(count):,}</td>' in page for count in pies)


def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    folders = [save_run(tmp_path / n, model=f"<script>{n}</script>", seed=i) for i, n in enumerate("ab")]
    assert cli.main(["across", *map(str, folders), "--out", str(tmp_path / "out")]) == 0
    assert "<script>" not in (tmp_path / "out" / "index.html").read_text()


def test_bad_input_is_told_in_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_run(tmp_path / "other", ids=np.array([f"t{i}" for i in range(N)]))
    relabelled = save_run(tmp_path / "relabelled", label=(LABEL + 1) % 3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    cases = [
        ([runs[0]], "out", "needs at least 2 runs, not 1"),
        ([runs[0], tmp_path], "out", "is not a run: it has no report.json"),
        ([runs[0], other], "out", "are of different images"),
        ([runs[0], relabelled], "out", "different true labels"),
        (runs, "full", "holds other files than a comparison of runs"),
    ]
    for folders, out, complaint in cases:
        before = sorted(tmp_path.rglob("*"))
        assert cli.main(["across", *map(str, folders), "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_other_images_of_the_same_names_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = save_run(tmp_path / "other", fingerprint="def")
    with pytest.raises(InputError, match="are of different data, whose images have the same names"):
        load_runs([runs[0], other])
    assert len(load_runs([runs[0], save_run(tmp_path / "unknown", model="x", fingerprint=None)])) == 2


def test_single_networks_are_refused(runs: list[Path], tmp_path: Path) -> None:
    alone = save_run(tmp_path / "alone")
    report = Report.load(alone)
    single = {n: p.take(np.arange(N)) for n, p in report.predictions.items()}
    single = {n: Predictions(p.sample_id, p.predicted[:1], p.label) for n, p in single.items()}
    Report(report.document, report.tables, None, single).save(alone)
    with pytest.raises(InputError, match="single network"):
        load_runs([runs[0], alone])
