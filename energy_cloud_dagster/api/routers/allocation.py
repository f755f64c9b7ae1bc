"""Allocations of a VPP: setpoints that become commands, the approval that large ones need, how they are followed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from energy_cloud_dagster.adapters import allocations, optimizations, vpp_status, vpps
from energy_cloud_dagster.adapters.allocations import Allocation
from energy_cloud_dagster.adapters.commands import Command
from energy_cloud_dagster.adapters.vpp_status import ResourceStatus
from energy_cloud_dagster.adapters.vpps import VppResource
from energy_cloud_dagster.api.context import Context, Shared
from energy_cloud_dagster.api.idempotency import Writing
from energy_cloud_dagster.api.paging import Paged
from energy_cloud_dagster.api.routers.vpp_answers import find, present
from energy_cloud_dagster.api.security import Caller, Principal, needs, utc_now
from energy_cloud_dagster.api.values import Document, Moment, Page, absent, finite
from energy_cloud_dagster.domain.commands import State
from energy_cloud_dagster.domain.dispatch.applying.allocations import Assignment, Conduct, Span, Target, checked
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, NotFound
from energy_cloud_dagster.domain.intervals import rfc3339

router = APIRouter(prefix="/v1/vpp", tags=["vpp"])

VppId = Annotated[str, Path(alias="id", max_length=128)]
AllocationId = Annotated[str, Path(alias="allocationId", max_length=64)]
#: Roles whose allocations need nobody's approval.
_APPROVES = "admin"


#: What it says is judged with the resource that it is for, which names the place of a fault.
_PER_STEP = {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]}


class Allocated(Document):
    """The setpoints of one resource, as `optimize` answers them; other members of its answer may stay."""

    model_config = ConfigDict(extra="ignore")

    resource_id: str = Field(max_length=128)
    type: str | None = None
    output: Annotated[Any, WithJsonSchema(_PER_STEP)] = Field(
        description="kW, or one value for each step. Storage: discharge positive; grid: import positive."
    )


class AllocationRequest(Document):
    """What a VPP shall do: the allocation itself, or the optimisation whose answer it is."""

    allocation: list[Allocated] | None = None
    optimization_id: str | None = Field(None, max_length=64)
    start: Moment | None = Field(
        None, description="Start of the first step, by now; by default the optimisation's, else now."
    )
    step_minutes: int | None = Field(
        None, ge=1, le=1440, description="Length of a step; by default the optimisation's, else 60."
    )


class SentCommand(Document):
    """A command that was queued for a device."""

    device_id: str
    topic: str
    state: State
    command_id: str
    value: float = Field(description="Its setpoint in kW.")


class AllocationAnswer(Document):
    """What became of an allocation."""

    success: bool = Field(description="Whether it is applied.")
    id: str
    state: Literal["waiting", "applied"] = Field(description="`waiting`: for the approval of an administrator.")
    commands: list[SentCommand]
    uncommanded: list[str] = Field(description="Resources without a device: nobody can tell them.")
    detail: str | None = Field(None, exclude_if=absent)


class AllocationDocument(Document):
    """An allocation as it stands."""

    id: str
    state: Literal["waiting", "applied"]
    optimization_id: str | None
    total_power: float = Field(description="Largest sum of absolute setpoints in one step, kW.")
    start: datetime
    step_minutes: int
    steps: int
    end: datetime
    requested_by: str
    created_at: datetime
    approved_by: str | None
    applied_at: datetime | None


class ItemDocument(Document):
    """What an allocation asks of one resource."""

    resource_id: str
    type: str
    device_id: str | None
    output: list[float]
    step: int | None = Field(description="The step that was commanded last; null: none yet.")
    command_id: str | None
    fallback_at: datetime | None


class AllocationDetail(AllocationDocument):
    """An allocation with its setpoints."""

    allocation: list[ItemDocument]


class ResourceStatusDocument(Document):
    """A resource under its setpoint; powers in kW."""

    resource_id: str
    type: str
    device_id: str | None
    setpoint: float | None = Field(description="What it was asked to hold; null: nothing.")
    output: float | None = Field(description="What its device reports; null: nothing lately.")
    deviation: float | None = Field(description="output - setpoint.")
    soc: float | None = Field(None, exclude_if=absent)
    status: Conduct = Field(
        description="`free` of setpoints, `pending` until its device did it, `following` within 1 kW or 1 % of its "
        "capacity, `short` where sun, wind or water give less than their limit, `deviating`, `refused` by its device "
        "or expired, `overridden` by another command, `fallback` after its device fell silent, `unmeasured`."
    )
    reason: str | None = Field(None, exclude_if=absent)
    allocation_id: str | None = Field(None, exclude_if=absent)
    last_update: datetime | None


class StatusDocument(Document):
    """What a VPP does, beside what it was asked to do; powers in kW."""

    vpp_id: str
    current_output: float = Field(description="Sum of what the devices reported lately.")
    setpoint: float | None = Field(description="Sum of the setpoints that stand; null: none does.")
    soc: float | None = Field(description="Mean state of charge of its storage, by energy capacity.")
    status: Literal["operational", "degraded", "offline", "fallback"]
    last_update: datetime | None
    resources: list[ResourceStatusDocument]


@router.post(
    "/{id}/allocation",
    summary="Apply an allocation",
    response_model=AllocationAnswer,
    responses={202: {"model": AllocationAnswer, "description": "It waits for an approval."}},
)
@needs("vpp:write")
def post_allocation(
    context: Shared, caller: Caller, vpp_id: VppId, wanted: AllocationRequest, writing: Writing
) -> Response:
    """Command the devices of the VPP, each step at its time, until the last step ends.

    Setpoints outside what a resource takes are refused. Where ENERGY_CLOUD_DISPATCH_APPROVAL_KW bounds what operators
    may apply, a larger allocation waits for an administrator.
    """
    now = utc_now()
    with context.engine.begin() as connection:
        if (earlier := writing.answered(connection)) is not None:
            return earlier
        found = find(connection, caller, vpp_id)
        resources = {each.resource_id: each for each in vpps.resources(connection, [vpp_id])[vpp_id]}
        entries, span = _entries(connection, vpp_id, wanted, now)
        assignments = checked(entries, [_target(each) for each in resources.values()])
        span = span._replace(steps=len(assignments[0].outputs))
        span.step_at(now)
        allocations.one_at_a_time(connection, vpp_id)
        beside = _stands_beside(connection, context, caller, vpp_id, assignments, now)
        made = allocations.add(
            connection,
            found.vpp_id,
            assignments,
            _devices(resources, assignments),
            span,
            requested_by=caller.username,
            now=now,
            optimization_id=wanted.optimization_id,
        )
        bound = context.settings.dispatch_approval_kw
        if bound is not None and caller.role != _APPROVES and made.total_kw + beside > bound:
            asked = f"{made.total_kw:g} kW" + (f" beside {beside:g} kW that stand already" if beside else "")
            detail = f"{asked} is above the {bound:g} kW that an operator applies alone; it waits"
            answer = AllocationAnswer(
                success=False, id=made.allocation_id, state="waiting", commands=[], uncommanded=[], detail=detail
            )
            return writing.keep(connection, 202, answer.model_dump_json(by_alias=True).encode())
        answer = _apply(connection, made, now, caller)
        return writing.keep(connection, 200, answer.model_dump_json(by_alias=True).encode())


@router.post(
    "/{id}/allocations/{allocationId}/approve",
    summary="Approve an allocation that waits",
    response_model=AllocationAnswer,
)
@needs("dispatch:approve")
def approve_allocation(
    context: Shared, caller: Caller, vpp_id: VppId, allocation_id: AllocationId, writing: Writing
) -> Response:
    """Apply an allocation that somebody else asked for."""
    now = utc_now()
    with context.engine.begin() as connection:
        if (earlier := writing.answered(connection)) is not None:
            return earlier
        find(connection, caller, vpp_id)
        if not allocation_id.isprintable():
            raise NotFound(f"VPP {vpp_id} has no such allocation")
        made = allocations.get(connection, vpp_id, allocation_id, lock=True)
        if made.requested_by == caller.username:
            raise Conflict("who asked for an allocation cannot approve it; another person has to")
        _require_as_it_was(connection, made)
        answer = _apply(connection, made, now, caller, approved_by=caller.username)
        return writing.keep(connection, 200, answer.model_dump_json(by_alias=True).encode())


@router.get("/{id}/allocations", summary="Allocations of a VPP, newest first")
@needs("vpp:read")
def list_allocations(context: Shared, caller: Caller, vpp_id: VppId, paging: Paged) -> Page[AllocationDocument]:
    """Return what the VPP was asked to do, and what waits for an approval."""
    before = paging.after(datetime, str)
    with context.engine.connect() as connection:
        find(connection, caller, vpp_id)
        found = allocations.page(
            connection, vpp_id, limit=paging.fetch, before=None if before is None else (before[0], before[1])
        )
    kept, cursor = paging.page(found, lambda each: (each.created_at, each.allocation_id))
    return Page(items=[AllocationDocument(**_fields(each)) for each in kept], next_cursor=cursor)


@router.get("/{id}/allocations/{allocationId}", summary="One allocation and its setpoints")
@needs("vpp:read")
def get_allocation(context: Shared, caller: Caller, vpp_id: VppId, allocation_id: AllocationId) -> AllocationDetail:
    """Return an allocation with what it asks of each resource."""
    with context.engine.connect() as connection:
        find(connection, caller, vpp_id)
        if not allocation_id.isprintable():
            raise NotFound(f"VPP {vpp_id} has no such allocation")
        found = allocations.get(connection, vpp_id, allocation_id)
        items = allocations.items(connection, allocation_id)
    return AllocationDetail(
        **_fields(found),
        allocation=[
            ItemDocument(
                resource_id=each.resource_id,
                type=each.type,
                device_id=each.device_id,
                output=each.outputs,
                step=each.step,
                command_id=each.command_id,
                fallback_at=each.fallback_at,
            )
            for each in items
        ],
    )


@router.get("/{id}/status", summary="What a VPP does, beside what it was asked to do")
@needs("vpp:read")
def get_status(context: Shared, caller: Caller, vpp_id: VppId) -> StatusDocument:
    """Return what the devices report, and how each keeps to its setpoint."""
    with context.engine.connect() as connection:
        wanted = find(connection, caller, vpp_id)
        found = vpp_status.describe(connection, wanted, utc_now(), measured_now=present(connection, context))
    return StatusDocument(
        vpp_id=vpp_id,
        current_output=finite(found.output_kw),
        setpoint=None if found.setpoint_kw is None else finite(found.setpoint_kw),
        soc=None if found.soc is None else finite(found.soc),
        status=found.status,
        last_update=found.vpp.last_update,
        resources=[_resource(each) for each in found.resources],
    )


def _apply(
    connection: sa.Connection, made: Allocation, now: datetime, caller: Principal, *, approved_by: str | None = None
) -> AllocationAnswer:
    queued = allocations.apply(connection, made, now, by=caller.username, approved_by=approved_by)
    without = [each.resource_id for each in allocations.items(connection, made.allocation_id) if each.device_id is None]
    return AllocationAnswer(
        success=True,
        id=made.allocation_id,
        state="applied",
        commands=[_sent(each) for each in queued],
        uncommanded=without,
    )


def _sent(queued: Command) -> SentCommand:
    return SentCommand(
        device_id=queued.device_id,
        topic=queued.topic,
        state=queued.state,
        command_id=queued.command_id,
        value=queued.payload["value"],
    )


def _entries(
    connection: sa.Connection, vpp_id: str, wanted: AllocationRequest, now: datetime
) -> tuple[Sequence[dict[str, Any]], Span]:
    """Return the entries to apply and their steps, whose count is not known yet."""
    if (wanted.allocation is None) == (wanted.optimization_id is None):
        raise InvalidInput("send either allocation or optimizationId", pointer="/allocation")
    if wanted.start is not None and wanted.start > now:
        raise InvalidInput("an allocation begins at once; send it when its first step has begun", pointer="/start")
    if wanted.allocation is not None:
        entries = [each.model_dump(by_alias=True) for each in wanted.allocation]
        return entries, Span(wanted.start or now, wanted.step_minutes or 60, 1)
    name = str(wanted.optimization_id)
    found = optimizations.get(connection, vpp_id, name) if name.isprintable() else None
    if found is None:
        raise NotFound(f"VPP {vpp_id} has no optimisation {wanted.optimization_id}")
    if found.answer["status"] != "completed":
        raise Conflict("this optimisation found no plan, so that there is nothing to apply")
    begins = next((each.get("start") for each in found.answer.get("steps", ())), None)
    start = wanted.start or (now if begins is None else datetime.fromisoformat(begins))
    if start > now:
        raise Conflict(f"the first step of this optimisation begins at {rfc3339(start)}; apply it from then on")
    minutes = wanted.step_minutes or found.problem.get("stepMinutes", 60)
    if minutes != int(minutes):
        raise Conflict(f"the steps of this optimisation have {minutes:g} minutes; only whole ones can be followed")
    return found.answer["allocation"], Span(start, int(minutes), 1)


def _devices(resources: dict[str, VppResource], assignments: Sequence[Assignment]) -> dict[str, tuple[str, str | None]]:
    named = {each.resource_id: resources[each.resource_id] for each in assignments}
    owner: dict[str, str] = {}
    for place, each in enumerate(named.values()):
        if each.device_id is None:
            continue
        other = owner.setdefault(each.device_id, each.resource_id)
        if other != each.resource_id:
            raise InvalidInput(
                f"{other} and {each.resource_id} have the same device, which takes one setpoint; allocate one of them",
                pointer=f"/allocation/{place}/resourceId",
            )
    return {name: (each.type, each.device_id) for name, each in named.items()}


def _require_as_it_was(connection: sa.Connection, made: Allocation) -> None:
    """Raise ``Conflict`` where the resources no longer take what they were asked while it waited."""
    resources = {each.resource_id: each for each in vpps.resources(connection, [made.vpp_id])[made.vpp_id]}
    items = allocations.items(connection, made.allocation_id)
    entries = [{"resourceId": each.resource_id, "type": each.type, "output": each.outputs} for each in items]
    try:
        checked(entries, [_target(each) for each in resources.values()])
    except InvalidInput as error:
        raise Conflict(f"the VPP changed since: {error}") from None
    for each in items:
        if resources[each.resource_id].device_id != each.device_id:
            raise Conflict(f"the VPP changed since: {each.resource_id} has another device")


def _stands_beside(
    connection: sa.Connection,
    context: Context,
    caller: Principal,
    vpp_id: str,
    assignments: Sequence[Assignment],
    now: datetime,
) -> float:
    """Return the kW that stand for other resources without approval: a large allocation is large in parts, too."""
    bound = context.settings.dispatch_approval_kw
    if bound is None or caller.role == _APPROVES:
        return 0.0
    named = [each.resource_id for each in assignments]
    return allocations.standing_alone_kw(connection, vpp_id, named, now, bound)


def _target(resource: VppResource) -> Target:
    return Target(resource.resource_id, resource.type, resource.capacity_kw, resource.parameters)


def _fields(found: Allocation) -> dict[str, Any]:
    return {
        "id": found.allocation_id,
        "state": found.state,
        "optimization_id": found.optimization_id,
        "total_power": finite(found.total_kw),
        "start": found.starts_at,
        "step_minutes": found.step_minutes,
        "steps": found.steps,
        "end": found.span.end,
        "requested_by": found.requested_by,
        "created_at": found.created_at,
        "approved_by": found.approved_by,
        "applied_at": found.applied_at,
    }


def _resource(found: ResourceStatus) -> ResourceStatusDocument:
    state = found.state
    return ResourceStatusDocument(
        resource_id=state.resource.resource_id,
        type=state.resource.type,
        device_id=state.resource.device_id,
        setpoint=None if found.setpoint_kw is None else finite(found.setpoint_kw),
        output=None if state.current_kw is None or not state.fresh else finite(state.current_kw),
        deviation=None if found.deviation_kw is None else finite(found.deviation_kw),
        soc=state.soc if state.resource.type == "storage" else None,
        status=found.conduct,
        reason=found.reason,
        allocation_id=found.allocation_id,
        last_update=state.measured_at,
    )
