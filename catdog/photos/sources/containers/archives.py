"""Archives that are read without being unpacked: zip, and tar with any of its compressions.

Members are read into memory and never extracted, so an archive cannot place a file, whatever its member names. A
compressed tar cannot be read from the middle, so it is decompressed once into the cache of this machine.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import struct
import tarfile
import threading
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from catdog.console import counted, say
from catdog.errors import CatdogError, ImageError, UsageError, one_line
from catdog.photos.sources.folders import is_hidden
from catdog.photos.sources.opening import describe_stranger, look_at, open_file
from catdog.storage.files import cache_directory, is_uri, split_query, staged_file

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
SUFFIXES = ZIP_SUFFIXES + TAR_SUFFIXES
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, ValueError, tarfile.TarError)
_COMPRESSIONS = {"gz": "gzip", "tgz": "gzip", "bz2": "bz2", "tbz2": "bz2", "zst": "zstd", "tzst": "zstd"}
_UTF_8 = 0x800  # APPNOTE 4.4.4, bit 11: the name is UTF-8
_MAX_RATIO, _MAX_EXTRA_BYTES = 50, 2**30  # photos hardly compress: more than 50 times the size plus 1 GiB is a bomb
_SIDECARS = (".cls", ".json", ".txt", ".txt2", ".id", ".index")  # of a photo in a WebDataset shard


# The number of a file in a set, and the hash that Hugging Face appended to it.
_NUMBER = re.compile(r"([-_]?\d+)?([-_]of[-_]\d+)?(-[0-9a-f]{16})?$")
_SEEKING = threading.Lock()
_TAR_BLOCK = 512


class Member(NamedTuple):
    """A file in an archive: `name` finds it, `relative` is its path, `version` changes with its content."""

    name: str
    relative: str
    version: str | None


def archive_kind(path: str) -> str | None:
    """Return `zip` or `tar` for a path or URI with such a suffix, else None."""
    folded = split_query(path)[0].lower()
    return "zip" if folded.endswith(ZIP_SUFFIXES) else "tar" if folded.endswith(TAR_SUFFIXES) else None


def list_members(path: str) -> list[Member]:
    """Return the visible files of the archive at `path`, each once.

    Raises UsageError for a file that is not an archive, is encrypted, or holds only archives.
    """
    try:
        members = (_list_zip if archive_kind(path) == "zip" else _list_tar)(path)
    except (*DAMAGE, NotImplementedError, pa.ArrowException) as error:
        raise UsageError(f"expected an archive at {path}, found {describe_stranger(path, error)}") from error
    pictures = [member for member in members if archive_kind(member.relative) is None]
    if members and not pictures:
        raise UsageError(
            f"expected photos in {path}, found only archives in it, such as {members[0].relative}: unpack it first"
        )
    return members


def has_more_members(path: str, count: int) -> bool:
    """Return whether the archive at `path` has more than `count` members, without holding them.

    For a zip, its last record tells. The headers of a tar are read up to that number, but not on an object store, where
    each is a request. An archive that cannot be read counts as small. Listing it reports the error.
    """
    try:
        with open_file(path) as stream:
            if archive_kind(path) == "zip":
                return _zip_entries(stream) > count
        return not is_uri(path) and _is_longer_tar(path, count)
    except (*DAMAGE, OSError, CatdogError, pa.ArrowException):
        return False


def read_member(path: str, name: str, *, max_bytes: int) -> bytes:
    """Return the bytes of one member, bounded by `max_bytes` and, for a zip, checked by its CRC.

    Raises ImageError of code missing, encrypted, too-large, truncated or io, and OSError as the file system does.
    """
    read = _read_zip if archive_kind(path) == "zip" else _read_tar
    try:
        content = read(path, name, max_bytes)
    except KeyError as error:
        raise ImageError("missing", "no such member in the archive") from error
    except DAMAGE as error:
        raise ImageError("truncated", f"the archive member is damaged: {one_line(error)}") from error
    except NotImplementedError as error:
        raise ImageError("io", f"the archive member cannot be unpacked: {one_line(error)}") from error
    check_size(len(content), max_bytes)
    return content


def check_size(size: int, max_bytes: int) -> int:
    """Return `size`; raises ImageError of code too-large if it exceeds `max_bytes`."""
    if size > max_bytes:
        raise ImageError("too-large", f"{size:,} bytes, the limit is {max_bytes:,}")
    return size


def _relative(name: str) -> str | None:
    """Return the path of a member, or None if it is hidden or would leave the archive's root."""
    parts: list[str] = []
    for part in name.replace("\\", "/").split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) if parts and not any(map(is_hidden, parts)) else None


# Zip


def _list_zip(path: str) -> list[Member]:
    _, entries = _open_zip(path)
    files = {name: entry for name, entry in entries.items() if not entry.is_dir()}
    if files and all(entry.flag_bits & 0x1 for entry in files.values()):
        raise UsageError(
            f"expected photos in {path}, found an encrypted archive: unpack it with its password, and give the folder"
        )
    unmarked = sum(not entry.flag_bits & _UTF_8 and not name.isascii() for name, entry in files.items())
    if unmarked:
        guessed = any(name == entry.filename for name, entry in files.items() if not name.isascii())
        encoding = "UTF-8 or CP437" if guessed else "UTF-8"
        say(f"{counted(unmarked, 'name')} in {path} without a declared encoding: read as {encoding}.")
    return [
        Member(name, relative, f"{entry.file_size}-{entry.CRC:08x}")
        for name, entry in files.items()
        if (relative := _relative(name))
    ]


def _zip_entries(stream: IO[bytes]) -> int:
    """Return how many entries the end of a zip declares; 0 if that cannot be found (APPNOTE 4.3.14 to 4.3.16)."""
    stream.seek(max(0, stream.seek(0, io.SEEK_END) - 2**16 - 42))  # the longest comment, and two records
    tail = stream.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        return 0
    entries = int.from_bytes(tail[end + 10 : end + 12], "little")
    locator = tail[max(0, end - 20) : end]
    if entries < 0xFFFF or not locator.startswith(b"PK\6\7"):
        return entries
    stream.seek(int.from_bytes(locator[8:16], "little"))
    record = stream.read(56)
    return int.from_bytes(record[32:40], "little") if record.startswith(b"PK\6\6") else entries


def _read_zip(path: str, name: str, max_bytes: int) -> bytes:
    archive, entries = _open_zip(path)
    entry = entries[name]
    if entry.flag_bits & 0x1:
        raise ImageError("encrypted", "the archive member needs a password: unpack the archive")
    check_size(entry.file_size, max_bytes)
    with archive.open(entry) as stream:
        return stream.read(max_bytes + 1)


@lru_cache(maxsize=4)
def _open_zip(path: str) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open a zip, cached per process: reading its directory takes a second for each hundred thousand members."""
    archive = zipfile.ZipFile(open_file(path))
    return archive, {_zip_name(entry): entry for entry in archive.infolist()}


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of a member.

    zipfile decodes a name without the UTF-8 flag as CP437, but UTF-8 is more likely.
    """
    if entry.flag_bits & _UTF_8 or entry.filename.isascii():
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return entry.filename


# Tar


def _list_tar(path: str) -> list[Member]:
    # A tar has no checksums of its members, so each gets the version of the tar, taken before the tar is opened.
    _, version = look_at(path)
    _, places = _open_tar(path)
    found = [
        Member(name, relative, f"{at}-{size}-{version}")
        for name, (at, size) in places.items()
        if (relative := _relative(name))
    ]
    shown = {sample_key(member.relative) for member in found if not member.relative.lower().endswith(_SIDECARS)}
    return [
        member
        for member in found
        if not (member.relative.lower().endswith(_SIDECARS) and sample_key(member.relative) in shown)
    ]


def shard_set(name: str) -> str:
    """Return the name that the numbered files of a set share: `pets-train` for pets-train-00000-of-00002.tar."""
    return _NUMBER.sub("", name.rpartition("/")[2].partition(".")[0])


def sample_key(name: str) -> str:
    """Return the key that a photo and its sidecars share in a WebDataset shard: the name up to its first dot."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _read_tar(path: str, name: str, max_bytes: int) -> bytes:
    stream, places = _open_tar(path)
    at, size = places[name]
    check_size(size, max_bytes)
    with _SEEKING:  # zipfile has such a lock itself
        stream.seek(at)
        content = stream.read(size)
    if len(content) < size:
        raise EOFError(f"the archive ends after {len(content)} of {size} bytes")
    return content


def _is_longer_tar(path: str, count: int) -> bool:
    """Return whether a tar has more than `count` files (POSIX.1-1988, ustar: headers of 512 bytes, padded content)."""
    with _tar_stream(path) as stream:
        size = stream.seek(0, io.SEEK_END)
        at = files = 0
        while files <= count < size / _TAR_BLOCK:
            stream.seek(at)
            header = stream.read(_TAR_BLOCK)
            if len(header) < _TAR_BLOCK or not any(header):
                return False
            files += header[156:157] in (b"0", b"\0")
            at += _TAR_BLOCK * (1 + -(-_tar_number(header[124:136]) // _TAR_BLOCK))
    return files > count


def _tar_number(field: bytes) -> int:
    """Return the number in a field of a tar's header: octal digits or, in GNU tar, big-endian after a high bit."""
    return int.from_bytes(field[1:]) if field[0] & 0x80 else int(field.strip(b" \0") or b"0", 8)


def _tar_stream(path: str) -> IO[bytes]:
    suffix = split_query(path)[0].lower().rpartition(".")[2]
    return open_file(path) if suffix == "tar" else _decompressed(path, suffix)


@lru_cache(maxsize=4)
def _open_tar(path: str) -> tuple[IO[bytes], dict[str, tuple[int, int]]]:
    """Open a tar, cached per process; return its stream and the offset and size of each file in it."""
    stream = _tar_stream(path)
    places = {}
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            name, link = _tar_name(member.name), _tar_name(member.linkname)
            if member.isreg():
                places[name] = (member.offset_data, member.size)
            elif member.islnk() and link in places:  # a hard link: the same file under a second name
                places[name] = places[link]
    return stream, places


def _tar_name(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _decompressed(path: str, suffix: str) -> IO[bytes]:
    """Return a compressed tar, decompressed, as a stream from the cache of this machine; fill the cache first."""
    with open_file(path) as packed:
        size = packed.seek(0, io.SEEK_END)
        packed.seek(max(0, size - 2**16))
        name = hashlib.sha256(f"{path} {size} ".encode() + packed.read()).hexdigest()[:16]
        cached = cache_directory() / "archives" / f"{name}.tar"
        if not cached.exists():
            packed.seek(0)
            unpacked: Any
            if suffix in ("xz", "txz"):
                unpacked = lzma.LZMAFile(packed)  # noqa: SIM115 - `packed` is closed
            else:
                unpacked = pa.CompressedInputStream(packed, _COMPRESSIONS[suffix])
            _write_bounded(unpacked, cached, most=_MAX_RATIO * size + _MAX_EXTRA_BYTES)
    return open_file(str(cached))


def _write_bounded(source: Any, target: Path, *, most: int) -> None:
    with staged_file(target) as beside, beside.open("wb") as sink:
        while block := _read_block(source):
            if sink.tell() + len(block) > most:
                raise ValueError("it decompresses to far more than photos do")
            sink.write(block)


def _read_block(source: Any) -> bytes:
    try:
        return bytes(source.read(2**20))
    except OSError as error:  # pyarrow and bz2 raise it for damaged data
        raise ValueError(one_line(error)) from error


def forget_archives() -> None:
    """Drop the archives that are kept open, because a connection may be broken."""
    _open_zip.cache_clear()
    _open_tar.cache_clear()
