import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from analysis.fairness import group_calibration
from analysis.fairness.calibration import BINS
from population.errors import InputError
from population.predictions import Predictions

NO_GROUPS = pd.DataFrame(index=np.arange(1000).astype(str))


def population(probabilities: np.ndarray, label: np.ndarray) -> Predictions:
    ids = np.arange(probabilities.shape[1]).astype(str)
    return Predictions(ids, probabilities.argmax(axis=2), label=label, probabilities=probabilities)


def binary(confidence: list[list[float]]) -> np.ndarray:
    """Models that say class 0 with that confidence."""
    values = np.array(confidence)
    return np.stack([values, 1 - values], axis=2)


def by_measure(table: pd.DataFrame, grouping: str = "all") -> pd.DataFrame:
    return table[table["grouping"] == grouping].set_index(["measure", "group"])


def test_four_images_by_hand() -> None:
    label = np.array([0, 1, 0, 0])
    # .61 and .65 share a bin, (.6, .667]: one of two is right. .9 and 1.0 have bins of their own, and are.
    dense = population(binary([[0.61, 0.65, 0.9, 1.0]]), label)
    compressed = population(binary([[0.99, 0.99, 0.99, 0.99]]), label)
    found = by_measure(group_calibration(dense, compressed, NO_GROUPS, design="paired", seed=0))
    before, after = found["dense"].droplevel("group"), found["compressed"].droplevel("group")
    assert before["confidence"] == pytest.approx(0.79)
    assert before["overconfidence"] == pytest.approx(0.04)
    assert before["calibration_error"] == pytest.approx((2 * 0.13 + 0.1 + 0) / 4)
    assert after["overconfidence"] == after["calibration_error"] == pytest.approx(0.24)
    assert found["n"].tolist() == [4, 4, 4]
    assert found["few"].all()
    assert found[["change_low", "change_high"]].isna().all(axis=None)


def test_each_group_agrees_with_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 5, 400)
    logits = rng.normal(size=(2, 3, 400, 5)) * 2 + 2 * np.eye(5)[label]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    dense, compressed = (population(side, label) for side in probabilities)
    groups = pd.DataFrame({"sex": rng.choice(["f", "m"], 400)}, index=np.arange(400).astype(str))
    table = group_calibration(dense, compressed, groups, design="paired", seed=0)
    found = by_measure(table, "sex").loc["calibration_error"]
    for column, side in (("dense", dense), ("compressed", compressed)):
        for group in "fm":
            where = (groups["sex"] == group).to_numpy()
            wanted = [
                float(multiclass_calibration_error(
                    torch.tensor(one[where]), torch.tensor(label[where]), num_classes=5, n_bins=BINS
                ))
                for one in side.probabilities
            ]  # fmt: skip
            assert found[column][group] == pytest.approx(np.mean(wanted), abs=1e-6)


def test_overconfidence_is_that_of_the_group_that_has_it() -> None:
    rng = np.random.default_rng(1)
    n = 4000
    group = np.repeat(["f", "m"], n // 2)
    confidence = rng.uniform(0.6, 1, (3, n))
    # Of the dense models all are calibrated; of the compressed ones women's confidence is .2 too high.
    label = np.zeros(n, dtype=int)
    votes = []
    for excess in (0.0, 0.2):
        right = rng.random((3, n)) < confidence - excess * (group == "f")
        votes.append(np.where(right[..., None], binary(confidence), 1 - binary(confidence)))
    table = group_calibration(
        *(population(side, label) for side in votes),
        pd.DataFrame({"sex": group}, index=np.arange(n).astype(str)),
        design="paired",
        seed=0,
    )
    found = by_measure(table, "sex")
    for measure in ("overconfidence", "calibration_error"):
        women, men = found.loc[(measure, "f")], found.loc[(measure, "m")]
        assert women["change"] == pytest.approx(0.2, abs=0.03)
        assert women["change_low"] > 0.15
        assert abs(men["change"]) < 0.03
    assert found.loc[("overconfidence", "m"), "change_low"] < 0.01
    assert abs(found.loc[("confidence", "f"), "change"]) < 1e-6


def test_few_images_alone_make_a_calibration_error_but_no_overconfidence() -> None:
    rng = np.random.default_rng(2)
    means = {}
    for n in (50, 1000):
        confidence = np.clip(1 - 0.9 * rng.beta(0.3, 2, (200, n)), 0.501, 1)
        right = rng.random((200, n)) < confidence
        side = population(
            np.where(right[..., None], binary(confidence), 1 - binary(confidence)), np.zeros(n, dtype=int)
        )
        groups = pd.DataFrame(index=np.arange(n).astype(str))
        found = by_measure(group_calibration(side, side, groups, design="paired", seed=0))
        means[n] = found["dense"].droplevel("group")
    assert means[50]["calibration_error"] > 0.07
    assert means[1000]["calibration_error"] < 0.05
    assert abs(means[50]["overconfidence"]) < 0.015


def test_bad_input_is_refused() -> None:
    label = np.array([0, 1])
    good = population(binary([[0.7, 0.8]]), label)
    bare = Predictions(good.sample_id, good.predicted, label=label)
    with pytest.raises(InputError, match="class probabilities"):
        group_calibration(good, bare, NO_GROUPS, design="paired", seed=0)
