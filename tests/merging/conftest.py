import importlib.util
from pathlib import Path

_PATH = Path(__file__).parent.parent / "compressors" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("compressors_fixtures", _PATH)
_FIXTURES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FIXTURES)

networks, hard_networks, edits = _FIXTURES.networks, _FIXTURES.hard_networks, _FIXTURES.edits
