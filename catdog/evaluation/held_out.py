"""Outcomes: a stage's predictions on held-out photos, validation and test, one row per photo.

Each stage writes `predictions.parquet`, and all scores of the report are computed from its rows. There may be millions,
so they are read one row group at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog.errors import FailureError, one_line
from catdog.storage import files
from catdog.storage.outages import wait_out
from catdog.storage.schemas import check_schema, outcome_schema
from catdog.storage.tables import write_parquet

OUTCOMES_FILE = "predictions.parquet"
_STRETCH_ROWS = 65_536  # in a row group
_SHOWN = ["path", "split", "true", "label", "probability"]

T = TypeVar("T")


def build_outcomes(
    paths: Sequence[str], *, split: str, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> pa.Table:
    """Return the rows of one split: true `labels` (N,) int, `probabilities` (N, classes) float32."""
    names = np.array(classes, object)
    top = probabilities.argmax(axis=1)
    columns = [
        pa.array(paths, pa.string()),
        pa.array([split] * len(paths), pa.string()),
        pa.array(names[labels], pa.string()),
        pa.array(names[top], pa.string()),
        pa.array(probabilities[np.arange(len(top)), top], pa.float32()),
        *(pa.array(np.ascontiguousarray(column), pa.float32()) for column in probabilities.T),
    ]
    return pa.table(columns, schema=outcome_schema(classes))


def write_outcomes(directory: str, rows: pa.Table) -> None:
    """Write predictions.parquet into the stage's `directory`, whole or not at all."""
    write_parquet(files.join(directory, OUTCOMES_FILE), rows, row_group_size=_STRETCH_ROWS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The outcomes in the file at `path`; each method reads the file again, one row group (a stretch) at a time.

    All methods raise FailureError when the file is damaged or has other columns.
    """

    path: str
    classes: tuple[str, ...]

    def stretches(self) -> Iterator[pa.Table]:
        """Yield the rows in file order, one row group at a time."""
        system, inside = files.open_filesystem(self.path)
        with self._named(lambda: system.open_input_file(inside)) as stream:
            file = self._named(lambda: pq.ParquetFile(stream))
            for group in range(file.num_row_groups):
                rows = self._named(lambda group=group: file.read_row_group(group))  # type: ignore[misc]
                yield check_schema(rows, outcome_schema(self.classes), where=self.path)

    def by_split(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield (split, true labels, probabilities) for each split in each stretch, as `select_split` returns them."""
        for rows in self.stretches():
            for split in pc.unique(rows["split"]).to_pylist():
                yield split, *select_split(rows, split, classes=self.classes)

    def first(self, split: str, *, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (true labels, probabilities) of the first `rows` rows of `split`, or up to one stretch more.

        Rows are in the order of the photos' digests, so the first rows are a random sample.
        """
        found = [select_split(outcome_schema(self.classes).empty_table(), split, classes=self.classes)]
        for name, labels, probabilities in self.by_split():
            if name == split:
                found.append((labels, probabilities))
                if sum(len(each) for each, _ in found) >= rows:
                    break
        return np.concatenate([labels for labels, _ in found]), np.concatenate([each for _, each in found])

    def worst(self, *, limit: int) -> pa.Table:
        """Return the most confident wrong rows, at most `limit`, most confident first."""
        return self._extreme((rows.filter(_is_wrong(rows)) for rows in self.stretches()), "descending", limit)

    def least_confident(self, *, limit: int) -> pa.Table:
        """Return the least confident rows, correct or not, at most `limit`, least confident first."""
        return self._extreme(self.stretches(), "ascending", limit)

    def _extreme(self, stretches: Iterable[pa.Table], order: str, limit: int) -> pa.Table:
        found = outcome_schema(self.classes).empty_table()
        for rows in stretches:
            both = pa.concat_tables([found, rows])
            found = both.sort_by([("probability", order), ("path", "ascending")]).slice(0, limit)
        return found

    def _named(self, read: Callable[[], T]) -> T:
        try:
            return wait_out(read, where=self.path)
        except (OSError, pa.ArrowException) as error:
            raise FailureError(f"{self.path} cannot be read: {one_line(error)}") from error


def find_outcomes(directory: str, *, classes: Sequence[str]) -> Outcomes | None:
    """Return the outcomes that a stage left in `directory`, or None if an earlier version of catdog trained it."""
    path = files.join(directory, OUTCOMES_FILE)
    return Outcomes(path=path, classes=tuple(classes)) if files.exists(path) else None


def read_outcomes(directory: str, *, classes: Sequence[str]) -> pa.Table | None:
    """Return all rows of `find_outcomes`, or None if it finds none. Raises FailureError as Outcomes does."""
    outcomes = find_outcomes(directory, classes=classes)
    if outcomes is None:
        return None
    return pa.concat_tables([outcome_schema(classes).empty_table(), *outcomes.stretches()])


def select_split(rows: pa.Table, split: str, *, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (true labels (N,) int64, probabilities (N, classes) float64) of the rows of `split`."""
    chosen = rows.filter(pc.equal(rows["split"], split))
    labels = pc.index_in(chosen["true"], pa.array(classes)).to_numpy().astype(np.int64)
    return labels, probabilities_of(chosen, classes=classes)


def probabilities_of(rows: pa.Table, *, classes: Sequence[str]) -> np.ndarray:
    """Return the probabilities (N, classes) float64 of `rows`."""
    return np.stack([rows[f"p_{name}"].to_numpy().astype(np.float64) for name in classes], axis=1)


def brief(rows: pa.Table) -> list[dict[str, Any]]:
    """Return path, split, true, label and probability of each of `rows`."""
    found: list[dict[str, Any]] = rows.select(_SHOWN).to_pylist()
    return found


def _is_wrong(rows: pa.Table) -> pa.ChunkedArray:
    return pc.not_equal(rows["true"], rows["label"])
