"""What was consumed and generated, and what is expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.responses import Response

from energy_cloud_dagster.adapters import energy, energy_buckets, energy_document, forecasts, registry
from energy_cloud_dagster.adapters.energy import Flow, IntervalEnergy
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.paging import Paged, Paging
from energy_cloud_dagster.api.routers import energy_answers, forecast_answers
from energy_cloud_dagster.api.routers.energy_answers import Consumed, EnergyAnswer, Produced
from energy_cloud_dagster.api.security import Caller, Principal, needs, utc_now
from energy_cloud_dagster.api.values import Document, Moment, Page, finite
from energy_cloud_dagster.domain.documents import MeterDocument
from energy_cloud_dagster.domain.errors import InvalidInput, NotFound
from energy_cloud_dagster.domain.intervals import HOUR, hour_start

router = APIRouter(prefix="/v1/energy", tags=["energy"])

Aggregation = Literal["raw", "15min", "hourly", "daily"]
DocumentKind = Literal["energy", "energy-phase-1", "meter"]
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
    document: DocumentKind | None

    @property
    def of_region(self) -> bool:
        """Whether a region is asked about and no single meter."""
        return self.region is not None and self.meter_id is None


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
    document: Annotated[
        DocumentKind | None,
        Query(
            description="Answer as this WIA-ENE-014 document: `meter` of a meter; of a region, by default, `energy`."
        ),
    ] = None,
) -> EnergyQuery:
    query = EnergyQuery(paging, meter_id, region, start, end, aggregation, as_of, document)
    if document == "meter" and meter_id is None:
        raise InvalidInput("a meter document is one of a meter; add meterId", pointer="/document")
    if document not in {None, "meter"} and not query.of_region:
        raise InvalidInput("an energy document is one of a region; give region and no meterId", pointer="/document")
    return query


Asked = Annotated[EnergyQuery, Depends(_query)]


class ForecastRequest(Document):
    """Which forecast."""

    horizon: Annotated[int, Field(ge=1, le=168, description="Hours ahead.")] = 24
    location: Annotated[str, Field(min_length=1, max_length=128, examples=["seoul"])]
    as_of: Moment | None = Field(None, description="The newest forecast issued by then; by default the newest of all.")


@router.get("/consumption", summary="What was consumed", response_model=EnergyAnswer | MeterDocument | Page[Consumed])
@needs("energy:read")
def consumption(query: Asked, context: Shared, caller: Caller) -> Response | Page[Consumed]:
    """Return intervals by meter, or with `region` alone the region's energy document over the window.

    Closed hours and days come from what the pipeline validated, the rest from readings as they came.
    """
    with context.engine.connect() as connection:
        if query.of_region:
            return _region_document(connection, query, "consumption")
        rows, cursor = _rows(connection, query, "consumption", caller)
    if query.document == "meter":
        return energy_answers.meter_document("consumption", rows, cursor, query.as_of or utc_now())
    items = [Consumed(**_interval(row), consumption=finite(row.kwh)) for row in rows]
    return Page(items=items, next_cursor=cursor)


@router.get("/generation", summary="What was generated", response_model=EnergyAnswer | MeterDocument | Page[Produced])
@needs("energy:read")
def generation(query: Asked, context: Shared, caller: Caller) -> Response | Page[Produced]:
    """Return intervals by generator, or with `region` alone the region's energy document over the window.

    Closed hours and days come from what the pipeline validated, the rest from readings as they came.
    """
    with context.engine.connect() as connection:
        if query.of_region:
            return _region_document(connection, query, "generation")
        rows, cursor = _rows(connection, query, "generation", caller)
    if query.document == "meter":
        return energy_answers.meter_document("generation", rows, cursor, query.as_of or utc_now())
    items = [Produced(**_interval(row), generation=finite(row.kwh), source=row.series.source) for row in rows]
    return Page(items=items, next_cursor=cursor)


@router.post("/forecast", summary="The newest demand forecast of a region")
@needs("forecasts:read")
def forecast(wanted: ForecastRequest, context: Shared) -> forecast_answers.ForecastDocument:
    """Return the forecast that the pipeline issued last, cut to `horizon` hours.

    `accuracy` says what to expect of it: what its model had in backtest, and what became of the forecasts that were
    published in the last four weeks, each beside the value of the week before.
    """
    with context.engine.connect() as connection:
        region = registry.find_region(connection, wanted.location)
        key = f"region/{region.region_id}/load"
        found = forecasts.latest(connection, key, wanted.as_of, wanted.horizon)
        published = {} if found is None else forecasts.published(connection, key, found.issued_at)
    if found is None:
        raise NotFound(f"no forecast has been issued for {region.region_id} yet")
    return forecast_answers.document(region.region_id, found, published)


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


def _region_document(connection: sa.Connection, query: EnergyQuery, flow: Flow) -> Response:
    region = registry.find_region(connection, query.region or "")
    start, end = _window(connection, query)
    found = energy_document.region_energy(connection, region.region_id, start, end, query.as_of)
    if query.document == "energy-phase-1":
        return energy_answers.phase_1(found, region, start, end)
    totals = None
    if query.aggregation != "raw":
        totals = energy_document.totals(
            connection, region.region_id, flow, query.aggregation, start=start, end=end, as_of=query.as_of
        )
    return energy_answers.energy(found, region, start, end, totals)
