"""The gallery as a reader uses it, in a browser and from the file system."""

import re

import numpy as np
import pandas as pd
import pytest

from figures.gallery import Exhibits, build_gallery, pie_entries

OPEN = "dialog[open]"


@pytest.fixture(scope="module")
def gallery(pies, exhibits, tmp_path_factory):
    return build_gallery(pies, exhibits, tmp_path_factory.mktemp("run") / "gallery", title="Gallery of tests")


@pytest.fixture(scope="module")
def context(browser):
    with browser.new_context(viewport={"width": 1000, "height": 800}) as context:
        yield context


@pytest.fixture
def visit(context):
    """Opens a page and fails the test on any script error, alert, failed or remote request."""
    trouble, pages = [], []

    def open_page(path, fragment=""):
        page = context.new_page()
        pages.append(page)
        page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: trouble.append(str(e)))
        page.on("dialog", lambda d: (trouble.append(f"alert {d.message}"), d.dismiss()))
        page.on("requestfailed", lambda r: trouble.append(f"failed {r.url}"))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else trouble.append(r.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert trouble == []


def card_ids(page):
    return page.eval_on_selector_all(".card img", "nodes => nodes.map(n => n.alt.slice('Image '.length))")


def focused(page):
    return page.evaluate("Number(document.activeElement.dataset.position ?? -1)")


def test_all_pies_are_shown_and_names_stay_text(visit, gallery, pies):
    page = visit(gallery)
    found = pies[pies["pie"]]
    assert page.locator(".card").count() == len(found)
    assert page.locator("#count").inner_text() == f"{len(found)} of {len(found)} PIEs"
    assert sorted(card_ids(page)) == sorted(found["sample_id"])
    assert {'"><img src=x onerror=alert(1)>', "javascript:alert(1)"} <= set(card_ids(page))
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("script").count() == 2
    assert "<script>alert(1)</script>" in page.locator("#grid").inner_text()
    loaded = page.eval_on_selector(".card img", "async n => { await n.decode(); return n.naturalWidth; }")
    assert loaded == 16


def test_votes_are_written_and_drawn(visit, gallery, pies):
    page = visit(gallery)
    first = pies[pies["pie"]].sort_values("distance", ascending=False, kind="stable").iloc[0]
    card = page.locator(".card").first
    assert f"{first['modal_dense']} → {first['modal_compressed']}" in card.inner_text()
    assert f"before: {first['modal_dense']} {first['agree_dense']}/10" in card.inner_text()
    widths = card.locator(".votes").first.locator("b").evaluate_all("n => n.map(b => +b.style.flexGrow)")
    assert sum(widths) == 10
    assert widths[0] == first["agree_dense"]


def test_a_filter_keeps_exactly_its_rows(visit, gallery, pies):
    page = visit(gallery)
    found = pies[pies["pie"]]
    for name, column in (("condition", "condition"), ("class", "label"), ("kind", "kind")):
        for value, group in found.groupby(column):
            page.select_option(f"#{name}", value)
            assert sorted(card_ids(page)) == sorted(group["sample_id"])
            assert page.locator("#count").inner_text() == f"{len(group)} of {len(found)} PIEs"
        page.select_option(f"#{name}", "")


def test_filters_combine_and_an_empty_result_is_said(visit, gallery, pies):
    page = visit(gallery)
    page.select_option("#condition", "random 0.5")
    page.select_option("#class", "</script>")
    page.select_option("#kind", "forgotten")
    wanted = pies[pies["pie"]].query(
        "condition == 'random 0.5' and label == '</script>' and kind == 'forgotten'"
    )
    assert sorted(card_ids(page)) == sorted(wanted["sample_id"])
    page.select_option("#kind", "gained")
    assert page.locator(".card").count() == 0
    assert page.locator("#nothing").is_visible()


def test_sorting(visit, gallery, pies):
    page = visit(gallery)
    found = pies[pies["pie"]]
    for sort, column, ascending in (
        ("p", "p_value", True),
        ("margin", "margin_dense", False),
        ("distance", "distance", False),
    ):
        page.select_option("#sort", sort)
        ordered = found.sort_values(column, ascending=ascending, kind="stable")
        assert card_ids(page) == ordered["sample_id"].tolist(), sort
    page.select_option("#sort", "id")
    numbered = [name for name in card_ids(page) if re.fullmatch(r"images/\d+\.png", name)]
    assert numbered == sorted(numbered)
    assert len(numbered) > 50


def test_keys_move_open_step_and_close(visit, gallery):
    page = visit(gallery)
    page.keyboard.press("ArrowRight")
    assert focused(page) == 0
    page.keyboard.press("ArrowRight")
    assert focused(page) == 1
    page.keyboard.press("ArrowDown")
    columns = page.evaluate("getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    assert focused(page) == 1 + columns > 2
    page.keyboard.press("ArrowUp")
    assert focused(page) == 1
    page.keyboard.press("Enter")
    ids = card_ids(page)
    assert page.locator(OPEN + " h2").inner_text() == f"Image {ids[1]}"
    page.keyboard.press("ArrowRight")
    assert page.locator(OPEN + " h2").inner_text() == f"Image {ids[2]}"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # there is nothing before the first
    assert page.locator(OPEN + " h2").inner_text() == f"Image {ids[0]}"
    page.keyboard.press("Escape")
    page.wait_for_function("document.activeElement.dataset.position === '0'")
    assert page.locator(OPEN).count() == 0
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "condition"
    page.keyboard.press("ArrowDown")  # in a filter the arrows choose
    assert page.locator("#condition").input_value() == "merge 0.5"


def test_detail_shows_image_votes_tests_and_maps(visit, gallery, pies, exhibits):
    condition, sample = exhibits.map_condition[0], exhibits.map_sample_id[0]
    entries = pie_entries(pies)
    row = entries[(entries["condition"] == condition) & (entries["sample_id"] == sample)].iloc[0]
    page = visit(gallery, f"#open={row['number']}")
    text = page.locator(OPEN).inner_text()
    assert f"Image {sample}" in text
    assert row["kind"] in text
    assert f"{row['p_adjusted']:.3f} after correction" in text
    cells = page.locator(OPEN + " tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.children].map(c => c.textContent))"
    )
    assert sum(int(before) for _, before, _ in cells) == sum(int(after) for *_, after in cells) == 10
    assert any(name == f"{row['label']} (true label)" for name, *_ in cells)
    sources = page.locator(OPEN + " .maps img").evaluate_all("nodes => nodes.map(n => n.getAttribute('src'))")
    assert sources == [f"images/map-{row['number']:05d}-{when}.png" for when in ("before", "after")]
    large = page.locator(OPEN + " img.large")
    assert large.evaluate("n => getComputedStyle(n).imageRendering") == "pixelated"
    assert large.bounding_box()["width"] > 150
    assert page.locator(OPEN + " img:not([alt]), " + OPEN + " img[alt='']").count() == 0


def test_the_address_holds_the_view_and_brings_it_back(visit, gallery):
    page = visit(gallery)
    page.select_option("#class", "a&b\"c'")
    page.select_option("#sort", "p")
    page.locator(".card").nth(1).click()
    shown, title = card_ids(page), page.locator(OPEN + " h2").inner_text()
    again = visit(gallery, "#" + page.evaluate("location.hash.slice(1)"))
    assert again.locator("#class").input_value() == "a&b\"c'"
    assert card_ids(again) == shown
    assert again.locator(OPEN + " h2").inner_text() == title
    again.get_by_role("button", name="Close").click()
    again.wait_for_function("!location.hash.includes('open')")


def test_an_address_of_another_gallery_does_no_harm(visit, gallery, pies):
    page = visit(gallery, "#class=no+such&sort=magic&open=99999&kind=%3Cimg%20src%3Dx%3E")
    assert page.locator(".card").count() == pies["pie"].sum()
    assert page.locator(OPEN).count() == 0


def test_without_labels_kinds_are_not_offered(visit, pies, exhibits, tmp_path):
    unlabelled = pies.assign(label="", kind="", margin_dense=np.nan, margin_compressed=np.nan)
    page = visit(build_gallery(unlabelled, exhibits, tmp_path / "g", title="T"))
    assert not page.locator("#kind").is_visible()
    assert page.locator("#sort option").evaluate_all("n => n.map(o => o.value)") == ["distance", "p", "id"]
    page.select_option("#class", "9")
    assert page.locator(".card").count() == (pies["pie"] & (pies["modal_dense"] == "9")).sum() > 0
    page.locator(".card").first.click()
    text = page.locator(OPEN).inner_text()
    assert "not known" in text
    assert not re.search(r"NaN|null|undefined", text)


def test_phone_and_dark_mode(visit, gallery):
    page = visit(gallery)
    page.set_viewport_size({"width": 360, "height": 640})
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    page.locator(".card").first.click()
    assert page.locator("dialog").evaluate("d => d.scrollWidth <= d.clientWidth")


def test_controls_have_names_and_focus_is_visible(visit, gallery):
    page = visit(gallery)
    for name in ("Condition", "True class", "Kind", "Sort by"):
        assert page.get_by_role("combobox", name=name, exact=True).count() == 1
    page.keyboard.press("ArrowRight")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.locator(".card[tabindex='0']").count() == 1


def test_thousands_of_pies_open_at_once_and_arrive_in_portions(visit, pies, tmp_path):
    one = pies[pies["pie"]].iloc[:1]
    many = pd.concat([one] * 5000, ignore_index=True).assign(
        condition=[f"condition {i // 100}" for i in range(5000)],
        sample_id=[f"s{i % 100}" for i in range(5000)],
    )
    blank = np.zeros((0, 1, 1), np.float32)
    exhibits = Exhibits(
        sample_id=np.array([f"s{i}" for i in range(100)]),
        image=np.zeros((100, 1, 1, 3), np.uint8),
        map_condition=np.array([], dtype=str),
        map_sample_id=np.array([], dtype=str),
        map_dense=blank,
        map_compressed=blank,
    )
    path = build_gallery(many, exhibits, tmp_path / "g", title="T")
    page = visit(path)
    assert page.locator("#count").inner_text() == "5,000 of 5,000 PIEs"
    assert page.locator(".card").count() == 120
    page.locator("#more").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('.card').length >= 240")
    assert page.locator(".card").count() < 1000
    page.evaluate("openDetail(2999)")
    assert page.locator(OPEN + " h2").inner_text() == "Image s99"


def test_no_pies_at_all(visit, pies, tmp_path):
    nothing = Exhibits(
        sample_id=np.array([], dtype=str),
        image=np.zeros((0, 1, 1, 3), np.uint8),
        map_condition=np.array([], dtype=str),
        map_sample_id=np.array([], dtype=str),
        map_dense=np.zeros((0, 1, 1), np.float32),
        map_compressed=np.zeros((0, 1, 1), np.float32),
    )
    page = visit(build_gallery(pies.assign(pie=False), nothing, tmp_path / "g", title="T"))
    assert "No image changed its label" in page.locator("#empty").inner_text()
