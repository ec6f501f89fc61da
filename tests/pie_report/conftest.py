import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
synthetic = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(synthetic)


@pytest.fixture(scope="module")
def browser():
    with synthetic.chromium() as browser:
        yield browser


@pytest.fixture
def report():
    """A report with everything in it."""
    return synthetic.make()


@pytest.fixture
def comparison():
    """What ``pie compare`` knows without true labels."""
    return synthetic.compare_without_labels()
