"""How much each setting of a sweep mattered: the share of the objective's variance that it explains.

If Optuna is installed, this uses its fANOVA (F. Hutter and others, ICML 2014). Otherwise it permutes one setting at a
time for a random forest (L. Breiman, "Random Forests", 2001).
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catdog.tuning.records import effective_values
from catdog.tuning.selection import objective, record_scores
from catdog.tuning.space import Domain, Space

_MIN_TRIALS = 8  # fewer give no useful estimate
_TREES = 64

Record = Mapping[str, Any]


def measure_importance(records: Sequence[Record], space: Space, *, metric: str) -> dict[str, Any] | None:
    """Return {"method", "shares": {setting: share of 1}}, or None if the trials are too few or do not differ.

    A trial counts with the scores by which the sweep rates it, from whatever stage. A trial that lacks a setting counts
    with the setting's median, or for choices as one more choice.
    """
    rated = [(record, objective(scores, metric)) for record in records if (scores := record_scores(record))]
    keys = [key for key in space if len({str(record["values"].get(key)) for record, _ in rated}) > 1]
    if len(rated) < _MIN_TRIALS or not keys or len({value for _, value in rated}) < 2:
        return None
    columns = np.stack(
        [_column([effective_values(record).get(key) for record, _ in rated], space[key]) for key in keys], axis=1
    )
    # Clip the worst values. A few terrible trials, with far too high a learning rate, would decide all shares.
    values = np.array([value for _, value in rated])
    ranks = np.minimum(values, np.quantile(values, 0.5) + 3 * (np.quantile(values, 0.5) - values.min() + 1e-12))
    if importlib.util.find_spec("optuna") is not None:
        return {"method": "fANOVA", "shares": _by_optuna(keys, columns, ranks)}
    return {"method": "permutation", "shares": _by_permutation(keys, columns, ranks)}


def _column(values: Sequence[Any], domain: Domain) -> np.ndarray:
    """Return a setting's values as numbers: logarithms if it was drawn on a log scale, indices for choices."""
    if domain.values:
        names = [str(value) for value in domain.values]
        names += sorted({str(value) for value in values} - set(names))  # trial 0 may have a value outside the choices
        return np.array([float(names.index(str(value))) for value in values])
    found = np.array([math.nan if value is None else float(value) for value in values])
    if domain.is_log:
        found = np.log(np.where(found > 0, found, math.nan))
    return np.where(np.isnan(found), np.nanmedian(found), found)


def _by_optuna(keys: Sequence[str], columns: np.ndarray, values: np.ndarray) -> dict[str, float]:
    import optuna
    from optuna.distributions import FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {
        key: FloatDistribution(float(column.min()), float(column.max()))
        for key, column in zip(keys, columns.T, strict=True)
    }
    study = optuna.create_study()
    for row, value in zip(columns, values, strict=True):
        params = dict(zip(keys, map(float, row), strict=True))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=float(value)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: round(float(found[key]), 4) for key in found}


def _by_permutation(keys: Sequence[str], columns: np.ndarray, values: np.ndarray) -> dict[str, float]:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    forest = RandomForestRegressor(_TREES, random_state=0).fit(columns, values)
    means = permutation_importance(forest, columns, values, n_repeats=20, random_state=0).importances_mean
    means = np.maximum(means, 0)
    shares = means / max(means.sum(), 1e-12)
    order = np.argsort(-shares)
    return {keys[index]: round(float(shares[index]), 4) for index in order}
