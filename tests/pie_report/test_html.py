"""The page: every number from the document, nothing for what is not known, and no name that breaks out."""

import copy
import json
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema
import pytest
from PIL import Image

from analysis.similarity.cka import KNOWN_PITFALL
from figures.gallery import build_gallery, pie_entries
from pie_report.html import render_page, words
from pie_report.statistics import NETWORK_SCORES

ROOT = Path(__file__).parents[2]
FIGURES = [
    *("accuracy-cost", "class-change", "pies", "fair-params", "fair-accuracy", "overlap", "cka", "cka-map"),
    "embedding-map",
    "attribution-maps",
]
SCHEMA = json.loads((ROOT / "pie_report" / "report.schema.json").read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Text, links, ids and elements of a page, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.elements, self.rejected, parts = [], [], [], [], []
        self._hidden, self._parts, self._row, self._in_row_head = 0, parts, None, False
        self.feed(text)
        self.text = " ".join("".join(parts).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        self._hidden += tag == "style"
        if tag == "tr":
            self._row = attrs.get("class")
        self._in_row_head = tag == "th" and self._row == "rejected"

    def handle_endtag(self, tag):
        self._hidden -= tag == "style"
        self._in_row_head = False
        if tag in ("th", "td"):
            self._parts.append(" ")

    def handle_data(self, data):
        if not self._hidden:
            self._parts.append(data)
        if self._in_row_head:
            self.rejected.append(data)


def full_page(report, figures=FIGURES, has_gallery=True):
    return render_page(report.document, report.tables, figures=figures, has_gallery=has_gallery)


def write_run(report, folder, figures, gallery):
    for name in ("figures", "tables"):
        (folder / name).mkdir()
    for name in figures:
        Image.new("RGB", (600, 300), "white").save(folder / "figures" / f"{name}.png")
        (folder / "figures" / f"{name}.pdf").touch()
        (folder / "figures" / f"{name}.csv").touch()
    for name, table in report.tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    (folder / "report.json").write_text(json.dumps(report.document))
    if gallery:
        build_gallery(report.tables["pies"], report.exhibits, folder / "gallery", title="T")
    text = full_page(report, figures, gallery)
    (folder / "index.html").write_text(text, encoding="utf-8")
    return Page(text)


def assert_valid(document):
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


# --- report.json


def test_schema_is_a_schema_and_takes_both_kinds_of_report(report, comparison):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert_valid(report.document)
    assert_valid(comparison.document)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(schema=1),
        lambda d: d.update(created="2024-01-01"),
        lambda d: d.pop("baselines"),
        lambda d: d["spec"].update(design="both"),
        lambda d: d["spec"].update(out="/home/me"),
        lambda d: d["data"].update(n_test=0),
        lambda d: d["dense"]["accuracy"].update(mean=97.2),
        lambda d: d["dense"]["per_class"][0].update(recall="high"),
        lambda d: d["compressed"].clear(),
        lambda d: d["compressed"][0]["pies"].update(count=1.5),
        lambda d: d["compressed"][0]["pies"].update(rejected=True),
        lambda d: d["compressed"][0]["pies"].pop("p_floor"),
        lambda d: d["compressed"][0]["classes"][0].update(p_value=1.2),
        lambda d: d["compressed"][0]["cka"][0].update(value=None),
        lambda d: d["compressed"][0]["attribution"]["pies"].update(spearman=-1.5),
        lambda d: d["compressed"][0]["cost"].update(speedup=4),
        lambda d: d["compressed"][0].pop("maps"),
        lambda d: d["compressed"][0]["similarity"]["layers"][0].update(measure="rsa"),
        lambda d: d["compressed"][0]["maps"]["tests"][0].update(p_adjusted=None),
        lambda d: d.pop("overlap"),
        lambda d: d["overlap"][0].update(p_value=1.2),
        lambda d: d["overlap"][0].pop("expected_given_margin"),
        lambda d: d["spec"].update(repair="bn"),
        lambda d: d["spec"].update(probe=["frozen", "frozen"]),
        lambda d: d.pop("fair"),
        lambda d: d["fair"]["comparisons"][0].update(axis="bytes_kept"),
        lambda d: d["fair"]["not_compared"][0].pop("reason"),
        lambda d: d.pop("probes"),
        lambda d: d["probes"]["conditions"][0].update(probe="svm"),
        lambda d: d["probes"]["conditions"][0].pop("common"),
        lambda d: d["spec"].pop("side_labels"),
        lambda d: d["spec"].update(side_labels=7),
        lambda d: d["compressed"][0].pop("statistics"),
        lambda d: d["compressed"][0]["statistics"].pop("flips"),
        lambda d: d["compressed"][0]["statistics"].update(class_rates=[]),
        lambda d: d["compressed"][0]["statistics"].update(exemplars=None),
        lambda d: d["compressed"][0]["statistics"]["flips"]["total"].update(mean=31),
        lambda d: d["compressed"][0]["statistics"]["divergence"].update(mean=None),
        lambda d: d["compressed"][0]["statistics"]["models"].update(k=9.5),
        lambda d: d["compressed"][0]["statistics"]["class_errors"]["cev"].pop("corrected"),
        lambda d: d["compressed"][0]["statistics"]["intensification"].update(slope=0.5),
        lambda d: d["compressed"][0]["statistics"]["difficulty"].update(known_score="el2n"),
        lambda d: d["compressed"][0]["statistics"]["difficulty"]["scores"][0].update(auc=51.7),
        lambda d: d["compressed"][0]["statistics"]["rarefaction"][0].update(k=0),
        lambda d: d["compressed"][0]["statistics"]["calibration"][0].update(measure="brier"),
        lambda d: d["compressed"][0]["statistics"]["flags"][0].update(odds_ratio="inf"),
        lambda d: d["spec"]["groups"].update(columns=[]),
        lambda d: d["compressed"][0]["statistics"].pop("groups"),
        lambda d: d["compressed"][0]["statistics"]["groups"]["pies"][0].update(share=51.7),
        lambda d: d["compressed"][0]["statistics"]["groups"]["accuracy"][0].pop("change_expected"),
    ],
)
def test_schema_refuses_a_broken_report(report, damage):
    document = copy.deepcopy(report.document)
    damage(document)
    with pytest.raises(jsonschema.ValidationError):
        assert_valid(document)


def test_every_object_of_the_schema_is_closed():
    def objects(node):
        if isinstance(node, dict):
            if "properties" in node:
                yield node
            for value in node.values():
                yield from objects(value)

    closed = list(objects(SCHEMA))
    assert len(closed) > 10
    assert all(node["additionalProperties"] is False for node in closed)
    assert all(set(node["required"]) == set(node["properties"]) for node in closed)


def test_every_field_and_column_is_documented(report):
    text = (ROOT / "docs" / "report-schema.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([^`]+)`", text))

    def names(node):
        if isinstance(node, dict):
            yield from node.get("properties", {})
            for value in node.values():
                yield from names(value)

    assert set(names(SCHEMA)) - documented == {"schema"}
    assert '"schema": 2' in text
    for name, table in report.tables.items():
        section = text.split(f"### `tables/{name}.csv`")[1].split("\n###")[0]
        if name == "intersections":  # its other columns are conditions
            assert "`count`" in section
        elif name != "classes":  # its columns are the fields of `classes`
            assert set(table.columns) <= set(re.findall(r"`(\w+)`", section)), name


# --- numbers as words


def test_numbers_as_words():
    assert words.percent(0.1234) == "12.3%"
    assert words.share(0.5) == "50%"
    assert words.share(0.125) == "12.5%"
    assert words.percent_range(0.9, 0.975) == "90.0–97.5%"
    assert [words.points(d) for d in (-0.1234, 0.003, -0.0001, 0.0)] == ["−12.3", "+0.3", "0.0", "0.0"]
    assert words.points_range(-0.2, 0.1) == "−20.0 to +10.0"
    assert [words.p_value(p) for p in (0.0009, 0.001, 0.0195, 1.0)] == ["< 0.001", "0.001", "0.019", "1.000"]
    assert [words.p_equals(p) for p in (1e-9, 0.5)] == ["p < 0.001", "p = 0.500"]
    assert words.count(1797) == "1,797"
    assert words.decimal(-1234.56) == "−1,234.6"
    assert words.signed(3.21) == "+3.2"
    assert [words.large(n) for n in (700_122, 11_173_962, 4.1e9)] == [
        "700,122",
        "11.2 million",
        "4.1 billion",
    ]
    assert [words.byte_size(n) for n in (999, 2_812_040)] == ["999 bytes", "2.8 MB"]
    assert words.significant(2.0**-9) == "0.002"


def test_a_missing_number_is_an_error_and_never_text():
    for write in words.FILTERS.values():
        with pytest.raises(TypeError):
            write(*[None] * (2 if "range" in write.__name__ else 1))


# --- the page


def test_headline_and_tables_hold_the_numbers_of_the_document(report):
    page = Page(full_page(report))
    assert "What does simclr_r18 forget when it is made smaller?" in page.text
    for condition in report.document["compressed"]:
        found, accuracy = condition["pies"], condition["accuracy"]
        assert f"{found['count']} images of 300" in page.text
        assert f"{found['forgotten']} are forgotten, {found['gained']} gained" in page.text
        assert words.percent(accuracy["mean"]) in page.text
        assert words.percent_range(accuracy["low"], accuracy["high"]) in page.text
        assert f"{found['count'] / 14.25:.1f} times" in page.text
        worst = min(condition["classes"], key=lambda row: row["delta"])
        assert f"Class {worst['name']} pays most: {words.points(worst['delta'])}" in page.text
        for row in condition["classes"]:
            assert f"{row['name']} {row['n']} {words.percent(row['recall_dense'])}" in page.text
        lowest = min(condition["cka"], key=lambda row: row["value"])
        assert (
            f"Layer {lowest['layer']} changes most: CKA of whole feature maps {lowest['value']:.2f}"
            in page.text
        )
    assert "96.7%" in page.text
    assert "71.0%" in page.text
    assert report.document["spec"]["command_line"] in page.text
    assert "learning rate: 0.05" in page.text
    assert "torch 2.8.0" in page.text
    assert "183,431 26.2% 9.35 million 27.1% 739.6 kB 26.3% 50% 50.0%" in page.text


def test_every_layer_stands_beside_its_references(report):
    page = Page(full_page(report))
    rows = report.document["compressed"][0]["similarity"]["layers"]
    for layer in {row["layer"] for row in rows}:
        cka = {row["images"]: row for row in rows if (row["measure"], row["layer"]) == ("cka", layer)}
        near = next(
            r for r in rows if (r["measure"], r["images"], r["layer"]) == ("neighbours", "all", layer)
        )
        whole = cka["all"]
        cells = [
            layer,
            f"{whole['value']:.2f} ({whole['value_low']:.2f}–{whole['value_high']:.2f})",
            *(f"{whole[name]:.2f}" for name in ("reference", "untrained")),
            *(f"{cka[s][name]:.2f}" for s in ("pies", "matched") for name in ("value", "reference")),
            *(words.percent(near[name]) for name in ("value", "reference", "untrained")),
        ]
        assert " ".join(cells) in page.text
    assert KNOWN_PITFALL in page.text
    assert "all features of an image are <0>" in page.text
    assert "24 pairs, whose margins differ by 0.012" in page.text


def test_maps_stand_between_ceiling_and_floor_with_their_tests(report):
    page = Page(full_page(report))
    maps = report.document["compressed"][0]["maps"]
    for test in maps["tests"]:
        groups = {
            row["group"]: row
            for row in maps["means"]
            if (row["method"], row["measure"]) == (test["method"], test["measure"])
        }
        one_map = test["measure"] in ("deletion", "insertion")
        names = ("dense", "compressed", "floor") if one_map else ("compressed", "ceiling", "floor")
        cells = [
            f"{words.in_words(test['method'])}, {words.in_words(test['measure'])}",
            *(f"{groups[group][name]:.2f}" for group in ("pie", "matched") for name in names),
            f"{words.decimal(test['difference'], 3)} (−0.300 to −0.010)",
            words.p_value(test["p_adjusted"]),
        ]
        assert " ".join(cells) in page.text


def interval(row, words_of, *, of="value", low="low", high="high"):
    return f"{words_of(row[of])} ({words_of(row[low])} to {words_of(row[high])})"


def two_decimals(number):
    return words.decimal(number, 2)


def images_range(row, name):
    low, high = ("low", "high") if name == "count" else (f"{name}_low", f"{name}_high")
    return f"{words.decimal(row[name])} ({words.decimal(row[low])}–{words.decimal(row[high])})"


def test_flips_stand_beside_two_dense_networks(report):
    page = Page(full_page(report))
    for condition in report.document["compressed"]:
        flips = condition["statistics"]["flips"]
        total = flips["total"]
        cells = [
            condition["condition"],
            f"{words.percent(total['mean'])} ({words.percent_range(total['low'], total['high'])})",
            words.percent(total["reference"]),
            *(
                words.percent(flips[kind]["mean"])
                for kind in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")
            ),
        ]
        assert " ".join(cells) in page.text


def test_each_of_several_repairs_is_said(report):
    page = Page(full_page(report))
    assert "Every amount was tried" not in page.text
    assert (
        "no longer fit, so they were measured again on training images, for every condition alike"
        in page.text
    )
    report.document["spec"]["repair"] = ["none", "bn", "data-free"]
    assert_valid(report.document)
    page = Page(full_page(report))
    assert "Every amount was tried under each of these repairs: none, bn, data-free." in page.text
    starts = ("With none, nothing was repaired", "With bn: after compression", "With data-free: after compr")
    places = [page.text.index(start) for start in starts]
    assert places == sorted(places)


def test_numbers_of_networks_are_thinned_out_and_the_needed_number_is_said(report):
    report.document["compressed"][1]["statistics"]["models"] |= {"k": None, "k_high": None}
    report.document["compressed"][2]["statistics"]["models"] = None
    assert_valid(report.document)
    page = Page(full_page(report))
    for condition in report.document["compressed"]:
        rows = condition["statistics"]["rarefaction"]
        for row in rows:
            cells = [condition["condition"], str(row["k"])]
            cells += [images_range(row, name) for name in ("count", "seed_noise")]
            assert (" ".join(cells) in page.text) is (row["k"] in (1, 3, 5, 8, 10))
    said = "for a seed noise of a tenth of its PIEs"
    assert f"merge 0.5: {said} about 40 networks are needed (at most 60). prune 0.9: " in page.text
    assert f" prune 0.9: {said} more than 100 networks are needed." in page.text
    assert page.text.count(said) == 2


def test_whether_the_weak_get_weaker(report):
    page = Page(full_page(report))
    for condition in report.document["compressed"]:
        found = condition["statistics"]
        estimates = found["intensification"]["slope"], *(found["class_errors"][n] for n in ("cev", "sde"))
        cells = [condition["condition"], *(interval(e, two_decimals, of="corrected") for e in estimates)]
        assert " ".join([*cells, str(found["class_errors"]["left_out"])]) in page.text


def test_scores_of_difficulty_stand_beside_the_margin(report):
    page = Page(full_page(report))
    for condition in report.document["compressed"]:
        found = condition["statistics"]["difficulty"]
        for row in found["scores"]:
            cells = [
                condition["condition"],
                row["score"].replace("_", " "),
                {"el2n": "predictions, label", "human <b>votes</b>": "side data"}.get(
                    row["score"], "predictions"
                ),
                str(row["n"]),
                f"{words.percent(row['auc'])} ({words.percent_range(row['low'], row['high'])})",
            ]
            if row["score"] == "mean_margin":
                cells += ["–", "–"]
            else:
                gains = words.points_range(row["gain_low"], row["gain_high"])
                cells += [words.percent(row["auc_known"]), f"{words.points(row['gain'])} ({gains})"]
            assert " ".join(cells) in page.text
        joint, gain = found["joint"], found["gain"]
        cells = [
            condition["condition"],
            "all of these together",
            str(found["n"]),
            f"{words.percent(joint['value'])} ({words.percent_range(joint['low'], joint['high'])})",
            words.percent(found["known"]["value"]),
            f"{words.points(gain['value'])} ({words.points_range(gain['low'], gain['high'])})",
        ]
        assert " ".join(cells) in page.text
    assert "Prediction depth counts" not in page.text


def test_scores_of_the_networks_are_explained_where_there_are_any(report):
    for condition in report.document["compressed"]:
        for row, name in zip(
            condition["statistics"]["difficulty"]["scores"],
            NETWORK_SCORES,
            strict=True,
        ):
            row["score"] = name
    page = Page(full_page(report))
    for said in (
        "Prediction depth counts",
        "label depth asks",
        "The Q-scores ask",
        "Forgetting events count",
        "Memorisation is",
    ):
        assert page.text.count(said) == 1
    for cells in (
        "prediction depth layers",
        "label depth layers, label",
        "q score corti features",
        "memorisation training, label",
    ):
        assert page.text.count(cells) == len(report.document["compressed"])


def test_training_images_are_not_called_test_images(report):
    def text(**more):
        training = report.document["spec"]["training"] | {"train_share": more.pop("share", 1.0)}
        report.document["spec"] |= {"training": training, **more}
        return Page(full_page(report)).text

    n = f"{report.document['data']['n_test']}"
    tested = text(judged="test")
    assert f"{n} test images" in tested
    assert f"tested on {n} images that they were not trained on" in tested
    assert "training images: how networks do" not in tested
    learnt = text(judged="train")
    assert f"{n} training images" in learnt
    assert f"asked about the {n} images that they learnt from" in learnt
    assert "the same training images are seen, as they are, without augmentation" in learnt
    assert "The images are training images: how networks do" in learnt
    assert "test images" not in learnt
    assert "Each learnt from a random" not in learnt + tested
    said = "Each learnt from a random 70% of these images, drawn with its seed"
    assert all(said in text(judged=split, share=0.7) for split in ("train", "test"))


def test_marks_of_the_side_data_and_its_digest(report):
    page = Page(full_page(report))
    for condition in report.document["compressed"]:
        row = condition["statistics"]["flags"][0]
        cells = [
            condition["condition"],
            "label <i>error</i>",
            str(row["flagged"]),
            f"{row['flagged_pies']} ({words.percent(row['rate_flagged'])})",
            words.percent(row["rate_rest"]),
            interval(row, two_decimals, of="odds_ratio"),
            words.p_value(row["p_value"]),
        ]
        assert " ".join(cells) in page.text
        rest = words.percent(condition["statistics"]["flags"][1]["rate_rest"])
        assert f"{condition['condition']} nobody has it 0 0 {rest} – (0.00 to any) 1.000" in page.text
    assert "digest 89abcdef01234567" in page.text


def test_overlap_of_conditions_against_chance_with_and_without_the_margin(report):
    page = Page(full_page(report))
    for row in report.document["overlap"]:
        cells = [
            f"{row['first']}, {row['second']}",
            str(row["common"]),
            two_decimals(row["jaccard"]),
            words.decimal(row["expected"]),
            words.p_value(row["p_adjusted"]),
            words.decimal(row["expected_given_margin"]),
            words.p_value(row["p_given_margin_adjusted"]),
        ]
        assert " ".join(cells) in page.text
    assert "figure-overlap" in page.ids


def test_one_condition_overlaps_with_none(report):
    report.document["compressed"] = report.document["compressed"][:1]
    report.document["overlap"] = None
    assert_valid(report.document)
    page = Page(full_page(report))
    assert "Do the conditions forget the same images?" not in page.text
    assert "figure-overlap" not in page.ids


def test_each_probe_stands_beside_the_first(report):
    page = Page(full_page(report))
    rows = report.document["probes"]["conditions"]
    for i, row in enumerate(rows):
        first = rows[i - i % 3]
        ends = words.percent_range(row["accuracy_low"], row["accuracy_high"])
        accuracy = f"{words.percent(row['accuracy'])} ({ends})"
        cells = [
            *(row["condition"], row["probe"], words.percent(row["accuracy_dense"]), accuracy),
            *(str(row["pies"]), words.decimal(row["expected_null"]), str(row["forgotten"])),
        ]
        cells += (
            ["– – –"]
            if row is first
            else [
                f"{row['common']} of {first['pies']}",
                two_decimals(row["jaccard"]),
                two_decimals(row["kappa"]),
            ]
        )
        assert " ".join(cells) in page.text
    assert "the 90 training images with the nearest features (by cosine) vote" in page.text
    assert "prune 0.9, knn: 5.0% of the images have no features left" in page.text
    assert "#probes" in page.links
    assert "with the dense networks as they were trained" not in page.text


def test_one_probe_is_compared_with_none(report):
    report.document["probes"] = None
    report.document["spec"]["probe"] = ["refit"]
    assert_valid(report.document)
    page = Page(full_page(report))
    assert "Encoder or probe" not in page.text
    assert "what is lost is lost in the features" in page.text


def test_methods_are_compared_where_they_are_equal(report):
    page = Page(full_page(report))
    fair = report.document["fair"]
    assert "At equal parameters" in page.text
    assert "merge and prune (bn) cannot be compared: prune keeps all MACs whatever the amount." in page.text
    assert "Left out, as one amount is no curve: filters (bn)." in page.text
    for axis, point in product(("params_kept", "accuracy"), (0.4, 0.8)):
        rows = [r for r in fair["comparisons"] if (r["axis"], r["point"]) == (axis, point)]
        flips = [words.percent(rows[0][f"outcome_{which}"]) for which in ("first", "second")]
        cells = ["merge less random bn", words.percent(point), ", ".join(flips)]
        cells += [
            f"{words.points(r['difference'])} ({words.points_range(r['low'], r['high'])})" for r in rows
        ]
        assert len(rows) == (4 if axis == "params_kept" else 3)
        assert " ".join(cells) in page.text
    assert {"figure-fair-params", "figure-fair-accuracy"} <= set(page.ids)
    report.document["fair"]["comparisons"][0]["low"] = None  # few draws reach this point
    assert f"{words.points(0.1)} {words.points(0.104)}" in Page(full_page(report)).text


def test_without_curves_nothing_is_compared(report):
    report.document["fair"] = None
    assert_valid(report.document)
    page = Page(full_page(report))
    assert "Fair comparison" not in page.text
    assert "#fair" not in page.links


def test_calibration_before_and_after(report):
    page = Page(full_page(report))
    for condition in report.document["compressed"]:
        for row in condition["statistics"]["calibration"]:
            cells = [
                condition["condition"],
                *([] if row["grouping"] == "all" else [row["group"]]),
                row["measure"].replace("_", " "),
                words.percent(row["dense"]),
                words.percent(row["compressed"]),
                f"{words.points(row['change'])}"
                f" ({words.points_range(row['change_low'], row['change_high'])})",
            ]
            assert " ".join(cells) in page.text


def make_single(report):
    """Takes away what one network cannot tell."""
    needs_seeds = (
        *("expected_null", "expected_null_low", "expected_null_high", "p_value", "p_floor", "rejected"),
        *("delta_low", "delta_high", "p_adjusted", "p_welch", "p_welch_adjusted"),
        *("change_low", "change_high", "corrected", "reference", "ceiling"),
    )

    def forget(node, names):
        for value in node.values() if isinstance(node, dict) else node:
            if isinstance(value, dict | list):
                forget(value, names)
        if isinstance(node, dict):
            node |= {name: None for name in names if name in node and not isinstance(node[name], dict)}

    document = report.document
    document["dense"]["k"] = 1
    forget(document["dense"], ("low", "high"))
    forget(document["fair"]["comparisons"], ("low", "high"))
    forget(document["probes"], ("accuracy_low", "accuracy_high", *needs_seeds))
    for condition in document["compressed"]:
        condition["k"] = 1
        found = condition["statistics"]
        found |= {"rarefaction": None, "models": None}
        found["divergence"]["p_value"] = None
        for name in ("slope", "ratio"):
            found["intensification"][name] = dict.fromkeys(found["intensification"][name])
        for part in (found["flips"], found["class_errors"], condition["accuracy"]):
            forget(part, ("low", "high"))
        for name in ("pies", "classes", "cka", "attribution", "similarity"):
            forget(condition[name], needs_seeds)
        for part in (condition["maps"]["means"], found["flips"], found["class_errors"], found["calibration"]):
            forget(part, needs_seeds)


def test_a_single_network_has_no_references_and_no_intervals_over_networks(report):
    make_single(report)
    assert_valid(report.document)
    page = Page(full_page(report))
    assert not re.search(r"\b(None|nan|NaN|inf|null|undefined)\b", page.text)
    assert "Network by network" not in page.text
    assert "numbers of networks have found" not in page.text
    for condition in report.document["compressed"]:
        name, found = condition["condition"], condition["statistics"]
        values = [two_decimals(found["class_errors"][n]["value"]) for n in ("cev", "sde")]
        assert f"{name} – {values[0]} {values[1]} {found['class_errors']['left_out']}" in page.text
        for row in (row for row in found["calibration"] if row["grouping"] == "all"):
            numbers = [words.percent(row["dense"]), words.percent(row["compressed"])]
            cells = [name, row["measure"].replace("_", " "), *numbers, words.points(row["change"])]
            assert f"{' '.join(cells)} " in page.text
            assert f"{' '.join(cells)} (" not in page.text
        row = found["difficulty"]["scores"][1]
        assert f"{words.percent(row['auc'])} ({words.percent_range(row['low'], row['high'])})" in page.text
    assert "Flips among them" in page.text
    assert "forget the same images" in page.text


@pytest.mark.parametrize(
    ("p", "difference", "ceiling", "said"),
    [
        (0.5, -0.1, 0.9, "explanations can move before the label does"),
        (0.5, -0.1, 0.1, "No difference was found, which is no proof that there is none. The label is"),
        (0.01, -0.1, 0.9, "Maps change more where the label changes"),
        (0.01, 0.1, 0.9, "Maps change less where the label changes"),
    ],
)
def test_whether_explanations_move_before_predictions(report, p, difference, ceiling, said):
    answers = (
        "explanations can move before", "none. The label is", "Maps change more", "Maps change less",
    )  # fmt: skip
    report.document["compressed"] = report.document["compressed"][:1]
    maps = report.document["compressed"][0]["maps"]
    for row in [*maps["tests"], *maps["means"]]:
        if (row["method"], row["measure"]) == ("occlusion", "spearman"):
            row |= {"p_adjusted": p, "difference": difference} if "p_value" in row else {"ceiling": ceiling}
    text = Page(full_page(report)).text
    assert said in text
    assert sum(answer in text for answer in answers) == 1


def test_too_few_pies_to_match_are_said_to_be_too_few(report):
    for condition in report.document["compressed"]:
        condition["matching"] = {"pairs": 0, "margin_gap": None, "missing": "7 PIEs were found <7>"}
        similarity, maps = condition["similarity"], condition["maps"]
        similarity["images"] |= {"pies": 0, "matched": 0}
        similarity["layers"] = [row for row in similarity["layers"] if row["images"] == "all"]
        maps["means"] = [row for row in maps["means"] if row["group"] != "matched"]
        maps["tests"] = []
    assert_valid(report.document)
    text = Page(full_page(report)).text
    assert "no matched images; 7 PIEs were found <7>." in text
    assert "PIEs were not compared with matched images: 7 PIEs were found <7>." in text
    assert not re.search(r"\b(None|nan|NaN|inf|null|undefined)\b", text)


def test_only_classes_rejected_by_the_permutation_test_are_marked(report):
    page = Page(full_page(report))
    expected = [
        row["name"]
        for condition in report.document["compressed"]
        for row in sorted(condition["classes"], key=lambda row: row["delta"])
        if row["p_adjusted"] <= 0.05
    ]
    conditions = {condition["condition"] for condition in report.document["compressed"]}
    # Rows of groups begin with their condition.
    assert [name for name in page.rejected if name not in conditions] == expected
    assert len(expected) >= 3


def test_every_term_is_defined_once_and_before_it_is_needed(report):
    text = full_page(report)
    terms = re.findall(r"<dfn>(.*?)</dfn>", text)
    assert len(terms) == len(set(terms))
    expected = "population dense compressed PIE forgotten probe paired recall MACs CKA".split()  # noqa: SIM905
    assert set(expected) <= set(terms)
    assert text.index("<dfn>PIE</dfn>") < text.index('id="short"') < text.index('id="condition-1"')


@pytest.mark.parametrize("gallery", [True, False])
def test_all_links_resolve(report, tmp_path, gallery):
    page = write_run(report, tmp_path, FIGURES, gallery)
    targets = [link for link in page.links if not link.startswith("data:")]
    assert len(targets) > 30
    for link in targets:
        parts = urlsplit(link)
        assert (parts.scheme, parts.netloc) == ("", "")
        if parts.path:
            assert (tmp_path / unquote(parts.path)).is_file(), link
        else:
            assert page.ids.count(parts.fragment) == 1, link
    assert any("gallery/images/" in link for link in targets) is gallery
    assert len(page.ids) == len(set(page.ids))


def test_strip_shows_the_forgotten_with_the_largest_change_and_opens_them(report):
    page = Page(full_page(report))
    entries = pie_entries(report.tables["pies"])
    for condition in report.document["compressed"]:
        here = entries[(entries["condition"] == condition["condition"]) & (entries["kind"] == "forgotten")]
        wanted = here.sort_values("distance", ascending=False, kind="stable").head(12)
        shown = [
            parse_qs(urlsplit(link).fragment)
            for link in page.links
            if "open=" in link and parse_qs(urlsplit(link).fragment)["condition"] == [condition["condition"]]
        ]
        assert [int(view["open"][0]) for view in shown] == wanted["number"].tolist()
        assert all(view["kind"] == ["forgotten"] for view in shown)
    pictures = [attrs for tag, attrs in page.elements if tag == "img"]
    assert all(attrs["alt"] for attrs in pictures)


def test_groups_are_told_with_both_tests_and_marked_where_they_agree(report):
    page = Page(full_page(report))
    for number, condition in enumerate(report.document["compressed"]):
        found = condition["statistics"]["groups"]
        for i, row in enumerate(found["accuracy"]):
            cells = [
                condition["condition"],
                row["group"],
                "150",
                *(words.percent(row[name]) for name in ("dense", "compressed")),
                words.points(row["change"]),
                f"({words.points_range(row['change_low'], row['change_high'])})",
                words.points(row["change_expected"]),
                *(words.p_value(row[name]) for name in ("p_max_t", "p_images_max_t")),
            ]
            assert " ".join(cells) + (" *" if i == number == 0 else "") in page.text
        for row in found["pies"]:
            cells = [
                condition["condition"],
                row["group"],
                f"{row['pies']} of 150",
                f"{words.percent(row['share'])} ({words.percent_range(row['share_low'], row['share_high'])})",
                *(words.percent(row[name]) for name in ("share_rest", "expected")),
                words.p_value(row["p_max_t"]),
                words.percent(row["expected_given_margin"]),
                words.p_value(row["p_given_margin_max_t"]),
            ]
            assert " ".join(cells) in page.text
    assert page.text.count("0.011 *") == 1
    assert "it says nothing of people" in page.text
    assert "tables/group_rates.csv" in page.links


def test_without_groups_there_is_no_part_on_them(report):
    report.document["spec"]["groups"] = None
    for condition in report.document["compressed"]:
        condition["statistics"]["groups"] = None
    page = Page(full_page(report))
    assert "groups" not in page.ids
    assert "says nothing of people" not in page.text


def test_hostile_names_stay_text(report):
    for condition in report.document["compressed"]:
        condition["condition"] += "<b>"
    for row in report.document["overlap"]:
        row |= {"first": row["first"] + "<b>", "second": row["second"] + "<b>"}
    for row in report.document["probes"]["conditions"]:
        row["condition"] += "<b>"
    for row in report.document["fair"]["comparisons"]:
        row["first"] += "<b>"
    for name, table in report.tables.items():
        if "condition" not in table or name in ("overlap", "intersections"):
            continue
        table["condition"] = [c if c == "dense" else c + "<b>" for c in table["condition"]]
    text = full_page(report)
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {"script", "b", "i"}
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert "<script>alert(1)</script>" in page.text
    assert all(not link.startswith("javascript:") for link in page.links)


def test_what_compare_cannot_know_is_left_out_with_a_reason(comparison, tmp_path):
    page = write_run(comparison, tmp_path, [], gallery=False)
    assert not re.search(r"\b(None|nan|NaN|null|undefined|\[\]|\{\})\b", page.text)
    found = comparison.document["compressed"][0]["pies"]
    assert f"{found['count']} images of 300" in page.text
    assert f"the excess is {words.signed(found['excess'])}" in page.text
    for reason in (
        "No true labels were given",
        "which of them are losses is not known",
        "there are no classes to compare",
        "nothing can be said of cost",
        "only their predictions were given",
        "No gallery",
        "The training settings are not known",
    ):
        assert reason in page.text
    statistics = comparison.document["compressed"][0]["statistics"]
    for row in statistics["difficulty"]["scores"]:
        auc = f"{words.percent(row['auc'])} ({words.percent_range(row['low'], row['high'])})"
        assert f"compressed {row['score'].replace('_', ' ')} predictions {row['n']} {auc}" in page.text
    last = statistics["rarefaction"][-1]
    assert f"compressed 10 {images_range(last, 'count')} {images_range(last, 'seed_noise')}" in page.text
    for labelled in (
        "A flip is", "right → wrong", "Do the weak get weaker", "side data mark", "forget the same images",
        "calibration error", "el2n", "digest",
    ):  # fmt: skip
        assert labelled not in page.text
    assert "independent" in page.text
    assert "swapped" not in page.text
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_full_report_writes_no_missing_values(report):
    document = report.document
    first = document["compressed"][0]
    first["classes"][0] |= {name: None for name in first["classes"][0] if name not in ("name", "n")} | {
        "n": 0
    }
    first["pies"] |= {
        "accuracy_dense_on_pies": None,
        "accuracy_compressed_on_pies": None,
        "expected_null": 0.0,
    }
    first["attribution"]["pies"] = {"n": 0, "spearman": None}
    first["attribution"]["reference"]["pies"] = None
    first["calibration_images"] = None
    first["statistics"]["difficulty"] |= {"pies": 3} | dict.fromkeys(("known", "joint", "gain"))
    for row in first["statistics"]["difficulty"]["scores"]:
        row |= {name: None for name in row if name not in ("score", "n", "pies")}
    for estimate in first["statistics"]["class_errors"].values():
        if isinstance(estimate, dict):
            estimate |= dict.fromkeys(estimate)
    first["statistics"]["intensification"]["slope"] |= {"corrected": None, "low": None, "high": None}
    first["statistics"] |= {"models": None, "calibration": None}
    document["overlap"][0] |= {"jaccard": None, "kappa": None}
    document["probes"]["conditions"][1] |= {"jaccard": None, "kappa": None}
    for row in first["cka"]:
        row["reference"] = None
    for row in first["similarity"]["layers"]:
        row |= {name: None for name in row if name.startswith(("reference", "untrained"))}
        if row["images"] != "all" or row["measure"] == "neighbours":
            row |= dict.fromkeys(("value", "value_low", "value_high"))
    for row in first["maps"]["means"]:
        row |= dict.fromkeys(("dense", "compressed", "ceiling", "floor"))
    document["dense"]["accuracy_reestimated"] = None
    document["baselines"] = None
    document["spec"]["training"]["temperature"] = None
    assert_valid(document)
    page = Page(full_page(report))
    assert not re.search(r"\b(None|nan|NaN|inf|null|undefined)\b", page.text)
    assert "No PIE is expected from seeds alone" in page.text
    assert "raw pixels is right" not in page.text


def test_too_few_networks_are_said_to_be_too_few(report):
    for condition in report.document["compressed"]:
        condition["pies"] |= {"p_floor": 0.25, "p_value": 0.25}
    text = Page(full_page(report)).text
    assert "10 networks are too few to tell the change in the votes from chance" in text
    assert "no test here can reach 0.05" in text
    assert "more than chance explains" not in text


def test_a_condition_without_pies_reads_well(report):
    report.document["compressed"][0]["pies"] |= {"count": 0, "share": 0.0, "forgotten": 0}
    pies = report.tables["pies"]
    gone = pies["condition"] == "merge 0.5"
    report.tables["pies"] = pies.assign(pie=pies["pie"] & ~gone, kind=pies["kind"].mask(gone, ""))
    assert "No image was forgotten in this condition" in Page(full_page(report)).text


@pytest.mark.parametrize(
    ("objective", "changes", "said"),
    [
        (
            "simclr",
            {},
            "first trained with simclr on all images, and then fine-tuned, encoder and classifier together,"
            " on 1% of the labels: 10 images, the same for every network.",
        ),
        ("supcon", {"fraction": 1.0}, "fine-tuned, encoder and classifier together, on all labels."),
        (
            "byol",
            {"finetuning": None},
            "trained with byol on all images, and their classifiers fitted on 1% of the labels: 10 images",
        ),
        (
            "supervised",
            {"finetuning": None},
            "Only 1% of the labels were used, and only the images that have them: 10 images, the same",
        ),
    ],
)
def test_it_says_which_labels_were_seen(report, objective, changes, said):
    spec = report.document["spec"]
    spec["training"]["objective"] = objective
    spec["labels"] |= changes
    assert_valid(report.document)
    assert said in Page(full_page(report)).text
    spec["labels"] = None
    assert_valid(report.document)
    text = Page(full_page(report)).text
    assert "of the labels" not in text
    assert "all labels" not in text


def test_many_classes_are_cut_and_the_rest_is_linked(report):
    first = report.document["compressed"][0]
    row = first["classes"][0]
    first["classes"] = [row | {"name": f"class {i}", "delta": i / 100 - 0.9} for i in range(100)]
    page = Page(full_page(report))
    assert "The other 70 classes" in page.text
    assert "class 29 " in page.text
    assert "class 30 " not in page.text
    assert "tables/classes.csv" in page.links


def test_equal_documents_give_equal_pages(report):
    assert full_page(report) == full_page(copy.deepcopy(report))


def test_page_in_a_browser(browser, report, comparison, tmp_path):
    trouble = []
    for name, run, figures, gallery in (("a", report, FIGURES, True), ("b", comparison, [], False)):
        (tmp_path / name).mkdir()
        write_run(run, tmp_path / name, figures, gallery)
        for options in ({"viewport": {"width": 360, "height": 640}, "color_scheme": "dark"}, {}):
            page = browser.new_page(**options)
            page.on("console", lambda m: trouble.append(m.text))
            page.on("pageerror", lambda e: trouble.append(str(e)))
            page.on("dialog", lambda d: (trouble.append(d.message), d.dismiss()))
            page.on("requestfailed", lambda r: trouble.append(r.url))
            page.on(
                "request", lambda r: None if r.url.startswith(("file:", "data:")) else trouble.append(r.url)
            )
            page.goto((tmp_path / name / "index.html").as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert not wide, (name, options)
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
            assert dark is bool(options)
            page.close()
    assert trouble == []
    page = browser.new_page()
    page.goto((tmp_path / "a" / "index.html").as_uri())
    expected = page.locator(".strip a").first.get_attribute("href")
    page.locator(".strip a").first.click()
    page.wait_for_selector("dialog[open]")
    assert f"open={parse_qs(urlsplit(expected).fragment)['open'][0]}" in page.url
    page.close()
