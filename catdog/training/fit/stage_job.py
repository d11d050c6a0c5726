"""The description of a train job that every worker gets: its stages with their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from catdog.cluster.plan import Plan
from catdog.config import FrozenStageConfig, StageConfig
from catdog.features.cache import FeatureCache
from catdog.features.rows import StreamSource
from catdog.model.saved_model import ClassifierSpec
from catdog.photos.decoding.limits import DEFAULT_LIMITS, DecodeLimits


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageJob:
    """One stage: its name (also that of its directory), settings, cut and rows; caches may not be finished yet."""

    name: str
    settings: StageConfig
    cut: str
    train: FeatureCache | StreamSource
    validation: FeatureCache
    test: FeatureCache | None

    @property
    def is_logistic(self) -> bool:
        """Whether the stage solves its head instead of training in epochs."""
        return isinstance(self.settings, FrozenStageConfig) and self.settings.head == "logistic"

    @property
    def epochs(self) -> int:
        """The maximum number of epochs, as shown to the user: a head that is solved takes one."""
        return 1 if self.is_logistic else self.settings.epochs

    def is_ready(self) -> bool:
        """Return whether the trunk pass has finished every cache of the stage."""
        caches = (self.train, self.validation, self.test)
        return all(cache.is_finished() for cache in caches if isinstance(cache, FeatureCache))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What the workers of one trainer do: the stages in order, their common settings, the rest of the model card."""

    run_dir: str
    spec: ClassifierSpec
    seed: int
    stages: tuple[StageJob, ...]
    card: Mapping[str, Any]
    plan: Plan
    class_weights: tuple[float, ...] = ()  # of each class in the loss; if empty, all count the same
    precision: str = "auto"
    explain: bool = False  # write heatmaps for the worst errors of the best model
    limits: DecodeLimits = DEFAULT_LIMITS
