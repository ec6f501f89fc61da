import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torchvision.models import get_model, resnet18

from population.errors import InputError
from ssl_models import architectures
from ssl_models.architectures import built_network, named_network

_NAMES = ("resnet18", "mobilenet_v3_small", "squeezenet1_1")


@pytest.mark.parametrize("name", _NAMES)
def test_a_name_of_torchvision_is_its_network(name: str) -> None:
    build, code = named_network(name, num_classes=7, in_channels=3)
    expected = get_model(name, weights=None, num_classes=7).state_dict()
    found = pickle.loads(pickle.dumps(build))(expected).state_dict()  # noqa: S301 - made here
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in expected.items()}
    assert code.startswith("torchvision 0.")


def shape_of_stem(kernel: int, channels: int) -> dict[str, torch.Tensor]:
    return {"conv1.weight": torch.zeros(64, channels, kernel, kernel)}


@pytest.mark.parametrize(
    ("kernel", "channels", "stride", "padding", "size"),
    [(7, 3, 2, 3, 8), (7, 1, 2, 3, 8), (3, 3, 1, 1, 32), (3, 1, 1, 1, 32)],
)
def test_the_stem_of_a_resnet_is_read_from_its_weights(
    kernel: int, channels: int, stride: int, padding: int, size: int
) -> None:
    build, _ = named_network("resnet18", num_classes=10, in_channels=3)
    network = build(shape_of_stem(kernel, channels)).eval()
    assert network.conv1.weight.shape == (64, channels, kernel, kernel)
    assert network.conv1.stride == (stride, stride)
    assert network.conv1.padding == (padding, padding)
    assert network.conv1.bias is None
    with torch.no_grad():
        stem = network.maxpool(network.relu(network.bn1(network.conv1(torch.rand(1, channels, 32, 32)))))
    assert stem.shape == (1, 64, size, size)
    assert sum(p.numel() for p in network.parameters()) == (
        sum(p.numel() for p in resnet18(num_classes=10).parameters())
        + 64 * (channels * kernel**2 - 3 * 49)
    )  # fmt: skip


@pytest.mark.parametrize("weight", [torch.zeros(64, 3, 5, 5), torch.zeros(64), torch.zeros(64, 3, 3, 7)])
def test_other_stems_are_left_for_the_check_of_shapes(weight: torch.Tensor) -> None:
    build, _ = named_network("resnet18", num_classes=10, in_channels=3)
    assert build({"conv1.weight": weight}).conv1.weight.shape == (64, 3, 7, 7)


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        named_network("resnet81", num_classes=10, in_channels=3)
    assert "unknown torchvision network 'resnet81' (did you mean 'resnet18'?)" in str(caught.value)
    assert str(caught.value).endswith("; timm is not installed")
    with pytest.raises(InputError, match="unknown"):  # torchvision's, but no classifier of images
        named_network("fcn_resnet50", num_classes=10, in_channels=3)


def test_a_name_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = ModuleType("timm")
    timm.is_model = lambda name: name == "tiny"
    timm.list_models = lambda: ["tiny"]

    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        assert (name, pretrained) == ("tiny", False)
        return nn.Conv2d(in_chans, num_classes, 1)

    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setattr(architectures, "find_spec", lambda name: object())
    monkeypatch.setattr(architectures, "version", lambda name: "1.2")
    build, code = named_network("tiny", num_classes=7, in_channels=1)
    assert build({}).weight.shape == (7, 1, 1, 1)
    assert code == "timm 1.2"
    with pytest.raises(InputError, match=r"unknown network 'tyny'.*'tiny'"):
        named_network("tyny", num_classes=7, in_channels=1)


# --- a user's function


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module, which is forgotten afterwards."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("")
    (tmp_path / "nets" / "small.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Linear(2, 3)\n"
        "class Net(nn.Flatten): pass\n"
        "def wrong(): return 5\n"
        "number = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("nets", "nets.small"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_function_or_a_class_of_the_working_folder(workplace: Path) -> None:
    build, code = built_network("nets.small:build")
    assert pickle.loads(pickle.dumps(build))({}).weight.shape == (3, 2)  # noqa: S301 - made here
    assert type(built_network("nets.small:Net")[0]({})).__name__ == "Net"
    source = workplace / "nets" / "small.py"
    source.write_text(source.read_text() + "# changed\n")
    assert built_network("nets.small:build")[1] != code
    for name in ("nets", "nets.small"):
        del sys.modules[name]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("nets.large:build", "cannot import 'nets.large' (No module named 'nets.large')"),
        (":build", "cannot import ''"),
        (".small:build", "cannot import '.small'"),
        ("nets.small:", "nets.small has no function or class ''"),
        ("nets.small:bild", "nets.small has no function or class 'bild'"),
        ("nets.small:number", "nets.small has no function or class 'number'"),
    ],
)
@pytest.mark.usefixtures("workplace")
def test_functions_that_are_not_there(place: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        built_network(place)
    assert f"--model {place}: {expected}" in str(caught.value)


@pytest.mark.usefixtures("workplace")
def test_a_function_that_returns_no_network() -> None:
    build, _ = built_network("nets.small:wrong")
    with pytest.raises(InputError, match=r"--model nets\.small:wrong returns a int, not a torch\.nn\.Module"):
        build({})
