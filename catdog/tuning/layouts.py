"""The feature layouts of a sweep.

Each combination of settings that change features needs a trunk pass, which all trials with these settings share.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.cluster.actors import Shared, share
from catdog.cluster.plan import Plan
from catdog.command_line.settings import build_config, flatten_config
from catdog.config import TrainConfig
from catdog.console import duration, say
from catdog.errors import FailureError, UsageError
from catdog.features.cache import FeatureCache, locate_cache
from catdog.model.backbone_specs import HEAD_CUT
from catdog.model.saved_model import ClassifierSpec
from catdog.model.weights.pretrained import Pretrained, load_weights
from catdog.photos.manifest import AnyManifest
from catdog.training.fit.stage_job import StageJob
from catdog.training.stages import StageLayout, check_cut, class_weights, model_card
from catdog.tuning.space import Space

Values = Mapping[str, Any]

# Of a stage's settings, only these change features. Of all other settings, only _USE_SETTINGS do not.
_FEATURE_SETTINGS = ("epochs", "head", "unfreeze_from")  # a solved head uses other views than a trained one
_USE_SETTINGS = ("dropout", "class_weights", "label_smoothing", "precision")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Model and stages of all trials with the same features.

    `rows` holds the rows of the frozen stage, in Ray's object store.
    """

    spec: ClassifierSpec
    stages: tuple[StageJob, ...]
    card: Mapping[str, Any]
    pretrained: Shared
    rows: Shared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What all trials share. `layouts` is keyed by the values of the settings that change features."""

    base: TrainConfig
    space: Space
    metric: str
    folds: int  # 0: trials are rated on the validation photos
    layouts: Mapping[tuple[Any, ...], Layout]
    run_dir: str
    memory_bytes: int  # of each cache's rows that a trial's process keeps
    class_weights: Mapping[str, tuple[float, ...]]  # by the value of the setting of that name
    plan: Plan  # of one distributed trial

    def config(self, values: Values) -> TrainConfig:
        """Return the settings of the trial with these `values`."""
        return trial_config(self.base, values)

    def layout(self, values: Values) -> Layout:
        """Return the feature layout of the trial with these `values`."""
        return self.layouts[layout_key(self.space, self.base, values)]

    def stage(self, values: Values, name: str) -> StageJob:
        """Return stage `name` of the trial with these `values`, including its settings."""
        stage = next(stage for stage in self.layout(values).stages if stage.name == name)
        return dataclasses.replace(stage, settings=getattr(self.config(values), name))

    def weights_of_classes(self, values: Values) -> tuple[float, ...]:
        """Return the weight of each class in the loss of the trial with these `values`."""
        return self.class_weights[self.config(values).class_weights]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages of every trial, in order."""
        return ("frozen", "unfrozen") if self.base.unfrozen.epochs else ("frozen",)


def trial_config(base: TrainConfig, values: Values) -> TrainConfig:
    """Return the settings of `base`, overridden by a trial's `values`."""
    return build_config(TrainConfig, {**flatten_config(base), **values})


def default_values(base: TrainConfig, space: Space) -> dict[str, Any]:
    """Return trial 0's values for the settings of `space`: the defaults, or what the command line sets."""
    flat = flatten_config(base)
    return {key: flat[key] for key in space}


def layout_settings(space: Space) -> tuple[str, ...]:
    """Return the settings of `space` that change features."""
    return tuple(key for key in space if _changes_features(key))


def _changes_features(key: str) -> bool:
    stage, dot, name = key.partition(".")
    if dot and stage in ("frozen", "unfrozen"):
        return name in _FEATURE_SETTINGS
    return key not in _USE_SETTINGS


def layout_key(space: Space, base: TrainConfig, values: Values) -> tuple[Any, ...]:
    """Return the values of the settings that change features, with defaults for those that a trial lacks."""
    full = {**default_values(base, space), **values}
    return tuple(full[key] for key in layout_settings(space))


def check_layouts(space: Space, base: TrainConfig) -> None:
    """Raise UsageError if a feature-changing setting has a range, or if only some trials have an unfrozen stage."""
    for key in layout_settings(space):
        flag = f"--space.{key.replace('_', '-')}"
        if not space[key].values:
            raise UsageError(f"{flag}: each value needs its own trunk pass; give choice:A,B,… or grid:A,B,…")
        if key == "unfrozen.epochs" and (0 in space[key].values or not base.unfrozen.epochs):
            raise UsageError(f"{flag}: expected all trials to have the unfrozen stage, or none")


def check_effects(space: Space, base: TrainConfig) -> None:
    """Raise UsageError if `space` varies a setting that no trial uses."""
    heads = space["frozen.head"].values if "frozen.head" in space else (base.frozen.head,)
    for key in space:
        stage, _, name = key.rpartition(".")
        reason = ""
        if stage == "unfrozen" and not base.unfrozen.epochs:
            reason = "there is no unfrozen stage; give --unfrozen.epochs too"
        elif key == "frozen.c" and "logistic" not in heads:
            reason = "the head is trained in epochs; give --frozen.head logistic too"
        elif stage == "frozen" and name not in ("c", "head") and "epochs" not in heads:
            reason = "the head is solved as a logistic regression; give --frozen.head epochs too"
        elif key == "dropout" and "epochs" not in heads and not base.unfrozen.epochs:
            reason = "a solved head does not use dropout; give --frozen.head epochs or --unfrozen.epochs too"
        if reason:
            raise UsageError(f"--space.{key.replace('_', '-')}: it would have no effect, because {reason}")


def list_layouts(space: Space, base: TrainConfig, trials: Sequence[Values] | None) -> dict[tuple[Any, ...], Values]:
    """Return the values of the settings that change features, for each layout by its key.

    `trials` has the values of all trials if they are already known. If not, every combination is possible.
    """
    keys = layout_settings(space)
    if trials is None:
        default = layout_key(space, base, {})
        points = [default, *itertools.product(*(space[key].values for key in keys))]
    else:
        points = [layout_key(space, base, values) for values in trials]
    return {point: dict(zip(keys, point, strict=True)) for point in points}


class LayoutBuilder:
    """Runs the trunk passes of a sweep, one for each layout without cached features."""

    def __init__(
        self,
        base: TrainConfig,
        manifest: AnyManifest,
        wanted: Mapping[tuple[Any, ...], Values],
        *,
        root: str,
        folds: int,
        trunk_precision: str,
    ) -> None:
        self._precision = trunk_precision
        self._base, self._manifest, self._root, self._folds = base, manifest, root, folds
        self._weights: dict[tuple[str, str], tuple[Pretrained | None, Shared]] = {}
        self._found = {key: self._prepare(trial_config(base, values)) for key, values in wanted.items()}

    def _prepare(self, config: TrainConfig) -> tuple[TrainConfig, StageLayout]:
        check_cut(config)
        name = (config.backbone, config.weights)
        if name not in self._weights:
            pretrained = load_weights(config.backbone, weights=config.weights)
            self._weights[name] = (pretrained, share(pretrained))
        return config, self._stage_layout(config, self._weights[name][0])

    def _stage_layout(self, config: TrainConfig, pretrained: Pretrained | None) -> StageLayout:
        return StageLayout(config, self._manifest, pretrained, root=self._root, trunk_precision=self._precision)

    def count_images(self) -> list[int]:
        """Return how many images each trunk pass has to process. A layout with cached features needs no pass."""
        counts, seen = [], set()
        for _, layout in self._found.values():
            rows: dict[tuple[str, tuple[int, ...]], int] = {}
            for extraction, photos in layout.wanted(plain=self._folds > 0):
                cache = locate_cache(extraction, photos, root=self._root)
                if cache.directory not in seen and not cache.is_finished():
                    seen.add(cache.directory)
                    rows[photos.fingerprint, photos.views] = photos.rows  # cuts of the same photos share a pass
            if rows:
                counts.append(sum(rows.values()))
        return counts

    def build(self, plan: Plan) -> dict[tuple[Any, ...], Layout]:
        """Run the trunk passes, and return the layouts with their frozen stage's rows in Ray's object store."""
        images = self.count_images()
        if len(images) > 1:
            say(f"{len(images)} trunk passes, one for each combination of settings: {sum(images):,} images in total.")
        layouts, done, start = {}, 0, time.monotonic()
        for key, (config, stages) in self._found.items():
            computed = stages.extract(plan, plain=self._folds > 0)
            done += bool(computed)
            if computed and done == 1 and len(images) > 1:
                rate = images[0] / (time.monotonic() - start)
                rest = duration(sum(images[1:]) / rate)
                say(f"The other {len(images) - 1} passes: about {rest} at {rate:.0f} images/s.")
            layouts[key] = self._finish(config, stages)
        say(f"Features ready after {duration(time.monotonic() - start)}.")
        return layouts

    def _finish(self, config: TrainConfig, stages: StageLayout) -> Layout:
        from catdog.tuning.trials.cross_validation import assign_folds
        from catdog.tuning.trials.frozen import read_rows

        pretrained, shared = self._weights[config.backbone, config.weights]
        ready = stages.stages()
        frozen = next(stage for stage in ready if stage.cut == HEAD_CUT)
        for stage in ready:
            if not isinstance(stage.train, FeatureCache):
                raise FailureError("the trials of a sweep need cached features: give a larger --cache-budget-gib")
        rows = read_rows(frozen.train, frozen.validation, stages.plain_train() if self._folds else None)
        if self._folds:
            fold_of = assign_folds(rows.labels, folds=self._folds, seed=config.seed)
            rows = dataclasses.replace(rows, fold_of=fold_of)
        return Layout(
            spec=stages.spec,
            stages=ready,
            card=model_card(config, self._manifest, pretrained),
            pretrained=shared,
            rows=share(rows),
        )


def class_weight_table(base: TrainConfig, manifest: AnyManifest) -> dict[str, tuple[float, ...]]:
    """Return the class weights for each value of the setting --class-weights."""
    names = ("auto", "balanced", "none")
    return {name: class_weights(dataclasses.replace(base, class_weights=name), manifest) for name in names}
