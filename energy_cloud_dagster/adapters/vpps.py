"""Virtual power plants, their resources and the latest measured state of each: ``registry.vpp*`` and readings.

Changes are made by ``vpp_registry``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.tables import device, participant, reading, series, vpp, vpp_resource


class Vpp(NamedTuple):
    """One virtual power plant; ``capacity_kw`` is its nominal power, ``location`` {lat, lng} or None."""

    vpp_id: str
    name: str
    region_id: str
    participant_id: str | None
    capacity_kw: float
    location: dict[str, float] | None


_COLUMNS: Final = tuple(vpp.c[name] for name in Vpp._fields)
_PRIVATE: Final = sa.exists().where(
    participant.c.participant_id == vpp.c.participant_id, participant.c.kind == "prosumer"
)


#: Parameters that are for the resource's device, and none of a plan's.
FOR_DEVICES: Final = frozenset({"safePower"})


class VppResource(NamedTuple):
    """One resource of a VPP; ``parameters`` as in the dispatch problem (camelCase), and those for its device."""

    vpp_id: str
    resource_id: str
    type: str
    capacity_kw: float
    device_id: str | None
    parameters: dict[str, Any]
    location: dict[str, float] | None

    @property
    def planned(self) -> dict[str, Any]:
        """Return the parameters that the dispatch problem knows."""
        return planned(self.parameters)


class LatestState(NamedTuple):
    """The newest reading of one series; ``value`` in ``unit``, covering ``interval_minutes`` from ``ts`` on."""

    device_id: str
    metric: str
    unit: str
    kind: str
    role: str | None
    interval_minutes: int
    ts: datetime
    value: float
    quality: str
    received_at: datetime


def page(
    connection: sa.Connection,
    *,
    limit: int,
    after: str | None = None,
    participant_id: str | None = None,
    everyone: bool = True,
) -> list[Vpp]:
    """Return up to ``limit`` standing VPPs in the order of their ids, those after the id ``after``.

    With ``everyone`` false only those that ``participant_id`` may see (``by_id``).
    """
    statement = _standing(participant_id, everyone).order_by(vpp.c.vpp_id).limit(limit)
    if after is not None:
        statement = statement.where(vpp.c.vpp_id > after)
    return [Vpp._make(row) for row in connection.execute(statement)]


def by_id(
    connection: sa.Connection, vpp_id: str, *, participant_id: str | None = None, everyone: bool = True
) -> Vpp | None:
    """Return one standing VPP, None where there is none of that id.

    With ``everyone`` false a prosumer's VPP is seen by that prosumer (``participant_id``) only; those of companies and
    of nobody are public.
    """
    row = connection.execute(_standing(participant_id, everyone).where(vpp.c.vpp_id == vpp_id)).one_or_none()
    return None if row is None else Vpp._make(row)


def ids(connection: sa.Connection, *, participant_id: str | None = None, everyone: bool = True) -> list[str]:
    """Return the ids of the standing VPPs, in order; with ``everyone`` false those that ``participant_id`` may see."""
    found = _standing(participant_id, everyone).with_only_columns(vpp.c.vpp_id).order_by(vpp.c.vpp_id)
    return list(connection.execute(found).scalars())


def private(connection: sa.Connection, vpp_ids: Collection[str]) -> set[str]:
    """Return which of the VPPs are a prosumer's own, to be seen by that prosumer only."""
    return set(connection.execute(sa.select(vpp.c.vpp_id).where(vpp.c.vpp_id.in_(vpp_ids), _PRIVATE)).scalars())


def in_region(connection: sa.Connection, region_id: str, *, deleted: bool = False) -> list[Vpp]:
    """Return the standing VPPs of a region (with ``deleted`` all that it ever had) in the order of their ids."""
    statement = sa.select(*_COLUMNS).where(vpp.c.region_id == region_id).order_by(vpp.c.vpp_id)
    if not deleted:
        statement = statement.where(vpp.c.deleted_at.is_(None))
    return [Vpp._make(row) for row in connection.execute(statement)]


def planned(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a resource's parameters that the dispatch problem knows."""
    return {name: value for name, value in parameters.items() if name not in FOR_DEVICES}


def own_grid_id(vpp_id: str) -> str:
    """Return the id of the grid connection that a VPP has of its own while it has no ``grid`` resource."""
    return f"{vpp_id}-GRID"


def listed(found: Iterable[VppResource]) -> list[VppResource]:
    """Return the resources that somebody gave the VPP: its own grid connection aside."""
    return [each for each in found if each.resource_id != own_grid_id(each.vpp_id)]


def resources(connection: sa.Connection, vpp_ids: Collection[str]) -> dict[str, list[VppResource]]:
    """Return the resources of the named VPPs by VPP id, in the order of their ids, own grid connections among them."""
    found: dict[str, list[VppResource]] = {vpp_id: [] for vpp_id in vpp_ids}
    rows = connection.execute(
        sa.select(*(vpp_resource.c[name] for name in VppResource._fields))
        .where(vpp_resource.c.vpp_id.in_(vpp_ids))
        .order_by(vpp_resource.c.vpp_id, vpp_resource.c.resource_id)
    )
    for row in rows:
        found[row.vpp_id].append(VppResource._make(row))
    return found


def simulated(connection: sa.Connection, device_ids: Iterable[str]) -> set[str]:
    """Return which of the devices are simulated ones of resources that were made without a device."""
    statement = sa.select(device.c.device_id).where(device.c.device_id.in_(list(device_ids)), device.c.simulated)
    return set(connection.execute(statement).scalars())


def latest_states(
    connection: sa.Connection, device_ids: Iterable[str], as_of: datetime | None, *, before: datetime | None = None
) -> dict[str, list[LatestState]]:
    """Return the newest reading known at ``as_of`` (None: ever) of every series of the named devices, by device id.

    ``before`` leaves out intervals that start at it or later.
    """
    newest = (
        sa.select(reading.c.ts, reading.c.value, reading.c.quality, reading.c.received_at)
        .where(reading.c.series_id == series.c.series_id)
        .order_by(reading.c.ts.desc(), reading.c.revision.desc())
        .limit(1)
    )
    if as_of is not None:
        newest = newest.where(reading.c.received_at <= as_of)
    if before is not None:
        newest = newest.where(reading.c.ts < before)
    last = newest.lateral("last")
    rows = connection.execute(
        sa.select(
            series.c.device_id,
            series.c.metric,
            series.c.unit,
            series.c.kind,
            series.c.role,
            device.c.interval_minutes,
            *last.c,
        )
        .select_from(series.join(device, device.c.device_id == series.c.device_id).join(last, sa.true()))
        .where(series.c.device_id.in_(list(device_ids)))
    )
    found: dict[str, list[LatestState]] = {}
    for row in rows:
        found.setdefault(row.device_id, []).append(LatestState._make(row))
    return found


def _standing(participant_id: str | None, everyone: bool) -> sa.Select[Any]:
    statement = sa.select(*_COLUMNS).where(vpp.c.deleted_at.is_(None))
    if everyone:
        return statement
    own = vpp.c.participant_id == sa.bindparam("own", participant_id, sa.Text)
    return statement.where(sa.or_(vpp.c.participant_id.is_(None), own, sa.not_(_PRIVATE)))
