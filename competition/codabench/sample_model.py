"""A submission that runs: each picture gets the class whose mean colour in training is nearest to its own."""

from pathlib import Path

import numpy as np


class Model:
    """What the server loads; replace it with something better."""

    def __init__(self) -> None:
        self.means = np.load(Path(__file__).resolve().parent / "means.npy", allow_pickle=False)

    def predict(self, X: np.ndarray) -> np.ndarray:  # noqa: N803  (the server's name)
        """Return the labels (n,) of pictures X (n, h, w, 3) in 0..255."""
        labels = np.zeros(len(X), np.int64)
        for index, picture in enumerate(X):
            distances = ((self.means - picture.mean(axis=(0, 1))) ** 2).sum(axis=1)
            labels[index] = distances.argmin()
        return labels
