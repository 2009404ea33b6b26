"""One call of the command line, typed, and checked before any work."""

import argparse
import math
import re
import time
from collections.abc import Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from competition.backbones import BACKBONES, COMPARED, get_backbone
from competition.common.errors import UserError
from competition.common.settings_files import read_settings
from competition.config import PRESETS, Config, with_settings
from competition.data.download import Published, find_published
from competition.data.table import TABLE_SUFFIXES
from competition.distortion.profiles import selected_versions
from competition.networks.weights import check_setting
from competition.paths import OWN_MARKERS, SETTINGS, WEIGHTS, Paths, list_files
from competition.submission.server_versions import parse_requirements
from competition.submission.submit import Target, find_file, find_program, read_target
from competition.time_budget import SHORTEST_BUDGET
from competition.training.live import VIEWS, check_live_views

STAGES = ("clean", "split", "search", "train", "evaluate", "package", "leaderboard")
SERVER_ACTIONS = ("dry_run", "grade", "bundle")
DEFAULT_FINAL = "mobilenetv3large"


@dataclass(frozen=True)
class Request:
    """The options of one call, typed and checked.

    stages: those of STAGES that were named.
    data: the training file or folder (None: the demo's). published: where `data` comes from.
    final: the backbone that is packaged, `best`, or empty: see `with_final`.
    budget_seconds: the time budget (None: the epochs and trials of the settings hold).
    workers: the processes (None: one per backbone, as far as cores and memory go).
    fixed_keys: settings that no search changes: those of --set, without a search those of --preset.
    ensemble: the runs that are averaged, `best` or `folds`. server: requirements of --check-server.
    submit: the file to hand in, and its competition. record: a run and its public score.
    compare, explain_gap: runs to describe.
    predict: images to predict. from_zip: the zip that predicts (None: the packaged one). sample:
    the sample submission, whose form the CSV takes. skip_unreadable: an image that cannot be read
    gets the commonest class.
    quiet: only the result is printed. as_json: the same, as one JSON object.
    started: when the call was read, seconds since the epoch; loading the libraries counts.
    """

    stages: frozenset[str]
    data: Path | None
    published: Published | None
    is_demo: bool
    paths: Paths
    config: Config
    backbones: tuple[str, ...]
    final: str
    budget_seconds: float | None
    workers: int | None
    folds: int
    force: bool
    fixed_keys: frozenset[str]
    storage: str | None
    record: tuple[str, float] | None
    ensemble: tuple[str, ...]
    dry_run: Path | None
    grade: Path | None
    bundle: bool
    on_test: bool
    server: tuple[str, ...]
    quiet: bool = False
    as_json: bool = False
    predict: Path | None = None
    from_zip: Path | None = None
    sample: Path | None = None
    skip_unreadable: bool = False
    compare: tuple[str, ...] = ()
    explain_gap: str | None = None
    submit: Target | None = None
    started: float = field(default_factory=time.time, repr=False, compare=False)

    @property
    def identity(self) -> str:
        """A text that tells this command from others, the same in any process."""
        sets = sorted(self.stages), sorted(self.fixed_keys)  # repr of a set has no order
        return f"{sets} {replace(self, stages=frozenset(), fixed_keys=frozenset())}"

    def wants(self, *stages: str) -> bool:
        """Tell whether one of `stages` was asked for; --search asks for all."""
        return "search" in self.stages or bool(self.stages & set(stages))

    def forces(self, stage: str) -> bool:
        """Tell whether a stage is to be redone."""
        return self.force and self.wants(stage)

    @property
    def trains(self) -> bool:
        """Whether it needs trained runs."""
        return self.wants("train", "evaluate", "package")

    @property
    def asks_server(self) -> bool:
        """Whether it asks for an action of the server at home."""
        return self.bundle or self.dry_run is not None or self.grade is not None


def read_request(options: argparse.Namespace) -> Request:
    """Return the request of a parsed command line.

    Raises UserError for unknown names, bad values, files that are missing and options that
    contradict each other.
    """
    _check_numbers(options)
    stages = {stage for stage in STAGES if getattr(options, stage)}
    if options.ensemble or (options.predict and not options.from_zip):
        stages.add("package")
    given: Path | None = options.data
    published = None if given is None or given.exists() else find_published(str(given))
    data = _find_data(options, published)
    is_demo = data is None and options.name in (None, "demo") and not options.from_zip
    demo = f"demo_{options.seed}" if options.seed else "demo"
    name = options.name or (data.resolve().stem if data else demo)
    if options.from_zip and not (options.name or options.data):
        name = options.from_zip.resolve().parent.name  # as in submissions/<name>/<run>.zip
    paths = _choose_paths(options, name, data)
    like, sample = _read_like(options.like)
    recipe = _read_recipe(options, like, paths)
    config = _configure(options, is_demo, recipe)
    backbones = _choose_backbones(options, recipe, paths)
    user_keys = frozenset(text.partition("=")[0] for text in options.set)
    recipe_keys = frozenset() if options.search else recipe.keys()
    request = Request(
        stages=frozenset(stages),
        data=data,
        published=published,
        is_demo=is_demo,
        paths=paths,
        config=config,
        backbones=backbones,
        final=_check_final(options.final, backbones),
        budget_seconds=options.time_budget,
        workers=options.workers,
        folds=options.folds,
        force=options.force,
        fixed_keys=user_keys | recipe_keys,
        storage=options.storage,
        record=_read_record(options.record),
        compare=tuple(options.compare or ()),
        explain_gap=options.explain_gap,
        ensemble=tuple(options.ensemble or ()),
        dry_run=options.dry_run,
        grade=options.grade,
        bundle=options.bundle,
        on_test=options.on_test,
        server=parse_requirements(options.check_server) if options.check_server else (),
        quiet=options.quiet,
        as_json=options.json,
        predict=options.predict,
        from_zip=options.from_zip,
        sample=sample,
        skip_unreadable=options.skip_unreadable,
        submit=read_target(options.submit, config.submission.competition)
        if options.submit
        else None,
    )
    _check(request)
    return request


def _check_numbers(options: argparse.Namespace) -> None:
    if options.folds < 0 or options.folds == 1:
        raise UserError(f"--folds got {options.folds}, and expects 2 or more.")
    for flag in ("workers", "trials"):
        value = getattr(options, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} got {value}, and expects 1 or more.")


def _find_data(options: argparse.Namespace, published: Published | None) -> Path | None:
    paths = Paths(options.workdir, "")
    if published:
        return paths.downloads / published.file
    if options.data is not None:
        return Path(options.data)
    return paths.default_training_set if paths.default_training_set.is_file() else None


def _read_like(given: list[str]) -> tuple[str | None, Path | None]:
    """Return the run and the sample submission that --like names; a sample is a table."""
    samples = [Path(text) for text in given if Path(text).suffix.lower() in TABLE_SUFFIXES]
    runs = [text for text in given if Path(text).suffix.lower() not in TABLE_SUFFIXES]
    if max(len(samples), len(runs)) > 1:
        raise UserError(
            f"--like got {', '.join(given)}, and expects one run, whose settings are taken, "
            "and one sample submission (.csv), whose form --predict takes."
        )
    return (runs[0] if runs else None), (samples[0] if samples else None)


def _read_recipe(options: argparse.Namespace, like: str | None, paths: Paths) -> dict[str, Any]:
    """Return the settings by dotted key of --preset, --like and --config; the last one wins."""
    recipe: dict[str, Any] = dict(PRESETS[options.preset]) if options.preset else {}
    files = []
    if like:
        places = (paths.runs / like / SETTINGS, Path(like) / SETTINGS, Path(like))
        files = [place for place in places if place.is_file()][:1]
        if not files:
            known_runs = sorted(file.parent.name for file in paths.runs.glob(f"*/{SETTINGS}"))
            raise UserError(
                f"--like names {like}, which is no run in {paths.runs}; "
                f"known are {', '.join(known_runs) or 'none'}."
            )
    if options.config:
        files.append(options.config)
    for file in files:
        settings = read_settings(file)
        try:
            with_settings(Config(), settings)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        recipe = {key: value for key, value in recipe.items() if key not in settings} | settings
    return recipe


def _choose_paths(options: argparse.Namespace, name: str, data: Path | None) -> Paths:
    """Return the folders of `name`, or of another name where these lie in the user's folder.

    Raises UserError where --name or --workdir leave no other.
    """
    for candidate in (name,) if options.name else (name, f"{name}_results"):
        paths = Paths(options.workdir, candidate)
        if data is None or not _is_among_images(paths, data):
            return paths
    raise UserError(
        f"--data names {data}, and this program would write into {paths.data}, among its images; "
        "give another --name or --workdir, or move the images into a folder of their own."
    )


def _is_among_images(paths: Paths, data: Path) -> bool:
    """Tell whether a folder of `paths` lies in that of the user's images."""
    if data.is_dir():
        own = data.resolve()
        folders = (paths.data, paths.experiments, paths.submissions)
        return any(folder.resolve().is_relative_to(own) for folder in folders)
    if data.suffix.lower() not in TABLE_SUFFIXES:
        return False
    folder = paths.data.resolve()  # a table's images may be in any folder beside it
    is_ours = not folder.exists() or any((folder / name).is_file() for name in OWN_MARKERS)
    own = data.resolve().parent
    return folder == own or (folder.is_relative_to(own) and not is_ours)


def _choose_backbones(
    options: argparse.Namespace, recipe: dict[str, Any], paths: Paths
) -> tuple[str, ...]:
    """Return the named backbones, or those of --set, or the recipe's; else those with runs, or all.

    Those with runs will do where neither --search nor --train is asked for.
    """
    given = options.backbone or [
        text.partition("=")[2] for text in options.set if text.startswith("model.backbone=")
    ]
    if given:
        return tuple(dict.fromkeys(given))
    if "model.backbone" in recipe:
        return (recipe["model.backbone"],)
    if options.search or options.train:
        return COMPARED
    # As `list_runs` finds them, whose module loads Keras, and --help shall not wait for that.
    trained = (name for name in BACKBONES if any(paths.runs.glob(f"{name}_*/{WEIGHTS}")))
    return tuple(trained) or COMPARED


def _configure(options: argparse.Namespace, is_demo: bool, recipe: dict[str, Any]) -> Config:
    """Return the settings: defaults, the demo's, the recipe's, single options, and last --set."""
    changes: dict[str, Any] = dict(PRESETS["demo"]) if is_demo else {}
    changes |= recipe
    single = {"seed": options.seed, "weights": options.weights, "search.trials": options.trials}
    single["training.select_by"] = options.select_by
    single["metric"] = options.metric
    live = [name for name in VIEWS if getattr(options, name)]
    single["live"] = "+".join(live) if live else None
    changes |= {key: value for key, value in single.items() if value is not None}
    for assignment in options.set:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise UserError(
                f"--set got '{assignment}', and expects KEY=VALUE, as training.batch_size=16."
            )
        changes.pop(key, None)  # the last one is applied last
        changes[key] = value
    config = with_settings(Config(), changes)
    select_by = "+".join(selected_versions(config.training.select_by))  # one order, one fingerprint
    return with_settings(config, {"training.select_by": select_by})


def with_final(request: Request, pretrained: Container[str]) -> Request:
    """Return the request with a backbone to package where none was asked for.

    MobileNetV3Large if it trains, and from `pretrained` weights or like all others; else the best.
    """
    if request.final:
        return request
    names = request.backbones
    is_fair = DEFAULT_FINAL in pretrained or not any(name in pretrained for name in names)
    final = DEFAULT_FINAL if DEFAULT_FINAL in names and is_fair else "best"
    return replace(request, final=final)


def _check_final(final: str | None, backbones: tuple[str, ...]) -> str:
    for name in backbones:
        get_backbone(name)
    if final not in (None, "best"):
        get_backbone(final)
        if final not in backbones:
            raise UserError(f"--final names {final}, which is not trained; add --backbone {final}.")
    return final or ""


def _read_record(given: list[str] | None) -> tuple[str, float] | None:
    if given is None:
        return None
    run, text = given
    try:
        return run, float(text)
    except ValueError:
        raise UserError(
            f"--record got the score '{text}', and expects a number from 0 to 1, as 0.82."
        ) from None


def _check(request: Request) -> None:
    """Raise UserError where a named file or run is missing, or options contradict each other."""
    if request.trains:
        check_live_views(request.config.live)
        with_settings(request.config, {"split.folds": request.folds})
        for name in request.backbones:
            check_setting(request.config.weights, name)
        if (request.budget_seconds or math.inf) < SHORTEST_BUDGET:
            raise UserError(
                f"--time-budget got {request.budget_seconds:g} s, in which no network learns "
                f"anything; give {SHORTEST_BUDGET:.0f}s at least, or better some minutes, as 30m."
            )
    if request.dry_run is not None and not request.dry_run.is_file():
        raise UserError(f"--dry-run got {request.dry_run}, which is no file; give a zip.")
    if request.grade is not None and not list_files(request.grade, "*.zip"):
        raise UserError(
            f"--grade got {request.grade}, which holds no zip; give the folder with the zips."
        )
    for name in () if request.ensemble in (("best",), ("folds",)) else request.ensemble:
        if not (request.paths.runs / name).is_dir():
            raise UserError(f"--ensemble names {name}, but {request.paths.runs} has no such run.")
    if request.submit:
        find_program(request.submit)
        if not request.stages:
            find_file(request.submit, request.paths.submissions)
    if request.bundle:
        request.config.codabench.opening_day()
    if request.on_test and request.dry_run is None and request.grade is None:
        raise UserError("--on-test says which images --dry-run and --grade take; give one of them.")
    if request.predict is None and (request.from_zip or request.sample or request.skip_unreadable):
        raise UserError(
            "--from, --skip-unreadable and --like with a sample submission say how to answer "
            "images; add --predict with their path."
        )
    others = request.record, request.submit, request.compare, request.explain_gap
    if request.from_zip and (request.stages or request.asks_server or any(others)):
        raise UserError("--from answers by a finished zip alone; leave out all but --predict.")
    if request.predict is not None and not request.predict.exists():
        raise UserError(
            f"--predict got {request.predict}, which does not exist; "
            "give an .npz, a folder of images, or a CSV that names them."
        )
    if request.sample is not None and not request.sample.is_file():
        raise UserError(f"--like got {request.sample}, which is no file; give a sample submission.")
    if request.server and not request.wants("package"):
        raise UserError("--check-server tries the zip that --package writes; give both.")


def parse_duration(text: str) -> float:
    """Return the seconds of 90m, 1.5h, 600s or 600; raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hms]?)", text.strip())
    seconds = float(match[1]) * {"h": 3600, "m": 60, "s": 1, "": 1}[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"got '{text}', expected a duration as 90m, 1.5h or 600s")
    return seconds
