"""Answers in the form of a sample submission, from a packaged zip alone."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from competition.common.errors import UserError
from competition.common.files import read_json, write_json
from competition.config import Config, SubmissionConfig
from competition.networks.submission_model import Model
from competition.submission.package import write_submission
from competition.submission.predict_csv import default_labels, predict_csv, read_sample
from tests.factories import IMAGES, make_run

NAMES = [f"{letter}{number}.png" for number in range(4) for letter in "dcb"]
SHARES = [0.2, 0.5, 0.3]


@pytest.fixture(scope="module")
def zip_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packaged network of the classes a, b and c."""
    keras.utils.set_random_seed(0)
    run, _ = make_run(tmp_path_factory.mktemp("runs"), "tiny_cnn")
    settings = {"data.resize": "pad", "data.size": 96}
    facts = {"class_shares": SHARES, "settings": settings}
    write_json(run / "config.json", read_json(run / "config.json") | facts)
    folder = run.parent / "packed"
    write_submission([run], 1, SubmissionConfig(), folder)
    return Path(shutil.make_archive(str(folder), "zip", folder))


@pytest.fixture(scope="module")
def expected(zip_path: Path) -> np.ndarray:
    """The probabilities of the first images, one per name."""
    return Model(zip_path.with_suffix("")).predict_proba(IMAGES[: len(NAMES)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The images as files, some of them deeper than others."""
    place = tmp_path / "images"
    for index, name in enumerate(NAMES):
        path = place / ("deeper" if index % 2 else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[index]).save(path)
    return place


def write_sample(path: Path, table: dict[str, list[object]]) -> Path:
    pd.DataFrame(table).to_csv(path, index=False)
    return path


def answer(
    zip_path: Path, source: Path, sample: Path | None = None, skip: bool = False
) -> pd.DataFrame:
    target = source.with_name("predictions.csv")
    runs = source.parent / "runs"
    predict_csv(zip_path, source, sample, target, Config(), skip, runs)
    return pd.read_csv(target, dtype={0: str})


def test_a_class_per_column_in_the_order_of_the_sample(
    zip_path: Path, folder: Path, tmp_path: Path, expected: np.ndarray
) -> None:
    ids = sorted(NAMES)
    zeros: list[object] = [0] * len(ids)
    table = {"name": list[object](ids), "Class_C": zeros, "a": zeros, "B": zeros}
    predictions = answer(zip_path, folder, write_sample(tmp_path / "sample.csv", table))
    assert list(predictions.columns) == list(table)
    assert predictions["name"].tolist() == ids
    rows = expected[[NAMES.index(name) for name in ids]]
    np.testing.assert_allclose(predictions[["a", "B", "Class_C"]], rows, atol=1e-5)


@pytest.mark.parametrize(("value", "texts"), [("a", "abc"), (0, "012"), ("", "abc")])
def test_labels_are_written_as_the_sample_has_them(
    value: object,
    texts: str,
    zip_path: Path,
    folder: Path,
    tmp_path: Path,
    expected: np.ndarray,
) -> None:
    table = {"id": [Path(name).stem for name in NAMES], "kind": [value] * len(NAMES)}
    sample = write_sample(tmp_path / "sample.csv", table)  # type: ignore[arg-type]
    predictions = answer(zip_path, folder, sample)
    assert [str(text) for text in predictions["kind"]] == [
        texts[label] for label in expected.argmax(axis=1)
    ]


def test_where_classes_are_named_by_numbers_no_sample_numbers_them_from_0(tmp_path: Path) -> None:
    names = ("1", "2", "3")
    sample = write_sample(tmp_path / "s.csv", {"id": ["x", "y"], "label": [1, 2]})
    assert read_sample(sample, names).labels == names
    sample = write_sample(tmp_path / "s.csv", {"id": ["x", "y"], "label": [0, 2]})
    with pytest.raises(UserError, match=r"'0' in column 'label'.*classes 1, 2, 3; give"):
        read_sample(sample, names)


def test_without_a_sample_the_rows_are_those_of_the_source(
    zip_path: Path, folder: Path, tmp_path: Path, expected: np.ndarray
) -> None:
    labels = ["abc"[label] for label in expected.argmax(axis=1)]
    table = folder / "test.tsv"
    table.write_text("file\tdate\n" + "".join(f"{name}\t1\n" for name in NAMES))
    predictions = answer(zip_path, table)
    assert (predictions["id"].tolist(), predictions["label"].tolist()) == (NAMES, labels)
    table.write_text("file\nd0\nc0\nd0\n")
    sample = write_sample(tmp_path / "sample.csv", {"id": ["d0", "c0"], "label": [0, 0]})
    assert answer(zip_path, table, sample)["id"].tolist() == ["d0", "c0"]
    np.savez(tmp_path / "test.npz", images=IMAGES[: len(NAMES)])
    numbered = answer(zip_path, tmp_path / "test.npz")
    assert numbered["id"].tolist() == [str(number) for number in range(len(NAMES))]
    assert numbered["label"].tolist() == labels


def test_an_npz_takes_the_ids_of_the_sample_in_its_order(
    zip_path: Path, tmp_path: Path, expected: np.ndarray
) -> None:
    np.savez(tmp_path / "test.npz", images=IMAGES[: len(NAMES)])
    table: dict[str, list[object]] = {"id": list(NAMES), "label": [0] * len(NAMES)}
    predictions = answer(zip_path, tmp_path / "test.npz", write_sample(tmp_path / "s.csv", table))
    assert predictions["id"].tolist() == NAMES
    assert predictions["label"].tolist() == expected.argmax(axis=1).tolist()
    shorter = {key: values[1:] for key, values in table.items()}
    with pytest.raises(UserError, match=r"11 rows, and .* 12 images"):
        answer(zip_path, tmp_path / "test.npz", write_sample(tmp_path / "s.csv", shorter))


def test_two_classes_may_be_told_by_the_probability_of_the_second(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "runs", "tiny_cnn", num_classes=2)
    write_submission([run], 1, SubmissionConfig(), tmp_path / "two")
    packed = Path(shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path / "two"))
    np.savez(tmp_path / "test.npz", images=IMAGES[:5])
    sample = write_sample(tmp_path / "sample.csv", {"id": [*range(5)], "sick": [0.5] * 5})
    predictions = answer(packed, tmp_path / "test.npz", sample)
    expected = Model(tmp_path / "two").predict_proba(IMAGES[:5])[:, 1]
    np.testing.assert_allclose(predictions["sick"], expected, atol=1e-5)


def test_images_without_a_row_are_left_out_and_said(
    zip_path: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = write_sample(tmp_path / "s.csv", {"id": list(NAMES[:3]), "label": [0] * 3})
    assert len(answer(zip_path, folder, sample)) == 3
    assert "9 images of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"id": ["d0", "elsewhere", "other"], "label": [0, 0, 0]}, r"'elsewhere'.*\(2 of 3 ids"),
        ({"id": ["d0", "c0", "d0"], "label": [0, 0, 0]}, "the id 'd0' in several rows"),
        ({"id": ["d0", "d0.png"], "label": [0, 0]}, "several ids that mean d0.png"),
        ({"id": ["d0"], "label": ["cat"]}, "'cat' in column 'label'.*classes a, b, c"),
        ({"id": ["d0"], "label": [3]}, "'3' in column 'label'"),
        ({"id": ["d0"], "a": [0], "b": [0], "d": [0]}, "one column for each class"),
        ({"id": ["d0"], "a": [0], "b": [0]}, "one column for each class"),
        ({"id": ["d0"]}, "1 rows of 1 columns"),
        ({"id": [], "label": []}, "0 rows of 2 columns"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(
    table: dict[str, list[object]], sentence: str, zip_path: Path, folder: Path, tmp_path: Path
) -> None:
    sample = write_sample(tmp_path / "sample.csv", table)
    with pytest.raises(UserError, match=sentence):
        answer(zip_path, folder, sample)
    assert not (tmp_path / "predictions.csv").exists()


def test_an_id_that_may_mean_two_images_is_refused(
    zip_path: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "d0.png", folder / "deeper" / "d0.png")
    sample = write_sample(tmp_path / "sample.csv", {"id": ["d0"], "label": [0]})
    with pytest.raises(UserError, match=r"may be d0.png or deeper/d0.png"):
        answer(zip_path, folder, sample)


def test_an_unreadable_image_is_named_and_gets_the_commonest_class_where_asked(
    zip_path: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b0.png").write_bytes(b"no image")
    zeros: list[object] = [0] * len(NAMES)
    table = {"id": list[object](NAMES), "a": zeros, "b": zeros, "c": zeros}
    sample = write_sample(tmp_path / "sample.csv", table)
    with pytest.raises(UserError, match=r"b0.png"):
        answer(zip_path, folder, sample)
    predictions = answer(zip_path, folder, sample, skip=True)
    alike = (predictions[["a", "b", "c"]] == SHARES).all(axis=1)
    assert predictions["id"][alike].tolist() == ["b0.png"]
    assert "1 of 12 images CANNOT BE READ" in capsys.readouterr().out


def test_a_zip_of_others_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    packed = tmp_path / "other"
    packed.mkdir()
    (packed / "model.py").write_text("raise SystemExit('it was run')")
    other = Path(shutil.make_archive(str(packed), "zip", packed))
    with pytest.raises(UserError, match=r"no config.json that says its classes"):
        answer(other, tmp_path / "test.npz")
    with pytest.raises(UserError, match=r"nowhere.zip"):
        answer(tmp_path / "nowhere.zip", tmp_path / "test.npz")


def test_a_zip_of_other_classes_than_the_runs_of_the_data_set_is_refused(
    zip_path: Path, folder: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "runs" / "tiny_cnn_001" / "config.json", {"class_names": ["a", "x", "c"]})
    with pytest.raises(UserError, match=r"classes a, b, c, and tiny_cnn_001 .* a, x, c"):
        answer(zip_path, folder)


def test_labels_of_another_data_set_are_refused(zip_path: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=IMAGES[:5], labels=np.arange(5))
    with pytest.raises(UserError, match="has a label 4"):
        answer(zip_path, tmp_path / "test.npz")


def test_classes_that_had_no_names_are_written_as_numbers() -> None:
    assert default_labels(("class 0", "class 1")) == ("0", "1")
    assert default_labels(("class 1", "class 0")) == ("class 1", "class 0")
