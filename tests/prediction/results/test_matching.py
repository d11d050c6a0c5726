from __future__ import annotations

from catdog.photos.sources.inputs import find_inputs
from catdog.photos.sources.listing.shards import cut_into_shards
from catdog.prediction.results.matching import RecordedPhotos as Piece
from catdog.prediction.results.matching import match, spans


def test_rows_are_found_in_pieces_of_other_lengths() -> None:
    a, b, c = (Piece(path=path, rows=rows) for path, rows in (("a", 3), ("b", 0), ("c", 4)))
    assert spans([2, 4, 1], [a, b, c]) == [((a, 0, 2),), ((a, 2, 3), (c, 0, 3)), ((c, 3, 4),)]
    assert spans([7], [a, b, c]) == [((a, 0, 3), (c, 0, 4))]
    assert spans([2, 0, 4], [a]) == [((a, 0, 2),), (), ((a, 2, 3),)]


def test_photos_are_read_from_the_shards_that_they_are_in() -> None:
    shards = [*cut_into_shards(find_inputs(["1", "2", "3"])), *cut_into_shards(find_inputs(["4", "5"]))]
    assert [photos.read()["path"].to_pylist() for photos in match([2, 3], shards)] == [["1", "2"], ["3", "4", "5"]]
