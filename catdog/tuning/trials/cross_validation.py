"""Cross-validation of the frozen stage: every photo is rated by a head that was not trained on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from catdog.tuning.selection import mean_and_error
from catdog.tuning.trials.frozen import FrozenRows, HeadFitter, Part, rate_head, scores_of


def assign_folds(labels: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """Return the fold (N,) of each photo. Folds are stratified by class.

    The driver calls this once for all trials: importing scikit-learn would be a quarter of the start of a trial's
    process.
    """
    from sklearn.model_selection import StratifiedKFold

    found = np.zeros(len(labels), np.int32)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, held) in enumerate(split.split(np.zeros(len(labels)), labels)):
        found[held] = fold
    return found


def cross_validate(
    rows: FrozenRows, fitter: HeadFitter, *, c: float = 0.0
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return the scores over all folds, and the loss and correctness of each photo when its fold was left out.

    The folds contain both training and validation photos. Heads are trained on a photo's training views if it has
    them, and scored on its plain view. The scores are means over photos, with the standard error of the fold means.
    """
    assert rows.plain is not None
    assert rows.fold_of is not None
    fold_of, count = rows.fold_of, len(rows.train_labels)
    losses, correct = np.zeros(len(fold_of), np.float32), np.zeros(len(fold_of), bool)
    scores = []
    for fold in range(int(fold_of.max()) + 1):
        kept, held = fold_of != fold, fold_of == fold
        train = (
            Part(features=rows.train, labels=rows.train_labels, rows=np.flatnonzero(kept[:count])),
            Part(
                features=rows.validation[np.newaxis],
                labels=rows.validation_labels,
                rows=np.flatnonzero(kept[count:]),
            ),
        )
        left_out = (
            Part(features=rows.plain[np.newaxis], labels=rows.train_labels, rows=np.flatnonzero(held[:count])),
            Part(
                features=rows.validation[np.newaxis],
                labels=rows.validation_labels,
                rows=np.flatnonzero(held[count:]),
            ),
        )
        head = fitter.fit(train, left_out, c=c)
        losses[held], correct[held] = rate_head(head.weights, left_out)
        scores.append(scores_of(losses[held], correct[held]))
    summary: dict[str, Any] = dict(scores_of(losses, correct))
    for name in ("accuracy", "loss"):
        summary[f"{name}_error"] = mean_and_error([one[name] for one in scores])[1]
    return {**summary, "scores": scores}, losses, correct
