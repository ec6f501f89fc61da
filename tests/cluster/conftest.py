import importlib.util
import sys
from pathlib import Path

# A file beside this one, as a module that runs.py may import.
_SPEC = importlib.util.spec_from_file_location("cluster", Path(__file__).with_name("cluster.py"))
sys.modules["cluster"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules["cluster"])
