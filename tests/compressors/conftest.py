import importlib.util
import sys
from pathlib import Path

import pytest


def _load(name):
    """A file beside this one, as a module that those loaded after it may import."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_NETWORKS, _HARD_NETWORKS, _EDITS = _load("networks"), _load("hard_networks"), _load("edits")


@pytest.fixture(scope="session")
def networks():
    """Small networks with their channel groups written down by hand."""
    return _NETWORKS


@pytest.fixture(scope="session")
def hard_networks():
    """Small networks whose channels are hard to follow, or cannot be merged at all."""
    return _HARD_NETWORKS


@pytest.fixture(scope="session")
def edits():
    """Copies planted in networks, and what a merge of them should compute."""
    return _EDITS
