import subprocess
import sys

import pytest

PACKAGES = {
    "population": ["InputError", "Predictions", "SampleSet", "Store", "ModelSpec", "CompressionSpec"],
    "pie": ["find_pies"],
    "ssl_models": ["build_model", "load_data"],
    "merging": ["merge_channels"],
    "compressors": ["apply_plan", "prune_weights", "prune_filters"],
    "analysis": [],
    "figures": ["draw_figures"],
    "figures.gallery": ["build_gallery"],
    "pie_report": [],
}
HEAVY = (
    "torch",
    "torchvision",
    "lightly",
    "captum",
    "torch_pruning",
    "pandas",
    "matplotlib",
    "sklearn",
    "scipy",
)


def in_a_fresh_interpreter(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_every_package_loads_nothing_heavy() -> None:
    loaded = in_a_fresh_interpreter(
        f"import sys, {', '.join(PACKAGES)}; print([n for n in {HEAVY!r} if n in sys.modules])"
    )
    assert loaded == "[]\n"


def test_predictions_are_analysed_without_torch() -> None:
    loaded = in_a_fresh_interpreter(
        "import sys; from population import Predictions, Store; from pie import find_pies;"
        "print([n for n in ('torch', 'torchvision', 'lightly') if n in sys.modules])"
    )
    assert loaded == "[]\n"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists(package: str) -> None:
    module = __import__(package, fromlist=["*"])
    names = getattr(module, "__all__", [])
    assert set(PACKAGES[package]) <= set(names)
    assert sorted(names) == list(names), "in alphabetical order"
    for name in names:
        assert name.isupper() or getattr(module, name).__name__ == name
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018
