"""Several Parquet files or tars, as datasets are published, and what is in the tars.

Of more photos than one process is to list, nothing more is read here: packed_tasks.py lists them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from catdog.console import counted, say
from catdog.errors import FailureError, UsageError, one_line
from catdog.photos.annotations.layouts.split_names import splits_of_names
from catdog.photos.sources.containers.archives import list_members, shard_set
from catdog.photos.sources.containers.tables import TableColumns, count_rows
from catdog.photos.sources.keys import Photo, escape_uri
from catdog.photos.sources.opening import size_of
from catdog.storage.files import is_uri, split_query
from catdog.storage.outages import wait_out

_MOST_BYTES_PER_PHOTO = 2**18  # tars of more for each are not even opened: 25 GB of them for 100,000 photos

_FOOTERS_AT_ONCE = 16  # an object store takes its time for each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """Parquet files or tars, in the order in which their photos are labelled.

    The `relative` of a tar is the name of the folder that its photos lie in, where `around`: it is None where they do
    as long as there is no other folder in any of the tars.
    """

    source: str  # as a person named it
    files: tuple[Photo, ...]
    columns: TableColumns | None = None  # of Parquet files; None for tars
    around: bool | None = False
    globbed: bool = False  # each tar was meant, so none may be empty

    def place(self, photo: Photo, tar: Photo, *, around: bool) -> Photo:
        """Return a photo of `tar` as it lies in the source."""
        return photo._replace(relative=f"{tar.relative}/{photo.relative}") if around else photo

    def say_found(self, photos: int) -> None:
        """Say how many photos are in the tars of a folder."""
        if self.columns is None and not self.globbed:
            say(f"{counted(len(self.files), 'archive')}, {counted(photos, 'photo')} in them.")


class MorePhotosError(Exception):
    """A source has more photos than one process is to list: packed_tasks.list_many does."""


class MorePackedError(MorePhotosError):
    """Parquet files or tars, `packed`, have more photos than one process is to list."""

    def __init__(self, packed: Packed) -> None:
        super().__init__(packed.source)
        self.packed = packed


def are_more_rows(paths: Sequence[str], *, at_most: int) -> bool:
    """Tell whether the Parquet files at `paths` have more than `at_most` rows in all; footers alone are read.

    A file that cannot be read counts as none: whoever lists it says so.
    """
    total = 0
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        for rows in pool.map(count_rows, paths):
            total += rows
            if total > at_most:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    return total > at_most


def tars_of_folder(source: str, tars: Sequence[Photo]) -> Packed:
    """Return the tars of a folder, such as WebDataset's shards, by path.

    The name of an archive is a folder around its photos where it is that of a split, or where there is no other folder:
    train.tar beside test.tar, cat.tar beside dog.tar.
    """
    names = {shard_set(tar.relative) for tar in tars}
    are_splits = splits_of_names(names).keys() == names
    files = sorted((tar._replace(relative=shard_set(tar.relative)) for tar in tars), key=lambda tar: _begin(tar.path))
    around = (True if are_splits else None) if len(names) > 1 else False
    return Packed(source=source, files=tuple(files), around=around)


def _begin(tar: str) -> str:
    """Return what the keys of all photos in a tar begin with."""
    return f"{split_query(tar)[0]}!"


def list_tars(packed: Packed, *, at_most: int | None = None) -> list[Photo]:
    """Return the photos in tars, by path.

    Raises MorePackedError for several of them that have, or by what the first ones hold seem to have, more than
    `at_most`; and what `photos_in` raises.
    """
    sizes = [max(1, size_of(tar.version)) for tar in packed.files]
    total = sum(sizes)
    if len(sizes) == 1 or _are_mixed(packed):
        at_most = None
    if at_most is not None and total > at_most * _MOST_BYTES_PER_PHOTO:
        raise MorePackedError(packed)
    found, tars, read, in_folders = list[Photo](), list[Photo](), 0, False
    for tar, size in zip(packed.files, sizes, strict=True):
        inside = photos_in(tar.path, globbed=packed.globbed)
        found += inside
        tars += [tar] * len(inside)
        read += size
        in_folders = in_folders or any("/" in photo.relative for photo in inside)
        if at_most is not None and len(found) * total > at_most * read:
            around = False if packed.around is None and in_folders else packed.around
            raise MorePackedError(dataclasses.replace(packed, around=around))
    around = not in_folders if packed.around is None else packed.around
    packed.say_found(len(found))
    found = [packed.place(photo, tar, around=around) for photo, tar in zip(found, tars, strict=True)]
    return found if packed.globbed else sorted(found)


def _are_mixed(packed: Packed) -> bool:
    """Tell whether keys of one tar of a folder stand between those of another: `x.tar` beside `x.tar!y.tar`."""
    begins = [_begin(tar.path) for tar in packed.files]
    return not packed.globbed and any(after.startswith(before) for before, after in itertools.pairwise(begins))


def photos_in(tar: str, *, globbed: bool = False) -> list[Photo]:
    """Return the photos in an archive, by path; `relative` is their place in it.

    Raises UsageError as `list_members` does, for one that may not be read and where it is `globbed` for an empty one,
    FailureError for one that cannot be read.
    """
    base, query = split_query(tar)
    escape = escape_uri if is_uri(base) else str
    try:
        members = wait_out(lambda: list_members(tar), where=tar)
    except PermissionError as error:
        raise UsageError(f"cannot list the photos in {tar}: {one_line(error)}; check its permissions") from error
    except OSError as error:
        raise FailureError(f"cannot list the photos in {tar}: {one_line(error)}") from error
    if globbed and not members:
        raise UsageError(f"expected photos in {tar}, found no files (hidden ones do not count): check the path")
    return sorted(Photo(f"{base}!{escape(name)}{query}", relative, version) for name, relative, version in members)
