"""PIE table + exhibits -> a folder with one page and its pictures."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from figures.gallery.entries import pie_entries
from figures.gallery.exhibits import Exhibits
from figures.gallery.overlay import overlay, shared_scale
from population.errors import InputError

PAGE_FILES = Path(__file__).parent / "page"

_OWN_NAMES = {"index.html", "images"}
_TEXTS = ("sample_id", "condition", "label", "kind", "modal_dense", "modal_compressed", "image")
_NUMBERS = ("distance", "p_value", "p_adjusted", "margin_dense", "margin_compressed")
_FLAGS = ("tie_dense", "tie_compressed", "rejected")


def build_gallery(pies: pd.DataFrame, exhibits: Exhibits, out: Path, *, title: str) -> Path:
    """Writes the gallery of all PIEs, and replaces the one that was there before as a whole.

    Args:
        pies: the table ``pies``; rows that are no PIE are left out. Sample ids must be text.
        exhibits: an image for every sample that is a PIE in some condition, and maps for some.
        out: the gallery's folder. The new one is made beside it and then renamed, so that a reader
            sees the old gallery or the new one and never a half of either.
        title: heading of the page.

    Returns:
        The path of the page, ``out/index.html``.

    Raises:
        InputError: if a PIE has no image, a map belongs to no PIE, or ``out`` holds something else.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= _OWN_NAMES):
        raise InputError(f"{out} is not a gallery, so it is not replaced by one")
    entries = pie_entries(pies)
    _check_exhibits(entries, exhibits)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".gallery-") as workshop:
        fresh = Path(workshop) / "new"
        (fresh / "images").mkdir(parents=True)
        _write_pictures(entries, exhibits, fresh)
        single = sum(json.loads(pies["votes_dense"].iloc[0]).values()) == 1  # one network, one vote
        page = _page(entries, exhibits, title, single=single)
        (fresh / "index.html").write_text(page, encoding="utf-8")
        if out.exists():
            out.rename(Path(workshop) / "old")
        fresh.rename(out)
    return out / "index.html"


def _check_exhibits(entries: pd.DataFrame, exhibits: Exhibits) -> None:
    unseen = set(entries["sample_id"]) - set(exhibits.sample_id.tolist())
    if unseen:
        raise InputError(f"the exhibits lack the images of {len(unseen)} PIEs, such as {min(unseen)!r}")
    stray = set(_maps(exhibits)) - set(zip(entries["condition"], entries["sample_id"], strict=True))
    if stray:
        raise InputError(f"the exhibits have maps of {len(stray)} images that are no PIEs: {min(stray)}")


def _maps(exhibits: Exhibits) -> dict[tuple[str, str], int]:
    keys = zip(exhibits.map_condition.tolist(), exhibits.map_sample_id.tolist(), strict=True)
    return {key: row for row, key in enumerate(keys)}


def _write_pictures(entries: pd.DataFrame, exhibits: Exhibits, folder: Path) -> None:
    row_of = {sample: row for row, sample in enumerate(exhibits.sample_id.tolist())}
    for sample, name in entries.drop_duplicates("sample_id")[["sample_id", "image"]].itertuples(index=False):
        _save_png(exhibits.image[row_of[sample]], folder / name)
    maps = _maps(exhibits)
    for number, condition, sample in entries[["number", "condition", "sample_id"]].itertuples(index=False):
        if (condition, sample) in maps:
            row = maps[condition, sample]
            before, after = exhibits.map_dense[row], exhibits.map_compressed[row]
            scale = shared_scale(before, after)
            image = exhibits.image[row_of[sample]]
            for attribution, name in zip((before, after), _map_files(number), strict=True):
                _save_png(overlay(image, attribution, scale=scale), folder / name)


def _map_files(number: int) -> tuple[str, str]:
    return f"images/map-{number:05d}-before.png", f"images/map-{number:05d}-after.png"


def _save_png(pixels: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels).save(path)


def _page(entries: pd.DataFrame, exhibits: Exhibits, title: str, *, single: bool) -> str:
    environment = Environment(loader=FileSystemLoader(PAGE_FILES), autoescape=True, undefined=StrictUndefined)
    data = {"entries": _entry_data(entries, exhibits)}
    return environment.get_template("index.html.j2").render(
        title=title,
        empty=entries.empty,
        single=single,
        style=Markup((PAGE_FILES / "gallery.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        script=Markup((PAGE_FILES / "gallery.js").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        # Inside <script> only "<" can end the element or open a comment, and JSON may spell it so.
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),  # noqa: S704
    )


def _entry_data(entries: pd.DataFrame, exhibits: Exhibits) -> list[dict[str, Any]]:
    with_maps = _maps(exhibits)
    rows = []
    for entry in entries.to_dict("records"):
        row: dict[str, Any] = {name: "" if pd.isna(entry[name]) else str(entry[name]) for name in _TEXTS}
        row |= {name: None if pd.isna(entry[name]) else float(entry[name]) for name in _NUMBERS}
        row |= {name: bool(entry[name]) for name in _FLAGS}
        # Pairs, not objects: JavaScript would reorder classes whose names are whole numbers.
        row["votes_dense"] = list(json.loads(entry["votes_dense"]).items())
        row["votes_compressed"] = list(json.loads(entry["votes_compressed"]).items())
        key = entry["condition"], entry["sample_id"]
        row["maps"] = _map_files(entry["number"]) if key in with_maps else None
        rows.append(row)
    return rows
