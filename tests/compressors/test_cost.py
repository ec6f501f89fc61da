import pytest
import torch
from torch import nn

from compressors.cost import count_macs, measure_cost
from population.errors import InputError


def _convnet():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(6, 5),
    ).eval()  # fmt: skip


def test_operations_counted_by_hand():
    # 8x8 outputs of 3*3*3 products for 4 filters; pooled to 4x4; one output of 3*3*4 for 6 filters; 6*5.
    assert count_macs(_convnet(), torch.rand(1, 3, 8, 8)) == 64 * 27 * 4 + 1 * 36 * 6 + 30


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_operations_are_per_input(batch):
    model = _convnet()
    assert count_macs(model, torch.rand(batch, 3, 8, 8)) == count_macs(model, torch.rand(1, 3, 8, 8))


def test_a_grouped_convolution_reads_only_its_group():
    model = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    assert count_macs(model, torch.rand(2, 8, 5, 5)) == 25 * 9 * 8


def test_parameters_and_bytes_counted_by_hand():
    cost = measure_cost(_convnet(), None, {})
    params = (4 * 27 + 4) + (4 + 4) + 6 * 36 + (6 * 5 + 5)
    assert cost.params == params
    # In float32, with the norm's mean and variance, and its int64 counter of batches.
    assert cost.bytes == 4 * (params + 4 + 4) + 8
    assert cost.macs is None


def test_masked_weights_are_not_parameters_but_are_stored():
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[0, :4] = False
    dense, masked = (measure_cost(_convnet(), None, m) for m in ({}, {"7.weight": mask}))
    assert dense.params - masked.params == 4
    assert dense.bytes == masked.bytes


def test_half_precision_takes_half_the_bytes():
    model = nn.Linear(4, 2)
    assert measure_cost(model, None, {}).bytes == 40
    assert measure_cost(model.half(), None, {}).bytes == 20


def test_a_shared_weight_is_one_parameter_tensor():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert measure_cost(model, None, {}).params == 9


def test_counting_runs_a_copy():
    model = _convnet().train()
    before = model[1].running_mean.clone()
    count_macs(model, torch.rand(4, 3, 8, 8))
    assert torch.equal(model[1].running_mean, before)
    assert model.training


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(InputError, match="example inputs"):
        count_macs(_convnet(), torch.rand(1, 4, 8, 8))
