"""What fits into a time budget: trials and epochs, planned from this machine's measured speed."""

import math
from dataclasses import dataclass, replace

from competition.backbones import BACKBONES
from competition.common.console import describe_seconds, say
from competition.common.errors import UserError
from competition.config import Config
from competition.costs import Costs
from competition.search.rounds import FINALS, TRIALS, Effort

PACKAGE_SECONDS = 40.0  # writing, unzipping and running the submission, and the figures at the end
TRAINING_MARGIN = 0.85  # of the time for training is planned; a schedule that is cut short costs more than an epoch
FEWEST_PICTURES, FEW_EPOCHS, MOST_EPOCHS = 200, 4, 60


@dataclass(frozen=True)
class Planner:
    """Fits a job into the time that there is; workers: how many processes share the work."""

    costs: Costs
    workers: int = 1

    def search_seconds(self, config: Config) -> dict[str, dict[str, float]]:
        """Return the seconds of each part of each backbone's search, which workers beyond their number share.

        One from random weights gets no more than the longest of the others: its trials are slow, and end with its time.
        """
        seconds = {name: self.costs.search_seconds(name, config) for name in self.costs.weights}
        known = [
            sum(seconds[name].values())
            for name, weights in self.costs.weights.items()
            if weights.is_pretrained
        ]
        longest, sharing = (
            max(known, default=math.inf),
            max(1, self.workers // len(self.costs.weights)),
        )
        for name, weights in self.costs.weights.items():
            if not weights.is_pretrained:
                seconds[name] = {
                    part: min(cost, longest / 2) for part, cost in seconds[name].items()
                }
        return {
            name: {part: cost / sharing for part, cost in parts.items()}
            for name, parts in seconds.items()
        }

    def search_span(self, config: Config) -> float:
        """Return the seconds of all searches together."""
        return self.span(
            {name: sum(parts.values()) for name, parts in self.search_seconds(config).items()}
        )

    def finish_times(self, costs: dict[str, float]) -> dict[str, float]:
        """Return when each task ends, in seconds, if each begins in the given order as soon as a worker is free."""
        free, ends = [0.0] * self.workers, {}
        for name, cost in costs.items():
            worker = free.index(min(free))
            free[worker] += cost
            ends[name] = free[worker]
        return ends

    def span(self, costs: dict[str, float]) -> float:
        """Return the seconds until the last task ends, the most expensive ones begun first."""
        in_order = dict(sorted(costs.items(), key=lambda item: -item[1]))
        return max(self.finish_times(in_order).values())

    def final_seconds(self, config: Config) -> dict[str, float]:
        """Return the seconds of each backbone's full training."""
        return {
            name: self.costs.training_seconds(name, config.training) for name in self.costs.weights
        }

    def total_seconds(self, config: Config, search: bool) -> float:
        """Return the seconds of the whole job."""
        searching = self.search_span(config) if search else 0.0
        return searching + self.span(self.final_seconds(config)) + self.reserve(config)

    def reserve(self, config: Config) -> float:
        """Return the seconds that what follows the training needs."""
        return PACKAGE_SECONDS + self.span(
            {name: self.costs.evaluation_seconds(name, config) for name in self.costs.weights}
        )

    def plan_search(self, config: Config, seconds: float, trials: int | None) -> Config:
        """Return `config` with as many of its trials, of either kind, as fit, on fewer pictures where few would.

        trials: the number that the user asked for, which is an upper limit.
        """
        share = config.search.share * (seconds - self.reserve(config))
        most, whole = trials or config.search.trials, config.search.fine_tuning_trials
        pictures = [min(config.search.trial_images, self.costs.sizes.train)]
        while pictures[-1] > FEWEST_PICTURES:
            pictures.append(max(FEWEST_PICTURES, pictures[-1] // 2))
        for fewest in (most // 4, most // 10, 2):  # rather fewer pictures than very few trials
            for limit in pictures:
                for count in range(most, min(max(2, fewest), most) - 1, -1):
                    both = max(
                        min(2, whole), round(whole * count / most)
                    )  # one as given, one with the best head
                    search = replace(
                        config.search, trials=count, fine_tuning_trials=both, trial_images=limit
                    )
                    planned = replace(config, search=search)
                    if self.search_span(planned) <= share:
                        return planned
        return planned

    def plan_training(self, config: Config, seconds: float) -> Config:
        """Return `config` with as many epochs as fit into `seconds`, at least one; one in five is frozen.

        Where these are few, one more, if all are shortened, passes more pictures in the same time.
        """
        room = TRAINING_MARGIN * (seconds - self.reserve(config))
        whole = [(epochs, 1.0) for epochs in range(MOST_EPOCHS, 0, -1)]
        shortened = [
            (epochs, share / 20)
            for epochs in range(FEW_EPOCHS, 1, -1)
            for share in range(19, 9, -1)
        ]
        for epochs, share in sorted(
            [*whole, *shortened], key=lambda plan: (-plan[0] * plan[1], plan[0])
        ):
            frozen = min(round(epochs / 5), 10) if config.training.frozen_epochs else 0
            rest = epochs - frozen
            training = replace(
                config.training, frozen_epochs=frozen, fine_tuning_epochs=rest, epoch_share=share
            )
            planned = replace(config, training=training)
            if self.span(self.final_seconds(planned)) <= room:
                return planned
        return planned

    def keep_affordable(
        self, config: Config, seconds: float, packaged: str, search: bool
    ) -> "Planner":
        """Return a planner of the packaged backbone, and of as many others as one epoch of each fits into `seconds`.

        A search of very few trials counts too. The cheapest ones first; what is left out is told. Raises UserError
        where not even the packaged one fits.
        """
        training = replace(config.training, frozen_epochs=0, fine_tuning_epochs=1)
        once = replace(config, training=training)
        costs = self.final_seconds(once)
        names = sorted(costs, key=lambda name: (name != packaged, costs[name]))
        for count in range(len(names), 0, -1):
            kept = replace(self, costs=self.costs.of(names[:count]))
            needed = kept.span(kept.final_seconds(once)) + kept.reserve(config)
            if search:
                needed += kept.search_span(kept.plan_search(config, 0, None))
            if needed <= seconds:
                break
        else:
            raise UserError(
                f"The time budget leaves {describe_seconds(seconds)} after preparing the data, and one epoch of "
                f"{names[0]} takes about {describe_seconds(needed)}; give more, or a smaller backbone (--backbone)."
            )
        if count < len(names):
            left = describe_seconds(seconds)
            say(
                f"{left} are left, too little for one epoch of each backbone: WITHOUT {', '.join(names[count:])}."
            )
        return kept


def describe_plan(config: Config, planner: Planner, search: bool) -> str:
    """Return what the job will do and how long it will take, in words."""
    lines = []
    if search:
        lines.append(_describe_search(config, planner))
    frozen, rest = config.training.frozen_epochs, config.training.fine_tuning_epochs
    stages = f"{frozen} epochs frozen and {rest} of fine-tuning; from random weights {frozen + rest} of all layers"
    share = config.training.epoch_share
    part = f", of which an epoch passes {100 * share:.0f} %" if share < 1 else ""
    lines.append(f"training: {stages}; {planner.costs.sizes.train} pictures{part}")
    for name, seconds in planner.final_seconds(config).items():
        lines.append(
            f"  {BACKBONES[name].title}, {planner.costs.weights[name].origin} weights: {describe_seconds(seconds)}"
        )
    lines.append(
        f"in all about {describe_seconds(planner.total_seconds(config, search))} from here"
    )
    return "\n".join(lines)


def _describe_search(config: Config, planner: Planner) -> str:
    search = config.search
    texts = []
    for pretrained in (True, False):
        if not any(
            weights.is_pretrained == pretrained for weights in planner.costs.weights.values()
        ):
            continue
        effort = Effort(search, pretrained)
        few, more = (
            min(effort.pictures(part), planner.costs.sizes.train) for part in (TRIALS, FINALS)
        )
        text = f"{search.trials} trials of the head on cached features, {effort.trials[TRIALS]} of both stages"
        if not pretrained:
            text = (
                f"from random weights up to {search.trials} trials of all layers at half the size"
            )
        finalists = effort.trials.get(FINALS)
        finals = f", finals of {finalists} on {more}" if finalists else ""
        frozen, fine_tuning = effort.epochs(TRIALS)
        texts.append(f"{text}, {frozen} + {fine_tuning} epochs of {few} pictures{finals}")
    return f"search, for each backbone: {'; '.join(texts)}"
