import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from analysis.q_score import q_score_corti, q_score_kalibhat, varying
from population.errors import InputError


def slow_corti(row: list[float]) -> float:
    length = math.sqrt(sum(v * v for v in row))
    unit = [v / length for v in row]
    mean = sum(unit) / len(unit)
    std = math.sqrt(sum((v - mean) ** 2 for v in unit) / len(unit))
    return (max(unit) - mean) / std / sum(abs(v) for v in unit)


def slow_kalibhat(row: list[float]) -> float:
    length = math.sqrt(sum(v * v for v in row))
    unit = [v / length for v in row]
    mean = sum(unit) / len(unit)
    std = math.sqrt(sum((v - mean) ** 2 for v in unit) / len(unit))
    out = [v - mean for v in unit if v - mean > std * (1 + 1e-9)]
    return sum(out) / len(out) if out else 0.0


def test_by_hand() -> None:
    # h = (3, 0, 0, 4): length 5, unit (.6, 0, 0, .8), mean .35, variance 1/4 - .1225 = .1275, sum 1.4.
    # One feature excites: (1, 0, 0, 0) has mean 1/4 and variance 3/16, z = .75 / sqrt(3/16) = sqrt 3.
    # Half of them do: (1, 1, 0, 0) / sqrt 2 has z = 1 and sum sqrt 2; none lies above mean + std.
    rows = torch.tensor([[3.0, 0, 0, 4], [1, 0, 0, 0], [1, 1, 0, 0]])
    expected = [0.45 / math.sqrt(0.1275) / 1.4, math.sqrt(3), 1 / math.sqrt(2)]
    torch.testing.assert_close(q_score_corti(rows), torch.tensor(expected).double())
    # .6 < .35 + .357 < .8; of (1, 0, 0, 0) the one lies .75 above the mean.
    torch.testing.assert_close(q_score_kalibhat(rows), torch.tensor([0.45, 0.75, 0.0]).double())


@pytest.mark.parametrize("width", [2, 5, 64])
def test_against_one_image_after_the_other(width: int) -> None:
    features = torch.randn(40, width, generator=torch.Generator().manual_seed(width)).relu() + 1e-3
    features[:, 0] += 0.5
    for found, slow in ((q_score_corti, slow_corti), (q_score_kalibhat, slow_kalibhat)):
        expected = torch.tensor([slow(row) for row in features.double().tolist()]).double()
        torch.testing.assert_close(found(features), expected)
        torch.testing.assert_close(found(features[7:9]), expected[7:9])


ROW = st.lists(st.floats(-100, 100), min_size=3, max_size=8).filter(lambda r: max(r) - min(r) > 1e-3)


@given(ROW, st.floats(1e-30, 1e30))
@settings(deadline=None)
def test_scale_and_order_of_the_features_do_not_matter(row: list[float], scale: float) -> None:
    features = torch.tensor([row]).double()
    for q in (q_score_corti, q_score_kalibhat):
        torch.testing.assert_close(q(features * scale), q(features), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(q(features.flip(1)), q(features))
        assert float(q(features)) >= 0


def test_a_sharper_image_scores_higher() -> None:
    flat, sharp = torch.ones(1, 32), torch.ones(1, 32)
    flat[0, 0], sharp[0, 0] = 2, 20
    for q in (q_score_corti, q_score_kalibhat):
        assert q(sharp) > q(flat)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.tensor([[0.0, 0], [1, 2]]), "features of 1 of 2 images are all 0 or all equal"),
        (torch.full((3, 4), 2.0), "features of 3 of 3 images are all 0 or all equal"),
        (torch.tensor([[math.nan, 1]]), "must be finite"),
        (torch.tensor([[math.inf, 1]]), "must be finite"),
        (torch.ones(4), r"must have shape \(N, D\) with D >= 2, not \(4,\)"),
        (torch.ones(4, 1), r"not \(4, 1\)"),
    ],
)
def test_what_has_no_score_is_refused(features: Tensor, message: str) -> None:
    for q in (q_score_corti, q_score_kalibhat):
        with pytest.raises(InputError, match=message):
            q(features)
    assert varying(torch.tensor([[0.0, 0], [1, 2], [3, 3]])).tolist() == [False, True, False]
