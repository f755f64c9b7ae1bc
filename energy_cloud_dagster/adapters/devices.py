"""Devices as people manage them: added with their series, listed by page, removed while nothing rests on them.

Functions take an open connection and never commit. What arrives from unknown devices is registered by ``registry``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters import credentials, registry
from energy_cloud_dagster.adapters.registry import DeviceRow
from energy_cloud_dagster.adapters.tables import command, device, participant, reading, series, vpp_resource
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, NotFound, Rejected
from energy_cloud_dagster.domain.readings import BASE_UNITS, CONTROL_METRICS, dimension
from energy_cloud_dagster.domain.readings.names import require_topic_safe

CUSTOMER_CLASSES: Final = ("residential", "commercial", "industrial")
#: What the pipeline can use a series as. An hour counts as complete when every series with a role has been heard.
ROLES: Final = frozenset({"load", "pv", "solar", "wind", "storage", "soc", "region_load", "temperature", "wind_speed"})
_KIND_OF: Final = {"energy": "energy", "power": "power"}


class SeriesSpec(NamedTuple):
    """One metric of a device; ``unit`` as devices send it, kept in the base unit; ``role`` None: stored only."""

    metric: str
    unit: str
    role: str | None = None


class SeriesRow(NamedTuple):
    """One registered series; ``kind`` is energy (per interval), power (mean) or state."""

    metric: str
    unit: str
    kind: str
    role: str | None


class Registered(NamedTuple):
    """A device with its series, by metric, and how many of its tokens are valid."""

    device: DeviceRow
    series: tuple[SeriesRow, ...]
    tokens: int


#: What a device of a type measures where nothing else is said.
DEFAULT_SERIES: Final[Mapping[str, tuple[SeriesSpec, ...]]] = {
    "smart-meter": (SeriesSpec("consumption", "kWh"),),
    "solar-panel": (SeriesSpec("generation", "kWh"),),
    "inverter": (SeriesSpec("output", "kW"),),
    "battery": (SeriesSpec("soc", "1"), SeriesSpec("output", "kW")),
    "wind-turbine": (SeriesSpec("output", "kW"),),
    "hydro-turbine": (SeriesSpec("output", "kW"),),
    "chp": (SeriesSpec("output", "kW"),),
    "ev-charger": (SeriesSpec("consumption", "kWh"),),
    "grid-meter": (SeriesSpec("load", "kW"),),
    "weather-station": (SeriesSpec("temperature", "°C"),),
}

_COLUMNS: Final = tuple(device.c[name] for name in DeviceRow._fields)


def add(
    connection: sa.Connection,
    device_id: str,
    region: str,
    device_type: str,
    created_at: datetime,
    *,
    customer_class: str | None = None,
    participant_id: str | None = None,
    interval_minutes: int = 15,
    measures: Sequence[SeriesSpec] = (),
) -> Registered:
    """Register a verified device with its series; ``region`` is an id or an alias, without ``measures`` its type's.

    A device that was registered unverified on first sight is adopted: it becomes verified and gets what is given
    here, its readings and series stay. Any other taken id, or one seen under another region or type, is ``Conflict``;
    a faulty field is ``InvalidInput`` with its pointer.
    """
    require_topic_safe(device_id, "device id", "/id")
    require_topic_safe(device_type, "device type", "/type")
    region_id = _check(connection, region, customer_class, participant_id, interval_minutes)
    wanted = _series_of(device_type, measures)
    values = {
        "device_id": device_id,
        "region_id": region_id,
        "device_type": device_type,
        "customer_class": customer_class,
        "participant_id": participant_id,
        "interval_minutes": interval_minutes,
        "verified": True,
    }
    unverified_twin = sa.and_(
        device.c.verified.is_(False), device.c.region_id == region_id, device.c.device_type == device_type
    )
    made = connection.execute(
        insert(device)
        .values(**values, created_at=created_at)
        .on_conflict_do_update(index_elements=["device_id"], set_=values, where=unverified_twin)
        .returning(device.c.device_id)
    ).first()
    if made is None:
        raise Conflict(f"a device named {device_id} is registered already; choose another id")
    rows = [{"device_id": device_id, **row._asdict()} for row in wanted]
    connection.execute(insert(series).values(rows).on_conflict_do_nothing())
    return get(connection, device_id, created_at)


def get(
    connection: sa.Connection,
    device_id: str,
    now: datetime,
    *,
    participant_id: str | None = None,
    everyone: bool = True,
) -> Registered:
    """Return one device; ``NotFound`` where there is none, or with ``everyone`` false none of ``participant_id``."""
    seen = _seen(participant_id, everyone)
    row = connection.execute(sa.select(*_COLUMNS).where(device.c.device_id == device_id, seen)).one_or_none()
    if row is None:
        raise NotFound(f"device {device_id!r} is not registered")
    return _registered(connection, [DeviceRow._make(row)], now)[0]


def page(
    connection: sa.Connection,
    now: datetime,
    *,
    limit: int,
    after: str | None = None,
    region_id: str | None = None,
    device_type: str | None = None,
    owner: str | None = None,
    participant_id: str | None = None,
    everyone: bool = True,
) -> list[Registered]:
    """Return up to ``limit`` devices past the id ``after``, by id, of a region, type or owner where one is given.

    With ``everyone`` false only those of ``participant_id`` are seen.
    """
    statement = sa.select(*_COLUMNS).where(_seen(participant_id, everyone)).order_by(device.c.device_id).limit(limit)
    if after is not None:
        statement = statement.where(device.c.device_id > after)
    for column, value in (
        (device.c.region_id, region_id),
        (device.c.device_type, device_type),
        (device.c.participant_id, owner),
    ):
        if value is not None:
            statement = statement.where(column == value)
    return _registered(connection, [DeviceRow._make(row) for row in connection.execute(statement)], now)


def remove(connection: sa.Connection, device_id: str) -> None:
    """Delete a device with its series and tokens.

    ``Conflict`` where readings, a VPP or commands rest on it: what was measured and settled stays provable, and
    ``credentials.revoke`` is what takes such a device out of service. An unknown one is ``NotFound``.
    """
    held = sa.select(device.c.device_id).where(device.c.device_id == device_id).with_for_update()
    if connection.execute(held).first() is None:
        raise NotFound(f"device {device_id!r} is not registered")
    own = sa.select(series.c.series_id).where(series.c.device_id == device_id)
    for what, rests in (
        ("readings", sa.exists().where(reading.c.series_id.in_(own))),
        ("a resource of a VPP", sa.exists().where(vpp_resource.c.device_id == device_id)),
        ("commands", sa.exists().where(command.c.device_id == device_id)),
    ):
        if connection.execute(sa.select(rests)).scalar_one():
            raise Conflict(f"device {device_id} has {what} and stays registered; revoke its tokens to shut it out")
    credentials.forget(connection, device_id)
    connection.execute(sa.delete(series).where(series.c.device_id == device_id))
    connection.execute(sa.delete(device).where(device.c.device_id == device_id))


def _seen(participant_id: str | None, everyone: bool) -> sa.ColumnElement[bool]:
    return sa.true() if everyone else device.c.participant_id == sa.bindparam("own", participant_id, sa.Text)


def _registered(connection: sa.Connection, rows: Sequence[DeviceRow], now: datetime) -> list[Registered]:
    ids = [row.device_id for row in rows]
    columns = (series.c.device_id, *(series.c[name] for name in SeriesRow._fields))
    of: dict[str, list[SeriesRow]] = {each: [] for each in ids}
    kept = sa.select(*columns).where(series.c.device_id.in_(ids)).order_by(series.c.device_id, series.c.metric)
    for row in connection.execute(kept):
        of[row.device_id].append(SeriesRow._make(row[1:]))
    alive = credentials.alive_by_device(connection, ids, now)
    return [Registered(each, tuple(of[each.device_id]), alive.get(each.device_id, 0)) for each in rows]


def _check(
    connection: sa.Connection, region: str, customer_class: str | None, participant_id: str | None, minutes: int
) -> str:
    """Return the id of the region; anything that does not fit is ``InvalidInput``."""
    if customer_class is not None and customer_class not in CUSTOMER_CLASSES:
        raise InvalidInput(
            f"{customer_class} is no customer class; choose one of {', '.join(CUSTOMER_CLASSES)}",
            pointer="/customerClass",
        )
    if minutes < 1 or 60 % minutes:
        raise InvalidInput("an interval is a whole part of an hour, 1 to 60 minutes", pointer="/intervalMinutes")
    known = sa.select(sa.literal(1)).where(participant.c.participant_id == participant_id)
    if participant_id is not None and connection.execute(known).first() is None:
        raise InvalidInput(f"there is no participant {participant_id}", pointer="/participantId")
    try:
        return registry.resolve_region(connection, region)
    except NotFound as error:
        raise InvalidInput(str(error), pointer="/region") from None


def _series_of(device_type: str, measures: Sequence[SeriesSpec]) -> list[SeriesRow]:
    """Return the series to register; what is wrong with one is ``InvalidInput`` with its place."""
    wanted = measures or DEFAULT_SERIES.get(device_type, ())
    if not wanted:
        raise InvalidInput(
            f"nothing is known of what a {device_type} measures: name its metrics and units "
            f"(known without: {', '.join(DEFAULT_SERIES)})",
            pointer="/series",
        )
    rows: list[SeriesRow] = []
    for place, (metric, unit, role) in enumerate(wanted):
        at = f"/series/{place}"
        require_topic_safe(metric, "metric", f"{at}/metric")
        if metric in CONTROL_METRICS:
            raise InvalidInput(f"{metric} carries no readings; choose another metric", pointer=f"{at}/metric")
        if metric in {row.metric for row in rows}:
            raise InvalidInput(f"metric {metric} is named twice", pointer=f"{at}/metric")
        if role is not None and role not in ROLES:
            raise InvalidInput(f"{role} is no role; choose one of {', '.join(sorted(ROLES))}", pointer=f"{at}/role")
        try:
            measured = dimension(unit)
        except Rejected as error:
            raise InvalidInput(error.detail, pointer=f"{at}/unit") from None
        rows.append(SeriesRow(metric, BASE_UNITS[measured], _KIND_OF.get(measured, "state"), role))
    return rows
