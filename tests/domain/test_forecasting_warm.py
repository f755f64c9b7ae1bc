"""A warm start goes on from what may be known, and from nothing where that cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.forecasting.forecast import Fitted
from energy_cloud_dagster.domain.forecasting.judging.warm import WarmStart
from energy_cloud_dagster.domain.forecasting.models.naive import SeasonalNaive

START = datetime(2026, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Earlier:
    """A fit that remembers its end, and goes on unless ``refuses``."""

    train_end: datetime
    refuses: bool = False

    def refit(self, history: pd.Series, regressors: Any, *, timezone: str, seed: int) -> Any:
        del regressors, timezone, seed
        if self.refuses:
            raise InvalidInput("other regressors")
        return ("went on", self.train_end, len(history))


def fit(*earlier: Any, hours: int = 400) -> Any:
    history = pd.Series(range(hours), index=pd.date_range(START, periods=hours, freq="h"), dtype=float)
    return WarmStart(SeasonalNaive(), earlier).fit(history, None, timezone="UTC", seed=1)


def test_the_newest_fit_that_has_seen_nothing_later_goes_on() -> None:
    ends = [START + hours * HOUR for hours in (100, 300, 400, 401)]
    assert fit(*(Earlier(end) for end in ends)) == ("went on", ends[2], 400)
    assert fit(*(Earlier(end) for end in ends), hours=350) == ("went on", ends[1], 350)


@pytest.mark.parametrize("earlier", [(), (Earlier(START + 999 * HOUR),), (Earlier(START, refuses=True),)])
def test_without_one_that_can_go_on_it_is_fitted_from_nothing(earlier: tuple[Any, ...]) -> None:
    found = fit(*earlier)
    assert isinstance(found, Fitted)
    assert found.name == WarmStart(SeasonalNaive(), earlier).name == "seasonal_naive"


def test_a_refusal_leads_to_the_one_before() -> None:
    older, newer = Earlier(START + 100 * HOUR), Earlier(START + 200 * HOUR, refuses=True)
    assert fit(older, newer) == ("went on", older.train_end, 400)


def test_models_that_cannot_go_on_are_fitted_anew() -> None:
    assert isinstance(fit(fit(hours=300)), Fitted)
