"""The report: one file that a browser draws without the network, escaped and bounded."""

import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from competition.cleaning.issues import KINDS, Issue, apply_issues, make_issue
from competition.cleaning.report import write_report
from competition.config import Config, with_settings
from competition.data.arrays import CleanedData, Dataset
from tests.factories import draw_blobs, open_browser

NASTY = "</script><script>alert('&amp;')</script>{{data}}"
PLACES = np.array(
    [(column * 10.0, row * 10.0) for row in range(6) for column in range(10)], np.float32
)
ISSUES = [
    Issue(3, "exact_copy", "keep", 1.0, "one of 3 equal images"),
    Issue(6, "exact_copy", "drop", 1.0, "one of 3 equal images"),
    Issue(9, "exact_copy", "drop", 1.0, "one of 3 equal images"),
    Issue(10, "exact_copy", "keep", 1.0, "one of 2 equal images"),
    Issue(13, "exact_copy", "drop", 1.0, "one of 2 equal images"),
    Issue(20, "wrong_label", "drop", 0.93, "5 folds say <b>so</b>", suggestion=1),
    Issue(21, "wrong_label", "keep", 0.61, "5 folds say so", suggestion=2),
    Issue(10, "noise", "drop", 0.8, "greener than grass"),
    Issue(30, "noise", "drop", 0.5, "greener than grass"),
    Issue(40, "override", "relabel", 1.0, "overrides.csv says so", suggestion=0),
]


def make_dataset() -> Dataset:
    images, labels = draw_blobs(60, 3, seed=0)
    return Dataset(images, labels.astype(np.int64), ("round", NASTY, "other"))


def report(folder: Path, issues: list[Issue] = ISSUES, **settings: Any) -> Path:
    dataset = make_dataset()
    groups = np.arange(60)
    groups[[6, 9]] = 3
    groups[13] = 10
    cleaned = apply_issues(dataset, groups, issues)
    config = with_settings(Config(), {f"report.{key}": value for key, value in settings.items()})
    write_report(folder / "cells" / "report.html", dataset, cleaned, PLACES, issues, config)
    return folder / "cells" / "report.html"


def read(path: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>',
        path.read_text("utf-8"),
        re.DOTALL,
    )
    assert found
    return dict(json.loads(found[1]))


def galleries(content: dict[str, Any]) -> dict[str, list[list[int]]]:
    """Return the indices of the images shown, by kind and group."""
    return {
        kind["name"]: [
            [content["index"][content["issues"][row][0]] for row in group]
            for group in kind["groups"]
        ]
        for kind in content["kinds"]
    }


def test_galleries_hold_every_issue_copies_group_by_group(tmp_path: Path) -> None:
    content = read(report(tmp_path))
    assert galleries(content) == {
        "override": [[40]],
        "wrong_label": [[20, 21]],
        "exact_copy": [[3, 6, 9], [10, 13]],
        "noise": [[30, 10]],
    }
    assert [(kind["title"], kind["flagged"], kind["dropped"]) for kind in content["kinds"]][
        -2:
    ] == [
        ("Exact copies", 5, 3),
        ("Noise", 2, 2),
    ]


def test_every_kind_has_a_gallery_with_its_title_and_text(tmp_path: Path) -> None:
    content = read(report(tmp_path, [make_issue(0, kind) for kind in KINDS]))
    told = [(kind["name"], kind["title"], kind["text"]) for kind in content["kinds"]]
    assert told == [(name, kind.title, kind.text) for name, kind in KINDS.items()]
    assert all(title and text for _, title, text in told)


def test_the_class_balance_counts_what_was_dropped_and_relabelled(tmp_path: Path) -> None:
    content = read(report(tmp_path))
    assert content["before"] == [20, 20, 20]
    assert content["after"] == [20 - 3 + 1, 20 - 2 - 1, 20 - 1]


def test_more_images_than_the_report_shows_leave_those_of_the_galleries(tmp_path: Path) -> None:
    content = read(report(tmp_path, images=25, examples=2))
    assert len(content["index"]) == len(set(content["index"])) == 25
    assert {issue.index for issue in ISSUES} <= set(content["index"])
    assert sum(content["before"]) == 60


def test_a_gallery_is_bounded_and_shows_the_closest_calls(tmp_path: Path) -> None:
    scores = np.linspace(0.5, 1, 30)[::-1]
    issues = [Issue(index, "non_cell", "drop", scores[index], "odd") for index in range(30)]
    content = read(report(tmp_path, issues, gallery=4))
    assert galleries(content)["non_cell"] == [[29, 28, 27, 26]]
    assert content["kinds"][0]["flagged"] == 30


def test_a_class_named_like_markup_stays_text(tmp_path: Path) -> None:
    path = report(tmp_path)
    assert read(path)["classes"][1] == NASTY
    assert NASTY not in path.read_text("utf-8")
    assert "<b>so</b>" not in path.read_text("utf-8")


def test_the_file_names_no_address_to_load_from(tmp_path: Path) -> None:
    text = report(tmp_path).read_text("utf-8")
    assert not re.findall(r"https?://|//[a-z]+\.[a-z]|<link[^>]*stylesheet|\bsrc=", text)


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_at_one_place_is_a_report_too(count: int, tmp_path: Path) -> None:
    dataset = make_dataset()
    few = dataclasses.replace(
        dataset, images=dataset.images[:count, :20], labels=dataset.labels[:count]
    )
    cleaned = CleanedData(few, np.zeros(count, bool), np.arange(count), few.labels)
    write_report(tmp_path / "report.html", few, cleaned, np.zeros((count, 2)), [], Config())
    content = read(tmp_path / "report.html")
    assert content["image_size"] == [32, 20]
    assert content["index"] == list(range(count))


# -- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that has the report open."""
    folder = tmp_path_factory.mktemp("browser")
    with open_browser(folder) as driver:
        driver.get(report(folder).as_uri())
        yield driver


def painted(browser: Any) -> int:
    """Return how many of the canvas' pixels are not background."""
    script = """const {width, height} = canvas;
        const brush = new OffscreenCanvas(width, height).getContext("2d");
        brush.drawImage(canvas, 0, 0);
        const pixels = brush.getImageData(0, 0, width, height).data;
        return pixels.filter((value, place) => place % 4 === 3 && value).length"""
    return int(browser.execute_script(script))


def point_at(browser: Any, index: int) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = browser.find_element("id", "canvas")
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas
    )
    script = """const box = canvas.getBoundingClientRect();
        const [x, y] = toScreen(positionOf.get(arguments[0]));
        return [x - box.width / 2, y - box.height / 2]"""
    x, y = browser.execute_script(script, index)
    ActionChains(browser).move_to_element_with_offset(canvas, round(x), round(y)).perform()


def legend(browser: Any, number: int) -> Any:
    return browser.find_elements("css selector", "#legend button")[number]


def test_the_page_opens_without_errors_and_fits_wide_and_narrow(
    browser: Any, tmp_path: Path
) -> None:
    for width in (1200, 400):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        page = browser.execute_script(
            "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
        )
        assert page[0] == page[1] <= width
        assert browser.save_screenshot(str(tmp_path / f"report_{width}.png"))
        assert painted(browser) > 500
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert browser.get_log("browser") == []  # what comes later is looked at when the browser closes
    assert browser.find_element("id", "name").text == "cells"


def test_pointing_at_an_image_shows_it_and_what_was_found(browser: Any) -> None:
    point_at(browser, 20)
    card = browser.find_element("id", "card")
    for text in (
        "#20",
        "dropped",
        "other",
        "Wrong labels 0.93",
        "5 folds say <b>so</b>",
        "→ " + NASTY,
    ):
        assert text in card.text
    image = card.find_element("css selector", ".image")
    assert image.size["width"] > 100
    assert "blob:" in image.value_of_css_property("background-image")
    point_at(browser, 55)
    assert "#55" in card.text
    assert "kept" in card.text


@pytest.mark.parametrize("index", [0, 25, 47, 59])
def test_the_image_that_is_shown_is_the_one_pointed_at(index: int, browser: Any) -> None:
    point_at(browser, index)
    png = browser.find_element("css selector", "#card .image").screenshot_as_png
    seen = np.asarray(Image.open(io.BytesIO(png)).convert("RGB").resize((32, 32)), float)
    differences = np.abs(make_dataset().images - seen).mean((1, 2, 3))
    assert differences.argmin() == index


def test_the_galleries_are_there_with_their_numbers(browser: Any) -> None:
    tiles = {
        section.get_attribute("data-kind"): len(section.find_elements("css selector", ".tile"))
        for section in browser.find_elements("css selector", "section.gallery")
    }
    assert tiles == {"override": 1, "wrong_label": 2, "exact_copy": 5, "noise": 2}
    assert len(browser.find_elements("css selector", "[data-kind=exact_copy] .group")) == 2
    tile = browser.find_element("css selector", "[data-kind=wrong_label] .tile").text
    for text in ("#20", "dropped", "other", "confidence 0.93", "5 folds say"):
        assert text in tile
    copies = [
        tile.text.split()[0]
        for tile in browser.find_elements("css selector", "[data-kind=exact_copy] .tile")
    ]
    assert copies == ["kept", "dropped", "dropped", "dropped", "dropped"]
    rows = [row.text.split() for row in browser.find_elements("css selector", "#counts tr")]
    assert rows[0][:3] == ["round", "20", "18"]
    assert rows[-1][:3] == ["all", "60", "54"]
    assert len(browser.find_elements("css selector", "#examples button")) == 16 * 3


def test_switching_a_class_or_the_removed_off_changes_the_map(browser: Any) -> None:
    for number in (0, 3):
        before = painted(browser)
        legend(browser, number).click()
        assert painted(browser) < before
        assert legend(browser, number).get_attribute("aria-pressed") == "false"
        legend(browser, number).click()
        assert painted(browser) == before


def test_zooming_spreads_the_map_and_reset_brings_it_back(browser: Any) -> None:
    before = browser.execute_script("return toScreen(0)")
    browser.find_element("id", "closer").click()
    assert browser.execute_script("return toScreen(0)") != before
    browser.find_element("id", "whole").click()
    assert browser.execute_script("return toScreen(0)") == before


def test_what_is_chosen_on_the_page_is_an_overrides_file(browser: Any, tmp_path: Path) -> None:
    from competition.cleaning.issues import read_overrides

    tile = browser.find_element("css selector", "[data-kind=noise] .tile")
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", tile
    )
    tile.click()
    browser.find_element("xpath", "//div[@id='card']//button[text()='keep']").click()
    path = tmp_path / "overrides.csv"
    for names in (make_dataset().class_names, ("1", "0", "2, or more")):
        browser.execute_script("data.classes = arguments[0]; list()", names)
        path.write_text(browser.find_element("id", "csv").get_property("value"), encoding="utf-8")
        rows = read_overrides(path, dataclasses.replace(make_dataset(), class_names=names))
        assert [(row.index, row.action, row.suggestion) for row in rows] == [
            (30, "keep", -1),
            (40, "relabel", 0),
        ]
