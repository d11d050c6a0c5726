"""The request of one predict command, and what its steps share: the models, the listed photos, the cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pyarrow import fs

from catdog.cluster.actors import Map, map_in_order
from catdog.cluster.connection import connected
from catdog.cluster.failures import report_failures
from catdog.cluster.plan import Plan, make_predict_plan, usable_gpus
from catdog.cluster.resources import Resources
from catdog.cluster.shared_paths import check_shared
from catdog.command_line.settings import flatten_config
from catdog.config import PredictConfig
from catdog.console import counted, say
from catdog.errors import UsageError
from catdog.model.engines import ModelBytes, read_model
from catdog.model.imagenet_model import imagenet_model
from catdog.model.saved_model import ClassifierSpec
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sources.containers.archives import archive_kind
from catdog.photos.sources.containers.packed import MorePhotosError
from catdog.photos.sources.containers.tables import SUFFIX as TABLE_SUFFIX
from catdog.photos.sources.containers.tables import TableColumns
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.keys import as_key
from catdog.photos.sources.listing.lists import SUFFIXES as LIST_SUFFIXES
from catdog.photos.sources.listing.packed_tasks import list_many
from catdog.photos.sources.listing.shards import MAX_IN_ONE_PROCESS, SetDigest, Shard, cut_into_shards
from catdog.photos.sources.opening import look_at_source
from catdog.prediction import output
from catdog.prediction.results.parts import photos_per_part
from catdog.prediction.results.rows import LabelRule
from catdog.prediction.truth import Truth, find_truth
from catdog.storage import files
from catdog.storage.schemas import UNSURE


def is_one_photo(config: PredictConfig) -> bool:
    """Return whether the job is one photo, a local file or a URI, whose label is only printed."""
    if config.out or config.sort_into or not config.photos:
        return False
    key = as_key(files.absolute(config.photos))
    name = files.split_query(key)[0].lower()
    if name.endswith((*LIST_SUFFIXES, TABLE_SUFFIX)) or archive_kind(name):
        return False
    return bool(look_at_source(key)[0] == fs.FileType.File)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What one command asks for: its settings, its models, the rule for rows, and `out`, an absolute path or a URI."""

    config: PredictConfig
    out: str
    paths: tuple[str, ...]  # of the models
    models: tuple[ModelBytes, ...]
    rule: LabelRule

    @property
    def spec(self) -> ClassifierSpec:
        """The spec that rows need, on which all models agree."""
        return self.models[0].spec

    @property
    def where(self) -> str:
        """The folder of the committed predictions."""
        return files.join(self.out, "predictions")

    @property
    def limits(self) -> DecodeLimits:
        """What decoding a photo may cost."""
        return DecodeLimits(max_pixels=self.config.max_pixels)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the rows, except which photos are found."""
        settings = flatten_config(self.config, identity_only=True)
        photos, models = files.absolute(self.config.photos), [model.fingerprint for model in self.models]
        return {**settings, "threshold": self.rule.threshold, "photos": photos, "model": models}


def read_request(config: PredictConfig) -> Request:
    """Read the models that `config` names and check that the settings fit them.

    Raises UsageError that names what is missing or does not fit.
    """
    if not config.photos:
        raise UsageError(
            "expected --photos, what to label: a folder, glob, photo, zip, .txt of paths, .parquet, or URI"
        )
    if len(config.model) > 2:
        raise UsageError(f"expected --model once, or twice to compare two models, found it {len(config.model)} times")
    out = files.absolute(config.out or output.default_out(config.photos))
    files.require_bucket(out, flag="--out")
    paths = config.model or (imagenet_model(),)
    models = tuple(read_model(directory, precision=config.precision) for directory in paths)
    _check_models(models, config)
    first, threshold = models[0], config.threshold or models[0].threshold
    rule = LabelRule(
        classes=first.spec.classes,
        threshold=threshold,
        top_k=config.top_k,
        models=len(models),
        names_top=config.top_k > 1 and threshold > 0,
        rest=first.rest,
    )
    return Request(config=config, out=out, paths=paths, models=models, rule=rule)


def say_models(request: Request) -> None:
    """Print what the user must know about the models before trusting their labels."""
    if not request.config.model:
        spec, rule = request.spec, request.rule
        said = f", below {rule.threshold:g} `{UNSURE}`" if rule.threshold else ""
        say(f"No --model: {spec.backbone} distinguishes {' from '.join(rule.labels)} by its ImageNet classes{said}.")
    for path, model in zip(request.paths, request.models, strict=True):
        if model.drawn:
            say(f"Warning: {path} was trained on the sample of drawn pictures: do not trust its labels of real photos.")


def _check_models(models: Sequence[ModelBytes], config: PredictConfig) -> None:
    """Raise UsageError if two models do not fit together, or if the settings do not fit the classes."""
    first, last = models[0].spec, models[-1].spec
    same_images = (first.image_size, first.framing) == (last.image_size, last.framing)
    if models[0].rest != models[-1].rest or first.classes != last.classes or not same_images:
        raise UsageError(
            f"two models are compared on the same classes and image size, found {', '.join(first.classes)} at "
            f"{first.image_size} and {', '.join(last.classes)} at {last.image_size}: give models that fit together"
        )
    labels = len(first.classes) - (models[0].rest != "")
    if config.top_k > labels:
        raise UsageError(f"--top-k {config.top_k}: expected at most {labels}, the classes of the model")
    if config.threshold and UNSURE in first.classes:
        raise UsageError(
            f"--threshold: the model has a class called {UNSURE}, whose rows could not be distinguished from unsure "
            "ones: leave the flag out"
        )


class Inputs:
    """The photos to label, listed once, when they are first needed.

    If there are many, Ray tasks list them into `OUT/inputs.*.part`.
    """

    def __init__(self, request: Request) -> None:
        config = request.config
        self._source, self._out = config.photos, request.out
        # The output of this job and of earlier ones may lie inside the folder of the photos.
        into = {files.absolute(config.sort_into)} if config.sort_into else set()
        self.exclude = sorted(into.union(output.read_job(request.out).get("exclude", [])))
        self._columns = TableColumns(content=config.bytes_column, name=config.name_column)
        self._shards = list[Shard]()
        self._more: MorePhotosError | None = None  # set if there are more than one process should list
        self._truth: Truth | None = None
        self.seconds, self.listed_at = 0.0, 0.0  # the duration of the listing, and its end by time.monotonic()

    def are_many(self) -> bool:
        """Return whether there are more photos than this process should list; if so, `list_by_tasks` must be called."""
        if not self.listed and not self._more:
            start, exclude = time.monotonic(), [self._out, *self.exclude]
            try:
                table = list_inputs(self._source, exclude=exclude, columns=self._columns, at_most=MAX_IN_ONE_PROCESS)
                self._shards = cut_into_shards(table)
            except MorePhotosError as error:
                self._more = error.with_traceback(None)  # a traceback would keep the discarded listing alive
            self._say_found(start)
        return self._more is not None

    def list_by_tasks(self, *, place: str, num_cpus: float) -> None:
        """List the photos into shards below `place`, by Ray tasks that reserve `num_cpus` each."""
        start, exclude = time.monotonic(), [self._out, *self.exclude]
        if self._more:
            self._shards = list_many(self._more, exclude=exclude, shards=place, num_cpus=num_cpus)
        self._say_found(start)

    def _say_found(self, start: float) -> None:
        self.listed_at = time.monotonic()
        self.seconds += self.listed_at - start
        if self._shards:
            say(f"Found {counted(self.digest.files, 'file')} in {self._source}.")

    @property
    def shards(self) -> list[Shard]:
        """The photos, in shards."""
        if not self.are_many() or self._shards:
            return self._shards
        raise RuntimeError("many photos, which were not listed by tasks")

    @cached_property
    def digest(self) -> SetDigest:
        """The digest that identifies the set of photos."""
        return SetDigest.total(shard.digest for shard in self.shards)

    @property
    def photos_per_part(self) -> int:
        """The number of photos in a part."""
        return photos_per_part(self.digest.files)

    def truth(self, *, classes: Sequence[str], mapped: Map) -> Truth:
        """Return where the true label of each photo, one of `classes`, is found; this is decided once.

        Raises UsageError as find_truth does.
        """
        if self._truth is None:
            self._truth = find_truth(self.shards, classes=classes, source=self._source, mapped=mapped)
        return self._truth

    @property
    def listed(self) -> bool:
        """Whether the photos were listed, because a step of this command needed them."""
        return bool(self._shards)


class Cluster(contextlib.ExitStack):
    """The Ray cluster, started or joined by the first step that needs it and shared by all steps."""

    def __init__(self, config: PredictConfig) -> None:
        super().__init__()
        self._config = config

    @cached_property
    def _resources(self) -> Resources:
        resources = self.enter_context(connected(verbose=self._config.verbose))
        self.enter_context(report_failures())
        return resources

    def mapped(self, photos: int) -> Map:
        """Return the Map for this number of photos: it runs Ray tasks for many, and calls in this process for few."""
        if photos <= MAX_IN_ONE_PROCESS:
            return itertools.starmap
        return lambda function, calls: map_in_order(function, calls, num_cpus=self.plan().task_cpus)

    def shared(self, shards: Sequence[Shard], mapped: Map) -> Sequence[Shard]:
        """Return `shards` in a form that `mapped` can take repeatedly: for Ray tasks, in the object store."""
        if mapped is not itertools.starmap:
            self.plan()  # connects to Ray, whose object store will hold them
            shards = [shard.shared() for shard in shards]
        return shards

    def gpus(self) -> int:
        """Return how many GPUs the job can use."""
        return usable_gpus(self._resources, self._config.cluster.use_gpu)

    def check_shared(self, *, written: Mapping[str, str], read: Mapping[str, str]) -> None:
        """Check the local paths as shared_paths.check_shared does, which needs a connection."""
        self.plan()  # connects to Ray
        check_shared(written=written, read=read)

    def is_single_node(self) -> bool:
        """Return whether all work runs on this machine."""
        return self._resources.is_single_node

    def plan(self) -> Plan:
        """Return the resources that the job requests from the cluster."""
        return make_predict_plan(self._resources, self._config.cluster, gpus=self.gpus())
