"""Models that go on from an earlier fit, where one is known that saw nothing of what comes after their history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Fitted, Model
from energy_cloud_dagster.domain.forecasting.judging.rolling import Refittable
from energy_cloud_dagster.domain.forecasting.series import hourly


@dataclass(frozen=True)
class WarmStart:
    """The model ``model``, started from the newest of ``earlier`` that may be known where a history ends.

    A fit that is to be judged on the days after its history must not go on from one that has seen these days.
    """

    model: Model
    earlier: tuple[Fitted, ...]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    def fit(self, history: pd.Series[Any], regressors: pd.DataFrame | None, *, timezone: str, seed: int) -> Fitted:
        """Fit as ``Model`` says, from nothing where no earlier fit can go on."""
        past = hourly(history)
        if not past.empty:
            end = past.index[-1] + pd.Timedelta(hours=1)
            for one in sorted(self.earlier, key=lambda fitted: fitted.train_end, reverse=True):
                known: object = one  # the protocols overlap
                if isinstance(known, Refittable) and one.train_end <= end:
                    try:
                        return known.refit(past, regressors, timezone=timezone, seed=seed)
                    except InvalidInput:
                        continue
        return self.model.fit(history, regressors, timezone=timezone, seed=seed)
