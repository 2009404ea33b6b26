"""Where everything lies, for one data set by name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders of data set `name` under `root`: the demo competition and real data never mix."""

    root: Path
    name: str

    @property
    def data(self) -> Path:
        """Cleaned and split data: issues.csv, keep.npy, splits.npz and their markers."""
        return self.root / "data" / self.name

    @property
    def weights(self) -> Path:
        """ImageNet weights, shared by all data sets."""
        return self.root / "data" / "weights"

    @property
    def experiments(self) -> Path:
        return self.root / "experiments" / self.name

    @property
    def studies(self) -> Path:
        return self.experiments / "studies"

    @property
    def features(self) -> Path:
        return self.experiments / "features"

    @property
    def runs(self) -> Path:
        return self.experiments / "runs"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions" / self.name
