from catdog.config import TrainConfig
from catdog.tuning.report.page import build_tune_page
from catdog.tuning.space import parse_space


def test_the_best_value_of_a_penalty_that_was_chosen_in_the_trial_is_the_one_that_was_chosen() -> None:
    scores = {"accuracy": 0.9, "loss": 0.1}
    records = {
        0: {
            "number": 0, "status": "finished", "epochs": 1, "seconds": 1.0, "ended": 1.0, "stage": "frozen",
            "values": {"frozen.c": 0.0}, "stages": {"frozen": {"c": 0.25, "history": []}}, "validation": scores,
        }
    }  # fmt: skip
    result = {
        "number": 0, "values": {"frozen.c": 0.0}, "stage": "frozen", "metric": "val_loss", "seconds": 1.0,
        "validation": scores, "trials": {"finished": 1}, "command": "python jobs/train.py",
    }  # fmt: skip
    space = parse_space(TrainConfig, {"frozen.c": "loguniform:1e-3,1"})
    page = str(build_tune_page(records, space, result=result, run_dir="/runs/sweep"))
    best = page[page.index("best value") : page.index("To train it again")]
    assert "0.25" in best
    assert "0.0<" not in best
