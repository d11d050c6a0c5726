from pathlib import Path

import pyarrow.parquet as pq

from catdog.benchmark.baselines import label_by_tf_data, label_by_threads


def test_the_programs_without_ray_label_every_photo_alike(photo_folder: Path, model_dir: Path, tmp_path: Path) -> None:
    label_by_threads(str(photo_folder), str(model_dir), str(tmp_path / "threads.parquet"))
    label_by_tf_data(str(photo_folder), str(model_dir), str(tmp_path / "tf.parquet"))
    threads = pq.read_table(tmp_path / "threads.parquet").to_pylist()
    assert len(threads) == 35
    assert {Path(row["path"]).name for row in threads if row["error"]} == {"666.jpg", "11702.jpg"}
    labels = {row["path"]: row["label"] for row in threads if not row["error"]}
    # The tf.data program cannot report which photos it left out.
    assert {row["path"]: row["label"] for row in pq.read_table(tmp_path / "tf.parquet").to_pylist()} == labels
