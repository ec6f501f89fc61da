"""Models of other types than float32: every repair keeps the type, and its plan rebuilds the same bytes."""

import pytest
import torch

from compressors import CompressionPlan, apply_plan, prune_filters
from merging import merge_channels
from population.spec import REPAIRS

COMPRESS = {"merge": merge_channels, "filters": prune_filters}
# Per type another one to compare with, and the largest error of the outputs, relative to the largest of
# them: through rounding of the tensors and, where a repair looks at data, of the activations.
OTHER = {
    torch.float64: (torch.float32, 1e-4),
    torch.bfloat16: (torch.float64, 0.05),
    torch.float16: (torch.float64, 0.01),
}
CASES = [(dtype, repair) for dtype in (torch.float64, torch.bfloat16) for repair in REPAIRS]


def _compress(method, model, x, repair):
    generator = torch.Generator().manual_seed(2)
    calibration = [torch.rand(20, *x.shape[1:], generator=generator).to(x.dtype) for _ in range(2)]
    return COMPRESS[method](model, x, amount=0.5, seed=0, repair=repair, calibration=calibration)


def _state(model):
    return {
        name: (tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("name", ["cats_and_skips", "depthwise"])
@pytest.mark.parametrize("method", COMPRESS)
@pytest.mark.parametrize(("dtype", "repair"), [*CASES, (torch.float16, "none")])
def test_types_stay_and_plans_rebuild_the_same_bytes(
    networks, hard_networks, tmp_path, name, method, dtype, repair
):
    if name == "depthwise":
        build, x = hard_networks.HARD[name]
        model = networks.randomize(build(), 0)
    else:
        model, x = networks.cats_and_skips()
    model, x = model.to(dtype), x.to(dtype)
    result = _compress(method, model, x, repair)
    floats = [t for t in result.model.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in floats} == {dtype}
    assert networks.outputs(result.model, x).dtype == dtype
    assert result.cost.after.params < 0.6 * result.cost.before.params
    result.plan.save(tmp_path / "once")
    loaded = CompressionPlan.load(tmp_path / "once")
    loaded.save(tmp_path / "twice")
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()
    for plan in (result.plan, loaded):
        assert _state(apply_plan(model, plan, x)) == _state(result.model)
    # The same numbers, compressed in another type, give the same network up to rounding.
    other, tolerance = OTHER[dtype]
    same = _compress(method, model.to(other), x.to(other), repair).model.double()
    got, expected = (networks.outputs(m, x.double()) for m in (result.model.double(), same))
    assert networks.relative_error(got, expected) < tolerance
