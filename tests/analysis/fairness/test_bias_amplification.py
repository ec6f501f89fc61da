import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fairness import bias_amplification
from population.errors import InputError
from population.predictions import Predictions


def population(votes: np.ndarray, label: np.ndarray | None, classes: int = 2) -> Predictions:
    ids, names = np.arange(votes.shape[1]).astype(str), np.array(list("uvwxyz"))[:classes]
    return Predictions(ids, votes, label=label, class_names=names)


def grouped(**columns: list[str] | np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    table.index = table.index.astype(str)
    return table


LABEL = np.array([0, 0, 0, 1, 0, 1, 1, 1])
SEX = grouped(sex=list("ffffmmmm"))


def test_two_groups_by_hand() -> None:
    # Women have class u in 3 of 4 images, men in 1 of 4. The first dense model says 4 of 4 and 1 of 4.
    dense = np.array([[0, 0, 0, 0, 0, 1, 1, 1], LABEL])
    compressed = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]])
    found = bias_amplification(
        population(dense, LABEL), population(compressed, None), SEX, design="paired", seed=0
    )
    score = found.scores.set_index("grouping").loc["sex"]
    # The first model is 1/4 further in both classes of the women, (1/4 + 1/4) / 4; the second is right.
    assert score["dense"] == pytest.approx(0.0625)
    assert score["compressed"] == pytest.approx(0.25)
    assert score["change"] == pytest.approx(0.1875)
    assert (score["change_low"], score["change_high"]) == pytest.approx((0.125, 0.25))
    table = found.table.set_index(["group", "class"])
    assert table["direction"].to_dict() == {("f", "u"): 1, ("f", "v"): -1, ("m", "u"): -1, ("m", "v"): 1}
    women = table.loc[("f", "u")]
    assert (women["n"], women["few"], women["labels"]) == (4, True, 0.75)
    assert (women["dense"], women["compressed"], women["change"]) == (0.875, 1, 0.125)


def slow_score(predicted: np.ndarray, label: np.ndarray, group: np.ndarray, classes: int) -> float:
    terms = []
    for g in np.unique(group):
        for t in range(classes):
            joint = ((group == g) & (label == t)).mean()
            apart = (group == g).mean() * (label == t).mean()
            change = (predicted[group == g] == t).mean() - (label[group == g] == t).mean()
            terms.append(0 if np.isclose(joint, apart) else np.sign(joint - apart) * change)
    return float(np.mean(terms))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), groups=st.integers(1, 4), classes=st.integers(2, 5), k=st.integers(1, 3))
def test_it_agrees_with_the_formula_in_loops(seed: int, groups: int, classes: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    label, group = rng.integers(0, classes, 50), rng.integers(0, groups, 50).astype(str)
    votes = rng.integers(0, classes, (2, k, 50))
    found = bias_amplification(
        population(votes[0], label, classes), population(votes[1], label, classes), grouped(g=group),
        design="independent", seed=0,
    )  # fmt: skip
    for column, side in (("dense", votes[0]), ("compressed", votes[1])):
        wanted = np.mean([slow_score(one, label, group, classes) for one in side])
        assert found.scores[column][0] == pytest.approx(wanted)


def test_right_predictions_amplify_nothing_and_a_caricature_does() -> None:
    rng = np.random.default_rng(0)
    group = rng.choice(["f", "m"], 400)
    label = np.where(rng.random(400) < 0.8, group == "m", group == "f").astype(int)
    right = population(np.tile(label, (2, 1)), label)
    caricature = population(np.tile((group == "m").astype(int), (2, 1)), label)
    scores = bias_amplification(right, caricature, grouped(sex=group), design="paired", seed=0).scores
    assert scores["dense"][0] == 0
    assert scores["compressed"][0] == pytest.approx(0.2, abs=0.05)  # a fifth of each group went against it


def test_groups_and_classes_that_are_independent_have_no_direction() -> None:
    label = np.tile([0, 0, 1], 6)  # of either group exactly two thirds are of class u
    group = np.repeat(["f", "m"], 9)
    votes = np.random.default_rng(1).integers(0, 2, (3, 18))
    found = bias_amplification(
        population(votes, label), population(votes, label), grouped(sex=group), design="paired", seed=0
    )
    assert (found.table["direction"] == 0).all()
    assert found.scores["dense"].tolist() == [0]


def test_every_column_and_their_crossing_have_a_score() -> None:
    groups = SEX.assign(age=list("oyoyoyoy"))
    found = bias_amplification(
        population(LABEL[None], LABEL), population(1 - LABEL[None], LABEL), groups, design="paired", seed=0
    )
    assert found.scores["grouping"].tolist() == ["sex", "age", "sex × age"]
    assert len(found.table) == 2 * (2 + 2 + 4)
    assert found.scores[["change_low", "change_high"]].isna().all(axis=None)


def test_bad_input_is_refused() -> None:
    one = population(LABEL[None], LABEL)
    with pytest.raises(InputError, match="at least one column"):
        bias_amplification(one, one, SEX[[]], design="paired", seed=0)
    bare = population(LABEL[None], None)
    with pytest.raises(InputError, match="true labels"):
        bias_amplification(bare, bare, SEX, design="paired", seed=0)
