import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressors import prune_filters, prune_weights
from compressors.repair import least_squares
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
    expected = unfolded.gather(1, places[..., None].expand(-1, -1, unfolded.shape[2]))
    assert torch.equal(least_squares._patches(conv, x, places), expected)


@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_is_the_closed_form_around_the_scaled_old_weights(intercept: bool) -> None:
    rng = np.random.default_rng(0)
    x, y, old = rng.normal(1, 1, (60, 5)), rng.normal(2, 1, (60, 3)), rng.normal(size=(3, 5))
    moments = least_squares._Moments(5, 3)
    moments.add(torch.from_numpy(x[:20]), torch.from_numpy(y[:20]))
    moments.add(torch.from_numpy(x[20:]), torch.from_numpy(y[20:]))
    solved = least_squares._solve(moments, torch.from_numpy(old), 0.1, intercept)
    assert solved is not None
    weight, bias = solved
    cx, cy = (x - x.mean(0), y - y.mean(0)) if intercept else (x, y)
    scale = [(cx @ o) @ cy[:, i] / ((cx @ o) @ (cx @ o)) for i, o in enumerate(old)]
    penalty = 0.1 * (cx**2).sum(0).mean()
    for i, o in enumerate(old):  # one output at a time, with the penalty as further rows
        rows = np.vstack([cx, np.sqrt(penalty) * np.eye(5)])
        wanted = np.append(cy[:, i], np.sqrt(penalty) * scale[i] * o)
        np.testing.assert_allclose(weight[i], np.linalg.lstsq(rows, wanted, rcond=None)[0], rtol=1e-8)
    expected_bias = y.mean(0) - weight.numpy() @ x.mean(0) if intercept else np.zeros(3)
    np.testing.assert_allclose(bias, expected_bias, rtol=1e-10, atol=1e-12)
    error = ((y - x @ weight.numpy().T - bias.numpy()) ** 2).sum()
    assert least_squares._squared_error(moments, weight, bias) == pytest.approx(error)


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
