"""What callers post over HTTP, stored by the rules of messages: taken whole, or refused whole and kept with the reason.

Devices and series that are unknown appear where the caller may register them: as unverified meters of one region,
without customer class (the energy document counts those as residential) and without role, so that nothing is planned
or settled by them. Functions take an open connection and never commit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from energy_cloud_dagster.adapters import readings
from energy_cloud_dagster.adapters.tables import device, region, series
from energy_cloud_dagster.domain.errors import InvalidInput, Rejected
from energy_cloud_dagster.domain.readings import ReadingRow, RejectRow, Rules, SeriesInfo, SeriesKey
from energy_cloud_dagster.domain.readings.conversion import shown
from energy_cloud_dagster.domain.readings.measurements import new_series, to_rows
from energy_cloud_dagster.domain.readings.names import require_topic_safe
from energy_cloud_dagster.domain.readings.submissions import Submission

log = structlog.get_logger()

SOURCE: Final = "rest"
_METER: Final = "smart-meter"
_GRID_POINT: Final = "grid-point"
_INTERVAL_MINUTES: Final = 15
#: Series id of rows whose series is registered only once every row is known to be good.
_UNREGISTERED: Final = 0
_MOST_DETAILS: Final = 3


class Ingested(NamedTuple):
    """The rows that were stored, in the order of the measurements, or the faults for which nothing was.

    ``series`` are those of all measurements.
    """

    rows: list[ReadingRow]
    faults: list[Rejected]
    series: dict[SeriesKey, SeriesInfo]


class _Home(NamedTuple):
    """Where a device is, in the order of ``SeriesInfo``."""

    interval_minutes: int
    region_id: str
    device_type: str


def ingest(
    connection: sa.Connection,
    submission: Submission,
    *,
    received_at: datetime,
    rules: Rules,
    register_in: str | None,
) -> Ingested:
    """Store every measurement of a submission, or none.

    ``register_in`` is the region of devices that are unknown; None: such a device is a fault.
    """
    measurements = submission.measurements
    wanted = {(each.device_id, each.metric) for each in measurements}
    known = _series_of(connection, {device_id for device_id, _ in wanted})
    missing = wanted - known.keys()
    faults = list(submission.faults)
    if missing:
        started, unknown = _start(connection, submission, missing, register_in)
        faults += unknown
        known |= started
        measurements = [each for each in measurements if (each.device_id, each.metric) in known]
    rows, refused = to_rows(measurements, known, received_at=received_at, rules=rules, source=SOURCE)
    faults += refused
    if faults:
        return Ingested([], faults, known)
    if missing:
        _register(connection, {key: known[key] for key in missing}, received_at)
        known = _series_of(connection, {device_id for device_id, _ in wanted})
        rows = [
            row if row.series_id else row._replace(series_id=known[each.device_id, each.metric].series_id)
            for row, each in zip(rows, measurements, strict=True)
        ]
    readings.store(connection, rows)
    _keep_metadata(connection, {each.meter_id: each.metadata for each in submission.records if each.metadata})
    return Ingested(rows, [], known)


def reject(
    connection: sa.Connection,
    faults: Sequence[Rejected],
    *,
    route: str,
    body: bytes,
    received_at: datetime,
    max_bytes: int,
) -> None:
    """Keep a refused body, cut to ``max_bytes``, with one row for each reason, however often it struck."""
    details: dict[str, list[str]] = {}
    for each in faults:
        details.setdefault(each.reason, []).append(f"{each.pointer}: {each.detail}" if each.pointer else each.detail)
    readings.reject(
        connection,
        (
            RejectRow(received_at, SOURCE, route, body[:max_bytes], reason, _summary(texts))
            for reason, texts in details.items()
        ),
    )


def _summary(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _MOST_DETAILS} more" if len(texts) > _MOST_DETAILS else ""
    return "; ".join(texts[:_MOST_DETAILS]) + more


def _start(
    connection: sa.Connection,
    submission: Submission,
    missing: Collection[SeriesKey],
    register_in: str | None,
) -> tuple[dict[SeriesKey, SeriesInfo], list[Rejected]]:
    """Return the series that would be registered for what is missing, and a fault for each element that cannot be."""
    homes = _homes(connection, {device_id for device_id, _ in missing})
    stranger = _home_of_strangers(connection, submission, register_in)
    started: dict[SeriesKey, SeriesInfo] = {}
    faults: dict[str, Rejected] = {}
    for each in submission.measurements:
        key = each.device_id, each.metric
        if key not in missing or key in started:
            continue
        pointer = submission.device_pointer(each)
        try:
            home = homes.get(each.device_id) or _home_for(each.device_id, stranger, pointer)
            unit, kind = new_series(each)
            started[key] = SeriesInfo(_UNREGISTERED, unit, kind, *home)
        except Rejected as fault:
            # Several values of one element may lack the same device.
            faults.setdefault(fault.pointer, fault)
    return started, list(faults.values())


def _home_for(device_id: str, stranger: _Home | Rejected, pointer: str) -> _Home:
    """Return where an unknown device is registered, or raise ``Rejected``."""
    if isinstance(stranger, Rejected):
        raise Rejected(stranger.reason, f"device {shown(device_id)} {stranger.detail}", pointer=pointer)
    try:
        require_topic_safe(device_id, "meter id", pointer)
    except InvalidInput as error:
        raise Rejected("bad_payload", str(error), pointer=pointer) from None
    return stranger


def _home_of_strangers(connection: sa.Connection, submission: Submission, register_in: str | None) -> _Home | Rejected:
    """Return where unknown devices of a submission are registered, or why they are not."""
    if register_in is None:
        return Rejected("unknown_device", "is not registered; an operator or admin registers it")
    if submission.grid_id is None:
        return _Home(_INTERVAL_MINUTES, register_in, _METER)
    wanted = sa.select(region.c.region_id).where(region.c.grid_id == _safe(submission.grid_id))
    found = connection.execute(wanted).scalar()
    if found is None:
        return Rejected("unknown_region", "is the grid point of no region")
    return _Home(_INTERVAL_MINUTES, found, _GRID_POINT)


def _register(connection: sa.Connection, started: Mapping[SeriesKey, SeriesInfo], created_at: datetime) -> None:
    """Add the devices and series that are still missing; of callers that do the same the first wins.

    In one order everywhere, so that they never wait for each other in a ring.
    """
    devices = {device_id: info for (device_id, _), info in sorted(started.items())}
    connection.execute(
        insert(device)
        .on_conflict_do_nothing()
        .from_select(
            ["device_id", "region_id", "device_type", "interval_minutes", "verified", "created_at"],
            sa.select(
                sa.func.unnest(_texts(devices)),
                sa.func.unnest(_texts(info.region_id for info in devices.values())),
                sa.func.unnest(_texts(info.device_type for info in devices.values())),
                sa.literal(_INTERVAL_MINUTES),
                sa.false(),
                sa.literal(created_at),
            ),
        )
    )
    keys = sorted(started)
    connection.execute(
        insert(series)
        .on_conflict_do_nothing()
        .from_select(
            ["device_id", "metric", "unit", "kind"],
            sa.select(
                sa.func.unnest(_texts(device_id for device_id, _ in keys)),
                sa.func.unnest(_texts(metric for _, metric in keys)),
                sa.func.unnest(_texts(started[key].unit for key in keys)),
                sa.func.unnest(_texts(started[key].kind for key in keys)),
            ),
        )
    )
    log.info("series_registered", source=SOURCE, series=len(keys))


def _keep_metadata(connection: sa.Connection, said: Mapping[str, dict[str, Any]]) -> None:
    """Keep what meters said of themselves; devices are locked in one order, and only those that said something new."""
    if not said:
        return
    ids = sorted(said)
    texts = _texts(msgspec.json.encode(said[each]).decode() for each in ids)
    given = sa.select(
        sa.func.unnest(_texts(ids)).label("device_id"),
        sa.cast(sa.func.unnest(texts), JSONB).label("metadata"),
    ).subquery("given")
    changed = (
        sa.select(device.c.device_id, given.c.metadata)
        .join_from(device, given, given.c.device_id == device.c.device_id)
        .where(device.c.metadata.is_distinct_from(given.c.metadata))
        .order_by(device.c.device_id)
        .with_for_update(of=device)
        .cte("changed")
    )
    connection.execute(
        sa.update(device).where(device.c.device_id == changed.c.device_id).values(metadata=changed.c.metadata)
    )


def _series_of(connection: sa.Connection, device_ids: Collection[str]) -> dict[SeriesKey, SeriesInfo]:
    columns = (series.c.series_id, series.c.unit, series.c.kind)
    place = (device.c.interval_minutes, device.c.region_id, device.c.device_type)
    statement = (
        sa.select(series.c.device_id, series.c.metric, *columns, *place, series.c.role)
        .join_from(series, device)
        .where(series.c.device_id == sa.any_(_texts(device_ids)))
    )
    return {(row[0], row[1]): SeriesInfo._make(row[2:]) for row in connection.execute(statement)}


def _homes(connection: sa.Connection, device_ids: Collection[str]) -> dict[str, _Home]:
    """Return the homes of those that are registered."""
    statement = sa.select(
        device.c.device_id, device.c.interval_minutes, device.c.region_id, device.c.device_type
    ).where(device.c.device_id == sa.any_(_texts(device_ids)))
    return {row[0]: _Home._make(row[1:]) for row in connection.execute(statement)}


def _texts(values: Iterable[str]) -> sa.ColumnElement[Any]:
    return sa.literal([_safe(value) for value in values], ARRAY(sa.Text))


def _safe(text: str) -> str:
    """Return text without what PostgreSQL's cannot hold; no registered name has it."""
    return text.replace("\x00", "\ufffd")
