"""What live streams ask of the database: what is new, what was last, what a channel's name refers to.

Functions take an open connection and never commit; ``listen`` opens a connection of its own, for as long as it is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import Final, NamedTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from energy_cloud_dagster.adapters import commands, energy, readings, registry
from energy_cloud_dagster.adapters.database import parse_url
from energy_cloud_dagster.adapters.tables import (
    clearing,
    command,
    device,
    market_registry,
    plan,
    reading,
    series,
    setpoint,
    vpp_resource,
)
from energy_cloud_dagster.domain.readings.live import Flow, LiveReading, Meter

READINGS: Final = readings.CHANNEL
COMMANDS: Final = commands.CHANNEL
_FLOWS: Final[tuple[Flow, ...]] = ("consumption", "generation")
_CONNECT_SECONDS: Final = 5
#: A connection that said nothing for this long is asked whether it still lives.
_QUIET_SECONDS: Final = 15.0


class Window(NamedTuple):
    """Bounds, both included, of rows that were stored: over ``ts`` and, where known, over ``received_at``."""

    first: datetime
    last: datetime
    received_first: datetime | None
    received_last: datetime | None

    def around(self, other: Window) -> Window:
        """Return the window that holds both."""
        received_first = received_last = None
        if self.received_first is not None and other.received_first is not None:
            received_first = min(self.received_first, other.received_first)
        if self.received_last is not None and other.received_last is not None:
            received_last = max(self.received_last, other.received_last)
        return Window(min(self.first, other.first), max(self.last, other.last), received_first, received_last)


class MarketState(NamedTuple):
    """The newest delivery hour of a market that cleared at a price; price in micro units per kWh."""

    market_id: str
    currency: str
    delivery_start: datetime
    gate_closure: datetime
    price_micro: int
    volume_wh: int


class CommandState(NamedTuple):
    """A command or configuration as it stands, and whose device it is for."""

    command_id: str
    device_id: str
    participant_id: str | None
    kind: str
    payload: dict[str, object]
    state: str
    reason: str | None
    updated_at: datetime


async def listen(url: str) -> AsyncIterator[tuple[str, str] | None]:
    """Yield None once it hears everything from there on, then every (channel, payload) that is told.

    Ends by ``psycopg.Error`` when the connection is lost.
    """
    conninfo = parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="energy-cloud streams"
    )
    async with connection:
        for channel in (READINGS, COMMANDS):
            await connection.execute(f"listen {channel}")
        yield None
        while True:
            async for told in connection.notifies(timeout=_QUIET_SECONDS):
                yield told.channel, told.payload
            await connection.execute("select 1")


def meters(connection: sa.Connection) -> list[Meter]:
    """Return every series that counts in live consumption or generation.

    A meter that nobody classified counts as residential, as in the energy document; a generator of unknown source
    counts nowhere.
    """
    found = []
    for region in registry.regions(connection):
        for flow in _FLOWS:
            for item in energy.flow_series(connection, flow, region_id=region.region_id):
                part = (item.customer_class or "residential") if flow == "consumption" else item.source
                if part is not None:
                    found.append(Meter(item.series_id, flow, region.region_id, part, item.kind, item.interval_minutes))
    return found


def newest_ts(connection: sa.Connection) -> datetime | None:
    """Return the newest interval start of any reading."""
    return energy.last_known(connection, None)


def latest(connection: sa.Connection, series_ids: Collection[int], not_before: datetime) -> list[LiveReading]:
    """Return the newest reading of each series that has one from ``not_before`` on."""
    wanted = sa.select(sa.func.unnest(sa.literal(list(series_ids), sa.ARRAY(sa.Integer))).label("series_id")).subquery()
    last = (
        sa.select(reading.c.ts, reading.c.revision, reading.c.value)
        .where(reading.c.series_id == wanted.c.series_id, reading.c.ts >= not_before)
        .order_by(reading.c.ts.desc(), reading.c.revision.desc())
        .limit(1)
        .lateral("last")
    )
    rows = connection.execute(sa.select(wanted.c.series_id, *last.c).select_from(wanted.join(last, sa.true())))
    return [LiveReading._make(row) for row in rows]


def fresh(connection: sa.Connection, window: Window, not_before: datetime | None, *, limit: int) -> list[LiveReading]:
    """Return up to ``limit`` of the rows that were stored within ``window`` and start at ``not_before`` or later."""
    first = window.first if not_before is None else max(window.first, not_before)
    statement = sa.select(reading.c.series_id, reading.c.ts, reading.c.revision, reading.c.value).where(
        reading.c.ts >= first, reading.c.ts <= window.last
    )
    if window.received_first is not None and window.received_last is not None:
        statement = statement.where(
            reading.c.received_at >= window.received_first, reading.c.received_at <= window.received_last
        )
    return [LiveReading._make(row) for row in connection.execute(statement.limit(limit))]


def devices_of_vpps(connection: sa.Connection) -> dict[int, str]:
    """Return the VPP of every series that a resource's device measures, by series id."""
    rows = connection.execute(
        sa.select(series.c.series_id, vpp_resource.c.vpp_id).join_from(
            series, vpp_resource, vpp_resource.c.device_id == series.c.device_id
        )
    )
    return {row.series_id: row.vpp_id for row in rows}


def market_ids(connection: sa.Connection) -> list[str]:
    """Return the ids of all markets, in order."""
    return list(
        connection.execute(sa.select(market_registry.c.market_id).order_by(market_registry.c.market_id)).scalars()
    )


def region_ids(connection: sa.Connection) -> list[str]:
    """Return the ids of all regions, in order."""
    return [one.region_id for one in registry.regions(connection)]


def owner_of(connection: sa.Connection, device_id: str) -> tuple[bool, str | None]:
    """Return whether the device exists, and whose it is."""
    row = connection.execute(sa.select(device.c.participant_id).where(device.c.device_id == device_id)).one_or_none()
    return row is not None, None if row is None else row.participant_id


def last_clearings(connection: sa.Connection) -> list[MarketState]:
    """Return the newest delivery hour with a price of every market that has one."""
    rows = connection.execute(
        sa.select(
            clearing.c.market_id,
            market_registry.c.currency,
            clearing.c.delivery_start,
            clearing.c.gate_closure,
            clearing.c.price_micro,
            clearing.c.volume_wh,
        )
        .ext(distinct_on(clearing.c.market_id))
        .join_from(clearing, market_registry, market_registry.c.market_id == clearing.c.market_id)
        .where(clearing.c.price_micro.is_not(None))
        .order_by(clearing.c.market_id, clearing.c.delivery_start.desc())
    )
    return [MarketState._make(row) for row in rows]


def command_states(connection: sa.Connection, command_ids: Collection[str]) -> dict[str, CommandState]:
    """Return the named commands by id."""
    rows = connection.execute(
        sa.select(
            command.c.command_id,
            command.c.device_id,
            device.c.participant_id,
            command.c.kind,
            command.c.payload,
            command.c.state,
            command.c.reason,
            command.c.updated_at,
        )
        .join_from(command, device, device.c.device_id == command.c.device_id)
        .where(command.c.command_id.in_(command_ids))
    )
    return {row.command_id: CommandState._make(row) for row in rows}


def asked_of_resources(connection: sa.Connection, vpp_ids: Collection[str], now: datetime) -> dict[str, float]:
    """Return the kW that each VPP's devices are asked for at ``now``, by VPP id; absent where nothing is asked.

    A resource whose device obeys a setpoint counts by it, another one by the newest plan's step that holds ``now``;
    resources without a device are nobody's to steer and do not count.
    """
    newest = (
        sa.select(plan.c.vpp_id, sa.func.max(plan.c.issued_at).label("issued_at"))
        .where(plan.c.vpp_id.in_(vpp_ids), plan.c.issued_at <= now)
        .group_by(plan.c.vpp_id)
        .subquery()
    )
    planned = connection.execute(
        sa.select(setpoint.c.vpp_id, setpoint.c.resource_id, setpoint.c.output_kw)
        .join_from(
            setpoint,
            newest,
            sa.and_(newest.c.vpp_id == setpoint.c.vpp_id, newest.c.issued_at == setpoint.c.issued_at),
        )
        .where(setpoint.c.ts == sa.func.date_trunc("hour", sa.literal(now, setpoint.c.ts.type), "UTC"))
    )
    asked = {(row.vpp_id, row.resource_id): row.output_kw for row in planned}
    obeyed = {
        row.device_id: row.payload
        for row in connection.execute(
            sa.select(command.c.device_id, command.c.payload)
            .ext(distinct_on(command.c.device_id))
            .where(
                command.c.kind == "command",
                command.c.state.in_(("accepted", "done")),
                command.c.created_at <= now,
                command.c.valid_until > now,
            )
            .order_by(command.c.device_id, command.c.created_at.desc())
        )
    }
    steered = connection.execute(
        sa.select(vpp_resource.c.vpp_id, vpp_resource.c.resource_id, vpp_resource.c.device_id).where(
            vpp_resource.c.vpp_id.in_(vpp_ids), vpp_resource.c.device_id.is_not(None)
        )
    )
    found: dict[str, float] = {}
    for row in steered:
        told = obeyed.get(row.device_id, {})
        kw = asked.get((row.vpp_id, row.resource_id))
        if told.get("type") == "setpoint":
            kw = float(told["value"])
        if kw is not None:
            found[row.vpp_id] = found.get(row.vpp_id, 0.0) + kw
    return found
