"""What a time budget buys: python -m benchmarks.budget DATA WEIGHTS PLACE [--before CHECKOUT].

Trains MobileNetV3Large alone, with each budget in each way, one after the other on all cores, and
prints the accuracies on the test split and how much of the budget was used. The ways: progress (as
the command line does it), growing (the input begins at 64 pixels), and with --before CHECKOUT the
code of an older checkout. Expect more than 90 % of each budget to be used, and accuracies that rise
with it. With budgets of 10, 20 and 40 minutes some four hours.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

BACKBONE = "mobilenetv3large"
WAYS = {"progress": [], "growing": ["--set", "training.start_size=64"], "before": []}


def train(checkout: Path, options: argparse.Namespace, way: str, minutes: int) -> str:
    """Train once in a process of its own; return the row of the table."""
    place = options.place / f"{way}_{minutes}"
    command = [sys.executable, str(checkout / "run.py"), "--train", "--evaluate"]
    command += ["--data", str(options.data), "--name", "budget", "--workdir", str(place)]
    command += ["--weights", str(options.weights), "--backbone", BACKBONE]
    command += ["--time-budget", f"{minutes}m", *WAYS[way]]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=checkout)
    used = (time.perf_counter() - started) / (60 * minutes)
    run = place / "experiments" / "budget" / "runs" / f"{BACKBONE}_001"
    scores = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    accuracies = [100 * scores[version]["plain"]["accuracy"] for version in ("clean", "revealed")]
    accuracies.append(100 * scores["revealed"].get("augmented", {}).get("accuracy", float("nan")))
    epochs = len((run / "history.csv").read_text(encoding="utf-8").splitlines()) - 1
    return f"{way:10} {minutes:4} {used:6.0%} {epochs:6} " + " ".join(
        f"{x:8.1f}" for x in accuracies
    )


def prepare(checkout: Path, options: argparse.Namespace, way: str, minutes: int) -> None:
    """Clean and split before the clock runs, once, and let all ways start from that."""
    place = options.place / f"{way}_{minutes}"
    command = [sys.executable, str(checkout / "run.py"), "--split", "--data", str(options.data)]
    command += ["--name", "budget", "--workdir", str(place), "--weights", str(options.weights)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=checkout)


def main() -> None:
    """Print a row per way and budget, side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("place", type=Path)
    parser.add_argument("--before", type=Path, help="an older checkout")
    parser.add_argument("--minutes", type=int, nargs="+", default=[10, 20, 40])
    options = parser.parse_args()
    for name in ("data", "weights", "place", "before"):
        if getattr(options, name):
            setattr(options, name, getattr(options, name).resolve())
    here = Path(__file__).parents[1]
    checkouts = {"progress": here, "growing": here}
    if options.before:
        checkouts["before"] = options.before
    print("way     minutes   used epochs    clean revealed  5 views", flush=True)
    for minutes in options.minutes:
        for way, checkout in checkouts.items():
            prepare(checkout, options, way, minutes)
            print(train(checkout, options, way, minutes), flush=True)


if __name__ == "__main__":
    main()
