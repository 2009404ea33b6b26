"""Figures: they are written whole, and from data with gaps."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from competition.common.figures import draw_confusion, draw_history


def test_the_curves_of_a_training_have_gaps_where_no_epoch_was_validated(tmp_path: Path) -> None:
    lines = ["stage,accuracy,val_accuracy", "head,0.5,", "head,0.6,0.55", "fine-tuning,0.8,0.7"]
    table = pd.read_csv(io.StringIO("\n".join(lines)))
    draw_history(tmp_path / "history.png", table, "val_accuracy", "accuracy")
    assert Image.open(tmp_path / "history.png").size == (1080, 600)


def test_a_confusion_may_lack_images_of_a_class(tmp_path: Path) -> None:
    confusion = np.array([[3, 1], [0, 0]])
    draw_confusion(tmp_path / "confusion.png", confusion, ("a", "b"), "test")
    pixels = np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 3
