"""VPPs and their resources as people manage them: made, changed, taken out of service; each change with who and when.

Functions take an open connection and never commit. A VPP is never erased: what it planned and settled stays provable.
While a VPP has no ``grid`` resource it has a grid connection of its own (``vpps.own_grid_id``), a resource as any other
that lists leave out.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters import allocations, devices, vpps
from energy_cloud_dagster.adapters.tables import (
    credential,
    device,
    participant,
    series,
    vpp,
    vpp_event,
    vpp_resource,
)
from energy_cloud_dagster.adapters.vpps import Vpp, VppResource
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, NotFound
from energy_cloud_dagster.domain.readings.names import require_topic_safe

#: A simulated device is named after its VPP and resource, and a device's name has a bound.
MAX_ID_LENGTH: Final = 60
#: Device types of the simulated devices of resources.
SIMULATED_TYPES: Final[Mapping[str, str]] = {
    "solar": "solar-panel",
    "wind": "wind-turbine",
    "hydro": "hydro-turbine",
    "chp": "chp",
    "storage": "battery",
    "grid": "grid-connection",
    "load": "flexible-load",
}
_EVERY_ROW: Final = 1_000


class NewResource(NamedTuple):
    """A resource to add; ``parameters`` as in the dispatch problem (camelCase numbers), without id, type, capacity.

    ``resource_id`` None: the next free one of its type. ``device_id`` None: a simulated one, where there are such.
    """

    type: str
    capacity_kw: float
    parameters: Mapping[str, Any] = {}
    resource_id: str | None = None
    device_id: str | None = None
    location: Mapping[str, float] | None = None


# -- VPPs


def create(
    connection: sa.Connection,
    name: str,
    capacity_kw: float,
    region_id: str,
    *,
    actor: str,
    now: datetime,
    vpp_id: str | None = None,
    location: Mapping[str, float] | None = None,
    participant_id: str | None = None,
    simulated: bool = False,
) -> Vpp:
    """Make a VPP without resources; with ``simulated`` its own grid connection gets a simulated device.

    A taken id, also that of a deleted VPP, and a participant that has a VPP are ``Conflict``.
    """
    if vpp_id is None:
        vpp_id = f"VPP-{secrets.token_hex(4).upper()}"
    require_topic_safe(vpp_id, "VPP id", "/id")
    if len(vpp_id) > MAX_ID_LENGTH:
        raise InvalidInput(f"a VPP id has {MAX_ID_LENGTH} characters at most", pointer="/id")
    _require_free(connection, participant_id, region_id)
    row = Vpp(vpp_id, name, region_id, participant_id, capacity_kw, None if location is None else dict(location))
    values = row._asdict() | {"location": sa.null() if location is None else dict(location)}
    made = connection.execute(insert(vpp).values(**values).on_conflict_do_nothing().returning(vpp.c.vpp_id)).first()
    if made is None:
        raise Conflict(f"a VPP {vpp_id} exists, or did; choose another id")
    _record(connection, actor, now, "created", [(vpp_id, None, row._asdict())])
    _add(connection, row, [_own_grid(row)], actor=None, now=now, simulated=simulated)
    return row


def change(
    connection: sa.Connection,
    vpp_id: str,
    name: str,
    capacity_kw: float,
    *,
    actor: str,
    now: datetime,
    location: Mapping[str, float] | None = None,
    participant_id: str | None = None,
) -> Vpp:
    """Replace what is said of a VPP; its own grid connection follows its capacity. Region and resources stay."""
    held = _hold(connection, vpp_id)
    if participant_id != held.participant_id:
        _require_free(connection, participant_id, held.region_id)
    row = Vpp(vpp_id, name, held.region_id, participant_id, capacity_kw, None if location is None else dict(location))
    if row == held:
        return row
    values = row._asdict() | {"location": sa.null() if location is None else dict(location)}
    connection.execute(sa.update(vpp).where(vpp.c.vpp_id == vpp_id).values(**values))
    connection.execute(
        sa.update(vpp_resource)
        .where(vpp_resource.c.vpp_id == vpp_id, vpp_resource.c.resource_id == vpps.own_grid_id(vpp_id))
        .values(capacity_kw=capacity_kw)
    )
    _record(connection, actor, now, "changed", [(vpp_id, None, row._asdict())])
    return row


def delete(connection: sa.Connection, vpp_id: str, *, actor: str, now: datetime) -> None:
    """Take a VPP out of service with its resources; plans, settlements and their evidence stay.

    Its devices are free for other VPPs; its id is not.
    """
    held = _hold(connection, vpp_id)
    connection.execute(sa.update(vpp).where(vpp.c.vpp_id == vpp_id).values(deleted_at=now))
    last = vpps.resources(connection, [vpp_id])[vpp_id]
    document = held._asdict() | {"resources": [each._asdict() for each in last]}
    _record(connection, actor, now, "deleted", [(vpp_id, None, document)])
    allocations.end(connection, vpp_id, [each.resource_id for each in last], now)
    mine = [each.device_id for each in last if each.device_id is not None]
    connection.execute(sa.update(device).where(device.c.device_id.in_(mine)).values(simulated=False))
    connection.execute(sa.update(vpp_resource).where(vpp_resource.c.vpp_id == vpp_id).values(device_id=None))


# -- resources


def create_resource(
    connection: sa.Connection,
    vpp_id: str,
    wanted: NewResource,
    *,
    actor: str,
    now: datetime,
    simulated: bool = False,
) -> VppResource:
    """Add one resource; see ``create_resources``, whose pointers lead with ``/0``."""
    return create_resources(connection, vpp_id, [wanted], actor=actor, now=now, simulated=simulated)[0]


def create_resources(
    connection: sa.Connection,
    vpp_id: str,
    wanted: Sequence[NewResource],
    *,
    actor: str,
    now: datetime,
    simulated: bool = False,
) -> list[VppResource]:
    """Add resources to a VPP, all or none; with ``simulated`` those without a device get a simulated one.

    What no dispatch problem could take is ``InvalidInput`` with its pointer (``/{place}/capacity``); ids that the VPP
    has already, and devices of another resource, are ``Conflict``. A first ``grid`` takes the place of the VPP's own.
    """
    held = _hold(connection, vpp_id)
    taken = {each.resource_id: each for each in vpps.resources(connection, [vpp_id])[vpp_id]}
    named = _named(vpp_id, wanted, taken)
    _require_plannable(named)
    _require_devices(connection, held, named)
    if any(each.type == "grid" for each in named):
        own = vpps.own_grid_id(vpp_id)
        _drop(connection, [taken[name] for name in taken if name == own])
        allocations.end(connection, vpp_id, [own], now)
    return _add(connection, held, named, actor=actor, now=now, simulated=simulated)


def delete_resource(
    connection: sa.Connection, vpp_id: str, resource_id: str, *, actor: str, now: datetime, simulated: bool = False
) -> None:
    """Remove a resource from its VPP; where it was the last ``grid``, the VPP has its own connection again."""
    held = _hold(connection, vpp_id)
    found = {each.resource_id: each for each in vpps.resources(connection, [vpp_id])[vpp_id]}
    gone = found.pop(resource_id, None)
    if gone is None or resource_id == vpps.own_grid_id(vpp_id):
        raise NotFound(f"VPP {vpp_id} has no resource {resource_id}")
    _drop(connection, [gone])
    allocations.end(connection, vpp_id, [resource_id], now)
    _record(connection, actor, now, "resource_removed", [(vpp_id, resource_id, gone._asdict())])
    if all(each.type != "grid" for each in found.values()):
        _add(connection, held, [_own_grid(held)], actor=None, now=now, simulated=simulated)


def _hold(connection: sa.Connection, vpp_id: str) -> Vpp:
    """Return a standing VPP, locked until the commit."""
    columns = [vpp.c[name] for name in Vpp._fields]
    statement = sa.select(*columns).where(vpp.c.vpp_id == vpp_id, vpp.c.deleted_at.is_(None)).with_for_update()
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise NotFound(f"there is no VPP {vpp_id}")
    return Vpp._make(row)


def _require_free(connection: sa.Connection, participant_id: str | None, region_id: str) -> None:
    if participant_id is None:
        return
    known = sa.select(participant.c.region_id).where(participant.c.participant_id == participant_id)
    trades_in = connection.execute(known).scalar()
    if trades_in is None:
        raise InvalidInput(f"there is no participant {participant_id}", pointer="/participantId")
    if trades_in != region_id:
        raise InvalidInput(
            f"{participant_id} trades in {trades_in}; the VPP is in {region_id}", pointer="/participantId"
        )
    other = sa.select(vpp.c.vpp_id).where(vpp.c.participant_id == participant_id, vpp.c.deleted_at.is_(None))
    if (found := connection.execute(other).scalar()) is not None:
        raise Conflict(f"{participant_id} trades with VPP {found} already; a participant has one")


def _own_grid(held: Vpp) -> NewResource:
    return NewResource("grid", held.capacity_kw, {}, vpps.own_grid_id(held.vpp_id))


def _named(vpp_id: str, wanted: Sequence[NewResource], taken: Collection[str]) -> list[NewResource]:
    """Return the resources with an id each; ids that cannot be, or are given twice, are named."""
    for place, each in enumerate(wanted):
        name = each.resource_id
        if name is None:
            continue
        require_topic_safe(name, "resource id", f"/{place}/id")
        if len(name) > MAX_ID_LENGTH:
            raise InvalidInput(f"a resource id has {MAX_ID_LENGTH} characters at most", pointer=f"/{place}/id")
        if name == vpps.own_grid_id(vpp_id):
            raise InvalidInput(f"{name} is the VPP's own grid connection; choose another id", pointer=f"/{place}/id")
        if name in taken:
            raise Conflict(f"VPP {vpp_id} has a resource {name} already; choose another id")
    given = Counter(each.resource_id for each in wanted if each.resource_id is not None)
    for name, count in given.items():
        if count > 1:
            places = [place for place, each in enumerate(wanted) if each.resource_id == name]
            listed = ", ".join(f"/{place}" for place in places[:20])
            raise InvalidInput(f"{name} is the id of {count} resources: {listed}", pointer=f"/{places[1]}/id")
    used = {*taken, *given}
    next_number: Counter[str] = Counter()
    named = []
    for each in wanted:
        name = each.resource_id
        while name is None or (each.resource_id is None and name in used):
            next_number[each.type] += 1
            name = f"{each.type.upper()}-{next_number[each.type]:03d}"
        used.add(name)
        named.append(each._replace(resource_id=name))
    return named


def _require_plannable(named: Sequence[NewResource]) -> None:
    from energy_cloud_dagster.domain.dispatch import parse_problem
    from energy_cloud_dagster.domain.dispatch.applying.allocations import Target, limits_of

    documents = [
        {**vpps.planned(each.parameters), "id": each.resource_id, "type": each.type, "capacity": each.capacity_kw}
        for each in named
    ]
    try:
        parse_problem({"demand": 0, "resources": documents})
    except InvalidInput as error:
        raise InvalidInput(str(error), pointer=error.pointer.removeprefix("/resources")) from None
    for place, each in enumerate(named):
        least, most = limits_of(Target(each.resource_id or "", each.type, each.capacity_kw, each.parameters))
        safe = each.parameters.get("safePower")
        if safe is not None and not least <= safe <= most:
            raise InvalidInput(
                f"safePower is from {least:g} to {most:g} kW, not {safe:g}", pointer=f"/{place}/safePower"
            )


def _require_devices(connection: sa.Connection, held: Vpp, named: Sequence[NewResource]) -> None:
    """Refuse devices that are not registered in the VPP's region, or measure another resource."""
    given = [(place, each.device_id) for place, each in enumerate(named) if each.device_id is not None]
    if not given:
        return
    names = [name for _, name in given]
    known: set[str] = set(
        connection.execute(
            sa.select(device.c.device_id).where(device.c.device_id.in_(names), device.c.region_id == held.region_id)
        ).scalars()
    )
    for place, name in given:
        if name not in known:
            raise InvalidInput(
                f"no device {name} is registered in region {held.region_id}", pointer=f"/{place}/deviceId"
            )
        if names.count(name) > 1:
            raise InvalidInput(f"device {name} is given to several resources", pointer=f"/{place}/deviceId")
    used = connection.execute(
        sa.select(vpp_resource.c.device_id, vpp_resource.c.vpp_id, vpp_resource.c.resource_id).where(
            vpp_resource.c.device_id.in_(names)
        )
    ).first()
    if used is not None:
        raise Conflict(f"device {used.device_id} is that of resource {used.resource_id} of VPP {used.vpp_id}")


def _add(
    connection: sa.Connection,
    held: Vpp,
    named: Sequence[NewResource],
    *,
    actor: str | None,
    now: datetime,
    simulated: bool,
) -> list[VppResource]:
    """Insert resources with their simulated devices, and record it where there is an ``actor``."""
    rows = []
    played = []
    for each in named:
        resource_id, device_id = each.resource_id or "", each.device_id
        if device_id is None and simulated:
            # The connection of its own carries the VPP's id already.
            own = resource_id == vpps.own_grid_id(held.vpp_id)
            device_id = resource_id if own else f"{held.vpp_id}-{resource_id}"
            played.append((device_id, each.type))
        place = None if each.location is None else dict(each.location)
        rows.append(
            VppResource(held.vpp_id, resource_id, each.type, each.capacity_kw, device_id, dict(each.parameters), place)
        )
    _play(connection, held, played, now)
    # NULL in the column, where a document of null would be the JSON value
    values = [each._asdict() | {"location": each.location or sa.null()} for each in rows]
    for first in range(0, len(values), _EVERY_ROW):
        connection.execute(sa.insert(vpp_resource).values(values[first : first + _EVERY_ROW]))
    if actor is not None:
        changes = [(held.vpp_id, each.resource_id, each._asdict()) for each in rows]
        _record(connection, actor, now, "resource_added", changes)
    return rows


def _play(connection: sa.Connection, held: Vpp, played: Sequence[tuple[str, str]], now: datetime) -> None:
    """Register simulated devices; they report their power, which nothing is settled by."""
    if not played:
        return
    values = [
        {
            "device_id": device_id,
            "region_id": held.region_id,
            "device_type": SIMULATED_TYPES[kind],
            "participant_id": held.participant_id,
            "interval_minutes": 15,
            "verified": True,
            "simulated": True,
            "created_at": now,
        }
        for device_id, kind in played
    ]
    # A device that a resource of the same id had before, and that its readings kept registered, serves again: one that
    # is nobody's and never had a token.
    for device_type in sorted({SIMULATED_TYPES[kind] for _, kind in played}):
        named = [device_id for device_id, kind in played if SIMULATED_TYPES[kind] == device_type]
        connection.execute(
            sa.update(device)
            .where(
                device.c.device_id.in_(named),
                device.c.device_type == device_type,
                device.c.region_id == held.region_id,
                ~sa.exists().where(vpp_resource.c.device_id == device.c.device_id),
                ~sa.exists().where(credential.c.device_id == device.c.device_id),
            )
            .values(simulated=True)
        )
    made: set[str] = set(
        connection.execute(insert(device).on_conflict_do_nothing().returning(device.c.device_id), values).scalars()
    )
    made |= set(
        connection.execute(
            sa.select(device.c.device_id).where(
                device.c.device_id.in_([name for name, _ in played]),
                device.c.simulated,
                ~sa.exists().where(vpp_resource.c.device_id == device.c.device_id),
            )
        ).scalars()
    )
    for device_id, _ in played:
        if device_id not in made:
            raise Conflict(f"a device named {device_id} is registered already; choose another id for the resource")
    measured = [
        {"device_id": device_id, "metric": metric, "unit": unit, "kind": "state"}
        for device_id, kind in played
        for metric, unit in (("power", "kW"), *((("soc", "1"),) if kind == "storage" else ()))
    ]
    connection.execute(insert(series).on_conflict_do_nothing(), measured)


def _drop(connection: sa.Connection, gone: Sequence[VppResource]) -> None:
    """Delete resources; a simulated device goes with its resource unless something rests on it."""
    for each in gone:
        connection.execute(
            sa.delete(vpp_resource).where(
                vpp_resource.c.vpp_id == each.vpp_id, vpp_resource.c.resource_id == each.resource_id
            )
        )
        if each.device_id is None:
            continue
        ended = (
            sa.update(device)
            .where(device.c.device_id == each.device_id, device.c.simulated)
            .values(simulated=False)
            .returning(device.c.device_id)
        )
        if connection.execute(ended).first() is None:
            continue
        try:
            with connection.begin_nested():
                devices.remove(connection, each.device_id)
        except (Conflict, sa.exc.IntegrityError):  # its readings, commands or allocations keep it registered
            continue


def _record(
    connection: sa.Connection,
    actor: str,
    now: datetime,
    action: str,
    changes: Sequence[tuple[str, str | None, Mapping[str, Any]]],
) -> None:
    rows = [
        {
            "vpp_id": vpp_id,
            "at": now,
            "actor": actor,
            "action": action,
            "resource_id": resource_id,
            "document": document,
        }
        for vpp_id, resource_id, document in changes
    ]
    connection.execute(sa.insert(vpp_event), rows)
