"""How energy is answered: intervals by meter, and the WIA-ENE-014 documents in the models that also validate them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import Response

from energy_cloud_dagster.adapters.energy import Flow, IntervalEnergy
from energy_cloud_dagster.adapters.energy_document import RegionEnergy
from energy_cloud_dagster.adapters.registry import RegionRow
from energy_cloud_dagster.api.values import Document, finite
from energy_cloud_dagster.domain import documents
from energy_cloud_dagster.domain.errors import NotFound


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


class Window(documents.Metadata):
    """Where and when the quantities hold, and how far they can be trusted."""

    start_date: AwareDatetime
    end_date: AwareDatetime = Field(description="Exclusive.")


class Total(Document):
    """The total of a region in one bucket, kWh."""

    timestamp: datetime = Field(description="Start of the bucket.")
    total: float


class EnergyAnswer(documents.EnergyDocument):
    """The energy document of a region over `[startDate, endDate)`; `timestamp` is the start of the window."""

    metadata: Window
    intervals: list[Total] | None = Field(
        None, description="With `aggregation`: the total of each bucket that has readings."
    )


def energy(
    found: RegionEnergy,
    region: RegionRow,
    start: datetime,
    end: datetime,
    totals: Iterable[tuple[datetime, float]] | None,
) -> Response:
    """Return the energy document in full, with the ``totals`` of buckets where there are any."""
    storage = documents.Storage.model_validate(
        {
            "capacity": found.storage.capacity_kwh,
            "current": finite(found.storage.current_kwh),
            "unit": "kWh",
            "status": found.storage.status,
        }
    )
    data = documents.EnergyData(
        consumption=documents.Consumption(
            total=finite(found.consumption), unit="kWh", breakdown=_finite(found.breakdown)
        ),
        generation=documents.Generation(total=finite(found.generation), unit="kWh", sources=_finite(found.sources)),
        storage=storage,
    )
    return _answer(
        EnergyAnswer(
            standard="WIA-ENE-014",
            version="1.0",
            timestamp=start,
            energy_data=data,
            metadata=_window(found, region, start, end),
            intervals=None if totals is None else [Total(timestamp=ts, total=finite(kwh)) for ts, kwh in totals],
        )
    )


def phase_1(found: RegionEnergy, region: RegionRow, start: datetime, end: datetime) -> Response:
    """Return the energy document as phase 1 of the standard has it: consumption and its quality."""
    consumption = documents.Consumption.model_validate(
        {"total": finite(found.consumption), "unit": "kWh", "quality": found.consumption_quality}
    )
    return _answer(
        EnergyAnswer(
            standard="WIA-ENE-014",
            version="1.0",
            phase=1,
            timestamp=start,
            energy_data=documents.EnergyData(consumption=consumption),
            metadata=_window(found, region, start, end),
        )
    )


def meter_document(flow: Flow, rows: Sequence[IntervalEnergy], cursor: str | None, made_at: datetime) -> Response:
    """Return a page of one meter's intervals as a meter document, energy in kWh; `nextCursor` where more follow.

    A document has one reading at least: ``NotFound`` where there is none.
    """
    if not rows:
        raise NotFound("the meter has no readings there, and a meter document needs one; ask without `document`")
    document = {
        "standard": "WIA-ENE-014",
        "version": "1.0",
        "timestamp": made_at,
        "meterId": rows[0].series.device_id,
        "readings": [
            {"timestamp": row.ts, "metric": flow, "value": finite(row.kwh), "unit": "kWh", "quality": row.quality}
            for row in rows
        ],
    }
    return _answer(documents.MeterDocument.model_validate(document | ({"nextCursor": cursor} if cursor else {})))


def _window(found: RegionEnergy, region: RegionRow, start: datetime, end: datetime) -> Window:
    return Window.model_validate(
        {
            "location": region.name,
            "gridId": region.grid_id,
            "quality": found.quality,
            "confidence": finite(found.confidence),
            "startDate": start,
            "endDate": end,
        }
    )


def _finite(amounts: dict[str, float]) -> dict[str, float]:
    return {name: finite(amount) for name, amount in amounts.items()}


def _answer(document: BaseModel) -> Response:
    return Response(document.model_dump_json(by_alias=True, exclude_none=True), media_type="application/json")
