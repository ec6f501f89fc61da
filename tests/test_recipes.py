"""The recipes of CONTRIBUTING.md are run as they stand there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from compressors.cost import measure_cost
from pie_report.methods import METHODS
from ssl_models import backbones, build_model, catalogue, datasets, listing, presets
from ssl_models.predict import predict
from ssl_models.training import train

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))
#: What a recipe adds a row to.
TABLES = (
    backbones.ARCHITECTURES,
    catalogue.ARCHITECTURES,
    catalogue.DATA_SETS,
    datasets.LOADERS,
    presets.PRESETS,
    METHODS,
)


@pytest.fixture(autouse=True)
def _tables_as_before() -> Iterator[None]:
    with ExitStack() as stack:
        for table in TABLES:
            stack.enter_context(patch.dict(table))
        yield


def blocks_of(title: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", RECIPES[title], flags=re.MULTILINE | re.DOTALL)


def follow(title: str) -> dict[str, Any]:
    """Runs a recipe's blocks one after the other, and then the tests among them; gives what they define."""
    blocks = blocks_of(title)
    assert len(blocks) >= 2
    names: dict[str, Any] = {"__name__": "recipe"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"CONTRIBUTING.md, {title}, block {number}", "exec"), names)  # noqa: S102
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()
    return names


def test_there_are_four_recipes() -> None:
    assert list(RECIPES) == ["A model", "A data set", "A compressor", "An analysis"]


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_does_what_it_says_and_leaves_nothing_behind(title: str) -> None:
    before = [dict(table) for table in TABLES]
    follow(title)
    assert (before != [dict(table) for table in TABLES]) == (title != "An analysis")


def test_the_new_model_has_the_size_that_its_row_states() -> None:
    follow("A model")
    row = catalogue.ARCHITECTURES["plain"]
    model = build_model("supervised_plain", num_classes=10, in_channels=3, width=16, seed=0)
    cost = measure_cost(model, torch.zeros(1, 3, 32, 32), {})
    assert (model.encoder.embedding, cost.params, cost.macs) == (row.embedding, row.params, row.macs)
    assert backbones.compared_layers("plain")[-1] == "avgpool"
    assert "supcon_plain" in listing.list_models()["models"]


def test_a_model_learns_the_new_data_set() -> None:
    follow("A data set")
    assert "stripes" in listing.data_text(None)
    data = datasets.load_data("stripes", data_dir=None, download=False)
    model = build_model("supervised_r18", num_classes=2, in_channels=1, width=2, seed=0)
    images, labels = (torch.from_numpy(a) for a in (data.train.images, data.train.samples.label))
    train(model, "supervised", images, labels, spec=presets.preset("stripes", "supervised").training, seed=0)
    found = predict(model, torch.from_numpy(data.test.images), data.test.samples)
    assert (found.predicted[0] == found.label).mean() > 0.8


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`([\w/]+(?:/|\.py|\.json|\.md))`|\]\(([\w/.-]+)\)", TEXT))
    paths = {path for pair in named for path in pair if path}
    assert len(paths) > 12
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_the_recipes_are_formatted_like_all_else(tmp_path: Path) -> None:
    for title in RECIPES:
        for number, block in enumerate(blocks_of(title)):
            (tmp_path / f"{title.split()[-1]}_{number}.py").write_text(block)
    command = [sys.executable, "-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
