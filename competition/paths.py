"""The folders of one data set, and the names of the files in them."""

from dataclasses import dataclass
from pathlib import Path

# data/<name>, in the order in which they are written
TRAINING_SET = "training_set.npz"  # images and labels, as the organisers give them
HIDDEN_TEST = "hidden_test.npz"  # of the demo
TRUTH = "truth.csv"  # of the demo: the faults that were drawn
OVERRIDES = "overrides.csv"  # the user's, which overrule cleaning
FILES = "files.csv"  # each image's index and file, where the data are no .npz
DESCRIBER = "describer.json"  # the backbone that describes the images in cleaning
FINDINGS = "found.json"  # the issues that cleaning found, before overrides
TSNE = "tsne.npz"  # the map, (n, 2)
CLEANED = "cleaned.npz"  # keep, groups of copies, labels after overrides, labels to train with
ISSUES = "issues.csv"  # one row per image and issue
REPORT = "report.html"  # of cleaning; in experiments/<name>, of the runs
CLEANING_MARKER = "cleaning.json"
SPLITS = "splits.npz"
BALANCE = "balance.csv"  # images per class and split
SPLITS_MARKER = "splits.json"
PREPARED = "prepared"  # a folder: images in all versions, mapped from disk
OWN_MARKERS = (DESCRIBER, CLEANING_MARKER)  # from its beginning on, such a folder has one of them

# experiments/<name>
DATA_MARKER = "data.json"  # the data set that these results are of
RUNS = "runs"  # a folder: one per full training
LOG = "log.txt"  # all that the terminal said
FOLDS = "folds"  # a folder: runs on each fold
OUT_OF_FOLD = "oof.npz"  # in it: the out-of-fold predictions
FOLDS_MARKER = "folds.json"  # in it: its runs, and their selection scores
GRADES = "grades"  # a folder: results of graded zips
TEST_LOOKS = "test_looks.json"  # how often --on-test looked at the test split
LEADERBOARD = "leaderboard.csv"
LEADERBOARD_MARKDOWN = "leaderboard.md"
COMPARISONS = "comparisons"  # a folder: results of --compare and --explain-gap

# experiments/<name>/runs/<backbone>_<nnn>, in the order in which they are written
CONFIG = "config.json"  # settings, network, and the data that it was trained on
SETTINGS = "settings.toml"  # the settings once more, for --config
ENVIRONMENT = "environment.json"  # versions, machine and device
CHECKPOINT = "checkpoint"  # a folder, until the training is over
HISTORY = "history.csv"  # one row per epoch
WEIGHTS = "network.weights.h5"  # a run that has them is trained
METRICS = "metrics.json"  # a run that has them is scored
GRAD_CAM = "grad_cam.npz"  # of its most confident mistakes, by version
PACKAGE = "package.json"  # time and memory of its verified zip
PUBLIC_SCORE = "public.json"  # the score that a server gave


def list_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a pattern, by name, without hidden ones.

    A file that is being written has a hidden name, and keeps it where its process was killed.
    """
    found = [path for path in folder.glob(pattern) if path.is_file()]
    return sorted(path for path in found if not path.name.startswith("."))


def list_by_age(folder: Path, pattern: str) -> list[Path]:
    """Return the files of `list_files`, the latest last."""
    return sorted(list_files(folder, pattern), key=lambda path: path.stat().st_mtime)


def name_predictions(split: str) -> str:
    """Return the name of a run's file of probabilities (views, n, K) by version, of a split."""
    return f"predictions_{split}.npz"


@dataclass(frozen=True)
class Paths:
    """The folders of data set `name` under `root`: the demo competition and real data never mix."""

    root: Path
    name: str

    @property
    def default_training_set(self) -> Path:
        """The file that needs no --data."""
        return self.root / "data" / TRAINING_SET

    @property
    def downloads(self) -> Path:
        """Published data sets, as downloaded."""
        return self.root / "data" / "downloads"

    @property
    def weights(self) -> Path:
        """ImageNet weights, shared by all data sets."""
        return self.root / "data" / "weights"

    @property
    def data(self) -> Path:
        """Cleaned, split and prepared data."""
        return self.root / "data" / self.name

    @property
    def experiments(self) -> Path:
        """Studies, features, runs and the leaderboard."""
        return self.root / "experiments" / self.name

    @property
    def studies(self) -> Path:
        """Searches: a database per backbone, unless --storage names one, and their results."""
        return self.experiments / "studies"

    @property
    def features(self) -> Path:
        """Cached features of frozen backbones."""
        return self.experiments / "features"

    @property
    def runs(self) -> Path:
        """A folder per full training."""
        return self.experiments / RUNS

    @property
    def submissions(self) -> Path:
        """Packaged zips."""
        return self.root / "submissions" / self.name

    @property
    def packaged(self) -> list[Path]:
        """The packaged zips that are there, the latest last."""
        return list_by_age(self.submissions, "*.zip")

    @property
    def bundle(self) -> Path:
        """The competition that --bundle writes."""
        return self.submissions / "bundle" / "competition.zip"
