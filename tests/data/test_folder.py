"""Folders with a CSV of labels, and images of mixed sizes brought to one."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    "a path upwards": (
        table_of("a/../../0.png,0"),
        ["names ../0.png, which is not in", "copy the images"],
    ),
    "an absolute path": (
        table_of("/etc/0.png,0"),
        ["names /etc/0.png, which is not in", "copy the images"],
    ),
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


# -- layouts of folders


def count_classes(path: Path, **settings: Any) -> dict[str, int]:
    dataset = load_dataset(path, DataConfig(size=16, **settings))
    return dict(zip(dataset.class_names, np.bincount(dataset.labels).tolist(), strict=True))


def test_images_below_class_folders_count(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{kind}/{n}.png" for kind in "ab" for n in range(3)))
    save_images(tmp_path, *(f"{kind}/patient {n}/0.png" for kind in "ab" for n in range(4)))
    assert count_classes(tmp_path) == {"a": 7, "b": 7}


def test_class_folders_may_hold_nothing_but_patients(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{kind}/{kind}{n}/{n}.png" for kind in "ab" for n in range(4)))
    assert count_classes(tmp_path) == {"a": 4, "b": 4}
    save_images(tmp_path / "more", *(f"{kind}/images/{n}.png" for kind in "ab" for n in range(4)))
    assert count_classes(tmp_path / "more") == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    "splits",
    [
        ("fold_0", "fold_1"),
        ("train", "val"),
        ("TRAIN", "TEST_SIMPLE"),
        ("set/training", "set/Test"),
    ],
)
def test_splits_above_the_classes_are_joined_and_said(
    tmp_path: Path, splits: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    save_images(
        tmp_path, *(f"{top}/{kind}/{n}.png" for top in splits for kind in "ab" for n in "12")
    )
    assert count_classes(tmp_path) == {"a": 4, "b": 4}
    assert "are joined" in capsys.readouterr().out


def test_unlabelled_and_loose_images_beside_the_classes_are_counted_as_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_images(tmp_path, *(f"train/{kind}/{n}.png" for kind in "ab" for n in range(4)))
    save_images(tmp_path, *(f"test/{n}.png" for n in range(3)), "overview.png")
    assert count_classes(tmp_path) == {"a": 4, "b": 4}
    assert f"4 images of {tmp_path} lie in no class folder and are left out" in (
        capsys.readouterr().out
    )


def test_a_competition_as_it_unzips_is_read_by_its_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_images(tmp_path, *(f"train_data/{name}" for name in NAMES))
    save_images(tmp_path, *(f"test_data/{name}" for name in reversed(NAMES)))
    rows = "".join(f"{name},{kind}\n" for name, kind in ROWS)
    save_table(tmp_path, "sample_index,label\n" + rows, "train_labels.csv")
    predictions = "".join(f"test_data/{name},flat\n" for name in NAMES)
    save_table(tmp_path, "sample_index,label\n" + predictions, "sample_submission.csv")
    save_table(tmp_path, "sample_index\n" + "\n".join(NAMES), "test.csv")
    assert count_classes(tmp_path) == {"flat": 4, "round": 4}
    assert read_reds(tmp_path) == list(range(8))
    said = capsys.readouterr().out
    assert f"8 images of {tmp_path} are not in train_labels.csv" in said
    assert "test.csv is not read" in said


def test_of_folders_with_the_same_names_the_one_with_all_rows_is_meant(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"one/{name}" for name in NAMES))
    save_images(tmp_path, *(f"two/{name}" for name in NAMES[4:]))
    assert read_reds(save_table(tmp_path)) == list(range(8))


def test_what_this_program_wrote_beside_the_images_is_none_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_images(tmp_path, *(f"raw/{name}" for name in NAMES), *(f"train/{name}" for name in NAMES))
    (tmp_path / "train" / "cleaning.json").touch()
    assert read_reds(save_table(tmp_path)) == list(range(8))
    assert "left out" not in capsys.readouterr().out


def test_a_csv_names_images_by_the_end_of_their_path(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"a/b/c/{kind}/{n}.png" for kind in "xy" for n in range(4)))
    rows = (f"{kind}/{n}.png,{kind}" for kind in "xy" for n in range(4))
    assert read_reds(save_table(tmp_path, "id,label\n" + "\n".join(rows))) == list(range(8))


def test_absolute_paths_inside_the_folder_are_read_through_links_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    save_images(tmp_path / "real", *NAMES)
    for written in ("real", "link", "link/../link"):
        rows = (f"{tmp_path / written / name},{kind}" for name, kind in ROWS)
        save_table(tmp_path / "real", "image,label\n" + "\n".join(rows))
        assert read_reds(tmp_path / "link") == list(range(8))


def test_a_csv_that_agrees_with_the_folders_is_not_needed_and_one_that_does_not_is_refused(
    tmp_path: Path,
) -> None:
    save_images(tmp_path, *(f"{kind}/{kind}{n}.png" for kind in "ab" for n in range(4)))
    names = [f"{kind}{n}" for kind in "ab" for n in range(4)]
    save_table(tmp_path, "id,label\n" + "\n".join(f"{name},{name[0]}" for name in names))
    assert count_classes(tmp_path) == {"a": 4, "b": 4}
    table = save_table(
        tmp_path, "id,label\n" + "\n".join(f"{n},x{i % 2}" for i, n in enumerate(names))
    )
    with pytest.raises(UserError, match=r"labels in train.csv and others by its folders; choose"):
        load_dataset(tmp_path, CONFIG)
    assert count_classes(table) == {"x0": 4, "x1": 4}
    assert count_classes(tmp_path, classes="first") == {"a": 4, "b": 4}


UNCLEAR = {
    "hospitals above classes": ("here/{}/1.png", "there/{}/2.png"),
    "a class beside groups": ("group/{}/1.png", "masks/1.png"),
    "splits and more": ("train/{}/1.png", "test/{}/2.png", "docs/{}/3.png"),
    "splits with other classes": ("train/{}/1.png", "test/{}x/2.png"),
    "splits without classes": ("train/{}.png", "test/{}.png"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_folders_that_may_be_read_in_several_ways_are_named_and_refused(
    tmp_path: Path, name: str
) -> None:
    files = [pattern.format(kind) for pattern in UNCLEAR[name] for kind in "ab"]
    save_images(tmp_path, *files)
    with pytest.raises(UserError) as caught:
        load_dataset(tmp_path, CONFIG)
    message = str(caught.value)
    assert "data.classes=first" in message
    for file in files:
        assert file.partition("/")[0] in message
    assert message.endswith(".")


def test_the_setting_says_which_folders_are_classes(tmp_path: Path) -> None:
    save_images(
        tmp_path, *(f"{p}/{kind}/{n}.png" for p in "xyz" for kind in "ab" for n in range(4))
    )
    assert count_classes(tmp_path, classes="first") == {"x": 8, "y": 8, "z": 8}
    assert count_classes(tmp_path, classes="last") == {"a": 12, "b": 12}


def test_folders_that_are_all_numbers_are_those_labels(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{label}/{n}.png" for n in range(4) for label in range(12)))
    dataset = load_dataset(tmp_path, CONFIG)
    reds = dataset.images[:, 8, 8, 0] // 10  # each folder's are its label and multiples of 12 more
    assert dataset.class_names[2] == "class 2"
    np.testing.assert_array_equal(dataset.labels[reds < 12], reds[reds < 12])
    _, labels = load_test(tmp_path, DataConfig(size=16, limit=12), dataset.class_names)
    assert labels is not None
    assert labels.tolist() == list(range(12))


def test_numbered_folders_that_leave_out_a_label_are_refused(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{label}/{n}.png" for n in range(4) for label in (0, 2)))
    with pytest.raises(UserError, match=r"no image of class 1.*renumber"):
        load_dataset(tmp_path, CONFIG)


@pytest.mark.parametrize("is_table", [False, True])
def test_numbers_that_do_not_begin_at_0_are_names_and_what_a_submission_answers_is_said(
    tmp_path: Path, is_table: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    given, scored = tmp_path / "given", tmp_path / "scored"
    save_images(given, *(f"{label}/{n}.png" for n in range(4) for label in range(1, 11)))
    save_images(scored, *(f"{label}/1.png" for label in ("10", "02")))
    if is_table:
        rows = (f"{label}/{n}.png,{label}" for n in range(4) for label in range(1, 11))
        save_table(given, "file,label\n" + "\n".join(rows))
        given = given / "train.csv"
        save_table(scored, "file,label\n10/1.png,10\n02/1.png,2.0")
    dataset = load_dataset(given, CONFIG)
    assert dataset.class_names == tuple(map(str, range(1, 11)))
    assert np.bincount(dataset.labels).tolist() == [4] * 10
    assert "SUBMISSION ANSWERS 0 FOR 1 and so on to 9 for 10" in capsys.readouterr().out
    scored = scored / "train.csv" if is_table else scored
    labels = load_test(scored, CONFIG, dataset.class_names)[1]
    assert labels is not None
    assert sorted(labels.tolist()) == [1, 9]
    with pytest.raises(UserError, match="has a label 10; expected the classes 1, 2, 3: "):
        load_test(scored, CONFIG, ("1", "2", "3"))


def test_numbers_in_names_of_classes_count_by_their_value(tmp_path: Path) -> None:
    names = [f"kind {label}" for label in (0, 1, 2, 10, 11)]
    save_images(tmp_path, *(f"{name}/{n}.png" for n in range(4) for name in names))
    assert list(count_classes(tmp_path)) == names
    rows = (f"{name}/{n}.png,{name}" for n in range(4) for name in names)
    assert list(count_classes(save_table(tmp_path, "file,label\n" + "\n".join(rows)))) == names


def test_a_link_back_to_a_folder_above_does_not_hang(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{kind}/{n}.png" for kind in "ab" for n in range(4)))
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert count_classes(tmp_path) == {"a": 4, "b": 4}


# -- pixels


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".webp", "WEBP"), (".jfif", "JPEG"), (".gif", "GIF"), (".ppm", "PPM"), (".tga", "TGA")],
)
def test_every_format_that_people_use_is_read(tmp_path: Path, suffix: str, kind: str) -> None:
    for index in range(8):
        file = tmp_path / "ab"[index % 2] / f"{index}{suffix.upper() if index < 4 else suffix}"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (20 * index, 0, 0)).save(file, kind)
    dataset = load_dataset(tmp_path, CONFIG)
    found = sorted(dataset.images[:, 8, 8, 0].astype(int).tolist())
    np.testing.assert_allclose(found, range(0, 160, 20), atol=6)


def test_files_of_formats_that_are_not_read_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_images(tmp_path, *(f"{kind}/{n}.png" for kind in "ab" for n in range(4)))
    for name in ("a/1.heic", "a/2.HEIC", "b/3.dcm"):
        (tmp_path / name).touch()
    assert count_classes(tmp_path) == {"a": 4, "b": 4}
    said = capsys.readouterr().out
    assert "1 .dcm, 2 .heic" in said
    assert f"LEFT OUT of {tmp_path}" in said


def write_deep_png(path: Path, channels: int) -> None:
    """Write a PNG of 16 bits per channel (W3C PNG, colour types 2 and 6), which Pillow cannot."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 8, 8, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(8 * channels * 2)) * 8)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_of_16_bits_is_refused_as_grey_of_16_bits_is(tmp_path: Path, channels: int) -> None:
    file = tmp_path / "deep.png"
    write_deep_png(file, channels)
    images, unreadable = read_images([file], CONFIG)
    assert not images.any()
    assert "more than 8 bits per channel; convert it to 8-bit RGB" in unreadable[0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_show_one_plain_colour_which_is_said(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = np.random.default_rng(0).integers(0, 256, (16, 16, 4)).astype(np.uint8)
    hidden[..., 3] = 0
    hidden[4:12, 4:12] = (90, 90, 90, 255)
    image = Image.fromarray(hidden)
    if mode == "P":
        image = image.convert("LA").convert("RGBA").quantize(256)
    image.convert(mode).save(tmp_path / "cut.png")
    for background, value in (("white", 255), ("black", 0)):
        config = DataConfig(size=16, background=background)
        (read,), _ = read_images([tmp_path / "cut.png"], config)
        assert (read[4:12, 4:12] == 90).all()
        read[4:12, 4:12] = value
        assert (read == value).all()
        said = capsys.readouterr().out
        assert f"1 images are transparent in part; there they show {background}" in said


def test_opaque_images_with_an_alpha_channel_are_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGBA", (16, 16), (1, 2, 3, 255)).save(tmp_path / "0.png")
    (read,), _ = read_images([tmp_path / "0.png"], CONFIG)
    assert (read == (1, 2, 3)).all()
    assert capsys.readouterr().out == ""


def test_the_first_of_several_pages_is_read_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [Image.new("RGB", (16, 16), (red, 0, 0)) for red in (9, 200)]
    pages[0].save(tmp_path / "0.tif", save_all=True, append_images=pages[1:])
    (read,), _ = read_images([tmp_path / "0.tif"], CONFIG)
    assert read[8, 8].tolist() == [9, 0, 0]
    assert "1 files hold several images" in capsys.readouterr().out


def test_links_that_lead_nowhere_and_pipes_are_unreadable_and_do_not_hang(tmp_path: Path) -> None:
    (tmp_path / "0.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "1.png")
    _, unreadable = read_images([tmp_path / "0.png", tmp_path / "1.png"], CONFIG)
    assert [reason.rpartition(": ")[2] for reason in unreadable.values()] == ["no such file"] * 2


def spoil(folder: Path, count: int = 40) -> None:
    """Write images of two classes, of which one file is cut off, one a web page, one empty."""
    save_images(folder, *(f"{'ab'[n % 2]}/{n:02d}.png" for n in range(count)))
    whole = (folder / "a" / "00.png").read_bytes()
    (folder / "a" / "04.png").write_bytes(whole[:-30])
    (folder / "b" / "01.png").write_bytes(b"<html>404 Not Found</html>")
    (folder / "b" / "09.png").write_bytes(b"")


def test_unreadable_files_are_left_out_all_at_once_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(tmp_path)
    dataset = load_dataset(tmp_path, DataConfig(size=16, unreadable=0.1))
    assert len(dataset.labels) == len(dataset.files) == 40
    places = {"a/04.png": 4, "b/01.png": 1, "b/09.png": 9}
    assert all(dataset.files[index] == name for name, index in places.items())
    assert {index: reason.partition(": ")[0] for index, reason in dataset.unreadable.items()} == {
        index: str(tmp_path / name) for name, index in places.items()
    }
    assert not dataset.images[sorted(places.values())].any()
    assert "3 files cannot be read and are LEFT OUT" in capsys.readouterr().out


def test_above_the_share_of_the_setting_unreadable_files_are_refused_and_all_named(
    tmp_path: Path,
) -> None:
    spoil(tmp_path)
    for read in (load_dataset, load_test):
        with pytest.raises(UserError) as caught:
            read(tmp_path, CONFIG)
        message = str(caught.value)
        assert "3 of 40 files cannot be read as an image; replace or delete them" in message
        for name in ("a/04.png", "b/01.png", "b/09.png"):
            assert name in message
        assert ("data.unreadable (now 0.05)" in message) == (read is load_dataset)


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
