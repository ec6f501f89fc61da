"""One table: what holds for every compression method."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock

from compressors import CompressionPlan, apply_plan
from compressors.contract import channels_kept, model_digest
from pie_report.methods import METHODS
from population.errors import InputError

CHANNEL_METHODS = ("merge", "filters", "random")
every_method = pytest.mark.parametrize("method", METHODS)


def _model(seed=0):
    """Two residual blocks, with four groups of channels, and random norms."""
    model = nn.Sequential()
    model.conv1, model.bn1 = nn.Conv2d(1, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
    model.block1 = BasicBlock(5, 5)
    shortcut = nn.Sequential(nn.Conv2d(5, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
    model.block2 = BasicBlock(5, 8, 2, shortcut)
    model.pool, model.flat, model.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if tensor.dim() == 1 and not name.endswith(("mean", "bias")) else -0.5
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return model.eval()


X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
CALIBRATION = [torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (6, 5)]


def _run(method, model, *, amount=0.5, seed=0, repair="none", calibration=None, x=X):
    return METHODS[method](model, x, amount=amount, seed=seed, repair=repair, calibration=calibration)


def _state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _differing(a, b):
    """Names of tensors that are not bit-equal in two state dicts."""
    return [n for n in {**a, **b} if n not in a or n not in b or _bytes(a[n]) != _bytes(b[n])]


def _bytes(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("repair", ["none", "data-free", "bn"])
@every_method
def test_the_model_and_the_random_state_are_left_as_they_were(method, repair):
    model = _model().train()
    model.bn1.eval()
    model.head.weight.requires_grad_(False)
    state, training = _state(model), [m.training for m in model.modules()]
    frozen = [p.requires_grad for p in model.parameters()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    _run(method, model, repair=repair, calibration=CALIBRATION)
    assert _differing(state, _state(model)) == []
    assert training == [m.training for m in model.modules()]
    assert frozen == [p.requires_grad for p in model.parameters()]
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_method
def test_the_result_is_a_new_model_in_eval_mode_of_the_same_types(method, dtype):
    model = _model().to(dtype).train()
    new = _run(method, model, x=X.to(dtype)).model
    assert not any(m.training for m in new.modules())
    old = model.state_dict()
    assert {n: (t.dtype, t.device) for n, t in new.state_dict().items()} == {
        n: (t.dtype, t.device) for n, t in old.items()
    }
    pointers = {t.data_ptr() for t in old.values()}
    assert not pointers & {t.data_ptr() for t in new.state_dict().values()}
    assert new(X.to(dtype)).shape == (3, 3)  # the classifier keeps its outputs
    assert bool(torch.isfinite(new(X.to(dtype))).all())


@every_method
def test_cost_falls_with_the_amount(method):
    model = _model()
    half, most = (_run(method, model, amount=a).cost for a in (0.5, 0.8))
    dense = half.before
    assert dense.params == sum(p.numel() for p in model.parameters())
    assert dense == most.before
    if method == "identity":
        assert half.after == most.after == dense
    elif method == "prune":
        assert dense.params > half.after.params > most.after.params
        assert (half.after.macs, half.after.bytes) == (dense.macs, dense.bytes)
    else:
        for part in ("params", "macs", "bytes"):
            values = [getattr(c, part) for c in (dense, half.after, most.after)]
            assert values == sorted(values, reverse=True)
            assert len(set(values)) == 3
        assert half.after.params == sum(p.numel() for p in _run(method, model, amount=0.5).model.parameters())


@every_method
def test_amount_zero_changes_nothing(method):
    model = _model()
    result = _run(method, model, amount=0.0)
    assert _differing(_state(result.model), _state(model)) == []
    with torch.no_grad():
        assert torch.equal(result.model(X), model(X))
    assert result.cost.after == result.cost.before
    assert result.cost.achieved == 0
    assert result.calibration_images == 0


@every_method
def test_equal_seeds_give_equal_bytes_and_only_random_methods_depend_on_the_seed(method):
    model = _model()
    first, again, other = (_state(_run(method, model, seed=s).model) for s in (7, 7, 8))
    assert _differing(first, again) == []
    if method == "random":
        assert _differing(first, other)
    elif method != "merge":
        assert _differing(first, other) == []


@pytest.mark.parametrize("repair", ["none", "data-free", "bn"])
@every_method
def test_a_saved_plan_rebuilds_the_model_bit_for_bit(method, repair, tmp_path):
    model = _model()
    result = _run(method, model, repair=repair, calibration=CALIBRATION)
    assert result.calibration_images == (11 if repair == "bn" else 0)
    result.plan.save(tmp_path / "plan")
    plan = CompressionPlan.load(tmp_path / "plan")
    rebuilt = apply_plan(model, plan, X)
    assert _differing(_state(rebuilt), _state(result.model)) == []
    with torch.no_grad():
        assert torch.equal(rebuilt(X), result.model(X))
    assert (plan.method, plan.model_digest) == (result.plan.method, model_digest(model))
    plan.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "plan").read_bytes()


@every_method
def test_a_repair_with_data_changes_only_norm_statistics(method):
    model = _model()
    plain = _state(_run(method, model).model)
    repaired = _state(_run(method, model, repair="bn", calibration=CALIBRATION).model)
    differing = {n for n in plain if not torch.equal(plain[n], repaired[n])}
    statistics = {n for n in plain if n.endswith(("running_mean", "running_var"))}
    assert differing == statistics


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("method", CHANNEL_METHODS)
def test_every_group_keeps_the_promised_number_of_channels(networks, method, amount):
    model, x, groups = networks.resnet()
    result = _run(method, model, amount=amount, x=x)
    sizes = {g.name: g.size for g in groups}
    kept = {name: max(1, round(n * (1 - amount))) for name, n in sizes.items()}
    assert {g.name: g.channels_after for g in result.cost.groups} == kept
    assert {g.name: g.channels_before for g in result.cost.groups} == sizes
    modules = dict(result.model.named_modules())
    for group in groups:
        assert {len(modules[layer].weight) for layer in group.producers} == {kept[group.name]}
    assert result.cost.requested == amount
    assert result.cost.achieved == pytest.approx(1 - sum(kept.values()) / sum(sizes.values()))
    for group in result.cost.groups:
        assert group.requested == amount
        assert group.achieved == pytest.approx(1 - kept[group.name] / sizes[group.name])
    assert modules["head"].weight.shape == (3, kept["encoder.layer4.0.conv2"])
    assert set(result.cost.left_dense) == {"head"}


@pytest.mark.parametrize(
    ("size", "amount", "kept"), [(4, 0.5, 2), (5, 0.5, 2), (7, 0.5, 4), (3, 0.9, 1), (9, 0, 9)]
)
def test_channels_kept(size, amount, kept):
    # Python rounds halves to even: 2.5 to 2, 3.5 to 4.
    assert channels_kept(size, amount) == kept


def _nan_model(value):
    model = _model()
    model.block2.conv1.weight.data[0, 0, 0, 0] = value
    return model


BAD = {
    "amount 1": {"amount": 1.0},
    "amount below 0": {"amount": -0.1},
    "amount above 1": {"amount": 1.5},
    "amount NaN": {"amount": float("nan")},
    "amount infinite": {"amount": float("inf")},
    "unknown repair": {"repair": "bm"},
    "example with other channels": {"x": torch.rand(2, 3, 8, 8)},
    "example without batch": {"x": torch.rand(3, 8, 8)},
    "empty example": {"x": torch.rand(0, 1, 8, 8)},
    "example is a list": {"x": [1, 2]},
    "no calibration": {"repair": "bn"},
    "empty calibration": {"repair": "bn", "calibration": []},
    "calibration of lists": {"repair": "bn", "calibration": [[1, 2]]},
    "calibration of pairs": {"repair": "bn", "calibration": [(X, torch.zeros(3))]},
    "empty calibration batch": {"repair": "bn", "calibration": [X[:0]]},
    "calibration with other channels": {"repair": "bn", "calibration": [torch.rand(4, 3, 8, 8)]},
    "calibration without batches": {"repair": "bn", "calibration": X},
    "a single calibration value per channel": {"repair": "bn", "calibration": [torch.rand(1, 1, 1, 1)]},
    "calibration with NaN": {"repair": "bn", "calibration": [X, torch.full_like(X, float("nan"))]},
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@every_method
def test_bad_arguments_are_input_errors(method, case):
    model = _model().train()
    state = _state(model)
    with pytest.raises(InputError) as error:
        _run(method, model, **BAD[case])
    assert "\n" not in str(error.value)
    assert _differing(state, _state(model)) == []
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@every_method
def test_a_model_with_nan_or_infinity_is_refused_by_name(method, value):
    with pytest.raises(InputError, match=r"block2\.conv1\.weight"):
        _run(method, _nan_model(value))


@every_method
def test_a_plan_for_another_model_is_refused(method):
    plan = _run(method, _model(seed=0)).plan
    other = _model(seed=1)
    state = _state(other)
    with pytest.raises(InputError, match="other weights"):
        apply_plan(other, plan, X)
    assert _differing(state, _state(other)) == []


def test_one_changed_bit_of_the_model_is_noticed():
    model = _model()
    digest = model_digest(model)
    model.conv1.weight.data[0, 0, 0, 0] *= 1 + 2**-23
    assert model_digest(model) != digest


def _damage(path, how):
    data = path.read_bytes()
    header = {"format": "1", "method": "merge", "model_digest": "0"}
    arrays = {"clusters/a": torch.arange(3)}
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a plan")
    elif how == "header":
        path.write_bytes(data[:20] + b"\x00" * 20 + data[40:])
    elif how == "absent":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "no plan inside":
        save_file(arrays, path)
    elif how == "other format":
        save_file(arrays, path, metadata={"plan": json.dumps({**header, "format": "2"})})
    elif how == "header is a list":
        save_file(arrays, path, metadata={"plan": "[]"})
    elif how == "header is not JSON":
        save_file(arrays, path, metadata={"plan": "{"})
    elif how == "no method":
        save_file(arrays, path, metadata={"plan": json.dumps({"format": "1", "model_digest": "0"})})
    elif how == "unknown part":
        save_file({"other/a": torch.arange(3)}, path, metadata={"plan": json.dumps(header)})
    elif how == "broken clusters":
        save_file({"clusters/a": torch.rand(3)}, path, metadata={"plan": json.dumps(header)})


@pytest.mark.parametrize(
    "how",
    [
        "cut", "empty", "text", "header", "absent", "folder", "no plan inside", "other format",
        "header is a list", "header is not JSON", "no method", "unknown part", "broken clusters",
    ],
)  # fmt: skip
def test_a_damaged_plan_file_is_an_input_error(how, tmp_path):
    path = tmp_path / "plan.safetensors"
    _run("merge", _model()).plan.save(path)
    _damage(path, how)
    with pytest.raises(InputError, match="plan"):
        CompressionPlan.load(path)
