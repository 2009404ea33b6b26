"""Splits: stratified, disjoint, whole groups, seeded; and balancing that never copies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from competition.common.errors import UserError
from competition.common.files import digest, up_to_date
from competition.config import Config, with_settings
from competition.data.arrays import Dataset, Splits
from competition.data.balancing import balanced
from competition.data.splits import (
    PARTS,
    class_balance_table,
    make_splits,
    read_splits,
    split,
    splits_inputs,
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


def none_doubtful(dataset: Dataset) -> np.ndarray:
    return np.full(len(dataset.labels), -1)


def split_singly(
    dataset: Dataset,
    keep: np.ndarray | None = None,
    doubtful: np.ndarray | None = None,
    **changes: Any,
) -> Splits:
    keep = np.ones(len(dataset.labels), bool) if keep is None else keep
    doubtful = none_doubtful(dataset) if doubtful is None else doubtful
    config = with_settings(Config(), {key.replace("__", "."): value for key, value in changes.items()})
    return make_splits(dataset, keep, np.arange(len(dataset.labels)), doubtful, config)


def write_cleaning(folder: Path, dataset: Dataset) -> None:
    keep = np.ones(len(dataset.labels), bool)
    keep[::7] = False
    np.save(folder / "keep.npy", keep)
    np.save(folder / "groups.npy", make_groups(dataset))
    np.save(folder / "doubtful.npy", none_doubtful(dataset))


def test_the_parts_are_disjoint_sorted_and_cover_what_was_kept() -> None:
    dataset = make_dataset()
    keep = np.random.default_rng(1).random(len(dataset.labels)) < 0.8
    splits = split_singly(dataset, keep)
    parts = [getattr(splits, part) for part in PARTS]
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.flatnonzero(keep))


def test_every_class_is_cut_in_the_asked_shares_within_one_picture() -> None:
    dataset = make_dataset()
    splits = split_singly(dataset, split__validation=0.2, split__test=0.1)
    for part, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        counts = np.bincount(dataset.labels[getattr(splits, part)], minlength=len(COUNTS))
        assert np.abs(counts - share * np.array(COUNTS)).max() <= 1


def test_no_group_crosses_a_border_and_the_shares_still_hold() -> None:
    dataset = make_dataset()
    groups = make_groups(dataset)
    splits = make_splits(
        dataset, np.ones(len(groups), bool), groups, none_doubtful(dataset), Config()
    )
    members = [set(groups[getattr(splits, part)]) for part in PARTS]
    assert sum(len(part) for part in members) == len(set.union(*members))
    for part, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        counts = np.bincount(dataset.labels[getattr(splits, part)], minlength=len(COUNTS))
        assert np.abs(counts - share * np.array(COUNTS)).max() <= 2


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_do_not_spoil_the_shares(seed: int) -> None:
    dataset = make_dataset((100, 60))
    groups = make_groups(dataset, sizes=(9, 1, 1, 1, 1, 1, 1))
    config = with_settings(Config(), {"seed": seed})
    splits = make_splits(
        dataset, np.ones(len(groups), bool), groups, none_doubtful(dataset), config
    )
    counts = np.bincount(dataset.labels[splits.test], minlength=2)
    assert np.abs(counts - 0.15 * np.array([100, 60])).max() <= 1


def test_a_seed_repeats_and_another_differs() -> None:
    dataset = make_dataset()
    first, again, other = (
        split_singly(dataset),
        split_singly(dataset),
        split_singly(dataset, seed=1),
    )
    for part in PARTS:
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
    assert first.fingerprint == again.fingerprint
    assert not np.array_equal(first.test, other.test)
    assert first.fingerprint != other.fingerprint


def test_the_test_part_does_not_depend_on_folds_or_validation() -> None:
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
        UserError, match=r"Class 2 \('kind 2'\) has 2 pictures left after cleaning.*add"
    ):
        split_singly(dataset, keep)


def test_a_class_too_small_for_every_fold_is_named_with_its_count() -> None:
    with pytest.raises(UserError, match=r"Class 1 \('kind 1'\) has 6 pictures.*lower split.folds"):
        split_singly(make_dataset((60, 6)), split__folds=8)


def test_a_class_of_four_pictures_is_in_every_part() -> None:
    dataset = make_dataset((40, 4))
    splits = split_singly(dataset)
    for part in PARTS:
        assert 1 in dataset.labels[getattr(splits, part)]


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


def test_doubtful_pictures_leave_training_and_validation_but_never_test() -> None:
    dataset = make_dataset()
    doubtful = none_doubtful(dataset)
    doubtful[::10] = 0
    before, after = split_singly(dataset), split_singly(dataset, doubtful=doubtful)
    np.testing.assert_array_equal(after.test, before.test)
    for part in ("train", "validation"):
        expected = [index for index in getattr(before, part) if index % 10]
        np.testing.assert_array_equal(getattr(after, part), expected)
    assert after.fingerprint != before.fingerprint


def test_doubtful_pictures_that_are_kept_change_nothing_and_relabelled_ones_the_fingerprint_alone() -> (
    None
):
    dataset = make_dataset()
    doubtful = none_doubtful(dataset)
    doubtful[::10] = 0
    before = split_singly(dataset)
    kept = split_singly(dataset, doubtful=doubtful, cleaning__wrong_labels="keep")
    relabelled = split_singly(dataset, doubtful=doubtful, cleaning__wrong_labels="relabel")
    for part in PARTS:
        np.testing.assert_array_equal(getattr(kept, part), getattr(before, part))
        np.testing.assert_array_equal(getattr(relabelled, part), getattr(before, part))
    assert kept.fingerprint == before.fingerprint != relabelled.fingerprint


def test_the_stage_writes_splits_table_and_last_its_marker(tmp_path: Path) -> None:
    dataset, config = make_dataset(), Config()
    write_cleaning(tmp_path, dataset)
    splits = split(dataset, tmp_path, config)
    read = read_splits(tmp_path)
    for part in (*PARTS, "doubtful"):
        np.testing.assert_array_equal(getattr(read, part), getattr(splits, part))
    assert read.fingerprint == splits.fingerprint
    table = pd.read_csv(tmp_path / "balance.csv")
    assert list(table.columns) == ["class", "all", "kept", "train", "validation", "test"]
    assert table["all"].tolist() == list(COUNTS)
    assert up_to_date(tmp_path / "splits.json", splits_inputs(dataset, tmp_path, config))
    assert json.loads((tmp_path / "splits.json").read_text())["counts"]["test"] == len(splits.test)


def test_the_stage_is_stale_when_data_cleaning_settings_or_seed_change(tmp_path: Path) -> None:
    dataset = make_dataset()
    write_cleaning(tmp_path, dataset)
    seen = {splits_inputs(dataset, tmp_path, Config())}
    for changes in (
        {"seed": 1},
        {"split.test": 0.2},
        {"split.folds": 3},
        {"split.balance_validation_to": 9},
    ):
        seen.add(splits_inputs(dataset, tmp_path, with_settings(Config(), changes)))
    seen.add(splits_inputs(make_dataset(seed=1), tmp_path, Config()))
    seen.add(splits_inputs(dataset, tmp_path, with_settings(Config(), {"cleaning.wrong_labels": "keep"})))
    np.save(tmp_path / "keep.npy", np.ones(len(dataset.labels), bool))
    seen.add(splits_inputs(dataset, tmp_path, Config()))
    np.save(tmp_path / "doubtful.npy", np.zeros(len(dataset.labels), np.int64))
    seen.add(splits_inputs(dataset, tmp_path, Config()))
    assert len(seen) == 9
    assert (
        splits_inputs(
            dataset, tmp_path, with_settings(Config(), {"training.batch_size": 8, "split.balance_to": 9})
        )
        in seen
    )


def test_a_failed_stage_leaves_no_marker(tmp_path: Path) -> None:
    dataset = make_dataset()
    write_cleaning(tmp_path, dataset)
    with pytest.raises(UserError):
        split(dataset, tmp_path, with_settings(Config(), {"split.folds": 50}))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "doubtful.npy",
        "groups.npy",
        "keep.npy",
    ]


def test_a_stage_cut_off_half_way_is_not_taken_for_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, first = make_dataset(), Config()
    write_cleaning(tmp_path, dataset)
    split(dataset, tmp_path, first)
    monkeypatch.setattr("competition.data.splits.class_balance_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        split(dataset, tmp_path, with_settings(first, {"seed": 1}))
    assert not up_to_date(tmp_path / "splits.json", splits_inputs(dataset, tmp_path, first))


def test_without_cleaning_the_stage_says_to_run_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no .*keep.npy; run the cleaning stage"):
        split(make_dataset(), tmp_path, Config())


@pytest.mark.parametrize(
    "wrong", [np.ones(5, bool), np.ones(sum(COUNTS)), np.array([{}], dtype=object)]
)
def test_cleaning_files_that_do_not_fit_are_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    dataset = make_dataset()
    write_cleaning(tmp_path, dataset)
    np.save(tmp_path / "keep.npy", wrong)
    with pytest.raises(UserError, match=r"keep.npy .*run the cleaning stage \(--clean\) again"):
        split(dataset, tmp_path, Config())


def test_splits_that_are_missing_or_broken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"splits.npz cannot be read"):
        read_splits(tmp_path)
    np.savez(
        tmp_path / "splits.npz", train=np.arange(3), validation=np.arange(3), test=np.arange(3)
    )
    with pytest.raises(UserError, match=r"lacks 'doubtful'"):
        read_splits(tmp_path)


def test_the_balance_table_counts_each_class() -> None:
    dataset = make_dataset()
    keep = np.ones(len(dataset.labels), bool)
    keep[np.flatnonzero(dataset.labels == 0)[:10]] = False
    table = class_balance_table(dataset, keep, split_singly(dataset, keep))
    assert table["class"].tolist() == list(dataset.class_names)
    assert table["kept"].tolist() == [190, 90, 37, 20]
    assert (table["train"] + table["validation"] + table["test"]).tolist() == table["kept"].tolist()


def smooth_pictures(count: int, height: int = 24, width: int = 24) -> np.ndarray:
    """Return pictures of a blob off the centre on a gradient, which no turn or mirror leaves as they are."""
    generator = np.random.default_rng(3)
    rows, columns = np.mgrid[:height, :width]
    centres = generator.uniform(6, 18, (count, 2, 1, 1))
    blobs = np.exp(-((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2) / 18)
    images = np.stack(
        [255 * blobs, 200 - 150 * blobs, np.broadcast_to(rows + 2 * columns, blobs.shape)], axis=-1
    )
    return images.astype(np.uint8)


def test_balancing_fills_small_classes_and_leaves_large_ones_and_originals() -> None:
    images, labels = smooth_pictures(30), np.repeat([0, 1, 2], [18, 9, 3])
    result, result_labels = balanced(images, labels, per_class=12, seed=0)
    assert np.bincount(result_labels).tolist() == [18, 12, 12]
    assert result.dtype == np.uint8
    assert result.shape == (42, 24, 24, 3)
    np.testing.assert_array_equal(result[:30], images)
    np.testing.assert_array_equal(result_labels[:30], labels)


def test_no_added_picture_is_a_copy_of_any_other() -> None:
    images, labels = smooth_pictures(6), np.repeat([0, 1], [4, 2])
    result, _ = balanced(images, labels, per_class=60, seed=0)
    assert len({digest(picture) for picture in result}) == len(result) == 120


def test_sources_of_a_class_serve_equally_often() -> None:
    # Pictures of one grey each stay so under every turn, and tell which source was used.
    images = np.repeat(np.array([10, 60, 110, 160], np.uint8), 8 * 8 * 3).reshape(4, 8, 8, 3)
    result, labels = balanced(images, np.array([0, 0, 0, 1]), per_class=9, seed=0)
    values, counts = np.unique(result[labels == 0][:, 4, 4, 0], return_counts=True)
    assert values.tolist() == [10, 60, 110]
    assert counts.tolist() == [3, 3, 3]


@pytest.mark.parametrize(("height", "width"), [(24, 24), (40, 24)])
def test_borders_are_filled_by_reflection_and_not_by_black(height: int, width: int) -> None:
    bright = np.random.default_rng(0).integers(100, 256, (2, height, width, 3)).astype(np.uint8)
    result, _ = balanced(bright, np.array([0, 1]), per_class=30, seed=0)
    assert result.min() >= 100


def test_balancing_turns_and_mirrors_without_changing_the_cell() -> None:
    image = np.zeros((1, 33, 33, 3), np.uint8)
    image[0, 14:19, 14:19] = 200
    result, _ = balanced(image, np.array([0]), per_class=40, seed=0, shift=0.0)
    brightness = result[..., 0].astype(float)
    np.testing.assert_allclose(brightness.sum(axis=(1, 2)), 25 * 200, rtol=0.03)
    rows = (brightness * np.arange(33)[:, None]).sum(axis=(1, 2)) / brightness.sum(axis=(1, 2))
    np.testing.assert_allclose(rows, 16, atol=0.2)


def test_balancing_repeats_with_a_seed() -> None:
    images, labels = smooth_pictures(4), np.array([0, 0, 0, 1])
    first, again, other = (balanced(images, labels, 5, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_balancing_to_nothing_returns_the_same_pictures() -> None:
    images, labels = smooth_pictures(4), np.array([0, 0, 0, 1])
    result, result_labels = balanced(images, labels, 0, seed=0)
    np.testing.assert_array_equal(result, images)
    np.testing.assert_array_equal(result_labels, labels)
