"""Pictures for people: the map of the data, contact sheets and the class balance."""

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
    """Write the t-SNE map (n, 2) as PNG: classes in colour, pictures in the mask `removed` (n,) as black crosses."""
    figure, axes = start_figure(12, 9)
    for label, name in enumerate(class_names):
        points = coordinates[(labels == label) & ~removed]
        axes.scatter(
            *points.T, s=5, color=pick_colour(label), linewidths=0, label=f"{name} ({len(points)})"
        )
    axes.scatter(
        *coordinates[removed].T,
        s=12,
        color="black",
        marker="x",
        linewidths=0.6,
        label=f"removed ({removed.sum()})",
    )
    axes.set(title="t-SNE map of the pictures", xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=3, frameon=False)
    save_figure(figure, path)


def draw_class_balance(
    path: Path, counts: dict[str, np.ndarray], class_names: tuple[str, ...]
) -> None:
    """Write a bar chart as PNG: for each named set (before, after, ...) the pictures of each class (K,)."""
    figure, axes = start_figure(10, 5)
    width = 0.8 / len(counts)
    for number, (name, values) in enumerate(counts.items()):
        places = np.arange(len(class_names)) + (number - (len(counts) - 1) / 2) * width
        axes.bar(
            places,
            values,
            width,
            color=pick_colour(number),
            label=f"{name} ({int(np.sum(values))})",
        )
    axes.set(title="Class balance", ylabel="pictures")
    axes.set_xticks(range(len(class_names)), class_names, rotation=20, ha="right")
    axes.legend(frameon=False)
    save_figure(figure, path)


def contact_sheet(path: Path, images: np.ndarray, columns: int = 20) -> None:
    """Write pictures (n, h, w, 3) uint8 side by side, row by row, as PNG; a white one where there are none."""
    height, width = (length + 1 for length in images.shape[1:3])
    rows = max(1, -(-len(images) // columns))
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height - 1, left : left + width - 1] = image
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary)


def draw_history(path: Path, history: pd.DataFrame) -> None:
    """Write the curves of a training as PNG: accuracy in training and the selection score, stage by stage."""
    figure, axes = start_figure(9, 5)
    epochs = np.arange(1, len(history) + 1)
    axes.plot(
        epochs,
        history["accuracy"],
        color=pick_colour(7),
        label="training accuracy, augmented pictures",
    )
    axes.plot(
        epochs, history["val_accuracy"], color=pick_colour(0), marker="o", label="selection score"
    )
    for border in np.flatnonzero(
        history["stage"].to_numpy()[1:] != history["stage"].to_numpy()[:-1]
    ):
        axes.axvline(border + 1.5, color="black", linewidth=0.8, linestyle="--")
    axes.set(title=" then ".join(history["stage"].unique()), xlabel="epoch", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, path)


def draw_confusion(
    path: Path, confusion: np.ndarray, class_names: tuple[str, ...], title: str
) -> None:
    """Write a confusion matrix (K, K) of counts, rows being the true classes, as PNG; colour: share of the row."""
    figure, axes = start_figure(8, 7)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(class_names)), class_names, rotation=35, ha="right")
    axes.set_yticks(range(len(class_names)), class_names)
    save_figure(figure, path)


def start_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of its own, in inches, and its axes."""
    figure = empty_figure(width, height)
    return figure, figure.subplots()


def empty_figure(width: float, height: float) -> Any:
    """Return a figure, in inches, with no window and no global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def pick_colour(number: int) -> Any:
    """Return the colour of a series by its number."""
    from matplotlib import colormaps

    return colormaps["tab10" if number < 10 else "tab20"](number % 20)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, facecolor="white")
