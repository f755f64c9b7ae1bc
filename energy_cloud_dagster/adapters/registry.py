"""The registry: regions, participants, devices and their series, and how the sample community gets there.

Functions take an open connection and never commit. VPPs are read by ``adapters.vpps``.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters.tables import device, market_registry, participant, region, series, vpp, vpp_resource
from energy_cloud_dagster.domain.errors import NotFound, Rejected
from energy_cloud_dagster.domain.readings import BASE_UNITS, Topic, dimension
from energy_cloud_dagster.sample_data.community import Community

_KINDS: Mapping[str, str] = {"energy": "energy", "power": "power"}


class RegionRow(NamedTuple):
    """A region; ``timezone`` is an IANA name."""

    region_id: str
    name: str
    timezone: str
    market_id: str
    grid_id: str
    aliases: tuple[str, ...]


class ParticipantRow(NamedTuple):
    """A participant; ``account`` is its checksummed address on the chain, ``salt`` None once erased."""

    participant_id: str
    region_id: str
    kind: str
    name: str
    account: str
    salt: bytes | None


class DeviceRow(NamedTuple):
    """A device; ``interval_minutes`` long intervals, ``verified`` unless it was registered on first sight.

    ``metadata`` is what it last said of itself.
    """

    device_id: str
    region_id: str
    device_type: str
    customer_class: str | None
    participant_id: str | None
    interval_minutes: int
    verified: bool
    created_at: datetime
    metadata: dict[str, Any] | None


def seed(
    connection: sa.Connection,
    community: Community,
    created_at: datetime,
    *,
    account_of: Callable[[str], str] = str,
    demo_key: str | None = None,
) -> int:
    """Add what is missing of ``community`` and return how many rows that were; what exists stays as it is.

    ``account_of`` gives a participant's address on the chain (default: its id, for tests without a chain). With
    ``demo_key`` the salts that blind a participant's digests are derived from it, so that two demos agree; without,
    they are random. An erased salt is never restored.
    """
    added = _add(connection, market_registry, [asdict(market) for market in community.markets])
    added += _add(connection, region, [{**asdict(each), "aliases": list(each.aliases)} for each in community.regions])
    added += _add(
        connection,
        participant,
        [
            {
                **asdict(each),
                "account": account_of(each.participant_id),
                "salt": derive_salt(demo_key, each.participant_id) if demo_key else secrets.token_bytes(32),
            }
            for each in community.participants
        ],
    )
    added += _add(
        connection,
        device,
        [
            {
                "device_id": each.device_id,
                "region_id": each.region_id,
                "device_type": each.device_type,
                "customer_class": each.customer_class,
                "participant_id": each.participant_id,
                "interval_minutes": each.interval_minutes,
                "created_at": created_at,
            }
            for each in community.devices
        ],
    )
    added += _add(
        connection,
        series,
        [
            {
                "device_id": owner.device_id,
                "metric": each.metric,
                "unit": each.unit,
                "kind": each.kind,
                "role": each.role,
            }
            # Reports come last: the numbers of the other series stay what they were without them.
            for owner, each in (*community.all_series(), *community.reports())
        ],
    )
    added += _add(
        connection,
        vpp,
        [
            {
                "vpp_id": each.vpp_id,
                "name": each.name,
                "region_id": each.region_id,
                "participant_id": each.participant_id,
                "capacity_kw": each.capacity_kw,
                "location": sa.null() if each.location is None else dict(each.location),
            }
            for each in community.vpps
        ],
    )
    return added + _add(
        connection,
        vpp_resource,
        [
            {
                "vpp_id": owner.vpp_id,
                "resource_id": each.resource_id,
                "type": each.type,
                "capacity_kw": each.capacity_kw,
                "device_id": each.device_id,
                "parameters": dict(each.parameters),
                "location": sa.null() if each.location is None else dict(each.location),
            }
            for owner in community.vpps
            for each in owner.resources
        ],
    )


def derive_salt(demo_key: str, participant_id: str) -> bytes:
    """Return the 32-byte salt of a participant of a demo: reproducible, and worthless outside of demos."""
    return hashlib.sha256(f"{demo_key}:{participant_id}".encode()).digest()


def register_device(
    connection: sa.Connection, topic: Topic, unit: str, created_at: datetime, *, interval_minutes: int = 15
) -> None:
    """Register the unverified device and series that ``topic`` names; what exists stays as it is.

    The series is kept in the base unit of ``unit`` and has no role: nothing is planned or settled by it. An unknown
    region or unit is ``Rejected``.
    """
    try:
        region_id = resolve_region(connection, topic.region)
    except NotFound as error:
        raise Rejected("unknown_region", str(error)) from None
    measured = dimension(unit)
    _add(
        connection,
        device,
        [
            {
                "device_id": topic.device_id,
                "region_id": region_id,
                "device_type": topic.device_type,
                "interval_minutes": interval_minutes,
                "verified": False,
                "created_at": created_at,
            }
        ],
    )
    kind = _KINDS.get(measured, "state")
    _add(
        connection,
        series,
        [{"device_id": topic.device_id, "metric": topic.metric, "unit": BASE_UNITS[measured], "kind": kind}],
    )


def regions(connection: sa.Connection) -> list[RegionRow]:
    """Return every region, by id."""
    columns = [region.c[name] for name in RegionRow._fields]
    rows = connection.execute(sa.select(*columns).order_by(region.c.region_id))
    return [RegionRow._make((*row[:5], tuple(row[5]))) for row in rows]


def resolve_region(connection: sa.Connection, name: str) -> str:
    """Return the id of the region called ``name``, its id or an alias; ``NotFound`` lists the known ones."""
    known = region_names(connection)
    if name not in known:
        raise NotFound(f"region {name!r} is unknown; known are {', '.join(sorted(known)) or 'none'}")
    return known[name]


def find_region(connection: sa.Connection, text: str) -> RegionRow:
    """Return the region whose id, alias or name is ``text``, in any case; ``NotFound`` lists the known ones."""
    wanted = text.strip().casefold()
    listed = regions(connection)
    for each in listed:
        if wanted in {name.casefold() for name in (each.region_id, each.name, *each.aliases)}:
            return each
    known = ", ".join(each.region_id for each in listed)
    raise NotFound(f"region {text!r} is unknown; known are {known or 'none'}")


def region_names(connection: sa.Connection) -> dict[str, str]:
    """Return the id of every region by its id and by each of its aliases."""
    return {name: each.region_id for each in regions(connection) for name in (each.region_id, *each.aliases)}


def participants(connection: sa.Connection, region_id: str | None = None) -> list[ParticipantRow]:
    """Return the participants (of a region), by id."""
    statement = sa.select(*(participant.c[name] for name in ParticipantRow._fields))
    if region_id is not None:
        statement = statement.where(participant.c.region_id == region_id)
    return [ParticipantRow._make(row) for row in connection.execute(statement.order_by(participant.c.participant_id))]


def participant_by_id(connection: sa.Connection, participant_id: str) -> ParticipantRow:
    """Return one participant; ``NotFound`` where there is none."""
    columns = [participant.c[name] for name in ParticipantRow._fields]
    row = connection.execute(sa.select(*columns).where(participant.c.participant_id == participant_id)).one_or_none()
    if row is None:
        raise NotFound(f"participant {participant_id!r} does not exist")
    return ParticipantRow._make(row)


def set_accounts(connection: sa.Connection, accounts: Mapping[str, str]) -> None:
    """Set the chain accounts (checksummed addresses) of participants, by participant id."""
    for participant_id, address in accounts.items():
        connection.execute(
            sa.update(participant).where(participant.c.participant_id == participant_id).values(account=address)
        )


def devices(connection: sa.Connection, region_id: str | None = None) -> list[DeviceRow]:
    """Return the devices (of a region), by id."""
    statement = sa.select(*(device.c[name] for name in DeviceRow._fields))
    if region_id is not None:
        statement = statement.where(device.c.region_id == region_id)
    return [DeviceRow._make(row) for row in connection.execute(statement.order_by(device.c.device_id))]


def device_by_id(connection: sa.Connection, device_id: str) -> DeviceRow:
    """Return one device; ``NotFound`` where there is none."""
    columns = [device.c[name] for name in DeviceRow._fields]
    row = connection.execute(sa.select(*columns).where(device.c.device_id == device_id)).one_or_none()
    if row is None:
        raise NotFound(f"device {device_id!r} is not registered")
    return DeviceRow._make(row)


def _add(connection: sa.Connection, table: sa.Table, rows: list[dict[str, object]]) -> int:
    if not rows:
        return 0
    statement = insert(table).values(rows).on_conflict_do_nothing().returning(sa.literal(1))
    return len(connection.execute(statement).all())


def operating_since(connection: sa.Connection, region_id: str) -> datetime | None:
    """Return the first hour that schedules work on in a region, None where it is not in operation."""
    return connection.execute(sa.select(region.c.operating_since).where(region.c.region_id == region_id)).scalar()


def start_operating(connection: sa.Connection, region_id: str, since: datetime) -> None:
    """Let schedules work on a region's hours from ``since`` on, unless they do already."""
    connection.execute(
        sa.update(region)
        .where(region.c.region_id == region_id, region.c.operating_since.is_(None))
        .values(operating_since=since)
    )
