"""Dispatch plans as they were issued: ``dispatch.plan`` and ``dispatch.setpoint``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from energy_cloud_dagster.adapters.tables import plan, setpoint

# -- read


class PlanSummary(NamedTuple):
    """What a plan says in brief: ``cost`` over its horizon in the market's currency, energy in kWh."""

    vpp_id: str
    issued_at: datetime
    plan_start: datetime
    solver: str
    status: str
    cost: float
    unmet_kwh: float
    renewable_ratio: float | None


def latest_summaries(
    connection: sa.Connection, vpp_ids: Collection[str], as_of: datetime | None
) -> dict[str, PlanSummary]:
    """Return each VPP's newest plan issued at or before ``as_of`` (None: ever), by VPP id."""
    statement = (
        sa.select(*(plan.c[name] for name in PlanSummary._fields))
        .ext(distinct_on(plan.c.vpp_id))
        .where(plan.c.vpp_id.in_(vpp_ids))
        .order_by(plan.c.vpp_id, plan.c.issued_at.desc())
    )
    if as_of is not None:
        statement = statement.where(plan.c.issued_at <= as_of)
    return {row.vpp_id: PlanSummary._make(row) for row in connection.execute(statement)}


class StoredPlan(NamedTuple):
    """A plan as it was materialised: ``solution`` as the dispatch problem answers, ``digest`` over problem and it.

    ``run_id`` and ``materialized_at`` are those of the run that last wrote it, None where that is not known.
    """

    vpp_id: str
    issued_at: datetime
    plan_start: datetime
    solver: str
    status: str
    cost: float
    unmet_kwh: float
    renewable_ratio: float | None
    solution: dict[str, Any]
    digest: str
    materialized_at: datetime | None
    run_id: str | None


def page(
    connection: sa.Connection,
    vpp_id: str,
    *,
    limit: int,
    before: datetime | None = None,
    as_of: datetime | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[StoredPlan]:
    """Return up to ``limit`` plans of a VPP, newest issue first: those issued before ``before``, by ``as_of``.

    ``start`` and ``end`` bound the start of the plan (half open).
    """
    statement = (
        sa.select(*(plan.c[name] for name in StoredPlan._fields))
        .where(plan.c.vpp_id == vpp_id)
        .order_by(plan.c.issued_at.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(plan.c.issued_at < before)
    if as_of is not None:
        statement = statement.where(plan.c.issued_at <= as_of)
    if start is not None:
        statement = statement.where(plan.c.plan_start >= start)
    if end is not None:
        statement = statement.where(plan.c.plan_start < end)
    return [StoredPlan._make(row) for row in connection.execute(statement)]


# -- write


class PlanRow(NamedTuple):
    """One row of ``dispatch.plan``; ``problem`` and ``solution`` are the documents of the dispatch problem."""

    vpp_id: str
    issued_at: datetime
    plan_start: datetime
    solver: str
    status: str
    cost: float
    unmet_kwh: float
    renewable_ratio: float | None
    problem: dict[str, Any]
    solution: dict[str, Any]
    digest: str


class SetpointRow(NamedTuple):
    """One row of ``dispatch.setpoint``: kW in one hour; storage is discharge - charge, grid import - export."""

    vpp_id: str
    issued_at: datetime
    resource_id: str
    ts: datetime
    type: str
    output_kw: float
    available_kw: float | None
    soc: float | None
    marginal_price: float


def replace_plan(
    connection: sa.Connection, row: PlanRow, setpoints: Sequence[SetpointRow], *, run_id: str | None = None
) -> None:
    """Replace a VPP's plan of one issue; ``run_id`` is the run that computed it."""
    remove_plan(connection, row.vpp_id, row.issued_at)
    connection.execute(sa.insert(plan), {**row._asdict(), "run_id": run_id})
    if setpoints:
        connection.execute(sa.insert(setpoint), [one._asdict() for one in setpoints])


def remove_plan(connection: sa.Connection, vpp_id: str, issued_at: datetime) -> None:
    """Remove a VPP's plan of one issue, where there is one."""
    for table in (plan, setpoint):
        connection.execute(sa.delete(table).where(table.c.vpp_id == vpp_id, table.c.issued_at == issued_at))


def plan_of(connection: sa.Connection, vpp_id: str, issued_at: datetime) -> PlanRow | None:
    """Return the plan issued at exactly ``issued_at``, None where there is none."""
    row = connection.execute(
        sa.select(*(plan.c[name] for name in PlanRow._fields)).where(
            plan.c.vpp_id == vpp_id, plan.c.issued_at == issued_at
        )
    ).one_or_none()
    return None if row is None else PlanRow._make(row)


def setpoints(
    connection: sa.Connection, vpp_id: str, issued_at: datetime, ts: datetime | None = None
) -> list[SetpointRow]:
    """Return the setpoints of one issue (of one hour with ``ts``), by resource and hour."""
    statement = (
        sa.select(*(setpoint.c[name] for name in SetpointRow._fields))
        .where(setpoint.c.vpp_id == vpp_id, setpoint.c.issued_at == issued_at)
        .order_by(setpoint.c.resource_id, setpoint.c.ts)
    )
    if ts is not None:
        statement = statement.where(setpoint.c.ts == ts)
    return [SetpointRow._make(row) for row in connection.execute(statement)]
