"""Codabench's scoring program: compares the labels of a submission with the true ones.

    python3 scoring.py [--input /app/input] [--output /app/output]

Reads res/predictions.npz (see ingestion.py), ref/labels.npy (n,) and ref/settings.json
(class_names, metric). Writes scores.json, whose keys are the leaderboard's columns, and
detailed_results.html: the scores and the confusion matrix. Stands alone: standard library, numpy.
"""

import argparse
import html
import json
import sys
from pathlib import Path

import numpy as np

STYLE = (
    "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.3em .6em;text-align:right}"
    "</style>"
)


def count_confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the counts (K, K) of images of class i that were called j.

    Exits where a label is out of range.
    """
    if predicted.shape != labels.shape:
        sys.exit(f"{len(labels)} labels expected, received an array of shape {predicted.shape}")
    if len(predicted) and not 0 <= predicted.min() <= predicted.max() < num_classes:
        sys.exit(
            f"labels range from {predicted.min()} to {predicted.max()}; "
            f"expected 0 to {num_classes - 1}"
        )
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def measure_accuracy(confusion: np.ndarray) -> float:
    """Return the share of the images whose label is right."""
    return float(confusion.diagonal().sum() / max(int(confusion.sum()), 1))


def _list_f1(confusion: np.ndarray) -> np.ndarray:
    """Return the F1 of each class, 0 of an absent one."""
    counts = confusion.sum(axis=1) + confusion.sum(axis=0)
    return np.asarray(2 * confusion.diagonal() / np.maximum(counts, 1))


def measure_f1(confusion: np.ndarray) -> float:
    """Return the macro F1: the mean over the classes."""
    return float(_list_f1(confusion).mean())


def measure_weighted_f1(confusion: np.ndarray) -> float:
    """Return the F1 weighted by the classes' sizes."""
    total = max(int(confusion.sum()), 1)
    return float((_list_f1(confusion) * confusion.sum(axis=1)).sum() / total)


def measure_recall(confusion: np.ndarray) -> float:
    """Return the balanced accuracy: the mean recall over the classes that have images."""
    true = confusion.sum(axis=1)
    return float((confusion.diagonal()[true > 0] / true[true > 0]).mean())


def measure_kappa(confusion: np.ndarray, power: int = 0) -> float:
    """Return Cohen's kappa; a mistake weighs as the distance of the classes to that power."""
    classes = np.arange(len(confusion))
    weights = np.abs(classes[:, None] - classes) ** power * (classes[:, None] != classes)
    by_chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / confusion.sum()
    expected = float((weights * by_chance).sum())
    return 1 - float((weights * confusion).sum()) / expected if expected else 1.0


def measure_quadratic_kappa(confusion: np.ndarray) -> float:
    """Return Cohen's kappa in which a mistake weighs as the squared distance of the classes."""
    return measure_kappa(confusion, power=2)


def measure_log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean of -log of the true class' probability, which counts as 2e-16 at least."""
    own = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    return float(-np.log(np.clip(own, np.finfo(float).eps, 1)).mean())


def measure_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the area under the ROC curve of each class against the rest, on average.

    By ranks, where ties share one (Mann and Whitney 1947); of the classes that have images.
    """
    areas = []
    for label in np.unique(labels):
        _, places, counts = np.unique(
            probabilities[:, label], return_inverse=True, return_counts=True
        )
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
        members = labels == label
        count = int(members.sum())
        above = ranks[members].sum() - count * (count + 1) / 2
        areas.append(above / (count * (len(labels) - count)))
    return float(np.mean(areas))


USUAL = {
    "accuracy": measure_accuracy,
    "f1_macro": measure_f1,
    "f1_weighted": measure_weighted_f1,
}
OF_LABELS = {
    **USUAL,
    "balanced_accuracy": measure_recall,
    "kappa": measure_kappa,
    "quadratic_kappa": measure_quadratic_kappa,
}
OF_PROBABILITIES = {"log_loss": measure_log_loss, "auc": measure_auc}


def check_probabilities(probabilities: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """Return probabilities of that shape, float64; exits where they are none."""
    if probabilities is None or probabilities.shape != shape:
        received = "none" if probabilities is None else f"those of shape {probabilities.shape}"
        sys.exit(f"probabilities of shape {shape} expected, received {received}")
    exact = probabilities.astype(np.float64)
    if not (np.isfinite(exact).all() and (exact >= 0).all()):
        sys.exit("probabilities are no numbers, or below 0; expected numbers from 0 to 1")
    if not np.allclose(sums := exact.sum(axis=1), 1, atol=1e-2):
        sys.exit(f"the probabilities of an image sum to {sums[abs(sums - 1).argmax()]:g}, not to 1")
    return exact


def write_table(confusion: np.ndarray, names: list[str]) -> str:
    """Return the confusion matrix as an HTML table."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = [
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{count}</td>' for count in row)}</tr>"
        for name, row in zip(names, confusion.tolist(), strict=True)
    ]
    return f"<table><tr><th>true \\ called</th>{head}</tr>{''.join(rows)}</table>"


def score_labels(
    labels: np.ndarray,
    predicted: np.ndarray,
    names: list[str],
    seconds: float,
    metric: str = "accuracy",
    probabilities: np.ndarray | None = None,
) -> tuple[dict[str, float], str]:
    """Return the scores of labels (n,), that of `metric` first, and the page of detailed results.

    seconds: that they took. probabilities: (n, K), for a metric that needs them. Exits where the
    predictions cannot be scored.
    """
    confusion = count_confusion(labels, predicted, len(names))
    if metric in OF_PROBABILITIES:
        exact = check_probabilities(probabilities, (len(labels), len(names)))
        scores = {metric: OF_PROBABILITIES[metric](labels, exact)}
    else:
        scores = {metric: OF_LABELS[metric](confusion)}
    scores |= {name: measure(confusion) for name, measure in USUAL.items()}
    scores["duration"] = round(seconds, 2)
    listed = "".join(f"<li>{name}: {value:.4f}</li>" for name, value in scores.items())
    page = f"<!doctype html><meta charset=utf-8>{STYLE}<h1>Results</h1><ul>{listed}</ul>"
    return scores, page + write_table(confusion, names)


def main(arguments: list[str] | None = None) -> None:
    """Score one submission."""
    parser = argparse.ArgumentParser(description="Codabench scoring program")
    parser.add_argument("--input", type=Path, default=Path("/app/input"))
    parser.add_argument("--output", type=Path, default=Path("/app/output"))
    options = parser.parse_args(arguments)
    reference = options.input / "ref"
    settings = json.loads((reference / "settings.json").read_text(encoding="utf-8"))
    labels = np.load(reference / "labels.npy", allow_pickle=False)
    with np.load(options.input / "res" / "predictions.npz", allow_pickle=False) as predictions:
        predicted = predictions["labels"]
        probabilities = predictions.get("probabilities")
        seconds = float(predictions["seconds"][:2].sum())
    names, metric = settings["class_names"], settings["metric"]
    scores, page = score_labels(labels, predicted, names, seconds, metric, probabilities)
    (options.output / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    (options.output / "detailed_results.html").write_text(page, encoding="utf-8")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
