"""A submission that runs: an image gets the class with the nearest mean colour in training."""

from pathlib import Path

import numpy as np


class Model:
    """The class that the server loads; replace it with something better."""

    def __init__(self) -> None:
        self.means = np.load(Path(__file__).resolve().parent / "means.npy", allow_pickle=False)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:  # noqa: N803  (the server's name)
        """Return the probabilities (n, classes) of images X (n, h, w, 3) in 0..255."""
        probabilities = np.zeros((len(X), len(self.means)))
        for index, image in enumerate(X):
            distances = ((self.means - image.mean(axis=(0, 1))) ** 2).sum(axis=1)
            closeness = np.exp((distances.min() - distances) / 100)
            probabilities[index] = closeness / closeness.sum()
        return probabilities

    def predict(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        """Return the labels (n,) of images X (n, h, w, 3) in 0..255."""
        return self.predict_proba(X).argmax(axis=1)
