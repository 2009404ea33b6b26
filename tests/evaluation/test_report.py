"""The report of runs: one file that a browser draws without the network, escaped and bounded."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from competition.common.files import (
    read_arrays,
    read_json,
    write_array,
    write_arrays,
    write_json,
    write_text,
)
from competition.common.settings import flatten
from competition.config import Config, with_settings
from competition.data.arrays import PreparedData
from competition.distortion.profiles import TABLES, VERSIONS
from competition.evaluation import report as report_module
from competition.evaluation.evaluate import evaluate_run
from competition.evaluation.leaderboard import read_rows
from competition.evaluation.report import write_report
from competition.paths import FILES, PREPARED, SPLITS, Paths
from competition.training.keepers import PREDICTIONS
from competition.training.runs import read_history
from competition.training.train import predict
from tests.factories import CONFIG, make_run, open_browser

SETTINGS = with_settings(
    CONFIG, {"evaluation.tta_views": 3, "training.batch_size": 8, "recipe": "small batches"}
)
NASTY = "</script><script>alert('&amp;')</script>{{data}}"
HISTORY = "stage,epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,progress\n"


def write_history(run: Path, epochs: int) -> None:
    rows = [f"frozen,{epoch},1.0,0.5,1.0,0.5,0.1,1.0" for epoch in range(epochs)]
    write_text(run / "history.csv", HISTORY + "\n".join(rows) + "\n")


def save_prepared(data: PreparedData, folder: Path) -> None:
    """Write the files that `load_prepared` maps."""
    facts = {"versions": VERSIONS, "selected": 2, "class_names": data.class_names}
    facts |= {"fingerprint": data.fingerprint, "distortion": data.distortion_hash}
    write_json(folder / "prepared.json", facts | {"selection": data.selection_hash})
    write_array(folder / "train_images.npy", data.training.images)
    write_array(folder / "train_labels.npy", data.training.labels)
    for scored in (data.validation, data.test):
        versions = np.stack([scored.versions[version] for version in VERSIONS])
        write_array(folder / f"{scored.name}_images.npy", versions)
        write_array(folder / f"{scored.name}_labels.npy", scored.labels)
        write_array(folder / f"{scored.name}_surely_wrong.npy", scored.surely_wrong)
        families = np.stack([scored.families[profile] for profile in TABLES])
        write_array(folder / f"{scored.name}_families.npy", families)


@pytest.fixture(scope="module")
def project(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A project with one scored run of a random network and one study."""
    paths = Paths(tmp_path_factory.mktemp("project"), "cells")
    save_prepared(prepared, paths.data / PREPARED)
    indices = 1000 + np.arange(len(prepared.test.labels))
    splits = dict.fromkeys(("train", "validation"), np.arange(3)) | {"test": indices}
    write_arrays(paths.data / SPLITS, **splits, fingerprint=np.array(prepared.fingerprint))
    rows = [f'{index},"a, b/{index}.png"' for index in indices]
    write_text(paths.data / FILES, "\n".join(["index,file", *rows]))
    run, network = make_run(paths.runs, "tiny_cnn")
    facts = {"settings": flatten(SETTINGS), "splits": prepared.fingerprint, "weights": "random"}
    facts |= {"distortion": prepared.distortion_hash}
    write_json(run / "config.json", read_json(run / "config.json") | facts)
    write_history(run, epochs=100)
    np.save(run / PREDICTIONS, predict(network, prepared.training.validation_images))
    evaluate_run(SETTINGS, prepared, run)
    write_text(paths.studies / "tiny_cnn_head.md", f"# tiny cnn head\n\n- trial 0: {NASTY}\n")
    Image.new("RGB", (80, 60)).save(paths.studies / "tiny_cnn_head_history.png")
    write_report(paths, read_rows(paths.runs), SETTINGS)
    return paths


def copy_project(project: Paths, root: Path) -> Paths:
    """Return a copy of its data and runs under `root`, to be changed."""
    paths = Paths(root, project.name)
    shutil.copytree(project.data, paths.data)
    shutil.copytree(project.runs, paths.runs)
    return paths


def read(paths: Paths) -> dict[str, Any]:
    text = (paths.experiments / "report.html").read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_accuracies_by_severity_are_those_of_the_images_that_met_it(
    project: Paths, prepared: PreparedData
) -> None:
    content = read(project)
    cells = content["details"]["tiny_cnn_001"]["severities"]["microscope"]
    with np.load(project.runs / "tiny_cnn_001" / "predictions_test.npz") as stored:
        hits = stored["microscope"][0].argmax(axis=1) == stored["labels"]
    met = prepared.test.families["microscope"]
    for family in np.unique(met):
        (images, accuracy), *single = cells[family]
        assert images == (met == family).sum() == sum(count for count, _ in single)
        assert accuracy == pytest.approx(hits[met == family].mean(), abs=1e-3)
        right = sum(count * (share or 0) for count, share in single)
        assert right == pytest.approx(images * accuracy, abs=0.01)


def test_mistakes_are_wrong_most_confident_first_and_have_index_file_and_grad_cam(
    project: Paths, prepared: PreparedData
) -> None:
    content = read(project)
    predictions = read_arrays(project.runs / "tiny_cnn_001" / "predictions_test.npz")
    mistakes = content["details"]["tiny_cnn_001"]["mistakes"]["revealed"]
    confidences = [mistake["confidence"] for mistake in mistakes]
    assert 0 < len(mistakes) <= 12
    assert confidences == sorted(confidences, reverse=True)
    for mistake in mistakes:
        index = content["indices"][mistake["image"]] - 1000
        assert content["files"][mistake["image"]] == f"a, b/{1000 + index}.png"
        probabilities = predictions["revealed"].mean(axis=0)[index]
        assert mistake["truth"] == prepared.test.labels[index] != mistake["guess"]
        assert mistake["guess"] == probabilities.argmax()
        assert np.shape(mistake["cam"]) == (4, 4)


def test_the_command_names_each_setting_that_is_no_default(project: Paths) -> None:
    command = read(project)["runs"][0]["command"]
    assert command.startswith("python run.py --train --data FILE --name cells --backbone tiny_cnn")
    assert "--set training.batch_size=8" in command
    assert "training.warm_up" not in command


def test_bins_of_confidence_hold_every_image(project: Paths, prepared: PreparedData) -> None:
    bins = read(project)["details"]["tiny_cnn_001"]["reliability"]["clean"]
    assert sum(entry[0] for entry in bins) == len(prepared.test.labels)


def test_a_long_history_is_thinned_out_and_keeps_its_ends(project: Paths) -> None:
    epochs = read(project)["runs"][0]["curves"]["epoch"]
    assert (epochs[0], epochs[-1], len(epochs)) == (1, 100, 40)


def test_text_like_markup_stays_text_and_no_address_is_loaded(project: Paths) -> None:
    text = (project.experiments / "report.html").read_text("utf-8")
    assert NASTY not in text
    assert read(project)["studies"][0]["lines"] == [f"- trial 0: {NASTY}"]
    addresses = re.findall(r"https?://[a-z0-9./]*|\bsrc=|<link[^>]*stylesheet", text)
    assert addresses == ["http://www.w3.org/2000/svg"]  # a name, never loaded


def test_plots_that_have_no_room_are_left_out(
    project: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(read(project)["studies"][0]["plots"]) == 1
    monkeypatch.setattr(report_module, "PLOT_BYTES", 100)
    assert report_module._read_studies(project.studies)[0]["plots"] == []


def test_the_command_of_a_run_that_a_budget_ended_has_as_many_epochs_again(
    project: Paths, tmp_path: Path
) -> None:
    paths = copy_project(project, tmp_path)
    run = paths.runs / "tiny_cnn_001"
    write_json(run / "config.json", read_json(run / "config.json") | {"time_budget_seconds": 600.0})
    rows = ["frozen,0,1.0,0.5,1.0,0.5,0.1,1.0"] + 3 * ["fine-tuning,0,1.0,0.5,1.0,0.5,0.1,1.0"]
    write_text(run / "history.csv", HISTORY + "\n".join(rows) + "\n")
    write_report(paths, read_rows(paths.runs), SETTINGS)
    command = read(paths)["runs"][0]["command"]
    assert "--time-budget" not in command
    assert "--set training.fine_tuning_epochs=3" in command
    default = flatten(Config())["training.frozen_epochs"]
    assert ("training.frozen_epochs" in command) == (default != 1)


def test_of_splits_that_are_not_prepared_yet_there_is_no_report(
    project: Paths, tmp_path: Path
) -> None:
    paths = copy_project(project, tmp_path)
    splits = read_arrays(paths.data / SPLITS) | {"fingerprint": np.array("of other settings")}
    write_arrays(paths.data / SPLITS, **splits)
    assert write_report(paths, read_rows(paths.runs), SETTINGS) is None


def test_there_is_no_report_before_something_was_scored(tmp_path: Path) -> None:
    assert write_report(Paths(tmp_path, "cells"), read_rows(tmp_path), SETTINGS) is None


# -- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def page(browser: Any, project: Paths) -> Any:
    browser.get((project.experiments / "report.html").as_uri())
    return browser


def texts(page: Any, selector: str) -> list[str]:
    return [element.text for element in page.find_elements("css selector", selector)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_fits_and_is_drawn(width: int, scheme: str, page: Any, tmp_path: Path) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    root = "document.documentElement"
    scroll, client = page.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")
    assert scroll == client <= width
    assert page.save_screenshot(str(tmp_path / "report.png"))
    assert len(page.find_elements("css selector", "#about svg polyline.curve")) >= 4
    assert "small batches" in texts(page, "#board tbody tr:first-child td")
    assert "a, b/10" in texts(page, "#about .tile .file")[0]
    titles = {
        *("Selection score, accuracy in %", "Confusion", "Recall of each class", "Reliability"),
        *("Accuracy by distortion and severity", "Effect of test-time augmentation"),
        *("The most confident mistakes", "Train it again"),
    }
    assert titles <= set(texts(page, "#about h3"))
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_grad_cam_is_switched_on_from_the_keyboard(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    button = page.find_element("css selector", "#about .key button")
    canvas = page.find_element("css selector", "#about .tile canvas")
    assert not canvas.is_displayed()
    button.send_keys(Keys.ENTER)
    assert canvas.is_displayed()
    assert button.get_attribute("aria-pressed") == "true"


def test_scores_are_shown_as_values_of_the_metric_of_the_run(
    project: Paths, browser: Any, tmp_path: Path
) -> None:
    paths = copy_project(project, tmp_path)
    run = paths.runs / "tiny_cnn_001"
    metrics = read_json(run / "metrics.json") | {"metric": "log_loss", "selection_score": -0.25}
    for version in metrics["test"].values():
        for views in version.keys() & {"plain", "augmented"}:
            version[views]["log_loss"] = 1.5
    write_json(run / "metrics.json", metrics)
    config = read_json(run / "config.json")
    config["settings"]["metric"] = "log_loss"
    write_json(run / "config.json", config)
    text = (run / "history.csv").read_text("utf-8").replace("val_accuracy", "val_log_loss")
    write_text(run / "history.csv", text)
    write_report(paths, read_rows(paths.runs), SETTINGS)
    browser.get((paths.experiments / "report.html").as_uri())
    assert {"0.2500", "1.5000"} <= set(texts(browser, "#board tbody td"))
    assert "log-loss 1.5000 on the hidden test" in browser.find_element("id", "summary").text
    assert texts(browser, "#about h3")[0] == "Selection score, log-loss"
    browser.find_element("css selector", "#board th[data-name=expected] button").click()
    header = browser.find_element("css selector", "#board th[data-name=expected]")
    assert header.get_attribute("aria-sort") == "ascending"  # less is better


def shorten(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics without the scores of each class, which the leaderboard does without."""
    return {
        key: shorten(value) if isinstance(value, dict) else value
        for key, value in metrics.items()
        if key not in ("confusion", "recall")
    }


def test_two_thousand_runs_are_drawn_in_time_and_sorted(
    project: Paths, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path, "cells")
    shutil.copytree(project.data, paths.data)
    first = project.runs / "tiny_cnn_001"
    history = read_history(first)
    monkeypatch.setattr(report_module, "read_history", lambda run: history)  # all have the same
    metrics = read_json(first / "metrics.json")
    short = shorten(metrics)
    for number in range(1, 2001):
        run = paths.runs / f"tiny_cnn_{number:04d}"
        run.mkdir(parents=True)
        facts = {"selection_score": number / 3000, "parameters": 1000 + 7 * number % 5000}
        is_detailed = number > 1900
        (run / "metrics.json").write_text(json.dumps((metrics if is_detailed else short) | facts))
        for name in ("config.json", "history.csv", "predictions_test.npz"):
            if is_detailed or name != "predictions_test.npz":
                (run / name).hardlink_to(first / name)
    path = write_report(paths, read_rows(paths.runs), SETTINGS)
    assert path
    assert path.stat().st_size < 10e6
    started = time.monotonic()
    browser.get(path.as_uri())
    assert len(browser.find_elements("css selector", "#board tbody tr")) == 30
    assert time.monotonic() - started < 5
    browser.find_element("css selector", "#more button").click()
    assert len(browser.find_elements("css selector", "#board tbody tr")) == 2000
    header = "#board th[data-name=selection] button"
    for expected in ("tiny_cnn_2000", "tiny_cnn_0001"):
        browser.find_element("css selector", header).click()
        assert texts(browser, "#board tbody tr:first-child td:first-child") == [expected]
    browser.find_element("css selector", "#board tbody tr:first-child button").click()
    assert browser.find_element("id", "chosen").get_property("value") == "tiny_cnn_0001"
    assert "not among them" in browser.find_element("id", "about").text
