"""How a VPP follows what it was asked: the setpoint of each resource beside what its device reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from energy_cloud_dagster.adapters import allocations, vpp_document
from energy_cloud_dagster.adapters.allocations import Standing
from energy_cloud_dagster.adapters.vpp_document import ResourceState, VppState
from energy_cloud_dagster.adapters.vpps import Vpp
from energy_cloud_dagster.domain.dispatch.applying.allocations import Conduct, Target, kept

_ENDED_BADLY = frozenset({"rejected", "expired"})


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """A resource, the setpoint in kW that stands for it (None: none does), and how its device keeps to that.

    ``deviation_kw`` is reported output - setpoint, None where one of them is not known. ``reason`` is why its device
    refused, or why nothing was done.
    """

    state: ResourceState
    setpoint_kw: float | None
    deviation_kw: float | None
    conduct: Conduct
    reason: str | None
    allocation_id: str | None


@dataclass(frozen=True, slots=True)
class VppStatus:
    """A VPP with its resources; ``output_kw`` sums what was reported lately, ``setpoint_kw`` the setpoints that stand.

    ``soc`` is the mean state of charge of its storage by energy capacity, None without one that reports.
    """

    vpp: VppState
    resources: tuple[ResourceStatus, ...]
    output_kw: float
    setpoint_kw: float | None
    soc: float | None
    status: str


def describe(connection: sa.Connection, found: Vpp, now: datetime, *, measured_now: datetime) -> VppStatus:
    """Return how a VPP stands at ``now``; ``measured_now`` is the present of its readings, in a replay another one."""
    (state,) = vpp_document.describe(connection, [found], measured_now, None)
    standing = allocations.standing(connection, found.vpp_id, now)
    resources = tuple(_resource(each, standing.get(each.resource.resource_id)) for each in state.resources)
    setpoints = [each.setpoint_kw for each in resources if each.setpoint_kw is not None]
    return VppStatus(
        vpp=state,
        resources=resources,
        output_kw=math.fsum(each.state.current_kw or 0.0 for each in resources if each.state.fresh),
        setpoint_kw=math.fsum(setpoints) if setpoints else None,
        soc=_mean_soc(state.resources),
        status="fallback" if any(each.conduct == "fallback" for each in resources) else state.status,
    )


def _resource(state: ResourceState, standing: Standing | None) -> ResourceStatus:
    if standing is None:
        return ResourceStatus(state, None, None, "free", None, None)
    item = standing.item
    setpoint = standing.overridden_kw if standing.overridden else item.setpoint_kw
    current = state.current_kw if state.fresh else None
    deviation = None if current is None or setpoint is None else current - setpoint
    conduct, reason = _conduct(state, standing)
    return ResourceStatus(state, setpoint, deviation, conduct, reason, item.allocation_id)


def _conduct(state: ResourceState, standing: Standing) -> tuple[Conduct, str | None]:
    item, resource = standing.item, state.resource
    if item.fallback_at is not None:
        return "fallback", "its device fell silent"
    if item.device_id is None:
        return "unmeasured", "it has no device"
    if standing.overridden:
        return "overridden", "its device was commanded otherwise"
    if standing.command_state in _ENDED_BADLY:
        return "refused", standing.command_reason
    if standing.command_state != "done" or item.commanded_at is None:
        return "pending", None
    if state.measured_at is None or state.measured_at <= item.commanded_at:
        return "unmeasured", "its device has reported nothing since"
    target = Target(resource.resource_id, resource.type, resource.capacity_kw, resource.parameters)
    if state.current_kw is None:
        return "unmeasured", "its device reports no power"
    return kept(target, item.setpoint_kw, state.current_kw), None


def _mean_soc(resources: tuple[ResourceState, ...]) -> float | None:
    known = [
        (each.soc, float(each.resource.parameters.get("energyCapacity") or each.resource.capacity_kw))
        for each in resources
        if each.resource.type == "storage" and each.soc is not None
    ]
    weight = math.fsum(kwh for _, kwh in known)
    return math.fsum(soc * kwh for soc, kwh in known) / weight if weight else None
