"""The plans that the hourly run made of a VPP, as they were materialised."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from energy_cloud_dagster.adapters import plans
from energy_cloud_dagster.adapters.plans import StoredPlan
from energy_cloud_dagster.api import tabular
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.paging import Paged
from energy_cloud_dagster.api.routers.optimize import Allocated, Shortfall, Step
from energy_cloud_dagster.api.routers.vpp import AsOf, VppId
from energy_cloud_dagster.api.routers.vpp_answers import find
from energy_cloud_dagster.api.security import Caller, needs
from energy_cloud_dagster.api.values import Document, Moment, Page
from energy_cloud_dagster.domain.intervals import HOUR, hour_start

router = APIRouter(prefix="/v1/vpp", tags=["vpp"])

#: How the pipeline writes the partition of an hour.
_PARTITION: Final = "%Y-%m-%d-%H:%M"
_COLUMNS: Final = (
    *("partition", "dataVersion", "runId", "materializedAt", "issuedAt"),
    *("resourceId", "type", "timestamp", "output", "soc", "marginalPrice"),
)


class MaterializedPlan(Document):
    """A plan as the hourly run made it; kW per step, energy in kWh, money in the market's currency."""

    partition: str = Field(description="The hour whose end it was made at.", examples=["2026-03-01-15:00"])
    run_id: str | None = Field(description="The run that last wrote it; null: not known.")
    data_version: str = Field(description="SHA-256 of problem, solution and their canonical JSON.")
    materialized_at: datetime | None = Field(description="When that was; null: not known.")
    issued_at: datetime = Field(description="Its now: nothing received later was used.")
    plan_start: datetime
    solver: str
    status: str
    cost: float
    unmet_energy: float
    renewable_ratio: float | None
    steps: list[Step]
    allocation: list[Allocated]
    violations: list[Shortfall]
    explanation: list[str]


@router.get(
    "/{id}/plans",
    summary="The plans of the hourly run, newest first",
    response_model=Page[MaterializedPlan],
    responses=tabular.CONTENT,
)
@needs("vpp:read")
def list_plans(
    request: Request,
    context: Shared,
    caller: Caller,
    vpp_id: VppId,
    paging: Paged,
    as_of: AsOf = None,
    start: Annotated[Moment | None, Query(alias="startDate", description="Of the first step, from here on.")] = None,
    end: Annotated[Moment | None, Query(alias="endDate", description="Of the first step, before this.")] = None,
) -> Response:
    """Return plans with what every resource does; as CSV and Parquet a row for each resource and step."""
    before = paging.after(datetime)
    with context.engine.connect() as connection:
        find(connection, caller, vpp_id)
        found = plans.page(
            connection,
            vpp_id,
            limit=paging.fetch,
            before=None if before is None else before[0],
            as_of=as_of,
            start=start,
            end=end,
        )
    kept, cursor = paging.page(found, lambda each: (each.issued_at,))
    kind = tabular.wanted(request)
    if kind != "json":
        return tabular.table(request, kind, _COLUMNS, [row for each in kept for row in _rows(each)], cursor)
    page = Page[MaterializedPlan](items=[_document(each) for each in kept], next_cursor=cursor)
    return Response(page.model_dump_json(by_alias=True), headers={"Vary": "Accept"}, media_type="application/json")


def _document(found: StoredPlan) -> MaterializedPlan:
    solution = found.solution
    return MaterializedPlan(
        partition=_partition(found),
        run_id=found.run_id,
        data_version=found.digest,
        materialized_at=found.materialized_at,
        issued_at=found.issued_at,
        plan_start=found.plan_start,
        solver=found.solver,
        status=found.status,
        cost=found.cost,
        unmet_energy=found.unmet_kwh,
        renewable_ratio=found.renewable_ratio,
        steps=solution.get("steps", []),
        allocation=solution.get("allocation", []),
        violations=solution.get("violations", []),
        explanation=solution.get("explanation", []),
    )


def _rows(found: StoredPlan) -> Iterator[tuple[Any, ...]]:
    about = (_partition(found), found.digest, found.run_id, found.materialized_at, found.issued_at)
    steps = found.solution.get("steps", [])
    for each in found.solution.get("allocation", []):
        outputs = each["output"] if isinstance(each["output"], list) else [each["output"]]
        socs = each.get("soc") or [None] * len(outputs)
        for step, output, soc in zip(steps, outputs, socs, strict=True):
            yield (
                *about,
                each["resourceId"],
                each["type"],
                datetime.fromisoformat(step["start"]),
                output,
                soc,
                step["marginalPrice"],
            )


def _partition(found: StoredPlan) -> str:
    """Return the key of the hour that ended before the plan was made."""
    return (hour_start(found.issued_at) - HOUR).strftime(_PARTITION)
