"""The one driver: python run.py --search does the whole job, from the training file to a verified submission zip."""

import argparse
import re
import sys
from pathlib import Path

from competition.backbones import COMPARED
from competition.common.console import quiet_import
from competition.common.errors import NotCheckedError, UserError, unknown
from competition.config import PRESETS, describe_settings
from competition.job import SERVER_ACTIONS, STAGES

EPILOG = """
stages: --search does everything, from cleaning to the leaderboard; each other flag does that stage and whatever it
needs that is missing or stale. With no data of your own, a demo competition is drawn and played.

  python run.py --search --data training_set.npz --time-budget 90m
  python run.py --train --backbone mobilenetv3large --set training.fine_tuning_learning_rate=3e-4
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser; building it loads neither Keras nor pandas."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "run.py", description=__doc__, epilog=EPILOG, formatter_class=layout, allow_abbrev=False
    )
    stages = parser.add_argument_group("stages")
    for stage in STAGES:
        stages.add_argument(f"--{stage}", action="store_true", help=_HELP[stage])
    stages.add_argument(
        "--ensemble", nargs="+", metavar="RUN", help="package the average of these runs"
    )
    stages.add_argument(
        "--record",
        nargs=2,
        metavar=("RUN", "SCORE"),
        help="keep the public score of a run, as 0.82",
    )
    server = parser.add_argument_group("the server at home")
    server.add_argument(
        "--dry-run",
        type=Path,
        metavar="ZIP",
        help="run a submission as the server does, and score it",
    )
    server.add_argument(
        "--grade",
        type=Path,
        metavar="FOLDER",
        help="run all zips of a folder into one ranked table",
    )
    server.add_argument(
        "--on-test", action="store_true", help="with these two: the test split, each look counted"
    )
    server.add_argument(
        "--bundle", action="store_true", help="write the whole competition as a Codabench bundle"
    )
    server.add_argument(
        "--check-server",
        metavar="VERSIONS",
        help="with --package: try the zip under tensorflow==2.17.0,keras==3.4.1",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        type=Path,
        metavar="PATH|NAME",
        help=".npz, folder of class folders, CSV of labels, or bloodmnist[:64|128|224], which is downloaded "
        "(default: data/training_set.npz, else the demo)",
    )
    data.add_argument("--name", help="name of the data set's folders (default: from --data)")
    data.add_argument(
        "--workdir",
        type=Path,
        default=Path(),
        help="where data/, experiments/ and submissions/ lie (default: here)",
    )
    data.add_argument("--weights", help="auto, imagenet, none, a folder or a file (default: auto)")
    work = parser.add_argument_group("work")
    work.add_argument(
        "--backbone",
        action="append",
        metavar="NAME",
        help=f"repeatable (default: {', '.join(COMPARED)})",
    )
    work.add_argument(
        "--final", metavar="NAME|best", help="what is packaged (default: mobilenetv3large)"
    )
    work.add_argument(
        "--trials",
        type=int,
        help="trials of each search, of heads where there are cached features (default: 100)",
    )
    work.add_argument(
        "--time-budget",
        type=parse_duration,
        metavar="90m",
        help="plan trials and epochs to end within it",
    )
    work.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes at once (default: one a core without a GPU, else one)",
    )
    work.add_argument(
        "--folds", type=int, default=0, metavar="K", help="train the final backbone on K folds, too"
    )
    work.add_argument("--preset", choices=sorted(PRESETS), help="a whole recipe")
    work.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, as training.batch_size=16",
    )
    work.add_argument("--settings", action="store_true", help="print every setting and exit")
    work.add_argument(
        "--select-by",
        metavar="NAMES",
        help="versions of validation that decide, of clean, revealed, microscope, unseen (default: clean+revealed)",
    )
    work.add_argument("--seed", type=int, help="of everything drawn (default: 0)")
    work.add_argument(
        "--storage",
        help="an Optuna storage URL, which other hosts may share (default: SQLite in experiments/)",
    )
    work.add_argument("--force", action="store_true", help="redo the named stages")
    return parser


_HELP = {
    "clean": "flag copies, broken pictures and non-cells",
    "split": "cut into training, validation and test",
    "search": "THE MAIN JOB: clean, split, search, train, evaluate, package, leaderboard",
    "train": "train with the best settings found so far",
    "evaluate": "score the trained runs that are not scored yet",
    "package": "write and verify the submission of the best run",
    "leaderboard": "compare all runs",
}


def parse_duration(text: str) -> float:
    """Return the seconds of 90m, 1.5h, 600s or 600."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hms]?)", text.strip())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"got '{text}', expected a duration as 90m, 1.5h or 600s")
    return float(match[1]) * {"h": 3600, "m": 60, "s": 1, "": 1}[match[2]]


def main(arguments: list[str] | None = None) -> int:
    """Run the driver; returns the exit code. A user's mistake gives one sentence, not a traceback.

    0: all done. 1: the file system failed. 2: a mistake, or a check that failed. 3: all done, but --check-server could
    not check. 130: stopped.
    """
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        flags = [
            flag
            for action in parser._actions
            for flag in action.option_strings
            if flag.startswith("--")
        ]
        parser.error(unknown("argument", rest[0], flags))
    if options.settings:
        print(describe_settings())
        return 0
    if options.folds < 0 or options.folds == 1:
        parser.error(f"--folds got {options.folds}, and expects 2 or more")
    for flag in ("workers", "trials"):
        if (value := getattr(options, flag)) is not None and value < 1:
            parser.error(f"--{flag} got {value}, and expects 1 or more")
    if not any(
        getattr(options, name.replace("-", "_"))
        for name in ("record", "ensemble", *STAGES, *SERVER_ACTIONS)
    ):
        parser.print_usage()
        print(
            "\nNothing to do: name a stage. The main job is  python run.py --search  (--help lists all)."
        )
        return 2
    try:
        with quiet_import():
            from competition.pipeline import run
        run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NotCheckedError as error:
        print(f"server versions: NOT CHECKED ({error})", file=sys.stderr)
        return 3
    except OSError as error:
        print(
            f"error: {error.filename or 'the file system'}: {error.strerror or error}; "
            "mend that and run the same command again, it goes on from here.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
