"""The stages of a training: the photos, views and caches that each one reads, and the content of the model card."""

from __future__ import annotations

import datetime
import functools
from typing import Any

from catdog.cluster.plan import Plan
from catdog.command_line.settings import flatten_config
from catdog.config import FrozenStageConfig, StageConfig, TrainConfig
from catdog.console import ProgressLine, counted, say
from catdog.errors import UsageError
from catdog.features.cache import FeatureCache, locate_cache
from catdog.features.extract import extract_features
from catdog.features.rows import StreamSource
from catdog.features.spec import PLAIN_VIEW, Extraction, PhotoSet, feature_bytes
from catdog.model.backbone_specs import HEAD_CUT, INPUT_CUT, SYMMETRIC_SCALING, UNIT_SCALING, Scaling, backbone_spec
from catdog.model.saved_model import SMALLEST_IMAGE, ClassifierSpec
from catdog.model.weights.pretrained import Pretrained
from catdog.photos.decoding.framing import Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.manifest import AnyManifest
from catdog.photos.sharded.summary import UNEVEN_RATIO
from catdog.storage.artifacts import versions
from catdog.training.fit.stage_job import StageJob, TrainJob

# Views of each photo for a solved head if --views is 0: it has no epochs, each of which would take a fresh view.
_VIEWS_OF_HEAD = 2


class StageLayout:
    """What each stage reads: the photos, their views, the cut, and whether the features are cached or streamed."""

    def __init__(
        self,
        config: TrainConfig,
        manifest: AnyManifest,
        pretrained: Pretrained | None,
        *,
        root: str,
        trunk_precision: str = "float32",
    ) -> None:
        self._config, self._manifest, self._pretrained, self._root = config, manifest, pretrained, root
        self._trunk_precision = trunk_precision
        self.spec = ClassifierSpec(
            backbone=config.backbone,
            image_size=config.image_size or backbone_spec(config.backbone).image_size,
            classes=manifest.classes,
            pooling=config.pooling,
            dropout=config.dropout,
            scaling=_input_scaling(config, pretrained),
            framing=Framing(resize=config.resize, resampling=config.resampling),
        )
        self._splits = {split: manifest.photos(split) for split in ("train", "validation", "test")}
        self._photo_sets: dict[tuple[str, tuple[int, ...]], PhotoSet] = {}  # each computes its fingerprint once
        self._stages: list[tuple[str, StageConfig, str]] = [("frozen", config.frozen, HEAD_CUT)]
        if config.unfrozen.epochs:
            self._stages.append(("unfrozen", config.unfrozen, config.unfrozen.unfreeze_from))

    def train_job(self, plan: Plan, *, run_dir: str) -> TrainJob:
        """Return the train job for the workers."""
        config = self._config
        return TrainJob(
            run_dir=run_dir,
            spec=self.spec,
            seed=config.seed,
            stages=self.stages(),
            card=model_card(config, self._manifest, self._pretrained),
            plan=plan,
            class_weights=class_weights(config, self._manifest),
            precision=config.precision,
            explain=True,
            limits=DecodeLimits(max_pixels=config.max_pixels),
        )

    def wanted(self, *, plain: bool = False) -> list[tuple[Extraction, PhotoSet]]:
        """Return the extraction and the photos of each cache that the stages read.

        With `plain`, this includes the unaugmented training photos at the head cut.
        """
        wanted = []
        for _, settings, cut in self._stages:
            for split in ("train", "validation", "test"):
                photos = self._photos(split, settings)
                if photos.photos.count and not (split == "train" and self._is_streamed(settings, cut)):
                    wanted.append((self._extraction(cut), photos))
        if plain and self._is_augmented():
            wanted.append((self._extraction(HEAD_CUT), self._plain_photos()))
        return wanted

    def plain_train(self) -> FeatureCache:
        """Return the cache at the head cut whose first view is unaugmented photos; `extract` with `plain` makes it."""
        photos = self._plain_photos() if self._is_augmented() else self._photos("train", self._config.frozen)
        return locate_cache(self._extraction(HEAD_CUT), photos, root=self._root)

    def _plain_photos(self) -> PhotoSet:
        return self._photo_set("train", (PLAIN_VIEW,))

    def _is_augmented(self) -> bool:
        """Return whether the first view of a training photo differs from the photo itself."""
        ranges = self._config.augmentation
        changes = (ranges.rotation_degrees, ranges.width_shift_fraction, ranges.height_shift_fraction)
        return any((*changes, ranges.shear_degrees, ranges.zoom_fraction, ranges.horizontal_flip))

    def extract(self, plan: Plan, *, plain: bool = False) -> int:
        """Run the trunk pass for everything in `wanted` that is not cached; return how many rows it computed."""
        wanted = self.wanted(plain=plain)
        for name, settings, cut in self._stages:
            if self._is_streamed(settings, cut):
                size = self._train_bytes(settings, cut) / 2**30
                say(
                    f"The {name} stage streams its features: {size:.1f} GiB are more than "
                    f"--cache-budget-gib {self._config.cache_budget_gib:g}."
                )
        progress = ProgressLine("Trunk pass", "images")
        done = [0]

        def follow(now: int, total: int) -> None:
            done[0] = total
            progress(now, total)

        unreadable = extract_features(wanted, pretrained=self._pretrained, plan=plan, root=self._root, progress=follow)
        if unreadable:
            count = counted(len(unreadable), "photo")
            say(f"Skipped {count} that changed since ingest or can no longer be read, such as {unreadable[0]}")
        return done[0]

    def stages(self) -> tuple[StageJob, ...]:
        """Return the stages; their caches are complete only after `extract` has finished."""
        return tuple(
            StageJob(
                name=name,
                settings=settings,
                cut=cut,
                train=self._train_rows(settings, cut),
                validation=self._cache("validation", settings, cut),
                test=self._cache("test", settings, cut) if self._splits["test"].count else None,
            )
            for name, settings, cut in self._stages
        )

    def _train_rows(self, settings: StageConfig, cut: str) -> FeatureCache | StreamSource:
        if not self._is_streamed(settings, cut):
            return self._cache("train", settings, cut)
        photos = self._photos("train", settings)
        return StreamSource(photos=photos.photos, views=photos.views, extraction=self._extraction(cut))

    def _cache(self, split: str, settings: StageConfig, cut: str) -> FeatureCache:
        return locate_cache(self._extraction(cut), self._photos(split, settings), root=self._root)

    def _photos(self, split: str, settings: StageConfig) -> PhotoSet:
        views: tuple[int, ...] = (PLAIN_VIEW,)
        if split == "train":
            views = tuple(range(1, 1 + self._view_count(settings)))
        elif split == "validation" and self._config.augment_validation:
            views = (1,)
        return self._photo_set(split, views)

    def _photo_set(self, split: str, views: tuple[int, ...]) -> PhotoSet:
        if (split, views) not in self._photo_sets:
            self._photo_sets[split, views] = PhotoSet(photos=self._splits[split], views=views)
        return self._photo_sets[split, views]

    def _view_count(self, settings: StageConfig) -> int:
        if isinstance(settings, FrozenStageConfig) and settings.head == "logistic":
            return self._config.views or _VIEWS_OF_HEAD
        return min(self._config.views or settings.epochs, max(1, settings.epochs))

    def _is_streamed(self, settings: StageConfig, cut: str) -> bool:
        return self._train_bytes(settings, cut) > self._config.cache_budget_gib * 2**30

    def _train_bytes(self, settings: StageConfig, cut: str) -> int:
        photos = self._photos("train", settings)
        return feature_bytes(photos, shape=_cut_shape(self.spec, cut), dtype=self._dtype(cut))

    def _dtype(self, cut: str) -> str:
        return "uint8" if cut == INPUT_CUT else self._config.feature_dtype

    def _extraction(self, cut: str) -> Extraction:
        config = self._config
        return Extraction(
            backbone=config.backbone,
            image_size=self.spec.image_size,
            scaling=self.spec.scaling,
            framing=self.spec.framing,
            pooling=config.pooling if cut == HEAD_CUT else None,
            weights_checksum=self._pretrained.checksum if self._pretrained else "none",
            cut=cut,
            dtype=self._dtype(cut),
            seed=config.seed,
            limits=DecodeLimits(max_pixels=config.max_pixels),
            precision=self._trunk_precision,
            augmentation=config.augmentation,
        )


def class_weights(config: TrainConfig, manifest: AnyManifest) -> tuple[float, ...]:
    """Return the weight of each class in the training loss, N / (K * its photos), or () if all count the same."""
    counts = [manifest.counts()["train"][name] for name in manifest.classes]
    balanced = config.class_weights == "balanced"
    if config.class_weights == "auto":
        balanced = max(counts) > UNEVEN_RATIO * min(counts)
    return tuple(sum(counts) / (len(counts) * count) for count in counts) if balanced else ()


def _input_scaling(config: TrainConfig, pretrained: Pretrained | None) -> Scaling:
    asked = {"1/255": UNIT_SCALING, "-1..1": SYMMETRIC_SCALING}
    if config.input_scaling in asked:
        return asked[config.input_scaling]
    return pretrained.scaling if pretrained else UNIT_SCALING


def _cut_shape(spec: ClassifierSpec, cut: str) -> tuple[int, ...]:
    """Return the shape of one feature at `cut`; a cut of unknown shape requires importing TensorFlow.

    Raises UsageError if the classifier cannot be cut there.
    """
    known = backbone_spec(spec.backbone).cut_shapes(spec.image_size)
    return known[cut] if cut in known else _built_shape(spec, cut)


@functools.lru_cache(maxsize=8)
def _built_shape(spec: ClassifierSpec, cut: str) -> tuple[int, ...]:
    from catdog.model import classifier as model

    trunk, _ = model.split_at(model.build_classifier(spec), cut)
    return tuple(trunk.output.shape[1:])


def check_cut(config: TrainConfig) -> None:
    """Raise UsageError for a wrong --unfrozen.unfreeze-from or --image-size before any photo is read."""
    if 0 < config.image_size < SMALLEST_IMAGE:
        raise UsageError(f"--image-size: expected 0 or at least {SMALLEST_IMAGE} pixels, found {config.image_size}")
    plain = ClassifierSpec(
        backbone=config.backbone,
        image_size=config.image_size or backbone_spec(config.backbone).image_size,
        classes=("one", "other"),
        pooling=config.pooling,
        dropout=config.dropout,
        scaling=UNIT_SCALING,
    )
    _cut_shape(plain, config.unfrozen.unfreeze_from)


def stage_batches(config: TrainConfig) -> dict[str, int]:
    """Return the global batch size of each stage that `config` trains in epochs."""
    stages: dict[str, StageConfig] = {"frozen": config.frozen, "unfrozen": config.unfrozen}
    if config.frozen.head == "logistic":
        del stages["frozen"]
    return {name: stage.global_batch_size for name, stage in stages.items() if stage.epochs}


def model_card(config: TrainConfig, manifest: AnyManifest, pretrained: Pretrained | None) -> dict[str, Any]:
    """Return the content of the model card, except for how to build the model."""
    return {
        "config": flatten_config(config, identity_only=True),
        "counts": manifest.counts(),
        "weights": {
            "source": pretrained.source if pretrained else "none",
            "checksum": pretrained.checksum if pretrained else None,
            "license": pretrained.license if pretrained else None,
        },
        "versions": versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
