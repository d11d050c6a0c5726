from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.storage.tables import parquet_bytes, read_parquet, write_parquet

ROWS = pa.table({"path": ["a.jpg", "b.jpg", None], "label": pa.array([0, 1, 1], pa.int32())})


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "folder" / "rows.parquet")
    write_parquet(path, ROWS, compression="zstd", row_group_size=2)
    assert read_parquet(path).equals(ROWS)
    assert read_parquet(path, columns=["label"]).to_pydict() == {"label": [0, 1, 1]}
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["rows.parquet"]  # no temporary file is left
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 2
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_content_of_a_file_is_what_parquet_reads() -> None:
    assert pq.read_table(pa.BufferReader(parquet_bytes(ROWS))).equals(ROWS)


def test_what_is_no_table_is_an_error_of_arrow(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"no table")
    with pytest.raises(pa.ArrowException):
        read_parquet(str(path))
    with pytest.raises(FileNotFoundError):
        read_parquet(str(tmp_path / "none.parquet"))
