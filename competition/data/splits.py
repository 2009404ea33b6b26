"""Splits of the kept images for training, validation and test: `split(cleaned, folder, config)`."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from competition.common.console import say
from competition.common.errors import UserError
from competition.common.figures import draw_class_balance
from competition.common.files import (
    digest,
    if_intact,
    mark_done,
    read_arrays,
    replacing,
    up_to_date,
    write_arrays,
)
from competition.config import Config, SplitConfig
from competition.data.arrays import CleanedData, Splits
from competition.paths import BALANCE, SPLITS_MARKER
from competition.paths import SPLITS as SPLITS_FILE

SPLITS = ("train", "validation", "test")


def split(cleaned: CleanedData, folder: Path, config: Config, force: bool = False) -> Splits:
    """Split the images that cleaning kept, unless that is done already and `force` is off.

    Writes into `folder` splits.npz (the fields of Splits), balance.csv and balance.png (images per
    class) and, last, the marker splits.json. Raises UserError where a class is too small.
    """
    marker = folder / SPLITS_MARKER
    file = folder / SPLITS_FILE
    inputs = split_inputs(cleaned, config)
    if up_to_date(marker, inputs, force or not file.is_file()):
        known = if_intact(read_splits, file)
        if known is not None:
            say(f"done already ({file}); --split --force redoes it.")
            return known
    splits = make_splits(cleaned, config)
    table = count_classes(cleaned, splits)
    marker.unlink(missing_ok=True)  # else it would vouch for new files if this run were cut off
    write_arrays(file, **{**vars(splits), "fingerprint": np.array(splits.fingerprint)})
    with replacing(folder / BALANCE) as temporary:
        table.to_csv(temporary)
    counts = {str(name): table[name].to_numpy() for name in table}
    draw_class_balance(folder / "balance.png", counts, cleaned.dataset.class_names)
    say(table.to_string())
    mark_done(
        marker,
        inputs,
        fingerprint=splits.fingerprint,
        counts={name: int(table[name].sum()) for name in SPLITS},
        settings=dataclasses.asdict(config.split),
    )
    return splits


def split_inputs(cleaned: CleanedData, config: Config) -> str:
    """Return the hash of all that `split` depends on."""
    settings = dataclasses.replace(config.split, balance_to=0)
    arrays = (cleaned.keep, cleaned.groups, cleaned.training_labels)
    return digest(cleaned.dataset.fingerprint, *arrays, dataclasses.asdict(settings), config.seed)


def read_splits(file: Path) -> Splits:
    """Read the splits that `split` wrote; raises DamagedFileError."""
    arrays = read_arrays(file, {**dict.fromkeys(SPLITS, (None,)), "fingerprint": ()})
    indices = {name: arrays[name] for name in SPLITS}
    return Splits(**indices, fingerprint=str(arrays["fingerprint"]))


def make_splits(cleaned: CleanedData, config: Config) -> Splits:
    """Cut the kept images into splits with equal class shares, no group of copies across a border.

    Images without a training label are in the test split alone. The test split is drawn first; it
    depends on the seed and its share alone, not on folds or wrong labels. Raises UserError where a
    split would lack a class.
    """
    settings = config.split
    labels = cleaned.dataset.labels
    groups = cleaned.groups
    kept = np.flatnonzero(cleaned.keep)
    _check_folds(settings)
    test_shares = [settings.test, 1 - settings.test]
    in_test = _cut(labels[kept], groups[kept], test_shares, [config.seed, 0]) == 0
    test = kept[in_test]
    rest = kept[~in_test]
    share = settings.validation / (1 - settings.test)
    shares = [1 / settings.folds] * settings.folds if settings.folds else [share, 1 - share]
    fold = _cut(labels[rest], groups[rest], shares, [config.seed, 1])
    trainable = cleaned.training_labels[rest] >= 0
    rest = rest[trainable]
    fold = fold[trainable]
    for indices in (test, *(rest[fold == number] for number in range(len(shares)))):
        _check_split(cleaned, indices)
    train = rest[fold != settings.fold]
    validation = rest[fold == settings.fold]
    relabelled = cleaned.training_labels[rest] if cleaned.surely_wrong[rest].any() else None
    fingerprint = digest(
        cleaned.dataset.fingerprint,
        train,
        validation,
        test,
        settings.balance_validation_to,
        relabelled,
    )
    return Splits(train, validation, test, fingerprint)


def count_classes(cleaned: CleanedData, splits: Splits) -> pd.DataFrame:
    """Return the images per class: index class, columns all, kept, train, validation, test."""
    labels = cleaned.dataset.labels
    class_names = cleaned.dataset.class_names
    members = {"all": labels, "kept": labels[cleaned.keep]}
    members |= {name: labels[getattr(splits, name)] for name in SPLITS}
    counts = {name: np.bincount(each, minlength=len(class_names)) for name, each in members.items()}
    return pd.DataFrame(counts, index=pd.Index(class_names, name="class"))


def _check_folds(settings: SplitConfig) -> None:
    if settings.folds == 1:
        raise UserError("split.folds got 1, and expects 0 (one validation split) or at least 2.")
    if settings.fold >= max(settings.folds, 1):
        raise UserError(
            f"split.fold got {settings.fold} of {settings.folds} folds; "
            "expects a number from 0 to split.folds - 1, so lower it or raise split.folds."
        )


def _check_split(cleaned: CleanedData, indices: np.ndarray) -> None:
    labels = cleaned.dataset.labels
    class_names = cleaned.dataset.class_names
    counts = np.bincount(labels[indices], minlength=len(class_names))
    if not counts.all():
        absent = int(counts.argmin())
        total = int((labels[cleaned.keep] == absent).sum())
        raise UserError(
            f"Class {absent} ('{class_names[absent]}') has {total} images left after cleaning, "
            "too few for every split to get one; add images of it, see in issues.csv why others "
            "were dropped and keep them with overrides.csv, lower split.folds, or raise split.test "
            "or split.validation."
        )


def _cut(
    labels: np.ndarray, groups: np.ndarray, shares: list[float], seed: list[int]
) -> np.ndarray:
    """Return the split (n,) of each image, 0 to len(shares) - 1: each class is cut in `shares`.

    Groups stay whole. Class by class, each group goes to the split that lacks most of its share:
    the large groups first, groups of one size in random order.
    """
    generator = np.random.default_rng(seed)
    _, first, member_of, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    group_labels = labels[first]
    number_of_group = np.empty(len(first), np.int64)
    for label in np.unique(group_labels):
        members = generator.permutation(np.flatnonzero(group_labels == label))
        members = members[np.argsort(-sizes[members], kind="stable")]
        lacking = [share * float(sizes[members].sum()) for share in shares]
        for group in members:
            number = lacking.index(max(lacking))
            lacking[number] -= sizes[group]
            number_of_group[group] = number
    return number_of_group[member_of]
