"""Virtual power plants as they stand."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query
from pydantic import Field

from energy_cloud_dagster.adapters import energy, vpp_document, vpps
from energy_cloud_dagster.adapters.vpp_document import ResourceState, VppState
from energy_cloud_dagster.adapters.vpps import Vpp
from energy_cloud_dagster.api.context import Context, Shared
from energy_cloud_dagster.api.paging import Paged
from energy_cloud_dagster.api.security import needs, utc_now
from energy_cloud_dagster.api.values import Document, Moment, Page, absent, finite
from energy_cloud_dagster.domain.errors import NotFound

router = APIRouter(prefix="/v1/vpp", tags=["vpp"])

AsOf = Annotated[Moment | None, Query(alias="asOf", description="Answer with what was known then.")]


class Location(Document):
    """A place in degrees (WGS 84)."""

    lat: float
    lng: float


class Resource(Document):
    """One resource of a VPP; powers in kW, storage output positive on discharge, grid on import."""

    id: str
    type: str
    capacity: float
    current: float | None = Field(description="Mean power of its latest reading; null where nothing measures it.")
    efficiency: float | None = Field(None, exclude_if=absent)
    soc: float | None = Field(None, exclude_if=absent, description="State of charge as measured, 0 to 1.")
    energy_capacity: float | None = Field(None, exclude_if=absent, description="kWh.")
    cost_per_kwh: float | None = Field(None, alias="costPerKWh", exclude_if=absent)
    location: Location | None = Field(None, exclude_if=absent)
    device_id: str | None = Field(None, exclude_if=absent)
    last_update: datetime | None = Field(None, exclude_if=absent, description="When its latest reading arrived.")


class Plan(Document):
    """The newest dispatch plan in brief; cost over its horizon in the market's currency, energy in kWh."""

    issued_at: datetime
    plan_start: datetime
    solver: str
    status: str
    cost: float
    unmet_energy: float
    renewable_ratio: float | None


class VppDocument(Document):
    """The WIA-ENE-014 document of a virtual power plant."""

    vpp_id: str
    id: str = Field(description="The same as vppId.")
    name: str
    capacity: float
    unit: Literal["kW"] = "kW"
    region: str
    location: Location | None = Field(None, exclude_if=absent)
    resources: list[Resource]
    aggregated_output: float = Field(description="Sum of what the resources last measured.")
    status: Literal["operational", "degraded", "offline"]
    last_update: datetime | None = Field(description="When the newest of these readings arrived; null: none ever did.")
    plan: Plan | None = Field(description="The newest plan; null before the first.")


@router.get("", summary="All VPPs")
@needs("vpp:read")
def list_vpps(context: Shared, paging: Paged, as_of: AsOf = None) -> Page[VppDocument]:
    """Return the VPPs in the order of their ids."""
    after = paging.after(str)
    with context.engine.connect() as connection:
        found = vpps.page(connection, limit=paging.fetch, after=None if after is None else after[0])
        kept, cursor = paging.page(found, lambda vpp: (vpp.vpp_id,))
        states = _states(connection, context, list(kept), as_of)
    return Page(items=[_document(state) for state in states], next_cursor=cursor)


@router.get("/{id}", summary="One VPP")
@needs("vpp:read")
def get_vpp(
    context: Shared, vpp_id: Annotated[str, Path(alias="id", max_length=128)], as_of: AsOf = None
) -> VppDocument:
    """Return the VPP with the latest measured state of each resource."""
    with context.engine.connect() as connection:
        found = vpps.by_id(connection, vpp_id)
        if found is None:
            raise NotFound(f"there is no VPP {vpp_id}")
        (state,) = _states(connection, context, [found], as_of)
    return _document(state)


def _states(connection: sa.Connection, context: Context, found: list[Vpp], as_of: datetime | None) -> list[VppState]:
    now = as_of
    if now is None and context.settings.replay:
        # In a replay the newest reading says what time it is.
        now = energy.last_known(connection, None)
    return vpp_document.describe(connection, found, now or utc_now(), as_of)


def _document(state: VppState) -> VppDocument:
    plan = state.plan
    return VppDocument(
        vpp_id=state.vpp.vpp_id,
        id=state.vpp.vpp_id,
        name=state.vpp.name,
        capacity=state.vpp.capacity_kw,
        region=state.vpp.region_id,
        location=_location(state.vpp.location),
        resources=[_resource(item) for item in state.resources],
        aggregated_output=finite(state.output_kw),
        status=state.status,
        last_update=state.last_update,
        plan=None
        if plan is None
        else Plan(
            issued_at=plan.issued_at,
            plan_start=plan.plan_start,
            solver=plan.solver,
            status=plan.status,
            cost=plan.cost,
            unmet_energy=plan.unmet_kwh,
            renewable_ratio=plan.renewable_ratio,
        ),
    )


def _resource(state: ResourceState) -> Resource:
    resource = state.resource
    parameters: dict[str, Any] = resource.parameters
    return Resource(
        id=resource.resource_id,
        type=resource.type,
        capacity=resource.capacity_kw,
        current=None if state.current_kw is None else finite(state.current_kw),
        efficiency=parameters.get("efficiency"),
        soc=state.soc if resource.type == "storage" else None,
        energy_capacity=parameters.get("energyCapacity"),
        cost_per_kwh=parameters.get("costPerKWh"),
        location=_location(resource.location),
        device_id=resource.device_id,
        last_update=state.measured_at,
    )


def _location(location: dict[str, float] | None) -> Location | None:
    return None if location is None else Location(lat=location["lat"], lng=location["lng"])
