import numpy as np
import pytest
import torch
from torch import Tensor

import analysis.similarity.moments as moments
from analysis.similarity.cka import ESTIMATORS, Estimator, linear_cka
from analysis.similarity.moments import CkaStream


def layers(n: int, *, seed: int) -> list[Tensor]:
    """Three layers of related features, of widths 1, 3 and 7, float64, some way off the centre."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    noise = torch.randn(n, 7, generator=generator, dtype=torch.float64)
    mixed = base + noise
    return [mixed[:, :1] + 0.3, mixed[:, :3] ** 2 - 1, 0.2 * mixed - 0.1]


def streamed(first: list[Tensor], second: list[Tensor], sizes: list[int]) -> CkaStream:
    stream = CkaStream()
    for parts in zip(*(layer.split(sizes) for layer in (*first, *second)), strict=True):
        stream.add(parts[: len(first)], parts[len(first) :])
    return stream


@pytest.mark.parametrize("limit", [1000, 30, 1])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_pair_equals_the_value_of_all_samples_at_once(
    limit: int, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "GRAM_SAMPLES", limit)
    first, second = layers(60, seed=1), layers(60, seed=2)[1:]
    expected = [[linear_cka(x, y, estimator=estimator) for y in second] for x in first]
    stream = streamed(first, second, [20, 1, 25, 14])
    sums = stream.sums()
    assert sums.cross.n == 60
    np.testing.assert_allclose(sums.terms(estimator).cka(), expected, rtol=1e-9)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(stream.sums().terms(estimator).cka(), expected, rtol=1e-9)


def test_float32_over_many_batches_keeps_four_digits() -> None:
    first, second = layers(6000, seed=3), layers(6000, seed=4)
    narrow = [[layer.float() for layer in side] for side in (first, second)]
    for estimator in ESTIMATORS:
        expected = [[linear_cka(x, y, estimator=estimator) for y in second] for x in first]
        found = streamed(*narrow, [100] * 60).sums().terms(estimator).cka()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_memory_does_not_grow_with_the_samples() -> None:
    def held(n: int) -> int:
        stream = streamed(layers(n, seed=5), layers(n, seed=6), [100] * (n // 100))
        inner = stream._moments
        assert inner is not None
        sums = [part for part in vars(inner).values() if isinstance(part, Tensor)]
        blocks = [*sums, *inner._own[0], *inner._own[1]]
        pending = [layer for batch in stream._pending for side in batch for layer in side]
        return sum(t.numel() for t in (*blocks, *pending))

    assert held(3600) == held(1800)
