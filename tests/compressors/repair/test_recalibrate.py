import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from compressors import recalibrate_batchnorm
from population.errors import InputError


def _convnet():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, momentum=0.5)
    ).double()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1)
    return model.eval()


def _batches(sizes=(4, 2, 7)):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(n, 1, 6, 6, generator=generator, dtype=torch.float64) for n in sizes]


def _slow_convolution(x, weight, bias):
    n, _, height, width = x.shape
    out = np.zeros((n, len(weight), height - 2, width - 2))
    for image in range(n):
        for filter_, values in enumerate(weight):
            for i in range(height - 2):
                for j in range(width - 2):
                    patch = x[image, :, i : i + 3, j : j + 3]
                    out[image, filter_, i, j] = (patch * values).sum() + bias[filter_]
    return out


def test_statistics_are_plain_means_over_batches_of_a_slow_loop():
    model = _convnet()
    p = {n: t.detach().numpy() for n, t in model.state_dict().items()}
    means, variances = {1: [], 4: []}, {1: [], 4: []}
    for batch in _batches():
        x = batch.numpy()
        for conv, norm in ((0, 1), (3, 4)):
            x = _slow_convolution(x, p[f"{conv}.weight"], p[f"{conv}.bias"])
            for channel in range(x.shape[1]):
                values = x[:, channel].copy()
                if channel == 0:
                    means[norm].append([])
                    variances[norm].append([])
                means[norm][-1].append(values.mean())
                variances[norm][-1].append(values.var(ddof=1))  # what is stored is unbiased
                standard = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
                x[:, channel] = p[f"{norm}.weight"][channel] * standard + p[f"{norm}.bias"][channel]
            x = np.maximum(x, 0)
    new = recalibrate_batchnorm(model, _batches())
    for norm in (1, 4):
        np.testing.assert_allclose(new[norm].running_mean, np.mean(means[norm], axis=0), rtol=1e-10)
        np.testing.assert_allclose(new[norm].running_var, np.mean(variances[norm], axis=0), rtol=1e-10)


def test_statistics_are_those_of_torchs_update_bn(networks):
    model, _, _ = networks.resnet()
    batches = [torch.rand(n, 1, 8, 8) for n in (6, 3)]
    expected = copy.deepcopy(model)
    update_bn(batches, expected)
    new = recalibrate_batchnorm(model, batches)
    for (name, a), (_, b) in zip(new.named_buffers(), expected.named_buffers(), strict=True):
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(a, b)


def test_the_result_does_not_depend_on_what_was_there_before_or_on_momentum():
    first, second = _convnet(), _convnet()
    second[1].running_mean.add_(5)
    second[4].running_var.mul_(3)
    second[1].momentum = 0.9
    second[1].num_batches_tracked += 100
    a, b = (recalibrate_batchnorm(m, _batches()) for m in (first, second))
    assert torch.equal(a[1].running_mean, b[1].running_mean)
    assert torch.equal(a[4].running_var, b[4].running_var)


def test_dropout_stays_off_and_modes_stay():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    x = torch.rand(16, 4)
    new = recalibrate_batchnorm(model, [x])
    torch.testing.assert_close(new[2].running_mean, model[1](x).mean(0))
    assert not new.training
    assert model.training
    assert torch.equal(model[2].running_mean, torch.zeros(3))
    assert new[2].momentum == model[2].momentum == 0.1


def test_afterwards_channels_of_the_calibration_data_have_mean_zero_and_variance_one():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False)).double()
    batch = _batches((9,))[0]
    out = recalibrate_batchnorm(model, [batch])(batch)
    np.testing.assert_allclose(out.mean((0, 2, 3)).detach(), 0, atol=1e-12)
    n = 9 * 16
    np.testing.assert_allclose(out.var((0, 2, 3)).detach(), 1, rtol=1e-3)
    assert n == out[:, 0].numel()


def test_a_generator_of_batches_is_read_once():
    model = _convnet()
    from_generator = recalibrate_batchnorm(model, (b for b in _batches()))
    assert torch.equal(
        from_generator[4].running_mean, recalibrate_batchnorm(model, _batches())[4].running_mean
    )


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.BatchNorm1d(3, track_running_stats=False)])
def test_a_model_without_statistics_is_refused(model):
    with pytest.raises(InputError, match="BatchNorm"):
        recalibrate_batchnorm(model, [torch.rand(4, 3)])


@pytest.mark.parametrize(
    "calibration",
    [None, [], [3], [torch.tensor(1.0)], [torch.rand(0, 3)], [torch.rand(1, 3)], [torch.rand(4, 2)],
     [torch.full((4, 3), float("inf"))]],
    ids=["none", "empty", "number", "scalar", "no image", "one value", "other size", "infinite"],
)  # fmt: skip
def test_bad_calibration_is_an_input_error(calibration):
    with pytest.raises(InputError):
        recalibrate_batchnorm(nn.BatchNorm1d(3), calibration)
