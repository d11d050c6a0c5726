"""The earliest moment to read photos, so that a photo that is replaced later gets another version.

A version is a size and a modification time. Object stores report that time in seconds or milliseconds, FAT in steps of
two seconds. Two photos of one size that are written to one place within such a step have the same version. So a photo
is not read until the step in which it may have been written is over. Whatever replaces it after that has a later time.
Subversion waits for the same reason. Git's index cannot wait. It distrusts entries that are as new as itself ("racily
clean"), and compares them again and again.

A photo was written before it was listed, by the store's clock too. So the step is over two seconds after the listing,
however much that clock differs from the local one. The two clocks are compared only to recognize old photos, which
need no wait. An ETag would need no wait at all, but pyarrow's listings have none, and asking for it costs one more
request per photo.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic, sleep, time_ns

import pyarrow as pa
import pyarrow.compute as pc

from catdog.photos.sources.listing.shards import Shard

_STEP_SECONDS = 2.0  # the longest step: that of FAT
_CLOCKS_SECONDS = 900  # the largest difference of clocks: S3 refuses requests beyond it
_TIME = r"-(?P<time>\d{13}000000)$"  # in a version: nanoseconds that are whole milliseconds


def let_settle(shards: Iterable[Shard], *, listed: float) -> None:
    """Wait until the photos of `shards` may be read; all were listed by `listed`, a time.monotonic().

    The wait ends at the latest two seconds after `listed`, whatever the number of photos and their versions.
    """
    for shard in shards:
        rest = listed + _STEP_SECONDS - monotonic()
        if rest <= 0:
            return
        if are_fresh(shard.read()["version"], now_ns=time_ns()):
            sleep(rest)
            return


def are_fresh(versions: pa.ChunkedArray, *, now_ns: int) -> bool:
    """Return whether a photo, judged by its version, was written less than 15 minutes ago by a coarse clock.

    Local disks report nanoseconds, and archive members have sizes and checksums, so their versions do not count.
    """
    times = pc.struct_field(pc.extract_regex(versions, _TIME), "time")
    newest = pc.max(pc.cast(times, pa.int64())).as_py()
    return newest is not None and newest > now_ns - _CLOCKS_SECONDS * 10**9
