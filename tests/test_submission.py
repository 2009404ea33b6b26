"""Submissions: packaged, unzipped with care, run apart, compared."""

import json
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from competition import submission_model
from competition.config import ModelConfig
from competition.files import InputError
from competition.model import create_network, network_spec
from competition.processes import run_limited
from competition.submission import Limits, package, run_submission, verify
from competition.submission_model import VIEWS, as_pictures, predict_views
from competition.weights import RANDOM

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A packaged tiny network with five views, and our own probabilities of IMAGES."""
    run = tmp_path_factory.mktemp("runs") / "tiny_cnn_001"
    run.mkdir()
    spec = network_spec(ModelConfig(backbone="tiny_cnn", head_units=8), (32, 32, 3), 3)
    network = create_network(spec, RANDOM)
    network.save_weights(run / "network.weights.h5")
    zip_path = package(run, spec, ("a", "b", "c"), 5, run.parent / "zips" / "tiny_cnn_001.zip")
    return zip_path, predict_views(network, IMAGES, 5, 64).mean(axis=0)


def test_the_zip_answers_as_the_network_does_from_a_process_of_its_own(packed: tuple[Path, np.ndarray]) -> None:
    zip_path, expected = packed
    figures = verify(zip_path, IMAGES, expected, Limits())
    assert figures["pictures"] == 70
    assert figures["largest_difference"] < 1e-5
    assert figures["peak_megabytes"] > 50


def test_a_zip_that_answers_otherwise_is_refused(packed: tuple[Path, np.ndarray]) -> None:
    zip_path, expected = packed
    with pytest.raises(InputError, match="answers otherwise"):
        verify(zip_path, IMAGES, np.roll(expected, 1, axis=1), Limits())


def write_zip(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


PLAIN = "import numpy as np\nclass Model:\n    def predict(self, X):\n        return np.zeros(len(X), int)\n"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"../model.py": PLAIN}, "leads outside"),
        ({"/model.py": PLAIN}, "leads outside"),
        ({"folder/model.py": PLAIN}, "at the top of the zip"),
        ({"readme.txt": ""}, "no model.py"),
        ({"model.py": PLAIN, "b/model.py": PLAIN}, "expected one model.py"),
        ({"model.py": PLAIN, "zeros": "0" * 2**22}, "more than any submission needs"),
        ({"model.py": PLAIN.replace("int)", "float)")}, "expected 70 integer labels"),
        ({"model.py": PLAIN.replace("len(X)", "3")}, "expected 70 integer labels"),
        ({"model.py": "import competition"}, "must stand alone"),
        ({"model.py": "raise RuntimeError('no such layer')"}, "no such layer"),
        ({"model.py": "while True: pass"}, "stopped after 3 s"),
        ({"model.py": "x = bytearray(400 << 20)\nimport time\ntime.sleep(9)"}, "over the limit of 300 MB"),
    ],
)
def test_bad_submissions_are_refused_with_a_reason(files: dict[str, str], sentence: str, tmp_path: Path) -> None:
    limits = Limits(seconds=3, memory_megabytes=300, zip_megabytes=1)
    with pytest.raises(InputError, match=sentence):
        run_submission(write_zip(tmp_path / "bad.zip", files), IMAGES, limits)
    assert not (tmp_path / "model.py").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("model.py")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(InputError, match="leads outside"):
        run_submission(tmp_path / "link.zip", IMAGES, Limits())


def test_children_die_with_the_submission(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    )
    with pytest.raises(InputError, match="stopped after 2 s"):
        run_limited([os.sys.executable, "-c", program], tmp_path, 2, 500, dict(os.environ))  # type: ignore[attr-defined]
    child = int((tmp_path / "output.log").read_text())
    time.sleep(0.2)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_views_are_the_eight_symmetries_of_the_square() -> None:
    picture = np.arange(9).reshape(1, 3, 3, 1)
    seen = {view(picture).tobytes() for view in VIEWS}
    rotations = {np.rot90(picture, turns, axes=(1, 2)).tobytes() for turns in range(4)}
    assert len(seen) == 8
    assert rotations < seen
    assert VIEWS[0](picture) is picture


def test_labels_do_not_depend_on_the_batch(packed: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packed[0].parent / "tiny_cnn_001"
    monkeypatch.setattr(submission_model, "__file__", str(folder / "model.py"))
    model = submission_model.Model()
    assert model.config == json.loads((folder / "config.json").read_text())
    whole = model.predict(IMAGES)
    assert whole.dtype == np.int64
    assert model.predict(IMAGES[:0]).shape == (0,)
    assert [int(model.predict(IMAGES[index : index + 1])[0]) for index in range(3)] == whole[:3].tolist()
    np.testing.assert_array_equal(model.predict(IMAGES[::-1]), whole[::-1])


def test_pictures_of_other_kinds_become_bytes() -> None:
    unit = IMAGES[:2] / 255
    with pytest.warns(UserWarning, match="taken as 0..1"):
        np.testing.assert_allclose(as_pictures(unit, (32, 32, 3)), IMAGES[:2], atol=1e-3)
    broken = IMAGES[:2].astype(float)
    broken[0] = np.nan
    with pytest.warns(UserWarning, match="1 pictures hold NaN"):
        assert as_pictures(broken, (32, 32, 3))[0].max() == 0
    with pytest.warns(UserWarning, match="are resized"):
        assert as_pictures(IMAGES[:2], (16, 16, 3)).shape == (2, 16, 16, 3)
    with pytest.raises(ValueError, match="expected pictures"):
        as_pictures(IMAGES[..., 0], (32, 32, 3))
