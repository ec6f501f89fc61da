import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).parent.parent / "compressors" / "networks.py"
_SPEC = importlib.util.spec_from_file_location("small_networks", _PATH)
_NETWORKS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_NETWORKS)


@pytest.fixture(scope="session")
def networks():
    """Small networks with their channel groups written down by hand."""
    return _NETWORKS
