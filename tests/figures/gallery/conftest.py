import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[2] / "pie_report" / "synthetic.py"
_SPEC = importlib.util.spec_from_file_location("synthetic", _PATH)
synthetic = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(synthetic)


@pytest.fixture(scope="module")
def browser():
    with synthetic.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def pies():
    """The table of a report with hostile names."""
    return synthetic.make().tables["pies"]


@pytest.fixture(scope="module")
def exhibits():
    return synthetic.make().exhibits
