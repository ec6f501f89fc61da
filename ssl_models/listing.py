"""Tables of what there is, for the command line. No torch."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from population.errors import InputError
from ssl_models.catalogue import (
    ARCHITECTURES,
    DATA_SETS,
    DEFAULT_WIDTH,
    OBJECTIVES,
    SIZED_CHANNELS,
    SIZED_CLASSES,
    SIZED_RESOLUTION,
)
from ssl_models.zoo import model_names


def list_models() -> dict[str, Any]:
    """Objectives, architectures with their sizes, and all names, as plain data.

    Parameters and multiply-accumulate operations (MACs, of one image) are of encoder and classifier at
    ``default_width``, for the input and the classes under ``sized_for``.
    """
    return {
        "sized_for": {
            "width": DEFAULT_WIDTH,
            "num_classes": SIZED_CLASSES,
            "in_channels": SIZED_CHANNELS,
            "resolution": SIZED_RESOLUTION,
        },
        "objectives": [{"name": name, "title": title} for name, title in OBJECTIVES.items()],
        "architectures": [{"name": name, **asdict(row)} for name, row in ARCHITECTURES.items()],
        "models": list(model_names()),
    }


def list_data(data_dir: Path | None) -> list[dict[str, Any]]:
    """Data sets with their sizes, as plain data.

    Args:
        data_dir: where torchvision's data sets are looked for.

    Returns:
        The fields of ``DataRow`` and ``found``: whether all places are there (whole or not), None where
        that is not known.

    Raises:
        InputError: if ``data_dir`` is no folder.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"--data-dir: no such folder: {data_dir}")
    return [
        {"name": name, **asdict(row), "found": _found(name, row.places, data_dir)}
        for name, row in DATA_SETS.items()
    ]


def _found(name: str, places: Sequence[str], data_dir: Path | None) -> bool | None:
    if places:
        return None if data_dir is None else all((data_dir / place).exists() for place in places)
    return None if "PATH" in name else True


def models_text() -> str:
    """``list_models`` for a reader."""
    table = list_models()
    rows = [
        (
            row["name"],
            f"{row['params']:,}",
            f"{row['macs'] / 1e6:.1f} M",
            str(row["embedding"]),
            str(row["published_width"]),
            row["title"],
        )
        for row in table["architectures"]
    ]
    sized = table["sized_for"]
    size = sized["resolution"]
    return "\n".join(
        [
            "A model is OBJECTIVE_ARCHITECTURE, for example simclr_r18.",
            "",
            *_aligned(("objective", ""), [(row["name"], row["title"]) for row in table["objectives"]], "<<"),
            "",
            *_aligned(
                ("architecture", "parameters", "MACs", "features", "paper's width", ""), rows, "<>>>><"
            ),
            "",
            f"Parameters and MACs (of one image) are at --width {sized['width']}, the default,"
            f" for {size}x{size} colour images and {sized['num_classes']} classes.",
        ]
    )


def data_text(data_dir: Path | None) -> str:
    """``list_data`` for a reader."""
    rows = []
    for row in list_data(data_dir):
        here = {None: "", True: "yes", False: "no"}[row["found"]]
        colour = {None: "", 1: " grey", 3: " RGB"}[row["channels"]]
        size = f"{row['resolution']}x{row['resolution']}{colour}"
        numbers = ["" if row[n] is None else f"{row[n]:,}" for n in ("train", "test", "classes")]
        place = row["places"][0] if row["places"] else "embedded" if row["found"] else "PATH"
        rows.append((row["name"], *numbers, size, row["title"], place, here))
    header = ("data", "train", "test", "classes", "images", "", "place", "here")
    return "\n".join(
        [
            *_aligned(header, rows, "<>>><<<<"),
            "",
            "Places are in --data-dir DIR, as torchvision has them; pie data --data-dir DIR says which are"
            " here.",
            "celeba tells Blond_Hair, celeba:ATTRIBUTE another attribute. Images in folders are scaled"
            " to 64x64.",
            "planted:0.15 shows 15% of the digits 0 to 4 in inverted contrast; unplanted:0.15 calls the same",
            "ones inverted and shows none so.",
        ]
    )


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Lines of a table; ``sides`` has < or > for each column."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(f"{cell:{side}{w}}" for cell, side, w in zip(row, sides, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
