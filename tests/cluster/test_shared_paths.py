from pathlib import Path

from catdog.cluster.shared_paths import check_shared


def test_a_machine_alone_shares_with_nobody(ray_session: None, tmp_path: Path) -> None:
    check_shared(written={"--run-dir": str(tmp_path / "run")}, read={"--photos": str(tmp_path)})
    assert not (tmp_path / "run").exists()
