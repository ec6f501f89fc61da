import json
import lzma
import os
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

import pie_report
from pie_report import cli
from pie_report.checkpoints import COMPARED_LAYERS, LoadedMembers, find_files, open_checkpoints
from pie_report.members import Population, layers_of
from population.errors import InputError
from population.spec import CheckpointSpec, CompressionSpec, PopulationSpec, ReportSpec, key
from population.store import Store
from ssl_models.datasets import ImageData, load_data
from ssl_models.images import divide
from ssl_models.predict import predict
from ssl_models.zoo import build_model

SCHEMA = json.loads(Path(pie_report.__file__).with_name("report.schema.json").read_text())
MEAN, STD = 0.3, 0.35

#: The user's own file: it views maps as vectors, has no list of layers and no known input.
SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3, 2)
        self.norm = nn.BatchNorm2d(12)
        self.hidden, self.out = nn.Linear(12 * 6 * 6, 16), nn.Linear(16, 10)
    def forward(self, x):
        x = self.norm(self.conv2(self.conv1(x).relu())).relu()
        return self.out(self.hidden(x.view(len(x), -1)).relu())

class Scores(Net):
    def forward(self, x):
        return super().forward(x).log_softmax(1)

class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(256, 10))

def build():
    return Net()

def five():
    net = Net()
    net.out = nn.Linear(16, 5)
    return net
"""


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", data_dir=None, download=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> Path:
    """A folder with a module, a network of it trained on the digits, and two copies with other weights."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "own_nets.py").write_text(SOURCE)
    scope: dict[str, Any] = {}
    exec(compile(SOURCE, "own_nets", "exec"), scope)  # noqa: S102 - the text above
    torch.manual_seed(0)
    network = scope["Net"]()
    x = torch.from_numpy(digits.train.images).clone(memory_format=torch.contiguous_format)
    x = (x / 255 - MEAN) / STD
    y = torch.from_numpy(digits.train.samples.label)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(6):
        for part in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[part]), y[part]).backward()
            optimizer.step()
    state = network.eval().state_dict()
    other = {n: t * (1 + 0.7 * torch.randn(t.shape)) if t.ndim > 1 else t for n, t in state.items()}
    save_file(state, folder / "a.safetensors")
    torch.save({"epoch": 6, "state_dict": {f"module.{n}": t for n, t in other.items()}}, folder / "b.pt")
    return folder


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the user's, to be changed at will."""
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return tmp_path


def spec_of(
    *patterns: str, model: str = "own_nets:build", probe: tuple[str, ...] = ("frozen",), **own: Any
) -> ReportSpec:
    scale = {"mean": (MEAN,), "std": (STD,)} | own
    named = PopulationSpec(model="simclr_r18" if own.get("arch") else model)
    return ReportSpec(
        named, CheckpointSpec(patterns or ("*.safetensors", "*.pt"), **scale), merge=(0.5,), probe=probe
    )


def opened(data: ImageData, spec: ReportSpec) -> LoadedMembers:
    return open_checkpoints(spec, data, device="cpu", threads=1)


# --- whole reports


TINY = ("--data", "digits", "--merge", "0.5", "--prune", "0.8", "--workers", "1", "--quiet")
OWN = (
    "--checkpoints",
    "*.safetensors",
    "b.pt",
    "--model",
    "own_nets:build",
    "--mean",
    "0.3",
    "--std",
    "0.35",
)


def slow_logits(folder: Path, name: str, images: np.ndarray) -> Tensor:
    """Logits by torch's functions alone."""
    if name == "b.pt":
        state = torch.load(folder / name, weights_only=True)["state_dict"]
        state = {n.removeprefix("module."): t for n, t in state.items()}
    else:
        state = load_file(folder / name)
    f = nn.functional
    x = (torch.from_numpy(images).double() / 255 - MEAN) / STD
    w = {n: t.double() for n, t in state.items()}
    x = f.conv2d(x, w["conv1.weight"], w["conv1.bias"]).relu()
    x = f.conv2d(x, w["conv2.weight"], w["conv2.bias"], 2)
    x = f.batch_norm(
        x, w["norm.running_mean"], w["norm.running_var"], w["norm.weight"], w["norm.bias"]
    ).relu()
    x = (x.flatten(1) @ w["hidden.weight"].T + w["hidden.bias"]).relu()
    return x @ w["out.weight"].T + w["out.bias"]


def test_networks_of_files_go_through_the_whole_report(
    work: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("--store", str(work / "store"), "--out", str(work / "out"))
    assert cli.main(["report", *OWN, *TINY, *places]) == 0, capsys.readouterr().err
    document = json.loads((work / "out" / "report.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert str(work) not in (work / "out" / "report.json").read_text()

    said = document["spec"]
    assert (said["model"], said["members"], said["seeds"], said["seed"]) == ("own_nets:build", 2, None, 0)
    assert said["command_line"] == (
        "pie report --checkpoints '*.safetensors' b.pt --model own_nets:build --data digits --mean 0.3"
        " --std 0.35 --merge 0.5 --prune 0.8 --probe frozen --repair bn --seed 0"
    )
    assert (said["training"]["input_mean"], said["training"]["input_std"]) == ("0.3", "0.35")
    assert said["training"]["files"].startswith("a.safetensors (")
    assert ", b.pt (" in said["training"]["files"]

    label = digits.test.samples.label
    logits = [slow_logits(work, name, digits.test.images) for name in ("a.safetensors", "b.pt")]
    accuracies = [(rows.argmax(1).numpy() == label).mean() for rows in logits]
    assert accuracies[0] > 0.8
    assert accuracies[1] < accuracies[0]
    dense = document["dense"]["accuracy"]
    assert dense["mean"] == pytest.approx(np.mean(accuracies), abs=1e-9)
    assert (dense["low"], dense["high"]) == pytest.approx(sorted(accuracies), abs=1e-9)
    assert (
        document["dense"]["cost"]["params"]
        == sum(t.numel() for t in load_file("a.safetensors").values()) - 25
    )
    assert 0.1 < document["baselines"]["untrained_encoder"] < 1

    merge, prune = document["compressed"]
    assert merge["cost"]["achieved"] == 0.5
    assert merge["cost"]["params_kept"] < 0.4
    assert prune["cost"]["achieved"] == pytest.approx(0.8, abs=0.01)
    assert [row["layer"] for row in merge["cka"]] == ["conv1", "conv2", "norm", "hidden", "out"]
    assert all(row["value"] < 0.9999 for row in merge["cka"])
    assert merge["attribution"]["rest"]["n"] == 32
    assert merge["pies"]["count"] > 0
    images = list((work / "out" / "gallery" / "images").glob("*"))
    assert len(images) >= merge["pies"]["count"]

    # again: every byte the same, and nothing is done twice
    from pie_report import members

    before = {p: p.read_bytes() for p in (work / "out").rglob("*") if p.is_file()}
    monkeypatch.setattr(members, "predict", None)
    monkeypatch.setattr(members, "METHODS", {})
    assert cli.main(["report", *OWN, *TINY, *places]) == 0
    assert {p: p.read_bytes() for p in (work / "out").rglob("*") if p.is_file()} == before

    # the same names with other weights are another report
    state = load_file("a.safetensors")
    save_file({n: t * 2 if n == "out.bias" else t for n, t in state.items()}, "a.safetensors")
    capsys.readouterr()
    assert cli.main(["report", *OWN, *TINY, *places]) == 2
    assert "choose another --out, or --force" in capsys.readouterr().err


def test_one_network_makes_a_report_on_flips(work: Path, digits: ImageData) -> None:
    places = ("--store", str(work / "store"), "--out", str(work / "out"))
    own = ("--checkpoints", "a.safetensors", *OWN[3:])
    assert cli.main(["report", *own, *TINY, *places]) == 0
    document = json.loads((work / "out" / "report.json").read_text())
    jsonschema.validate(document, SCHEMA)

    label = digits.test.samples.label
    before = slow_logits(work, "a.safetensors", digits.test.images).argmax(1).numpy()
    assert document["dense"]["k"] == document["spec"]["members"] == 1
    assert document["dense"]["accuracy"] == {
        "mean": pytest.approx((before == label).mean()), "low": None, "high": None,
    }  # fmt: skip
    rows = pd.read_csv(work / "out" / "tables" / "pies.csv")
    merge = document["compressed"][0]
    mine = rows[rows["condition"] == merge["condition"]]
    after = mine["modal_compressed"].to_numpy()
    assert mine["modal_dense"].tolist() == before.tolist()
    found = merge["pies"]
    assert found["count"] == (before != after).sum() > 0
    assert found["forgotten"] == ((before == label) & (after != label)).sum()
    assert found["gained"] == ((before != label) & (after == label)).sum()
    unknown = ("expected_null", "expected_null_low", "expected_null_high", "excess", "p_value", "p_floor")
    assert all(found[name] is None for name in (*unknown, "rejected"))
    assert all(row[name] is None for row in merge["classes"] for name in ("p_value", "p_welch", "delta_low"))
    assert merge["classes"][3]["recall_dense"] == pytest.approx((before == label)[label == 3].mean())
    layers = merge["similarity"]["layers"]
    assert all(row["reference"] is None and row["value_low"] is None for row in layers)
    assert all(row["value"] is not None for row in layers if row["images"] == "all")

    page = (work / "out" / "index.html").read_text()
    gallery = re.sub("<script.*", "", (work / "out" / "gallery" / "index.html").read_text(), flags=re.DOTALL)
    assert f"<strong>{found['count']} images of 896</strong>" in page
    assert "One network's mistakes are partly luck" in page
    for text in (page, gallery):
        assert "flip" in text
        assert not re.search(r"\bPIEs?\b|seed noise", text)


def test_a_probe_is_fitted_again_where_the_last_layer_is_known(work: Path, digits: ImageData) -> None:
    source = opened(digits, spec_of(probe=("refit",)))
    assert (source.head_name, source.has_head) == ("network.out", True)
    people = Population(source, digits, Store(work / "store"))
    condition = CompressionSpec("merge", 0.5, "none", "refit")
    refitted, frozen = (people.compressed(0, replace(condition, probe=p)) for p in ("refit", "frozen"))
    assert refitted.head.weight.shape == frozen.head.weight.shape == (10, 8)
    assert not torch.equal(refitted.head.weight, frozen.head.weight)
    assert torch.equal(refitted.network.conv2.weight, frozen.network.conv2.weight)
    label = digits.test.samples.label
    accuracy = [
        (people.compressed_predictions(0, replace(condition, probe=p)).predicted == label).mean()
        for p in ("refit", "frozen")
    ]
    assert accuracy[0] > accuracy[1]


# --- members


def test_members_are_the_files_in_order_of_their_names(work: Path, digits: ImageData) -> None:
    source = opened(digits, spec_of())
    assert [p.name for p in source.paths] == ["a.safetensors", "b.pt"]
    assert source.seeds == [0, 0]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - made here
    for i, name in enumerate(("a.safetensors", "b.pt")):
        for members in (source, copy):
            found = predict(members.network(i), torch.from_numpy(digits.test.images), digits.test.samples)
            expected = slow_logits(work, name, digits.test.images).softmax(1).numpy()
            np.testing.assert_allclose(found.probabilities[0], expected, atol=1e-5)


def test_keys_depend_on_all_that_matters_and_on_no_name(work: Path, digits: ImageData) -> None:
    base = opened(digits, spec_of())
    (work / "b.pt").rename(work / "0.pt")
    renamed = opened(digits, spec_of())
    assert [p.name for p in renamed.paths] == ["0.pt", "a.safetensors"]
    assert [key(renamed.spec(i)) for i in (1, 0)] == [key(base.spec(i)) for i in (0, 1)]
    assert key(base.spec(0)) != key(base.spec(1)) != key(base.common) != key(renamed.common)

    whole = {n: t.clone() for n, t in load_file("a.safetensors").items()}
    torch.save(whole, "a.th")  # the same weights in another format
    (work / "a.safetensors").unlink()
    assert key(opened(digits, spec_of("a.th", "0.pt")).spec(1)) == key(base.spec(0))
    whole["out.bias"][3] += 1e-6
    torch.save(whole, "a.th")
    others = [
        opened(digits, spec_of("a.th", "0.pt")),
        opened(digits, spec_of("a.th", "0.pt", mean=(0.31,))),
        opened(digits, spec_of("a.th", "0.pt", std=(0.36,))),
        opened(digits, spec_of("a.th", "0.pt", model="own_nets:Net")),
        open_checkpoints(spec_of("a.th", "0.pt"), digits, device="cpu", threads=2),
    ]
    (work / "own_nets.py").write_text(SOURCE + "# changed\n")
    others.append(opened(digits, spec_of("a.th", "0.pt")))
    keys = [key(base.spec(0)), *(key(o.spec(1)) for o in others)]
    assert len(set(keys)) == len(keys)


def test_a_file_that_changes_meanwhile_is_noticed(work: Path, digits: ImageData) -> None:
    source = opened(digits, spec_of())
    save_file({n: t * 1.5 for n, t in load_file("a.safetensors").items()}, "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors was changed while it was in use"):
        source.network(0)


def test_an_untrained_member_has_other_weights_and_the_same_input(work: Path, digits: ImageData) -> None:
    source = opened(digits, spec_of())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = source.untrained(0), source.untrained(1)
    assert torch.equal(torch.get_rng_state(), state)
    dense = source.network(0)
    assert torch.get_rng_state().equal(state)
    assert torch.equal(first.network.conv1.weight, second.network.conv1.weight)
    assert not torch.equal(first.network.conv1.weight, dense.network.conv1.weight)
    assert torch.equal(first.normalize.mean, dense.normalize.mean)
    assert not first.training
    other = replace(source, common=replace(source.common, seed=1))
    assert not torch.equal(first.network.conv1.weight, other.untrained(0).network.conv1.weight)


def test_a_network_of_the_toolkit_needs_no_mean(tmp_path: Path, digits: ImageData) -> None:
    options = {"num_classes": 10, "in_channels": 1, "width": 4, "mean": [0.3], "std": [0.4]}
    networks = [build_model("supervised_r18", seed=seed, **options) for seed in (5, 6)]
    for i, network in enumerate(networks):
        save_file({n: t.contiguous() for n, t in network.state_dict().items()}, tmp_path / f"{i}.safetensors")
    own = CheckpointSpec((str(tmp_path / "*.safetensors"),), arch="supervised_r18")
    spec = ReportSpec(PopulationSpec(width=4), own, merge=(0.5,))
    source = opened(digits, spec)
    assert source.scale is None
    assert source.has_head
    images = torch.from_numpy(digits.test.images[:50]).float() / 255
    with torch.no_grad():
        for i, network in enumerate(networks):
            torch.testing.assert_close(source.network(i)(images), network(images))
    names = layers_of(Population(source, digits, Store(tmp_path / "store")))
    assert list(names)[-1] == "head"
    assert len(names) == COMPARED_LAYERS
    with pytest.raises(InputError, match="supervised_r18 holds its own mean and standard deviation"):
        opened(digits, replace(spec, own=replace(own, mean=(0.0,), std=(1.0,))))


# --- files, and what stands beside them


def test_files_are_found_and_sorted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("z/1.pt", "a/2.pt", "a/deep/0.pt", "b/1.pt", "odd[1].pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert [str(p) for p in find_files(["z/*.pt", "a/**/*.pt", "b/1.pt"])] == [
        "a/deep/0.pt", "b/1.pt", "z/1.pt", "a/2.pt",
    ]  # fmt: skip
    assert len(find_files([str(tmp_path / "?" / "1.pt")])) == 2
    assert [p.name for p in find_files(["odd[1].pt", "b/1.pt"])] == ["1.pt", "odd[1].pt"]


@pytest.mark.parametrize(
    "content",
    [
        {"mean": [MEAN], "std": [STD]},
        {"input_mean": [MEAN], "input_std": [STD], "mean_accuracy": 3},
    ],
)
def test_mean_and_std_stand_beside_the_file(work: Path, digits: ImageData, content: object) -> None:
    for name in ("a", "b"):
        (work / f"{name}.json").write_text(json.dumps(content))
    beside = opened(digits, spec_of(mean=(), std=()))
    assert key(beside.common) == key(opened(digits, spec_of()).common)
    # what the command line says comes first
    assert opened(digits, spec_of(mean=(0.0,), std=(1.0,))).scale.std == (1.0,)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (None, None, "a.safetensors: the mean and standard deviation of its input are not known: give"),
        ("{}", None, "b.pt: the mean and standard"),
        ("{}", "{}", "a.json has no list of numbers under mean or input_mean"),
        ("[", "{}", "a.json is not readable JSON"),
        ("[1]", "{}", "a.json has no list"),
        ('{"mean": [0.1]}', "{}", "a.json has no list of numbers under std or input_std"),
        ('{"mean": ["0"], "std": [1]}', "{}", "a.json has no list of numbers under mean"),
        ('{"mean": [NaN], "std": [1]}', "{}", "a.json: mean must be finite numbers, std positive ones"),
        ('{"mean": [0], "std": [0]}', "{}", "a.json: mean must be finite"),
        ('{"mean": [], "std": []}', "{}", "a.json: mean must be finite"),
        ('{"mean": [0, 0], "std": [1, 1]}', "{}", "a.json: mean has 2 numbers for images of 1 channel(s)"),
        ('{"mean": [0], "std": [1]}', '{"mean": [0], "std": [2]}', "a.json and b.json give different means"),
    ],
)  # fmt: skip
def test_bad_side_files(work: Path, digits: ImageData, a: str | None, b: str | None, expected: str) -> None:
    for name, text in (("a", a), ("b", b)):
        if text is not None:
            (work / f"{name}.json").write_text(text.replace("{}", '{"mean": 3}') if name == "a" else text)
    if b == "{}":
        (work / "b.json").write_text('{"mean": [0], "std": [1]}')
    if a == "{}" and b is None:
        (work / "a.json").write_text('{"mean": [0], "std": [1]}')
    with pytest.raises(InputError) as caught:
        opened(digits, spec_of(mean=(), std=()))
    assert expected in str(caught.value)


# --- what is refused


@pytest.fixture
def complaint(work: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    def run(argv: str) -> str:
        status = cli.main(["report", "--merge", "0.5", "--store", "store", *argv.split()])
        printed = capsys.readouterr()
        assert (status, printed.out, printed.err.count("\n")) == (2, "", 1), printed.err
        assert not (work / "store").exists()
        assert not (work / "runs").exists()
        return printed.err

    return run


NET = "--model own_nets:build --mean 0 --std 1"
BOTH = "--checkpoints a.safetensors b.pt"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--arch resnet18", "--arch is for networks read from files: give --checkpoints as well"),
        ("--mean 0 --std 1", "--mean is for networks read from files"),
        ("--model own_nets:build", "--model own_nets:build builds one network, which is no population"),
        (BOTH, "--checkpoints needs either --arch NAME or --model package.module:function"),
        (f"{BOTH} {NET} --arch resnet18", "--checkpoints needs either --arch NAME or --model"),
        (f"{BOTH} {NET} --epochs 3", "--epochs is for networks that are trained here"),
        (f"{BOTH} {NET} --members 3", "--members 3: with --checkpoints it is the number of files, here 2"),
        (f"{BOTH} {NET} --width 8", "--width is for networks of pie models; own_nets:build is none of them"),
        (f"{BOTH} {NET} --stem small", "--stem is for networks of pie models"),
        (f"--checkpoints {NET}", "--checkpoints needs at least one file or pattern"),
        (f"{BOTH} --checkpoints a.safetensors {NET}", "--checkpoints is given twice"),
        (f"{BOTH} {NET} --mean 1", "--mean is given twice"),
        (f"{BOTH} --model own_nets:build --mean 0",
         "--mean and --std need one number per channel each, not 1 and 0"),
        (f"{BOTH} --model own_nets:build --mean 0 --std 0", "--std must be positive"),
        (f"{BOTH} --model own_nets:build --mean nan --std 1", "--mean must be numbers"),
        (f"{BOTH} --model own_nets:build --mean 0 0 --std 1 1",
         "--mean and --std: mean has 2 numbers for images of 1"),
        (f"{BOTH} --model own_nets:build",
         "give --mean and --std (for images in [0, 1] as they are, --mean 0 --std 1)"),
        (f"--checkpoints a.safetensors ./a.* {NET}", "--checkpoints: a.safetensors is given twice"),
        (f"--checkpoints a.safetensors d*.pt {NET}", "--checkpoints: no file matches d*.pt"),
        (f"--checkpoints a.safetensors own_nets.py {NET}", "own_nets.py is of an unknown kind"),
        (f"--checkpoints a.safetensors copy.pt {NET}", "a.safetensors and copy.pt hold the same weights"),
        (f"--checkpoints a.safetensors nan.pt {NET}", "nan.pt: conv1.weight has NaN or infinite values"),
        (f"--checkpoints a.safetensors part.pt {NET}",
         "part.pt does not fit the network: it lacks conv1.bias"),
        (f"--checkpoints a.safetensors . {NET}", "no such file of weights: ."),
        (f"{BOTH} --arch resnet18 --mean 0 --std 1",
         "a.safetensors does not fit the network: it lacks bn1.weight, "),
        (f"{BOTH} --arch resnet81 --mean 0 --std 1",
         "unknown torchvision network 'resnet81' (did you mean 'resnet18'?)"),
        (f"{BOTH} --model absent:build --mean 0 --std 1", "--model absent:build: cannot import 'absent'"),
        (f"{BOTH} --model own_nets:bild --mean 0 --std 1", "own_nets has no function or class 'bild'"),
        ("--checkpoints 5a.pt 5b.pt --model own_nets:five --mean 0 --std 1",
         "own_nets:five gives outputs of shape [1, 5]; digits has 10 classes"),
        ("--checkpoints r1.pt r2.pt --arch squeezenet1_1 --mean 0 --std 1",
         "squeezenet1_1 does not take images of shape [1, 16, 16] ("),
        (f"{BOTH} --probe refit --model own_nets:Scores --mean 0 --std 1",
         "--probe refit: the last linear layer of own_nets:Scores is not known"),
        ("--checkpoints p1.pt p2.pt --model own_nets:Plain --mean 0 --std 1",
         "--repair bn: own_nets:Plain has no BatchNorm statistics to re-estimate; choose one of none, "),
        (f"{BOTH} {NET} --data digit", "unknown data set 'digit'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(work: Path, complaint: Callable[[str], str], argv: str, expected: str) -> None:
    state = load_file("a.safetensors")
    torch.save(state, "copy.pt")
    torch.save(state | {"conv1.weight": state["conv1.weight"] * torch.nan}, "nan.pt")
    torch.save({n: t for n, t in state.items() if n != "conv1.bias"}, "part.pt")
    for i, name in enumerate(("5a.pt", "5b.pt")):
        torch.save(state | {"out.weight": torch.ones(5, 16) + i, "out.bias": torch.ones(5)}, name)
    for i, name in enumerate(("p1.pt", "p2.pt")):
        torch.save({"1.weight": torch.ones(10, 256) + i, "1.bias": torch.ones(10)}, name)
    if "r1.pt" in argv:
        for name in ("r1.pt", "r2.pt"):
            torch.save(squeezenet1_1(num_classes=10).state_dict(), name)
    assert expected in complaint(argv)


def test_scores_without_a_last_layer_can_still_be_reported_on(work: Path, digits: ImageData) -> None:
    source = opened(digits, spec_of(model="own_nets:Scores"))
    assert (source.head_name, source.has_head) == (None, False)


# --- trained networks


def cifar(images: int) -> ImageData:
    """The first test images of CIFAR-10, as test images and, twice over, as training images."""
    folder = Path(os.environ["PIE_TEST_DATA"], "cifar10", "packed")
    tiles = np.asarray(Image.open(folder / "test_batch.0.webp").convert("RGB"))
    pixels = tiles.reshape(25, 32, 40, 32, 3).transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32)[:images]
    index = lzma.decompress((folder / "index.txt.xz").read_bytes()).split()
    label = np.array([int(v) for v in index[100_000 : 100_000 + 2 * images : 2]])
    ids = np.array([f"{part}/{i}" for part in ("train", "test") for i in range(images)])
    names = tuple(f"class {i}" for i in range(10))
    is_test = np.arange(2 * images) >= images
    return divide("cifar10", np.tile(pixels, (2, 1, 1, 1)), np.tile(label, 2), ids, is_test, names)


def accuracies(source: LoadedMembers, data: ImageData) -> list[float]:
    images, samples = torch.from_numpy(data.test.images), data.test.samples
    found = [predict(source.network(i), images, samples) for i in range(2)]
    return [float((row.predicted == samples.label).mean()) for row in found]


@pytest.fixture(scope="module")
def weights() -> Path:
    if "PIE_TEST_DATA" not in os.environ:
        pytest.skip("PIE_TEST_DATA does not name a folder with CIFAR-10 and trained weights")
    return Path(os.environ["PIE_TEST_DATA"], "weights")


def test_a_resnet18_with_a_small_stem_in_half_precision(weights: Path, tmp_path: Path) -> None:
    data = cifar(200)
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"a{suffix}").symlink_to(weights / f"resnet18_cifar10{suffix}")
        (tmp_path / f"b{suffix}").symlink_to(weights / f"resnet18_cifar10{suffix}")
    (tmp_path / "b.safetensors").unlink()
    state = load_file(tmp_path / "a.safetensors")
    assert state["conv1.weight"].dtype == torch.float16
    save_file(state | {"fc.weight": state["fc.weight"] * 0}, tmp_path / "b.safetensors")
    spec = spec_of(str(tmp_path / "*.safetensors"), arch="resnet18", mean=(), std=())
    source = opened(data, spec)
    assert source.scale.mean == (0.4914, 0.4822, 0.4465)
    assert source.head_name == "network.fc"
    found = accuracies(source, data)
    assert found[0] > 0.88
    assert found[1] < 0.3
    layers = source.layers(torch.from_numpy(data.test.images[:1]) / 255)
    assert len(layers) == COMPARED_LAYERS
    assert list(layers)[-1] == "fc"


def test_a_resnet20_of_an_old_file(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = cifar(200)
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    path = weights / "resnet20-12fca82f.th"
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    torch.save(
        {"model": {n: t * 0 if n.endswith("linear.weight") else t for n, t in state.items()}},
        tmp_path / "z.pt",
    )
    scale = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    model = "benchmarks.trained:CifarResNet20"
    source = opened(data, spec_of(str(path), str(tmp_path / "z.pt"), model=model, **scale))
    assert source.head_name == "network.linear"
    found = accuracies(source, data)
    assert found[0] > 0.88
    assert found[1] < 0.3
