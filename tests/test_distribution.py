import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "analysis", "compressors", "figures", "merging", "pie", "pie_report", "population", "ssl_models",
}  # fmt: skip


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = out.glob("pie_toolkit-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_the_listed_packages_and_nothing_else(wheel_names: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


def test_wheel_holds_every_file_of_the_packages(wheel_names: set[str]) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"pie_report/report.schema.json", "pie_report/html/templates/page.html.j2"} <= files
    assert files <= wheel_names


def test_constraints_fix_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    fixed = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    for requirement in wanted:
        assert f"\n{requirement.split('>')[0]}==" in fixed, requirement
