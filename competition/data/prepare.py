"""Data ready for training and scoring: written once, as plain arrays that each process maps."""

from pathlib import Path

import numpy as np

from competition.common.console import timed
from competition.common.figures import draw_contact_sheet
from competition.common.files import (
    digest,
    if_intact,
    mark_done,
    replacing,
    require_disk,
    up_to_date,
    write_array,
)
from competition.config import Config
from competition.data.arrays import (
    PREPARED_MARKER,
    CleanedData,
    PreparedData,
    ScoredSet,
    Splits,
    load_prepared,
)
from competition.data.balancing import balance_classes
from competition.distortion.profiles import (
    DISTORTION_VERSION,
    PROFILES,
    TABLES,
    VERSIONS,
    distort,
    draw_corruptions,
    preview,
    selected_versions,
)


def prepare(cleaned: CleanedData, splits: Splits, config: Config, folder: Path) -> PreparedData:
    """Write the splits' images into `folder`, clean and distorted, unless they lie there already.

    Training has its classes balanced where `config.split` says so, and so has validation. Surely
    wrong labels are replaced in both, but never in the test split. The versions that the selection
    score averages over come first, as one block. The parent of `folder` takes a sheet of each
    profile, distortions_<profile>.png.
    """
    selected = selected_versions(config.training.select_by)
    versions = [*selected, *(version for version in VERSIONS if version not in selected)]
    marker = folder / PREPARED_MARKER
    inputs = digest(
        splits.fingerprint,
        cleaned.training_labels,
        config.split.balance_to,
        config.seed,
        DISTORTION_VERSION,
        versions,
        len(selected),
    )
    known = if_intact(load_prepared, folder) if up_to_date(marker, inputs) else None
    if known is None:
        marker.unlink(missing_ok=True)
        require_disk(folder, 50 + 3 * cleaned.dataset.images.nbytes // 2**20)
        with timed("preparing images for training and scoring"):
            _write_training(cleaned, splits, config, folder)
            validation = _cut_validation(cleaned, splits, config)
            hashes = {
                "validation": _write_scored(
                    validation, versions, distortion_seed("validation", config.seed), folder
                ),
                "test": _write_scored(
                    _cut_test(cleaned, splits),
                    versions,
                    distortion_seed("test", config.seed),
                    folder,
                ),
            }
            _draw_sheets(validation.versions["clean"], config.seed, folder.parent)
        mark_done(
            marker,
            inputs,
            class_names=cleaned.dataset.class_names,
            fingerprint=splits.fingerprint,
            versions=versions,
            selected=len(selected),
            distortion=digest(hashes),
            selection=digest({version: hashes["validation"][version] for version in selected}),
        )
        known = load_prepared(folder)
    return known


def distortion_seed(split: str, seed: int) -> int:
    """Return the seed by which the images of `validation` or `test` are distorted."""
    return 10 * seed + {"validation": 1, "test": 2}[split]


def _write_training(cleaned: CleanedData, splits: Splits, config: Config, folder: Path) -> None:
    images = cleaned.dataset.images[splits.train]
    labels = cleaned.training_labels[splits.train]
    if config.split.balance_to:
        images, labels = balance_classes(images, labels, config.split.balance_to, config.seed)
    write_array(folder / "train_images.npy", images)
    write_array(folder / "train_labels.npy", labels)


def _cut_validation(cleaned: CleanedData, splits: Splits, config: Config) -> ScoredSet:
    images = cleaned.dataset.images[splits.validation]
    labels = cleaned.training_labels[splits.validation]
    per_class = config.split.balance_validation_to
    if per_class:
        images, labels = balance_classes(images, labels, per_class, config.seed + 1)
    return ScoredSet("validation", {"clean": images}, labels, np.zeros(len(labels), bool))


def _cut_test(cleaned: CleanedData, splits: Splits) -> ScoredSet:
    return ScoredSet(
        "test",
        {"clean": cleaned.dataset.images[splits.test]},
        cleaned.dataset.labels[splits.test],
        cleaned.surely_wrong[splits.test],
    )


def _write_scored(
    scored: ScoredSet, versions: list[str], seed: int, folder: Path
) -> dict[str, str]:
    """Write a set, its clean images distorted version by version; return each version's hash."""
    images = scored.versions["clean"]
    hashes = {}
    with replacing(folder / f"{scored.name}_images.npy") as temporary:
        block = np.lib.format.open_memmap(
            temporary, "w+", np.dtype(np.uint8), (len(versions), *images.shape)
        )
        for place, version in zip(block, versions, strict=True):
            place[:] = images if version == "clean" else distort(images, version, seed)
            hashes[version] = digest(place)
        block.flush()
    met = np.stack([draw_corruptions(profile, len(images), seed)[0] for profile in TABLES])
    write_array(folder / f"{scored.name}_labels.npy", scored.labels)
    write_array(folder / f"{scored.name}_surely_wrong.npy", scored.surely_wrong)
    write_array(folder / f"{scored.name}_families.npy", met)
    return hashes


def _draw_sheets(images: np.ndarray, seed: int, folder: Path) -> None:
    """Write a sheet of each profile into `folder`, of twelve images from all over `images`."""
    few = images[np.linspace(0, len(images) - 1, 12).astype(int)]
    for profile in PROFILES:
        sheet = preview(few, profile, seed)
        draw_contact_sheet(folder / f"distortions_{profile}.png", sheet, columns=6)
