"""Image files: finding them in a folder, and reading them as arrays of one size."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from competition.common.console import printable, progress, say
from competition.common.errors import UserError
from competition.config import DataConfig
from competition.data.memory import require_memory
from competition.paths import DATA_MARKER, OWN_MARKERS, RUNS

IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".tif", ".tiff",
    ".webp", ".avif", ".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx",
)  # fmt: skip
# Formats of images that Pillow does not read, or reads in part; their files are counted.
FOREIGN_SUFFIXES = (
    ".heic", ".heif", ".jxl", ".svg", ".psd", ".exr", ".dcm", ".dicom", ".nii", ".czi", ".nd2",
    ".lif", ".oib", ".vsi", ".svs", ".ndpi", ".mrxs", ".scn", ".raw", ".dng", ".nef", ".cr2",
    ".arw",
)  # fmt: skip
NO_IMAGES = "holds no images (PNG, JPEG, BMP, TIFF, WebP, GIF); put them into it"
MOST_NAMED = 8  # unreadable files in one sentence


def find_images(folder: Path) -> list[Path]:
    """Return the image files of a folder at any depth, sorted.

    Hidden ones do not count, and neither do folders that this program wrote. Files of image formats
    that are not read are counted and said. Raises UserError where a folder may not be read.
    """
    files: list[Path] = []
    foreign: Counter[str] = Counter()
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(place)
        is_ours = not set(OWN_MARKERS).isdisjoint(names)
        is_ours |= DATA_MARKER in names and RUNS in folders
        if real in seen or is_ours:  # seen: a link leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if is_hidden(name):
                continue
            if suffix in IMAGE_SUFFIXES:
                files.append(Path(place, name))
            elif suffix in FOREIGN_SUFFIXES:
                foreign[suffix] += 1
    if foreign:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(foreign.items()))
        say(f"LEFT OUT of {folder}, as these formats are not read: {listed}; convert them to PNG.")
    return files


def _refuse_folder(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be listed ({error.strerror}); "
        "change its permissions, for example with chmod +rx."
    ) from error


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of that name is another program's own."""
    return name.startswith((".", "__"))


def read_images(files: list[Path], config: DataConfig) -> tuple[np.ndarray, dict[int, str]]:
    """Return images (n, size, size, 3) uint8 RGB, and by index why some are unreadable.

    Unreadable images are black. One thread per processor reads. Says how many images have
    transparent parts, and how many files hold several images.
    """
    shape = (config.size, config.size, 3)
    require_memory(files[0].parent if files else Path(), len(files), int(np.prod(shape)))
    images = np.zeros((len(files), *shape), np.uint8)
    unreadable: dict[int, str] = {}
    special: list[str] = []

    def read(index: int) -> None:
        try:
            images[index] = _read_image(files[index], config, special)
        except MemoryError:
            raise
        except UnidentifiedImageError:
            unreadable[index] = (
                f"{printable(str(files[index]))}: not an image, whatever its name says"
            )
        except Exception as error:  # each format of Pillow raises its own kinds for a damaged file
            unreadable[index] = printable(f"{files[index]}: {error}")

    with ThreadPool(os.cpu_count()) as pool:
        done = pool.imap(read, range(len(files)), 16)
        for _ in progress(done, "reading images", len(files), "image"):
            pass
    if count := special.count("transparent"):
        say(f"{count} images are transparent in part; there they show {config.background}.")
    if count := special.count("several"):
        say(f"{count} files hold several images (pages, frames); the first of each is read.")
    return images, dict(sorted(unreadable.items()))


def refuse_unreadable(unreadable: Mapping[int, str], total: int, share: float) -> None:
    """Raise UserError, naming the files, where more than a share of `total` cannot be read."""
    if len(unreadable) <= share * total:
        return
    reasons = list(unreadable.values())
    more = f", and {len(reasons) - MOST_NAMED} more" if len(reasons) > MOST_NAMED else ""
    allowed = f", or raise data.unreadable (now {share:g})" if share else ""
    raise UserError(
        f"{len(reasons)} of {total} files cannot be read as an image; replace or delete "
        f"them{allowed}: {'; '.join(reasons[:MOST_NAMED])}{more}."
    )


def _read_image(file: Path, config: DataConfig, special: list[str]) -> np.ndarray:
    """Return one image (size, size, 3), the camera's orientation applied.

    Transparent parts show the background. special: takes a word per thing to count.
    """
    if not file.is_file():  # opening a pipe would wait for good
        raise FileNotFoundError("no such file")
    with Image.open(file) as opened:
        if _is_deep(opened):
            raise ValueError("more than 8 bits per channel; convert it to 8-bit RGB")
        if opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1:
            special.append("several")
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            layers = image.convert("RGBA")
            if layers.getchannel("A").getextrema() != (255, 255):
                special.append("transparent")
                ground = Image.new("RGBA", layers.size, config.background)
                image = Image.alpha_composite(ground, layers)
        return make_square(image.convert("RGB"), config)


def _is_deep(image: Image.Image) -> bool:
    """Tell whether an image that is not decoded yet has more than 8 bits per channel."""
    if image.mode.startswith(("I", "F")):
        return True
    tiles: list[Any] = getattr(image, "tile", [])
    modes = [tile.args for tile in tiles]  # 'RGB;16B', alone or first in a tuple
    modes = [mode[0] if isinstance(mode, tuple) and mode else mode for mode in modes]
    return any(re.search(";16[BLN]", str(mode)) for mode in modes)


def make_square(image: Image.Image, config: DataConfig) -> np.ndarray:
    """Return an image of any size as (size, size, 3) uint8, resized as `config.resize` says."""
    shape = (config.size, config.size)
    lanczos = Image.Resampling.LANCZOS
    if config.resize == "stretch":
        return np.asarray(image.resize(shape, lanczos))
    if config.resize == "crop":
        return np.asarray(ImageOps.fit(image, shape, lanczos))
    inner = np.asarray(ImageOps.contain(image, shape, lanczos))
    rows, columns = (config.size - side for side in inner.shape[:2])
    around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(inner, around, "symmetric" if config.fill == "reflect" else "constant")
