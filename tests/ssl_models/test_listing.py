import subprocess
import sys
from pathlib import Path

import pytest

from population.errors import InputError
from ssl_models.catalogue import ARCHITECTURES, DATA_SETS
from ssl_models.listing import data_text, list_data, list_models, models_text
from ssl_models.zoo import check_model_name

EMBEDDED = {"digits", "planted:SHARE", "unplanted:SHARE"}


def test_every_model_is_listed() -> None:
    table = list_models()
    assert len(table["models"]) == len(table["objectives"]) * len(table["architectures"]) == 30
    for name in table["models"]:
        check_model_name(name)
    assert table["sized_for"] == {"width": 16, "num_classes": 10, "in_channels": 3, "resolution": 32}
    row = table["architectures"][3]
    assert (row["name"], row["params"], row["published_width"]) == ("wrn16_2", 691_674, 16)


def test_a_data_set_is_there_when_all_its_places_are(tmp_path: Path) -> None:
    def found(data_dir: Path | None) -> dict[str, bool | None]:
        return {row["name"]: row["found"] for row in list_data(data_dir)}

    assert found(None) == {name: True if name in EMBEDDED else None for name in DATA_SETS}
    assert found(tmp_path)["usps"] is False
    (tmp_path / "usps.bz2").touch()
    assert found(tmp_path)["usps"] is False
    (tmp_path / "usps.t.bz2").touch()
    (tmp_path / "stl10_binary").mkdir()
    there = found(tmp_path)
    assert (there["digits"], there["usps"], there["stl10"], there["mnist"]) == (True, True, True, False)
    assert there["imagefolder:PATH"] is None
    with pytest.raises(InputError, match="--data-dir: no such folder"):
        list_data(tmp_path / "gone")


def test_the_texts_are_aligned_and_hold_the_numbers(tmp_path: Path) -> None:
    lines = models_text().splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith("architecture"))) :]
    for line, (name, row) in zip(table[1:], ARCHITECTURES.items(), strict=False):
        cells = line.split()
        assert cells[0] == name
        assert cells[1] == f"{row.params:,}"
        assert cells[2:4] == [f"{row.macs / 1e6:.1f}", "M"]
        assert line.index(row.title) == table[1].index(ARCHITECTURES["r18"].title)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    text = data_text(tmp_path).splitlines()
    start = text[0].index("here")
    assert {line.split()[0]: line[start:] for line in text[1 : len(DATA_SETS) + 1]} == {
        name: {"mnist": "yes", "imagefolder:PATH": ""}.get(name, "yes" if name in EMBEDDED else "no")
        for name in DATA_SETS
    }
    svhn = next(line for line in text if line.startswith("svhn"))
    assert svhn.split()[:6] == ["svhn", "73,257", "26,032", "10", "32x32", "RGB"]


def test_listing_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ssl_models.listing import data_text, models_text; models_text(); data_text(None);"
        "print([n for n in ('torch', 'torchvision', 'numpy', 'sklearn', 'rich') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
