"""Folders with a CSV of labels, and images of mixed sizes brought to one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from competition.common.errors import UserError
from competition.config import DataConfig
from competition.data.dataset import load_dataset, load_test
from competition.data.images import make_square, read_images

CONFIG = DataConfig(size=16)
NAMES = tuple(f"{index}.png" for index in range(8))
ROWS = tuple((name, "flat" if index % 2 else "round") for index, name in enumerate(NAMES))


def save_images(folder: Path, *names: str) -> None:
    """Write images whose red tells their place in `names`."""
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 24), (10 * index, 0, 0)).save(folder / name)


def save_table(folder: Path, text: str = "", name: str = "train.csv") -> Path:
    text = text or "\n".join(",".join(row) for row in (("id", "label"), *ROWS))
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def read_reds(path: Path, config: DataConfig = CONFIG) -> list[int]:
    return [int(red) // 10 for red in load_dataset(path, config).images[:, 8, 8, 0]]


def test_a_folder_of_images_and_a_csv_is_read_in_the_order_of_the_csv(tmp_path: Path) -> None:
    save_images(tmp_path, *reversed(NAMES))
    table = save_table(tmp_path)
    for path in (tmp_path, table):
        dataset = load_dataset(path, CONFIG)
        assert dataset.class_names == ("flat", "round")
        assert dataset.labels.tolist() == [1, 0] * 4
        assert read_reds(path) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert read_reds(tmp_path, DataConfig(size=16, limit=8)) == read_reds(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "Image_ID,CLASS\n" + "\n".join(f"{index},{index % 2}" for index in range(8)),
        "\ufefflabel;file name\r\n"
        + "\r\n".join(f"{index % 2}.0;{index}.png" for index in range(8)),
        "index\tpath\ttarget\n"
        + "\n".join(f"99\t./train/{index}.png\t{index % 2}" for index in range(8)),
        "id,filename,y,split\n"
        + "\n".join(f'x,"train\\{index}.png",{index % 2},"a,b"' for index in range(8)),
    ],
)
def test_names_of_columns_files_and_separators_are_recognised(tmp_path: Path, text: str) -> None:
    save_images(tmp_path, *(f"train/{name}" for name in NAMES))
    save_table(tmp_path, text)
    dataset = load_dataset(tmp_path, CONFIG)
    assert dataset.labels.tolist() == [0, 1] * 4
    assert dataset.class_names == ("class 0", "class 1")
    assert read_reds(tmp_path) == list(range(8))


def test_columns_of_other_names_are_named_by_settings(tmp_path: Path) -> None:
    save_images(tmp_path, *NAMES)
    save_table(
        tmp_path,
        "\ufeffslide,label,verdict\n" + "\n".join(f"{index},7,{index % 2}" for index in range(8)),
    )
    config = DataConfig(size=16, file_column="slide", label_column="verdict")
    assert load_dataset(tmp_path, config).labels.tolist() == [0, 1] * 4


def test_the_image_nearest_to_the_csv_is_meant_and_others_are_said_to_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_images(tmp_path, *NAMES, *(f"raw/{name}" for name in NAMES))
    save_table(tmp_path)
    assert read_reds(tmp_path) == list(range(8))
    assert (
        f"8 images of {tmp_path} are not in train.csv and are left out" in capsys.readouterr().out
    )


def test_class_folders_win_over_a_csv_beside_them_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_images(tmp_path, *(f"{kind}/{index}.png" for kind in "ab" for index in range(4)))
    save_table(tmp_path)
    assert load_dataset(tmp_path, CONFIG).class_names == ("a", "b")
    assert "train.csv is not read" in capsys.readouterr().out


def test_a_csv_to_be_scored_takes_the_numbers_of_the_training_classes(tmp_path: Path) -> None:
    save_images(tmp_path, *NAMES)
    save_table(tmp_path)
    _, labels = load_test(tmp_path, CONFIG, ("flat", "oval", "round"))
    assert labels is not None
    assert labels.tolist() == [2, 0] * 4
    with pytest.raises(UserError, match="a label 'flat'; expected the classes oval, round"):
        load_test(tmp_path, CONFIG, ("oval", "round"))
    save_table(tmp_path, "id,label\n0,2")
    with pytest.raises(UserError, match="a label 2, and the training data has the classes 0 to 1"):
        load_test(tmp_path, CONFIG, ("oval", "round"))


def table_of(rows: str, header: str = "id,label\n") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_images(folder, *NAMES, "a/twin.png", "b/twin.png")
        return save_table(folder, header + rows)

    return make


def two_tables(folder: Path) -> Path:
    save_images(folder, *NAMES)
    save_table(folder, name="test.csv")
    return save_table(folder).parent


def link_out(folder: Path) -> Path:
    save_images(folder, "in/0.png", "out/1.png")
    (folder / "in" / "1.png").symlink_to(folder / "out" / "1.png")
    return save_table(folder / "in", "id,label\n0,0\n1,1")


def not_text(folder: Path) -> Path:
    (folder / "train.csv").write_bytes(b"id,label\n\xff\xfe,1")
    return folder / "train.csv"


BAD_TABLES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "no rows": (table_of(""), ["has no rows", "one line for each image"]),
    "an empty file": (table_of("", header=" "), ["has no rows"]),
    "no file column": (
        table_of("x,1", "slide,label\n"),
        ["columns slide, label", "set data.file_column=NAME"],
    ),
    "no label column": (
        table_of("0,1", "id,verdict\n"),
        ["columns id, verdict", "set data.label_column=NAME"],
    ),
    "missing files": (
        table_of("0,1\nx1,0\nx2,1"),
        ["names x1", "2 of 3 rows", "copy the images"],
    ),
    "two labels": (table_of("0,1\n0.png,0"), ["0.png two labels, '1' and '0'", "leave one"]),
    "no label": (table_of("0,1\n1"), ["nothing in column 'label' of row 2", "fill or delete"]),
    "a fraction": (table_of("0,0\n1,1.5"), ["label '1.5' in row 2", "whole numbers from 0"]),
    "a negative": (table_of("0,0\n1,-1"), ["label '-1' in row 2", "whole numbers from 0"]),
    "numbers and names": (table_of("0,0\n1,round"), ["label 'round' in row 2", "in one way"]),
    "an endless number": (table_of("0,0\n1," + "9" * 30), ["999", "whole numbers from 0"]),
    "a gap": (table_of("0,0\n1,2"), ["no image of class 1", "without gaps"]),
    "one class": (table_of("0,a\n1,a"), ["only the class 'a'"]),
    "a small class": (table_of("0,a\n1,b"), ["1 images of class 0 ('a')", "at least 4"]),
    "a path upwards": (table_of("a/../../0.png,0"), ["names a/../../0.png", "leads out of"]),
    "an absolute path": (
        table_of("/etc/0.png,0"),
        ["names /etc/0.png", "write paths from that folder"],
    ),
    "a link out": (link_out, ["in/1.png is a link that leads out of", "copy the image"]),
    "twins": (table_of("twin,0"), ["a/twin.png or", "b/twin.png", "write its path"]),
    "two tables": (
        two_tables,
        ["several tables (test.csv, train.csv)", "name the one to read", "--data"],
    ),
    "not text": (not_text, ["cannot be read as a table", "UTF-8"]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_csv_gives_one_sentence_before_any_image_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = BAD_TABLES[name]
    path = make(tmp_path)
    monkeypatch.setattr(
        "competition.data.dataset.read_images",
        lambda *arguments: pytest.fail("images are read"),
    )
    with pytest.raises(UserError) as caught:
        load_dataset(path, CONFIG)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    assert message.endswith(".")


def bands(rows: int, columns: int) -> Image.Image:
    """Return an image of 8 bands of colour across its longer side."""
    image = np.zeros((rows, columns, 3), np.uint8)
    along = np.arange(max(rows, columns)) * 8 // max(rows, columns) * 30
    image[...] = along[:, None, None] if rows > columns else along[None, :, None]
    return Image.fromarray(image)


def test_stretching_takes_the_whole_image_to_the_corners() -> None:
    square = make_square(bands(16, 64), DataConfig(size=16))[..., 0]
    assert square.shape == (16, 16)
    np.testing.assert_allclose(square[:, [0, 15]], [[0, 210]] * 16, atol=3)


@pytest.mark.parametrize("upright", [False, True])
def test_cropping_keeps_the_middle_of_the_longer_side(upright: bool) -> None:
    image = bands(64, 16) if upright else bands(16, 64)
    square = make_square(image, DataConfig(size=16, resize="crop"))[..., 0]
    along = square[:, 5] if upright else square[5]
    np.testing.assert_array_equal(along, [90] * 8 + [120] * 8)


@pytest.mark.parametrize("upright", [False, True])
def test_padding_keeps_the_proportions_and_fills_the_rest_with_black_or_the_mirrored_image(
    upright: bool,
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 11, 3)).astype(np.uint8)
    image = image if upright else image.transpose(1, 0, 2)
    black = make_square(Image.fromarray(image), DataConfig(size=16, resize="pad", fill="constant"))
    mirrored = make_square(Image.fromarray(image), DataConfig(size=16, resize="pad"))
    if not upright:
        image, black, mirrored = (array.transpose(1, 0, 2) for array in (image, black, mirrored))
    for square in (black, mirrored):
        np.testing.assert_array_equal(square[:, 2:13], image)
    assert not black[:, :2].any()
    assert not black[:, 13:].any()
    np.testing.assert_array_equal(mirrored[:, :2], image[:, 1::-1])
    np.testing.assert_array_equal(mirrored[:, 13:], image[:, :-4:-1])


def test_padding_fills_more_than_the_image_has() -> None:
    square = make_square(bands(4, 64), DataConfig(size=64, resize="pad"))
    np.testing.assert_array_equal(square, np.repeat(square[30:31], 64, axis=0))


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_an_image_of_the_right_size_is_not_touched(resize: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        make_square(Image.fromarray(image), DataConfig(size=16, resize=resize)), image
    )


def test_images_of_mixed_sizes_are_read_in_their_order(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.png" for index in range(100)]
    for index, file in enumerate(files):
        Image.new("RGB", (8 + index % 7, 30 - index % 11), (2 * index, index, 0)).save(file)
    images, unreadable = read_images(files, DataConfig(size=16, resize="pad"))
    assert unreadable == {}
    np.testing.assert_array_equal(
        images, np.tile([(2 * i, i, 0) for i in range(100)], 256).reshape(100, 16, 16, 3)
    )
