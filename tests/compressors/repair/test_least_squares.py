import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressors import prune_filters, prune_weights
from compressors.apply import build_compressed
from compressors.contract import CompressionPlan, model_digest
from compressors.groups import find_groups
from compressors.repair import least_squares, ridge
from merging import merge_channels
from population.errors import InputError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return self.fc(x.mean((2, 3)))


def images(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 1, 1, generator=generator) * torch.rand(n, 3, 10, 10, generator=generator)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    for norm in (model.bn1, model.bn2):
        norm.momentum = None  # averages that fit the inputs
    for seed in range(10):
        model(images(100, seed))
    return model.eval()


@pytest.fixture
def calibration() -> list[Tensor]:
    return [images(50, seed) for seed in range(100, 104)]


def loss(dense: nn.Module, small: nn.Module) -> float:
    x = images(200, 999)
    with torch.no_grad():
        return float((dense(x) - small(x)).square().mean() / dense(x).var(0).mean())


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "kernel"), [(1, 1, 1, 3), (2, 0, 1, 3), (2, 3, 2, (3, 2))]
)
def test_patches_are_those_of_unfold(stride, padding, dilation, kernel) -> None:
    conv = nn.Conv2d(2, 5, kernel, stride=stride, padding=padding, dilation=dilation)
    x = torch.rand(3, 2, 9, 8)
    unfolded = F.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride).transpose(1, 2)
    places = torch.stack([torch.randperm(unfolded.shape[1])[:4] for _ in range(3)])
    chosen = unfolded.gather(1, places[..., None].expand(-1, -1, unfolded.shape[2]))
    # Channels come last here, and first in what unfold gives.
    expected = chosen.unflatten(2, (2, -1)).transpose(2, 3).flatten(2)
    assert torch.equal(least_squares._patches(conv, x, places), expected)


@pytest.mark.parametrize("method", [merge_channels, prune_filters])
def test_fit_beats_reestimation_on_new_inputs(network: nn.Module, calibration: list[Tensor], method) -> None:
    x = calibration[0][:2]
    before = copy.deepcopy(network.state_dict())
    by_repair = {
        repair: method(network, x, amount=0.5, seed=0, repair=repair, calibration=calibration)
        for repair in ("none", "bn", "least-squares")
    }
    losses = {repair: loss(network, result.model) for repair, result in by_repair.items()}
    assert losses["least-squares"] < 0.5 * losses["bn"] < losses["none"]
    assert by_repair["least-squares"].calibration_images == 200
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


def test_copies_stay_exact_and_norms_hold_the_statistics_of_their_inputs(
    network: nn.Module, calibration: list[Tensor]
) -> None:
    with torch.no_grad():
        for half in (network.conv1.weight, network.bn1.weight, network.bn1.bias):
            half[4:] = half[:4]
        network.bn1.running_mean[4:] = network.bn1.running_mean[:4]
        network.bn1.running_var[4:] = network.bn1.running_var[:4]
    result = merge_channels(
        network, calibration[0][:2], amount=0.5, seed=0, repair="least-squares", calibration=calibration
    )
    first = nn.Sequential(network.conv1, network.bn1)
    small = nn.Sequential(result.model.conv1, result.model.bn1)
    inputs = torch.cat(calibration)
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), first(inputs)[:, :4], rtol=1e-3, atol=1e-3)
        outputs = result.model.conv1(inputs).transpose(0, 1).flatten(1)
    # The fit sees drawn positions, so the statistics agree up to sampling.
    torch.testing.assert_close(result.model.bn1.running_mean, outputs.mean(1), rtol=0, atol=0.05)
    torch.testing.assert_close(result.model.bn1.running_var, outputs.var(1), rtol=0.1, atol=0)


def test_fewer_rows_than_features_take_a_ridge_that_is_large_enough(network: nn.Module) -> None:
    few = [images(5, 3)]
    result = merge_channels(network, few[0], amount=0.5, seed=0, repair="least-squares", calibration=few)
    assert all(bool(torch.isfinite(t).all()) for t in result.model.state_dict().values())


def test_amount_zero_changes_nothing(network: nn.Module, calibration: list[Tensor]) -> None:
    result = merge_channels(
        network, calibration[0], amount=0.0, seed=0, repair="least-squares", calibration=calibration
    )
    assert loss(network, result.model) == pytest.approx(0, abs=1e-10)


def test_what_cannot_be_fitted_is_refused(network: nn.Module, calibration: list[Tensor]) -> None:
    x = calibration[0][:2]
    with pytest.raises(InputError, match="calibration"):
        merge_channels(network, x, amount=0.5, seed=0, repair="least-squares")
    with pytest.raises(InputError, match="at least 5"):
        merge_channels(network, x, amount=0.5, seed=0, repair="least-squares", calibration=[x])
    with pytest.raises(InputError, match="methods that remove channels"):
        prune_weights(network, x, amount=0.5, seed=0, repair="least-squares", calibration=calibration)


class Stream(nn.Module):
    """A stem, a block without norms whose output is added to the stream, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(x + self.second(self.first(x).tanh()))


def test_second_layer_of_a_block_corrects_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense, inputs = Stream().double(), torch.randn(200, 7, 5).double()  # tokens
    monkeypatch.setattr(ridge, "_RIDGES", (1e-12,))
    result = merge_channels(
        dense, inputs[:2], amount=0.5, seed=0, repair="least-squares", calibration=[inputs]
    )
    small, clusters = result.model, result.plan.clusters["stem"]
    merge = np.stack([(clusters == c) / (clusters == c).sum() for c in range(4)])
    with torch.no_grad():
        stream, small_stream = dense.stem(inputs).relu(), small.stem(inputs).relu()
        wanted = (stream + dense.second(dense.first(stream).tanh())) @ torch.from_numpy(merge).T
        features = small.first(small_stream).tanh().flatten(0, 1)
        target = (wanted - small_stream).flatten(0, 1)
        ones = torch.ones(len(features), 1)
        solved = torch.linalg.lstsq(torch.cat([features, ones], 1), target).solution
    torch.testing.assert_close(small.second.weight, solved[:-1].T, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(small.second.bias, solved[-1], rtol=1e-6, atol=1e-9)


class Uses(nn.Module):
    """Outputs that meet a norm, a ReLU, a sum, and more than one of these."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn0(self.stem(x)).relu()
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        y += x
        z = self.conv3(y.relu())
        return self.fc((self.bn3(z) + z).mean((2, 3)))


def test_use_of_a_layers_outputs_decides_what_is_fitted() -> None:
    dense, x = Uses().eval(), images(4, 0)
    groups = find_groups(dense, x).groups
    plan = CompressionPlan("merge", "", {g.name: np.arange(g.size) // 2 for g in groups})
    small = build_compressed(dense, replace(plan, model_digest=model_digest(dense)), groups)
    changed = least_squares._changed_layers(small, plan, groups)
    layers, free_norms = least_squares._rehearse(small, changed, x)
    found = {layer.module: (layer.norm, layer.other is not None, layer.rectified) for layer in layers}
    assert found == {
        "stem": ("bn0", False, True),
        "conv1": ("bn1", False, True),
        "conv2": ("bn2", True, True),
        "conv3": (None, False, False),
        "fc": (None, False, False),
    }
    assert free_norms == ["bn3"]


class Odd(nn.Module):
    """Layers that cannot be fitted: not called, called twice, of shared weights, grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.fc = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.twice, self.tied, self.twin = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.twin.weight = self.tied.weight
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.depthwise(self.stem(x)).relu().flatten(2).transpose(1, 2))
        x = self.attention(x, x, x, need_weights=False)[0]
        x = self.twice(self.twice(x).tanh())
        return self.head(self.twin(self.tied(x).relu()).mean(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_layers_that_cannot_be_fitted_keep_their_merged_weights(
    calibration: list[Tensor], dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    dense = Odd().to(dtype)
    batches = [batch.to(dtype) for batch in calibration]
    merged, fitted = (
        merge_channels(dense, batches[0], amount=0.5, seed=0, repair=repair, calibration=batches)
        for repair in ("none", "least-squares")
    )
    # In the heads of the attention nothing is fitted, but its output projection is.
    layers = ("stem", "fc", "attention.out_proj", "head")
    assert set(fitted.plan.tensors) == {f"{n}.{t}" for n in layers for t in ("weight", "bias")}
    before = merged.model.state_dict()
    assert all(t.shape == before[n].shape for n, t in fitted.model.state_dict().items())
    x = images(100, 9).to(dtype)
    with torch.no_grad():
        errors = [float((dense(x) - r.model(x)).float().square().mean()) for r in (merged, fitted)]
    assert errors[1] < 0.5 * errors[0]


def test_more_features_than_rows(calibration: list[Tensor]) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(300, 600), nn.ReLU(), nn.Linear(600, 8))
    merged, fitted = (
        merge_channels(dense, calibration[0], amount=0.5, seed=0, repair=repair, calibration=calibration)
        for repair in ("none", "least-squares")
    )
    assert loss(dense, fitted.model) < 0.7 * loss(dense, merged.model)


def test_same_calibration_gives_the_same_bytes(network: nn.Module, calibration: list[Tensor]) -> None:
    first, second = (
        prune_filters(
            network, calibration[0], amount=0.5, seed=0, repair="least-squares", calibration=calibration
        ).plan.tensors
        for _ in range(2)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_calibration_that_is_not_finite_is_refused(network: nn.Module, calibration: list[Tensor]) -> None:
    bad = [*calibration, torch.full((1, 3, 10, 10), torch.inf)]
    with pytest.raises(InputError, match=r"^calibration gives NaN or infinite values"):
        merge_channels(network, calibration[0], amount=0.5, seed=0, repair="least-squares", calibration=bad)
