"""Submissions for tests: runs of random networks, and zips of a few lines."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from competition.config import ModelConfig
from competition.files import write_json
from competition.model import create_network, network_spec
from competition.weights import RANDOM

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
PLAIN = "import numpy as np\nclass Model:\n    def predict(self, X):\n        return np.zeros(len(X), int)\n"


def write_zip(path: Path, files: dict[str, str]) -> Path:
    """Write a zip of texts by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def make_run(folder: Path, backbone: str, num_classes: int = 3) -> tuple[Path, Any]:
    """Return a run's folder with what packaging reads of it, and its network, whose answers differ between pictures."""
    run = folder / f"{backbone}_001"
    run.mkdir(parents=True)
    config = ModelConfig(backbone=backbone, head_units=8)
    spec = network_spec(config, IMAGES.shape[1:], num_classes)
    network = create_network(spec, RANDOM)
    enliven(network)
    network.save_weights(run / "network.weights.h5")
    write_json(run / "config.json", {"network": spec, "class_names": list("abcdefgh"[:num_classes]), "splits": "s"})
    return run, network


def enliven(network: Any) -> None:
    """Scale the last layer so that the logits of IMAGES spread by about 2 within each class, and centre them."""
    features = type(network)(network.input, network.layers[-1].input).predict(IMAGES, verbose=0)
    kernel, bias = network.layers[-1].get_weights()
    logits = features @ kernel
    scale = 2 / max(float(logits.std(axis=0).mean()), 1e-12)
    network.layers[-1].set_weights([kernel * scale, bias - scale * logits.mean(axis=0)])
