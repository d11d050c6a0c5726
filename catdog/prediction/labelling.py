"""The labelling pass: any photos to prediction rows, part by part, over the whole cluster.

    inputs --read, decode (tasks)--> image blocks --model (a pool of actors)--> Parquet parts

An actor writes each part itself, so a job that was killed at any moment resumes with the parts that are missing. A
photo that kills the process which decodes it is found out at the second try, and becomes an error row.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import avoid_fusion, count_tries, map_in_actors, map_in_tasks, share
from catdog.cluster.failures import root_cause
from catdog.cluster.plan import Plan
from catdog.console import Progress
from catdog.errors import CatdogError, FailureError, ImageError
from catdog.model.engines import Engine
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.framing import SQUASH, Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.isolation import decode_each
from catdog.photos.sources.reading import read_each
from catdog.prediction.results.parts import Part, finished_parts, write_prediction_part
from catdog.prediction.results.rows import LabelRule, build_rows

Decode = Callable[..., np.ndarray]
_RESUME = "; run the same command to resume"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How photos become images; `decode` is decode.decode_image, or a test's own."""

    image_size: int
    framing: Framing = SQUASH
    limits: DecodeLimits
    decode: Decode = decode_image


def photos_per_part(photos: int) -> int:
    """Return how many photos a part has: enough parts to share out and to lose little by a kill, none too small.

    Ray Data takes some 40 ms of two cores for a part, whatever is in it: a tenth of the time of 32 photos.
    """
    return min(256, max(32, photos // 24))


def label_photos(
    inputs: pa.Table,
    parts: Sequence[Part],
    *,
    out: str,
    rule: LabelRule,
    engines: Sequence[Any],
    decoding: Decoding,
    plan: Plan,
    progress: Progress,
    tta: str = "none",
) -> None:
    """Write those of `parts`, of the photos `inputs` (inputs.INPUTS), that are not below `out` yet.

    `engines` are engines.EngineSpec, one for each model; `tta` as with_augmentation takes it.
    `progress` is called with (photos done, photos in all); both count those of earlier commands.
    Raises FailureError when the pass fails; the parts written so far remain.
    """
    present = finished_parts(out)
    missing = [part for part in parts if part.name not in present]
    total = inputs.num_rows
    done = total - sum(part.rows for part in missing)
    progress(done, total)
    if not missing:
        return
    blocks = [_block(inputs, part) for part in missing]
    settings = {
        "engines": share(list(engines)),
        "out": out,
        "rule": rule,
        "tta": tta,
        "batch_size": plan.batch_size,
        "threads": plan.threads,
    }
    try:
        for batch in _pipeline(blocks, settings, decoding=decoding, plan=plan):
            done += int(batch["rows"].sum())
            progress(done, total)
    except CatdogError:
        raise
    except Exception as error:  # Ray wraps what a task raised in classes of its own
        cause = root_cause(error).removesuffix(_RESUME)
        raise FailureError(f"labelling failed: {cause}{_RESUME}") from error


def _pipeline(blocks: list[pa.Table], settings: dict[str, Any], *, decoding: Decoding, plan: Plan) -> Any:
    import ray

    def read_block(block: pa.Table) -> dict[str, np.ndarray]:
        return load_block(block, decoding)

    photos = ray.data.from_arrow(blocks)
    images = map_in_tasks(photos, read_block, batch_format="pyarrow", num_cpus=plan.task_cpus)
    written = map_in_actors(
        images,
        PartWriter,
        settings,
        name="model actor",
        actors=min(plan.actors, len(blocks)),
        num_cpus=avoid_fusion(plan.actor_cpus, plan.task_cpus),
        num_gpus=plan.actor_gpus,
    )
    return written.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)


def _block(inputs: pa.Table, part: Part) -> pa.Table:
    rows = inputs.slice(part.start, part.rows).combine_chunks()
    return rows.append_column("part", pa.array([part.name] * part.rows, pa.string()))


# Decoding


def load_block(block: pa.Table, decoding: Decoding) -> dict[str, np.ndarray]:
    """Read and decode the photos of one part.

    Columns: path, error ("" or "code: message"), image (S, S, 3) uint8, part, retried. A photo that kills its process,
    or is never decoded to its end, is an error as decode_each finds it out.
    """
    tries = count_tries(block["part"][0].as_py())
    size, paths = decoding.image_size, block["path"].to_pylist()
    images = np.zeros((len(paths), size, size, 3), np.uint8)
    errors = np.full(len(paths), "", object)
    retried = np.zeros(len(paths), bool)
    for index, found in enumerate(_load(block, decoding, tries=tries)):
        retried[index] = found.retried
        if isinstance(found.image, ImageError):
            errors[index] = str(found.image)
        else:
            images[index] = found.image
    return {
        "path": np.array(paths, object),
        "error": errors,
        "image": images,
        "part": np.array(block["part"].to_pylist(), object),
        "retried": retried,
    }


@dataclasses.dataclass(frozen=True)
class _Loaded:
    image: np.ndarray | ImageError
    retried: bool


def _load(block: pa.Table, decoding: Decoding, *, tries: int = 0) -> Iterator[_Loaded]:
    """Yield a _Loaded for each photo of `block`; `tries` as decode_each takes it."""
    size, framing, limits = decoding.image_size, decoding.framing, decoding.limits
    retried: list[bool] = []

    def contents() -> Iterator[bytes | ImageError]:
        for photo in read_each(block):
            retried.append(photo.retried)
            yield photo.content

    def decode(content: bytes) -> np.ndarray:
        return decoding.decode(content, size=size, framing=framing, limits=limits)

    for image in decode_each(contents(), decode, seconds=limits.max_seconds, tries=tries):
        yield _Loaded(image, retried[-1])


class PartWriter:
    """A model actor: image blocks in, one Parquet part of prediction rows out for each."""

    def __init__(self, *, engines: Any, out: str, rule: LabelRule, tta: str, batch_size: int, threads: int) -> None:
        loaded = [spec.load(batch_size=batch_size, threads=threads) for spec in engines.get()]
        self._models = [with_augmentation(model, tta) for model in loaded]
        self._out, self._rule = out, rule
        self._one_by_one = threading.Lock()

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Label and write one part; return how many rows it has."""
        count_tries(str(block["part"][0]))
        good = block["error"] == ""
        images = block["image"] if good.all() else block["image"][good]
        with self._one_by_one:
            found = [model(images) for model in self._models]
        rows = build_rows(block["path"].tolist(), block["error"].tolist(), found, self._rule)
        write_prediction_part(self._out, str(block["part"][0]), rows, retried=int(block["retried"].sum()))
        return {"rows": np.array([len(good)])}


def with_augmentation(model: Engine, tta: str) -> Engine:
    """Return `model` with test-time augmentation: `flip` is the mean over an image and its mirror image.

    `none` is the model itself. Both probabilities are those of the same network, so their mean adds up to 1 as well.
    """
    if tta == "none":
        return model

    def run(images: np.ndarray) -> np.ndarray:
        mirrored = np.ascontiguousarray(images[:, :, ::-1])
        return np.asarray((model(images) + model(mirrored)) / 2, np.float32)

    return run
