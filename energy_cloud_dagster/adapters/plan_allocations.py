"""The hourly plan as an allocation: what is told to the devices of a VPP whose plan is applied by itself.

Storage, CHP and flexible load are told what the plan has for them. Sun, wind and water are told a limit only where the
plan curtails them, else their capacity: what they give beyond the forecast is welcome. A resource that a person
commands meanwhile is left to that person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from energy_cloud_dagster.adapters import actuals, allocations, plans, vpps
from energy_cloud_dagster.adapters.allocations import FOLLOWER, Allocation
from energy_cloud_dagster.adapters.plans import SetpointRow
from energy_cloud_dagster.adapters.tables import allocation, plan, vpp
from energy_cloud_dagster.domain.dispatch.allocations import Assignment, Span, largest_total_kw

#: A plan whose first hour began longer ago than this is not taken up: the next one is due.
FRESH: Final = timedelta(hours=2)
_STEP: Final = timedelta(hours=1)
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
        devices = [one.device_id for one in listed.values() if one.device_id is not None]
        commanded = actuals.in_force(connection, devices, now)
        free = {
            name: (one.type, one.device_id)
            for name, one in listed.items()
            if one.device_id is not None
            and one.type != "grid"
            and one.device_id not in commanded
            and not (name in held and held[name].overridden)
        }
        assignments = _assignments(
            [step for step in steps if step.resource_id in free], {name: listed[name].capacity_kw for name in free}
        )
        if not assignments:
            continue
        span = Span(start, int(_STEP / timedelta(minutes=1)), len(assignments[0].outputs))
        one = allocations.add(connection, vpp_id, assignments, free, span, requested_by=FOLLOWER, now=now)
        if approval_kw is None or largest_total_kw(assignments) <= approval_kw:
            allocations.apply(connection, one, now, by=FOLLOWER)
            one = one._replace(state="applied", applied_at=now)
        made.append(one)
    return made


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


def _assignments(steps: Sequence[SetpointRow], capacity: dict[str, float]) -> list[Assignment]:
    outputs: dict[str, list[float]] = defaultdict(list)
    for step in steps:
        allowed, most = step.available_kw, capacity[step.resource_id]
        if allowed is not None and step.output_kw >= allowed * (1 - _CURTAILED):
            outputs[step.resource_id].append(most)
        else:
            least = -most if step.type == "storage" else 0.0
            outputs[step.resource_id].append(min(max(step.output_kw, least), most))
    return [Assignment(name, tuple(found)) for name, found in sorted(outputs.items())]
