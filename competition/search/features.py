"""What the frozen part of a network makes of pictures: computed once, kept on disk, trained on by a search's trials.

Nothing below the border from which a trial trains ever changes, so some augmented views of each training picture, and
each validation picture, pass it once. One pass gives what crosses every border that a trial may train from, and the
pooled output of the whole backbone, which heads are trained on. A network that is trained on this sees in each epoch
one of the views instead of a fresh one, rounded to float16, and below the border no block is dropped at random.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from filelock import FileLock

from competition.augmentation.augment import compile_augmentation
from competition.common.console import progress, say
from competition.common.errors import UserError
from competition.common.files import (
    digest,
    map_array,
    mark_done,
    read_json,
    require_disk,
    up_to_date,
    write_json,
)
from competition.common.settings import flatten
from competition.config import Config
from competition.data.arrays import TrainingData, one_hot
from competition.networks.layers import (
    create_network,
    find_backbone,
    find_border,
    lower_part,
    network_spec,
)
from competition.networks.weights import Weights

BATCH_SIZE = 64
PARTS_A_NOTE = 16  # batches after which a build notes how far it is


@dataclass(frozen=True)
class Features:
    """The cached activations in `folder`, mapped when they are asked for; validation_labels: (m,) int.

    seconds_per_picture: what the frozen backbone took for one.
    """

    folder: Path
    validation_labels: np.ndarray
    seconds_per_picture: float

    def training(self, border: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return views (K, n, ...) float16 and labels (K, n, classes) float32; None: the pooled output."""
        return map_array(self.folder / f"training_{_name(border)}.npy"), map_array(
            self.folder / "labels.npy"
        )

    def validation(self, border: int | None) -> np.ndarray:
        """Return (m, ...) float16."""
        return map_array(self.folder / f"validation_{_name(border)}.npy")


def cache_features(
    config: Config, data: TrainingData, weights: Weights, shares: Sequence[float], folder: Path
) -> Features:
    """Return the features of `data` for each share of the backbone that may train; build what is missing or damaged.

    folder: takes one subfolder, named after a hash of what went in; others are removed.
    A build that was killed goes on. Raises UserError where not one view fits the disk or `search.cache_megabytes`.
    """
    settings = {
        key: value for key, value in flatten(config).items() if key.startswith("augmentation.")
    }
    arrays = data.images, data.labels, data.validation_images, data.validation_labels
    made_of = [
        settings,
        config.seed,
        config.model.input_size,
        config.search.cached_copies,
        config.search.cache_megabytes,
    ]
    inputs = digest(*arrays, *made_of, sorted(shares), weights.fingerprint, keras.backend.backend())
    place = folder / inputs
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not _is_whole(place, inputs):
            for other in folder.iterdir():
                if other.is_dir() and other != place:
                    shutil.rmtree(other)
            seconds = _Build(config, data, weights, shares, place).run()
            files = {path.name: _stamp(path) for path in sorted(place.glob("*.npy"))}
            mark_done(place / "features.json", inputs, files=files, seconds_per_picture=seconds)
    return Features(
        place, data.validation_labels, read_json(place / "features.json")["seconds_per_picture"]
    )


def _is_whole(place: Path, inputs: str) -> bool:
    """Tell whether all files are as they were written, by size and time; of a damaged cache nothing stays."""
    marker = place / "features.json"
    if not up_to_date(marker, inputs):
        return False
    files = read_json(marker)["files"].items()
    if all((place / name).is_file() and _stamp(place / name) == known for name, known in files):
        return True
    say(f"The cached features in {place} are damaged; they are computed anew.")
    shutil.rmtree(place)
    return False


def _stamp(path: Path) -> list[int]:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


class _Build:
    """One computation of features; `run` may be killed at any time, and goes on when it is called again."""

    def __init__(
        self,
        config: Config,
        data: TrainingData,
        weights: Weights,
        shares: Sequence[float],
        place: Path,
    ) -> None:
        self.config, self.data, self.place = config, data, place
        network = create_network(
            network_spec(config.model, data.images.shape[1:], data.num_classes), weights
        )
        backbone = find_backbone(network)
        borders = sorted(
            {find_border(backbone, share) for share in shares} - {0}
        )  # below the first there is nothing
        self.borders: list[int | None] = [*borders, None]
        self.lower = lower_part(network, borders)
        self.num_views = self._count_views()
        self.augment = compile_augmentation(
            config.augmentation, data.images.shape[1:], data.num_classes
        )
        self.targets = one_hot(data.labels, data.num_classes)

    def _count_views(self) -> int:
        """Return how many views fit; raises UserError where not one does."""
        picture = sum(2 * int(np.prod(shape[1:])) for shape in self.lower.output_shape) / 2**20
        fixed, each = picture * len(self.data.validation_labels), picture * len(self.data.labels)
        allowed, wanted = self.config.search.cache_megabytes, self.config.search.cached_copies
        views = min(wanted, int((allowed - fixed) / each))
        if views < 1:
            raise UserError(
                f"The features of {self.config.model.backbone} for one view take {fixed + each:.0f} MB, and "
                f"search.cache_megabytes is {allowed:.0f}; raise it, or lower search.trial_images."
            )
        if views < wanted:
            say(
                f"{views} of {wanted} views of each picture fit into search.cache_megabytes ({allowed:.0f})."
            )
        require_disk(self.place, fixed + views * each)
        return views

    def run(self) -> float:
        """Compute what is missing; return the seconds that a picture takes, the median of the batches."""
        state = self.place / "progress.json"
        noted: dict[str, Any] = read_json(state) if state.is_file() else {"done": 0, "seconds": []}
        arrays = self._open(begun=noted["done"] > 0)
        parts = list(self._parts())
        seconds: list[float] = noted["seconds"]
        title = f"features of {self.config.model.backbone}"
        for number, part in enumerate(progress(parts, title, unit="batch")):
            if number < noted["done"]:
                continue
            seconds.append(self._compute(number, part, arrays))
            if (number + 1) % PARTS_A_NOTE == 0:
                _flush(arrays)
                write_json(state, {"done": number + 1, "seconds": seconds})
        _flush(arrays)
        state.unlink(missing_ok=True)
        return float(np.median(seconds))

    def _parts(self) -> Iterator[tuple[int | None, int]]:
        """Yield the view (None: validation) and the first picture of each batch."""
        for view in range(self.num_views):
            yield from ((view, start) for start in range(0, len(self.data.labels), BATCH_SIZE))
        yield from (
            (None, start) for start in range(0, len(self.data.validation_labels), BATCH_SIZE)
        )

    def _open(self, begun: bool) -> dict[str, np.ndarray]:
        """Return the arrays on disk by file name; what an earlier call did is kept where it has `begun`."""
        self.place.mkdir(exist_ok=True)
        few, count = self.num_views, len(self.data.labels)
        shapes: dict[str, tuple[Any, ...]] = {"labels": (few, count, self.data.num_classes)}
        for border, (_, *shape) in zip(self.borders, self.lower.output_shape, strict=True):
            shapes[f"training_{_name(border)}"] = (few, count, *shape)
            shapes[f"validation_{_name(border)}"] = (len(self.data.validation_labels), *shape)
        mode = "r+" if begun else "w+"
        kinds = {name: np.dtype(np.float32 if name == "labels" else np.float16) for name in shapes}
        return {
            name: np.lib.format.open_memmap(self.place / f"{name}.npy", mode, kinds[name], shape)
            for name, shape in shapes.items()
        }

    def _compute(
        self, number: int, part: tuple[int | None, int], arrays: dict[str, np.ndarray]
    ) -> float:
        """Fill one batch of the arrays; return the seconds that it took, for a picture."""
        started = time.perf_counter()
        view, start = part
        chosen = slice(start, start + BATCH_SIZE)
        if view is None:
            images = self.data.validation_images[chosen].astype(np.float32)
        else:
            state = np.array([self.config.seed, number << 16], np.uint32)
            images, labels = self.augment(state, self.data.images[chosen], self.targets[chosen])
            arrays["labels"][view, chosen] = keras.ops.convert_to_numpy(labels)
        for border, values in zip(self.borders, self.lower.predict_on_batch(images), strict=True):
            if view is None:
                arrays[f"validation_{_name(border)}"][chosen] = values
            else:
                arrays[f"training_{_name(border)}"][view, chosen] = values
        return (time.perf_counter() - started) / len(images)


def _name(border: int | None) -> str:
    return "pooled" if border is None else f"border_{border}"


def _flush(arrays: dict[str, np.ndarray]) -> None:
    for array in arrays.values():
        assert isinstance(array, np.memmap)
        array.flush()
