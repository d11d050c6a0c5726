"""Several Parquet files or archives, as datasets are published, and the photos in the archives.

When there are more photos than one process should list, this module stops reading and raises MorePackedError.
packed_tasks.py lists them then.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from catdog.console import counted, say
from catdog.errors import FailureError, UsageError, one_line
from catdog.photos.annotations.layouts.split_names import splits_of_names
from catdog.photos.sources.containers.archives import has_more_members, list_members, shard_set
from catdog.photos.sources.containers.tables import TableColumns, count_rows
from catdog.photos.sources.keys import Photo, escape_uri
from catdog.photos.sources.opening import size_of
from catdog.storage.files import is_uri, split_query
from catdog.storage.outages import wait_out

_MAX_BYTES_PER_PHOTO = 2**18  # if archives exceed this for each of `at_most` photos, none is opened: 25 GB for 100,000

_FOOTERS_AT_ONCE = 16  # read at the same time, because an object store is slow for each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """Parquet files or archives, in the order in which their photos are labelled.

    With `around`, the `relative` of an archive is the name of a folder around its photos. If it is None, this holds
    only when there are no folders in any of the archives.
    """

    source: str  # as the user named it
    files: tuple[Photo, ...]
    columns: TableColumns | None = None  # of Parquet files; None for archives
    around: bool | None = False
    named: bool = False  # the user named each archive, itself or by a glob, so none may be empty

    def place(self, photo: Photo, archive: Photo, *, around: bool) -> Photo:
        """Return a photo of `archive` with its path in the source."""
        return photo._replace(relative=f"{archive.relative}/{photo.relative}") if around else photo

    def say_found(self, photos: int) -> None:
        """Report how many photos are in the archives of a folder."""
        if self.columns is None and not self.named:
            say(f"{counted(len(self.files), 'archive')}, {counted(photos, 'photo')} in them.")


class MorePhotosError(Exception):
    """A source has more photos than one process should list; packed_tasks.list_many lists them."""


class MorePackedError(MorePhotosError):
    """Parquet files or archives, `packed`, have more photos than one process should list."""

    def __init__(self, packed: Packed) -> None:
        super().__init__(packed.source)
        self.packed = packed


def are_more_rows(paths: Sequence[str], *, at_most: int) -> bool:
    """Return whether the Parquet files at `paths` have more than `at_most` rows in total; only footers are read.

    A file that cannot be read counts as empty. Listing it reports the error.
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
    """Return the tars of a folder, such as WebDataset's shards, sorted by path.

    If there are several names, that of a tar counts as a folder around its photos in two cases: all names are those of
    splits (train.tar next to test.tar), or there are no folders in the tars (cat.tar next to dog.tar).
    """
    names = {shard_set(tar.relative) for tar in tars}
    are_splits = splits_of_names(names).keys() == names
    files = sorted((tar._replace(relative=shard_set(tar.relative)) for tar in tars), key=lambda tar: _begin(tar.path))
    around = (True if are_splits else None) if len(names) > 1 else False
    return Packed(source=source, files=tuple(files), around=around)


def _begin(tar: str) -> str:
    """Return the prefix of the keys of all photos in a tar."""
    return f"{split_query(tar)[0]}!"


def list_archives(packed: Packed, *, at_most: int | None = None) -> list[Photo]:
    """Return the photos in archives, sorted by path.

    Raises MorePackedError if the archives have more photos than `at_most`, or seem to, judged by their size or by the
    first of them. Raises what `photos_in` raises.
    """
    sizes = [max(1, size_of(archive.version)) for archive in packed.files]
    total = sum(sizes)
    if _are_mixed(packed):
        at_most = None
    if at_most is not None and (
        total > at_most * _MAX_BYTES_PER_PHOTO or (len(sizes) == 1 and has_more_members(packed.files[0].path, at_most))
    ):
        raise MorePackedError(packed)
    found, archives, read, in_folders = list[Photo](), list[Photo](), 0, False
    for archive, size in zip(packed.files, sizes, strict=True):
        inside = photos_in(archive.path, named=packed.named)
        found += inside
        archives += [archive] * len(inside)
        read += size
        in_folders = in_folders or any("/" in photo.relative for photo in inside)
        if at_most is not None and len(found) * total > at_most * read:
            around = False if packed.around is None and in_folders else packed.around
            raise MorePackedError(dataclasses.replace(packed, around=around))
    around = not in_folders if packed.around is None else packed.around
    packed.say_found(len(found))
    found = [packed.place(photo, archive, around=around) for photo, archive in zip(found, archives, strict=True)]
    return found if packed.named else sorted(found)


def _are_mixed(packed: Packed) -> bool:
    """Return whether keys of one tar of a folder sort between those of another: `x.tar` next to `x.tar!y.tar`."""
    begins = [_begin(tar.path) for tar in packed.files]
    return not packed.named and any(after.startswith(before) for before, after in itertools.pairwise(begins))


def photos_in(archive: str, *, named: bool = False) -> list[Photo]:
    """Return the photos in an archive, sorted by path; `relative` is their path in it.

    Raises UsageError as `list_members` does, for an archive that may not be read, and for an empty one that was
    `named`. Raises FailureError for an archive that cannot be read.
    """
    base, query = split_query(archive)
    escape = escape_uri if is_uri(base) else str
    try:
        members = wait_out(lambda: list_members(archive), where=archive)
    except PermissionError as error:
        raise UsageError(f"cannot list the photos in {archive}: {one_line(error)}; check its permissions") from error
    except OSError as error:
        raise FailureError(f"cannot list the photos in {archive}: {one_line(error)}") from error
    if named and not members:
        raise UsageError(f"expected photos in {archive}, found no files (hidden files are ignored): check the path")
    return sorted(Photo(f"{base}!{escape(name)}{query}", relative, version) for name, relative, version in members)
