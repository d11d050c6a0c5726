from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from made_features import EXTRACTION

from catdog.cluster.plan import make_plan
from catdog.cluster.resources import Node, Resources
from catdog.config import ClusterConfig
from catdog.errors import FailureError
from catdog.features import rows
from catdog.features.rows import StreamedRows, StreamSource
from catdog.features.stream import _replace_unreadable
from catdog.photos.sharded.photo_rows import PhotoRows, RowShard


def streamed(count: int, *, epochs: int, monkeypatch: pytest.MonkeyPatch) -> tuple[StreamedRows, list[list[int]]]:
    """Return rows of `count` photos in two views, and a list that gets the views of each started pipeline."""
    started: list[list[int]] = []

    def stream(
        photos: PhotoRows, wanted: Sequence[tuple[int, np.ndarray]], **options: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        started.append([view for view, _ in wanted])
        for view, order in wanted:
            for start in range(0, len(order), 64):
                chosen = order[start : start + 64]
                yield np.stack([chosen, np.full(len(chosen), view)], axis=1), np.zeros(len(chosen), np.int32)

    monkeypatch.setattr(rows, "stream_features", stream)
    source = StreamSource(photos=PhotoRows((RowShard(rows=count),)), views=(1, 2), extraction=EXTRACTION)
    plan = make_plan(Resources(nodes=(Node(cpus=2),)), ClusterConfig())
    made = StreamedRows(source, rank=0, workers=1, seed=0, epochs=epochs, pretrained=None, plan=plan)
    return made, started


def epoch_of(made: StreamedRows, number: int) -> np.ndarray:
    return np.concatenate([features for features, _ in made.epoch(number)])


def test_short_epochs_share_a_pipeline_and_a_long_one_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    short, started = streamed(100, epochs=4, monkeypatch=monkeypatch)
    for number in range(4):
        epoch_of(short, number)
    assert started == [[1, 2, 1, 2]]
    long, started = streamed(64 * 600, epochs=3, monkeypatch=monkeypatch)
    for number in range(3):
        epoch_of(long, number)
    assert started == [[1], [2], [1]]


def test_an_epoch_of_a_stream_is_the_same_from_whichever_epoch_it_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = streamed(100, epochs=4, monkeypatch=monkeypatch)
    third = [epoch_of(whole, number) for number in range(4)][2]
    resumed, started = streamed(100, epochs=4, monkeypatch=monkeypatch)
    np.testing.assert_array_equal(epoch_of(resumed, 2), third)
    assert started == [[1, 2]]  # the views of epochs 2 and 3
    assert sorted(third[:, 0].tolist()) == list(range(100))


def test_a_very_long_epoch_is_shuffled_in_windows_each_in_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2 * 65_536 + 100
    made, started = streamed(count, epochs=2, monkeypatch=monkeypatch)
    first, again = epoch_of(made, 1)[:, 0], epoch_of(made, 1)[:, 0]
    assert started == [[2], [2], [2]] * 2
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(np.sort(first), np.arange(count))
    ends = np.flatnonzero(np.diff(first // 65_536)) + 1
    assert [sorted(np.unique(window // 65_536).tolist()) for window in np.split(first, ends)] == [[2], [0], [1]]
    assert not np.array_equal(epoch_of(made, 0)[:, 0], first)


def test_every_view_of_a_stream_is_read_with_the_photo_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = streamed(100, epochs=1, monkeypatch=monkeypatch)
    features, labels, photos = made.read_every_view(limit=1000)
    assert len(features) == len(labels) == made.every_view_rows == 200
    np.testing.assert_array_equal(features[:, 0], photos)
    assert features[:, 1].tolist() == [1] * 100 + [2] * 100


def test_an_unreadable_row_of_a_stream_repeats_a_good_one() -> None:
    batch = {
        "label": np.array([1, -1, 0], np.int32),
        "feature": np.array([[1.0], [2.0], [3.0]]),
        "unreadable": np.array(["", "b.jpg: missing: gone", ""], object),
    }
    features, labels = _replace_unreadable(batch)
    assert (features.tolist(), labels.tolist()) == ([[1.0], [3.0], [1.0]], [1, 0, 1])
    nothing = {**batch, "label": np.full(3, -1, np.int32), "unreadable": np.array(["b.jpg: missing: gone"] * 3, object)}
    message = r"^none of the photos of a block can be read any more: b.jpg: missing: gone$"
    with pytest.raises(FailureError, match=message):
        _replace_unreadable(nothing)
