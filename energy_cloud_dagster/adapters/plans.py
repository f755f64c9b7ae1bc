"""Dispatch plans as they were issued: ``dispatch.plan`` and ``dispatch.setpoint``."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.tables import plan

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
        .distinct(plan.c.vpp_id)
        .where(plan.c.vpp_id.in_(vpp_ids))
        .order_by(plan.c.vpp_id, plan.c.issued_at.desc())
    )
    if as_of is not None:
        statement = statement.where(plan.c.issued_at <= as_of)
    return {row.vpp_id: PlanSummary(*row) for row in connection.execute(statement)}


# -- write
