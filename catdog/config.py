"""The only definition of each setting: type, default, unit, help text, range.

The command lines are generated from these classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from catdog.command_line.settings import Settings, setting

# The views of a solved head: the photo and its mirror image, no random transform.
_PLAIN_AND_MIRRORED: Mapping[str, Any] = {
    "views": 2,
    "augmentation.rotation_degrees": 0.0,
    "augmentation.width_shift_fraction": 0.0,
    "augmentation.height_shift_fraction": 0.0,
    "augmentation.shear_degrees": 0.0,
    "augmentation.zoom_fraction": 0.0,
    "augmentation.horizontal_flip": False,
    "augmentation.mirror_pairs": True,
}
_FROZEN_ONLY: Mapping[str, Any] = {
    "resize": "crop",
    "resampling": "bicubic",
    "frozen.head": "logistic",
    "unfrozen.epochs": 0,
    **_PLAIN_AND_MIRRORED,
}
# A recipe is a table of defaults; values in the file of --config and on the command line override it.
RECIPE_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "default": {"backbone": "efficientnet-lite2", **_FROZEN_ONLY, "image_size": 288, "views": 1},
    "accurate": {
        "backbone": "efficientnet-lite2",
        **_FROZEN_ONLY,
        "image_size": 320,
        "unfrozen.epochs": 6,
        "unfrozen.learning_rate": 3e-5,
        "unfrozen.schedule": "cosine",
        "unfrozen.weight_decay": 1e-4,
        "unfrozen.average_decay": 0.99,
        "unfrozen.patience": 3,
    },
    "fast": {"backbone": "efficientnet-lite0", **_FROZEN_ONLY, "image_size": 256, "views": 1},
    "article": {
        "backbone": "efficientnet-b0",
        "input_scaling": "1/255",
        "resize": "squash",
        "resampling": "bilinear",
        "pooling": "max",
        "views": 0,
        "augment_validation": True,
        "train_per_class": 1000,
        "validation_per_class": 500,
        "test_per_class": 0,
        "frozen.head": "epochs",
        "frozen.epochs": 100,
        "frozen.learning_rate": 2e-5,
        "frozen.optimizer": "rmsprop",
        "frozen.global_batch_size": 16,
        "unfrozen.epochs": 200,
        "unfrozen.learning_rate": 2e-5,
        "unfrozen.optimizer": "rmsprop",
        "unfrozen.global_batch_size": 16,
        "unfrozen.train_batch_norm": True,
    },
}
RECIPES = tuple(RECIPE_DEFAULTS)
# What runs did before these settings existed; the config.json of such a run lacks them.
VALUES_BEFORE: Mapping[str, Any] = {
    "image_size": 0,
    "resize": "squash",
    "resampling": "bilinear",
    "trunk_precision": "float32",
    "class_weights": "none",
    "frozen.head": "epochs",
    "augmentation.mirror_pairs": False,
}
# What other tools call these settings.
_PHOTOS_WORDS = ("data", "data_dir", "data_path", "dataset", "input", "input_dir", "inputs", "images", "path")
_OUT_WORDS = ("output", "output_dir", "out_dir", "save_dir", "dest", "destination", "results")
_GPU_WORDS = ("gpus", "gpu", "num_gpus", "n_gpus", "device", "devices", "cuda", "accelerator")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig(Settings):
    """Ranges of the random transforms, with the meaning Keras's ImageDataGenerator gives them."""

    rotation_degrees: float = setting(40.0, "rotate by at most this angle either way", low=0, high=180)
    width_shift_fraction: float = setting(0.2, "shift by at most this fraction of the width", low=0, high=0.99)
    height_shift_fraction: float = setting(0.2, "shift by at most this fraction of the height", low=0, high=0.99)
    shear_degrees: float = setting(0.2, "shear by at most this angle", low=0, high=89)
    zoom_fraction: float = setting(0.2, "zoom each axis by a factor between 1 - this and 1 + this", low=0, high=0.99)
    horizontal_flip: bool = setting(True, "mirror each photo with probability 0.5")
    mirror_pairs: bool = setting(False, "every second view is the mirror image of the one before it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig(Settings):
    """How one stage is trained."""

    epochs: int = setting(12, "maximum number of epochs", low=0, high=100_000, also=("num_epochs", "n_epochs"))
    learning_rate: float = setting(3e-3, "learning rate of the optimizer", low=1e-9, high=10, also=("lr", "eta"))
    optimizer: str = setting("adam", "optimizer", choices=("adam", "rmsprop", "sgd"), also=("optim", "solver"))
    global_batch_size: int = setting(
        32, "rows in a step, over all workers together", low=1, high=65_536, also=("batch_size", "batch", "bs")
    )
    patience: int = setting(
        0,
        "epochs without a better validation loss before the stage stops; 0: never stop early",
        low=0,
        also=("early_stopping",),
    )
    schedule: str = setting(
        "constant",
        "learning rate over the epochs; cosine: falls to 0",
        choices=("constant", "cosine"),
        also=("lr_schedule", "lr_scheduler"),
    )
    weight_decay: float = setting(
        0.0, "each step shrinks each kernel by this fraction times the learning rate", low=0, high=1
    )
    label_smoothing: float = setting(
        0.0, "fraction of each label that is spread over all classes", low=0, high=0.5, also=("smoothing",)
    )
    average_decay: float = setting(
        0.0,
        "keep a moving average of the weights with this decay per step, and measure and save it; 0: none",
        low=0,
        high=0.9999,
        also=("ema", "ema_decay", "ema_momentum"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenStageConfig(StageConfig):
    """How the frozen stage finds the head."""

    head: str = setting(
        "logistic",
        "logistic: regularized logistic regression on the features, solved; epochs: trained in epochs",
        choices=("logistic", "epochs"),
    )
    c: float = setting(
        0.0,
        "inverse of the penalty of a logistic head; 0: chosen by cross-validation",
        low=0,
        high=1e6,
        also=("regularization", "inverse_penalty"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnfrozenStageConfig(StageConfig):
    """How the unfrozen stage is trained, and which part of the backbone it trains."""

    epochs: int = setting(
        8, "maximum number of epochs; 0 leaves the stage out", low=0, high=100_000, also=("num_epochs", "n_epochs")
    )
    learning_rate: float = setting(1e-4, "learning rate of the optimizer", low=1e-9, high=10, also=("lr", "eta"))
    unfreeze_from: str = setting("block7a_project_conv", "first layer that is trained; `input`: the whole backbone")
    train_batch_norm: bool = setting(
        False, "let batch normalization use and learn the batch's own statistics (Keras's default)"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig(Settings):
    """Which part of the cluster the job uses; nothing here changes what is computed."""

    workers: int = setting(
        0,
        "training workers; 0: one for each GPU, or 1 without GPUs",
        low=0,
        high=10_000,
        identity=False,
        also=("num_workers", "n_workers"),
    )
    use_gpu: str = setting(
        "auto", "use GPUs; auto: where there are any", choices=("auto", "yes", "no"), identity=False, also=_GPU_WORDS
    )
    trunk_actors: int = setting(
        0, "processes that run the frozen trunk; 0: planned", low=0, high=100_000, identity=False
    )
    start_timeout_seconds: int = setting(
        600, "seconds to wait for the workers to start before giving up", low=10, identity=False
    )
    max_failures: int = setting(3, "restarts after a lost worker or node", low=0, identity=False)
    max_preemptions: int = setting(20, "restarts after a preempted node", low=0, identity=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestConfig(Settings):
    """The ingest job: from a folder of photos to a checked, deduplicated, split manifest."""

    photos: str = setting(
        "", "folder, zip or URI of the photos; without it a small sample is drawn", group="photos", also=_PHOTOS_WORDS
    )
    corrections: str = setting(
        "", "CSV of path,label that overrules the folders; label - leaves a photo out", group="photos"
    )
    labels: str = setting(
        "", "CSV or TSV of path,label[,split] that says what each photo shows, in place of folders", group="photos"
    )
    groups: str = setting("", "CSV of path,group: photos of one group are never in two splits", group="photos")
    splits: str = setting(
        "", "folders that are splits, such as train=training_set,test=held_out; none: there are none", group="photos"
    )
    bytes_column: str = setting("", "column of a Parquet file that holds the photos, of several", group="photos")
    name_column: str = setting("", "column of a Parquet file that names the photos [path, file_name …]", group="photos")
    label_column: str = setting("", "column of a Parquet file that labels the photos [label …]", group="photos")
    train_per_class: int = setting(
        -1, "maximum number of training photos in each class; -1: all", group="photos", low=-1
    )
    validation_per_class: int = setting(
        -1, "maximum number of validation photos in each class; -1: all", group="photos", low=-1
    )
    test_per_class: int = setting(
        -1, "maximum number of test photos in each class; -1: all, 0: no test split", group="photos", low=-1
    )
    seed: int = setting(
        0, "seed of the split, the augmentation and the training", group="photos", low=0, high=2**31 - 1
    )
    max_pixels: int = setting(64_000_000, "reject photos of more pixels (decompression bombs)", group="photos", low=1)
    run_dir: str = setting(
        "", "folder or URI of everything the run writes", group="output", identity=False, also=_OUT_WORDS
    )
    verbose: bool = setting(False, "show the log lines of Ray and TensorFlow", group="output", identity=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(IngestConfig):
    """The whole train job."""

    recipes: ClassVar = RECIPE_DEFAULTS
    values_before: ClassVar = VALUES_BEFORE

    recipe: str = setting("default", "the defaults of the other settings", group="model", choices=RECIPES)
    # model/backbone_specs lists the names and checks this one before Ray starts.
    backbone: str = setting(
        "efficientnet-lite0",
        "pretrained network: efficientnet-lite0 to -lite4, efficientnet-b0 to -b7, or efficientnet-l2",
        group="model",
        also=("arch", "architecture", "network", "model_name"),
    )
    image_size: int = setting(
        0,
        "side of the square that the network sees, in pixels; 0: the backbone's own",
        group="model",
        low=0,
        high=1024,
        also=("img_size", "input_size", "size", "resolution", "image_shape", "target_size"),
    )
    resize: str = setting(
        "squash",
        "how a photo becomes a square; crop: its centre, pad: all of it on gray, squash: without its aspect",
        group="model",
        choices=("crop", "squash", "pad"),
        also=("resize_mode", "crop", "crop_mode", "fit"),
    )
    resampling: str = setting(
        "bilinear",
        "filter that makes a photo smaller",
        group="model",
        choices=("bilinear", "bicubic"),
        also=("interpolation", "resample"),
    )
    weights: str = setting(
        "imagenet",
        "`imagenet`, `none`, or a file or URI of the backbone's weights",
        group="model",
        also=("pretrained", "checkpoint", "ckpt"),
    )
    input_scaling: str = setting(
        "weights",
        "`weights`: as the pretrained weights expect it; `1/255`: the article's; `-1..1`: of advprop weights",
        group="model",
        choices=("weights", "1/255", "-1..1"),
    )
    pooling: str = setting("avg", "how the last feature map becomes a vector", group="model", choices=("max", "avg"))
    dropout: float = setting(
        0.2, "fraction of the pooled features that training drops", group="model", low=0, high=0.99
    )
    precision: str = setting(
        "auto",
        "what the trained layers compute in; auto: bfloat16 on GPUs whose tensor cores have it",
        group="model",
        choices=("auto", "float32", "bfloat16"),
        also=("dtype", "mixed_precision", "amp", "fp16", "bf16"),
    )
    trunk_precision: str = setting(
        "float32",
        "what the trunk computes in on CPUs; auto: bfloat16 if Ray has one node whose CPU is faster in it",
        group="features",
        choices=("auto", "float32", "bfloat16"),
    )
    views: int = setting(
        0,
        "augmented copies of each training photo that epochs take in turn; 0: a fresh one every epoch",
        group="features",
        low=0,
    )
    class_weights: str = setting(
        "auto",
        "balanced: photos of rare classes count more in training; auto: where one class has 1.5 times another's photos",
        group="model",
        choices=("auto", "balanced", "none"),
    )
    augment_validation: bool = setting(
        False, "augment the validation photos too, as the article does", group="features"
    )
    feature_dtype: str = setting(
        "float16", "how cached trunk features are stored", group="features", choices=("float16", "float32")
    )
    cache_budget_gib: float = setting(
        20.0,
        "cache features on disk up to this size; larger sets are computed anew in each epoch",
        group="features",
        low=0,
        identity=False,
    )
    quantize: bool = setting(
        False, "also write the model in int8, for `predict --precision int8`", group="output", identity=False
    )
    track: str = setting(
        "none",
        "also log the finished run to this tool",
        group="output",
        choices=("none", "tensorboard", "mlflow"),
        identity=False,
    )
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    frozen: FrozenStageConfig = dataclasses.field(default_factory=FrozenStageConfig)
    unfrozen: UnfrozenStageConfig = dataclasses.field(default_factory=UnfrozenStageConfig)
    cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneClusterConfig(ClusterConfig):
    """Which part of the cluster a tune job uses."""

    trial_gpus: str = setting(
        "auto",
        "GPUs of a trial, such as 0.25; auto: so few that several trials share a GPU, none without GPUs",
        identity=False,
        also=("gpus_per_trial", "gpu_per_trial"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """The tune job: a train job's settings, and which of them vary over which values."""

    trials: int = setting(
        16,
        "total number of trials, with those of an earlier command; trial 0 has the default settings",
        group="sweep",
        low=1,
        high=100_000,
        identity=False,
        also=("num_trials", "n_trials", "num_samples", "samples"),
    )
    space: tuple[str, ...] = setting(
        (),
        "what varies: --space.SETTING DOMAIN, such as --space.dropout uniform:0,0.5; or a YAML file of them",
        group="sweep",
        also=("search_space", "param_space"),
    )
    metric: str = setting(
        "val_loss",
        "the one score that searcher, scheduler and choice of the winner use",
        group="sweep",
        choices=("val_loss", "val_accuracy"),
        identity=False,
        also=("objective", "monitor"),
    )
    folds: int = setting(
        -1,
        "rate trials by cross-validation with this number of folds over training and validation photos; 0: on the "
        "validation photos; -1: 5 where only the frozen stage is trained, on less than 10,000 photos",
        group="sweep",
        low=-1,
        high=100,
        also=("cv", "k_folds", "kfold", "n_splits"),
    )
    selection: str = setting(
        "best",
        "which trial wins; one-se: the simplest within one standard error of the best, over folds",
        group="sweep",
        choices=("best", "one-se"),
        identity=False,
    )
    search: str = setting(
        "random",
        "how values are found; optuna and hyperopt learn from the trials",
        group="sweep",
        choices=("random", "optuna", "hyperopt"),
        also=("search_alg", "sampler"),
    )
    scheduler: str = setting(
        "asha", "how poor trials are stopped early", group="sweep", choices=("asha", "median", "none"), also=("pruner",)
    )
    time_budget: str = setting(
        "",
        "end with the best trial so far after this time, such as 10m or 1h30m",
        group="sweep",
        identity=False,
        also=("timeout", "max_time", "time_limit"),
    )
    features: str = setting(
        "", "folder of cached features, of a train job too [RUN_DIR/features]", group="features", identity=False
    )
    cluster: TuneClusterConfig = dataclasses.field(default_factory=TuneClusterConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictClusterConfig(Settings):
    """Which part of the cluster a predict job uses."""

    actors: int = setting(
        0, "processes that run the model; 0: planned", low=0, high=100_000, identity=False, also=("workers",)
    )
    batch_size: int = setting(
        0, "photos in a batch; 0: 32, on GPUs 256", low=0, high=4096, identity=False, also=("batch",)
    )
    use_gpu: str = setting(
        "auto", "use GPUs; auto: where there are any", choices=("auto", "yes", "no"), identity=False, also=_GPU_WORDS
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(Settings):
    """The predict job: what to label, with which model, and where the rows go."""

    photos: str = setting(
        "",
        "what to label: a folder, glob, photo, zip, .txt of paths, .parquet of bytes, or URI",
        group="photos",
        also=_PHOTOS_WORDS,
    )
    bytes_column: str = setting("", "column of a Parquet file that holds the photos [the only one]", group="photos")
    name_column: str = setting("", "column of a Parquet file that names the photos [path, file_name …]", group="photos")
    max_pixels: int = setting(
        64_000_000, "a photo of more pixels is an error row (decompression bombs)", group="photos", low=1
    )
    max_errors: float = setting(
        0.5,
        "exit with 3 when a greater fraction of the photos has errors",
        group="photos",
        low=0,
        high=1,
        identity=False,
    )
    model: tuple[str, ...] = setting(
        (),
        "model directory, as a train job leaves it; given twice, the two are compared",
        group="model",
        also=("weights", "checkpoint", "model_dir"),
    )
    engine: str = setting(
        "auto", "library that runs the model", group="model", choices=("auto", "tensorflow", "openvino"), identity=False
    )
    precision: str = setting(
        "float32",
        "what the model computes in; bfloat16 rounds more, and is faster on GPUs, CPUs with AMX and newer ones of AMD; "
        "int8: the quantized graph that export --to int8 left in the model directory",
        group="model",
        choices=("float32", "bfloat16", "int8"),
        also=("dtype", "bf16", "fp16", "half"),
    )
    tta: str = setting(
        "none",
        "test-time augmentation: `flip` averages each photo and its mirror image, at half the speed",
        group="model",
        choices=("none", "flip"),
        also=("flip", "augment", "hflip"),
    )
    threshold: float = setting(
        0.0, "below this probability the label is `unsure`", group="labels", low=0, high=1, also=("confidence", "conf")
    )
    top_k: int = setting(
        1, "number of most probable classes that get their own columns", group="labels", low=1, high=1000
    )
    evaluate: bool = setting(
        False, "the class folders are the truth: add accuracy and confusion matrix", group="labels", identity=False
    )
    out: str = setting(
        "",
        "folder or URI of the results [labels/ and the name of the photos]",
        group="output",
        also=(*_OUT_WORDS, "run_dir"),
        identity=False,
    )
    format: str = setting("parquet", "how predictions are written", group="output", choices=("parquet", "csv", "json"))
    report: bool = setting(
        True, "write report.html, a page to look at and to correct labels in", group="output", identity=False
    )
    sort_into: str = setting(
        "", "folder in which the photos are laid out by label afterwards", group="output", identity=False
    )
    sort: str = setting(
        "copy", "how --sort-into puts them there", group="output", choices=("copy", "link", "move"), identity=False
    )
    overwrite: bool = setting(
        False, "replace results that were made with other settings", group="output", identity=False, also=("force",)
    )
    retry_errors: bool = setting(
        False,
        "label photos again that were missing, could not be read because of disk or network, or have changed",
        group="output",
        identity=False,
        also=("retry",),
    )
    verify: bool = setting(
        False, "check that --out has exactly one row for each file, and stop", group="output", identity=False
    )
    verbose: bool = setting(False, "show the log lines of Ray and TensorFlow", group="output", identity=False)
    cluster: PredictClusterConfig = dataclasses.field(default_factory=PredictClusterConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """The export job: which model, in which format, and where it is written."""

    model: str = setting("", "model directory, as a train job leaves it")
    to: str = setting(
        "",
        "format of the exported model; int8: a quantized graph for predict --precision int8, written into --model",
        choices=("savedmodel", "tflite", "onnx", "openvino", "int8"),
        also=("format",),
    )
    out: str = setting("", "where it goes: a folder for savedmodel, else a file", identity=False, also=_OUT_WORDS)
    photos: str = setting(
        "",
        "photos; check on ten of them that the exported model agrees, by default on drawn ones. "
        "int8: calibrate on 300 of them and evaluate on others; by default on those of the model's run",
        also=_PHOTOS_WORDS,
    )
    max_pixels: int = setting(64_000_000, "leave out photos of more pixels (decompression bombs)", low=1)
    verbose: bool = setting(False, "show the log lines of TensorFlow", identity=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Settings):
    """What is measured, and on what."""

    photos: str = setting("", "folder of class folders; without it a sample is drawn", also=_PHOTOS_WORDS)
    model: str = setting("", "model directory that labels; without it one is trained")
    measure: str = setting(
        "all",
        "what is measured; all: everything but recipes",
        choices=("all", "accuracy", "trunk", "predict", "tune", "overheads", "growth", "scale", "recipes"),
    )
    count: int = setting(3000, "photos for trunk, predict and tune; they are repeated if there are fewer", low=12)
    grow_to: int = setting(
        8000, "photos of growth's largest train job; smaller ones take 1/2, 1/4, 1/8 of them", low=24
    )
    label_to: int = setting(100_000, "files of growth's largest predict job", low=24)
    scale_to: int = setting(1_000_000, "empty photos that scale lists and labels with a free network", low=1)
    article_epochs: int = setting(3, "epochs of each stage of the article's recipe that are run", low=1, high=300)
    trials: int = setting(17, "trials of the sweep", low=2, high=10_000)
    repeats: int = setting(3, "repetitions of the short measurements; the median is reported", low=1, high=100)
    out: str = setting("benchmark.json", "file of the figures", also=_OUT_WORDS)
    folder: str = setting("", "temporary folder of copies and runs; on a cluster one that all machines share")
    verbose: bool = setting(False, "show the log lines of the programs")
