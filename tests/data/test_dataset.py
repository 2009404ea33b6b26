"""Reading data sets: every accepted layout, and one readable sentence for each that is not."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from competition.common.errors import UserError
from competition.common.files import digest
from competition.config import DataConfig
from competition.data.arrays import Dataset
from competition.data.dataset import CLASS_NAMES, load_dataset, load_test

CONFIG = DataConfig(size=16)


def make_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return (
        np.random.default_rng(seed)
        .integers(0, 256, (count, *(shape or (16, 16, 3))))
        .astype(np.uint8)
    )


def make_labels(count: int, num_classes: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) % num_classes


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def save_images(
    folder: Path, classes: dict[str, int], suffix: str = ".png", side: int = 20
) -> Path:
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image = np.full((side, side + 4, 3), (40 * number, 10 * index, 77), np.uint8)
            Image.fromarray(image).save(folder / name / f"{index}{suffix}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("shape", [(48,), (48, 1)])
def test_the_competition_s_file_is_read_as_it_is(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images, labels = make_images(48), make_labels(48, 8)
    path = save(tmp_path / "set.npz", images=images, labels=labels.reshape(shape).astype(np.uint8))
    dataset = load_dataset(path, CONFIG)
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.labels.dtype == np.int64
    assert dataset.class_names == CLASS_NAMES


def test_classes_that_are_not_known_get_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", images=make_images(12), labels=make_labels(12, 3))
    assert load_dataset(path, CONFIG).class_names == ("class 0", "class 1", "class 2")


def test_train_and_val_of_medmnist_are_joined_and_test_is_left_for_scoring(tmp_path: Path) -> None:
    parts = {
        "train": make_images(40, seed=1),
        "val": make_images(16, seed=2),
        "test": make_images(8, seed=3),
    }
    arrays = {f"{part}_images": images for part, images in parts.items()}
    arrays |= {
        f"{part}_labels": make_labels(len(images), 8)[:, None] for part, images in parts.items()
    }
    path = save(tmp_path / "bloodmnist.npz", **arrays)
    dataset = load_dataset(path, CONFIG)
    np.testing.assert_array_equal(dataset.images, np.concatenate([parts["train"], parts["val"]]))
    np.testing.assert_array_equal(
        dataset.labels, np.concatenate([make_labels(40, 8), make_labels(16, 8)])
    )
    assert dataset.class_names == CLASS_NAMES
    images, labels = load_test(path, CONFIG)
    np.testing.assert_array_equal(images, parts["test"])
    np.testing.assert_array_equal(labels, make_labels(8, 8))


def test_grey_images_of_medmnist_become_three_equal_channels_and_no_blood_cells(
    tmp_path: Path,
) -> None:
    grey = make_images(32, 16, 16)
    arrays = {"train_images": grey, "val_images": grey}
    arrays |= {"train_labels": make_labels(32, 8), "val_labels": make_labels(32, 8)}
    dataset = load_dataset(save(tmp_path / "tissue.npz", **arrays), CONFIG)
    assert dataset.images.shape == (64, 16, 16, 3)
    for channel in range(3):
        np.testing.assert_array_equal(dataset.images[:32, ..., channel], grey)
    assert dataset.class_names[0] == "class 0"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".bmp", ".tif", ".tiff"])
def test_class_folders_of_images_are_read_and_resized(tmp_path: Path, suffix: str) -> None:
    dataset = load_dataset(save_images(tmp_path, {"round": 5, "flat": 4}, suffix), CONFIG)
    assert dataset.class_names == ("flat", "round")
    assert dataset.images.shape == (9, 16, 16, 3)
    assert np.bincount(dataset.labels).tolist() == [4, 5]
    # Class 'round' was painted first, with red 0; 'flat' with red 40 (JPEG is off by a little).
    assert (
        np.abs(dataset.images[:, 8, 8, 0].astype(int) - np.where(dataset.labels == 0, 40, 0)).max()
        <= 4
    )


def test_grey_and_transparent_images_of_a_folder_become_rgb(tmp_path: Path) -> None:
    save_images(tmp_path, {"a": 4, "b": 4})
    Image.new("L", (20, 20), 99).save(tmp_path / "a" / "0.png")
    Image.new("RGBA", (20, 20), (1, 2, 3, 128)).save(tmp_path / "b" / "0.png")
    images = load_dataset(tmp_path, CONFIG).images
    assert images[0, 5, 5].tolist() == [99, 99, 99]
    assert images[1, 5, 5].tolist() == [128, 128, 129]  # half of it shows the white ground


def test_other_files_and_hidden_folders_beside_the_images_do_not_count(tmp_path: Path) -> None:
    save_images(tmp_path, {"a": 4, "b": 4, ".cache": 1, "__MACOSX": 1})
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / "._0.png").write_text("a leftover of another system")
    assert load_dataset(tmp_path, CONFIG).class_names == ("a", "b")


def test_arrays_of_images_that_are_not_square_are_resized_and_others_stay_as_they_are(
    tmp_path: Path,
) -> None:
    images = np.repeat(np.repeat(make_images(12, 4, 5, 3), 8, axis=1), 8, axis=2)
    path = save(tmp_path / "wide.npz", images=images, labels=make_labels(12, 2))
    cropped = load_dataset(path, DataConfig(size=32, resize="crop", limit=10)).images
    np.testing.assert_array_equal(cropped, images[:10, :, 4:36])
    np.testing.assert_array_equal(
        load_test(path, DataConfig(size=32, resize="crop"))[0], images[:, :, 4:36]
    )
    path = save(tmp_path / "square.npz", images=images[:, :, 4:36], labels=make_labels(12, 2))
    assert load_dataset(path, DataConfig(size=16, resize="crop")).images.shape == (12, 32, 32, 3)


def test_limit_keeps_the_first_images(tmp_path: Path) -> None:
    images = make_images(24)
    path = save(tmp_path / "set.npz", images=images, labels=make_labels(24, 2))
    dataset = load_dataset(path, DataConfig(limit=10))
    np.testing.assert_array_equal(dataset.images, images[:10])
    assert len(dataset.labels) == 10
    assert len(load_test(path, DataConfig(limit=10))[0]) == 10


def test_limit_of_a_folder_takes_the_classes_in_turn(tmp_path: Path) -> None:
    save_images(tmp_path, {"a": 9, "b": 9})
    assert load_dataset(tmp_path, DataConfig(size=16, limit=8)).labels.tolist() == [0, 1] * 4


def test_the_fingerprint_follows_images_and_labels_and_nothing_else() -> None:
    images, labels = make_images(8), make_labels(8, 2)
    first = Dataset(images, labels, ("a", "b")).fingerprint
    assert first == digest(images, labels)
    assert Dataset(images.copy(), labels.copy(), ("c", "d")).fingerprint == first
    assert Dataset(images, labels[::-1], ("a", "b")).fingerprint != first
    assert Dataset(images[::-1], labels, ("a", "b")).fingerprint != first


def test_the_fingerprint_is_computed_once() -> None:
    dataset = Dataset(make_images(8), make_labels(8, 2), ("a", "b"))
    first = dataset.fingerprint
    dataset.images[:] = 0
    assert dataset.fingerprint == first


def arrays_with(**changes: Any) -> Callable[[Path], Path]:
    """Return a maker of a good file with some arrays changed (None: left out)."""

    def make(folder: Path) -> Path:
        arrays: dict[str, Any] = {"images": make_images(12), "labels": make_labels(12, 2)}
        arrays |= changes
        return save(
            folder / "set.npz",
            **{name: array for name, array in arrays.items() if array is not None},
        )

    return make


def medmnist_with(**changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        arrays: dict[str, Any] = {f"{part}_images": make_images(8) for part in ("train", "val")}
        arrays |= {f"{part}_labels": make_labels(8, 2) for part in ("train", "val")}
        arrays |= changes
        return save(
            folder / "set.npz",
            **{name: array for name, array in arrays.items() if array is not None},
        )

    return make


def bytes_of(content: bytes, name: str = "set.npz") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def damaged(edit: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = arrays_with()(folder)
        path.write_bytes(edit(path.read_bytes()))
        return path

    return make


def images_in(classes: dict[str, int], **files: bytes) -> Callable[[Path], Path]:
    """Return a maker of class folders, with further files `class__name` given as bytes."""

    def make(folder: Path) -> Path:
        save_images(folder, classes)
        for name, content in files.items():
            target, file = name.split("__")
            (folder / target / f"{file}.png").write_bytes(content)
        return folder

    return make


def sixteen_bit(folder: Path) -> Path:
    save_images(folder, {"a": 4, "b": 4})
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(folder / "a" / "deep.png")
    return folder


def missing_labels_of_class_1() -> np.ndarray:
    return np.where(make_labels(12, 3) == 1, 2, make_labels(12, 3))


# Each: what makes the bad input, and words of its sentence: what came, and how to fix it.
BAD_INPUTS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "missing": (
        lambda folder: folder / "nothing.npz",
        ["There is no", "nothing.npz", "give the path"],
    ),
    "empty file": (bytes_of(b""), ["is empty", "copy or download it again"]),
    "text": (bytes_of(b"hello", "set.txt"), ["is not an .npz", "expected an .npz"]),
    "a bare pickle": (bytes_of(pickle.dumps({"images": 1})), ["is not an .npz"]),
    "truncated": (
        damaged(lambda content: content[: len(content) // 2]),
        ["truncated", "copy it again"],
    ),
    "damaged inside": (
        damaged(lambda content: content[:3000] + bytes(200) + content[3200:]),
        ["damaged", "copy it again"],
    ),
    "pickled": (
        arrays_with(images=np.array([{}] * 12, dtype=object)),
        ["pickled", "never loaded", "uint8"],
    ),
    "other keys": (
        arrays_with(images=None, x_train=make_images(4)),
        ["x_train", "'images' and 'labels'", "save"],
    ),
    "no labels": (arrays_with(labels=None), ["without labels", "'labels'"]),
    "only train of medmnist": (
        medmnist_with(val_images=None),
        ["train_images", "expected", "save"],
    ),
    "labels of only some parts": (
        medmnist_with(val_labels=None),
        ["only some", "save them for all"],
    ),
    "parts of two sizes": (
        medmnist_with(val_images=make_images(8, 20, 20, 3)),
        ["several sizes", "resize"],
    ),
    "grey": (arrays_with(images=make_images(12, 16, 16)), ["(12, 16, 16)", "np.repeat"]),
    "one channel": (
        arrays_with(images=make_images(12, 16, 16, 1)),
        ["(12, 16, 16, 1)", "np.repeat"],
    ),
    "transparency": (
        arrays_with(images=make_images(12, 16, 16, 4)),
        ["(12, 16, 16, 4)", "compose the alpha channel on one colour"],
    ),
    "channels first": (
        arrays_with(images=make_images(12, 3, 16, 16)),
        ["(12, 3, 16, 16)", "transpose(0, 2, 3, 1)"],
    ),
    "one number": (arrays_with(images=np.uint8(3)), ["shape ()", "np.stack"]),
    "no images": (
        arrays_with(images=make_images(0), labels=make_labels(0, 2)),
        ["no image at all", "save"],
    ),
    "too small": (
        arrays_with(images=make_images(12, 4, 4, 3)),
        ["(12, 4, 4, 3)", "at least 8 pixels"],
    ),
    "floats to 1": (
        arrays_with(images=make_images(12) / 255),
        ["float64", "(images * 255).round().astype('uint8')"],
    ),
    "floats to 255": (
        arrays_with(images=make_images(12).astype(np.float32)),
        ["images.round().astype('uint8')"],
    ),
    "floats below 0": (
        arrays_with(images=make_images(12) / 127.5 - 1),
        ["run from -1 to 1", "scale them to 0..255"],
    ),
    "NaN": (arrays_with(images=np.full((12, 16, 16, 3), np.nan)), ["float64", "replace NaN"]),
    "wide integers": (
        arrays_with(images=make_images(12).astype(np.int64) * 9),
        ["int64", "scale them to 0..255"],
    ),
    "truth values": (arrays_with(images=make_images(12) > 9), ["bool", "astype('uint8')"]),
    "scaled before uint8": (
        arrays_with(images=make_images(12) // 255),
        ["all 0 or 1", "multiply by 255"],
    ),
    "one-hot": (
        arrays_with(labels=np.eye(2)[make_labels(12, 2)]),
        ["(12, 2)", "labels.argmax(axis=1)"],
    ),
    "several labels per image": (
        arrays_with(labels=np.eye(14, dtype=np.uint8)[::-1][:12] * np.arange(14) % 2),
        ["several labels per image", "6 rows have no 1", "choose one finding"],
    ),
    "probabilities": (
        arrays_with(labels=np.full((12, 2), 0.5)),
        ["(12, 2)", "one number for each"],
    ),
    "labels as a cube": (
        arrays_with(labels=np.zeros((12, 1, 1), int)),
        ["(12, 1, 1)", "one number for each"],
    ),
    "float labels": (
        arrays_with(labels=make_labels(12, 2) * 1.0),
        ["float64", "labels.astype('int64')"],
    ),
    "text labels": (
        arrays_with(labels=np.array(["cell", "dust"] * 6)),
        ["<U4", "number the class names"],
    ),
    "negative labels": (
        arrays_with(labels=make_labels(12, 2) - 1),
        ["a label -1", "number the classes from 0"],
    ),
    "a gap": (
        arrays_with(labels=missing_labels_of_class_1()),
        ["no image of class 1", "without gaps"],
    ),
    "from 1": (
        arrays_with(labels=make_labels(12, 2) + 1),
        ["no image of class 0", "without gaps"],
    ),
    "lengths": (
        arrays_with(labels=make_labels(11, 2)),
        ["12 images", "11 labels", "one label for each"],
    ),
    "one class": (
        arrays_with(labels=make_labels(12, 1)),
        ["only the class 'class 0'", "add another"],
    ),
    "a small class": (
        arrays_with(labels=np.array([0] * 9 + [1] * 3)),
        ["3 images of class 1", "at least 4", "add some or leave"],
    ),
    "an empty folder": (lambda folder: folder, ["holds no images", "one folder for each class"]),
    "empty class folders": (
        images_in({"a": 0, "b": 0}),
        ["holds no images", "one folder for each class"],
    ),
    "images without classes": (
        images_in({".": 3}),
        ["without labels", "folder of class folders"],
    ),
    "one class folder": (images_in({"a": 5}), ["only the class 'a'", "add another"]),
    "one empty class folder": (
        images_in({"a": 5, "b": 0}),
        ["0 images of class 1 ('b')", "leave the class"],
    ),
    "a broken image": (
        images_in({"a": 5, "b": 5}, b__broken=b"\x89PNG nonsense"),
        ["b/broken.png", "cannot be read as an image", "replace or delete"],
    ),
    "16 bits": (sixteen_bit, ["a/deep.png", "more than 8 bits", "convert it to 8-bit"]),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_gives_one_sentence_and_changes_no_file(tmp_path: Path, name: str) -> None:
    make, words = BAD_INPUTS[name]
    folder = tmp_path / "given"
    folder.mkdir()
    path = make(folder)
    before = contents(tmp_path)
    with pytest.raises(UserError) as caught:
        load_dataset(path, CONFIG)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    assert message.endswith(".")
    assert contents(tmp_path) == before


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    save_images(tmp_path, {"a": 4, "b": 4}, side=64)
    noise = Image.fromarray(make_images(1, 64, 64, 3)[0])
    noise.save(tmp_path / "b" / "half.png")
    content = (tmp_path / "b" / "half.png").read_bytes()
    (tmp_path / "b" / "half.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=re.escape("1 of 9 files cannot be read") + ".*half.png"):
        load_dataset(tmp_path, CONFIG)


def test_a_file_larger_than_memory_says_so_before_it_is_read_and_what_fits_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(48)
    path = save(tmp_path / "set.npz", images=images, labels=make_labels(48, 2))
    monkeypatch.setattr("competition.data.memory.find_free_memory", lambda: 20 * 16 * 16 * 3)
    with pytest.raises(UserError, match=r"needs 0.0 GB .* 48 images.* --set data.limit=16, or"):
        load_dataset(path, CONFIG)
    dataset = load_dataset(path, DataConfig(limit=16))
    np.testing.assert_array_equal(dataset.images, images[:16])
    save_images(tmp_path / "files", {"a": 12, "b": 12})
    with pytest.raises(UserError, match="24 images"):
        load_dataset(tmp_path / "files", CONFIG)


def test_the_limit_counts_over_joined_splits_and_grey_images_too(tmp_path: Path) -> None:
    grey = make_images(12, 16, 16)
    arrays = {"train_images": grey[:8], "val_images": np.asfortranarray(grey[8:])}
    arrays |= {"train_labels": make_labels(8, 2), "val_labels": make_labels(4, 2)}
    path = save(tmp_path / "set.npz", **arrays)
    dataset = load_dataset(path, DataConfig(limit=11))
    np.testing.assert_array_equal(dataset.images, np.repeat(grey[:11, ..., None], 3, axis=-1))
    assert dataset.labels.tolist() == [0, 1] * 4 + [0, 1, 0]


def test_a_pickle_in_the_file_is_never_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    trap = np.array([Trap()] * 12, dtype=object)
    path = save(tmp_path / "set.npz", images=trap, labels=make_labels(12, 2))
    with pytest.raises(UserError, match="pickled"):
        load_dataset(path, CONFIG)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("unreadable", ["set.npz", "images"])
def test_what_the_user_may_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    arrays_with()(tmp_path)
    save_images(tmp_path / "images", {"a": 4, "b": 4})
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / unreadable)
    with pytest.raises(UserError, match=rf"{unreadable} may not be read.*chmod"):
        load_dataset(tmp_path / Path(unreadable).parts[0], CONFIG)


def test_a_folder_inside_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_but_one(path: Any) -> Any:
        if Path(path) == tmp_path / "a" / "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    save_images(tmp_path, {"a": 4, "a/deep": 4, "b": 4})
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", list_but_one)
    with pytest.raises(UserError, match=r"a/deep cannot be listed \(Permission denied\); .*chmod"):
        load_dataset(tmp_path, CONFIG)


def test_a_class_that_the_limit_made_small_says_so(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", images=make_images(24), labels=np.sort(make_labels(24, 2)))
    with pytest.raises(UserError, match=r"0 images of class 1.*raise the limit of 10"):
        load_dataset(path, DataConfig(limit=10))


def test_a_test_file_may_lack_labels_and_classes(tmp_path: Path) -> None:
    images = make_images(3)
    read, labels = load_test(save(tmp_path / "plain.npz", images=images), CONFIG, CLASS_NAMES)
    np.testing.assert_array_equal(read, images)
    assert labels is None
    _, labels = load_test(
        save(tmp_path / "some.npz", images=images, labels=[7, 0, 7]), CONFIG, CLASS_NAMES
    )
    np.testing.assert_array_equal(labels, [7, 0, 7])


def test_a_test_file_is_checked_like_a_training_file(tmp_path: Path) -> None:
    path = save(tmp_path / "test.npz", images=make_images(3) / 255)
    with pytest.raises(UserError, match=r"images \* 255"):
        load_test(path, CONFIG)
    path = save(tmp_path / "labels.npz", images=make_images(2), labels=[0, 8])
    with pytest.raises(UserError, match=r"a label 8.*classes 0 to 7"):
        load_test(path, CONFIG, CLASS_NAMES)


def test_class_folders_to_be_scored_take_the_numbers_of_the_training_classes(
    tmp_path: Path,
) -> None:
    save_images(tmp_path, {"c": 2, "b": 1})
    _, labels = load_test(tmp_path, CONFIG, ("a", "b", "c"))
    assert labels is not None
    assert sorted(labels.tolist()) == [1, 2, 2]
    with pytest.raises(UserError, match="folder 'c'; expected the classes a, b"):
        load_test(tmp_path, CONFIG, ("a", "b"))


def test_a_folder_of_loose_images_to_be_scored_has_no_labels(tmp_path: Path) -> None:
    save_images(tmp_path / "loose", {".": 3})
    images, labels = load_test(tmp_path / "loose", CONFIG)
    assert images.shape == (3, 16, 16, 3)
    assert labels is None
