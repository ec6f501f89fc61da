import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import jsonschema
import numpy as np
import pandas as pd
import pytest

import pie_report
from analysis.fairness import class_rates, error_spread, group_calibration, intensification
from pie.difficulty import flag_rates, tell_pies
from pie.divergence import mean_divergence
from pie.exemplars import find_exemplars
from pie.flips import find_flips
from pie.identify import PieTable, find_pies
from pie.overlap import intersections, pairwise_overlap
from pie.rarefaction import k_needed, rarefy
from pie.scores import dense_scores
from pie.side_data import SideData
from pie_report import statistics
from pie_report.statistics import (
    COMPUTED_SCORES,
    NETWORK_SCORES,
    PREDICTION_SCORES,
    Statistics,
    check_names,
    condition_statistics,
    overlap_tables,
    statistics_document,
)
from population.errors import InputError
from population.predictions import Predictions

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
N, CLASSES, K, SEED = 240, 3, 4, 7
Design = Literal["paired", "independent"]


def population(k: int = K, *, seed: int, damage: float = 0.0) -> Predictions:
    """Networks that are right on easy images; damage makes all images harder."""
    shared, rng = np.random.default_rng(0), np.random.default_rng(seed)
    label, ease = shared.integers(0, CLASSES, N), shared.normal(1.5, 1.5, N)
    logits = rng.normal(size=(k, N, CLASSES)) + (ease - damage)[:, None] * np.eye(CLASSES)[label]
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=2, keepdims=True)).astype(np.float32)
    ordered = np.sort(probabilities, axis=2)
    return Predictions(
        sample_id=np.array([f"s{i}" for i in range(N)]),
        predicted=probabilities.argmax(axis=2),
        label=label,
        margin=ordered[..., -1] - ordered[..., -2],
        probabilities=probabilities,
        class_names=np.array(["ant", "bee", "cat"]),
    )


DENSE, COMPRESSED = population(seed=1), population(seed=2, damage=1.0)
SIDE = SideData(
    scores=pd.DataFrame(
        {"ease": pd.array(np.random.default_rng(3).normal(size=N), dtype="Float64")}, index=DENSE.sample_id
    ),
    flags=pd.DataFrame(
        {
            "odd": pd.array(np.random.default_rng(4).random(N) < 0.3, dtype="boolean"),
            "nobody": pd.array(np.zeros(N, dtype=bool), dtype="boolean"),
        },
        index=DENSE.sample_id,
    ),
    known=N,
    unknown=0,
)


def pies_of(dense: Predictions, compressed: Predictions, design: Design = "paired") -> PieTable:
    return find_pies(dense, compressed, design=design, seed=SEED)


def computed(
    dense: Predictions = DENSE,
    compressed: Predictions = COMPRESSED,
    *,
    design: Design = "paired",
    scores: pd.DataFrame | None = None,
    side: SideData | None = None,
) -> Statistics:
    pies = pies_of(dense, compressed, design)
    return condition_statistics(dense, compressed, pies, design=design, scores=scores, side=side, seed=SEED)


def checked_document(found: Statistics) -> dict[str, Any]:
    """The document as strict JSON that suits the schema."""
    document: dict[str, Any] = json.loads(json.dumps(statistics_document(found), allow_nan=False))
    jsonschema.validate(document, {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/statistics"})
    return document


def without(names: tuple[str, ...], *sides: Predictions) -> list[Predictions]:
    nothing: dict[str, Any] = dict.fromkeys(names)
    return [replace(side, **nothing) for side in sides]


# --- values


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_everything_is_what_the_functions_themselves_say(design: Design) -> None:
    found = computed(design=design, side=SIDE)
    both, pies = (DENSE, COMPRESSED), pies_of(DENSE, COMPRESSED, design)
    assert 0 < pies.count < N / 2
    section = found.section

    flips = find_flips(*both, seed=SEED)
    kinds = ("total", "right_to_wrong", "wrong_to_right", "wrong_to_wrong")
    expected = {kind: asdict(getattr(flips, kind)) for kind in kinds}
    assert section["flips"] == (expected if design == "paired" else None)
    exemplars = find_exemplars(pies, share=0.01)
    assert section["exemplars"] == {name: getattr(exemplars, name) for name in section["exemplars"]}
    divergence = mean_divergence(*both, design=design, seed=SEED)
    assert section["divergence"] == {"mean": divergence.mean, "p_value": divergence.p_value}
    assert section["models"] == asdict(k_needed(DENSE, share=0.1 * pies.share))
    spread = error_spread(*both, design=design)
    assert section["class_errors"] == {"cev": asdict(spread.cev), "sde": asdict(spread.sde), "left_out": 0}
    weak = intensification(*both, design=design)
    assert section["intensification"] == {
        "slope": asdict(weak.slope), "ratio": asdict(weak.ratio), "naive_slope": weak.naive_slope,
    }  # fmt: skip

    is_pie = pies.samples["pie"].to_numpy(dtype=bool)
    scores = dense_scores(DENSE).assign(ease=SIDE.scores["ease"])
    difficulty = tell_pies(is_pie, scores, known="mean_margin", seed=SEED)
    for name in ("known", "joint", "gain"):
        assert section["difficulty"][name] == asdict(getattr(difficulty, name))
    assert (section["difficulty"]["n"], section["difficulty"]["pies"]) == (N, pies.count)
    everyone = pd.DataFrame(index=pd.Index(DENSE.sample_id))
    tables = {
        "rarefaction": rarefy(*both, design=design, seed=SEED).table,
        "class_rates": class_rates(*both, design=design, seed=SEED).table,
        "calibration": group_calibration(*both, everyone, design=design, seed=SEED),
        "difficulty": difficulty.scores,
        "flags": flag_rates(is_pie, SIDE.flags),
    }
    assert set(found.tables) == set(tables)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table)


def test_the_document_holds_the_section_and_the_short_tables() -> None:
    found = computed(side=SIDE)
    document = checked_document(found)
    assert {n: document[n] for n in ("flips", "models", "exemplars")} == {
        n: found.section[n] for n in ("flips", "models", "exemplars")
    }
    assert document["difficulty"]["joint"] == found.section["difficulty"]["joint"]
    assert [row["score"] for row in document["difficulty"]["scores"]] == [
        "mean_margin", "vote_agreement", "vote_entropy", "ensemble_entropy", "el2n", "ease",
    ]  # fmt: skip
    for name in ("rarefaction", "calibration", "flags"):
        assert len(document[name]) == len(found.tables[name])
    assert [row["count"] for row in document["rarefaction"]] == found.tables["rarefaction"]["count"].tolist()
    assert "class_rates" not in document


def test_what_has_no_number_is_null_in_the_document() -> None:
    is_pie = pies_of(DENSE, COMPRESSED).samples["pie"].to_numpy(dtype=bool)
    flags = pd.DataFrame({"nobody": np.zeros(N, dtype=bool), "pies": is_pie}, dtype="boolean")
    found = computed(side=replace(SIDE, flags=flags.set_index(DENSE.sample_id)))
    assert np.isinf(found.tables["flags"]["odds_ratio"].iloc[1])  # nothing bounds it
    nobody, pies = checked_document(found)["flags"]
    assert (nobody["flagged"], nobody["rate_flagged"], nobody["odds_ratio"]) == (0, None, None)
    assert (nobody["low"], nobody["high"], nobody["p_value"]) == (0, None, 1)
    assert (pies["rate_flagged"], pies["rate_rest"], pies["odds_ratio"], pies["high"]) == (1, 0, None, None)
    assert pies["low"] > 1


# --- what predictions cannot tell


def test_without_labels_nothing_needs_them() -> None:
    dense, compressed = without(("label",), DENSE, COMPRESSED)
    found = computed(dense, compressed)
    document = checked_document(found)
    assert {name for name, part in document.items() if part is None} == {
        "class_errors", "intensification", "calibration", "flags", "groups",
    }  # fmt: skip
    assert document["flips"]["right_to_wrong"] is document["exemplars"]["modal_right"] is None
    assert document["flips"]["total"] == computed().section["flips"]["total"]
    assert "el2n" not in [row["score"] for row in document["difficulty"]["scores"]]
    assert set(found.tables) == {"rarefaction", "difficulty"}


@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
def test_without_probabilities_on_either_side(sides: tuple[bool, bool]) -> None:
    pair = [
        without(("probabilities",), side)[0] if taken else side
        for side, taken in zip((DENSE, COMPRESSED), sides, strict=True)
    ]
    found = computed(*pair)
    document = checked_document(found)
    assert {name for name, part in document.items() if part is None} == {
        "divergence", "calibration", "flags", "groups",
    }  # fmt: skip
    scores = [row["score"] for row in document["difficulty"]["scores"]]
    assert ("ensemble_entropy" in scores) is ("el2n" in scores) is (not sides[0])


def test_without_margins_there_is_no_difficulty_but_marks_are_still_read() -> None:
    document = checked_document(computed(*without(("margin",), DENSE, COMPRESSED), side=SIDE))
    assert {name for name, part in document.items() if part is None} == {"difficulty", "groups"}
    assert document["flags"] == checked_document(computed(side=SIDE))["flags"]


def test_one_network_has_no_numbers_of_networks() -> None:
    document = checked_document(computed(population(1, seed=1), population(1, seed=2, damage=1.0)))
    assert {n for n, part in document.items() if part is None} == {
        "rarefaction", "models", "flags", "groups",
    }  # fmt: skip
    assert document["flips"]["total"]["low"] is document["divergence"]["p_value"] is None
    assert document["intensification"]["slope"]["value"] is None
    assert document["class_errors"]["cev"]["value"] > 0
    assert document["class_errors"]["cev"]["low"] is None
    assert [row["change_low"] for row in document["calibration"]] == [None] * 3
    assert [row["score"] for row in document["difficulty"]["scores"]] == [
        "mean_margin", "ensemble_entropy", "el2n",
    ]  # fmt: skip


def test_where_nothing_changes_no_number_of_networks_is_needed() -> None:
    document = checked_document(computed(DENSE, DENSE))
    assert document["models"] is None
    assert document["flips"]["total"]["mean"] == document["divergence"]["mean"] == 0
    assert document["exemplars"]["taxicab"] == 0
    assert {row["auc"] for row in document["difficulty"]["scores"]} == {None}
    assert document["difficulty"]["known"] is document["difficulty"]["joint"] is None


def test_divergences_that_would_take_longer_than_all_else_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "DIVERGENCES", N * CLASSES)
    assert computed().section["divergence"] is not None
    monkeypatch.setattr(statistics, "DIVERGENCES", N * CLASSES - 1)
    document = checked_document(computed())
    assert document["divergence"] is None
    assert document["calibration"] is not None


# --- side data


def test_no_score_of_a_file_has_the_name_of_a_computed_one() -> None:
    check_names(SIDE)
    assert tuple(dense_scores(DENSE).columns) == PREDICTION_SCORES
    assert {*PREDICTION_SCORES, *NETWORK_SCORES} == COMPUTED_SCORES
    taken = replace(SIDE, scores=SIDE.scores.assign(el2n=1.0, prediction_depth=2.0))
    with pytest.raises(InputError, match="--side-labels: el2n, prediction_depth is computed here"):
        check_names(taken)


def test_side_data_without_marks_have_no_table_of_them() -> None:
    found = computed(side=replace(SIDE, flags=SIDE.flags[[]]))
    assert "flags" not in found.tables
    assert statistics_document(found)["flags"] is None
    assert "ease" in found.tables["difficulty"]["score"].tolist()


# --- scores of the networks


def test_scores_of_the_networks_stand_between_those_of_predictions_and_of_the_file() -> None:
    depth = np.random.default_rng(5).integers(0, 9, N).astype(float)
    depth[:7] = np.nan
    # in another order: the ids say which image is which
    scores = pd.DataFrame({"prediction_depth": depth}, index=DENSE.sample_id).iloc[::-1]
    found = computed(scores=scores, side=SIDE).tables["difficulty"].set_index("score")
    assert found.index.tolist() == [*PREDICTION_SCORES, "prediction_depth", "ease"]
    assert (found.loc["prediction_depth", "n"], found.loc["ease", "n"]) == (N - 7, N)
    pd.testing.assert_frame_equal(
        found.drop("prediction_depth"), computed(side=SIDE).tables["difficulty"].set_index("score")
    )
    is_pie = pies_of(DENSE, COMPRESSED).samples["pie"].to_numpy(dtype=bool)[7:]
    auc = [np.mean((a > depth[7:][~is_pie]) + 0.5 * (a == depth[7:][~is_pie])) for a in depth[7:][is_pie]]
    assert found.loc["prediction_depth", "auc"] == pytest.approx(np.mean(auc))


# --- overlap


def test_one_condition_overlaps_with_none() -> None:
    assert overlap_tables({"merge 0.5": pies_of(DENSE, COMPRESSED)}) == {}


def test_two_conditions_overlap_as_the_functions_themselves_say() -> None:
    pies = {
        "merge 0.5": pies_of(DENSE, COMPRESSED),
        "prune 0.9": pies_of(DENSE, population(seed=3, damage=1.5)),
    }
    sets = {name: table.samples["pie"].to_numpy(dtype=bool) for name, table in pies.items()}
    found = overlap_tables(pies)
    assert DENSE.margin is not None
    expected = pairwise_overlap(sets, dense_margin=DENSE.margin.mean(axis=0))
    pd.testing.assert_frame_equal(found["overlap"], expected)
    assert found["overlap"]["common"].tolist() == [int((sets["merge 0.5"] & sets["prune 0.9"]).sum())]
    table = intersections(sets)
    assert list(found["intersections"].columns) == ["merge 0.5", "prune 0.9", "count"]
    np.testing.assert_array_equal(found["intersections"].to_numpy(), table.to_numpy())
