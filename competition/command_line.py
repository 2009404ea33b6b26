"""The options of the command line, and how its call ends: an exit code and one sentence."""

import argparse
import sys
from pathlib import Path
from typing import Any

from competition.backbones import COMPARED
from competition.common.console import escape_output, quiet_import
from competition.common.errors import NotCheckedError, UserError, WorthlessError, unknown
from competition.common.version import __version__
from competition.config import PRESETS, describe_settings
from competition.metric import METRICS
from competition.request import SERVER_ACTIONS, STAGES, parse_duration, read_request

DESCRIPTION = "python run.py --search goes from the training file to a verified submission."
EPILOG = """
stages: --search does everything, from cleaning to the leaderboard. Each other flag does its stage,
and first the stages that this one needs and that are missing or stale. Without data of your own, a
demo competition is drawn and played. Without any option: where things stand.
Exit codes: 0 all done, 1 the file system failed, 2 a mistake or a failed check,
3 done but --check-server could not check, 4 done but no better than chance, 130 stopped.

  python run.py --search --data training_set.npz --time-budget 90m
  python run.py --train --backbone mobilenetv3large --set training.fine_tuning_learning_rate=3e-4
"""
ACTIONS = (
    "submit",
    "record",
    "compare",
    "explain_gap",
    "ensemble",
    "predict",
    *STAGES,
    *SERVER_ACTIONS,
)
STAGE_HELP = {
    "clean": "flag copies, broken images, non-cells and wrong labels",
    "split": "cut into training, validation and test",
    "search": "THE MAIN JOB: clean, split, search, train, evaluate, package, leaderboard",
    "train": "train with the best settings found so far",
    "evaluate": "score the trained runs that are not scored yet",
    "package": "write and verify the submission of the best run",
    "leaderboard": "compare all runs",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser; building it loads neither Keras nor pandas."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=layout, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_stages(parser.add_argument_group("stages").add_argument)
    _add_answers(parser.add_argument_group("predictions as a CSV").add_argument)
    _add_server(parser.add_argument_group("the server at home").add_argument)
    _add_data(parser.add_argument_group("data").add_argument)
    _add_work(parser.add_argument_group("work").add_argument)
    return parser


def _add_stages(add: Any) -> None:
    for stage in STAGES:
        add(f"--{stage}", action="store_true", help=STAGE_HELP[stage])
    averaged = (
        "average in one zip: these runs, the best ones on validation together, or the --folds"
    )
    add("--ensemble", nargs="+", metavar="RUN|best|folds", help=averaged)
    submit = "hand in the latest zip or CSV, or another, wait, and keep its score as --record does"
    target = "RUN|FILE|codabench:NUMBER|kaggle:NAME"
    add("--submit", nargs="?", const="latest", metavar=target, help=submit)
    score = ("RUN", "SCORE")
    add("--record", nargs=2, metavar=score, help="keep the public score of a run, as 0.82")
    pair = ("RUN", "RUN")
    add("--compare", nargs=2, metavar=pair, help="where two runs differ, and whether by chance")
    gap = "the cost of each distortion and class, and settings to try"
    add("--explain-gap", metavar="RUN", help=gap)
    add("--settings", action="store_true", help="list all settings for --set, and exit")


def _add_answers(add: Any) -> None:
    source = "predict an .npz, a folder of images or a CSV of their names: submissions/<name>/*.csv"
    add("--predict", type=Path, metavar="PATH", help=source)
    alone = "predict by this packaged zip alone"
    add("--from", dest="from_zip", type=Path, metavar="ZIP", help=alone)
    like = (
        "a sample submission, whose columns and order the CSV takes; or a run, with whose settings "
        "--train and --search begin"
    )
    add("--like", action="append", default=[], metavar="SAMPLE.csv|RUN", help=like)
    skip = "give the commonest class to images that cannot be read"
    add("--skip-unreadable", action="store_true", help=skip)


def _add_server(add: Any) -> None:
    add("--dry-run", type=Path, metavar="ZIP", help="run a zip as the server does, and score it")
    add("--grade", type=Path, metavar="FOLDER", help="run all zips of a folder into one table")
    test = "with --dry-run and --grade: score on the test split; each look is counted"
    add("--on-test", action="store_true", help=test)
    add("--bundle", action="store_true", help="write the whole competition as a Codabench bundle")
    versions = "with --package: run the zip under the server's own, tensorflow==2.17.0,keras==3.4.1"
    add("--check-server", metavar="VERSIONS", help=versions)


def _add_data(add: Any) -> None:
    path = (
        ".npz, folder of class folders, CSV of labels, or bloodmnist[:64|128|224], which is "
        "downloaded (default: data/training_set.npz, else the demo)"
    )
    add("--data", type=Path, metavar="PATH|NAME", help=path)
    add("--name", help="name of the data set's folders (default: from --data)")
    folders = "folder of data/, experiments/ and submissions/ (default: here)"
    add("--workdir", type=Path, default=Path(), metavar="FOLDER", help=folders)
    add("--weights", help="auto, imagenet, none, a folder or a file (default: auto)")


def _add_work(add: Any) -> None:
    compared = (
        f"backbone to train; repeatable (default: {', '.join(COMPARED)}; without --search or "
        "--train those that are trained already)"
    )
    add("--backbone", action="append", metavar="NAME", help=compared)
    final = "backbone that is packaged (default: mobilenetv3large if pretrained, else best)"
    add("--final", metavar="NAME|best", help=final)
    trials = "most trials of a round of each search (default: 100 of heads, 27 of recipes)"
    add("--trials", type=int, metavar="N", help=trials)
    budget = "time for everything; each search and each training ends with its share of it"
    add("--time-budget", type=parse_duration, metavar="90m", help=budget)
    workers = "processes at once (default: one per core, as far as memory goes; one with a GPU)"
    add("--workers", type=int, metavar="N", help=workers)
    add("--folds", type=int, default=0, metavar="K", help="train the packaged run on K folds, too")
    add("--preset", choices=sorted(PRESETS), help="the settings of a whole recipe")
    file = "settings from a TOML file, as settings.toml beside each run"
    add("--config", type=Path, metavar="FILE.toml", help=file)
    setting = "one setting, as training.batch_size=16"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=setting)
    select_by = (
        "versions of validation that decide, of clean, revealed, microscope, unseen "
        "(default: clean+revealed)"
    )
    add("--select-by", metavar="NAMES", help=select_by)
    metric = f"metric that decides: {', '.join(METRICS)} (default: accuracy)"
    add("--metric", metavar="NAME", help=metric)
    add("--seed", type=int, metavar="N", help="seed of all random numbers (default: 0)")
    storage = "an Optuna storage URL that other hosts may share (default: SQLite in experiments/)"
    add("--storage", metavar="URL", help=storage)
    events = "show each epoch of a training in TensorBoard: --logdir experiments/<name>/runs"
    add("--tensorboard", action="store_true", help=events)
    add("--mlflow", action="store_true", help="log each epoch of a training to MLflow")
    add("--force", action="store_true", help="redo the named stages")
    add("--quiet", action="store_true", help="print the result alone; log.txt has all")
    add("--json", action="store_true", help="print the result alone, as one JSON object")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code. A user's mistake gives one sentence."""
    escape_output()
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        actions = [flag for action in parser._actions for flag in action.option_strings]
        parser.error(unknown("argument", rest[0], [name for name in actions if name[:2] == "--"]))
    if options.settings:
        print(describe_settings())
        return 0
    try:
        if not any(getattr(options, name) for name in ACTIONS):
            return _show_status(options, given=sys.argv[1:] if arguments is None else arguments)
        request = read_request(options)
        with quiet_import():
            from competition.pipeline import run
        run(request)
    except UserError as error:
        return _tell(f"error: {error}", 2)
    except NotCheckedError as error:
        return _tell(f"server versions: NOT CHECKED ({error})", 3)
    except WorthlessError as error:
        return _tell(str(error), 4)
    except OSError as error:
        return _tell(
            f"error: {error.filename or 'the file system'}: {error.strerror or error}; "
            "mend that and run the same command again, it goes on from here.",
            1,
        )
    except KeyboardInterrupt:
        return _tell("\nStopped. The same command goes on from here.", 130)
    return 0


def _show_status(options: argparse.Namespace, given: list[str]) -> int:
    """Print where things stand; options without a stage are a mistake."""
    with quiet_import():
        from competition.status import describe_status
    print(describe_status(options.workdir))
    if given and not given[0].startswith("--workdir"):
        print("\nNothing was done: name a stage. The main job is  python run.py --search")
        return 2
    return 0


def _tell(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
