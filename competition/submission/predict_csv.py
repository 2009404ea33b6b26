"""Predictions as a CSV, in the form of a sample submission, made by a packaged zip alone."""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from competition.codabench.sandbox import extract
from competition.common.console import progress, say
from competition.common.errors import DamagedFileError, UserError
from competition.common.files import read_json, replacing
from competition.config import Config, DataConfig, with_settings
from competition.data.dataset import load_test
from competition.data.folder import list_unlabelled
from competition.data.images import read_images, refuse_unreadable
from competition.data.table import TABLE_SUFFIXES
from competition.networks.submission_model import Model
from competition.training.runs import list_runs, read_config

# The shape of a zip's config.json, as far as it is read here.
FACTS = {
    "class_names": [str],
    "data": dict,
    "members": [{"network": {"image_shape": [int]}}],
}
BLOCK = 1024  # images per step of the progress bar


@dataclass(frozen=True)
class Questions:
    """Images (n, size, size, 3) uint8, and their names: of files, else the numbers of rows.

    unreadable: (n,) bool, images that could not be read and are black.
    """

    names: list[str]
    images: np.ndarray
    unreadable: np.ndarray


def predict_csv(
    zip_path: Path,
    source: Path,
    sample_path: Path | None,
    target: Path,
    config: Config,
    skip_unreadable: bool,
    runs: Path,
) -> None:
    """Write the predictions of a packaged zip for the images of `source` as the CSV `target`.

    source: an .npz, a folder of images at any depth, or a CSV that names them.
    sample_path: the sample submission, whose columns, ids and order the CSV takes; without one,
    it has the columns `id` and `label`.
    skip_unreadable: an image that cannot be read gets the class shares of the training data as its
    probabilities. runs: the data set's runs, which have the same classes as the zip.
    Raises UserError, before anything is predicted, where zip, images and sample do not fit.
    """
    with tempfile.TemporaryDirectory(prefix="predict_") as place:
        folder = Path(place)
        facts = open_submission(zip_path, folder, config.limits.zip_megabytes)
        names = tuple(facts["class_names"])
        _require_classes(zip_path, names, runs)
        shares = facts.get("class_shares") or []
        if skip_unreadable and not shares:
            raise UserError(
                f"{zip_path} does not say how common its classes are, as --skip-unreadable needs; "
                "train and package its run again."
            )
        sample = read_sample(sample_path, names) if sample_path else None
        questions = _read_questions(source, sample, facts, config.data, skip_unreadable)
        probabilities = predict(Model(folder), questions.images)
    if questions.unreadable.any():
        probabilities[questions.unreadable] = shares
        commonest = names[int(np.argmax(shares))]
        say(
            f"{questions.unreadable.sum()} of {len(probabilities)} images CANNOT BE READ and get "
            f"the commonest class of the training data, {commonest}."
        )
    table = _lay_out(questions.names, probabilities, names, sample)
    with replacing(target) as temporary:
        table.to_csv(temporary, index=False)
    chosen = Counter(names[label] for label in probabilities.argmax(axis=1))
    counts = ", ".join(f"{name} {chosen[name]}" for name in names)
    say(f"{target}: {len(table)} rows of {', '.join(table.columns)}\n  {counts}")


def predict(model: Model, images: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, K) float64 of images (n, h, w, 3), block by block with a bar."""
    starts = range(0, len(images), BLOCK)
    blocks = [
        model.predict_proba(images[start : start + BLOCK])
        for start in progress(starts, "predicting", unit="block")
    ]
    return np.concatenate(blocks).astype(np.float64)


def open_submission(zip_path: Path, folder: Path, megabytes: float) -> dict[str, Any]:
    """Unzip a submission of ours into `folder`, running none of it; return its config.json.

    megabytes: the server's limit of a zip. Raises UserError where `package_run` did not write it.
    """
    if not zip_path.is_file():
        raise UserError(f"There is no {zip_path}; give a zip that --package wrote.")
    extract(zip_path, folder, 4 * megabytes)
    try:
        facts: dict[str, Any] = read_json(folder / "config.json", FACTS)
    except DamagedFileError:
        facts = {}
    if not facts.get("members"):
        raise UserError(
            f"{zip_path} has no config.json that says its classes and how its images are "
            "prepared; give a zip that --package of this version wrote."
        )
    return facts


def _require_classes(zip_path: Path, class_names: tuple[str, ...], runs: Path) -> None:
    for run in list_runs(runs):
        known = tuple(read_config(run, "class_names")["class_names"])
        if known != class_names:
            raise UserError(
                f"{zip_path} tells the classes {', '.join(class_names)}, and {run.name} of this "
                f"data set {', '.join(known)}; give a zip of the same data set, or another --name."
            )


# -- the sample submission


@dataclass(frozen=True)
class Sample:
    """The form of the predictions.

    ids: of the rows, in their order. columns: all names, that of the ids first. classes: of each
    further column, or nothing where the only one holds labels. labels: the text of each class in
    that column. is_probability: the only column holds the probability of the second of two classes.
    """

    path: Path
    ids: list[str]
    columns: list[str]
    classes: list[int]
    labels: tuple[str, ...]
    is_probability: bool


def read_sample(path: Path, class_names: tuple[str, ...]) -> Sample:
    """Return the form of a sample submission: a column of ids, then labels or probabilities.

    Raises UserError where its columns or labels are not those of `class_names`, or an id is twice.
    """
    try:
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip()
        raise UserError(
            f"{path} cannot be read as a sample submission ({reason}); give a CSV in UTF-8."
        ) from error
    if table.shape[1] < 2 or table.empty:
        raise UserError(
            f"{path} has {len(table)} rows of {table.shape[1]} columns; expected a column of ids "
            "and one of labels, or one for each class."
        )
    id_column, *others = columns = [str(column) for column in table.columns]
    ids = table[id_column].str.strip().tolist()
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        raise UserError(
            f"{path} has the id '{twice[0]}' in several rows ({len(twice)} such ids); "
            "expected each once: delete the others."
        )
    if len(others) > 1:
        classes = _match_columns(path, others, class_names)
        return Sample(path, ids, columns, classes, class_names, False)
    values = set(table[others[0]].str.strip()) - {""}
    if len(class_names) == 2 and any(re.fullmatch(r"[01]?\.\d+", value) for value in values):
        return Sample(path, ids, columns, [], class_names, True)
    labels = _choose_labels(path, others[0], values, class_names)
    return Sample(path, ids, columns, [], labels, False)


def _match_columns(path: Path, columns: list[str], class_names: tuple[str, ...]) -> list[int]:
    """Return the class of each column; case, spaces and a leading 'class' do not matter."""

    def simplify(text: str) -> str:
        return re.sub(r"[\W_]", "", text.lower()).removeprefix("class")

    known = {simplify(name): number for number, name in enumerate(class_names)}
    classes = [known.get(simplify(column), -1) for column in columns]
    if sorted(classes) != list(range(len(class_names))):
        raise UserError(
            f"{path} has the columns {', '.join(columns)}, and the network tells the classes "
            f"{', '.join(class_names)}; expected one column for each class: "
            "give a sample and a network of the same data set."
        )
    return classes


def _choose_labels(
    path: Path, column: str, values: set[str], class_names: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the text of each class: its name or its number, as the sample has it."""
    choices = [class_names]
    if not any(name.isdecimal() for name in class_names):  # else a number is a name
        choices.append(tuple(map(str, range(len(class_names)))))
    for labels in choices:
        if values <= set(labels):
            return labels if values else default_labels(class_names)
    strange = min(values.difference(*choices), default=min(values))
    by_number = ", by name or by number from 0" if len(choices) > 1 else ""
    raise UserError(
        f"{path} has '{strange}' in column '{column}', and the network tells the classes "
        f"{', '.join(class_names)}{by_number}; give a sample and a network of the same data set."
    )


def default_labels(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the classes; their numbers, where the training data had no names."""
    numbered = tuple(f"class {number}" for number in range(len(class_names)))
    return tuple(map(str, range(len(class_names)))) if class_names == numbered else class_names


# -- the images


def _read_questions(
    source: Path,
    sample: Sample | None,
    facts: dict[str, Any],
    given: DataConfig,
    skip_unreadable: bool,
) -> Questions:
    """Return the images in the sample's order, prepared as those of the training were."""
    size = facts["members"][0]["network"]["image_shape"][0]
    trained = with_settings(Config(), facts["data"]).data
    config = replace(trained, size=size, limit=0, file_column=given.file_column)
    if not (source.is_dir() or source.suffix.lower() in TABLE_SUFFIXES):
        images = load_test(source, config, tuple(facts["class_names"]))[0]
        names = [str(number) for number in range(len(images))]
        if sample and len(sample.ids) != len(names):
            raise UserError(
                f"{sample.path} has {len(sample.ids)} rows, and {source} {len(names)} images, "
                "which have no names; expected a row for each, in the same order."
            )
        return Questions(names, images, np.zeros(len(images), bool))
    files, names = list_unlabelled(source, config)
    if sample:
        order = _match_ids(sample, names, source)
        files, names = [files[index] for index in order], [names[index] for index in order]
    images, unreadable = read_images(files, config)
    if not skip_unreadable:
        try:
            refuse_unreadable(unreadable, len(files), share=0)
        except UserError as error:
            hint = "--skip-unreadable answers such images with the commonest class"
            raise UserError(f"{str(error).removesuffix('.')}; {hint}.") from error
    return Questions(names, images, np.isin(np.arange(len(files)), list(unreadable)))


def _match_ids(sample: Sample, names: list[str], source: Path) -> list[int]:
    """Return the image of each id: a name, a path, or either without its suffix."""
    meant: dict[str, list[int]] = defaultdict(list)
    places = {name: index for index, name in enumerate(names)}  # a CSV may name an image twice
    for name, index in places.items():
        path = PurePosixPath(name)
        for alias in {name, path.with_suffix("").as_posix(), path.name, path.stem}:
            meant[alias].append(index)
    if missing := [name for name in sample.ids if name not in meant]:
        raise UserError(
            f"{sample.path} has the id '{missing[0]}', which no image of {source} has "
            f"({len(missing)} of {len(sample.ids)} ids have none); "
            "give the sample and the images of the same test."
        )
    if unclear := next((name for name in sample.ids if len(meant[name]) > 1), None):
        first, second, *_ = (names[index] for index in meant[unclear])
        raise UserError(
            f"{sample.path} has the id '{unclear}', which may be {first} or {second} of {source}; "
            "move one of them away."
        )
    order = [meant[name][0] for name in sample.ids]
    if len(set(order)) < len(order):
        twice = next(names[index] for index, count in Counter(order).items() if count > 1)
        raise UserError(f"{sample.path} has several ids that mean {twice}; leave one of them.")
    if others := set(places.values()) - set(order):
        say(
            f"{len(others)} images of {source} have no row in {sample.path.name} and are left "
            f"out, as {names[min(others)]}."
        )
    return order


def _lay_out(
    names: Sequence[str],
    probabilities: np.ndarray,
    class_names: tuple[str, ...],
    sample: Sample | None,
) -> pd.DataFrame:
    """Return the table of predictions, (n, 1 + labels or classes)."""
    labels = np.array(sample.labels if sample else default_labels(class_names))
    chosen = labels[probabilities.argmax(axis=1)]
    if sample is None:
        return pd.DataFrame({"id": names, "label": chosen})
    table = pd.DataFrame({sample.columns[0]: sample.ids})
    if sample.classes:
        table[sample.columns[1:]] = probabilities[:, sample.classes]
    else:
        table[sample.columns[1]] = probabilities[:, 1] if sample.is_probability else chosen
    return table
