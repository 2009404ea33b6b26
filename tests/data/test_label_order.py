"""The number of a class folder is the number that the packaged submission answers."""

import shutil
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from competition.codabench.dry_run import run_ingestion
from competition.common.files import write_json
from competition.config import DataConfig, LimitsConfig, ModelConfig, SubmissionConfig
from competition.data.arrays import one_hot
from competition.data.dataset import load_dataset
from competition.networks.layers import create_network, network_spec
from competition.networks.weights import RANDOM
from competition.submission.package import write_submission

COLOURS = np.random.default_rng(4).integers(0, 256, (12, 3)).astype(np.uint8)


def test_what_lies_in_folder_10_leaves_the_packaged_submission_as_label_10(tmp_path: Path) -> None:
    for label, colour in enumerate(COLOURS.tolist()):
        folder = tmp_path / "given" / str(label)
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (32, 32), tuple(colour)).save(folder / f"{number}.png")
    dataset = load_dataset(tmp_path / "given", DataConfig(size=32))
    keras.utils.set_random_seed(0)
    spec = network_spec(ModelConfig(backbone="tiny_cnn", head_units=64), (32, 32, 3), 12)
    network = create_network(spec, RANDOM)
    last = network.layers[-1]
    features = keras.Model(network.input, last.input).predict(dataset.images, verbose=0)
    kernel = np.linalg.lstsq(features, 20 * one_hot(dataset.labels, 12), rcond=None)[0]
    last.set_weights([kernel, np.zeros(12)])  # it knows each class by its colour
    run = tmp_path / "tiny_cnn_001"
    run.mkdir()
    network.save_weights(run / "network.weights.h5")
    write_json(run / "config.json", {"network": spec, "class_names": dataset.class_names})
    write_submission([run], 1, SubmissionConfig(), tmp_path / "zip")
    zip_path = Path(shutil.make_archive(str(tmp_path / "zip"), "zip", tmp_path / "zip"))
    images = np.broadcast_to(COLOURS[:, None, None], (12, 32, 32, 3)).copy()
    assert run_ingestion(zip_path, images, LimitsConfig()).labels.tolist() == list(range(12))
