"""Figures for people: the map of the data, sheets of images, class balance, curves, confusion."""

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from competition.common.files import replacing


def draw_map(
    path: Path,
    coordinates: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    removed: np.ndarray,
) -> None:
    """Write the t-SNE map as PNG: classes in colour, removed images as black crosses.

    coordinates: (n, 2). labels: (n,). removed: (n,) bool.
    """
    figure, axes = _start_figure(12, 9)
    for label, name in enumerate(class_names):
        points = coordinates[(labels == label) & ~removed]
        legend = f"{name} ({len(points)})"
        axes.scatter(*points.T, s=5, color=_pick_colour(label), linewidths=0, label=legend)
    legend = f"removed ({removed.sum()})"
    crosses = {"marker": "x", "s": 12, "color": "black", "linewidths": 0.6}
    axes.scatter(*coordinates[removed].T, **crosses, label=legend)
    axes.set(title="t-SNE map of the images", xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=3, frameon=False)
    _save_figure(figure, path)


def draw_class_balance(
    path: Path, counts: dict[str, np.ndarray], class_names: tuple[str, ...]
) -> None:
    """Write a bar chart as PNG; counts: images per class (K,), by the name of a set."""
    figure, axes = _start_figure(10, 5)
    width = 0.8 / len(counts)
    for number, (name, values) in enumerate(counts.items()):
        places = np.arange(len(class_names)) + (number - (len(counts) - 1) / 2) * width
        legend = f"{name} ({int(np.sum(values))})"
        axes.bar(places, values, width, color=_pick_colour(number), label=legend)
    axes.set(title="Class balance", ylabel="images")
    axes.set_xticks(range(len(class_names)), class_names, rotation=20, ha="right")
    axes.legend(frameon=False)
    _save_figure(figure, path)


def draw_contact_sheet(path: Path, images: np.ndarray, columns: int = 20) -> None:
    """Write images (n, h, w, 3) uint8 side by side, row by row, as PNG; a white one if n is 0."""
    height, width = (length + 1 for length in images.shape[1:3])
    rows = max(1, -(-len(images) // columns))
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top = index // columns * height
        left = index % columns * width
        sheet[top : top + height - 1, left : left + width - 1] = image
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary)


def draw_sheets(
    images: np.ndarray, indices: Sequence[int], columns: int, side: int, quality: int
) -> list[str]:
    """Return JPEG sheets, as base64, of some of `images` (n, h, w, 3) uint8, row by row.

    A sheet has at most `columns` rows. side: the longest side, in pixels, that an image shrinks to.
    """
    height, width = images.shape[1:3]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    sheets = []
    for start in range(0, len(indices), columns**2):
        chosen = indices[start : start + columns**2]
        sheet = Image.new("RGB", (columns * size[0], -(-len(chosen) // columns) * size[1]))
        for number, index in enumerate(chosen):
            small = Image.fromarray(images[index]).resize(size, Image.Resampling.BILINEAR)
            sheet.paste(small, (number % columns * size[0], number // columns * size[1]))
        stream = io.BytesIO()
        sheet.save(stream, "JPEG", quality=quality)
        sheets.append(base64.b64encode(stream.getvalue()).decode())
    return sheets


def draw_history(path: Path, table: pd.DataFrame, column: str, metric: str) -> None:
    """Write the curves of a training as PNG: training accuracy and selection score per epoch.

    table: a row per epoch: stage, accuracy, and `column`, the value of `metric` on validation
    (missing if not validated).
    """
    figure, axes = _start_figure(9, 5)
    epochs = pd.Series(np.arange(1, len(table) + 1))
    legend = "training accuracy, augmented images"
    axes.plot(epochs, table["accuracy"], color=_pick_colour(7), label=legend)
    scores = table[column].dropna()
    legend = "selection score" if metric == "accuracy" else f"selection score: {metric}"
    axes.plot(epochs[scores.index], scores, color=_pick_colour(0), marker="o", label=legend)
    stages = table["stage"].to_numpy()
    for border in np.flatnonzero(stages[1:] != stages[:-1]):
        axes.axvline(border + 1.5, color="black", linewidth=0.8, linestyle="--")
    axes.set(title=" then ".join(table["stage"].unique()), xlabel="epoch")
    axes.set_ylim(min(0, scores.min()), max(1, scores.max()))
    axes.legend(frameon=False, loc="lower right")
    _save_figure(figure, path)


def draw_confusion(
    path: Path, confusion: np.ndarray, class_names: tuple[str, ...], title: str
) -> None:
    """Write a confusion matrix (K, K) of counts as PNG; rows: true classes; colour: row share."""
    figure, axes = _start_figure(8, 7)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(class_names)), class_names, rotation=35, ha="right")
    axes.set_yticks(range(len(class_names)), class_names)
    _save_figure(figure, path)


def _start_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure, in inches, and its axes, with no window and no global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _pick_colour(number: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab10" if number < 10 else "tab20"](number % 20)


def _save_figure(figure: Any, path: Path) -> None:
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that the font lacks
        figure.savefig(temporary, dpi=120, facecolor="white")
