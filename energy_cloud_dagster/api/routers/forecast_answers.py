"""How a forecast is answered: its points, how good its model proved in backtest, what became of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field

from energy_cloud_dagster.adapters import forecasts
from energy_cloud_dagster.api.values import Document, absent, finite


class Point(Document):
    """One hour: kWh per hour that demand stays below with 10, 50 and 90 % probability."""

    timestamp: datetime
    p10: float
    p50: float
    p90: float


class Scores(Document):
    """Errors of the median, and of the quantiles; null where not defined."""

    hours: int | None = Field(None, description="Hours that were compared.")
    mape: float | None = Field(None, description="Mean absolute error in percent of what was measured.")
    mae: float | None = Field(None, description="Mean absolute error, kWh per hour.")
    rmse: float | None = Field(None, description="Root of the mean squared error, kWh per hour.")
    mase: float | None = Field(None, description="mae by the mean weekly change: below 1 beats last week's value.")
    bias: float | None = Field(None, description="Mean error, kWh per hour; positive forecasts too much.")
    pinball: float | None = Field(None, description="Mean pinball loss of P10, P50 and P90, kWh per hour.")
    coverage: float | None = Field(None, description="Percent of the hours between P10 and P90; 80 is right.")

    @classmethod
    def of(cls, found: Mapping[str, Any], **more: Any) -> Self:
        """Return the scores in ``found``, whose ``coverage`` is a share; what it lacks is null."""
        known = {name: found.get(name) for name in Scores.model_fields}
        share = known["coverage"]
        return cls(**{**known, "coverage": None if share is None else finite(100 * share)}, **more)


class Published(Scores):
    """What was published day ahead over the last four weeks, against what was measured."""

    days: int
    baseline: Scores | None = Field(None, description="The seasonal naive of the same days.", exclude_if=absent)


class Accuracy(Scores):
    """The accuracy that the model had in the backtest of its fit, a day ahead from local midnights."""

    baseline: Scores | None = Field(
        None, description="Last week's value (seasonal naive) in the same backtest.", exclude_if=absent
    )
    published: Published | None = Field(
        None, description="Of the region's published forecasts, whatever the model.", exclude_if=absent
    )


class ForecastDocument(Document):
    """A demand forecast as it was issued."""

    location: str
    issued_at: datetime
    model: str
    rung: str = Field(description="champion, similar_day or persistence.")
    accuracy: Accuracy | None = Field(description="What may be expected of the model; null: never measured.")
    unit: Literal["kWh"] = "kWh"
    points: list[Point]


def document(
    region_id: str, found: forecasts.Forecast, published: Mapping[str, forecasts.Published]
) -> ForecastDocument:
    """Return the answer for what was issued; ``published`` is what became of earlier issues, by model."""
    return ForecastDocument(
        location=region_id,
        issued_at=found.issued_at,
        model=found.model,
        rung=found.rung,
        accuracy=_accuracy(found.accuracy, published),
        points=[Point(timestamp=ts, p10=p10, p50=p50, p90=p90) for ts, p10, p50, p90 in found.points],
    )


def _accuracy(found: Mapping[str, Any] | None, published: Mapping[str, forecasts.Published]) -> Accuracy | None:
    chosen, naive = published.get("published"), published.get("seasonal_naive")
    after = None
    if chosen is not None:
        beside = None if naive is None else Scores.of(naive._asdict())
        after = Published.of(chosen._asdict(), days=chosen.days, baseline=beside)
    if found is None and after is None:
        return None
    known = found or {}
    baseline = known.get("baseline")
    return Accuracy.of(known, baseline=Scores.of(baseline) if baseline else None, published=after)
