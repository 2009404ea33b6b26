"""Which kept pictures train, validate and test; and the balancing of classes by geometric augmentation."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from competition.common.errors import UserError
from competition.common.files import digest, mark_done, read_arrays, replacing, write_arrays
from competition.config import Config, SplitConfig
from competition.data.arrays import Dataset

if TYPE_CHECKING:
    import pandas as pd
from competition.data.arrays import Splits

PARTS = ("train", "validation", "test")
# The arrays that cleaning leaves.
CLEANED = ("keep", "groups", "doubtful")


def split(dataset: Dataset, folder: Path, config: Config) -> Splits:
    """Split what cleaning kept, by its arrays in `folder`; writes splits.npz, balance.csv, splits.json.

    Raises UserError where cleaning has not run on this data set, or a class is too small.
    """
    inputs = splits_inputs(dataset, folder, config)
    keep, groups, doubtful = (
        read_cleaned(folder / f"{name}.npy", len(dataset.labels)) for name in CLEANED
    )
    splits = make_splits(dataset, keep, groups, doubtful, config)
    indices = {part: getattr(splits, part) for part in PARTS}
    # The old marker must not vouch for new files, should this run be cut off between them.
    (folder / "splits.json").unlink(missing_ok=True)
    write_arrays(
        folder / "splits.npz",
        **indices,
        doubtful=doubtful,
        fingerprint=np.array(splits.fingerprint),
    )
    with replacing(folder / "balance.csv") as temporary:
        class_balance_table(dataset, keep, splits).to_csv(temporary, index=False)
    counts = {part: len(chosen) for part, chosen in indices.items()}
    settings = dataclasses.asdict(config.split)
    mark_done(
        folder / "splits.json",
        inputs,
        fingerprint=splits.fingerprint,
        counts=counts,
        settings=settings,
    )
    return splits


def splits_inputs(dataset: Dataset, folder: Path, config: Config) -> str:
    """Return the hash of all that `split` depends on; raises UserError where cleaning's files are missing."""
    files = [folder / f"{name}.npy" for name in CLEANED]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"There is no {file}; run the cleaning stage (--clean) before the split."
            )
    settings = dataclasses.asdict(dataclasses.replace(config.split, balance_to=0))
    return digest(dataset.fingerprint, *files, settings, config.cleaning.wrong_labels, config.seed)


def read_splits(folder: Path) -> Splits:
    """Read what `split` wrote; raises UserError where it is missing or broken."""
    arrays = read_arrays(folder / "splits.npz")
    if missing := {*PARTS, "doubtful", "fingerprint"} - set(arrays):
        raise UserError(
            f"{folder / 'splits.npz'} lacks '{min(missing)}'; delete it and run the stage again."
        )
    indices = {part: arrays[part] for part in PARTS}
    return Splits(**indices, doubtful=arrays["doubtful"], fingerprint=str(arrays["fingerprint"]))


def read_cleaned(file: Path, length: int) -> np.ndarray:
    """Read one of cleaning's arrays (n,): keep.npy as bool, the others as int64; raises UserError."""
    try:
        values = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy raises several kinds for a truncated file
        raise UserError(
            f"{file} cannot be read ({error}); run the cleaning stage (--clean) again."
        ) from error
    if (
        not isinstance(values, np.ndarray)
        or values.shape != (length,)
        or values.dtype.kind not in "biu"
    ):
        raise UserError(
            f"{file} does not fit the {length} pictures; run the cleaning stage (--clean) again."
        )
    return values.astype(bool if file.stem == "keep" else np.int64)


def make_splits(
    dataset: Dataset, keep: np.ndarray, groups: np.ndarray, doubtful: np.ndarray, config: Config
) -> Splits:
    """Cut the kept pictures into parts with equal class shares, no group across a border.

    keep: (n,) bool. groups: (n,) int64, equal numbers for copies of one picture. doubtful: see Splits; where
    `config.cleaning.wrong_labels` is `drop`, these pictures are in no part but test. The test part is drawn first and
    depends on the seed and its share alone, not on the folds or on what is doubtful. Raises UserError where a part
    would lack a class.
    """
    _check_folds(config.split)
    settings, kept = config.split, np.flatnonzero(keep)
    _check_classes(dataset, np.bincount(dataset.labels[kept], minlength=len(dataset.class_names)))
    in_test = (
        _cut(
            dataset.labels[kept], groups[kept], [settings.test, 1 - settings.test], [config.seed, 0]
        )
        == 0
    )
    test, rest = kept[in_test], kept[~in_test]
    share = settings.validation / (1 - settings.test)
    shares = [1 / settings.folds] * settings.folds if settings.folds else [share, 1 - share]
    part = _cut(dataset.labels[rest], groups[rest], shares, [config.seed, 1])
    if config.cleaning.wrong_labels == "drop":
        rest, part = rest[doubtful[rest] < 0], part[doubtful[rest] < 0]
    for indices in (test, *(rest[part == number] for number in range(len(shares)))):
        _check_part(dataset, kept, indices)
    train, validation = rest[part != settings.fold], rest[part == settings.fold]
    relabelled = doubtful[rest] if config.cleaning.wrong_labels == "relabel" else None
    fingerprint = digest(
        dataset.fingerprint, train, validation, test, settings.balance_validation_to, relabelled
    )
    return Splits(train, validation, test, doubtful, fingerprint)


def class_balance_table(dataset: Dataset, keep: np.ndarray, splits: Splits) -> "pd.DataFrame":
    """Return the pictures of each class: columns class, all, kept, train, validation, test."""
    import pandas as pd  # loading it takes longer than all else here

    chosen = {"all": np.arange(len(keep)), "kept": np.flatnonzero(keep)}
    chosen |= {part: getattr(splits, part) for part in PARTS}
    num_classes = len(dataset.class_names)
    counts = {
        name: np.bincount(dataset.labels[rows], minlength=num_classes)
        for name, rows in chosen.items()
    }
    return pd.DataFrame({"class": dataset.class_names, **counts})


def _check_folds(settings: SplitConfig) -> None:
    if settings.folds == 1:
        raise UserError("split.folds got 1, and expects 0 (one validation part) or at least 2.")
    if settings.fold >= max(settings.folds, 1):
        raise UserError(
            f"split.fold got {settings.fold} of {settings.folds} folds; "
            "expects a number from 0 to split.folds - 1, so lower it or raise split.folds."
        )


def _check_classes(dataset: Dataset, counts: np.ndarray) -> None:
    rarest = int(counts.argmin())
    if counts[rarest] < len(PARTS):
        raise UserError(
            f"Class {rarest} ('{dataset.class_names[rarest]}') has {counts[rarest]} pictures left after cleaning; the "
            f"three parts need at least one each, so add pictures of it, or look into issues.csv at what was dropped."
        )


def _check_part(dataset: Dataset, kept: np.ndarray, indices: np.ndarray) -> None:
    num_classes = len(dataset.class_names)
    counts = np.bincount(dataset.labels[indices], minlength=num_classes)
    if not counts.all():
        absent = int(counts.argmin())
        total = int((dataset.labels[kept] == absent).sum())
        raise UserError(
            f"Class {absent} ('{dataset.class_names[absent]}') has {total} pictures after cleaning, too few for every "
            "part to get one; add pictures of it, lower split.folds, or raise split.test or split.validation."
        )


def _cut(
    labels: np.ndarray, groups: np.ndarray, shares: list[float], seed: list[int]
) -> np.ndarray:
    """Return the part (n,) of each picture, 0 to len(shares) - 1: whole groups, each class in the given shares.

    Class by class, groups in random order, the large ones first, go to the part that lacks most of its share.
    """
    generator = np.random.default_rng(seed)
    _, first, member_of, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    group_labels = labels[first]
    part_of_group = np.empty(len(first), np.int64)
    for label in np.unique(group_labels):
        members = generator.permutation(np.flatnonzero(group_labels == label))
        members = members[np.argsort(-sizes[members], kind="stable")]
        lacking = [share * float(sizes[members].sum()) for share in shares]
        for group in members:
            part = lacking.index(max(lacking))
            lacking[part] -= sizes[group]
            part_of_group[group] = part
    return part_of_group[member_of]
