"""Every setting, as frozen dataclasses; dotted keys (`training.batch_size`) change them one by one."""

import dataclasses
import datetime
from dataclasses import dataclass
from typing import Any

from competition.backbones import get_backbone
from competition.common.errors import UserError, unknown
from competition.common.settings import choice, convert, find_field, number


@dataclass(frozen=True)
class DataConfig:
    """How data are read.

    size: side in pixels that pictures of a folder, and those of an .npz that are not square, are brought to.
    resize: `stretch` both sides, `pad` what is missing of a square, or `crop` its middle out. fill: padding, the
    picture mirrored or black. limit: use only the first pictures (0: all).
    file_column, label_column: of a CSV of labels (empty: recognised by their names).
    """

    size: int = number(96, 16, 1024)
    resize: str = choice("stretch", "stretch", "pad", "crop")
    fill: str = choice("reflect", "reflect", "constant")
    limit: int = number(0, 0)
    file_column: str = ""
    label_column: str = ""


@dataclass(frozen=True)
class CleaningConfig:
    """How faults are told from cells; see `cleaning`, `faults`, `noncells` and `copies`.

    backbone: whose ImageNet features are laid out, where its weights are at hand (else the pixels are).
    perplexity, iterations, maximum_on_map (pictures laid out one by one): of the t-SNE map.
    blank_contrast: standard deviation in grey levels under which a picture is blank. broken_share: of the rows that
    are of one colour, give or take flat_tolerance grey levels, which at most flat_elsewhere of the rows above shows.
    repeated_share: of the rows that repeat one another. noise_roughness: of neighbouring pixels, 1 if independent.
    cluster_size: fewest pictures of a cluster. sharing: share of its details that are common to all of a cluster of
    non-cells. correlation: with the shared details, above which a picture is one of them. members_sharing: share of
    their details that are common to all of these. margin, doubtful: how many pictures, per member, may come that near
    to it. label_distance: total variation distance of their labels' shares from the rest's, below which they are no
    kind of cell. skill: how well neighbours tell the label in a cluster that shares no picture, 0 chance, 1 as
    elsewhere, below which it holds no cells. apart: share of the neighbours within.
    odd_deviation: robust standard deviations from the usual, odd_span: share of the usual span of grey levels, beyond
    which a picture is flagged as odd. odd_neighbour: rank of the neighbour whose distance counts. odd_share: of the
    pictures, that each kind of oddity flags at most.
    copy_shift: pixels by which a near copy may be shifted along each axis. copy_neighbours: pictures that each one is
    compared with. copy_score: share of the aligned pictures' fine details that both must show.
    wrong_labels: what becomes of the pictures whose label is surely wrong, in training and validation; the test part
    keeps them as they are. false_alarms: estimated share of right labels among the flagged ones, at most;
    sure_false_alarms: among the surely wrong ones.
    label_folds, label_components (of the features), label_landmarks (of the kernel): of the predictions, made from the
    other folds, that labels are compared with; see `doubtful`.
    """

    backbone: str = "mobilenetv3small"
    perplexity: float = number(30.0, 2.0)
    iterations: int = number(500, 250)
    maximum_on_map: int = number(20_000, 100)
    blank_contrast: float = number(5.0, 0.0, 255.0)
    flat_tolerance: float = number(4.0, 0.0, 255.0)
    flat_elsewhere: float = number(0.1, 0.0, 1.0)
    broken_share: float = number(0.1, 0.0, 1.0)
    repeated_share: float = number(0.15, 0.0, 1.0)
    noise_roughness: float = number(0.5, 0.0, 1.0)
    cluster_size: int = number(15, 5)
    sharing: float = number(0.4, 0.0, 1.0)
    correlation: float = number(0.4, 0.0, 1.0)
    members_sharing: float = number(0.55, 0.0, 1.0)
    margin: float = number(0.05, 0.0, 1.0)
    doubtful: float = number(0.15, 0.0, 1.0)
    label_distance: float = number(0.25, 0.0, 1.0)
    copy_shift: int = number(3, 0, 5)
    copy_neighbours: int = number(8, 1)
    copy_score: float = number(0.75, 0.0, 1.0)
    wrong_labels: str = choice("drop", "drop", "keep", "relabel")
    false_alarms: float = number(0.25, 0.0, 1.0)
    sure_false_alarms: float = number(0.1, 0.0, 1.0)
    label_folds: int = number(5, 2, 50)
    label_components: int = number(200, 2)
    label_landmarks: int = number(1000, 10)
    skill: float = number(0.2, 0.0, 1.0)
    apart: float = number(0.7, 0.0, 1.0)
    odd_deviation: float = number(4.0, 1.0)
    odd_span: float = number(0.5, 0.0, 1.0)
    odd_neighbour: int = number(5, 1)
    odd_share: float = number(0.01, 0.0, 1.0)


@dataclass(frozen=True)
class ReportConfig:
    """The page that shows what cleaning did; its size in bytes follows from these.

    pictures: most on its map, drawn at random where there are more. gallery: most shown of each kind of issue.
    examples: shown of each class. side, gallery_side: longest side in pixels of the pictures on the map, and of those
    in galleries. quality: of the JPEG.
    """

    pictures: int = number(15_000, 1)
    gallery: int = number(240, 1)
    examples: int = number(16, 1)
    side: int = number(56, 8, 512)
    gallery_side: int = number(96, 8, 512)
    quality: int = number(70, 1, 95)


@dataclass(frozen=True)
class SplitConfig:
    """Shares of the kept pictures, and geometric balancing.

    balance_to: pictures a class of the training part is filled up to by augmented ones (0: as they are).
    balance_validation_to: the same for validation. folds: K > 1 cuts training and validation into K parts instead,
    of which `fold` validates.
    """

    validation: float = number(0.15, 0.01, 0.45)
    test: float = number(0.15, 0.01, 0.45)
    balance_to: int = number(0, 0)
    balance_validation_to: int = number(0, 0)
    folds: int = number(0, 0, 50)
    fold: int = number(0, 0, 49)


@dataclass(frozen=True)
class AugmentationConfig:
    """What a picture meets in training; see `augmentation`.

    num_operations, magnitude (0..1), magnitude_deviation, rate (of each operation): RandAugment.
    fill: what lies beyond the border, the picture mirrored or black. interpolation: how a warp reads between pixels.
    flips, transposition: mirrors along both axes and the diagonal, each with probability 1/2.
    rotation: largest angle as a share of a full turn. black_shift: largest move of the content along each axis, as a
    share of the side, that leaves black behind it, for a share of black_shift_rate of the pictures.
    zoom, resize (share of the resolution that is lost by sampling down and up again), hue (share of a full turn),
    channel_shift and noise (shares of 255), blur (sigma in pixels), cutout (share of the side): the largest, each met
    by a share of occasional_rate of the pictures; so is grid_mask, the side of the black squares of a grid as a share
    of its period. cutmix, mixup: shares of the pictures that another of the batch is pasted or blended into.
    """

    num_operations: int = number(2, 0, 8)
    magnitude: float = number(0.4, 0.0, 1.0)
    magnitude_deviation: float = number(0.15, 0.0, 1.0)
    rate: float = number(0.8, 0.0, 1.0)
    fill: str = choice("reflect", "reflect", "constant")
    interpolation: str = choice("bilinear", "bilinear", "nearest")
    flips: bool = True
    transposition: bool = False
    rotation: float = number(0.0, 0.0, 0.5)
    black_shift: float = number(0.0, 0.0, 0.5)
    black_shift_rate: float = number(0.5, 0.0, 1.0)
    zoom: float = number(0.0, 0.0, 0.9)
    resize: float = number(0.0, 0.0, 0.9)
    hue: float = number(0.0, 0.0, 0.5)
    channel_shift: float = number(0.0, 0.0, 1.0)
    noise: float = number(0.0, 0.0, 1.0)
    blur: float = number(0.0, 0.0, 3.0)
    cutout: float = number(0.0, 0.0, 1.0)
    grid_mask: float = number(0.0, 0.0, 0.9)
    cutmix: float = number(0.0, 0.0, 1.0)
    mixup: float = number(0.0, 0.0, 1.0)
    occasional_rate: float = number(0.1, 0.0, 1.0)


@dataclass(frozen=True)
class ModelConfig:
    """The network: a backbone, global average pooling and one dense layer before the output.

    l2: penalty of the dense kernels while the backbone is frozen. input_size: side in pixels that the network
    resizes to (0: as the pictures come).
    """

    backbone: str = "mobilenetv3large"
    head_units: int = number(256, 1, 8192)
    dropout: float = number(0.3, 0.0, 0.95)
    l2: float = number(1e-4, 0.0, 1.0)
    input_size: int = number(0, 0, 1024)


@dataclass(frozen=True)
class TrainingConfig:
    """Both stages of training.

    unfreeze: share of the backbone's layers that the second stage trains, rounded to a block border (1: all).
    schedule: `plateau` halves the rate when the selection score stalls, `cosine` lets it decay to zero.
    batch_norm_momentum: for networks that start from random weights.
    select_by: the versions of validation, joined by +, on whose accuracy early stopping, the plateau rule, the search
    and the leaderboard go: clean, and the profiles of `distortion`.
    limit: train on that many pictures only (0: all), drawn evenly from the classes; what search trials do.
    epoch_share: of these pictures, drawn anew, that an epoch passes; plans shorten epochs where only few fit.
    """

    batch_size: int = number(32, 1, 4096)
    optimizer: str = choice("adam", "adam", "adamw", "lion")
    frozen_epochs: int = number(5, 0, 1000)
    fine_tuning_epochs: int = number(20, 0, 1000)
    head_learning_rate: float = number(1e-3, 1e-8, 1.0)
    fine_tuning_learning_rate: float = number(1e-4, 1e-8, 1.0)
    fine_tuning_l2: float = number(1e-3, 0.0, 1.0)
    unfreeze: float = number(0.66, 0.01, 1.0)
    label_smoothing: float = number(0.1, 0.0, 0.9)
    class_weights: bool = False
    schedule: str = choice("plateau", "plateau", "cosine")
    plateau_patience: int = number(2, 1)
    plateau_factor: float = number(0.5, 0.01, 0.99)
    stopping_patience: int = number(6, 1)
    batch_norm_momentum: float = number(0.9, 0.0, 0.9999)
    select_by: str = "clean+revealed"
    limit: int = number(0, 0)
    epoch_share: float = number(1.0, 0.01, 1.0)


@dataclass(frozen=True)
class SearchConfig:
    """The search for each backbone; a trial trains on fewer pictures and for fewer epochs.

    trial_frozen_epochs, trial_fine_tuning_epochs: of finals; trials of both stages take twice as many of the latter.
    trials: of the head on cached features; from random weights, of the whole network, at half the size and on a quarter
    of the pictures, but on 250 if there are as many. two_stage_trials: that train both stages, no more than trials.
    finalists: how many, the settings as given and the best others, are tried again, on four times the pictures (from
    random weights on trial_pictures, at full size); one in four of the trials at most (0 or 1: none). share: of a time
    budget, what searching gets of the time that it and training have together. views: augmented ones of each picture
    that are cached. cache_megabytes: that such a cache may take. pruner: what ends hopeless trials early, by the scores
    of others after as many epochs; see `study.PRUNERS`. heartbeat_seconds: how often a running trial leaves a sign of
    life; after four that are missed another process tries it again.
    """

    trials: int = number(100, 1)
    two_stage_trials: int = number(12, 1)
    finalists: int = number(3, 0)
    share: float = number(0.35, 0.01, 0.99)
    pruner: str = choice("median", "none", "median", "hyperband")
    heartbeat_seconds: int = number(30, 1, 3600)
    trial_pictures: int = number(1000, 1)
    trial_frozen_epochs: int = number(4, 1)
    trial_fine_tuning_epochs: int = number(3, 0)
    views: int = number(4, 1, 100)
    cache_megabytes: float = number(4096, 1)


@dataclass(frozen=True)
class EvaluationConfig:
    """views: pictures that test-time augmentation averages over (1: none). batch_size: of prediction."""

    views: int = number(5, 1, 8)
    batch_size: int = number(128, 1, 4096)


@dataclass(frozen=True)
class LimitsConfig:
    """What the server grants a submission: seconds and megabytes of memory (resident, with the pictures and with all
    child processes) for that many pictures on that many cores (0: all), and megabytes of the zip.
    """

    seconds: float = number(600.0, 1.0)
    memory_megabytes: float = number(4096.0, 1.0)
    zip_megabytes: float = number(300.0, 0.001)
    pictures: int = number(5000, 1)
    cores: int = number(2, 0)


@dataclass(frozen=True)
class SubmissionConfig:
    """batch_size: of the packaged model's prediction. float16: store the weights in half the bytes, rounded."""

    batch_size: int = number(128, 1, 4096)
    float16: bool = False


@dataclass(frozen=True)
class CodabenchConfig:
    """The competition that --bundle writes, and what --dry-run shows.

    start: day on which it opens, as 2026-01-31 (empty: today). days: length of each phase.
    phase_over: whether detailed results show pictures of mistakes, which a running competition must not.
    """

    title: str = "Blood cell classification"
    docker_image: str = "tensorflow/tensorflow:2.17.0"
    start: str = ""
    days: int = number(30, 1)
    submissions_per_day: int = number(5, 1)
    phase_over: bool = False

    def opening_day(self) -> datetime.date:
        """Return `start`, or today; raises UserError where it is no day."""
        try:
            return datetime.date.fromisoformat(self.start) if self.start else datetime.date.today()
        except ValueError:
            raise UserError(
                f"Setting codabench.start got '{self.start}', and expects a day, as 2026-01-31."
            ) from None


@dataclass(frozen=True)
class Config:
    """All settings of a run; a file of it lies beside every result."""

    seed: int = number(0, 0, 2**31 - 1)
    weights: str = "auto"
    data: DataConfig = DataConfig()
    cleaning: CleaningConfig = CleaningConfig()
    report: ReportConfig = ReportConfig()
    split: SplitConfig = SplitConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    limits: LimitsConfig = LimitsConfig()
    submission: SubmissionConfig = SubmissionConfig()
    codabench: CodabenchConfig = CodabenchConfig()


# Whole sections by name, for `--set augmentation=NAME`.
SECTION_PRESETS: dict[str, dict[str, Any]] = {
    "augmentation": {
        "default": AugmentationConfig(),
        "none": AugmentationConfig(num_operations=0, rate=0.0, flips=False),
        "origin": AugmentationConfig(num_operations=2, magnitude=0.4, rate=0.8, rotation=0.5),
        "strong": AugmentationConfig(
            num_operations=3,
            magnitude=0.5,
            rate=10 / 11,
            transposition=True,
            rotation=0.1,
            black_shift=0.1,
            zoom=0.2,
            hue=0.05,
            channel_shift=0.1,
            noise=0.06,
            blur=1.2,
            cutout=0.35,
            grid_mask=0.4,
            cutmix=0.2,
            mixup=0.1,
            occasional_rate=0.15,
        ),
    }
}

# Whole recipes by name, for `--preset NAME`: `origin` is the recipe whose scores README.md cites as the seeds'.
PRESETS: dict[str, dict[str, Any]] = {
    "origin": {
        "augmentation": "origin",
        "split.balance_to": 2500,
        "model.l2": 5e-3,
        "training.fine_tuning_l2": 1e-2,
        "training.unfreeze": 63 / 187,  # the seeds froze the first 124 of 187 layers
        "training.label_smoothing": 0.0,
    },
    # What fits the drawn pictures and ten minutes on two cores; the command line wins over it.
    "demo": {
        "model.input_size": 48,
        "augmentation.rate": 0.4,
        "training.label_smoothing": 0.0,
        "training.head_learning_rate": 2e-3,
        "training.schedule": "cosine",
        "search.trial_frozen_epochs": 1,
        "search.trial_fine_tuning_epochs": 1,
        "search.share": 0.1,
    },
}


def replace(config: Config, changes: dict[str, Any]) -> Config:
    """Return `config` with dotted keys changed, checked; raises UserError for unknown keys and bad values.

    Values may be of the field's type or text of it. A section's key takes the name of one of its presets.
    """
    for key, value in changes.items():
        if key in SECTION_PRESETS:
            if value not in SECTION_PRESETS[key]:
                raise UserError(unknown(f"preset of {key}", str(value), SECTION_PRESETS[key]))
            config = dataclasses.replace(config, **{key: SECTION_PRESETS[key][value]})
            continue
        if key not in known_keys():
            raise UserError(unknown("setting", key, known_keys()))
        *sections, name = key.split(".")
        part: Any = getattr(config, sections[0]) if sections else config
        part = dataclasses.replace(part, **{name: convert(key, find_field(part, name), value)})
        changed: dict[str, Any] = {sections[0]: part} if sections else {name: getattr(part, name)}
        config = dataclasses.replace(config, **changed)
    get_backbone(config.model.backbone)
    get_backbone(config.cleaning.backbone)
    return config


def known_keys() -> list[str]:
    """Return every dotted key."""
    return list(flatten(Config()))


def flatten(config: Config) -> dict[str, Any]:
    """Return the settings as a flat table of dotted keys."""
    table: dict[str, Any] = {}
    for section, value in dataclasses.asdict(config).items():
        is_section = isinstance(value, dict)
        table |= (
            {f"{section}.{name}": item for name, item in value.items()}
            if is_section
            else {section: value}
        )
    return table


def training_settings(config: Config) -> dict[str, Any]:
    """Return the settings that decide what a training gives, by dotted key."""
    sections = ("seed", "split", "augmentation", "model", "training")
    return {key: value for key, value in flatten(config).items() if key.split(".")[0] in sections}


def unflatten(table: dict[str, Any]) -> Config:
    """Return the Config of a table that `flatten` made; raises UserError as `replace` does."""
    return replace(Config(), table)
