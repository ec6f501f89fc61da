import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from figures import FIGURES, draw_figures
from figures.style import TEXT_WIDTH

ALL = [
    "accuracy-cost", "class-change", "pies", "group-change", "group-pies", "fair-params", "fair-accuracy",
    "sparsity", "overlap", "cka", "cka-map", "embedding-map", "attribution-maps",
]  # fmt: skip


def group_tables(conditions: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    rates, pies = [], []
    for condition in conditions:
        for i, (grouping, group) in enumerate((("all", "all"), ("sex", "f"), ("sex", "m"))):
            row = {"condition": condition, "grouping": grouping, "group": group, "p_max_t": 0.03 * i}
            change = {"change": -0.1 * i, "change_low": -0.1 * i - 0.01, "change_high": -0.1 * i + 0.01}
            rates.append(row | change | {"rate": "accuracy", "p_images_max_t": 0.01})
            rates.append(row | change | {"rate": "tpr", "p_images_max_t": 0.01})
            share = {"share": 0.1 * i, "share_low": 0.05 * i, "share_high": 0.2 * i}
            pies += [row | share | {"n": 100, "pies": 10 * i}] if i else []
    return {"group_rates": pd.DataFrame(rates), "group_pies": pd.DataFrame(pies)}


def run_tables(
    *, classes: int = 4, conditions: tuple[str, ...] = ("merge 0.5", "prune 0.9")
) -> dict[str, pd.DataFrame]:
    summary = [
        {
            "condition": "dense",
            "method": "dense",
            "params_kept": 1.0,
            "accuracy": 0.97,
            "accuracy_low": 0.96,
            "accuracy_high": 0.98,
        }
    ]
    changes, cka = [], []
    for place, condition in enumerate(conditions):
        summary.append(
            {
                "condition": condition,
                "method": condition.split()[0],
                "params_kept": 0.25,
                "accuracy": 0.9,
                "accuracy_low": 0.89,
                "accuracy_high": 0.92,
                "pies": 12,
                "pie_share": 0.12,
                "expected_null": 4.5,
                "expected_null_low": 2.5,
                "expected_null_high": 7.0,
                "forgotten": 8,
                "gained": 1,
                "still_wrong": 3,
            }
        )
        for index in range(classes):
            delta = -0.01 * (index + place)
            changes.append(
                {
                    "condition": condition,
                    "name": f"class {index}",
                    "n": 20,
                    "delta": delta,
                    "delta_low": delta - 0.01,
                    "delta_high": delta + 0.01,
                    "p_adjusted": 0.03,
                }
            )
        cka += [{"condition": condition, "layer": layer, "value": 0.9, "reference": 0.7} for layer in "zya"]
    cka_map, pixels, places = [], [], []
    for condition in conditions:
        places += [
            {
                "condition": condition,
                "sample_id": str(i),
                "x": i / 9,
                "y": -i / 9,
                "class": "$x_",
                "kind": kind,
            }
            for i, kind in enumerate(("", "forgotten", ""))
        ]
        cka_map += [
            {"condition": condition, "layer_dense": a, "layer_compressed": b, "value": 0.1 * (i + 2 * j)}
            for i, a in enumerate("zya")
            for j, b in enumerate("zya")
        ]
        pixels += [
            {
                "condition": condition, "sample_id": sample, "row": r, "column": c, "image": 0.5,
                "dense": 0.1 * r, "compressed": -0.1 * c, "other_seed": np.nan,
            }
            for sample in ("007", "a")
            for r in range(4)
            for c in range(3)
        ]  # fmt: skip
    return group_tables(conditions) | {
        "summary": pd.DataFrame(summary),
        "classes": pd.DataFrame(changes),
        "cka": pd.DataFrame(cka),
        "cka_map": pd.DataFrame(cka_map),
        "embedding_map": pd.DataFrame(places),
        "map_pictures": pd.DataFrame(pixels),
        "fair_curves": pd.DataFrame(
            [
                {
                    "repair": repair,
                    "method": method,
                    "amount": amount,
                    "params_kept": 1 - amount,
                    "accuracy": 0.9 - 0.1 * amount,
                    "flips": 0.2 * amount,
                    "flips_sd": np.nan,
                }
                for repair in ("none", "bn")
                for method in ("merge", "prune")
                for amount in (0.5, 0.0, 0.25)
            ]
        ),
        "sparsity": pd.DataFrame(
            [
                {"condition": condition, "step": 10 * i, "share": 0.5 * i, "sparsity": 0.45 * i}
                for condition in conditions
                for i in range(3)
            ]
        ),
        "intersections": pd.DataFrame(
            [
                {**{c: i == j for j, c in enumerate(conditions)}, "count": 9 - i}
                for i in range(len(conditions))
            ]
        ),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all figures of ``run_tables()``; read only."""
    folder = tmp_path_factory.mktemp("run") / "new" / "figures"
    assert draw_figures(run_tables(), folder) == ALL == [name for name in FIGURES if name != "across"]
    return folder


def test_groups_are_marked_where_both_tests_agree_beside_all_images(drawn: Path) -> None:
    change = pd.read_csv(drawn / "group-change.csv")
    assert change["group"].tolist() == ["f", "m"] * 2
    assert change["whole"].tolist() == [0.0] * 4
    assert change["beyond"].tolist() == [True, False] * 2  # p of networks: 0.03 and 0.06
    pies = pd.read_csv(drawn / "group-pies.csv")
    assert pies["whole"].tolist() == [0.15] * 4
    assert pies["beyond"].tolist() == [True, False] * 2


def test_repairs_and_schedules_are_curves_of_their_own(tmp_path: Path) -> None:
    tables = run_tables()
    summary = tables["summary"]
    changed = summary[summary["method"] != "dense"]
    assert len(changed) > 1
    amounts = [f"{method} 0.{i}" for i, method in enumerate(changed["method"], 1)]
    more = [
        changed.assign(condition=[f"{name}{ending}" for name in amounts])
        for ending in ("", " bn", " gradual 0.5 1")
    ]
    draw_figures({"summary": pd.concat([summary[summary["method"] == "dense"], *more])}, tmp_path)
    drawn = pd.read_csv(tmp_path / "accuracy-cost.csv")["method"].tolist()
    methods = changed["method"].tolist()
    expected = [*methods, *(f"{m} bn" for m in methods), *(f"{m} gradual 0.5 1" for m in methods)]
    assert drawn == ["dense", *expected]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_figure_has_three_files_and_nothing_else_is_left(drawn: Path) -> None:
    assert set(files(drawn)) == {f"{name}.{kind}" for name in ALL for kind in ("pdf", "png", "csv")}
    for name in ALL:
        with Image.open(drawn / f"{name}.png") as image:
            assert image.width == round(TEXT_WIDTH * 250)
        assert (drawn / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_equal_tables_give_equal_bytes_in_this_and_any_other_process(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = run_tables()
    monkeypatch.setitem(mpl.rcParams, "font.size", 20)
    draw_figures({name: table.copy() for name, table in tables.items()}, tmp_path / "b")
    assert mpl.rcParams["font.size"] == 20
    assert files(drawn) == files(tmp_path / "b")
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    code = (
        "import sys, pandas; from pathlib import Path; from figures import draw_figures;"
        "p = Path(sys.argv[1]);"
        "names = ('summary', 'classes', 'intersections', 'cka', 'cka_map', 'map_pictures',"
        " 'group_rates', 'group_pies', 'fair_curves', 'sparsity', 'embedding_map');"
        "tables = {n: pandas.read_csv(p / f'{n}.csv', dtype={'sample_id': str}) for n in names};"
        "draw_figures(tables, p / 'c')"
    )
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1000000000"},
    )
    assert files(drawn) == files(tmp_path / "c")


def test_no_date_and_no_version_of_a_program_is_in_the_png(drawn: Path) -> None:
    with Image.open(drawn / "pies.png") as image:
        assert set(image.info) == {"dpi"}
    assert b"CreationDate" not in (drawn / "pies.pdf").read_bytes()
    # As TrueType, text stays text; as Type 3 it would be drawings of letters.
    fonts = (drawn / "pies.pdf").read_bytes()
    assert b"/CIDFontType2" in fonts
    assert b"/Type3" not in fonts


def test_the_csv_holds_what_is_plotted(drawn: Path) -> None:
    pies = pd.read_csv(drawn / "pies.csv")
    assert pies.to_dict("records")[0] == {
        "condition": "merge 0.5",
        "forgotten": 8,
        "still wrong": 3,
        "gained": 1,
        "label unknown": 0,
        "pies": 12,
        "pie_share": 0.12,
        "expected_null": 4.5,
        "expected_null_low": 2.5,
        "expected_null_high": 7,
    }
    assert list(pies["condition"]) == ["merge 0.5", "prune 0.9"]
    cost = pd.read_csv(drawn / "accuracy-cost.csv")
    assert list(cost["condition"]) == ["dense", "merge 0.5", "prune 0.9"]
    cka = pd.read_csv(drawn / "cka.csv")
    assert list(cka["layer"]) == ["z", "y", "a"] * 2
    assert (drawn / "overlap.csv").read_text() == "merge 0.5,prune 0.9,images\nTrue,False,9\nFalse,True,8\n"


def test_classes_have_one_order_in_all_panels_by_mean_loss(tmp_path: Path) -> None:
    tables = {"classes": run_tables(classes=3)["classes"]}
    tables["classes"]["delta"] = [0.0, -0.2, -0.1, 0.1, 0.1, -0.3]
    draw_figures(tables, tmp_path)
    drawn = pd.read_csv(tmp_path / "class-change.csv")
    assert list(drawn["condition"]) == ["merge 0.5"] * 3 + ["prune 0.9"] * 3
    # Means: 0.05, -0.05, -0.2.
    assert list(drawn["name"]) == ["class 2", "class 1", "class 0"] * 2


def test_predictions_made_elsewhere_have_no_cost_and_perhaps_no_labels(tmp_path: Path) -> None:
    tables = run_tables(conditions=("compressed x",))
    others = ("cka", "cka_map", "embedding_map", "map_pictures", "intersections", "fair_curves", "sparsity")
    for name in (*others, *group_tables(())):
        del tables[name]
    summary = tables["summary"].astype(object)
    summary["params_kept"] = None
    summary.loc[:, ["accuracy", "accuracy_low", "accuracy_high", "forgotten", "gained", "still_wrong"]] = ""
    tables["summary"] = summary
    tables["classes"] = tables["classes"].assign(delta=np.nan)
    assert draw_figures(tables, tmp_path) == ["pies"]
    row = pd.read_csv(tmp_path / "pies.csv").iloc[0]
    assert (row["label unknown"], row["forgotten"], row["pies"]) == (12, 0, 12)


def test_a_table_that_is_absent_or_lacks_a_column_draws_nothing(tmp_path: Path) -> None:
    tables = run_tables()
    tables["cka"] = tables["cka"].drop(columns="reference")
    tables["cka_map"] = tables["cka_map"].drop(columns="value")
    tables["embedding_map"] = tables["embedding_map"].drop(columns="kind")
    tables["intersections"] = tables["intersections"].head(0)  # no PIE anywhere
    tables["fair_curves"] = tables["fair_curves"].drop(columns="accuracy")
    tables["group_rates"] = tables["group_rates"].drop(columns="p_images_max_t")
    del tables["classes"], tables["map_pictures"], tables["group_pies"], tables["sparsity"]
    assert draw_figures(tables, tmp_path) == ["accuracy-cost", "pies", "fair-params"]
    assert draw_figures({}, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_several_runs_have_a_figure_of_shares(tmp_path: Path) -> None:
    populations = run_tables()["summary"].assign(run="simclr_r18", images=200)
    assert draw_figures({"populations": populations}, tmp_path) == ["across"]
    table = pd.read_csv(tmp_path / "across.csv")
    assert table["condition"].tolist() == ["merge 0.5", "prune 0.9"]
    assert table[["pie_share", "null_share", "null_low", "null_high"]].iloc[0].tolist() == pytest.approx(
        [0.12, 4.5 / 200, 2.5 / 200, 7 / 200]
    )


def test_dense_alone_is_no_comparison(tmp_path: Path) -> None:
    tables = {"summary": run_tables()["summary"].iloc[:1]}
    assert draw_figures(tables, tmp_path) == []


def test_classes_without_samples_are_left_out(tmp_path: Path) -> None:
    tables = {"classes": run_tables(classes=3)["classes"]}
    tables["classes"].loc[tables["classes"]["name"] == "class 1", ["delta", "p_adjusted"]] = np.nan
    assert draw_figures(tables, tmp_path) == ["class-change"]
    assert set(pd.read_csv(tmp_path / "class-change.csv")["name"]) == {"class 0", "class 2"}


@pytest.mark.parametrize(("classes", "count"), [(10, 8), (100, 8), (100, 1)])
def test_many_classes_and_conditions_stay_on_the_page(tmp_path: Path, classes: int, count: int) -> None:
    tables = run_tables(classes=classes, conditions=tuple(f"merge {i}" for i in range(count)))
    draw_figures({"classes": tables["classes"]}, tmp_path)
    with Image.open(tmp_path / "class-change.png") as image:
        width, height = (side / 250 for side in image.size)
        # Nothing reaches the edges: the outermost pixels are white.
        pixels = np.asarray(image.convert("L"))
    assert width == TEXT_WIDTH
    assert height <= 9
    assert min(pixels[0].min(), pixels[-1].min(), pixels[:, 0].min(), pixels[:, -1].min()) == 255


def test_eight_conditions_fit_the_legend(tmp_path: Path) -> None:
    draw_figures({"cka": run_tables(conditions=tuple(f"filters 0.{i}" for i in range(8)))["cka"]}, tmp_path)
    with Image.open(tmp_path / "cka.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels[:, 0].min(), pixels[:, -1].min(), pixels[0].min()) == 255


def test_names_with_formula_signs_are_drawn(tmp_path: Path) -> None:
    tables = run_tables(conditions=("_a$b$ <i>", r"\frac$ $"))
    tables["classes"]["name"] = tables["classes"]["name"].replace("class 1", r"$\nonsense{$")
    assert draw_figures(tables, tmp_path) == ALL
    assert list(pd.read_csv(tmp_path / "pies.csv")["condition"]) == ["_a$b$ <i>", r"\frac$ $"]


def test_a_failed_write_leaves_the_old_figure_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_figures({"cka": run_tables()["cka"]}, tmp_path)
    before = files(tmp_path)

    def full(self: pd.DataFrame, path: Path, **_: object) -> None:
        Path(path).write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="no space left"):
        draw_figures({"cka": run_tables()["cka"]}, tmp_path)
    assert files(tmp_path) == before
