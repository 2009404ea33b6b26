"""Cleaning: planted faults are found, sound cells stay, and the marker comes last."""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from competition.cleaning import clean as cleaning
from competition.cleaning.clean import clean, cleaning_inputs
from competition.cleaning.embedding import embed, lay_out
from competition.cleaning.non_cells import find_clusters, measure_sharing
from competition.cleaning.wrong_labels import WrongLabel
from competition.common import files
from competition.common.errors import UserError
from competition.common.figures import draw_class_balance, draw_contact_sheet
from competition.config import Config, with_settings
from competition.data.arrays import Dataset

SIDE = 32
COLOURS = np.array([[90, 40, 120], [200, 90, 90], [60, 60, 160]])
CONFIG = with_settings(
    Config(), {"cleaning.iterations": 250, "cleaning.cluster_size": 10, "seed": 3}
)


def draw_cells(count: int, seed: int = 0) -> Dataset:
    """Return round cells of three classes, told apart by size and colour, on a noisy ground."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        cell = np.full((SIDE, SIDE, 3), 225.0)
        red = np.array([190, 150, 150])
        discs = [(5, red, 14), (4, red, 14), (5 + 3 * int(label), COLOURS[label], 4)]
        for radius, colour, spread in discs:
            row, column = SIDE / 2 + generator.uniform(-spread, spread, 2)
            cell[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = colour
        image[:] = np.clip(cell + generator.normal(0, 4, cell.shape), 0, 255)
    return Dataset(images, labels.astype(np.int64), ("small", "middle", "large"))


def blend(dataset: Dataset, indices: np.ndarray) -> Dataset:
    """Return the data with one fixed, unrelated image blended over some of it."""
    coarse = np.random.default_rng(99).integers(0, 256, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
    images = dataset.images.copy()
    images[indices] = (0.6 * coarse + 0.4 * images[indices]).astype(np.uint8)
    return dataclasses.replace(dataset, images=images)


def read_issues(folder: Path) -> list[dict[str, str]]:
    with (folder / "issues.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def found(folder: Path, kind: str, action: str = "drop") -> set[int]:
    return {
        int(row["index"])
        for row in read_issues(folder)
        if (row["kind"], row["action"]) == (kind, action)
    }


def test_a_sound_data_set_loses_nothing(tmp_path: Path) -> None:
    keep = clean(draw_cells(150), tmp_path, CONFIG, None).keep
    assert keep.all()
    assert read_issues(tmp_path) == []


def test_blended_images_are_found_by_their_pixels_alone_and_no_cell_is_lost(
    tmp_path: Path,
) -> None:
    planted = np.random.default_rng(1).choice(300, 45, replace=False)
    keep = clean(blend(draw_cells(300), planted), tmp_path, CONFIG, None).keep
    assert found(tmp_path, "non_cell") == set(planted.tolist())
    np.testing.assert_array_equal(np.flatnonzero(~keep), np.sort(planted))


def test_images_that_share_a_background_but_also_a_label_are_a_class_and_stay(
    tmp_path: Path,
) -> None:
    dataset = draw_cells(300)
    keep = clean(
        blend(dataset, np.flatnonzero(dataset.labels == 1)[:60]), tmp_path, CONFIG, None
    ).keep
    assert keep.all()


def test_of_exact_copies_the_first_stays_and_conflicting_ones_go_whole(tmp_path: Path) -> None:
    dataset = draw_cells(60)
    dataset.images[[20, 50]] = dataset.images[5]
    dataset.labels[[20, 50]] = dataset.labels[5]
    dataset.images[31] = dataset.images[12]
    dataset.labels[31] = dataset.labels[12] + 1
    cleaned = clean(dataset, tmp_path, CONFIG, None)
    assert set(np.flatnonzero(~cleaned.keep)) == {20, 50, 12, 31}
    assert found(tmp_path, "exact_copy", "keep") == {5}
    assert found(tmp_path, "conflicting_copy") == {12, 31}
    groups = cleaned.groups
    assert groups.dtype == np.int64
    assert groups[[5, 20, 50, 12, 31]].tolist() == [5, 5, 5, 12, 12]
    assert len(np.unique(groups)) == 60 - 3


@pytest.mark.parametrize(
    ("setting", "action"),
    [("drop", "drop_from_training"), ("relabel", "relabel_in_training"), ("keep", "keep")],
)
def test_a_wrong_label_is_kept_flagged_and_acted_on_as_the_setting_says(
    setting: str, action: str, tmp_path: Path
) -> None:
    dataset = draw_cells(600)
    dataset.labels[7] = 0
    settings = {
        "cleaning.wrong_labels": setting,
        "cleaning.false_alarms": 0.9,
        "cleaning.sure_false_alarms": 0.9,
    }
    config = with_settings(CONFIG, settings)
    cleaned = clean(dataset, tmp_path, config, None)
    assert cleaned.keep.all()
    assert found(tmp_path, "wrong_label", action) == {7}
    assert [row["suggestion"] for row in read_issues(tmp_path)] == ["1"]
    assert cleaned.training_labels[7] == {"drop": -1, "relabel": 1, "keep": 0}[setting]
    assert cleaned.surely_wrong[7] == (setting != "keep")
    others = np.delete(np.arange(600), 7)
    np.testing.assert_array_equal(cleaned.training_labels[others], dataset.labels[others])
    np.testing.assert_array_equal(cleaned.dataset.labels, dataset.labels)


def test_labels_are_compared_among_the_images_kept_one_of_each_group_of_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = draw_cells(60)
    dataset.images[[20, 50]] = dataset.images[5]
    dataset.labels[[20, 50]] = dataset.labels[5]
    dataset.images[30] = 0
    seen: list[np.ndarray] = []

    def note(views: list[np.ndarray], labels: np.ndarray, *_: object) -> list[WrongLabel]:
        seen.append(labels)
        return []

    monkeypatch.setattr(cleaning, "find_wrong_labels", note)
    cleaned = clean(dataset, tmp_path, CONFIG, None)
    assert set(np.flatnonzero(~cleaned.keep)) == {20, 30, 50}
    np.testing.assert_array_equal(seen[0], dataset.labels[cleaned.keep])


def test_blank_broken_and_noise_images_go_each_by_its_own_name(tmp_path: Path) -> None:
    dataset = draw_cells(60)
    dataset.images[3], dataset.images[4] = 0, (250, 240, 230)
    dataset.images[10, 14:] = 128
    dataset.images[11, 25:] = 0
    dataset.images[40] = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))
    keep = clean(dataset, tmp_path, CONFIG, None).keep
    assert found(tmp_path, "blank") == {3, 4}
    assert found(tmp_path, "broken") == {10, 11}
    assert found(tmp_path, "noise") == {40}
    assert set(np.flatnonzero(~keep)) == {3, 4, 10, 11, 40}


def test_an_unreadable_image_is_an_issue_of_its_own_that_no_override_can_keep(
    tmp_path: Path,
) -> None:
    dataset = draw_cells(60)
    dataset.images[[4, 9]] = 0
    dataset = dataclasses.replace(
        dataset,
        unreadable={4: "a/4.png: cut off", 9: "a/9.png: empty"},
        files=tuple(f"a/{index}.png" for index in range(60)),
    )
    keep = clean(dataset, tmp_path, CONFIG, None).keep
    assert np.flatnonzero(~keep).tolist() == [4, 9]
    rows = [(row["file"], row["kind"], row["reason"]) for row in read_issues(tmp_path)]
    assert rows == [
        ("a/4.png", "unreadable", "a/4.png: cut off"),
        ("a/9.png", "unreadable", "a/9.png: empty"),
    ]
    assert (tmp_path / "files.csv").read_text().splitlines()[10] == "9,a/9.png"
    (tmp_path / "overrides.csv").write_text("index,action\n9,keep\n")
    with pytest.raises(UserError, match=r"keeps image 9, which cannot be read \(a/9.png: empty\)"):
        clean(dataset, tmp_path, CONFIG, None)


def test_a_class_of_even_images_is_kept_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = draw_cells(90)
    generator = np.random.default_rng(5)
    for index in np.flatnonzero(dataset.labels == 1):
        colour = np.array([30, 50, 90]) + generator.normal(0, 4, 3)
        dataset.images[index] = colour + generator.normal(0, 1, dataset.images[index].shape)
    dataset.images[0] = 7  # of another class, so it is blank indeed
    keep = clean(dataset, tmp_path, CONFIG, None).keep
    assert np.flatnonzero(~keep).tolist() == [0]
    assert "Class 'middle' looks faulty as a whole: it is KEPT" in capsys.readouterr().out


def test_near_copies_share_a_group_of_which_the_first_stays(tmp_path: Path) -> None:
    dataset = draw_cells(60)
    mottled = dataset.images - np.random.default_rng(0).integers(
        0, 30, dataset.images.shape, np.uint8
    )
    dataset = dataclasses.replace(dataset, images=mottled.repeat(2, 1).repeat(2, 2))
    dataset.images[42] = dataset.images[3][:, ::-1]
    dataset.images[50] = np.rot90(dataset.images[8])
    dataset.labels[50] = dataset.labels[8] + 1
    cleaned = clean(dataset, tmp_path, CONFIG, None)
    assert found(tmp_path, "near_copy", "keep") == {3}
    assert found(tmp_path, "near_copy") == {42}
    assert found(tmp_path, "conflicting_copy") == {8, 50}
    assert set(np.flatnonzero(~cleaned.keep)) == {42, 8, 50}
    assert cleaned.groups[[42, 50]].tolist() == [3, 8]


def test_what_is_dropped_for_another_fault_has_no_row_as_a_copy(tmp_path: Path) -> None:
    planted = np.arange(0, 300, 7)
    dataset = blend(draw_cells(300), planted)
    dataset.images[14] = dataset.images[7]
    dataset.images[[50, 60]] = 128
    clean(dataset, tmp_path, CONFIG, None)
    names = {row["kind"] for row in read_issues(tmp_path)}
    assert names == {"non_cell", "blank"}
    assert len(read_issues(tmp_path)) == len(planted) + 2


def test_cleaning_twice_gives_the_same_files(tmp_path: Path) -> None:
    dataset = blend(draw_cells(120), np.arange(0, 120, 5))
    for name in ("first", "second"):
        clean(dataset, tmp_path / name, CONFIG, None)
    for name in ("issues.csv", "cleaned.npz", "tsne.npz", "cleaning.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_map_has_a_place_for_every_image_and_a_file(tmp_path: Path) -> None:
    clean(draw_cells(40), tmp_path, CONFIG, None)
    coordinates = files.read_arrays(tmp_path / "tsne.npz")["coordinates"]
    assert coordinates.shape == (40, 2)
    assert coordinates.dtype == np.float32
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_done_already_is_read_and_redone_only_by_force_or_where_a_file_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = draw_cells(40)
    dataset.images[30] = dataset.images[3]
    (tmp_path / "overrides.csv").write_text("index,action,label\n1,relabel,small\n")
    first = clean(dataset, tmp_path, CONFIG, None)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(cleaning, "find_issues", None)
        patched.setattr(cleaning, "write_report", None)
        again = clean(dataset, tmp_path, CONFIG, None)
        assert "done already" in capsys.readouterr().out
        with pytest.raises(TypeError):
            clean(dataset, tmp_path, CONFIG, None, force=True)
    for name in ("keep", "groups", "training_labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert again.dataset.labels[1] == first.dataset.labels[1] == 0 != dataset.labels[1]
    (tmp_path / "cleaned.npz").unlink()
    assert clean(dataset, tmp_path, CONFIG, None).keep.sum() == 39


def test_the_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = draw_cells(40)
    clean(dataset, tmp_path, CONFIG, None)
    inputs = cleaning_inputs(dataset, tmp_path, CONFIG, None)
    assert files.up_to_date(tmp_path / "cleaning.json", inputs)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(cleaning, "draw_map", fail)
    with pytest.raises(OSError, match="disk full"):
        clean(dataset, tmp_path, CONFIG, None, force=True)
    assert not files.up_to_date(tmp_path / "cleaning.json", inputs)


@pytest.mark.parametrize(
    "change",
    [
        lambda data, config, path: (draw_cells(9, seed=1), config, None),
        lambda data, config, path: (data, with_settings(config, {"cleaning.sharing": 0.7}), None),
        lambda data, config, path: (data, with_settings(config, {"seed": 8}), None),
        lambda data, config, path: (data, config, path),
    ],
    ids=["images", "setting", "seed", "weights"],
)
def test_every_input_changes_the_hash(
    change: Callable[[Dataset, Config, Path], tuple[Dataset, Config, Path | None]], tmp_path: Path
) -> None:
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"numbers")
    dataset = draw_cells(9)
    changed, config, path = change(dataset, CONFIG, weights)
    assert cleaning_inputs(changed, tmp_path, config, path) != cleaning_inputs(
        dataset, tmp_path, CONFIG, None
    )


def test_a_setting_of_training_does_not_change_the_hash(tmp_path: Path) -> None:
    dataset = draw_cells(9)
    other = with_settings(CONFIG, {"training.batch_size": 7})
    assert cleaning_inputs(dataset, tmp_path, CONFIG, None) == cleaning_inputs(
        dataset, tmp_path, other, None
    )


def test_sharing_is_one_for_equal_images_and_nothing_for_unrelated_ones() -> None:
    generator = np.random.default_rng(0)
    unrelated = generator.normal(size=(200, 500)).astype(np.float32)
    assert measure_sharing(np.repeat(unrelated[:1], 200, 0)) > 0.99
    assert measure_sharing(unrelated) < 0.05


def test_clusters_of_a_map_are_found_and_a_small_map_has_none() -> None:
    generator = np.random.default_rng(0)
    places = np.concatenate([generator.normal(centre, 1, (50, 2)) for centre in (0, 40)])
    largest = find_clusters(places, 20)[:2]
    assert sorted(
        {int(index >= 50) for index in cluster} for cluster in map(np.ndarray.tolist, largest)
    ) == [{0}, {1}]
    assert find_clusters(places[:30], 20) == []


def test_images_beyond_the_maximum_get_the_place_of_their_nearest() -> None:
    features = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32)
    features[1::2] = features[::2]
    places = lay_out(features, 5.0, 250, 60, seed=0)
    drawn = set(np.random.default_rng(0).permutation(80)[:60].tolist())
    assert places.shape == (80, 2)
    for index in set(range(80)) - drawn:
        assert (index ^ 1) not in drawn or (places[index] == places[index ^ 1]).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_handful_of_images_can_be_cleaned(count: int, tmp_path: Path) -> None:
    assert clean(draw_cells(count), tmp_path, CONFIG, None).keep.all()


def test_a_backbone_with_weights_gives_its_pooled_features_and_those_of_its_blocks(
    tmp_path: Path,
) -> None:
    import keras

    from competition.networks.layers import block_borders
    from competition.networks.submission_model import build_backbone

    backbone = build_backbone("tiny_cnn", {}, (SIDE, SIDE, 3))
    backbone.save_weights(tmp_path / "tiny.weights.h5")
    images = draw_cells(5).images
    expected = backbone.predict(images.astype(np.float32), verbose=0).mean((1, 2))
    features, textures = embed(images, "tiny_cnn", tmp_path / "tiny.weights.h5", seed=0)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    (border,) = block_borders(backbone)
    block = keras.Model(backbone.input, backbone.layers[border - 1].output)
    expected = block.predict(images.astype(np.float32), verbose=0).mean((1, 2))
    assert textures is not None
    np.testing.assert_allclose(textures, expected, rtol=1e-4, atol=1e-4)


def test_a_contact_sheet_and_a_class_balance_are_images(tmp_path: Path) -> None:
    from PIL import Image

    draw_contact_sheet(tmp_path / "sheet.png", draw_cells(7).images, columns=3)
    assert Image.open(tmp_path / "sheet.png").size == (3 * (SIDE + 1), 3 * (SIDE + 1))
    draw_class_balance(
        tmp_path / "balance.png",
        {"before": np.array([3, 4]), "after": np.array([2, 2])},
        ("a", "b"),
    )
    assert Image.open(tmp_path / "balance.png").size[0] > 500
