"""Every setting: its default, its line, its values; `python run.py --settings` prints them."""

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from competition.backbones import get_backbone
from competition.common.errors import UserError, unknown
from competition.common.settings import (
    choice,
    flatten,
    list_fields,
    number,
    set_value,
    switch,
    tabulate,
    text,
)
from competition.metric import METRICS

FILLS = ("reflect", "constant")  # beyond the border of an image: the image mirrored, or black


@dataclass(frozen=True)
class DataConfig:
    """How the training file is read."""

    size: int = number(96, "side in pixels of images from files, or not square", low=16, high=1024)
    resize: str = choice("stretch", "how an image becomes square", ("stretch", "pad", "crop"))
    fill: str = choice("reflect", "padding: the image mirrored, or black", FILLS)
    background: str = choice("white", "colour behind transparent parts", ("white", "black"))
    limit: int = number(0, "read only this many images, the first ones (0: all)")
    unreadable: float = number(
        0.05, "largest share of the files that may be unreadable; those are left out", high=1
    )
    classes: str = choice(
        "auto",
        "the folders that are classes: recognised, the first level, or those that hold the images",
        ("auto", "first", "last"),
    )
    file_column: str = text("", "column of a CSV with the file names (empty: recognised)")
    label_column: str = text("", "column of a CSV with the labels (empty: recognised by name)")


@dataclass(frozen=True)
class CleaningConfig:
    """How faults, copies, non-cells and wrong labels are told from sound cells."""

    backbone: str = text(
        "mobilenetv3small",
        "its ImageNet features describe the images, else EfficientNet-Lite0's, else pixels",
    )
    perplexity: float = number(30.0, "perplexity of the t-SNE map", low=2)
    iterations: int = number(500, "iterations of the t-SNE map", low=250)
    maximum_on_map: int = number(20_000, "most images that the map lays out one by one", low=100)
    blank_contrast: float = number(5.0, "blank: highest deviation of grey levels", high=255)
    flat_tolerance: float = number(4.0, "broken: grey levels by which flat rows may vary", high=255)
    flat_elsewhere: float = number(
        0.1, "broken: highest share of a flat row's colour in the rows above it", high=1
    )
    broken_share: float = number(0.1, "broken: lowest share of flat rows", high=1)
    repeated_share: float = number(0.15, "broken: lowest share of rows that repeat", high=1)
    noise_roughness: float = number(0.5, "noise: lowest roughness (1: independent pixels)", high=1)
    class_faults: float = number(
        0.9, "faults: lowest share of a class that has them by nature, and is kept", low=0.5, high=1
    )
    cluster_size: int = number(15, "non-cells: fewest images of a cluster", low=5)
    sharing: float = number(0.4, "non-cells: lowest share of details common to a cluster", high=1)
    correlation: float = number(0.4, "non-cells: lowest correlation of a member with these", high=1)
    members_sharing: float = number(
        0.55, "non-cells: lowest share of details that all members have in common", high=1
    )
    margin: float = number(0.05, "non-cells: correlations this close to that are ambiguous", high=1)
    maximum_in_margin: float = number(0.15, "non-cells: most ambiguous images per member", high=1)
    label_distance: float = number(
        0.25,
        "non-cells: largest total variation distance of their label shares to the rest's",
        high=1,
    )
    skill: float = number(
        0.2, "non-cells: how well neighbours tell labels, at most (0: chance, 1: as usual)", high=1
    )
    apart: float = number(0.7, "non-cells: lowest share of neighbours within the cluster", high=1)
    copy_shift: int = number(3, "near copies: largest shift along each axis, in pixels", high=5)
    copy_neighbours: int = number(8, "near copies: images that each image is compared with", low=1)
    copy_score: float = number(0.75, "near copies: lowest share of fine details in both", high=1)
    wrong_labels: str = choice(
        "drop",
        "treatment of surely wrong labels in training and validation",
        ("drop", "keep", "relabel"),
    )
    false_alarms: float = number(0.5, "wrong labels: highest share of right ones in them", high=1)
    sure_false_alarms: float = number(0.1, "wrong labels: the same among the surely wrong", high=1)
    label_folds: int = number(5, "wrong labels: folds of the predictions", low=2, high=50)
    label_components: int = number(200, "wrong labels: principal components of the features", low=2)
    label_landmarks: int = number(300, "wrong labels: landmarks of the kernel", low=10)
    odd_deviation: float = number(4.0, "odd images: fewest robust deviations from the usual", low=1)
    odd_span: float = number(0.5, "odd images: highest share of the usual grey level span", high=1)
    odd_neighbour: int = number(5, "odd images: rank of the neighbour whose distance counts", low=1)
    odd_share: float = number(0.01, "odd images: highest share that one kind flags", high=1)


@dataclass(frozen=True)
class ReportConfig:
    """The page that shows the result of cleaning; its size in bytes follows from these."""

    images: int = number(15_000, "most images on the map, drawn at random from more", low=1)
    gallery: int = number(240, "most images shown of each kind of issue", low=1)
    examples: int = number(16, "images shown of each class", low=1)
    side: int = number(56, "longest side in pixels of images on the map", low=8, high=512)
    gallery_side: int = number(96, "longest side in pixels of images in galleries", low=8, high=512)
    quality: int = number(70, "JPEG quality", low=1, high=95)


@dataclass(frozen=True)
class SplitConfig:
    """How the kept images are split, and how small classes are filled up."""

    validation: float = number(0.15, "share of the images for validation", low=0.01, high=0.45)
    test: float = number(0.15, "share of the images for the test", low=0.01, high=0.45)
    balance_to: int = number(0, "images per training class, with augmented ones (0: as they are)")
    balance_validation_to: int = number(0, "the same for validation")
    folds: int = number(0, "K > 1 cuts training and validation into K folds instead", high=50)
    fold: int = number(0, "the fold that validates", high=49)


@dataclass(frozen=True)
class AugmentationConfig:
    """How images vary in training; every draw is made per image."""

    num_operations: int = number(3, "RandAugment: operations per image", high=8)
    magnitude: float = number(0.5, "RandAugment: mean strength, from none to strongest", high=1)
    magnitude_deviation: float = number(0.15, "RandAugment: deviation of the strength", high=1)
    rate: float = number(10 / 11, "RandAugment: probability of each operation", high=1)
    fill: str = choice("reflect", "beyond the border: the image mirrored, or black", FILLS)
    interpolation: str = choice("bilinear", "how a warp reads pixels", ("bilinear", "nearest"))
    flips: bool = switch(True, "mirror along both axes, each with probability 1/2")
    transposition: bool = switch(True, "mirror along the diagonal with probability 1/2")
    rotation: float = number(0.1, "largest angle, as a share of a full turn", high=0.5)
    black_shift: float = number(0.1, "largest shift as a share of the side; leaves black", high=0.5)
    black_shift_rate: float = number(0.5, "share of the images that shift", high=1)
    zoom: float = number(0.2, "largest change of scale", high=0.9)
    resize: float = number(0.0, "largest loss of resolution, by resampling", high=0.9)
    hue: float = number(0.05, "largest turn of hue, as a share of a full turn", high=0.5)
    channel_shift: float = number(0.1, "largest shift of each channel, as a share of 255", high=1)
    noise: float = number(0.06, "largest standard deviation of noise, as a share of 255", high=1)
    blur: float = number(1.2, "largest sigma of a Gaussian blur, in pixels", high=3)
    cutout: float = number(
        0.35, "largest side of a black square, as a share of the image's", high=1
    )
    grid_mask: float = number(0.4, "side of the black squares of a grid, in periods", high=0.9)
    cutmix: float = number(0.2, "share of the images that a part of another is pasted into", high=1)
    mixup: float = number(0.1, "share of the images that another is blended into", high=1)
    occasional_rate: float = number(
        0.15, "share of images that each of zoom to grid_mask meets", high=1
    )


@dataclass(frozen=True)
class ModelConfig:
    """The network: a backbone, global average pooling and one dense layer before the output."""

    backbone: str = text("mobilenetv3large", "name in competition/backbones.py")
    head_units: int = number(256, "units of the dense layer", low=1, high=8192)
    dropout: float = number(0.3, "dropout before the output", high=0.95)
    l2: float = number(1e-5, "L2 penalty of the dense kernels while the backbone is frozen", high=1)
    input_size: int = number(0, "side in pixels that the network resizes to (0: as is)", high=1024)


@dataclass(frozen=True)
class TrainingConfig:
    """Both stages of training: the head on a frozen backbone, then fine-tuning."""

    batch_size: int = number(64, "images per training step", low=1, high=4096)
    optimizer: str = choice("adamw", "update rule", ("adam", "adamw", "lion"))
    precision: str = choice(
        "float32",
        "what layers compute with; mixed_bfloat16 is for accelerators, slower on processors",
        ("float32", "mixed_bfloat16"),
    )
    weight_decay: float = number(4e-3, "decoupled weight decay of AdamW and Lion", high=1)
    clip_norm: float = number(1.0, "largest norm of all gradients together (0: none)", high=1000)
    average: float = number(
        0.0, "horizon of the moving average of weights, share of a stage (0: none)", high=0.5
    )
    frozen_epochs: int = number(1, "epochs of the head on the frozen backbone", high=1000)
    fine_tuning_epochs: int = number(24, "epochs of fine-tuning", high=1000)
    head_learning_rate: float = number(1e-3, "learning rate of the head", low=1e-8, high=1)
    fine_tuning_learning_rate: float = number(1e-3, "rate of fine-tuning", low=1e-8, high=1)
    fine_tuning_l2: float = number(1e-5, "L2 penalty of the dense kernels in fine-tuning", high=1)
    unfreeze: float = number(
        1.0,
        "share of the backbone's layers to fine-tune, at a block border (1: all)",
        low=0.01,
        high=1,
    )
    layer_decay: float = number(
        1.0,
        "factor per block by which the rates of the backbone fall towards its input",
        low=0.1,
        high=1,
    )
    label_smoothing: float = number(0.1, "label smoothing of the loss", high=0.9)
    class_weights: bool = switch(False, "weigh classes by the inverse of their frequency")
    schedule: str = choice(
        "cosine",
        "how the learning rate falls: plateau halves it when the selection score stalls; "
        "cosine and linear decay it to zero as training progresses",
        ("plateau", "cosine", "linear"),
    )
    warm_up: float = number(0.05, "share of a stage over which the rate rises from zero", high=0.5)
    plateau_patience: int = number(2, "epochs without a better score until the rate falls", low=1)
    plateau_factor: float = number(0.5, "factor by which plateau lowers rates", low=0.01, high=0.99)
    stopping_patience: int = number(0, "epochs without a better score until a stage ends (0: all)")
    batch_norm: str = choice(
        "training",
        "BatchNorm of a pretrained backbone in fine-tuning: keep its statistics, or learn new ones",
        ("inference", "training"),
    )
    batch_norm_momentum: float = number(0.9, "momentum of BatchNorm where it learns", high=0.9999)
    start_size: int = number(
        0,
        "side in pixels at which training begins; it grows to the input size (0: no growth)",
        high=1024,
    )
    select_by: str = text(
        "clean+revealed",
        "versions of validation whose accuracy is the selection score, joined by +: clean, "
        "revealed, microscope, unseen",
    )
    limit: int = number(0, "train on this many images only, drawn evenly from the classes (0: all)")


@dataclass(frozen=True)
class SearchConfig:
    """The search per backbone; its trials are trainings in miniature."""

    trials: int = number(100, "trials of the head, and most trials of any round", low=1)
    fine_tuning_trials: int = number(27, "trials of whole recipes on small images (0: none)")
    scratch_trials: int = number(27, "trials of a network from random weights (0: none)")
    finalists: int = number(
        3, "settings in the final, those as given among them (0 or 1: no trial goes on)"
    )
    share: float = number(
        0.35,
        "share of a time budget for searching, of that for searching and training",
        low=0.01,
        high=0.99,
    )
    pruner: str = choice("median", "rule to end hopeless trials", ("none", "median", "hyperband"))
    heartbeat_seconds: int = number(
        30, "seconds between signs of life; a trial that misses four is retried", low=1, high=3600
    )
    trial_images: int = number(
        1000, "images per trial; semifinals take 1.5 times as many, finals 9 times", low=1
    )
    trial_epochs: int = number(
        8, "epochs per trial, of both stages together; finals take 1.5 times as many", low=1
    )
    trial_head_epochs: int = number(4, "epochs per trial of a head", low=1)
    cached_copies: int = number(4, "augmented copies per image in the cache", low=1, high=100)
    cache_megabytes: float = number(4096, "most megabytes of cached features", low=1)


@dataclass(frozen=True)
class EvaluationConfig:
    """How trained networks are scored."""

    tta_views: int = number(5, "views that test-time augmentation averages (1: one)", low=1, high=8)
    batch_size: int = number(128, "images per prediction step", low=1, high=4096)


@dataclass(frozen=True)
class LimitsConfig:
    """The resources that the server grants a submission."""

    seconds: float = number(600.0, "seconds for all images", low=1)
    memory_megabytes: float = number(4096.0, "megabytes of memory, child processes included", low=1)
    zip_megabytes: float = number(300.0, "megabytes of the zip", low=0.001)
    images: int = number(5000, "images that the server asks about", low=1)
    cores: int = number(2, "cores (0: all)")


@dataclass(frozen=True)
class SubmissionConfig:
    """The packaged model."""

    batch_size: int = number(128, "images per prediction step on the server", low=1, high=4096)
    float16: bool = switch(False, "store the weights rounded, in half the bytes")
    competition: str = text("", "where --submit goes, as codabench:4430 or kaggle:titanic")


@dataclass(frozen=True)
class CodabenchConfig:
    """The competition that --bundle writes."""

    title: str = text("Blood cell classification", "title of the competition")
    docker_image: str = text("tensorflow/tensorflow:2.17.0", "Docker image for submissions")
    start: str = text("", "day on which it opens, as 2026-01-31 (empty: today)")
    days: int = number(30, "length of each phase in days", low=1, high=3650)
    submissions_per_day: int = number(5, "submissions per participant and day", low=1)

    def opening_day(self) -> datetime.date:
        """Return `start`, or today; raises UserError where `start` is no day."""
        try:
            day = datetime.date.fromisoformat(self.start) if self.start else datetime.date.today()
            if day.year > 9000:  # the phases end before the calendar does
                raise ValueError(day)
            return day
        except ValueError:
            raise UserError(
                f"Setting codabench.start got '{self.start}', and expects a day, as 2026-01-31."
            ) from None


@dataclass(frozen=True)
class Config:
    """All settings of a run; a file of them lies beside every result."""

    seed: int = number(0, "seed of all random numbers", high=2**31 - 1)
    recipe: str = text("", "name of the recipe, for the leaderboard")
    weights: str = text("auto", "initial weights: auto, imagenet, none, a folder or a file")
    metric: str = choice("accuracy", "the competition's metric, which decides", tuple(METRICS))
    live: str = text("", "where each epoch is shown as it ends, joined by +: tensorboard, mlflow")
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


NO_AUGMENTATION = AugmentationConfig(
    num_operations=0,
    rate=0.0,
    flips=False,
    transposition=False,
    rotation=0.0,
    black_shift=0.0,
    zoom=0.0,
    hue=0.0,
    channel_shift=0.0,
    noise=0.0,
    blur=0.0,
    cutout=0.0,
    grid_mask=0.0,
    cutmix=0.0,
    mixup=0.0,
)
MILD_AUGMENTATION = dataclasses.replace(
    NO_AUGMENTATION, num_operations=2, magnitude=0.4, rate=0.8, flips=True
)

# Whole sections by name, for `--set augmentation=NAME`.
SECTION_PRESETS: dict[str, dict[str, Any]] = {
    "augmentation": {
        "strong": AugmentationConfig(),
        "mild": MILD_AUGMENTATION,
        "baseline": dataclasses.replace(MILD_AUGMENTATION, rotation=0.5),
        "none": NO_AUGMENTATION,
    }
}

# Whole recipes by name, for `--preset NAME`.
PRESETS: dict[str, dict[str, Any]] = {
    # The recipe of the published baseline, whose scores README.md cites.
    "baseline": {
        "recipe": "baseline",
        "augmentation": "baseline",
        "split.balance_to": 2500,
        "model.l2": 5e-3,
        "training.fine_tuning_l2": 1e-2,
        "training.unfreeze": 63 / 187,  # the baseline froze the first 124 of 187 layers
        "training.label_smoothing": 0.0,
        "training.schedule": "plateau",
        "training.warm_up": 0.0,
        "training.stopping_patience": 6,
        "training.batch_size": 32,
        "training.optimizer": "adam",
        "training.clip_norm": 0.0,
        "training.frozen_epochs": 5,
        "training.fine_tuning_epochs": 20,
        "training.fine_tuning_learning_rate": 1e-4,
        "training.batch_norm": "inference",
    },
    # What has won so far on the real images (docs/recipe.md), with three times the work.
    "best": {"recipe": "best", "model.input_size": 128, "training.fine_tuning_epochs": 40},
    # Enough for the drawn images, some seven minutes on two cores; the command line wins over it.
    # So few epochs do not bear images that are mixed, nor distortions that `revealed` lacks.
    "demo": {
        "augmentation.cutmix": 0.0,
        "augmentation.mixup": 0.0,
        "augmentation.occasional_rate": 0.05,
        "model.input_size": 64,
        "training.batch_size": 32,
        "training.frozen_epochs": 1,
        "training.fine_tuning_epochs": 9,
        "search.trials": 40,
        "search.finalists": 0,
    },
}

# How backbones from random weights train beside pretrained ones in the demo, which they only are to
# be compared with.
DEMO_FROM_RANDOM: dict[str, Any] = {"recipe": "few epochs", "training.fine_tuning_epochs": 4}


# Settings that earlier versions lacked, with the value that those worked by. It is left out of what
# decides the result of a training, so that runs of these versions are found again.
NEWER = {"metric": "accuracy", "training.precision": "float32"}


def with_settings(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return `config` with dotted keys set to values, which may be text of them.

    A section's key takes the name of one of its presets. Raises UserError for unknown keys, presets
    and backbones, and for bad values.
    """
    for key, value in changes.items():
        if presets := SECTION_PRESETS.get(key):
            if value not in presets:
                raise UserError(unknown(f"preset of {key}", str(value), presets))
            config = dataclasses.replace(config, **{key: presets[value]})
        else:
            config = set_value(config, key, value)
    get_backbone(config.model.backbone)
    get_backbone(config.cleaning.backbone)
    return config


def unflatten(table: Mapping[str, Any]) -> Config:
    """Return the Config of a table that `flatten` made.

    Raises UserError where another version of this program, with other settings, wrote the table.
    """
    if others := table.keys() - list_fields(Config()):
        raise UserError(
            f"Another version of this program wrote settings with {', '.join(sorted(others))}; "
            "give the data folders of their own with --name."
        )
    return with_settings(Config(), table)


def training_settings(config: Config) -> dict[str, Any]:
    """Return the settings that decide the result of a training, by dotted key."""
    sections = ("seed", "metric", "split", "augmentation", "model", "training")
    return {
        key: value
        for key, value in flatten(config).items()
        if key.split(".")[0] in sections and NEWER.get(key) != value
    }


def describe_settings() -> str:
    """Return the table that `--settings` prints: every key, its default, line and values."""
    presets = ", ".join(SECTION_PRESETS["augmentation"])
    return (
        "--set KEY=VALUE changes a setting: its key, default, meaning and values.\n"
        f"--set augmentation=NAME changes that section as a whole: {presets}.\n\n"
        f"{tabulate(Config())}"
    )
