"""What became of every planned hour: ``dispatch.actual``, and the commands that a plan has to honour."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from energy_cloud_dagster.adapters.allocations import FOLLOWER
from energy_cloud_dagster.adapters.tables import actual, allocation, allocation_item, command, command_event

# -- read


class CommandInForce(NamedTuple):
    """A setpoint that a device had accepted: kW as commanded, until ``valid_until``."""

    device_id: str
    setpoint_kw: float
    valid_until: datetime


def in_force(connection: sa.Connection, device_ids: Collection[str], now: datetime) -> dict[str, CommandInForce]:
    """Return the setpoints that devices had accepted by ``now`` and that are still valid then, by device.

    The last command that a device accepted counts: after a release nothing is in force. One that came of an hourly plan
    does not hold the next plan, which replaces it.
    """
    of_a_plan = sa.exists().where(
        allocation_item.c.command_id == command.c.command_id,
        allocation_item.c.allocation_id == allocation.c.allocation_id,
        allocation.c.requested_by == FOLLOWER,
    )
    accepted = (
        sa.select(command_event.c.command_id, sa.func.min(command_event.c.at).label("at"))
        .where(command_event.c.state.in_(("accepted", "done")), command_event.c.at <= now)
        .where(command_event.c.detail.not_like("ignored%"))
        .group_by(command_event.c.command_id)
        .subquery("accepted")
    )
    newest = (
        sa.select(command.c.device_id, command.c.payload, command.c.valid_until, of_a_plan.label("of_a_plan"))
        .ext(distinct_on(command.c.device_id))
        .join(accepted, accepted.c.command_id == command.c.command_id)
        .where(command.c.device_id.in_(list(device_ids)), command.c.kind == "command", command.c.created_at <= now)
        .order_by(command.c.device_id, command.c.created_at.desc(), command.c.command_id.desc())
    )
    return {
        row.device_id: CommandInForce(row.device_id, float(row.payload["value"]), row.valid_until)
        for row in connection.execute(newest)
        if row.payload.get("type") == "setpoint" and row.valid_until > now and not row.of_a_plan
    }


# -- write


class ActualRow(NamedTuple):
    """One row of ``dispatch.actual``: mean kW of an hour as planned and as it was."""

    vpp_id: str
    ts: datetime
    resource_id: str
    type: str
    issued_at: datetime
    planned_kw: float
    actual_kw: float | None
    source: str
    planned_soc: float | None
    actual_soc: float | None
    planned_cost: float
    actual_cost: float | None
    compared_at: datetime


def replace_actuals(connection: sa.Connection, vpp_id: str, ts: datetime, rows: Sequence[ActualRow]) -> None:
    """Replace one VPP's comparison of one hour."""
    connection.execute(sa.delete(actual).where(actual.c.vpp_id == vpp_id, actual.c.ts == ts))
    if rows:
        connection.execute(sa.insert(actual), [row._asdict() for row in rows])


def actuals(connection: sa.Connection, vpp_id: str, start: datetime, end: datetime) -> list[ActualRow]:
    """Return a VPP's comparisons of ``[start, end)`` by resource and hour."""
    statement = (
        sa.select(*(actual.c[name] for name in ActualRow._fields))
        .where(actual.c.vpp_id == vpp_id, actual.c.ts >= start, actual.c.ts < end)
        .order_by(actual.c.resource_id, actual.c.ts)
    )
    return [ActualRow._make(row) for row in connection.execute(statement)]
