"""What was consumed and generated, and what is expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query
from pydantic import Field

from energy_cloud_dagster.adapters import energy, energy_buckets, energy_document, forecasts, registry
from energy_cloud_dagster.adapters.energy import Flow, IntervalEnergy
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.paging import Paged, Paging
from energy_cloud_dagster.api.security import Caller, Principal, needs, utc_now
from energy_cloud_dagster.api.values import Document, Moment, Page, absent, finite
from energy_cloud_dagster.domain.errors import InvalidInput, NotFound
from energy_cloud_dagster.domain.intervals import HOUR, hour_start

router = APIRouter(prefix="/v1/energy", tags=["energy"])

Aggregation = Literal["raw", "15min", "hourly", "daily"]
#: The window of a question without dates.
DEFAULT_WINDOW = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class EnergyQuery:
    """What was asked about consumption or generation."""

    paging: Paging
    meter_id: str | None
    region: str | None
    start: datetime | None
    end: datetime | None
    aggregation: Aggregation
    as_of: datetime | None


def _query(
    paging: Paged,
    meter_id: Annotated[str | None, Query(alias="meterId", max_length=128, description="Only this meter's.")] = None,
    region: Annotated[str | None, Query(max_length=128, description="Id, alias or name of a region.")] = None,
    start: Annotated[
        Moment | None, Query(alias="startDate", description="First interval; by default 24 h before the end.")
    ] = None,
    end: Annotated[
        Moment | None, Query(alias="endDate", description="Exclusive; by default the end of what is known.")
    ] = None,
    aggregation: Annotated[Aggregation, Query(description="raw readings, or sums by bucket.")] = "raw",
    as_of: Annotated[Moment | None, Query(alias="asOf", description="Answer with what was known then.")] = None,
) -> EnergyQuery:
    return EnergyQuery(paging, meter_id, region, start, end, aggregation, as_of)


Asked = Annotated[EnergyQuery, Depends(_query)]


class Interval(Document):
    """Energy of one meter in one interval (raw) or bucket; ``quality`` is the worst within."""

    meter_id: str
    timestamp: datetime = Field(description="Start of the interval.")
    interval_minutes: int
    unit: Literal["kWh"] = "kWh"
    quality: str
    readings: int = Field(description="How many readings it sums.")
    revision: int | None = Field(description="Of a raw reading: 1, 2 … in order of receipt; null for a bucket.")
    received_at: datetime = Field(description="When the platform knew (the last of them).")


class Consumed(Interval):
    """What one meter consumed."""

    consumption: float


class Produced(Interval):
    """What one generator generated."""

    generation: float
    source: str | None = Field(description="solar, wind, hydro or chp; null where that is unknown.")


class Amounts(Document):
    """Consumption of a region by customer class."""

    total: float
    unit: Literal["kWh"] = "kWh"
    breakdown: dict[str, float]


class Generated(Document):
    """Generation of a region by source; ``grid`` is what came from outside."""

    total: float
    unit: Literal["kWh"] = "kWh"
    sources: dict[str, float]


class Stored(Document):
    """Storage of a region."""

    capacity: float
    current: float
    unit: Literal["kWh"] = "kWh"
    status: str


class EnergyData(Document):
    """The quantities of an energy document."""

    consumption: Amounts
    generation: Generated
    storage: Stored


class Metadata(Document):
    """Where and when an energy document holds, and how far it can be trusted."""

    location: str
    grid_id: str
    quality: str
    confidence: float = Field(ge=0, le=1, description="Share of the expected readings that were measured.")
    start_date: datetime
    end_date: datetime


class Total(Document):
    """The total of a region in one bucket, kWh."""

    timestamp: datetime = Field(description="Start of the bucket.")
    total: float


class EnergyDocument(Document):
    """The WIA-ENE-014 energy document of a region over ``[startDate, endDate)``."""

    version: Literal["1.0"] = "1.0"
    standard: Literal["WIA-ENE-014"] = "WIA-ENE-014"
    timestamp: datetime = Field(description="Start of the window.")
    energy_data: EnergyData
    metadata: Metadata
    intervals: list[Total] | None = Field(
        None, exclude_if=absent, description="With `aggregation`: the total of each bucket that has readings."
    )


class ForecastRequest(Document):
    """Which forecast."""

    horizon: Annotated[int, Field(ge=1, le=168, description="Hours ahead.")] = 24
    location: Annotated[str, Field(min_length=1, max_length=128, examples=["seoul"])]
    as_of: Moment | None = Field(None, description="The newest forecast issued by then; by default the newest of all.")


class Point(Document):
    """One hour: kWh per hour that demand stays below with 10, 50 and 90 % probability."""

    timestamp: datetime
    p10: float
    p50: float
    p90: float


class ForecastDocument(Document):
    """A demand forecast as it was issued."""

    location: str
    issued_at: datetime
    model: str
    rung: str = Field(description="champion, similar_day or persistence.")
    accuracy: dict[str, Any] | None = Field(description="Of the model on its last held-out days; null: not measured.")
    unit: Literal["kWh"] = "kWh"
    points: list[Point]


@router.get("/consumption", summary="What was consumed")
@needs("energy:read")
def consumption(query: Asked, context: Shared, caller: Caller) -> EnergyDocument | Page[Consumed]:
    """Return intervals by meter, or with `region` alone the region's energy document over the window."""
    with context.engine.connect() as connection:
        if query.region is not None and query.meter_id is None:
            return _document(connection, query, "consumption")
        rows, cursor = _rows(connection, query, "consumption", caller)
    return Page(items=[Consumed(**_interval(row), consumption=finite(row.kwh)) for row in rows], next_cursor=cursor)


@router.get("/generation", summary="What was generated")
@needs("energy:read")
def generation(query: Asked, context: Shared, caller: Caller) -> EnergyDocument | Page[Produced]:
    """Return intervals by generator, or with `region` alone the region's energy document over the window."""
    with context.engine.connect() as connection:
        if query.region is not None and query.meter_id is None:
            return _document(connection, query, "generation")
        rows, cursor = _rows(connection, query, "generation", caller)
    items = [Produced(**_interval(row), generation=finite(row.kwh), source=row.series.source) for row in rows]
    return Page(items=items, next_cursor=cursor)


@router.post("/forecast", summary="The newest demand forecast of a region")
@needs("forecasts:read")
def forecast(wanted: ForecastRequest, context: Shared) -> ForecastDocument:
    """Return the forecast that the pipeline issued last, cut to `horizon` hours."""
    with context.engine.connect() as connection:
        region = registry.find_region(connection, wanted.location)
        found = forecasts.latest(connection, f"region/{region.region_id}/load", wanted.as_of, wanted.horizon)
    if found is None:
        raise NotFound(f"no forecast has been issued for {region.region_id} yet")
    return ForecastDocument(
        location=region.region_id,
        issued_at=found.issued_at,
        model=found.model,
        rung=found.rung,
        accuracy=found.accuracy,
        points=[Point(timestamp=ts, p10=p10, p50=p50, p90=p90) for ts, p10, p50, p90 in found.points],
    )


def _window(connection: sa.Connection, query: EnergyQuery) -> tuple[datetime, datetime]:
    end = query.end
    if end is None:
        known = energy.last_known(connection, query.as_of) or utc_now()
        end = hour_start(known) + HOUR
    start = end - DEFAULT_WINDOW if query.start is None else query.start
    if start >= end:
        raise InvalidInput("endDate must lie after startDate", pointer="/endDate")
    return start, end


def _rows(
    connection: sa.Connection, query: EnergyQuery, flow: Flow, caller: Principal
) -> tuple[Sequence[IntervalEnergy], str | None]:
    after = query.paging.after(datetime, int)
    start, end = _window(connection, query)
    region = None if query.region is None else registry.find_region(connection, query.region)
    measured = energy.flow_series(
        connection,
        flow,
        device_id=query.meter_id,
        region_id=None if region is None else region.region_id,
        participant_id=caller.participant_id,
        everyone=caller.sees_all,
    )
    if query.meter_id is not None and not measured:
        raise NotFound(f"there is no meter {query.meter_id} that measures {flow}")
    limit = query.paging.fetch
    if query.aggregation == "raw":
        rows = energy.raw(connection, measured, start, end, limit=limit, as_of=query.as_of, after=after)
    else:
        rows = energy_buckets.bucketed(
            connection, measured, query.aggregation, start, end, limit=limit, as_of=query.as_of, after=after
        )
    return query.paging.page(rows, lambda row: (row.ts, row.series.series_id))


def _interval(row: IntervalEnergy) -> dict[str, Any]:
    return {
        "meter_id": row.series.device_id,
        "timestamp": row.ts,
        "interval_minutes": row.interval_minutes,
        "quality": row.quality,
        "readings": row.readings,
        "revision": row.revision,
        "received_at": row.received_at,
    }


def _document(connection: sa.Connection, query: EnergyQuery, flow: Flow) -> EnergyDocument:
    region = registry.find_region(connection, query.region or "")
    start, end = _window(connection, query)
    found = energy_document.region_energy(connection, region.region_id, start, end, query.as_of)
    intervals = None
    if query.aggregation != "raw":
        totals = energy_document.totals(
            connection, region.region_id, flow, query.aggregation, start=start, end=end, as_of=query.as_of
        )
        intervals = [Total(timestamp=ts, total=finite(kwh)) for ts, kwh in totals]
    return EnergyDocument(
        timestamp=start,
        energy_data=EnergyData(
            consumption=Amounts(total=finite(found.consumption), breakdown=_finite(found.breakdown)),
            generation=Generated(total=finite(found.generation), sources=_finite(found.sources)),
            storage=Stored(
                capacity=found.storage.capacity_kwh,
                current=finite(found.storage.current_kwh),
                status=found.storage.status,
            ),
        ),
        metadata=Metadata(
            location=region.name,
            grid_id=region.grid_id,
            quality=found.quality,
            confidence=finite(found.confidence),
            start_date=start,
            end_date=end,
        ),
        intervals=intervals,
    )


def _finite(amounts: dict[str, float]) -> dict[str, float]:
    return {name: finite(amount) for name, amount in amounts.items()}
