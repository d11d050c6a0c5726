"""Photos that were written just before they were listed, with clocks of any resolution."""

from __future__ import annotations

from time import monotonic, time_ns

import pyarrow as pa
import pytest

from catdog.photos.sources import settling
from catdog.photos.sources.inputs import INPUTS, find_inputs
from catdog.photos.sources.listing.shards import SetDigest, Shard, cut_into_shards
from catdog.photos.sources.settling import are_fresh, let_settle

NOON = 1_700_000_000 * 10**9


@pytest.mark.parametrize(
    ("versions", "fresh"),
    [
        (["10-1700000000000000000"], True),  # now
        (["10-1699999999123000000"], True),  # milliseconds, as Google's store reports
        (["10-1699999101000000000"], True),  # 14:59 minutes ago
        (["10-1699999099000000000"], False),  # 15:01 minutes ago
        (["10-1700000100000000000"], True),  # from a clock that is ahead
        (["10-1699999999123456789"], False),  # from a local disk
        (["10-1699999099000000000", "10-1699999999000000000", None], True),
        (["10", "10-00c0ffee", "10-5000000", None], False),  # without times; the second is of a zip, the third of a tar
        ([], False),
    ],
)
def test_a_version_is_fresh_that_a_coarse_clock_gave_a_while_ago(versions: list[str | None], fresh: bool) -> None:
    assert are_fresh(pa.chunked_array([pa.array(versions, pa.string())]), now_ns=NOON) is fresh


def shards_of(modified_ns: int) -> list[Shard]:
    rows = {**find_inputs(["a", "b"]).to_pydict(), "version": ["10-1600000000000000000", f"10-{modified_ns}"]}
    return cut_into_shards(pa.table(rows, schema=INPUTS))


def test_fresh_photos_are_waited_for_since_they_were_listed_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(settling, "sleep", waited.append)
    monkeypatch.setattr(settling, "_STEP_SECONDS", 3600.0)
    now = time_ns() // 10**9 * 10**9
    let_settle(shards_of(now - 3600 * 10**9), listed=monotonic())
    let_settle(shards_of(now + 1), listed=monotonic())
    let_settle(shards_of(now), listed=monotonic() - 3600)
    assert waited == []
    let_settle([*shards_of(now + 1), *shards_of(now), *shards_of(now)], listed=monotonic() - 1800)
    (seconds,) = waited
    assert 0 < seconds <= 1800


def test_no_shard_is_looked_at_once_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "sleep", lambda _: pytest.fail("it waits"))
    missing = Shard(first="a", digest=SetDigest(), path="/nowhere/1.parquet")
    let_settle([missing], listed=monotonic() - 2)
