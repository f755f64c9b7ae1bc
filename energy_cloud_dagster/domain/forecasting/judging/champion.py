"""Which model speaks for a series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.judging.accuracy import Accuracy

#: A challenger must be better by this share, so that two equals do not take turns.
MARGIN: Final = 0.02


def choose(scores: Mapping[str, Accuracy], current: str | None, margin: float = MARGIN) -> str:
    """Return the model with the least MASE (MAE where it is not defined), the ``current`` one unless clearly beaten.

    ``current`` stays while the best is not better by more than the share ``margin``; one that has no score loses its
    place. Ties go to the first name in alphabetical order. No score at all raises ``InvalidInput``.
    """
    scaled = all(one.mase is not None for one in scores.values() if one.mae is not None)
    errors = {
        name: error for name, one in sorted(scores.items()) if (error := one.mase if scaled else one.mae) is not None
    }
    if not errors:
        raise InvalidInput("no model has a score to choose by")
    best = min(errors, key=lambda name: errors[name])
    if current in errors and current is not None and errors[best] >= errors[current] * (1 - margin):
        return current
    return best
