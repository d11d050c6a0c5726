"""Every knob, once: type, default, unit, reason, range. The command lines are generated from these classes."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from catdog.errors import UsageError

RECIPES = ("default", "article")


def knob(
    default: Any,
    reason: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    identity: bool = True,
) -> Any:
    """Declare a field with its help text and range.

    `identity` tells whether another value makes another result: only such knobs are compared
    when a run directory is used again.
    """
    metadata = {"reason": reason, "low": low, "high": high, "choices": choices, "identity": identity}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Ranges of the random transforms, with the meaning Keras's ImageDataGenerator gives them."""

    rotation_degrees: float = knob(40.0, "rotate by up to so many degrees either way", low=0, high=180)
    width_shift_fraction: float = knob(0.2, "shift by up to this share of the width", low=0, high=0.99)
    height_shift_fraction: float = knob(0.2, "shift by up to this share of the height", low=0, high=0.99)
    shear_degrees: float = knob(0.2, "shear by up to so many degrees", low=0, high=89)
    zoom_fraction: float = knob(0.2, "zoom each axis by a factor of 1 minus to 1 plus this", low=0, high=0.99)
    horizontal_flip: bool = knob(True, "mirror every second photo, by chance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How one stage is trained."""

    epochs: int = knob(12, "epochs at most", low=0, high=100_000)
    learning_rate: float = knob(3e-3, "step size of the optimizer", low=1e-9, high=10)
    optimizer: str = knob("adam", "update rule", choices=("adam", "rmsprop", "sgd"))
    global_batch_size: int = knob(32, "rows a step, over all workers together", low=1, high=65_536)
    patience: int = knob(0, "stop after so many epochs without a better validation loss; 0: never", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnfrozenStageConfig(StageConfig):
    """How the unfrozen stage is trained, and what of the backbone it trains."""

    epochs: int = knob(8, "epochs at most; 0 leaves the stage out", low=0, high=100_000)
    learning_rate: float = knob(1e-4, "step size of the optimizer", low=1e-9, high=10)
    unfreeze_from: str = knob("block7a_project_conv", "first layer that is trained; `input` trains the whole backbone")
    train_batch_norm: bool = knob(
        False, "let batch normalization use and learn the batch's own statistics (Keras's habit)"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What of the cluster the job uses; nothing here changes what is computed."""

    workers: int = knob(0, "train workers; 0: one for each GPU, or 1 without GPUs", low=0, high=10_000, identity=False)
    use_gpu: str = knob("auto", "GPUs where there are any", choices=("auto", "yes", "no"), identity=False)
    trunk_actors: int = knob(0, "processes that run the frozen trunk; 0: planned", low=0, high=100_000, identity=False)
    start_timeout_seconds: int = knob(
        600, "give up when the workers asked for are not there by then", low=10, identity=False
    )
    max_failures: int = knob(3, "restarts after a lost worker or node", low=0, identity=False)
    max_preemptions: int = knob(20, "restarts after a node that the cloud took back", low=0, identity=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """From a folder of photos to a checked, deduplicated, split manifest."""

    photos: str = knob("", "folder, zip or URI of the photos; without it a small set is drawn")
    run_dir: str = knob("", "folder or URI of everything the run writes", identity=False)
    corrections: str = knob("", "CSV of path,label that overrules the folders; label - leaves a photo out")
    train_per_class: int = knob(1000, "training photos of each class, as far as they reach", low=1)
    validation_per_class: int = knob(500, "validation photos of each class, likewise", low=1)
    test_per_class: int = knob(500, "test photos of each class, likewise", low=0)
    seed: int = knob(0, "seed of the split, the augmentation and the training", low=0, high=2**31 - 1)
    max_pixels: int = knob(64_000_000, "a photo of more pixels is rejected (decompression bombs)", low=1)
    verbose: bool = knob(False, "show what Ray and TensorFlow have to say", identity=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(IngestConfig):
    """The whole train job."""

    recipe: str = knob("default", "where the defaults of the other knobs come from", choices=RECIPES)
    backbone: str = knob("efficientnet-lite0", "pretrained network", choices=("efficientnet-b0", "efficientnet-lite0"))
    weights: str = knob("imagenet", "`imagenet`, `none`, or a file or URI of the backbone's weights")
    input_scaling: str = knob(
        "weights",
        "`weights`: as the pretrained weights expect it; `1/255`: the article's",
        choices=("weights", "1/255"),
    )
    pooling: str = knob("avg", "how the last feature map becomes a vector", choices=("max", "avg"))
    dropout: float = knob(0.2, "share of the pooled features dropped in training", low=0, high=0.99)
    views: int = knob(
        0, "augmented copies of a training photo that epochs take in turn; 0: a fresh one every epoch", low=0
    )
    augment_validation: bool = knob(False, "augment the validation photos too, as the article does")
    precision: str = knob(
        "auto",
        "what the trained layers compute in; auto: bfloat16 on GPUs that have it in their tensor cores",
        choices=("auto", "float32", "bfloat16"),
    )
    feature_dtype: str = knob("float16", "how cached trunk features are stored", choices=("float16", "float32"))
    cache_budget_gib: float = knob(
        20.0,
        "features are cached on disk up to this size, beyond it they are computed anew each epoch",
        low=0,
        identity=False,
    )
    track: str = knob(
        "none", "where the finished run is recorded besides", choices=("none", "tensorboard", "mlflow"), identity=False
    )
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    frozen: StageConfig = dataclasses.field(default_factory=StageConfig)
    unfrozen: UnfrozenStageConfig = dataclasses.field(default_factory=UnfrozenStageConfig)
    cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """The tune job: a train job's settings, and which of them vary over which values."""

    trials: int = knob(16, "trials in all, those of an earlier command included", low=1, high=100_000, identity=False)
    space: tuple[str, ...] = knob((), "what varies: --space.KNOB DOMAIN, such as --space.dropout uniform:0,0.5")
    search: str = knob("random", "how values are found; optuna learns from the trials", choices=("random", "optuna"))
    scheduler: str = knob("asha", "how poor trials are stopped early", choices=("asha", "median", "none"))
    features: str = knob("", "folder of cached features, of a train job too [RUN_DIR/features]", identity=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictClusterConfig:
    """What of the cluster a predict job uses."""

    actors: int = knob(0, "processes that run the model; 0: planned", low=0, high=100_000, identity=False)
    batch_size: int = knob(0, "photos in one call of the model; 0: 32, on GPUs 256", low=0, high=4096, identity=False)
    use_gpu: str = knob("auto", "GPUs where there are any", choices=("auto", "yes", "no"), identity=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """The predict job: what to label, with which model, and where the rows go."""

    photos: str = knob("", "what to label: a folder, glob, photo, zip, .txt of paths, .parquet of bytes, or URI")
    model: tuple[str, ...] = knob((), "model directory, as a train job leaves it; given twice, the two are compared")
    out: str = knob("", "folder or URI of the results [labels/ and the name of the photos]", identity=False)
    format: str = knob("parquet", "how predictions are written", choices=("parquet", "csv", "json"))
    threshold: float = knob(0.0, "below this probability the label is `unsure`", low=0, high=1)
    top_k: int = knob(1, "so many of the most probable classes get columns of their own", low=1, high=1000)
    evaluate: bool = knob(False, "the class folders are the truth: add accuracy and confusion matrix", identity=False)
    report: bool = knob(True, "write report.html, a page to look at and to correct labels in", identity=False)
    sort_into: str = knob("", "folder in which the photos are laid out by label afterwards", identity=False)
    sort: str = knob("copy", "how they get there", choices=("copy", "link", "move"), identity=False)
    max_errors: float = knob(
        0.5, "exit code 3 when a greater share of the photos has errors", low=0, high=1, identity=False
    )
    max_pixels: int = knob(64_000_000, "a photo of more pixels is an error row (decompression bombs)", low=1)
    engine: str = knob("auto", "what runs the model", choices=("auto", "tensorflow", "openvino"), identity=False)
    precision: str = knob(
        "float32",
        "what the model computes in; bfloat16 is faster on CPUs and GPUs that have it, and rounds more",
        choices=("float32", "bfloat16"),
    )
    overwrite: bool = knob(False, "replace results that were made with other settings", identity=False)
    verify: bool = knob(False, "prove that the rows in --out are the files, each once, and stop", identity=False)
    verbose: bool = knob(False, "show what Ray and TensorFlow have to say", identity=False)
    cluster: PredictClusterConfig = dataclasses.field(default_factory=PredictClusterConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The export job: which model, in which format, where to."""

    model: str = knob("", "model directory, as a train job leaves it")
    to: str = knob("", "format of the exported model", choices=("savedmodel", "tflite", "onnx", "openvino"))
    out: str = knob("", "where it goes: a folder for savedmodel, else a file", identity=False)
    photos: str = knob("", "ten photos of it prove that the exported model agrees; without it they are drawn")
    max_pixels: int = knob(64_000_000, "a photo of more pixels is left out (decompression bombs)", low=1)
    verbose: bool = knob(False, "show what TensorFlow has to say", identity=False)


# A recipe is a table of defaults by flag; what stands on the command line wins over it.
RECIPE_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "default": {"views": 3},
    "article": {
        "backbone": "efficientnet-b0",
        "input_scaling": "1/255",
        "pooling": "max",
        "views": 0,
        "augment_validation": True,
        "test_per_class": 0,
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

ConfigT = TypeVar("ConfigT")


def parse_arguments(config_class: type[ConfigT], arguments: Sequence[str], *, description: str) -> ConfigT:
    """Build a `config_class` from command-line `arguments`.

    Raises UsageError, in one line, for an unknown flag (the nearest name is offered), a value of
    the wrong type or out of range. `--help` prints and exits with 0, as argparse does.
    """
    parser = _Parser(description=description, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter)
    fields = dict(_fields(config_class))
    for key, field in fields.items():
        _add_flag(parser, key, field)
    found = vars(parser.parse_args(_join_space(arguments) if "space" in fields else list(arguments)))
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in found.items() if value is not None
    }
    defaults = RECIPE_DEFAULTS[str(given.get("recipe", "default"))] if "recipe" in fields else {}
    return build_config(config_class, {**defaults, **given})


def _join_space(arguments: Sequence[str]) -> list[str]:
    """Turn `--space.KNOB DOMAIN`, whatever the knob, into `--space KNOB=DOMAIN`."""
    joined, rest = [], iter(arguments)
    for argument in rest:
        if not argument.startswith("--space."):
            joined.append(argument)
            continue
        name, equals, domain = argument.removeprefix("--space.").partition("=")
        joined += ["--space", f"{name.replace('-', '_')}={domain if equals else next(rest, '')}"]
    return joined


def build_config(config_class: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a checked config from flat `values` such as `{"frozen.epochs": 3}`; the rest keep their defaults.

    Raises UsageError for an unknown name or a value out of range.
    """
    fields = dict(_fields(config_class))
    for key, value in values.items():
        if key not in fields:
            raise UsageError(f"there is no setting {_flag(key)}{_nearest(key, fields)}")
        _check_range(key, value, fields[key])
    return typing.cast(ConfigT, _construct(config_class, values, prefix=""))


def check_knob(config_class: type[Any], key: str, *, flag: str) -> type:
    """Return the type of the knob `key` of `config_class`.

    Raises UsageError, naming `flag` and the nearest knob, where there is none.
    """
    fields = dict(_fields(config_class))
    if key not in fields:
        near = _nearest(key, fields).replace("--", "--space.")
        raise UsageError(f"{flag}: there is no setting {_flag(key).lstrip('-')}{near}")
    return _kind(fields[key])


def convert_knob(config_class: type[Any], key: str, text: str, *, flag: str) -> Any:
    """Return the value that `text` is for the knob `key`, as the command line reads it, checked.

    Raises UsageError, naming `flag`, for a text of another type or a value out of range.
    """
    field = dict(_fields(config_class))[key]
    kind = _kind(field)
    try:
        value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"{flag}: expected {'true or false' if kind is bool else kind.__name__}, found {text!r}"
        ) from error
    _check_range(key, value, field)
    return value


def flatten_config(config: Any, *, identity_only: bool = False) -> dict[str, Any]:
    """Return the knobs of `config` as one flat table, `{"frozen.epochs": 12, …}`."""
    flat = {}
    for key, field in _fields(type(config)):
        if identity_only and not field.metadata["identity"]:
            continue
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        flat[key] = value
    return flat


def command_line(config: Any) -> list[str]:
    """Return the flags that build `config` again, only those that differ from its recipe's defaults."""
    recipe = getattr(config, "recipe", None)
    start = {"recipe": recipe, **RECIPE_DEFAULTS[recipe]} if recipe else {}
    plain = flatten_config(build_config(type(config), start))
    flags: list[str] = [] if recipe in (None, "default") else ["--recipe", recipe]
    for key, value in flatten_config(config).items():
        if value == plain[key]:
            continue
        if isinstance(value, bool):
            flags.append(_flag(key) if value else _flag(key).replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            flags += [part for item in value for part in (_flag(key), item)]
        else:
            flags += [_flag(key), str(value)]
    return flags


def _fields(config_class: type[Any], prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _fields(hints[field.name], prefix=f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def _construct(config_class: type[Any], values: Mapping[str, Any], *, prefix: str) -> Any:
    hints = typing.get_type_hints(config_class)
    arguments = {}
    for field in dataclasses.fields(config_class):
        key = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = _construct(hints[field.name], values, prefix=key + ".")
        elif key in values:
            arguments[field.name] = values[key]
    return config_class(**arguments)


def _kind(field: dataclasses.Field[Any]) -> type:
    return {"int": int, "float": float, "bool": bool, "str": str, "tuple[str, ...]": tuple}[str(field.type)]


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, key: str, field: dataclasses.Field[Any]) -> None:
    shown = "" if field.default in ("", ()) else f" [{field.default}]"
    reason = (field.metadata["reason"] + shown).replace("%", "%%")
    if _kind(field) is bool:
        parser.add_argument(_flag(key), dest=key, action=argparse.BooleanOptionalAction, default=None, help=reason)
    elif _kind(field) is tuple:
        parser.add_argument(_flag(key), dest=key, action="append", default=None, metavar="STR", help=reason)
    else:
        parser.add_argument(_flag(key), dest=key, type=_kind(field), default=None, metavar=_metavar(field), help=reason)


def _metavar(field: dataclasses.Field[Any]) -> str:
    choices = field.metadata["choices"]
    return "{" + ",".join(choices) + "}" if choices else _kind(field).__name__.upper()


def _check_range(key: str, value: Any, field: dataclasses.Field[Any]) -> None:
    low, high, choices = (field.metadata[name] for name in ("low", "high", "choices"))
    if choices and value not in choices:
        near = _nearest(str(value), dict.fromkeys(choices), flag=False)
        raise UsageError(f"{_flag(key)}: expected one of {', '.join(choices)}, found {value!r}{near}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    # A NaN fails both comparisons, so it is refused wherever a bound stands.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UsageError(f"{_flag(key)}: expected a number {bounds}, found {value}")


def _nearest(name: str, known: Mapping[str, Any], *, flag: bool = True) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5 if flag else 0.6)
    return f"; did you mean {_flag(near[0]) if flag else near[0]}?" if near else ""


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line, exit code 2, the nearest flag offered."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = {action.dest: None for action in self._actions}
            name = unknown[0].split("=")[0].lstrip("-").replace("-", "_")
            raise UsageError(f"there is no argument {unknown[0]}{_nearest(name, known)} (--help lists them all)")
        return found

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


# Annotations are strings here; this keeps a union from slipping into a knob unnoticed.
assert not any(isinstance(field.type, types.UnionType) for _, field in _fields(TrainConfig))
