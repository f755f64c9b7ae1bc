"""How a VPP, its resources and its newest plan look over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import Field

from energy_cloud_dagster.adapters import energy, vpp_document, vpps
from energy_cloud_dagster.adapters.vpp_document import ResourceState, VppState
from energy_cloud_dagster.adapters.vpps import Vpp
from energy_cloud_dagster.api.context import Context
from energy_cloud_dagster.api.security import Principal, utc_now
from energy_cloud_dagster.api.values import Document, absent, finite
from energy_cloud_dagster.domain.errors import NotFound

Kind = Literal["solar", "wind", "hydro", "storage", "chp", "grid", "load"]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Location(Document):
    """A place in degrees (WGS 84)."""

    lat: Number = Field(ge=-90, le=90)
    lng: Number = Field(ge=-180, le=180)


class Parameters(Document):
    """What the dispatch problem knows of a resource besides its capacity; powers in kW, energy in kWh."""

    cost_per_kwh: Number | None = Field(
        None,
        alias="costPerKWh",
        exclude_if=absent,
        description="Of its energy, 0 where absent; of grid the import price, the market's where absent; "
        "of storage per kWh discharged; of load its value of lost load.",
    )
    efficiency: Number | None = Field(
        None, exclude_if=absent, description="Storage: of the round trip, 0.9 where absent. Others: says nothing."
    )
    soc: Number | None = Field(None, exclude_if=absent, description="Storage: fraction that it starts from.")
    energy_capacity: Number | None = Field(
        None, exclude_if=absent, description="Storage: kWh; one hour at its capacity where absent."
    )
    min_soc: Number | None = Field(None, exclude_if=absent, description="Storage: least fraction.")
    max_soc: Number | None = Field(None, exclude_if=absent, description="Storage: largest fraction.")
    end_soc: Number | None = Field(None, exclude_if=absent, description="Storage: least fraction at the plan's end.")
    availability: Number | None = Field(
        None, exclude_if=absent, description="Share of its capacity where no forecast says more; 1 where absent."
    )
    ramp_rate: Number | None = Field(None, exclude_if=absent, description="Largest change in kW per step.")
    min_power: Number | None = Field(None, exclude_if=absent, description="It is off or gives at least so much.")
    initial_output: Number | None = Field(None, exclude_if=absent, description="What its first ramp starts from.")
    emissions_per_kwh: Number | None = Field(None, alias="emissionsPerKWh", exclude_if=absent)
    export_price: Number | None = Field(None, exclude_if=absent, description="Grid: what exports earn per kWh.")
    priority: Number | None = Field(
        None, exclude_if=absent, description="Whole; among plans of equal cost the higher are curtailed or shed last."
    )
    safe_power: Number | None = Field(
        None,
        exclude_if=absent,
        description="What its device shall hold after it fell silent under an allocation; by default sun, wind and "
        "water keep their limit, and all else rests at 0.",
    )


#: Parameters by the name that they have in the dispatch problem.
PARAMETERS = {field.alias or name: name for name, field in Parameters.model_fields.items()}


class Resource(Parameters):
    """One resource of a VPP; powers in kW, storage output positive on discharge, grid on import."""

    id: str
    type: str
    capacity: float
    name: str | None = Field(None, exclude_if=absent)
    current: float | None = Field(description="Mean power of its latest reading; null where nothing measures it.")
    soc: float | None = Field(None, exclude_if=absent, description="State of charge as measured, else as registered.")
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
    participant_id: str | None = Field(None, exclude_if=absent, description="Who trades with it; left out: nobody.")
    location: Location | None = Field(None, exclude_if=absent)
    resources: list[Resource]
    aggregated_output: float = Field(
        description="Sum of what the resources last measured, the VPP's own grid connection included."
    )
    status: Literal["operational", "degraded", "offline"]
    last_update: datetime | None = Field(description="When the newest of these readings arrived; null: none ever did.")
    plan: Plan | None = Field(description="The newest plan; null before the first.")


def find(connection: sa.Connection, caller: Principal, vpp_id: str) -> Vpp:
    """Return the VPP; ``NotFound``, in the same words, where there is none and where the caller may not see it."""
    found = None
    if vpp_id.isprintable():
        found = vpps.by_id(connection, vpp_id, participant_id=caller.participant_id, everyone=caller.sees_all)
    if found is None:
        raise NotFound(f"there is no VPP {vpp_id}")
    return found


def present(connection: sa.Connection, context: Context) -> datetime:
    """Return what time it is: in a replay the newest reading says it."""
    if context.settings.replay:
        return energy.last_known(connection, None) or utc_now()
    return utc_now()


def documents(
    connection: sa.Connection, context: Context, found: list[Vpp], as_of: datetime | None = None
) -> list[VppDocument]:
    """Return the documents of VPPs from what was known at ``as_of`` (None: ever)."""
    now = present(connection, context) if as_of is None else as_of
    return [document(state) for state in vpp_document.describe(connection, found, now, as_of)]


def document(state: VppState) -> VppDocument:
    """Return the document of one VPP."""
    plan, vpp = state.plan, state.vpp
    return VppDocument(
        vpp_id=vpp.vpp_id,
        id=vpp.vpp_id,
        name=vpp.name,
        capacity=vpp.capacity_kw,
        region=vpp.region_id,
        participant_id=vpp.participant_id,
        location=_location(vpp.location),
        resources=resources(state),
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


def resources(state: VppState) -> list[Resource]:
    """Return the resources that somebody gave the VPP, with what each last measured."""
    own = vpps.own_grid_id(state.vpp.vpp_id)
    return [_resource(each) for each in state.resources if each.resource.resource_id != own]


def _resource(state: ResourceState) -> Resource:
    resource = state.resource
    known: dict[str, Any] = {
        PARAMETERS[name]: value for name, value in resource.parameters.items() if name in PARAMETERS
    }
    if state.soc is not None and resource.type == "storage":
        known["soc"] = state.soc
    return Resource(
        **known,
        id=resource.resource_id,
        type=resource.type,
        capacity=resource.capacity_kw,
        name=resource.parameters.get("name"),
        current=None if state.current_kw is None else finite(state.current_kw),
        location=_location(resource.location),
        device_id=resource.device_id,
        last_update=state.measured_at,
    )


def _location(location: dict[str, float] | None) -> Location | None:
    return None if location is None else Location(lat=location["lat"], lng=location["lng"])
