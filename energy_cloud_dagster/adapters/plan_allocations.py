"""The hourly plan as an allocation: what is told to the devices of a VPP whose plan is applied by itself.

Storage, CHP and flexible load are told what the plan has for them. Sun, wind and water are told a limit only where the
plan curtails them: what they give beyond the forecast is welcome. A resource that a person commands, or that follows an
allocation which a person asked for, is left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from energy_cloud_dagster.adapters import allocations, plans, vpps
from energy_cloud_dagster.adapters.allocations import FOLLOWER, WATCHDOG, Allocation, Standing
from energy_cloud_dagster.adapters.plans import SetpointRow
from energy_cloud_dagster.adapters.tables import allocation, command, plan, vpp
from energy_cloud_dagster.adapters.vpps import VppResource
from energy_cloud_dagster.domain.dispatch.applying.allocations import Assignment, Span, largest_total_kw

#: A plan whose first hour began longer ago than this is not taken up: the next one is due.
FRESH: Final = timedelta(hours=2)
_STEP: Final = timedelta(hours=1)
_WEATHER: Final = frozenset({"solar", "wind", "hydro"})
#: Below the limit by more than this share of it is curtailment, not rounding.
_CURTAILED: Final = 1e-6


def take_up(connection: sa.Connection, now: datetime, approval_kw: float | None) -> list[Allocation]:
    """Make an allocation of every VPP's newest plan that is in force at ``now`` and was not taken up; return them.

    One that asks for more than ``approval_kw`` (None: no bound) in all waits for an administrator's approval.
    """
    # two outboxes never take up the same plan
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended("plan_allocations", 0))))
    made = []
    for vpp_id, issued_at, start in _due(connection, now):
        steps = plans.setpoints(connection, vpp_id, issued_at)
        listed = {one.resource_id: one for one in vpps.resources(connection, [vpp_id])[vpp_id]}
        held = allocations.standing(connection, vpp_id, now)
        theirs = _of_people(connection, vpp_id, held)
        devices = [one.device_id for one in listed.values() if one.device_id is not None]
        commanded = _asked(connection, devices, now)
        free = {
            name: (one.type, one.device_id)
            for name, one in listed.items()
            if one.device_id is not None
            and one.type != "grid"
            and one.device_id not in commanded
            and name not in theirs
        }
        assignments = [
            one
            for one in _assignments(steps, {name: listed[name].capacity_kw for name in free})
            # what is never curtailed is left alone, unless it still stands under an earlier plan's limit
            if one.resource_id in held or listed[one.resource_id].type not in _WEATHER or _limits(one, listed)
        ]
        if not assignments:
            continue
        span = Span(start, int(_STEP / timedelta(minutes=1)), len(assignments[0].outputs))
        one = allocations.add(connection, vpp_id, assignments, free, span, requested_by=FOLLOWER, now=now)
        if approval_kw is None or largest_total_kw(assignments) <= approval_kw:
            allocations.apply(connection, one, now, by=FOLLOWER)
            one = one._replace(state="applied", applied_at=now)
        made.append(one)
    return made


def _of_people(connection: sa.Connection, vpp_id: str, held: Mapping[str, Standing]) -> set[str]:
    """Return the resources that a person commands, or that stand under an allocation that a person asked for."""
    ids = {each.item.allocation_id for each in held.values()}
    asked = {each for each in ids if allocations.get(connection, vpp_id, each).requested_by != FOLLOWER}
    return {name for name, each in held.items() if each.overridden or each.item.allocation_id in asked}


def _asked(connection: sa.Connection, devices: Sequence[str], now: datetime) -> set[str]:
    """Return the devices whose newest command is a person's setpoint that holds still, answered or not."""
    newest = (
        sa.select(command.c.device_id, command.c.requested_by, command.c.payload, command.c.valid_until)
        .ext(distinct_on(command.c.device_id))
        .where(
            command.c.device_id.in_(devices),
            command.c.kind == "command",
            command.c.state.not_in(("rejected", "expired")),
        )
        .order_by(command.c.device_id, command.c.created_at.desc(), command.c.command_id.desc())
    )
    return {
        row.device_id
        for row in connection.execute(newest)
        if row.requested_by not in (FOLLOWER, WATCHDOG)
        and row.payload.get("type") == "setpoint"
        and row.valid_until > now
    }


def _limits(one: Assignment, listed: Mapping[str, VppResource]) -> bool:
    """Return whether an assignment keeps its resource below its capacity in some step."""
    return any(output < listed[one.resource_id].capacity_kw for output in one.outputs)


def _due(connection: sa.Connection, now: datetime) -> list[tuple[str, datetime, datetime]]:
    """Return (VPP, issue, start) of the newest plans that began lately and that no allocation was made of."""
    taken = sa.exists().where(
        allocation.c.vpp_id == plan.c.vpp_id,
        allocation.c.requested_by == FOLLOWER,
        allocation.c.starts_at >= plan.c.plan_start,
    )
    newest = (
        sa.select(plan.c.vpp_id, sa.func.max(plan.c.issued_at).label("issued_at"))
        .where(plan.c.issued_at <= now)
        .group_by(plan.c.vpp_id)
        .subquery("newest")
    )
    statement = (
        sa.select(plan.c.vpp_id, plan.c.issued_at, plan.c.plan_start)
        .join(newest, sa.and_(newest.c.vpp_id == plan.c.vpp_id, newest.c.issued_at == plan.c.issued_at))
        .join(vpp, vpp.c.vpp_id == plan.c.vpp_id)
        .where(
            vpp.c.deleted_at.is_(None),
            plan.c.status == "completed",
            plan.c.plan_start > now - FRESH,
            plan.c.plan_start <= now,
            ~taken,
        )
        .order_by(plan.c.vpp_id)
    )
    return [(row.vpp_id, row.issued_at, row.plan_start) for row in connection.execute(statement)]


def _assignments(steps: Sequence[SetpointRow], capacity: Mapping[str, float]) -> list[Assignment]:
    """Return the setpoints of the resources in ``capacity`` (kW), by resource; where nothing is curtailed, capacity."""
    outputs: dict[str, list[float]] = defaultdict(list)
    for step in steps:
        most = capacity.get(step.resource_id)
        if most is None:
            continue
        allowed = step.available_kw
        if allowed is not None and step.output_kw >= allowed * (1 - _CURTAILED):
            outputs[step.resource_id].append(most)
        else:
            least = -most if step.type == "storage" else 0.0
            outputs[step.resource_id].append(min(max(step.output_kw, least), most))
    return [Assignment(name, tuple(found)) for name, found in sorted(outputs.items())]
