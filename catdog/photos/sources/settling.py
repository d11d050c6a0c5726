"""The moment from which photos may be read, so that another photo in the place of one has another version.

A version is size and modification time. Object stores tell that time in seconds or milliseconds, FAT in steps of two
seconds: of two photos of one size that were written to one place within such a step, the version is the same. So a
photo is not read before the step is over in which it may have been written: whatever replaces the bytes that were read
then has a later time. Subversion waits for the same reason; git's index, which cannot wait, distrusts what is as new
as itself ("racily clean"), and so compares it again and again.

What is listed was written before, by the store's clock too. So the step is over two seconds after the listing, however
much that clock differs from this one: the two are compared only to tell old photos, for which nobody waits. An ETag
would need no time at all, but pyarrow's listings have none, and to ask for each is one more request a photo.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic, sleep, time_ns

import pyarrow as pa
import pyarrow.compute as pc

from catdog.photos.sources.listing.shards import Shard

_STEP_SECONDS = 2.0  # the longest: of FAT
_CLOCKS_SECONDS = 900  # by which clocks may differ: S3 refuses requests beyond
_TIME = r"-(?P<time>\d{13}000000)$"  # nanoseconds that are whole milliseconds, in a version


def let_settle(shards: Iterable[Shard], *, listed: float) -> None:
    """Wait until the photos of `shards`, all listed by the time.monotonic() `listed`, may be read.

    Two seconds after it they may, however many they are and whatever their versions.
    """
    for shard in shards:
        rest = listed + _STEP_SECONDS - monotonic()
        if rest <= 0:
            return
        if are_fresh(shard.read()["version"], now_ns=time_ns()):
            sleep(rest)
            return


def are_fresh(versions: pa.ChunkedArray, *, now_ns: int) -> bool:
    """Tell whether a photo, by its version, was written in the last quarter of an hour or so, by a coarse clock.

    Local disks tell nanoseconds; archives have sizes and checksums of their members.
    """
    times = pc.struct_field(pc.extract_regex(versions, _TIME), "time")
    newest = pc.max(pc.cast(times, pa.int64())).as_py()
    return newest is not None and newest > now_ns - _CLOCKS_SECONDS * 10**9
