"""Splits: stratified, disjoint, whole groups, seeded; and balancing that never copies."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from competition.common.errors import UserError
from competition.common.files import digest, up_to_date
from competition.config import Config, with_settings
from competition.data.arrays import CleanedData, Dataset, Splits
from competition.data.balancing import balance_classes
from competition.data.splits import (
    SPLITS,
    count_classes,
    make_splits,
    read_splits,
    split,
    split_inputs,
)

COUNTS = (200, 90, 37, 20)


def make_dataset(counts: tuple[int, ...] = COUNTS, seed: int = 0) -> Dataset:
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    images = generator.integers(0, 256, (len(labels), 8, 8, 3)).astype(np.uint8)
    return Dataset(images, labels, tuple(f"kind {number}" for number in range(len(counts))))


def make_groups(dataset: Dataset, sizes: tuple[int, ...] = (1, 2, 3)) -> np.ndarray:
    """Return groups of copies within the classes, of several sizes, with numbers far apart."""
    groups = np.empty(len(dataset.labels), np.int64)
    number = 0
    for label in np.unique(dataset.labels):
        members = np.flatnonzero(dataset.labels == label)
        while len(members):
            size = sizes[number % len(sizes)]
            groups[members[:size]] = 17 * number + 5
            members, number = members[size:], number + 1
    return groups


def make_cleaned(
    dataset: Dataset,
    keep: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    training_labels: np.ndarray | None = None,
) -> CleanedData:
    """Return cleaned data that keeps everything, singly, with its own labels, unless told else."""
    count = len(dataset.labels)
    return CleanedData(
        dataset,
        np.ones(count, bool) if keep is None else keep,
        np.arange(count) if groups is None else groups,
        dataset.labels if training_labels is None else training_labels,
    )


def make_copies(dataset: Dataset) -> CleanedData:
    """Return cleaned data with groups of copies, of which each seventh image is dropped."""
    keep = np.arange(len(dataset.labels)) % 7 > 0
    return make_cleaned(dataset, keep, make_groups(dataset))


def split_with(cleaned: CleanedData, **changes: Any) -> Splits:
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return make_splits(cleaned, with_settings(Config(), settings))


def split_singly(dataset: Dataset, keep: np.ndarray | None = None, **changes: Any) -> Splits:
    return split_with(make_cleaned(dataset, keep), **changes)


def test_the_splits_are_disjoint_sorted_and_cover_what_was_kept() -> None:
    dataset = make_dataset()
    keep = np.random.default_rng(1).random(len(dataset.labels)) < 0.8
    splits = split_singly(dataset, keep)
    parts = [getattr(splits, name) for name in SPLITS]
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.flatnonzero(keep))


def test_every_class_is_cut_in_the_asked_shares_within_one_image() -> None:
    dataset = make_dataset()
    splits = split_singly(dataset, split__validation=0.2, split__test=0.1)
    for name, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        counts = np.bincount(dataset.labels[getattr(splits, name)], minlength=len(COUNTS))
        assert np.abs(counts - share * np.array(COUNTS)).max() <= 1


def test_no_group_crosses_a_border_and_the_shares_still_hold() -> None:
    dataset = make_dataset()
    groups = make_groups(dataset)
    splits = split_with(make_cleaned(dataset, groups=groups))
    members = [set(groups[getattr(splits, name)]) for name in SPLITS]
    assert sum(len(part) for part in members) == len(set.union(*members))
    for name, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        counts = np.bincount(dataset.labels[getattr(splits, name)], minlength=len(COUNTS))
        assert np.abs(counts - share * np.array(COUNTS)).max() <= 2


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_do_not_spoil_the_shares(seed: int) -> None:
    dataset = make_dataset((100, 60))
    groups = make_groups(dataset, sizes=(9, 1, 1, 1, 1, 1, 1))
    splits = split_with(make_cleaned(dataset, groups=groups), seed=seed)
    counts = np.bincount(dataset.labels[splits.test], minlength=2)
    assert np.abs(counts - 0.15 * np.array([100, 60])).max() <= 1


def test_a_seed_repeats_and_another_differs() -> None:
    dataset = make_dataset()
    first, again, other = (
        split_singly(dataset),
        split_singly(dataset),
        split_singly(dataset, seed=1),
    )
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.fingerprint == again.fingerprint
    assert not np.array_equal(first.test, other.test)
    assert first.fingerprint != other.fingerprint


def test_the_test_split_does_not_depend_on_folds_or_validation() -> None:
    dataset = make_dataset()
    expected = split_singly(dataset).test
    different: list[dict[str, Any]] = [
        {"split__folds": 4},
        {"split__folds": 5, "split__fold": 3},
        {"split__validation": 0.3},
    ]
    for changes in different:
        np.testing.assert_array_equal(split_singly(dataset, **changes).test, expected)


def test_folds_partition_training_and_validation_evenly() -> None:
    dataset = make_dataset()
    folds = [split_singly(dataset, split__folds=4, split__fold=fold) for fold in range(4)]
    whole = np.sort(np.concatenate([folds[0].train, folds[0].validation]))
    np.testing.assert_array_equal(
        np.sort(np.concatenate([fold.validation for fold in folds])), whole
    )
    for fold in folds:
        np.testing.assert_array_equal(np.sort(np.concatenate([fold.train, fold.validation])), whole)
        counts = np.bincount(dataset.labels[fold.validation], minlength=len(COUNTS))
        assert np.abs(counts - 0.85 / 4 * np.array(COUNTS)).max() <= 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split__folds": 3, "split__fold": 3}, r"split.fold got 3 of 3 folds.*lower it"),
        ({"split__fold": 1}, r"split.fold got 1 of 0 folds.*raise split.folds"),
        ({"split__folds": 1}, r"split.folds got 1.*at least 2"),
    ],
)
def test_folds_that_do_not_exist_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_singly(make_dataset(), **changes)


def test_a_class_that_cleaning_left_too_small_is_named_with_its_count() -> None:
    dataset = make_dataset((30, 30, 6))
    keep = np.ones(len(dataset.labels), bool)
    keep[np.flatnonzero(dataset.labels == 2)[2:]] = False
    with pytest.raises(
        UserError, match=r"Class 2 \('kind 2'\) has 2 images left after cleaning.*add"
    ):
        split_singly(dataset, keep)


def test_a_class_too_small_for_every_fold_is_named_with_its_count() -> None:
    with pytest.raises(UserError, match=r"Class 1 \('kind 1'\) has 6 images.*lower split.folds"):
        split_singly(make_dataset((60, 6)), split__folds=8)


def test_a_class_of_four_images_is_in_every_split() -> None:
    dataset = make_dataset((40, 4))
    splits = split_singly(dataset)
    for name in SPLITS:
        assert 1 in dataset.labels[getattr(splits, name)]


def test_the_fingerprint_follows_data_indices_and_the_balancing_of_validation_alone() -> None:
    dataset = make_dataset()
    expected = split_singly(dataset).fingerprint
    assert (
        split_singly(dataset, split__balance_to=50, training__batch_size=8).fingerprint == expected
    )
    assert split_singly(dataset, split__balance_validation_to=50).fingerprint != expected
    assert split_singly(dataset, split__test=0.2).fingerprint != expected
    brighter = Dataset(dataset.images // 2, dataset.labels, dataset.class_names)
    assert split_singly(brighter).fingerprint != expected


def test_images_without_a_training_label_leave_training_and_validation_but_never_test() -> None:
    dataset = make_dataset()
    training_labels = np.where(np.arange(len(dataset.labels)) % 10, dataset.labels, -1)
    before = split_singly(dataset)
    after = split_with(make_cleaned(dataset, training_labels=training_labels))
    np.testing.assert_array_equal(after.test, before.test)
    for name in ("train", "validation"):
        expected = [index for index in getattr(before, name) if index % 10]
        np.testing.assert_array_equal(getattr(after, name), expected)
    assert after.fingerprint != before.fingerprint


def test_replaced_training_labels_change_the_fingerprint_alone() -> None:
    dataset = make_dataset()
    training_labels = dataset.labels.copy()
    training_labels[::10] = (dataset.labels[::10] + 1) % len(COUNTS)
    before = split_singly(dataset)
    relabelled = split_with(make_cleaned(dataset, training_labels=training_labels))
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(relabelled, name), getattr(before, name))
    assert relabelled.fingerprint != before.fingerprint


def test_the_stage_writes_splits_table_and_last_its_marker(tmp_path: Path) -> None:
    cleaned, config = make_copies(make_dataset()), Config()
    splits = split(cleaned, tmp_path, config)
    read = read_splits(tmp_path / "splits.npz")
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(read, name), getattr(splits, name))
    assert read.fingerprint == splits.fingerprint
    table = pd.read_csv(tmp_path / "balance.csv")
    assert list(table.columns) == ["class", "all", "kept", "train", "validation", "test"]
    assert table["all"].tolist() == list(COUNTS)
    assert (tmp_path / "balance.png").read_bytes().startswith(b"\x89PNG")
    assert up_to_date(tmp_path / "splits.json", split_inputs(cleaned, config))
    assert json.loads((tmp_path / "splits.json").read_text())["counts"]["test"] == len(splits.test)


def test_what_is_done_already_is_read_and_redone_only_by_force_or_where_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = make_copies(make_dataset())
    first = split(cleaned, tmp_path, Config())
    assert "kind 0" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr("competition.data.splits.make_splits", lambda *_: 1 / 0)
        again = split(cleaned, tmp_path, Config())
        assert "done already" in capsys.readouterr().out
        with pytest.raises(ZeroDivisionError):
            split(cleaned, tmp_path, Config(), force=True)
    np.testing.assert_array_equal(again.test, first.test)
    (tmp_path / "splits.npz").unlink()
    assert split(cleaned, tmp_path, Config()).fingerprint == first.fingerprint


def test_the_stage_is_stale_when_data_cleaning_settings_or_seed_change() -> None:
    dataset = make_dataset()
    cleaned = make_copies(dataset)
    seen = {split_inputs(cleaned, Config())}
    for changes in (
        {"seed": 1},
        {"split.test": 0.2},
        {"split.folds": 3},
        {"split.balance_validation_to": 9},
    ):
        seen.add(split_inputs(cleaned, with_settings(Config(), changes)))
    for changed in (
        make_copies(make_dataset(seed=1)),
        make_cleaned(dataset, groups=cleaned.groups),
        make_cleaned(dataset, cleaned.keep),
        dataclasses.replace(cleaned, training_labels=np.zeros_like(dataset.labels)),
    ):
        seen.add(split_inputs(changed, Config()))
    assert len(seen) == 9
    same = with_settings(Config(), {"training.batch_size": 8, "split.balance_to": 9})
    assert split_inputs(cleaned, same) in seen


def test_a_failed_stage_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        split(make_copies(make_dataset()), tmp_path, with_settings(Config(), {"split.folds": 50}))
    assert list(tmp_path.iterdir()) == []


def test_a_stage_cut_off_half_way_is_not_taken_for_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned, first = make_copies(make_dataset()), Config()
    split(cleaned, tmp_path, first)
    monkeypatch.setattr("competition.data.splits.draw_class_balance", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        split(cleaned, tmp_path, with_settings(first, {"seed": 1}))
    assert not up_to_date(tmp_path / "splits.json", split_inputs(cleaned, first))


def test_splits_that_are_missing_or_broken_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "splits.npz"
    with pytest.raises(UserError, match=r"splits.npz cannot be read"):
        read_splits(file)
    np.savez(file, train=np.arange(3), validation=np.arange(3), test=np.arange(3))
    with pytest.raises(UserError, match=r"lacks 'fingerprint'"):
        read_splits(file)


def test_the_balance_table_counts_each_class() -> None:
    dataset = make_dataset()
    keep = np.ones(len(dataset.labels), bool)
    keep[np.flatnonzero(dataset.labels == 0)[:10]] = False
    table = count_classes(make_cleaned(dataset, keep), split_singly(dataset, keep))
    assert table.index.tolist() == list(dataset.class_names)
    assert table["kept"].tolist() == [190, 90, 37, 20]
    assert (table["train"] + table["validation"] + table["test"]).tolist() == table["kept"].tolist()


def smooth_images(count: int, height: int = 24, width: int = 24) -> np.ndarray:
    """Return blobs off the centre on a gradient, which no turn or mirror leaves as they are."""
    generator = np.random.default_rng(3)
    rows, columns = np.mgrid[:height, :width]
    centres = generator.uniform(6, 18, (count, 2, 1, 1))
    blobs = np.exp(-((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2) / 18)
    images = np.stack(
        [255 * blobs, 200 - 150 * blobs, np.broadcast_to(rows + 2 * columns, blobs.shape)], axis=-1
    )
    return images.astype(np.uint8)


def test_balancing_fills_small_classes_and_leaves_large_ones_and_originals() -> None:
    images, labels = smooth_images(30), np.repeat([0, 1, 2], [18, 9, 3])
    result, result_labels = balance_classes(images, labels, per_class=12, seed=0)
    assert np.bincount(result_labels).tolist() == [18, 12, 12]
    assert result.dtype == np.uint8
    assert result.shape == (42, 24, 24, 3)
    np.testing.assert_array_equal(result[:30], images)
    np.testing.assert_array_equal(result_labels[:30], labels)


def test_no_added_image_is_a_copy_of_any_other() -> None:
    images, labels = smooth_images(6), np.repeat([0, 1], [4, 2])
    result, _ = balance_classes(images, labels, per_class=60, seed=0)
    assert len({digest(image) for image in result}) == len(result) == 120


def test_sources_of_a_class_serve_equally_often() -> None:
    # Images of one grey each stay so under every turn, and tell which source was used.
    images = np.repeat(np.array([10, 60, 110, 160], np.uint8), 8 * 8 * 3).reshape(4, 8, 8, 3)
    result, labels = balance_classes(images, np.array([0, 0, 0, 1]), per_class=9, seed=0)
    values, counts = np.unique(result[labels == 0][:, 4, 4, 0], return_counts=True)
    assert values.tolist() == [10, 60, 110]
    assert counts.tolist() == [3, 3, 3]


@pytest.mark.parametrize(("height", "width"), [(24, 24), (40, 24)])
def test_borders_are_filled_by_reflection_and_not_by_black(height: int, width: int) -> None:
    bright = np.random.default_rng(0).integers(100, 256, (2, height, width, 3)).astype(np.uint8)
    result, _ = balance_classes(bright, np.array([0, 1]), per_class=30, seed=0)
    assert result.min() >= 100


def test_balancing_turns_and_mirrors_without_changing_the_cell() -> None:
    image = np.zeros((1, 33, 33, 3), np.uint8)
    image[0, 14:19, 14:19] = 200
    result, _ = balance_classes(image, np.array([0]), per_class=40, seed=0, shift=0.0)
    brightness = result[..., 0].astype(float)
    np.testing.assert_allclose(brightness.sum(axis=(1, 2)), 25 * 200, rtol=0.03)
    rows = (brightness * np.arange(33)[:, None]).sum(axis=(1, 2)) / brightness.sum(axis=(1, 2))
    np.testing.assert_allclose(rows, 16, atol=0.2)


def test_balancing_repeats_with_a_seed() -> None:
    images, labels = smooth_images(4), np.array([0, 0, 0, 1])
    first, again, other = (balance_classes(images, labels, 5, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_balancing_to_nothing_returns_the_same_images() -> None:
    images, labels = smooth_images(4), np.array([0, 0, 0, 1])
    result, result_labels = balance_classes(images, labels, 0, seed=0)
    np.testing.assert_array_equal(result, images)
    np.testing.assert_array_equal(result_labels, labels)
