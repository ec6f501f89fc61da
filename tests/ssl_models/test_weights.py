import argparse
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from population.errors import InputError
from ssl_models.weights import fill, read_weights


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 1, 3, 3, generator=generator),
        "norm.num_batches_tracked": torch.tensor(7),
        "fc.bias": torch.randn(2, generator=generator),
    }


def write(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {f"module.{n}": t for n, t in w.items()}])
@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".th"])
def test_every_format_gives_the_same_tensors(tmp_path: Path, ending: str, wrap) -> None:
    found = read_weights(write(tmp_path / f"a{ending}", wrap(weights())))
    assert found.keys() == weights().keys()
    for name, tensor in weights().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("part", ["state_dict", "model"])
def test_weights_beside_other_things_are_found(tmp_path: Path, part: str) -> None:
    content = {"epoch": 3, "optimizer": {"lr": 0.1, "state": [torch.ones(2)]}, part: weights()}
    found = read_weights(write(tmp_path / "a.pt", content))
    assert all(torch.equal(found[name], tensor) for name, tensor in weights().items())


def test_a_layer_that_is_called_model_is_no_part(tmp_path: Path) -> None:
    found = read_weights(write(tmp_path / "a.pt", {"model": torch.ones(2), "module.b": torch.zeros(1)}))
    assert list(found) == ["model", "module.b"]  # not all names have the prefix, so it stays


def test_parameters_lose_their_gradients(tmp_path: Path) -> None:
    found = read_weights(write(tmp_path / "a.pt", {"a": nn.Parameter(torch.ones(2))}))
    assert type(found["a"]) is Tensor
    assert not found["a"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {"a": torch.tensor([0.1, -3.0]).to(dtype), "n": torch.tensor(5)}
    found = read_weights(write(tmp_path / "a.safetensors", content))
    assert found["a"].dtype == torch.float32
    assert torch.equal(found["a"], content["a"].float())
    assert found["n"].dtype == torch.int64


class Trap:
    """Writes a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for content in ({"a": torch.ones(1), "b": Trap(sprung)}, Trap(sprung), nn.Linear(1, 1)):
        with pytest.raises(InputError, match="holds more than tensors, or is damaged"):
            read_weights(write(tmp_path / "a.pt", content))
    with pytest.raises(InputError, match="holds more than tensors"):
        read_weights(write(tmp_path / "a.th", {"state_dict": weights(), "args": argparse.Namespace(lr=1)}))
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # noqa: S301 - the trap works
    assert sprung.exists()


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.safetensors", weights()).read_bytes()
    zipped = write(tmp_path / "whole.pt", weights()).read_bytes()
    contents = {"cut.safetensors": whole[:-9], "text.safetensors": b"no weights", "empty.safetensors": b""}
    contents |= {"cut.pt": zipped[: len(zipped) // 2], "text.pth": b"no weights", "empty.th": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} ") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    write(tmp_path / "none.safetensors", {})
    for content in ({}, [torch.ones(1)], {"a": 3}, {"model": {}}, torch.ones(2)):
        with pytest.raises(InputError, match=r"list\.pt holds no state dict"):
            read_weights(write(tmp_path / "list.pt", content))
    for name, expected in (
        ("none.safetensors", "holds no tensors"),
        ("absent.pt", "no such file of weights"),
        ("whole.bin", r"whole\.bin is of an unknown kind; allowed endings: \.safetensors, \.pt, \.pth, \.th"),
    ):
        if name == "whole.bin":
            (tmp_path / name).write_bytes(zipped)
        with pytest.raises(InputError, match=expected):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    content = {"a": torch.ones(2), "layer.b": torch.tensor([1.0, value])}
    with pytest.raises(InputError, match=r"a\.pth: layer\.b has NaN or infinite values"):
        read_weights(write(tmp_path / "a.pth", content))


# --- filling a network


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_a_filled_network_has_the_weights_of_the_file() -> None:
    torch.manual_seed(0)
    source, target = network(), network()
    fill(target, source.state_dict(), Path("a.pt"))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_counts_of_batches_may_be_absent() -> None:
    source, target = network().state_dict(), network()
    del source["1.num_batches_tracked"]
    fill(target, dict(source), Path("a.pt"))
    assert torch.equal(target[0].weight, source["0.weight"])


@pytest.mark.parametrize(
    ("renamed", "removed", "expected"),
    [
        ({}, ["0.bias"], "it lacks 0.bias"),
        (
            {},
            ["0.weight", "0.bias", "1.weight", "2.weight", "2.bias"],
            "it lacks 0.weight, 0.bias, 1.weight and 2 more",
        ),
        ({"0.bias": "x"}, [], "it lacks 0.bias; it has unknown x"),
        (
            {"0.weight": "2.weight"},
            ["0.bias"],
            "it lacks 0.weight, 0.bias; it has 2.weight of shape [3, 2], not [2, 3]",
        ),
    ],
)
def test_weights_of_another_network_are_refused(renamed, removed, expected: str) -> None:
    tensors = {n: t for n, t in network().state_dict().items() if n not in removed}
    for old, new in renamed.items():
        tensors[new] = tensors.pop(old)
    target = network()
    before = {n: t.clone() for n, t in target.state_dict().items()}
    with pytest.raises(InputError) as caught:
        fill(target, tensors, Path("dir/a.pt"))
    assert str(caught.value) == f"dir/a.pt does not fit the network: {expected}"
    assert all(torch.equal(before[n], t) for n, t in target.state_dict().items())
