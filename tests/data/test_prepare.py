"""Prepared data: every version once, the selected ones as one block, and sheets to look at."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from competition.config import Config, with_settings
from competition.data import prepare as prepared
from competition.data.arrays import CleanedData, Dataset, PreparedData, Splits
from competition.distortion.profiles import PROFILES, VERSIONS, distort, draw_corruptions
from competition.networks.weights import RANDOM
from competition.training.runs import fingerprint_run
from tests.factories import draw_blobs


def make(folder: Path, **changes: Any) -> PreparedData:
    images, labels = draw_blobs(48, 3, seed=2, size=16)
    train, validation, test = np.split(np.arange(48), [24, 36])
    splits = Splits(train, validation, test, fingerprint="f")
    dataset = Dataset(images, labels.astype(np.int64), ("a", "b", "c"))
    cleaned = CleanedData(dataset, np.ones(48, bool), np.arange(48), dataset.labels)
    return prepared.prepare(cleaned, splits, with_settings(Config(), changes), folder / "prepared")


def test_every_version_is_kept_with_what_its_images_met(tmp_path: Path) -> None:
    made = make(tmp_path)
    for scored, seed in ((made.validation, 1), (made.test, 2)):
        assert tuple(scored.versions) == VERSIONS
        clean = scored.versions["clean"]
        for profile in PROFILES:
            np.testing.assert_array_equal(scored.versions[profile], distort(clean, profile, seed))
        for profile in ("microscope", "unseen"):
            names, _ = draw_corruptions(profile, 12, seed)
            assert scored.families[profile].tolist() == names.tolist()


@pytest.mark.parametrize("select_by", ["clean+revealed", "clean+unseen", "microscope"])
def test_what_is_selected_by_is_one_block_of_the_file(tmp_path: Path, select_by: str) -> None:
    made = make(tmp_path, **{"training.select_by": select_by})
    names = select_by.split("+")
    expected = np.concatenate([made.validation.versions[name] for name in names])
    np.testing.assert_array_equal(made.training.validation_images, expected)
    np.testing.assert_array_equal(
        made.training.validation_labels, np.tile(made.validation.labels, len(names))
    )
    assert np.shares_memory(made.training.validation_images[:1], made.training.validation_images)
    assert not made.training.validation_images.flags.owndata


def test_another_selection_is_another_experiment_on_the_same_images(tmp_path: Path) -> None:
    one = make(tmp_path / "one")
    other = make(tmp_path / "other", **{"training.select_by": "clean"})
    assert one.distortion_hash == other.distortion_hash
    assert one.selection_hash != other.selection_hash
    config = with_settings(Config(), {"training.select_by": "clean"})
    assert fingerprint_run(Config(), one, RANDOM, None) != fingerprint_run(
        config, one, RANDOM, None
    )


def test_images_are_made_once_and_again_for_another_selection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path)
    calls: list[str] = []

    def note(images: np.ndarray, profile: str, seed: int) -> np.ndarray:
        calls.append(profile)
        return images

    monkeypatch.setattr(prepared, "distort", note)
    assert make(tmp_path).distortion_hash == made.distortion_hash
    assert not calls
    make(tmp_path, **{"training.select_by": "clean"})
    assert sorted(calls) == sorted([*PROFILES, *PROFILES])


def test_another_process_maps_the_same_images(tmp_path: Path) -> None:
    made = make(tmp_path)
    text = pickle.dumps(made)
    assert len(text) < 1000
    copy = pickle.loads(text)
    assert dataclasses.asdict(copy).keys() == dataclasses.asdict(made).keys()
    np.testing.assert_array_equal(copy.training.validation_images, made.training.validation_images)
    assert copy.selection_hash == made.selection_hash


def test_wrong_labels_are_replaced_in_training_and_validation_but_never_in_the_test_split(
    tmp_path: Path,
) -> None:
    images, labels = draw_blobs(48, 3, seed=2, size=16)
    training_labels = np.where(np.arange(48) % 10 < 3, (labels + 1) % 3, labels)
    train, validation, test = np.split(np.arange(48), [24, 36])
    dataset = Dataset(images, labels, ("a", "b", "c"))
    cleaned = CleanedData(dataset, np.ones(48, bool), np.arange(48), training_labels)
    splits = Splits(train, validation, test, fingerprint="f")
    made = prepared.prepare(cleaned, splits, Config(), tmp_path / "prepared")
    np.testing.assert_array_equal(made.training.labels, training_labels[train])
    np.testing.assert_array_equal(made.validation.labels, training_labels[validation])
    np.testing.assert_array_equal(made.test.labels, labels[test])
    np.testing.assert_array_equal(made.test.surely_wrong, np.arange(48)[test] % 10 < 3)
    assert not made.validation.surely_wrong.any()


def test_each_profile_has_a_sheet(tmp_path: Path) -> None:
    make(tmp_path)
    sizes = {
        profile: Image.open(tmp_path / f"distortions_{profile}.png").size for profile in PROFILES
    }
    assert sizes == {
        "revealed": (6 * 17, 12 * 17),
        "microscope": (6 * 17, 12 * 17),
        "unseen": (6 * 17, 6 * 17),
    }
