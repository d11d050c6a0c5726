"""Checks of a photo's bytes before it is decoded: how much work it is, and which metadata costs too much.

Only the parts that Pillow would read are scanned. Parts that cost Pillow more than they are worth are removed.
"""

from __future__ import annotations

import re
import zlib

from catdog.errors import ImageError
from catdog.photos.decoding.limits import DecodeLimits

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT_BYTES = 500_000  # of one text chunk or colour profile; Pillow refuses photos with more than twice as much
_MAX_TEXTS_BYTES = 8_000_000  # of all of them together
_KEPT_CHUNKS = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"sBIT")
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MAX_JUNK = 1000  # bytes between two markers
_PNM_SPACE = re.compile(rb"(?:[ \t\r\n\v\f]|#[^\r\n]*+[\r\n])++")
_PNM_COMMENT = re.compile(rb"#[^\r\n]*+")
_FILL = re.compile(rb"\xff{1000,}+")
_PNM = re.compile(rb"P[1-6]")
_PNM_NUMBER = re.compile(rb"[0-9]{1,9}")


def tidy_content(content: bytes, *, limits: DecodeLimits) -> bytes:
    """Return `content` without metadata and padding that would cost more than the pixels, usually unchanged.

    Raises ImageError with code too-large for a photo whose structure is too much work to decode.
    """
    if content.startswith(_PNG):
        return _tidy_png(content, limits=limits)
    if content.startswith(b"\xff\xd8"):
        return _tidy_jpeg(content, limits=limits)
    if _PNM.match(content[:2]):
        return _tidy_pnm(content, limits=limits)
    if content.startswith(b"GIF8"):
        _check_gif(content, limits=limits)
    return content


def _tidy_png(content: bytes, *, limits: DecodeLimits) -> bytes:
    """Remove text chunks and colour profiles that are too large, and metadata whose checksum is wrong."""
    at, kept_from, texts, count = len(_PNG), 0, 0, 0
    parts: list[bytes] = []
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        end = at + 12 + length
        count += 1
        if kind == b"IEND" or end > len(content):
            break
        if count > limits.max_segments * (5 if kind in (b"IDAT", b"fdAT") else 1):
            raise ImageError("too-large", f"more than {limits.max_segments:,} chunks, more than any photo has")
        if kind[:1].islower() and kind not in (b"acTL", b"fcTL", b"fdAT"):
            size = _text_size(kind, content[at + 8 : end - 4])
            texts += size
            broken = zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end])
            bulky = kind not in _KEPT_CHUNKS and (size > _MAX_TEXT_BYTES or texts > _MAX_TEXTS_BYTES)
            if broken or bulky:
                parts.append(content[kept_from:at])
                kept_from = end
        at = end
    return b"".join([*parts, content[kept_from:]]) if parts else content


def _text_size(kind: bytes, data: bytes) -> int:
    """Return the unpacked size of a metadata chunk in bytes; unpacking stops once it is too large."""
    _, _, rest = data.partition(b"\0")
    if kind in (b"zTXt", b"iCCP"):
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        return len(data)
    try:
        return max(len(data), len(zlib.decompressobj().decompress(packed, _MAX_TEXT_BYTES + 1)))
    except zlib.error:
        return _MAX_TEXT_BYTES + 1  # broken, so removed as too large


def _tidy_jpeg(content: bytes, *, limits: DecodeLimits) -> bytes:
    """Remove padding between the segments of the header and within scans; check the number of segments and scans."""
    at, kept_from, sides, progressive, components = 2, 0, 0, False, b""
    parts: list[bytes] = []
    for _ in range(limits.max_segments):
        match = _MARKER.search(content, at)
        if not match:
            return content
        if match.start() - at > _MAX_JUNK:
            parts.append(content[kept_from:at])
            kept_from = match.start()
        marker, at = content[match.start() + 1], match.end()
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        if marker in _ALONE:
            continue
        if marker in _START_OF_FRAME:
            sides = int.from_bytes(content[at + 3 : at + 5]) * int.from_bytes(content[at + 5 : at + 7])
            progressive, components = marker in _PROGRESSIVE, content[at + 7 : at + 8]
        at += max(2, int.from_bytes(content[at : at + 2]))
    else:
        raise ImageError("too-large", f"more than {limits.max_segments:,} segments, more than any photo has")
    if progressive or content[at + 2 : at + 3] != components:
        _check_scans(content, at, sides=sides, limits=limits)
    if content.find(b"\xff" * _MAX_JUNK, at) >= 0:
        # In a scan, a run of 0xff bytes, however long, is only padding before a marker.
        parts += [content[kept_from:at], _FILL.sub(b"\xff", content[at:])]
        kept_from = len(content)
    return b"".join([*parts, content[kept_from:]]) if parts else content


def _check_scans(content: bytes, at: int, *, sides: int, limits: DecodeLimits) -> None:
    """Raise ImageError if a JPEG, whose first scan begins at `at`, has too many scans or scanned pixels."""
    if content.count(b"\xff\xda", at) < min(50, limits.max_scans, limits.max_scanned_pixels // max(1, sides)):
        return  # too few markers; some may even be after the picture, but that is rare
    scans, marker = 1, _START_OF_SCAN
    while marker != _END_OF_IMAGE:
        if scans > limits.max_scans or scans * sides > limits.max_scanned_pixels:
            raise ImageError("too-large", f"{scans:,} scans or more of {sides:,} pixels, more than any photo has")
        at += max(2, int.from_bytes(content[at : at + 2]))
        match = _MARKER_IN_SCAN.search(content, at)
        if not match:
            return
        marker, at = content[match.start() + 1], match.end()
        scans += marker == _START_OF_SCAN


def _check_gif(content: bytes, *, limits: DecodeLimits) -> None:
    """Raise ImageError if too many blocks precede the first picture (GIF89a specification, sections 17 to 26)."""
    flags = content[10] if len(content) > 10 else 0
    at, blocks = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0), 0
    while content[at : at + 1] == b"!":
        at += 2
        while at < len(content) and content[at]:
            at += 1 + content[at]
            blocks += 1
            if blocks > limits.max_segments:
                raise ImageError(
                    "too-large", f"more than {limits.max_segments:,} blocks of metadata, more than any photo has"
                )
        at += 1


def _tidy_pnm(content: bytes, *, limits: DecodeLimits) -> bytes:
    """Remove long comments of a PNM file, which Pillow reads byte by byte."""
    if content[1:2] in b"123" and content.count(b"#") > limits.max_segments:
        raise ImageError("too-large", f"more than {limits.max_segments:,} comments, more than any photo has")
    words, at = pnm_header(content)
    if words and content[1:2] in b"123":  # numbers as text, with comments anywhere
        return b" ".join(words) + _PNM_COMMENT.sub(b"", content[at:])
    return b" ".join(words) + content[at:] if words and at > _MAX_JUNK else content


def pnm_header(content: bytes) -> tuple[list[bytes], int]:
    """Return the header words of a PNM file, and the position where the last one ends.

    The words are kind, width, height and, except in a PBM, the value of white. Other files have no words.
    """
    if not _PNM.match(content[:2]):
        return [], 0
    at, words = 2, [content[:2]]
    for _ in range(2 if content[1:2] in b"14" else 3):
        space = _PNM_SPACE.match(content, at)
        word = _PNM_NUMBER.match(content, space.end()) if space else None
        if not word:
            return [], 0
        words.append(word[0])
        at = word.end()
    return words, at
