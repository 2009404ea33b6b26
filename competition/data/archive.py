"""An .npz of images and labels, read without unpickling, each array checked."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from competition.common.errors import UserError
from competition.data.memory import require_memory

CHUNK = 2**24  # bytes of images that are unpacked at a time
MINIMUM_SIDE = 8
# One for each of training, validation and test, and one to spare for cleaning.
MINIMUM_PER_CLASS = 4

ACCEPTED = (
    "an .npz with 'images' and 'labels', MedMNIST's .npz ('train_images', 'train_labels', ...), "
    "a folder of class folders of images, or one of images and a CSV of their labels"
)


def read_archive(
    path: Path, subsets: tuple[str, ...], limit: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the first images (n, h, w, 3) uint8, `limit` at most (0: all), and all labels.

    The labels are (n,) int64, or None where there are none. Of MedMNIST's file, the splits named by
    `subsets` are joined. Raises UserError, one sentence, for whatever does not fit.
    """
    with _opened(path) as archive:
        prefixes = _choose_prefixes(path, archive.files, subsets)
        headers = {prefix: _check_images(path, archive, prefix) for prefix in prefixes}
        shapes = [header.shape for header in headers.values()]
        if len({shape[1:3] for shape in shapes}) > 1:
            raise UserError(
                f"{path} has images of several sizes in its splits {', '.join(subsets)}; "
                "resize them to one."
            )
        labels = [_read_labels(path, archive, prefix, headers[prefix].shape) for prefix in prefixes]
        known = [each for each in labels if each is not None]
        if 0 < len(known) < len(prefixes):
            raise UserError(
                f"{path} has labels for only some of its splits {', '.join(subsets)}; "
                "save them for all."
            )
        count = sum(shape[0] for shape in shapes)
        count = min(count, limit or count)
        side = shapes[0][1:3]
        require_memory(path, count, 3 * side[0] * side[1])
        images = np.empty((count, *side, 3), np.uint8)
        begin = 0
        for prefix, header in headers.items():
            part = images[begin : begin + header.shape[0]]
            _read_images(archive, f"{prefix}images", header, part)
            begin += len(part)
    if images.max() <= 1:
        raise UserError(
            f"{path} has images whose values are all 0 or 1; expected 0..255: "
            "multiply by 255 before the conversion to uint8."
        )
    return images, np.concatenate(known) if known else None


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an .npz; whatever reading it raises becomes a UserError. Nothing is unpickled."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty; copy or download it again.")
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                raise UserError(f"{path} is not an .npz file; expected {ACCEPTED}.")
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path} does not fit into memory ({error}); take fewer images with "
            "--set data.limit=NUMBER, or smaller ones."
        ) from error
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a truncated file
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds pickled Python objects, which are never loaded; "
                "save its arrays as plain numbers: images as uint8, labels as integers."
            ) from error
        raise UserError(
            f"{path} cannot be read, it seems truncated or damaged ({error}); copy it again."
        ) from error


def _choose_prefixes(path: Path, found: list[str], subsets: tuple[str, ...]) -> list[str]:
    prefixes = [""] if "images" in found else [f"{subset}_" for subset in subsets]
    if not {f"{prefix}images" for prefix in prefixes} <= set(found):
        listed = ", ".join(found[:8]) or "nothing"
        raise UserError(
            f"{path} holds {listed}; expected 'images' and 'labels' (or MedMNIST's "
            f"'{subsets[0]}_images', ...): save the arrays under these names."
        )
    return prefixes


def _open_member(archive: np.lib.npyio.NpzFile, name: str) -> tuple[IO[bytes], _Header]:
    """Return the stream of an array's values, and its header."""
    assert archive.zip is not None
    member = f"{name}.npy" if f"{name}.npy" in archive.zip.namelist() else name
    stream = archive.zip.open(member)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    return stream, _Header(*readers[np.lib.format.read_magic(stream)](stream))


def _read_images(
    archive: np.lib.npyio.NpzFile, name: str, header: _Header, part: np.ndarray
) -> None:
    """Fill `part` (m, h, w, 3) uint8 with the first m images; memory holds little beside it."""
    if header.is_fortran:
        values = archive[name][: len(part)]
        part[:] = values if values.ndim == 4 else values[..., None]
        return
    stream, _ = _open_member(archive, name)
    with stream:
        per_image = math.prod(header.shape[1:])
        step = max(1, CHUNK // per_image)
        for begin in range(0, len(part), step):
            block = part[begin : begin + step]
            content = stream.read(len(block) * per_image)
            values = np.frombuffer(content, np.uint8).reshape(len(block), *header.shape[1:])
            block[:] = values if values.ndim == 4 else values[..., None]


def _check_images(path: Path, archive: np.lib.npyio.NpzFile, prefix: str) -> _Header:
    """Return the header of a split's images; raises UserError unless they are RGB uint8."""
    name = f"{prefix}images"
    stream, header = _open_member(archive, name)
    stream.close()
    shape = header.shape
    received = f"{path} has '{name}' of shape {shape} and type {header.dtype}"
    expected = "expected (n, height, width, 3) uint8 in 0..255"
    if header.dtype.hasobject:
        return _Header(archive[name].shape, False, header.dtype)  # raises for pickled objects
    is_grey = bool(prefix) and len(shape) == 3  # as some of MedMNIST's are
    if not is_grey and (len(shape) != 4 or shape[-1] != 3):
        raise UserError(f"{received}; {expected}: {_mend_shape(shape)}.")
    if shape[0] == 0:
        raise UserError(
            f"{received}, no image at all; {expected}: "
            f"save at least {MINIMUM_PER_CLASS} for each class."
        )
    if min(shape[1:3]) < MINIMUM_SIDE:
        raise UserError(
            f"{received}; images need sides of at least {MINIMUM_SIDE} pixels, so save larger ones."
        )
    if header.dtype != np.uint8:
        require_memory(path, shape[0], math.prod(shape[1:]) * header.dtype.itemsize)
        raise UserError(f"{received}; {expected}: {_mend_type(archive[name])}.")
    return header


def _read_labels(
    path: Path, archive: np.lib.npyio.NpzFile, prefix: str, shape: tuple[int, ...]
) -> np.ndarray | None:
    name = f"{prefix}labels"
    if name not in archive.files:
        return None
    labels = _check_labels(path, name, np.asarray(archive[name]))
    if shape[0] != len(labels):
        raise UserError(
            f"{path} has {shape[0]} images in '{prefix}images' and {len(labels)} labels in "
            f"'{name}'; save one label for each image."
        )
    return labels


def _mend_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "repeat grey images over three channels, np.repeat(images[..., None], 3, axis=-1)"
    if len(shape) == 4 and shape[-1] == 1:
        return "repeat the grey channel, np.repeat(images, 3, axis=-1)"
    if len(shape) == 4 and shape[-1] == 4:
        return "compose the alpha channel on one colour, as PIL.Image.alpha_composite does"
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
        ones = np.count_nonzero(labels, axis=1)
        if labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all() and (ones != 1).any():
            raise UserError(
                f"{received}, several labels per image: {np.count_nonzero(ones == 0)} rows have no "
                f"1 and {np.count_nonzero(ones > 1)} have several; each image needs one class, so "
                "choose one finding, or a file with one label per image."
            )
        if labels.dtype.kind in "biuf" and (ones == 1).all():
            raise UserError(
                f"{received}; {expected}: "
                "turn one-hot rows into numbers with labels.argmax(axis=1)."
            )
        raise UserError(f"{received}; {expected}: save one number for each image.")
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
