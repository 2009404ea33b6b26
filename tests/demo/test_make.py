import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from competition.common import files
from competition.demo import make
from competition.demo.make import FAULT_SHARES, draw_cells, draw_face, draw_landscape, make_demo
from competition.demo.smear import CLASSES, SIZE, Smear

NUM_IMAGES, NUM_HIDDEN = 400, 24


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder, 7, NUM_IMAGES, NUM_HIDDEN)
    return folder


@pytest.fixture(scope="module")
def training(demo: Path) -> dict[str, np.ndarray]:
    return files.read_arrays(demo / "training_set.npz")


@pytest.fixture(scope="module")
def truth(demo: Path) -> list[dict[str, str]]:
    with (demo / "truth.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def indices_of(truth: list[dict[str, str]], kind: str) -> list[int]:
    return [int(row["index"]) for row in truth if row["kind"] == kind]


def dark_pixels(images: np.ndarray) -> np.ndarray:
    """Return how many pixels of each image are as dark as a stained nucleus."""
    return np.asarray((images.mean(axis=3) < 110).sum(axis=(1, 2)))


def count_dark_pieces(image: np.ndarray) -> int:
    """Return how many separate dark patches of at least 20 pixels an image has."""
    patches, _ = ndimage.label(image.mean(axis=2) < 110)
    return int((np.bincount(patches.ravel())[1:] >= 20).sum())


def test_files_have_the_layout_of_the_competition(demo: Path) -> None:
    for name, count in (("training_set.npz", NUM_IMAGES), ("hidden_test.npz", NUM_HIDDEN)):
        arrays = files.read_arrays(demo / name)
        assert set(arrays) == {"images", "labels"}
        assert arrays["images"].shape == (count, SIZE, SIZE, 3)
        assert arrays["labels"].shape == (count, 1)
        assert arrays["images"].dtype == arrays["labels"].dtype == np.uint8
        assert set(arrays["labels"].ravel().tolist()) == set(range(8))


def test_one_seed_gives_one_demo_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        make_demo(tmp_path / name, seed, 30, 8)
    for name in ("training_set.npz", "hidden_test.npz", "truth.csv"):
        contents = {
            folder: (tmp_path / folder / name).read_bytes() for folder in ("one", "same", "other")
        }
        assert contents["one"] == contents["same"]
        assert contents["one"] != contents["other"]


def test_a_second_call_draws_nothing_unless_settings_changed(tmp_path: Path) -> None:
    make_demo(tmp_path, 0, 10, 2)
    (tmp_path / "truth.csv").write_text("untouched")
    make_demo(tmp_path, 0, 10, 2)
    assert (tmp_path / "truth.csv").read_text() == "untouched"
    make_demo(tmp_path, 0, 11, 2)
    assert len(files.read_arrays(tmp_path / "training_set.npz")["labels"]) == 11


def test_a_demo_that_was_interrupted_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_demo(tmp_path, 0, 10, 2)
    with monkeypatch.context() as patched:
        patched.setattr(files, "write_text", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            make_demo(tmp_path, 1, 12, 2)
    make_demo(tmp_path, 0, 10, 2)
    assert len(files.read_arrays(tmp_path / "training_set.npz")["labels"]) == 10


def test_truth_has_a_row_for_every_image_and_the_shares_that_are_promised(
    truth: list[dict[str, str]],
) -> None:
    assert [int(row["index"]) for row in truth] == list(range(NUM_IMAGES))
    assert set(truth[0]) == {"index", "kind", "true_label", "copy_of"}
    counts = Counter(row["kind"] for row in truth)
    assert counts == {"cell": NUM_IMAGES - sum(counts[kind] for kind in FAULT_SHARES)} | {
        kind: round(share * NUM_IMAGES) for kind, share in FAULT_SHARES.items()
    }


def test_labels_are_true_but_for_wrong_labels_and_one_exact_copy_in_four(
    training: dict[str, np.ndarray], truth: list[dict[str, str]]
) -> None:
    wrong = Counter(
        row["kind"]
        for row, label in zip(truth, training["labels"].ravel().tolist(), strict=True)
        if row["true_label"] not in ("-1", str(label))
    )
    assert wrong == {"wrong_label": 4, "exact_copy": 1}
    assert {row["kind"] for row in truth if row["true_label"] == "-1"} == {
        "non_cell",
        "blank",
        "noise",
    }


def test_as_many_labels_are_wrong_in_the_hidden_test_as_in_the_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw_and_remember(*arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        images, labels = draw_cells(*arguments)
        drawn.append(labels.copy())
        return images, labels

    monkeypatch.setattr(make, "draw_cells", draw_and_remember)
    make_demo(tmp_path, 0, 10, 100)
    labels = files.read_arrays(tmp_path / "hidden_test.npz")["labels"].ravel()
    assert (labels != drawn[1]).sum() == round(100 * FAULT_SHARES["wrong_label"])
    assert labels.max() < len(CLASSES)


def test_copies_resemble_a_sound_original(
    training: dict[str, np.ndarray], truth: list[dict[str, str]]
) -> None:
    images = training["images"].astype(float)
    assert all(
        (row["copy_of"] != "-1") == (row["kind"] in ("exact_copy", "near_copy")) for row in truth
    )
    for kind, low, high in (("exact_copy", 0, 0), ("near_copy", 1, 25)):
        for index in indices_of(truth, kind):
            original = int(truth[index]["copy_of"])
            assert truth[original]["kind"] == "cell"
            assert truth[original]["true_label"] == truth[index]["true_label"]
            assert low <= np.abs(images[index] - images[original]).mean() <= high


def test_spoiled_images_look_as_the_truth_says(
    training: dict[str, np.ndarray], truth: list[dict[str, str]]
) -> None:
    images = training["images"]
    assert all(images[index].std() == 0 for index in indices_of(truth, "blank"))
    assert all(images[index].std() > 60 for index in indices_of(truth, "noise"))
    for index in indices_of(truth, "broken"):
        assert (images[index, SIZE // 2 :] == 128).all()
        assert images[index, : SIZE // 8].std() > 0
    assert all(images[index].std() > 5 for index in indices_of(truth, "cell"))


def test_non_cells_show_one_of_two_images_in_eight_to_one(
    training: dict[str, np.ndarray], truth: list[dict[str, str]]
) -> None:
    unrelated = np.stack([draw_face(), draw_landscape()]).reshape(2, -1)
    non_cells = training["images"][indices_of(truth, "non_cell")].reshape(-1, unrelated.shape[1])
    likeness = np.corrcoef(unrelated, non_cells)[:2, 2:]
    assert np.bincount(likeness.argmax(axis=0)).tolist() == [32, 4]
    assert likeness.max(axis=0).min() > 0.7


def test_classes_come_in_the_real_proportions() -> None:
    _, labels = draw_cells(Smear(np.random.default_rng(0)), 120, "drawing")
    expected = np.array([852, 2181, 1085, 2026, 849, 993, 2330, 1643]) * 120 / 11959
    assert np.abs(np.bincount(labels, minlength=8) - expected).max() < 1
    assert (np.diff(labels.astype(int)) < 0).any()  # in random order


def test_classes_differ_in_what_tells_them_apart_in_life() -> None:
    smear = Smear(np.random.default_rng(0))
    drawn = {
        kind.name: np.stack([smear.draw_cell(label) for _ in range(12)])
        for label, kind in enumerate(CLASSES)
    }
    dark = {name: float(np.median(dark_pixels(images))) for name, images in drawn.items()}
    red = {
        name: float(np.mean(images[..., 0] - images[..., 1].astype(float) > 60))
        for name, images in drawn.items()
    }
    pieces = {
        name: float(np.median([count_dark_pieces(image) for image in images]))
        for name, images in drawn.items()
    }
    assert max(dark, key=lambda name: dark[name]) == "basophil"
    assert min(dark, key=lambda name: dark[name]) == "platelet"
    assert dark["erythroblast"] < dark["lymphocyte"] < dark["monocyte"]
    assert red["eosinophil"] > 2 * max(share for name, share in red.items() if name != "eosinophil")
    assert pieces["neutrophil"] > 1 == pieces["lymphocyte"] == pieces["erythroblast"]
