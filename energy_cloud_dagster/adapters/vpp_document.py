"""The document of a VPP: its registered resources with what each device last measured.

``current`` is power in kW (storage: discharge positive; grid: import positive): what the resource's device says of the
moment (``power``), where that is newer than its newest interval, else the mean of that interval. A state older than two
hours no longer counts as current.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from energy_cloud_dagster.adapters import plans, vpps
from energy_cloud_dagster.adapters.plans import PlanSummary
from energy_cloud_dagster.adapters.vpps import LatestState, Vpp, VppResource
from energy_cloud_dagster.domain.units import MINUTES_PER_HOUR

STALE_AFTER: Final = timedelta(hours=2)
#: What a device that obeys commands reports at the moment, in kW.
LIVE_POWER: Final = "power"
_POWER_METRICS: Final = ("output", "power", "generation")


@dataclass(frozen=True, slots=True)
class ResourceState:
    """A resource and its latest measured state; None where its device has not reported (or it has none)."""

    resource: VppResource
    current_kw: float | None
    soc: float | None
    measured_at: datetime | None
    fresh: bool


@dataclass(frozen=True, slots=True)
class VppState:
    """A VPP as it stands: ``output_kw`` sums what its resources last measured.

    ``status``: operational when every resource with a device reported lately, degraded when some did, offline when
    none did. ``last_update`` is when the newest of these readings arrived.
    """

    vpp: Vpp
    resources: tuple[ResourceState, ...]
    output_kw: float
    status: str
    last_update: datetime | None
    plan: PlanSummary | None


def describe(connection: sa.Connection, found: Sequence[Vpp], now: datetime, as_of: datetime | None) -> list[VppState]:
    """Return the state of each VPP from what was known at ``as_of`` (None: ever); ``now`` judges freshness."""
    ids = [item.vpp_id for item in found]
    resources = vpps.resources(connection, ids)
    devices = {item.device_id for listed in resources.values() for item in listed if item.device_id is not None}
    states = vpps.latest_states(connection, devices, as_of)
    newest = plans.latest_summaries(connection, ids, as_of)
    return [
        _vpp_state(item, [_resource_state(each, states, now) for each in resources[item.vpp_id]], newest)
        for item in found
    ]


def _vpp_state(vpp: Vpp, resources: list[ResourceState], newest: dict[str, PlanSummary]) -> VppState:
    watched = [item for item in resources if item.resource.device_id is not None]
    fresh = sum(item.fresh for item in watched)
    status = "offline" if not fresh else "operational" if fresh == len(watched) else "degraded"
    arrived = [item.measured_at for item in resources if item.measured_at is not None]
    return VppState(
        vpp=vpp,
        resources=tuple(resources),
        output_kw=sum(item.current_kw for item in resources if item.current_kw is not None),
        status=status,
        last_update=max(arrived, default=None),
        plan=newest.get(vpp.vpp_id),
    )


def _resource_state(resource: VppResource, states: dict[str, list[LatestState]], now: datetime) -> ResourceState:
    known = states.get(resource.device_id or "", [])
    power = [item for item in known if item.kind in {"power", "energy"} and item.metric in _POWER_METRICS]
    # A device that reports both is believed by its mean power, which needs no conversion.
    power.sort(key=lambda item: (item.kind == "power", item.ts))
    current = _mean_kw(power[-1]) if power else None
    live = next((item for item in known if item.kind == "state" and item.metric == LIVE_POWER), None)
    if live is not None and (not power or live.ts >= power[-1].ts + timedelta(minutes=power[-1].interval_minutes)):
        current = live.value
    soc = next((item.value for item in known if item.role == "soc" or item.metric == "soc"), None)
    ends = [item.ts + timedelta(minutes=item.interval_minutes) for item in known]
    return ResourceState(
        resource=resource,
        current_kw=current,
        soc=soc,
        measured_at=max((item.received_at for item in known), default=None),
        fresh=bool(ends) and now - max(ends) <= STALE_AFTER,
    )


def _mean_kw(state: LatestState) -> float:
    return state.value if state.kind == "power" else state.value * MINUTES_PER_HOUR / state.interval_minutes
