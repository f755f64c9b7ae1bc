"""Plans that were asked for over the API: ``dispatch.optimization``. Functions never commit."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters.tables import optimization
from energy_cloud_dagster.domain.audit.canonical import digest


class Optimization(NamedTuple):
    """A plan on request: ``problem`` as PLAN.json, ``answer`` as it was given, without its id and solve time."""

    optimization_id: str
    vpp_id: str
    requested_by: str
    created_at: datetime
    problem: dict[str, Any]
    answer: dict[str, Any]
    digest: str


def add(
    connection: sa.Connection,
    vpp_id: str,
    problem: dict[str, Any],
    answer: dict[str, Any],
    *,
    requested_by: str,
    now: datetime,
) -> Optimization:
    """Keep a problem with its answer under a new id; both consist of JSON values."""
    row = Optimization(str(uuid.uuid4()), vpp_id, requested_by, now, problem, answer, digest([problem, answer]))
    connection.execute(sa.insert(optimization), row._asdict())
    return row


def get(connection: sa.Connection, vpp_id: str, optimization_id: str) -> Optimization | None:
    """Return one plan of a VPP, None where it has none of that id."""
    columns = [optimization.c[name] for name in Optimization._fields]
    row = connection.execute(
        sa.select(*columns).where(optimization.c.vpp_id == vpp_id, optimization.c.optimization_id == optimization_id)
    ).one_or_none()
    return None if row is None else Optimization._make(row)
