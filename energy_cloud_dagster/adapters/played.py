"""The devices that the simulated fleet plays for resources which have no device of their own."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.tables import device, vpp_resource

#: NOTIFY channel that tells, without payload, that resources changed.
CHANNEL: Final = "resources"


class Played(NamedTuple):
    """A simulated device and its resource; ``parameters`` as in the dispatch problem (camelCase)."""

    device_id: str
    region_id: str
    device_type: str
    interval_minutes: int
    type: str
    capacity_kw: float
    parameters: dict[str, Any]


def played(connection: sa.Connection) -> list[Played]:
    """Return every simulated device that a resource has, by id."""
    columns = (
        device.c.device_id,
        device.c.region_id,
        device.c.device_type,
        device.c.interval_minutes,
        vpp_resource.c.type,
        vpp_resource.c.capacity_kw,
        vpp_resource.c.parameters,
    )
    rows = connection.execute(
        sa.select(*columns)
        .select_from(device.join(vpp_resource, vpp_resource.c.device_id == device.c.device_id))
        .where(device.c.simulated)
        .order_by(device.c.device_id)
    )
    return [Played._make(row) for row in rows]
