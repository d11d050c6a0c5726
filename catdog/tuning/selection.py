"""Which trial is the best, and by how much it beats the default settings.

The searcher, the scheduler, the choice of the winner, the table and the page use one objective. It is the loss or the
accuracy on photos that the trial was not trained on: those of all folds if there are folds, else the validation photos.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

METRICS = ("val_loss", "val_accuracy")
_TIE = 1e-9  # per unit of loss: breaks ties in accuracy, and is far less than one photo in a million

Record = Mapping[str, Any]


def objective(scores: Mapping[str, float], metric: str) -> float:
    """Return what a sweep minimizes for a model's `scores`: the loss, or the error rate with ties broken by loss."""
    if metric == "val_loss":
        return scores["loss"]
    return 1 - scores["accuracy"] + _TIE * min(scores["loss"], 1e3)


def record_scores(record: Record) -> Mapping[str, float] | None:
    """Return the scores that rank a trial: over its folds, else on validation. None if missing or not finite."""
    scores = record.get("folds") or record.get("validation")
    if not scores or not all(math.isfinite(scores[name]) for name in ("accuracy", "loss")):
        return None
    found: Mapping[str, float] = scores
    return found


def rank_records(records: Mapping[int, Record], metric: str) -> list[Record]:
    """Return the trials that have scores, best first. On a tie, the lower number comes first."""
    rated = [
        (objective(scores, metric), number, record)
        for number, record in records.items()
        if (scores := record_scores(record)) is not None
    ]
    return [record for _, _, record in sorted(rated, key=lambda one: one[:2])]


def with_winner_first(records: Mapping[int, Record], winner: int, metric: str) -> list[Record]:
    """Return the trials that have scores: the `winner` first, then the others by rank."""
    ranked = rank_records(records, metric)
    return sorted(ranked, key=lambda record: record["number"] != winner)


def choose_winner(records: Mapping[int, Record], metric: str, *, rule: str = "best") -> Record | None:
    """Return the winner, even if its trial was stopped or failed. Return None if no trial has scores.

    `rule` is `best` or `one-se`, which acts as `best` if there are no folds. Of the trials within one standard error of
    the best, `one-se` chooses the one with the strongest regularization: the smallest `frozen.c`, then the greatest
    dropout. On a tie, trial 0 with the default settings wins.
    Source: L. Breiman and others, "Classification and Regression Trees", 1984, section 3.4.3.
    """
    ranked = rank_records(records, metric)
    if not ranked:
        return None
    best = ranked[0]
    if rule == "best" or not best.get("folds"):
        return best
    error = best["folds"][f"{metric.removeprefix('val_')}_error"]
    limit = objective(best["folds"], metric) + error
    near = [record for record in ranked if objective(record_scores(record) or {}, metric) <= limit]
    return min(near, key=_complexity)


def _complexity(record: Record) -> tuple[float, float, bool]:
    values = record["values"]
    return float(values.get("frozen.c") or 0.0), -float(values.get("dropout", 0.0)), record["number"] != 0


def choose_promoted(records: Mapping[int, Record], metric: str, *, factor: int) -> list[int]:
    """Return the numbers of the trials that continue after the frozen stage: the best one in `factor`, and trial 0."""
    frozen = {
        number: {"validation": record["stages"]["frozen"], "number": number}
        for number, record in records.items()
        if record.get("stages", {}).get("frozen")
    }
    ranked = [record["number"] for record in rank_records(frozen, metric)]
    chosen = ranked[: -(-len(ranked) // factor)]
    return chosen + [0] * (0 in ranked and 0 not in chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gain:
    """How the winner compares with trial 0 on photos that neither was trained on.

    Of the `photos` compared, only the winner was right on `winner_only`, and only trial 0 on `default_only`. `p_value`
    is that of McNemar's exact test. `loss` is how much lower the winner's mean loss is, and `loss_error` is the
    standard error of that difference.
    """

    photos: int
    winner_only: int
    default_only: int
    p_value: float
    loss: float
    loss_error: float

    @property
    def accuracy(self) -> float:
        """How much higher the winner's accuracy is."""
        return (self.winner_only - self.default_only) / max(1, self.photos)

    def is_within_noise(self, metric: str) -> bool:
        """Return whether the gain may be chance: p >= 0.05 for accuracy, at most two standard errors for the loss."""
        if metric == "val_accuracy":
            return self.p_value >= 0.05
        return self.loss <= 2 * self.loss_error

    def as_dict(self, metric: str) -> dict[str, Any]:
        """Return the gain as best.json stores it."""
        return {
            **dataclasses.asdict(self),
            "accuracy": self.accuracy,
            "within_noise": self.is_within_noise(metric),
        }


def measure_gain(winner: Mapping[str, np.ndarray], default: Mapping[str, np.ndarray]) -> Gain:
    """Compare the `losses` (N,) and `correct` (N,) of the winner with those of trial 0, photo by photo."""
    from catdog.evaluation.paired import paired_test

    test = paired_test(winner["correct"].astype(bool), default["correct"].astype(bool))
    lower = default["losses"].astype(np.float64) - winner["losses"].astype(np.float64)
    count = len(lower)
    error = float(lower.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0
    return Gain(
        photos=count,
        winner_only=test.only_first_correct,
        default_only=test.only_second_correct,
        p_value=test.p_value,
        loss=float(lower.mean()) if count else 0.0,
        loss_error=error,
    )


def gain_text(gain: Mapping[str, Any], *, winner: int, photos: str) -> str:
    """Return the gain over trial 0 in plain words, from best.json. `photos` says which photos were compared."""
    text = (
        f"Against trial 0, the default settings, on {gain['photos']:,} {photos}: loss {-gain['loss']:+.4f} "
        f"(standard error {gain['loss_error']:.4f}), accuracy {gain['accuracy']:+.4f} "
        f"(trial {winner} alone right on {gain['winner_only']}, trial 0 alone on {gain['default_only']}, "
        f"p = {gain['p_value']:.2g})"
    )
    if gain["within_noise"]:
        return f"{text}. The gain is within noise: the default settings may be as good."
    return f"{text}. The gain is larger than the noise."


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over folds and its standard error."""
    found = np.asarray(values, np.float64)
    error = float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else 0.0
    return float(found.mean()), error
