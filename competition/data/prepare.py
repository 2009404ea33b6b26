"""Pictures ready for training and scoring: made once, kept as plain arrays, mapped by each process that needs them."""

from pathlib import Path

import numpy as np

from competition.common.console import timed
from competition.common.figures import draw_contact_sheet
from competition.common.files import (
    digest,
    map_array,
    mark_done,
    replacing,
    require_disk,
    up_to_date,
    write_array,
)
from competition.config import Config
from competition.data.arrays import Dataset, PreparedData, Splits, load_prepared
from competition.data.balancing import balanced
from competition.distortion.profiles import (
    DISTORTION_VERSION,
    PROFILES,
    TABLES,
    VERSIONS,
    distort,
    families,
    preview,
    selected_versions,
)


def prepare(dataset: Dataset, splits: Splits, config: Config, folder: Path) -> PreparedData:
    """Cut `dataset` by `splits` into training (balanced where asked), validation and test, clean and distorted.

    folder: takes the arrays, and is left as it is where they lie there already; its parent takes a sheet of each
    profile, distortions_<profile>.png. The versions that are selected by come first, as one block.
    """
    selected = selected_versions(config.training.select_by)
    order = [*selected, *(version for version in VERSIONS if version not in selected)]
    marker, balance = (
        folder / "prepared.json",
        [config.split.balance_to, config.split.balance_validation_to],
    )
    settings = [
        *balance,
        config.cleaning.wrong_labels,
        config.seed,
        DISTORTION_VERSION,
        order,
        len(selected),
    ]
    inputs = digest(splits.fingerprint, splits.doubtful, settings)
    if not up_to_date(marker, inputs):
        marker.unlink(missing_ok=True)
        require_disk(folder, 50 + 3 * dataset.images.nbytes // 2**20)
        with timed("preparing pictures for training and scoring"):
            _write_training(dataset, splits, config, folder)
            hashes = {
                name: _write_scored(dataset, splits, config, folder, name, order)
                for name in ("validation", "test")
            }
            _draw_sheets(folder, order.index("clean"), config.seed)
        facts = {
            "class_names": dataset.class_names,
            "fingerprint": splits.fingerprint,
            "distortion": digest(hashes),
        }
        selection = digest({version: hashes["validation"][version] for version in selected})
        mark_done(
            marker, inputs, **facts, versions=order, selected=len(selected), selection=selection
        )
    return load_prepared(folder)


def _write_training(dataset: Dataset, splits: Splits, config: Config, folder: Path) -> None:
    images, labels = dataset.images[splits.train], _labels_of(dataset, splits, config, "train")
    if config.split.balance_to:
        images, labels = balanced(images, labels, config.split.balance_to, config.seed)
    write_array(folder / "train_images.npy", images)
    write_array(folder / "train_labels.npy", labels)


def _labels_of(dataset: Dataset, splits: Splits, config: Config, part: str) -> np.ndarray:
    """Return the labels of a part: surely wrong ones replaced where `config.cleaning` says so, but never in test."""
    labels, indices = dataset.labels, getattr(splits, part)
    if config.cleaning.wrong_labels == "relabel" and part != "test":
        labels = np.where(splits.doubtful < 0, labels, splits.doubtful)
    return np.asarray(labels[indices])


def _write_scored(
    dataset: Dataset, splits: Splits, config: Config, folder: Path, name: str, order: list[str]
) -> dict[str, str]:
    """Write the clean and the distorted pictures, one version after the other; return each version's hash."""
    indices = getattr(splits, name)
    images, labels = dataset.images[indices], _labels_of(dataset, splits, config, name)
    doubtful = (splits.doubtful[indices] >= 0) & (name == "test")
    if name == "validation" and config.split.balance_validation_to:
        images, labels = balanced(
            images, labels, config.split.balance_validation_to, config.seed + 1
        )
        doubtful = np.zeros(len(labels), bool)
    seed, hashes = 10 * config.seed + (1 if name == "validation" else 2), {}
    with replacing(folder / f"{name}_images.npy") as temporary:
        pictures = np.lib.format.open_memmap(
            temporary, "w+", np.dtype(np.uint8), (len(order), *images.shape)
        )
        for place, version in zip(pictures, order, strict=True):
            place[:] = images if version == "clean" else distort(images, version, seed)
            hashes[version] = digest(place)
        pictures.flush()
    write_array(folder / f"{name}_labels.npy", labels)
    write_array(folder / f"{name}_doubtful.npy", doubtful)
    write_array(
        folder / f"{name}_families.npy",
        np.stack([families(version, len(labels), seed) for version in TABLES]),
    )
    return hashes


def _draw_sheets(folder: Path, clean: int, seed: int) -> None:
    """Write a sheet of each profile beside `folder`, of twelve pictures from all over validation."""
    images = map_array(folder / "validation_images.npy")[clean]
    few = images[np.linspace(0, len(images) - 1, 12).astype(int)]
    for profile in PROFILES:
        draw_contact_sheet(
            folder.parent / f"distortions_{profile}.png", preview(few, profile, seed), columns=6
        )
