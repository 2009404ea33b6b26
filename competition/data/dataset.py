"""Reading a labelled set of pictures, from an .npz or from files in a folder, with every check before long work."""

from pathlib import Path

import numpy as np
from PIL import Image

from competition.common.console import progress
from competition.common.errors import UserError
from competition.common.files import require_readable
from competition.config import DataConfig
from competition.data.arrays import Dataset
from competition.data.folder import TABLE_SUFFIXES, list_pictures, make_square, read_pictures

CLASS_NAMES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)
MINIMUM_SIDE = 8
# One for each of training, validation and test, and one to spare for cleaning.
MINIMUM_PER_CLASS = 4

_ACCEPTED = (
    "an .npz with 'images' and 'labels', MedMNIST's .npz ('train_images', 'train_labels', ...), "
    "a folder of class folders of pictures, or one of pictures and a CSV of their labels"
)


def load_dataset(path: Path, config: DataConfig) -> Dataset:
    """Read the training data; raises UserError, one sentence, for whatever does not fit.

    path: an .npz with `images` (n, h, w, 3) uint8 and `labels` (n,) or (n, 1); MedMNIST's .npz, of which the train
    and val parts are joined and the test part is left alone (`load_test` reads it), grey pictures becoming three equal
    channels; or PNG, JPEG, BMP or TIFF files as `list_pictures` finds them. Files, and arrays whose pictures are not
    square, are brought to `config.size` as `config.resize` says. `config.limit` keeps the first pictures.
    """
    limit = config.limit or None
    if _lies_as_files(path):
        files, labels, names = list_pictures(path, config, ())
        labels = _require_labels(path, labels)
        names = names or _number_classes(path, labels)
        _check_counts(path, labels[:limit], names, config.limit)
        return Dataset(read_pictures(files[:limit], config), labels[:limit], names)
    images, labels = _read_archive(path, ("train", "val"))
    labels = _require_labels(path, labels)
    names = _number_classes(path, labels)
    if len(names) == len(CLASS_NAMES) and not _is_grey(images):
        names = CLASS_NAMES
    _check_counts(path, labels[:limit], names, config.limit)
    return Dataset(_square_all(images[:limit], config), labels[:limit], names)


def load_test(
    path: Path, config: DataConfig, class_names: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read pictures to be scored (n, h, w, 3) uint8, and their labels (n,) int64 where they are given, else None.

    The same layouts and checks as `load_dataset`, but labels are optional, a class may be missing, MedMNIST's test part
    is what is read, and a folder may hold the pictures themselves. class_names: those of the training data, which
    give class folders their numbers and labels their bound.
    """
    limit = config.limit or None
    images = None
    if _lies_as_files(path):
        files, labels, _ = list_pictures(path, config, class_names)
    else:
        images, labels = _read_archive(path, ("test",))
    if labels is not None and class_names and labels.max() >= len(class_names):
        raise UserError(
            f"{path} has a label {labels.max()}, and the training data has the classes 0 to {len(class_names) - 1}; "
            "number both in the same way."
        )
    kept = (
        read_pictures(files[:limit], config)
        if images is None
        else _square_all(images[:limit], config)
    )
    return kept, None if labels is None else labels[:limit]


def _lies_as_files(path: Path) -> bool:
    if not path.exists():
        raise UserError(f"There is no {path}; give the path of {_ACCEPTED}.")
    return require_readable(path).is_dir() or path.suffix.lower() in TABLE_SUFFIXES


def _square_all(images: np.ndarray, config: DataConfig) -> np.ndarray:
    """Return square pictures as they are, and others as `config.resize` says."""
    if images.shape[1] == images.shape[2]:
        return images
    squares = np.empty((len(images), config.size, config.size, 3), np.uint8)
    for index, image in enumerate(progress(images, "resizing pictures", unit="picture")):
        squares[index] = make_square(Image.fromarray(image), config)
    return squares


def _require_labels(path: Path, labels: np.ndarray | None) -> np.ndarray:
    if labels is None:
        raise UserError(f"{path} holds pictures without labels; expected {_ACCEPTED}.")
    return labels


def _read_archive(path: Path, parts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = _read_arrays(path, parts)
    if "images" in arrays:
        return _check_part(path, arrays, "")
    pairs = [_check_part(path, arrays, f"{part}_") for part in parts]
    if len({images.shape[1:] for images, _ in pairs}) > 1:
        raise UserError(
            f"{path} has pictures of several sizes in its parts {', '.join(parts)}; resize them to one."
        )
    labels = [labels for _, labels in pairs if labels is not None]
    if 0 < len(labels) < len(pairs):
        raise UserError(
            f"{path} has labels for only some of its parts {', '.join(parts)}; save them for all."
        )
    return np.concatenate([images for images, _ in pairs]), np.concatenate(
        labels
    ) if labels else None


def _read_arrays(path: Path, parts: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the arrays of the file's layout; nothing is unpickled."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty; copy or download it again.")
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                raise UserError(f"{path} is not an .npz file; expected {_ACCEPTED}.")
        with np.load(path, allow_pickle=False) as archive:
            return {
                name: np.asarray(archive[name])
                for name in _choose_names(path, archive.files, parts)
            }
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a truncated file
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds pickled Python objects, which are never loaded; "
                "save its arrays as plain numbers: images as uint8, labels as integers."
            ) from error
        raise UserError(
            f"{path} cannot be read, it seems truncated or damaged ({error}); copy it again."
        ) from error


def _choose_names(path: Path, found: list[str], parts: tuple[str, ...]) -> list[str]:
    prefixes = [""] if "images" in found else [f"{part}_" for part in parts]
    if not {f"{prefix}images" for prefix in prefixes} <= set(found):
        listed = ", ".join(found[:8]) or "nothing"
        raise UserError(
            f"{path} holds {listed}; expected 'images' and 'labels' (or MedMNIST's '{parts[0]}_images', ...): "
            "save the arrays under these names."
        )
    return [
        f"{prefix}{kind}"
        for prefix in prefixes
        for kind in ("images", "labels")
        if f"{prefix}{kind}" in found
    ]


def _check_part(
    path: Path, arrays: dict[str, np.ndarray], prefix: str
) -> tuple[np.ndarray, np.ndarray | None]:
    images = arrays[f"{prefix}images"]
    if prefix and images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    _check_images(path, f"{prefix}images", images)
    if f"{prefix}labels" not in arrays:
        return images, None
    labels = _check_labels(path, f"{prefix}labels", arrays[f"{prefix}labels"])
    if len(images) != len(labels):
        raise UserError(
            f"{path} has {len(images)} pictures in '{prefix}images' and {len(labels)} labels in '{prefix}labels'; "
            "save one label for each picture."
        )
    return images, labels


def _check_images(path: Path, name: str, images: np.ndarray) -> None:
    received = f"{path} has '{name}' of shape {images.shape} and type {images.dtype}"
    expected = "expected (n, height, width, 3) uint8 in 0..255"
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"{received}; {expected}: {_mend_shape(images.shape)}.")
    if len(images) == 0:
        raise UserError(
            f"{received}, no picture at all; {expected}: save at least {MINIMUM_PER_CLASS} for each class."
        )
    if min(images.shape[1:3]) < MINIMUM_SIDE:
        raise UserError(
            f"{received}; pictures need sides of at least {MINIMUM_SIDE} pixels, so save larger ones."
        )
    if images.dtype != np.uint8:
        raise UserError(f"{received}; {expected}: {_mend_type(images)}.")
    if images.max() <= 1:
        raise UserError(
            f"{received} whose values are all 0 or 1; {expected}: multiply by 255 before the conversion to uint8."
        )


def _mend_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "repeat grey pictures over three channels, np.repeat(images[..., None], 3, axis=-1)"
    if len(shape) == 4 and shape[-1] == 1:
        return "repeat the grey channel, np.repeat(images, 3, axis=-1)"
    if len(shape) == 4 and shape[-1] == 4:
        return "drop the alpha channel, images[..., :3]"
    if len(shape) == 4 and shape[1] == 3:
        return "move the channels to the end, images.transpose(0, 2, 3, 1)"
    return "stack colour pictures of one size, np.stack(pictures)"


def _mend_type(images: np.ndarray) -> str:
    if images.dtype.kind not in "fiu":
        return "convert it with images.astype('uint8')"
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        return "replace NaN and infinite values, then scale to 0..255 and convert"
    low, high = images.min(), images.max()
    if low < 0 or high > 255:
        return f"its values run from {low:g} to {high:g}, so scale them to 0..255, then images.round().astype('uint8')"
    if images.dtype.kind == "f" and high <= 1:
        return "its values run from 0 to 1, so convert with (images * 255).round().astype('uint8')"
    return "convert with images.round().astype('uint8')"


def _check_labels(path: Path, name: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as (n,) int64."""
    received = f"{path} has '{name}' of shape {labels.shape} and type {labels.dtype}"
    expected = "expected whole numbers 0..K-1 of shape (n,) or (n, 1)"
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise UserError(
            f"{received}; {expected}: turn one-hot rows into numbers with labels.argmax(axis=1)."
        )
    if labels.ndim not in (1, 2):
        raise UserError(f"{received}; {expected}: save one number for each picture.")
    if labels.dtype.kind not in "iu":
        raise UserError(
            f"{received}; {expected}: convert it with labels.astype('int64'), or number the class names."
        )
    flat = labels.reshape(len(labels)).astype(np.int64)
    if flat.size and flat.min() < 0:
        raise UserError(
            f"{received} with a label {flat.min()}; {expected}: number the classes from 0."
        )
    return flat


def _number_classes(path: Path, labels: np.ndarray) -> tuple[str, ...]:
    """Return names for labels that are numbers, without a gap."""
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))):
        missing = np.setdiff1d(np.arange(len(present)), present)[0]
        raise UserError(
            f"{path} has labels up to {present[-1]} but no picture of class {missing}; "
            f"expected every number from 0 to the last, so renumber the {len(present)} classes without gaps."
        )
    return tuple(f"class {number}" for number in present)


def _is_grey(images: np.ndarray) -> bool:
    first = images[:MINIMUM_PER_CLASS]
    return bool((first == first[..., :1]).all())


def _check_counts(path: Path, labels: np.ndarray, class_names: tuple[str, ...], limit: int) -> None:
    hint = f", or raise the limit of {limit} pictures (data.limit)" if limit else ""
    if len(class_names) < 2:
        raise UserError(
            f"{path} has only the class '{class_names[0]}'; expected two or more, so add another class."
        )
    counts = np.bincount(labels, minlength=len(class_names))
    rarest = int(counts.argmin())
    if counts[rarest] < MINIMUM_PER_CLASS:
        raise UserError(
            f"{path} has {counts[rarest]} pictures of class {rarest} ('{class_names[rarest]}'); a split needs at least "
            f"{MINIMUM_PER_CLASS}, so add some or leave the class out{hint}."
        )
