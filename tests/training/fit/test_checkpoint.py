from pathlib import Path

from catdog.training.fit import checkpoint


def test_history_survives_the_round_trip(tmp_path: Path) -> None:
    assert checkpoint.read_history(str(tmp_path)) == []
    row = dict(zip(checkpoint.HISTORY_COLUMNS, (1.0, 31.0, 2.5, 1e-3, 0.5, 0.75, 0.4, 0.8125), strict=True))
    checkpoint.write_history(str(tmp_path), [row])
    assert checkpoint.read_history(str(tmp_path)) == [row]
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,steps,seconds,learning_rate,loss,acc,val_loss,val_acc"
