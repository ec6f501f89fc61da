import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from figures.gallery import Exhibits, build_gallery, pie_entries
from figures.gallery.overlay import overlay, shared_scale
from population.errors import InputError


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_pie_is_there_with_its_numbers(pies, exhibits, tmp_path):
    page = build_gallery(pies, exhibits, tmp_path / "gallery", title="T")
    assert page == tmp_path / "gallery" / "index.html"
    entries = data_of(page)["entries"]
    expected = pies[pies["pie"]].reset_index(drop=True)
    assert len(entries) == len(expected)
    for row, entry in zip(expected.to_dict("records"), entries, strict=True):
        for name in ("sample_id", "condition", "label", "kind", "modal_dense", "distance", "p_adjusted"):
            assert entry[name] == row[name]
        # The order of the votes survives, also for classes called 9 and 10.
        assert [tuple(v) for v in entry["votes_dense"]] == list(json.loads(row["votes_dense"]).items())
        assert entry["rejected"] is bool(row["rejected"])


def test_pictures_are_the_images_and_are_named_by_number(pies, exhibits, tmp_path):
    build_gallery(pies, exhibits, tmp_path / "g", title="T")
    names = [p.name for p in (tmp_path / "g" / "images").iterdir()]
    assert all(re.fullmatch(r"\d{5}\.png|map-\d{5}-(before|after)\.png", name) for name in names)
    assert len(names) == len(exhibits.sample_id) + 2 * len(exhibits.map_sample_id)
    image_of = dict(zip(exhibits.sample_id.tolist(), exhibits.image, strict=True))
    for entry in data_of(tmp_path / "g" / "index.html")["entries"]:
        drawn = np.asarray(Image.open(tmp_path / "g" / entry["image"]))
        np.testing.assert_array_equal(drawn, image_of[entry["sample_id"]])


def test_both_maps_share_one_scale(pies, exhibits, tmp_path):
    build_gallery(pies, exhibits, tmp_path / "g", title="T")
    entries = {(e["condition"], e["sample_id"]): e for e in data_of(tmp_path / "g" / "index.html")["entries"]}
    assert sum(e["maps"] is not None for e in entries.values()) == len(exhibits.map_sample_id) > 0
    image_of = dict(zip(exhibits.sample_id.tolist(), exhibits.image, strict=True))
    for row, key in enumerate(
        zip(exhibits.map_condition.tolist(), exhibits.map_sample_id.tolist(), strict=True)
    ):
        pair = exhibits.map_dense[row], exhibits.map_compressed[row]
        for attribution, name in zip(pair, entries[key]["maps"], strict=True):
            expected = overlay(image_of[key[1]], attribution, scale=shared_scale(*pair))
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "g" / name)), expected)


def test_a_new_gallery_replaces_the_old_one_as_a_whole(pies, exhibits, tmp_path):
    build_gallery(pies, exhibits, tmp_path / "g", title="old")
    one = pies[pies["sample_id"] == pie_entries(pies)["sample_id"].iloc[-1]]
    keep = np.isin(exhibits.map_sample_id, one["sample_id"])
    few = Exhibits(
        exhibits.sample_id,
        exhibits.image,
        exhibits.map_condition[keep],
        exhibits.map_sample_id[keep],
        exhibits.map_dense[keep],
        exhibits.map_compressed[keep],
    )
    build_gallery(one, few, tmp_path / "g", title="new")
    build_gallery(one, few, tmp_path / "fresh", title="new")
    assert contents(tmp_path / "g") == contents(tmp_path / "fresh")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "g"]


def test_equal_inputs_give_equal_bytes(pies, exhibits, tmp_path):
    build_gallery(pies, exhibits, tmp_path / "a", title="T")
    build_gallery(pies, exhibits, tmp_path / "b", title="T")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_failed_build_leaves_the_old_gallery_alone(pies, exhibits, tmp_path):
    build_gallery(pies, exhibits, tmp_path / "g", title="old")
    before = contents(tmp_path / "g")
    broken = pies.assign(votes_dense="no json")
    with pytest.raises(json.JSONDecodeError):
        build_gallery(broken, exhibits, tmp_path / "g", title="new")
    assert contents(tmp_path / "g") == before
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_a_folder_that_is_no_gallery_is_not_replaced(pies, exhibits, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("work of years")
    with pytest.raises(InputError, match="not a gallery"):
        build_gallery(pies, exhibits, tmp_path / "thesis", title="T")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "work of years"


def test_a_pie_without_image_and_a_map_without_pie_are_refused(pies, exhibits, tmp_path):
    with pytest.raises(InputError, match="lack the images of"):
        build_gallery(pies.assign(pie=True), exhibits, tmp_path / "g", title="T")
    stray = dataclasses.replace(
        exhibits, map_condition=np.array([f"{c} x" for c in exhibits.map_condition.tolist()])
    )
    with pytest.raises(InputError, match="no PIEs"):
        build_gallery(pies, stray, tmp_path / "g", title="T")
    assert not (tmp_path / "g").exists()


def test_names_cannot_end_the_data_or_the_title(pies, exhibits, tmp_path):
    page = build_gallery(pies, exhibits, tmp_path / "g", title="</title><script>alert(1)</script>")
    text = page.read_text(encoding="utf-8")
    assert text.count("</script>") == 2  # the data and the page's own script
    assert text.count("<script") == 2
    assert "<img src=x" not in text


def test_no_pies_are_said_in_words(pies, exhibits, tmp_path):
    none = Exhibits(
        exhibits.sample_id[:0],
        exhibits.image[:0],
        exhibits.map_condition[:0],
        exhibits.map_sample_id[:0],
        exhibits.map_dense[:0],
        exhibits.map_compressed[:0],
    )
    text = build_gallery(pies.assign(pie=False), none, tmp_path / "g", title="T").read_text(encoding="utf-8")
    assert "No image changed its label" in text
    assert "<script" not in text
