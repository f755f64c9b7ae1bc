"""What was consumed and generated: interval energy of meters and generators from the latest revision known.

Readings that wait in quarantine or were confirmed as faulty count in no sum; as raw rows they stay visible. Sums by
hour and day are in ``energy_buckets``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from energy_cloud_dagster.adapters.tables import device, quarantine, reading, series
from energy_cloud_dagster.domain.units import energy_kwh

Flow = Literal["consumption", "generation"]
Bucket = Literal["15min", "hourly", "daily"]

#: From best to worst; an aggregate is as good as its worst reading.
QUALITIES: Final = ("high", "medium", "low", "bad")
#: The role of a series, or else the type of its device, says which source it measures.
SOURCE_OF_ROLE: Final = {"pv": "solar", "solar": "solar", "wind": "wind", "hydro": "hydro", "chp": "chp"}
SOURCE_OF_TYPE: Final = {
    "solar-panel": "solar",
    "inverter": "solar",
    "wind-turbine": "wind",
    "hydro-turbine": "hydro",
    "chp": "chp",
}


class EnergySeries(NamedTuple):
    """A series that measures energy or power, with what its readings need to be understood."""

    series_id: int
    device_id: str
    device_type: str
    participant_id: str | None
    customer_class: str | None
    metric: str
    unit: str
    kind: str
    role: str | None
    interval_minutes: int

    def kwh(self, total: float) -> float:
        """Return the energy of a sum of its values: kWh stay, mean kW are held for one interval each."""
        return energy_kwh(total, self.interval_minutes) if self.kind == "power" else total

    @property
    def source(self) -> str | None:
        """What generates here (solar, wind, hydro, chp), None where that is unknown."""
        return SOURCE_OF_ROLE.get(self.role or "") or SOURCE_OF_TYPE.get(self.device_type)


class IntervalEnergy(NamedTuple):
    """Energy of one series in one interval or bucket that starts at ``ts``; ``quality`` the worst within.

    ``revision`` is that of a raw reading and None for a bucket; ``readings`` counts what a bucket sums.
    """

    series: EnergySeries
    ts: datetime
    kwh: float
    interval_minutes: int
    quality: str
    received_at: datetime
    readings: int
    revision: int | None


_COLUMNS: Final = (
    series.c.series_id,
    series.c.device_id,
    device.c.device_type,
    device.c.participant_id,
    device.c.customer_class,
    series.c.metric,
    series.c.unit,
    series.c.kind,
    series.c.role,
    device.c.interval_minutes,
)


def flow_series(
    connection: sa.Connection,
    flow: Flow,
    *,
    device_id: str | None = None,
    region_id: str | None = None,
    participant_id: str | None = None,
    everyone: bool = True,
) -> list[EnergySeries]:
    """Return the series that measure ``flow`` in kWh or kW, in the order of their devices.

    Generation is every ``generation`` metric and every ``output`` or ``power`` of a generator; storage is neither.
    With ``everyone`` false only devices of ``participant_id`` and those of nobody are seen.
    """
    metric = series.c.metric == flow
    if flow == "generation":
        output = sa.and_(series.c.metric.in_(("output", "power")), series.c.role.in_(SOURCE_OF_ROLE))
        metric = sa.or_(metric, output)
    if device_id is not None:
        # What an energy document told of a whole grid point counts in no sum, but its own question finds it.
        metric = sa.and_(series.c.device_id == device_id, sa.or_(metric, series.c.metric == f"region-{flow}"))
    statement = (
        sa.select(*_COLUMNS)
        .join_from(series, device, device.c.device_id == series.c.device_id)
        .where(metric, series.c.kind.in_(("energy", "power")))
        .order_by(series.c.device_id, series.c.metric)
    )
    if region_id is not None:
        statement = statement.where(device.c.region_id == region_id)
    if not everyone:
        statement = statement.where(
            sa.or_(device.c.participant_id.is_(None), device.c.participant_id == participant_id)
        )
    return [EnergySeries._make(row) for row in connection.execute(statement)]


def storage_series(connection: sa.Connection, region_id: str) -> list[EnergySeries]:
    """Return the power series (discharge positive) of the storage devices of a region."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .join_from(series, device, device.c.device_id == series.c.device_id)
        .where(device.c.region_id == region_id, series.c.kind == "power", series.c.role == "storage")
        .order_by(series.c.device_id, series.c.metric)
    )
    return [EnergySeries._make(row) for row in rows]


def last_known(connection: sa.Connection, as_of: datetime | None) -> datetime | None:
    """Return the newest interval start of any reading known at ``as_of`` (None: ever)."""
    statement = sa.select(reading.c.ts).order_by(reading.c.ts.desc()).limit(1)
    if as_of is not None:
        statement = statement.where(reading.c.ts <= as_of, reading.c.received_at <= as_of)
    return connection.execute(statement).scalar()


def raw(
    connection: sa.Connection,
    measured: Sequence[EnergySeries],
    start: datetime,
    end: datetime,
    *,
    limit: int,
    as_of: datetime | None = None,
    after: tuple[datetime, int] | None = None,
) -> list[IntervalEnergy]:
    """Return up to ``limit`` readings of ``[start, end)`` in kWh, ordered by (ts, series_id), those past ``after``."""
    known = {item.series_id: item for item in measured}
    statement = _latest(list(known), start if after is None else max(start, after[0]), end, as_of)
    if after is not None:
        statement = statement.where(sa.tuple_(reading.c.ts, reading.c.series_id) > sa.tuple_(*after))
    found = []
    for row in connection.execute(statement.limit(limit)):
        item = known[row.series_id]
        kwh = item.kwh(row.value)
        found.append(
            IntervalEnergy(item, row.ts, kwh, item.interval_minutes, row.quality, row.received_at, 1, row.revision)
        )
    return found


class SeriesSum(NamedTuple):
    """The accepted readings of one series in a window: their sum, how many, and how many of each quality."""

    total: float
    readings: int
    by_quality: dict[str, int]


def sums(
    connection: sa.Connection,
    measured: Sequence[EnergySeries],
    start: datetime,
    end: datetime,
    as_of: datetime | None = None,
) -> dict[int, SeriesSum]:
    """Return the sums of ``[start, end)`` by series id; a series without a reading is absent."""
    latest = _accepted([item.series_id for item in measured], start, end, as_of)
    rows = connection.execute(
        sa.select(
            latest.c.series_id,
            sa.func.sum(latest.c.value).label("total"),
            sa.func.count().label("readings"),
            *(sa.func.count().filter(latest.c.quality == quality).label(quality) for quality in QUALITIES),
        ).group_by(latest.c.series_id)
    )
    return {
        row.series_id: SeriesSum(row.total, row.readings, {quality: getattr(row, quality) for quality in QUALITIES})
        for row in rows
    }


def _latest(series_ids: list[int], start: datetime, end: datetime, as_of: datetime | None) -> sa.Select[Any]:
    """Select the newest revision known of every reading in the window, ordered by (ts, series_id)."""
    statement = (
        sa.select(
            reading.c.series_id,
            reading.c.ts,
            reading.c.revision,
            reading.c.value,
            reading.c.quality,
            reading.c.received_at,
        )
        .ext(distinct_on(reading.c.ts, reading.c.series_id))
        .where(reading.c.series_id.in_(series_ids), reading.c.ts >= start, reading.c.ts < end)
        .order_by(reading.c.ts, reading.c.series_id, reading.c.revision.desc())
    )
    return statement if as_of is None else statement.where(reading.c.received_at <= as_of)


def _accepted(series_ids: list[int], start: datetime, end: datetime, as_of: datetime | None) -> sa.CTE:
    """Return the newest revisions that neither wait nor were confirmed in quarantine."""
    return _latest(series_ids, start, end, as_of).where(~held()).cte("accepted")


def held() -> sa.Exists:
    """Whether the row of ``raw.reading`` at hand is held or confirmed as faulty; an older revision stands then."""
    return sa.exists().where(
        quarantine.c.series_id == reading.c.series_id,
        quarantine.c.ts == reading.c.ts,
        quarantine.c.revision == reading.c.revision,
        quarantine.c.state != "released",
    )
