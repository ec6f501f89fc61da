"""A small invented report with every part filled in, and names that try to break a page."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, count, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, sync_playwright

from figures.gallery import Exhibits
from population.predictions import Predictions

CHROMIUM = Path("/usr/bin/chromium")
CLASS_NAMES = (
    "<script>alert(1)</script>",
    "a&b\"c'",
    "10",
    "9",
    "</script>",
    "NA",
    "$x_1$",
    "constructor",
    "sehr langer Klassenname ohne jeden Sinn",
    "猫",
)
NASTY_IDS = (
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "../../etc/passwd",
    "a#b?c=d&e",
    "'; alert(1); '",
    "007",
)
N, K, SIZE = 300, 10, 16
COLUMN, GROUPS = "<b>style</b>", ("<i>bold</i>", "NA")
CONDITIONS = {"merge 0.5": 0.7, "prune 0.9": 0.5, "random 0.5": 0.9}
PROBES = ("frozen", "refit", "knn")


@dataclass(frozen=True)
class Synthetic:
    """A document as in report.json, the tables, the exhibits, and the predictions."""

    document: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    exhibits: Exhibits
    predictions: dict[str, Predictions]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts the installed browser, or skips the test that asks for it."""
    if not CHROMIUM.exists():
        pytest.skip(f"browser tests need Chromium at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


def make(seed: int = 0) -> Synthetic:
    """Draws votes of K networks before and after three compressions, and writes the report on them."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, N)
    hard = rng.beta(0.6, 2.5, N)
    dense = np.where(rng.random((K, N)) < hard, rng.integers(0, 10, (K, N)), label)
    dense[:, : len(NASTY_IDS)] = label[: len(NASTY_IDS)]  # forgotten in every condition
    sample_id = [*NASTY_IDS, *(f"images/{i:04d}.png" for i in range(N - len(NASTY_IDS)))]
    pies, classes, summary, compressed = [], [], [_summary_row("dense", "dense")], []
    same = Predictions(sample_id, dense, label, class_names=CLASS_NAMES)
    predictions = {"dense": same, "dense, re-estimated": same}
    for condition, damage in CONDITIONS.items():
        moved = rng.random((K, N)) < damage * (0.3 + hard + 0.4 * (label == 4))
        after = np.where(moved, rng.integers(0, 10, (K, N)), dense)
        after[:, : len(NASTY_IDS)] = (label[: len(NASTY_IDS)] + 1) % 10
        predictions[condition] = Predictions(sample_id, after, label, class_names=CLASS_NAMES)
        table = _pie_rows(condition, sample_id, label, dense, after, rng)
        class_rows = _class_rows(condition, label, dense, after, rng)
        found = _pie_numbers(table)
        accuracy = float((after == label).mean())
        pies.append(table)
        classes.append(class_rows)
        summary.append(_summary_row(condition, condition.split()[0], accuracy=accuracy, **found))
        compressed.append(_condition(condition, accuracy, found, class_rows, rng))
        compressed[-1]["statistics"] = _statistics(len(compressed) - 1)
    tables = {
        "summary": pd.DataFrame(summary),
        "classes": pd.concat(classes, ignore_index=True),
        "pies": pd.concat(pies, ignore_index=True),
    }
    tables["cka"] = pd.DataFrame(
        [{"condition": c["condition"], **row} for c in compressed for row in c["cka"]]
    )
    tables["attribution"] = _attribution_rows(tables["pies"])
    tables |= _explanation_tables(compressed, tables["pies"])
    tables |= _statistics_tables(compressed)
    tables["embedding_map"] = _embedding_map(tables["pies"])
    document = _document(float((dense == label).mean()), label, dense, compressed)
    return Synthetic(document, tables, _exhibits(tables["pies"], rng), predictions)


def compare_without_labels() -> Synthetic:
    """The same images as ``pie compare`` sees them without true labels: everything else is null."""
    full = make()
    summary = full.tables["summary"].iloc[[0, 1]].copy()
    summary["condition"] = ["dense", "compressed"]
    accuracy = ["accuracy", "accuracy_low", "accuracy_high"]
    summary[["method", "amount", "repair", *accuracy, "forgotten", "gained", "still_wrong"]] = None
    summary[[c for c in summary if c.endswith("_kept") or c in ("params", "macs", "bytes")]] = np.nan
    pies = (
        full.tables["pies"]
        .query("condition == 'merge 0.5'")
        .assign(condition="compressed", label="", kind="")
    )
    first = full.document["compressed"][0]
    labelled = [name for name in first["pies"] if name.startswith("accuracy_")]
    found = first["pies"] | dict.fromkeys([*labelled, "forgotten", "gained", "still_wrong"])
    statistics = first["statistics"] | dict.fromkeys(
        ("flips", "divergence", "class_errors", "intensification", "calibration", "flags", "groups")
    )
    statistics["exemplars"] |= dict.fromkeys(("modal_right", "taxicab_right"))
    statistics["difficulty"]["scores"] = [
        row for row in statistics["difficulty"]["scores"] if row["score"] in ("mean_margin", "vote_entropy")
    ]
    nothing = dict.fromkeys(["method", "amount", "repair", "calibration_images", "cost", "accuracy", "cka"])
    document = {
        "schema": 2,
        "spec": dict.fromkeys(full.document["spec"])
        | {
            "command": "compare",
            "command_line": "pie compare a.npz b.npz",
            "seed": 0,
            "design": "independent",
        },
        "environment": full.document["environment"] | {"torch": None},
        "data": dict.fromkeys(full.document["data"]) | {"n_test": N},
        "baselines": None,
        "dense": {"k": K, "accuracy": None, "accuracy_reestimated": None, "per_class": None, "cost": None},
        "compressed": [
            first
            | nothing
            | {"condition": "compressed", "design": "independent", "attribution": None, "classes": None}
            | dict.fromkeys(["matching", "similarity", "maps"])
            | {"pies": found | {"excess": found["count"] - found["expected_null"]}}
            | {"statistics": statistics}
        ],
        "overlap": None,
        "probes": None,
        "fair": None,
    }
    tables = {"summary": summary, "pies": pies}
    tables |= {
        name: pd.DataFrame(rows).assign(condition="compressed")
        for name, rows in (
            ("rarefaction", statistics["rarefaction"]),
            ("difficulty", statistics["difficulty"]["scores"]),
        )
    }
    predictions = {
        "dense": replace(full.predictions["dense"], label=None),
        "compressed": replace(full.predictions["merge 0.5"], label=None),
    }
    return Synthetic(document, tables, full.exhibits, predictions)


def _votes(column: np.ndarray) -> dict[str, int]:
    return {
        CLASS_NAMES[c]: n for c, n in sorted(Counter(column.tolist()).items(), key=lambda v: (-v[1], v[0]))
    }


def _pie_rows(condition, sample_id, label, dense, after, rng) -> pd.DataFrame:
    rows = []
    for i, sample in enumerate(sample_id):
        before_votes, after_votes = _votes(dense[:, i]), _votes(after[:, i])
        before, now = next(iter(before_votes)), next(iter(after_votes))
        true = CLASS_NAMES[label[i]]
        kind = "forgotten" if before == true else "gained" if now == true else "still wrong"
        names = {*before_votes, *after_votes}
        distance = float(sum(abs(before_votes.get(c, 0) - after_votes.get(c, 0)) for c in names))
        p = max(2.0**-9, float(np.exp(-distance / 2)))
        rows.append(
            {
                "condition": condition,
                "sample_id": sample,
                "label": true,
                "modal_dense": before,
                "modal_compressed": now,
                "agree_dense": before_votes[before],
                "agree_compressed": after_votes[now],
                "votes_dense": json.dumps(before_votes),
                "votes_compressed": json.dumps(after_votes),
                "tie_dense": list(before_votes.values()).count(before_votes[before]) > 1,
                "tie_compressed": list(after_votes.values()).count(after_votes[now]) > 1,
                "pie": before != now,
                "kind": kind if before != now else "",
                "distance": distance,
                "p_value": p,
                "p_adjusted": min(1.0, 10 * p),
                "rejected": 10 * p <= 0.05,
                "margin_dense": float(rng.random()),
                "margin_compressed": float(rng.random()),
            }
        )
    return pd.DataFrame(rows)


def _pie_numbers(table: pd.DataFrame) -> dict[str, Any]:
    kinds = table["kind"].value_counts()
    count = int(table["pie"].sum())
    return {
        "count": count,
        "share": count / N,
        "ties": int((table["tie_dense"] | table["tie_compressed"]).sum()),
        "expected_null": 14.25,
        "expected_null_low": 9.5,
        "expected_null_high": 20.75,
        "excess": None,
        "p_value": 2.0**-9,
        "p_floor": 2.0**-9,
        "rejected": int(table["rejected"].sum()),
        "forgotten": int(kinds.get("forgotten", 0)),
        "gained": int(kinds.get("gained", 0)),
        "still_wrong": int(kinds.get("still wrong", 0)),
    }


def _class_rows(condition, label, dense, after, rng) -> pd.DataFrame:
    rows = []
    for index, name in enumerate(CLASS_NAMES):
        of = label == index
        before, now = float((dense[:, of] == index).mean()), float((after[:, of] == index).mean())
        p = float(rng.random() ** 3)
        rows.append(
            {
                "condition": condition,
                "name": name,
                "n": int(of.sum()),
                "recall_dense": before,
                "recall_compressed": now,
                "delta": now - before,
                "delta_low": now - before - 0.03,
                "delta_high": now - before + 0.03,
                "delta_relative": now - before + 0.1,
                "p_value": p,
                "p_adjusted": 0.0195 if index == 4 else min(1.0, 3 * p),
                "p_welch": p,
                "p_welch_adjusted": None if index == 2 else 0.00004,
            }
        )
    return pd.DataFrame(rows)


_COST = {
    "merge": {"params_kept": 0.262, "macs_kept": 0.271, "bytes_kept": 0.263},
    "prune": {"params_kept": 0.104, "macs_kept": 1.0, "bytes_kept": 1.0},
    "random": {"params_kept": 0.262, "macs_kept": 0.271, "bytes_kept": 0.263},
}


def _cost(method: str) -> dict[str, Any]:
    kept = _COST[method]
    amount = 0.9 if method == "prune" else 0.5
    whole = {"params": 700_122, "macs": 34_500_000, "bytes": 2_812_040}
    return (
        {name: int(size * kept[f"{name}_kept"]) for name, size in whole.items()}
        | kept
        | {
            "requested": amount,
            "achieved": amount - 0.0004,
        }
    )


def _summary_row(condition: str, method: str, *, accuracy: float = 0.9, **found: Any) -> dict[str, Any]:
    dense = method == "dense"
    cost = {"params": 700_122, "macs": 34_500_000, "bytes": 2_812_040} if dense else _cost(method)
    return {
        "condition": condition,
        "method": method,
        "amount": None if dense else float(condition.split()[1]),
        "repair": None if dense else "bn",
        "design": None if dense else "paired",
        "k": K,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.01,
        "accuracy_high": accuracy + 0.01,
        **{
            name: cost.get(name)
            for name in ("params", "params_kept", "macs", "macs_kept", "bytes", "bytes_kept")
        },
        "pies": found.get("count"),
        "pie_share": found.get("share"),
        **{
            name: found.get(name)
            for name in (
                *("ties", "expected_null", "expected_null_low", "expected_null_high", "excess"),
                *("p_value", "p_floor", "rejected", "forgotten", "gained", "still_wrong"),
            )
        },
    }


def _condition(condition, accuracy, found, class_rows, rng) -> dict[str, Any]:
    layers = ["conv1", *(f"layer{s}.{b}" for s in range(1, 5) for b in range(2)), "embedding"]
    rows = json.loads(class_rows.drop(columns="condition").to_json(orient="records"))
    method, amount = condition.split()
    return {
        "condition": condition,
        "method": method,
        "amount": float(amount),
        "repair": "bn",
        "pruning": {"scope": "global", "classifier": False} if method == "prune" else None,
        "schedule": None,
        "design": "paired",
        "k": K,
        "calibration_images": 1024,
        "cost": _cost(method),
        "accuracy": {"mean": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01},
        "pies": found
        | {
            "accuracy_dense_on_pies": 0.517,
            "accuracy_compressed_on_pies": 0.243,
            "accuracy_dense_on_rest": 0.962,
            "accuracy_compressed_on_rest": 0.931,
        },
        "classes": rows,
        "cka": [
            {
                "layer": layer,
                "value": 0.98 - 0.04 * i + 0.01 * float(rng.random()),
                "reference": 0.97 - 0.01 * i,
            }
            for i, layer in enumerate(layers)
        ],
        "attribution": {
            "method": "integrated gradients",
            "members": 3,
            "steps": 16,
            "pies": {"n": 24, "spearman": 0.512},
            "rest": {"n": 24, "spearman": 0.697},
            "reference": {"pies": 0.431, "rest": 0.604},
        },
        "matching": {"pairs": 24, "margin_gap": 0.0123, "missing": None},
        "similarity": _similarity(layers),
        "maps": _maps(),
    }


_SCORES = ("mean_margin", "vote_agreement", "vote_entropy", "ensemble_entropy", "el2n", "human <b>votes</b>")


def _statistics(number: int) -> dict[str, Any]:
    """Statistics of one condition; every value is another one, as in ``_similarity``."""
    values = (0.01 + 0.001 * i for i in count(300 * number))

    def some(*names: str, times: float = 1) -> dict[str, float]:
        return {name: times * next(values) for name in names}

    interval = ("value", "low", "high")
    against_margin = ("auc_known", "auc_both", "gain", "gain_low", "gain_high")
    scores = [
        {"score": score, "n": N - 10 * number - i, "pies": 30 + i}
        | some("auc", "low", "high")
        | (some(*against_margin) if i else dict.fromkeys(against_margin))
        for i, score in enumerate(_SCORES)
    ]
    estimate = ("value", "corrected", "low", "high")
    return {
        "flips": {
            kind: some("mean", "low", "high", "reference")
            for kind in ("total", "right_to_wrong", "wrong_to_right", "wrong_to_wrong")
        },
        "exemplars": {"share": 0.01, "cut": 14.0, "tied": 2, "taxicab": 4, "both": 3}
        | {"modal_right": 29, "taxicab_right": 1},
        "divergence": some("mean", "p_value"),
        "models": {"share": 0.021, "k": 40 + number, "k_low": 30 + number, "k_high": 60 + number},
        "class_errors": {
            "cev": some(*estimate, times=1000), "sde": some(*estimate, times=100), "left_out": number,
        },
        "intensification": {
            "slope": some(*estimate, times=-1), "ratio": some(*estimate), "naive_slope": next(values),
        },
        "difficulty": {"n": 280, "pies": 31, "known_score": "mean_margin"}
        | {name: some(*interval) for name in ("known", "joint", "gain")}
        | {"scores": scores},
        "rarefaction": [
            {"k": k}
            | some("count", "low", "high", "seed_noise", "seed_noise_low", "seed_noise_high", times=300)
            for k in range(1, K + 1)
        ],
        "calibration": [
            {"grouping": "all", "measure": measure, "group": "all", "n": N, "few": False}
            | some("dense", "compressed", "change", "change_low", "change_high")
            for measure in ("confidence", "overconfidence", "calibration_error")
        ]
        + [
            {"grouping": COLUMN, "measure": "overconfidence", "group": group, "n": 150, "few": False}
            | some("dense", "compressed", "change", "change_low", "change_high")
            for group in GROUPS
        ],
        "flags": [
            {"flag": "label <i>error</i>", "n": 290, "flagged": 70 + number, "flagged_pies": 20 + number}
            | some("rate_flagged", "rate_rest")
            | some("odds_ratio", "low", "high", times=10)
            | some("p_value"),
            {"flag": "nobody_has_it", "n": 300, "flagged": 0, "flagged_pies": 0, "rate_flagged": None}
            | some("rate_rest")
            | {"odds_ratio": None, "low": 0.0, "high": None, "p_value": 1.0},
        ],
        "groups": {
            "pies": [
                {"grouping": COLUMN, "group": group, "n": 150, "few": False, "pies": 20 + i + number}
                | some(*("share", "share_low", "share_high", "share_rest", "expected"))
                | some(*("p_value", "p_adjusted", "p_max_t", "expected_given_margin", "p_given_margin"))
                | some("p_given_margin_adjusted", "p_given_margin_max_t")
                for i, group in enumerate(GROUPS)
            ],
            "accuracy": [
                {"grouping": COLUMN, "group": group, "share": 0.5, "n": 150, "few": False}
                | some("dense", "compressed", "change_percent", "change_percent_low", "change_percent_high")
                | some("change", "change_low", "change_high", "change_relative", "change_expected", times=-1)
                | some("p_value", "p_adjusted", "p_floor", "p_welch", "p_welch_adjusted")
                | some("p_images", "p_images_adjusted")
                # The first group of the first condition is beyond chance by both tests.
                | {"p_max_t": 0.031 if i == number == 0 else 0.531, "p_images_max_t": 0.011 + 0.01 * number}
                for i, group in enumerate(GROUPS)
            ],
            "amplification": [
                {"grouping": COLUMN} | some("dense", "compressed", "change", "change_low", "change_high")
            ],
        },
    }  # fmt: skip


def _overlap() -> list[dict[str, Any]]:
    rows = []
    for i, (first, second) in enumerate(combinations(CONDITIONS, 2)):
        sizes = {"size_first": 101 + i, "size_second": 111 + i, "common": 71 + i}
        shares = {"jaccard": 0.31 + 0.01 * i, "kappa": 0.21 + 0.01 * i, "expected": 41.25 + i}
        tests = {"p_value": 0.011 + 0.001 * i, "p_adjusted": 0.021 + 0.001 * i}
        margin = {"p_given_margin": 0.031 + 0.001 * i, "p_given_margin_adjusted": 0.041 + 0.001 * i}
        rows.append(
            {"first": first, "second": second, **sizes, **shares, **tests, **margin}
            | {"expected_given_margin": 51.25 + i}
        )
    return rows


def _probe_rows() -> list[dict[str, Any]]:
    rows = []
    for i, (condition, probe) in enumerate(product(CONDITIONS, PROBES)):
        accuracy = {"accuracy_dense": 0.901 + 0.001 * i, "accuracy": 0.801 + 0.002 * i}
        ends = {"accuracy_low": 0.781 + 0.002 * i, "accuracy_high": 0.821 + 0.002 * i}
        found = {"pies": 80 + i, "pie_share": (80 + i) / N, "forgotten": 60 + i}
        noise = {f"expected_null{end}": 5.1 + i + j for j, end in enumerate(("", "_low", "_high"))}
        shared = {
            "common": 30 + i,
            "jaccard": 0.41 + 0.01 * i,
            "kappa": 0.31 + 0.01 * i,
            "expected": 20.5 + i,
        }
        empty = dict.fromkeys(shared) if probe == "frozen" else {}
        votes = {"without_features": 0.01 * i if probe == "knn" else None}
        names = {"condition": condition, "probe": probe}
        rows.append({**names, **accuracy, **ends, **found, **noise, **shared, **empty, **votes})
    return rows


OUTCOMES = ("flips", "accuracy_change", "worst_recall_change", "recall_change_spread")


def _fair() -> dict[str, Any]:
    rows = []
    for axis, outcome, point in product(("params_kept", "accuracy"), OUTCOMES, (0.4, 0.8)):
        i = len(rows)
        names = {"repair": "bn", "axis": axis, "outcome": outcome, "first": "merge", "second": "random"}
        values = {"outcome_first": 0.21 + 0.001 * i, "outcome_second": 0.11 - 0.001 * i}
        ends = {"difference": 0.1 + 0.002 * i, "low": 0.07 + 0.002 * i, "high": 0.14 + 0.002 * i}
        if (axis, outcome) != ("accuracy", "accuracy_change"):
            rows.append({**names, "point": point, **values, **ends, "reached": 1.0})
    pair = {"repair": "bn", "axis": "macs_kept", "first": "merge", "second": "prune"}
    return {
        "points": 2,
        "comparisons": rows,
        "ranges": [
            {"repair": "bn", "axis": axis, "method": method, "low": 0.26, "high": 1.0}
            for axis in ("params_kept", "macs_kept", "accuracy")
            for method in ("merge", "random")
        ],
        "not_compared": [{**pair, "reason": "prune keeps all MACs whatever the amount"}],
        "left_out": [{"repair": "bn", "method": "filters"}],
    }


def _fair_curves() -> pd.DataFrame:
    rows = [
        {
            "repair": "bn",
            "method": method,
            "amount": amount,
            "params_kept": 1 - amount,
            "macs_kept": 1 - amount,
        }
        for method, amount in product(("merge", "random"), (0.0, 0.25, 0.5))
    ]
    table = pd.DataFrame(rows).assign(accuracy=lambda t: 0.9 - 0.2 * t["amount"], accuracy_sd=0.01)
    return table.assign(**dict.fromkeys(OUTCOMES, 0.1 * table["amount"])).assign(
        **{f"{name}_sd": 0.01 for name in OUTCOMES}
    )


def _statistics_tables(compressed: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    parts = {c["condition"]: c["statistics"] for c in compressed}
    rows = {
        "rarefaction": {title: part["rarefaction"] for title, part in parts.items()},
        "calibration": {title: part["calibration"] for title, part in parts.items()},
        "flags": {title: part["flags"] for title, part in parts.items()},
        "difficulty": {title: part["difficulty"]["scores"] for title, part in parts.items()},
        "class_rates": {title: _class_rates() for title in parts},
        "group_pies": {title: part["groups"]["pies"] for title, part in parts.items()},
        "group_rates": {
            title: [
                {"positive": "", "rate": "accuracy", **row}
                for row in ({**part["groups"]["accuracy"][0], **_ALL}, *part["groups"]["accuracy"])
            ]
            for title, part in parts.items()
        },
        "bias_amplification": {title: part["groups"]["amplification"] for title, part in parts.items()},
        "predicted_shares": {title: [_PREDICTED] for title in parts},
    }
    tables = {
        name: pd.DataFrame([{"condition": title, **row} for title, part in found.items() for row in part])
        for name, found in rows.items()
    }
    members = {title: [i != place for place in range(3)] for i, title in enumerate(parts)}
    return tables | {
        "groups": pd.DataFrame([{"sample_id": "007", "grouping": COLUMN, "group": GROUPS[0]}]),
        "overlap": pd.DataFrame(_overlap()),
        "probes": pd.DataFrame(_probe_rows()),
        "fair": pd.DataFrame(_fair()["comparisons"]),
        "fair_ranges": pd.DataFrame(_fair()["ranges"]),
        "fair_curves": _fair_curves(),
        "intersections": pd.DataFrame(members | {"count": [33, 22, 11]}),
    }


_ALL = {"grouping": "all", "group": "all", "change": -0.05, "p_max_t": None, "p_images_max_t": None}
_PREDICTED = {"grouping": COLUMN, "group": GROUPS[0], "class": "NA", "n": 150, "few": False} | {
    "direction": 1, "labels": 0.1, "dense": 0.2, "compressed": 0.3,
    "change": 0.1, "change_low": 0.05, "change_high": 0.15,
}  # fmt: skip


def _class_rates() -> list[dict[str, Any]]:
    numbers = (
        *("dense", "compressed", "change", "change_low", "change_high", "change_percent"),
        *("change_percent_low", "change_percent_high", "change_relative", "p_value", "p_adjusted"),
        *("p_max_t", "p_floor", "p_welch", "p_welch_adjusted"),
    )
    return [
        {"grouping": "class", "group": name, "share": 0.1, "rate": rate, "n": 30, "few": False}
        | dict.fromkeys(numbers, 0.25)
        for rate in ("tpr", "fpr", "fnr")
        for name in CLASS_NAMES
    ]


def _similarity(layers: list[str]) -> dict[str, Any]:
    """Every value is another one, so that a page that shows the wrong one is found out."""
    rows = []
    for measure in ("cka", "neighbours"):
        for images in ("all", "pies", "matched"):
            for layer in layers:
                first = 0.3 + 0.003 * len(rows)
                names = [f"{c}{end}" for c in ("value", "reference", "untrained") for end in _ENDS]
                values = {name: first + 0.0003 * i for i, name in enumerate(names)}
                rows.append({"measure": measure, "images": images, "layer": layer, **values})
    return {
        "members": 5,
        "neighbours": 10,
        "images": {"all": N, "pies": 24, "matched": 24},
        "undefined": ["Neighbours in layer conv1: all features of an image are <0>"],
        "layers": rows,
    }


_ENDS = ("", "_low", "_high")
_MAP_MEASURES = ("spearman", "top_k_iou", "ssim", "centroid_shift", "deletion", "insertion")


def _maps() -> dict[str, Any]:
    means, tests = [], []
    for method in ("integrated_gradients", "occlusion"):
        for measure in _MAP_MEASURES:
            one_map = measure in ("deletion", "insertion")
            for group in ("pie", "matched") if one_map else ("pie", "matched", "other"):
                first = 0.1 + 0.02 * len(means)
                means.append(
                    {
                        "method": method,
                        "measure": measure,
                        "group": group,
                        "n": 24,
                        "dense": first if one_map else None,
                        "compressed": first + 0.005,
                        "ceiling": None if one_map else first + 0.01,
                        "floor": first + 0.015,
                    }
                )
            p = 0.01 * (len(tests) + 1)
            tests.append(
                {
                    "method": method,
                    "measure": measure,
                    "pairs": 24,
                    "difference": -0.02 * (len(tests) + 1),
                    "low": -0.3,
                    "high": -0.01,
                    "p_value": p,
                    "p_floor": 0.0005,
                    "p_adjusted": 2 * p,
                }
            )
    return {"members": 3, "top": 0.1, "means": means, "tests": tests}


def _embedding_map(pies: pd.DataFrame) -> pd.DataFrame:
    angle = 2.0 * np.pi * pies.groupby("condition").cumcount() / N
    table = pies[["condition", "sample_id", "kind"]].assign(x=np.cos(angle), y=np.sin(angle))
    return table.assign(**{"class": pies["label"]})


def _explanation_tables(compressed: list[dict[str, Any]], pies: pd.DataFrame) -> dict[str, pd.DataFrame]:
    titled = {c["condition"]: c for c in compressed}
    similarity = [
        {"condition": title, **row} for title, c in titled.items() for row in c["similarity"]["layers"]
    ]
    layers = [row["layer"] for row in compressed[0]["cka"]]
    pairs = [(a, b) for a in layers for b in layers]
    cka_map = [
        {"condition": title, "layer_dense": a, "layer_compressed": b, "value": 0.5}
        for title in titled
        for a, b in pairs
    ]
    shown = pies[pies["pie"]].groupby("condition").head(2)[["condition", "sample_id"]]
    per_image = shown.assign(method="occlusion", group="pie", pair=shown["sample_id"])
    similar = dict.fromkeys(_MAP_MEASURES[:4], 0.25)
    pixels = pd.DataFrame([{"row": r, "column": c} for r in range(4) for c in range(4)])
    values = {"image": 0.5, "dense": 0.1, "compressed": -0.1, "other_seed": 0.2}
    return {
        "similarity": pd.DataFrame(similarity),
        "cka_map": pd.DataFrame(cka_map),
        "map_changes": per_image.assign(target="fixed", comparison="compressed", **similar),
        "map_quality": per_image.assign(scored_on="dense", maps="dense", deletion=0.2, insertion=0.7),
        "map_pictures": shown.merge(pixels, how="cross").assign(**values),
    }


def _attribution_rows(pies: pd.DataFrame) -> pd.DataFrame:
    some = pies.groupby("condition").head(40)
    return pd.DataFrame(
        {
            "condition": some["condition"],
            "sample_id": some["sample_id"],
            "group": np.where(some["pie"], "pie", "other"),
            "spearman": 0.5,
            "reference": 0.4,
        }
    )


def _document(accuracy, label, dense, compressed) -> dict[str, Any]:
    recall = [float((dense[:, label == c] == c).mean()) for c in range(10)]
    return {
        "schema": 2,
        "spec": {
            "command": "report",
            "command_line": "pie-report --model simclr_r18 --merge 0.5 --prune 0.9 --random 0.5",
            "model": "simclr_r18",
            "data": "digits",
            "members": K,
            "seed": 0,
            "seeds": list(range(K)),
            "judged": "test",
            "excluded_seeds": [],
            "probe": list(PROBES),
            "repair": ["bn"],
            "design": "paired",
            "side_labels": "89abcdef01234567",
            "groups": {"columns": [COLUMN], "from_file": True, "digest": "76543210fedcba98"},
            "device": "cpu",
            "threads": 1,
            "training": {
                "objective": "simclr",
                "epochs": 20,
                "width": 16,
                "resolution": 16,
                "batch_size": 256,
                "learning_rate": 0.05,
            },
            "labels": {
                "fraction": 0.01,
                "images": 10,
                "seed": 0,
                "finetuning": {"epochs": 168, "batch_size": 64, "learning_rate": 5e-4, "weight_decay": 0.0},
            },
        },
        "environment": {"python": "3.11.7", "pie-toolkit": "0.1.0", "numpy": "2.0.0", "torch": "2.8.0"},
        "data": {
            "n_test": N,
            "n_train": 1497,
            "class_names": list(CLASS_NAMES),
            "in_channels": 1,
            "resolution": 16,
            "fingerprint": "0123456789abcdef",
        },
        "baselines": {"raw_pixels": 0.967, "untrained_encoder": 0.71, "train_images": 901},
        "dense": {
            "k": K,
            "accuracy": {"mean": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01},
            "accuracy_reestimated": {
                "mean": accuracy + 0.001,
                "low": accuracy - 0.01,
                "high": accuracy + 0.01,
            },
            "per_class": [
                {"name": name, "n": int((label == c).sum()), "recall": recall[c]}
                for c, name in enumerate(CLASS_NAMES)
            ],
            "cost": {"params": 700_122, "macs": 34_500_000, "bytes": 2_812_040},
        },
        "compressed": compressed,
        "overlap": _overlap(),
        "probes": {"neighbours": 90, "temperature": 0.07, "conditions": _probe_rows()},
        "fair": _fair(),
    }


def _exhibits(pies: pd.DataFrame, rng: np.random.Generator) -> Exhibits:
    found = pies[pies["pie"]]
    sample_id = found["sample_id"].drop_duplicates().to_numpy(dtype=str)
    image = rng.integers(0, 60, (len(sample_id), SIZE, SIZE, 3), dtype=np.uint8)
    image[:, 3:13, 6:10] = 230
    mapped = found.groupby("condition").head(6)
    maps = rng.normal(size=(2, len(mapped), SIZE, SIZE)).astype(np.float32)
    return Exhibits(
        sample_id=sample_id,
        image=image,
        map_condition=mapped["condition"].to_numpy(dtype=str),
        map_sample_id=mapped["sample_id"].to_numpy(dtype=str),
        map_dense=maps[0],
        map_compressed=maps[1],
    )
