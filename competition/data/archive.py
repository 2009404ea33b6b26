"""An .npz of images and labels, read without unpickling, each array checked."""

from pathlib import Path

import numpy as np

from competition.common.errors import UserError

MINIMUM_SIDE = 8
# One for each of training, validation and test, and one to spare for cleaning.
MINIMUM_PER_CLASS = 4

ACCEPTED = (
    "an .npz with 'images' and 'labels', MedMNIST's .npz ('train_images', 'train_labels', ...), "
    "a folder of class folders of images, or one of images and a CSV of their labels"
)


def read_archive(path: Path, subsets: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return images (n, h, w, 3) uint8 and labels (n,) int64, or None where there are no labels.

    Of MedMNIST's file, the splits named by `subsets` are joined. Raises UserError, one sentence,
    for whatever does not fit.
    """
    arrays = _read_arrays(path, subsets)
    prefixes = [name.removesuffix("images") for name in arrays if name.endswith("images")]
    pairs = [_check_pair(path, arrays, prefix) for prefix in prefixes]
    if len({images.shape[1:] for images, _ in pairs}) > 1:
        raise UserError(
            f"{path} has images of several sizes in its splits {', '.join(subsets)}; "
            "resize them to one."
        )
    labels = [labels for _, labels in pairs if labels is not None]
    if 0 < len(labels) < len(pairs):
        raise UserError(
            f"{path} has labels for only some of its splits {', '.join(subsets)}; "
            "save them for all."
        )
    images = np.concatenate([images for images, _ in pairs]) if len(pairs) > 1 else pairs[0][0]
    return images, np.concatenate(labels) if labels else None


def _read_arrays(path: Path, subsets: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the arrays of the file's layout; nothing is unpickled."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty; copy or download it again.")
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                raise UserError(f"{path} is not an .npz file; expected {ACCEPTED}.")
        with np.load(path, allow_pickle=False) as archive:
            names = _choose_names(path, archive.files, subsets)
            return {name: np.asarray(archive[name]) for name in names}
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


def _choose_names(path: Path, found: list[str], subsets: tuple[str, ...]) -> list[str]:
    prefixes = [""] if "images" in found else [f"{subset}_" for subset in subsets]
    if not {f"{prefix}images" for prefix in prefixes} <= set(found):
        listed = ", ".join(found[:8]) or "nothing"
        raise UserError(
            f"{path} holds {listed}; expected 'images' and 'labels' (or MedMNIST's "
            f"'{subsets[0]}_images', ...): save the arrays under these names."
        )
    names = [f"{prefix}{kind}" for prefix in prefixes for kind in ("images", "labels")]
    return [name for name in names if name in found]


def _check_pair(
    path: Path, arrays: dict[str, np.ndarray], prefix: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images and labels whose names begin with `prefix`."""
    images = arrays[f"{prefix}images"]
    if prefix and images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    _check_images(path, f"{prefix}images", images)
    if f"{prefix}labels" not in arrays:
        return images, None
    labels = _check_labels(path, f"{prefix}labels", arrays[f"{prefix}labels"])
    if len(images) != len(labels):
        raise UserError(
            f"{path} has {len(images)} images in '{prefix}images' and {len(labels)} labels in "
            f"'{prefix}labels'; save one label for each image."
        )
    return images, labels


def _check_images(path: Path, name: str, images: np.ndarray) -> None:
    received = f"{path} has '{name}' of shape {images.shape} and type {images.dtype}"
    expected = "expected (n, height, width, 3) uint8 in 0..255"
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"{received}; {expected}: {_mend_shape(images.shape)}.")
    if len(images) == 0:
        raise UserError(
            f"{received}, no image at all; {expected}: "
            f"save at least {MINIMUM_PER_CLASS} for each class."
        )
    if min(images.shape[1:3]) < MINIMUM_SIDE:
        raise UserError(
            f"{received}; images need sides of at least {MINIMUM_SIDE} pixels, so save larger ones."
        )
    if images.dtype != np.uint8:
        raise UserError(f"{received}; {expected}: {_mend_type(images)}.")
    if images.max() <= 1:
        raise UserError(
            f"{received} whose values are all 0 or 1; {expected}: "
            "multiply by 255 before the conversion to uint8."
        )


def _mend_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "repeat grey images over three channels, np.repeat(images[..., None], 3, axis=-1)"
    if len(shape) == 4 and shape[-1] == 1:
        return "repeat the grey channel, np.repeat(images, 3, axis=-1)"
    if len(shape) == 4 and shape[-1] == 4:
        return "drop the alpha channel, images[..., :3]"
    if len(shape) == 4 and shape[1] == 3:
        return "move the channels to the end, images.transpose(0, 2, 3, 1)"
    return "stack colour images of one size, np.stack(images)"


def _mend_type(images: np.ndarray) -> str:
    if images.dtype.kind not in "fiu":
        return "convert it with images.astype('uint8')"
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        return "replace NaN and infinite values, then scale to 0..255 and convert"
    low = images.min()
    high = images.max()
    if low < 0 or high > 255:
        return (
            f"its values run from {low:g} to {high:g}, so scale them to 0..255, "
            "then images.round().astype('uint8')"
        )
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
        raise UserError(f"{received}; {expected}: save one number for each image.")
    if labels.dtype.kind not in "iu":
        raise UserError(
            f"{received}; {expected}: convert it with labels.astype('int64'), "
            "or number the class names."
        )
    flat = labels.reshape(len(labels)).astype(np.int64)
    if flat.size and flat.min() < 0:
        raise UserError(
            f"{received} with a label {flat.min()}; {expected}: number the classes from 0."
        )
    return flat
