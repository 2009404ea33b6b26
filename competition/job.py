"""What one call of the driver asks for, resolved and checked before any work."""

import argparse
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from competition.backbones import COMPARED, get_backbone
from competition.common.errors import UserError
from competition.config import PRESETS, Config, with_settings
from competition.data.download import find_published
from competition.distortion.profiles import selected_versions
from competition.networks.weights import KEYWORDS, SUFFIX, Weights, find_weights, resolve_weights
from competition.paths import Paths
from competition.submission.server_versions import parse_requirements

STAGES = ("clean", "split", "search", "train", "evaluate", "package", "leaderboard")
SERVER_ACTIONS = ("dry-run", "grade", "bundle")
DEMO_SECONDS = 560.0  # the demo's time budget where none is given


class Job:
    """The command line, resolved: source (None: the demo's drawing), paths, config, backbones, final, stages, deadline.

    published: the data set that `source` is to be downloaded from, where --data names one.
    Raises UserError for unknown names, bad values and settings that contradict each other.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.stages = {stage for stage in STAGES if getattr(options, stage)}
        if options.ensemble:
            self.stages.add("package")
        self.published = (
            None
            if options.data is None or options.data.exists()
            else find_published(str(options.data))
        )
        self.source = self._find_source()
        self.is_demo = self.source is None and options.name in (None, "demo")
        demo = f"demo_{options.seed}" if options.seed else "demo"
        self.paths = Paths(
            options.workdir, options.name or (self.source.resolve().stem if self.source else demo)
        )
        self.config = self._configure()
        self.backbones = tuple(dict.fromkeys(options.backbone or COMPARED))
        for name in self.backbones:
            get_backbone(name)
        self.final = self._final_backbone()
        if self.wants("train") and self.config.weights not in KEYWORDS:
            _ = self.weights  # a file that is missing is told now
        self._check_actions()
        self.server = self._server_requirements()
        self.budget = options.time_budget or (
            DEMO_SECONDS if self.is_demo and options.search else None
        )
        self.deadline = None if self.budget is None else time.monotonic() + self.budget

    def _find_source(self) -> Path | None:
        folder: Path = self.options.workdir / "data"
        if self.published:
            return folder / "downloads" / self.published.file
        given: Path | None = self.options.data
        default = folder / "training_set.npz"
        return given or (default if default.is_file() else None)

    def _configure(self) -> Config:
        options = self.options
        changes: dict[str, Any] = dict(PRESETS["demo"]) if self.is_demo else {}
        changes |= PRESETS[options.preset] if options.preset else {}
        named = {"seed": options.seed, "weights": options.weights, "search.trials": options.trials}
        named["training.select_by"] = options.select_by
        changes |= {key: value for key, value in named.items() if value is not None}
        for assignment in options.set:
            key, separator, value = assignment.partition("=")
            if not separator:
                raise UserError(
                    f"--set got '{assignment}', and expects KEY=VALUE, as training.batch_size=16."
                )
            changes.pop(key, None)  # what is given last is applied last
            changes[key] = value
        config = with_settings(Config(), changes)
        select_by = "+".join(
            selected_versions(config.training.select_by)
        )  # one order, for one fingerprint
        return with_settings(config, {"training.select_by": select_by})

    def _final_backbone(self) -> str:
        """What is packaged: as asked for, else MobileNetV3Large where it is among the backbones, else the first."""
        final: str | None = self.options.final
        if final is None:
            return "mobilenetv3large" if "mobilenetv3large" in self.backbones else self.backbones[0]
        if final != "best":
            get_backbone(final)
            if final not in self.backbones:
                raise UserError(
                    f"--final names {final}, which is not trained; add --backbone {final}."
                )
        return final

    def _check_actions(self) -> None:
        """Raise UserError where --dry-run, --grade, --ensemble name what is not there, or --bundle opens on no day."""
        dry_run, folder = self.options.dry_run, self.options.grade
        if dry_run is not None and not dry_run.is_file():
            raise UserError(f"--dry-run got {dry_run}, which is no file; give a submission's zip.")
        if folder is not None and not any(folder.glob("*.zip")):
            raise UserError(
                f"--grade got {folder}, which holds no zip; give the folder with the submissions' zips."
            )
        for name in self.options.ensemble or ():
            if not (self.paths.runs / name).is_dir():
                raise UserError(
                    f"--ensemble names {name}, but there is no such run in {self.paths.runs}."
                )
        if self.options.bundle:
            self.config.codabench.opening_day()
        if self.options.on_test and dry_run is None and folder is None:
            raise UserError(
                "--on-test says which pictures --dry-run and --grade take; give one of them."
            )

    def _server_requirements(self) -> tuple[str, ...]:
        """What --check-server names; nothing where it is not given."""
        if not self.options.check_server:
            return ()
        if not self.wants("package"):
            raise UserError("--check-server tries the zip that --package writes; give both.")
        return parse_requirements(self.options.check_server)

    @property
    def user_keys(self) -> frozenset[str]:
        """The settings that --set names; no search changes them."""
        return frozenset(assignment.partition("=")[0] for assignment in self.options.set)

    @property
    def fixed_keys(self) -> frozenset[str]:
        """The settings that an earlier search does not change: by --set, or by --preset where nothing searches."""
        preset = (
            PRESETS[self.options.preset] if self.options.preset and not self.options.search else {}
        )
        return self.user_keys | preset.keys()

    @property
    def seconds_left(self) -> float:
        """Seconds of the time budget that are left."""
        assert self.deadline is not None
        return self.deadline - time.monotonic()

    def wants(self, *stages: str) -> bool:
        """Tell whether one of `stages` was asked for; --search asks for all."""
        return "search" in self.stages or bool(self.stages & set(stages))

    @property
    def serves(self) -> bool:
        """Tell whether the server at home was asked for."""
        return any(getattr(self.options, action.replace("-", "_")) for action in SERVER_ACTIONS)

    def forces(self, stage: str) -> bool:
        """Tell whether a stage is to be redone."""
        return bool(self.options.force and self.wants(stage))

    @cached_property
    def weights(self) -> dict[str, Weights]:
        """The weights of each backbone."""
        return {
            name: resolve_weights(self.config.weights, name, self.paths.weights)
            for name in self.backbones
        }

    @cached_property
    def embedding_weights(self) -> Path | None:
        """The weights that cleaning embeds pictures with, or None: what is given for training need not fit it."""
        setting, backbone = self.config.weights, self.config.cleaning.backbone
        if setting != "none" and not (Path(setting) / f"{backbone}{SUFFIX}").is_file():
            setting = "auto"
        return find_weights(setting, backbone, self.paths.weights)
