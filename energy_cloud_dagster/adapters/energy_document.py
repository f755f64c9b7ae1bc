"""The energy document of a region: what its readings say about consumption, generation and storage of a window.

Nothing in it is a constant. The breakdown follows the customer class of each meter, the sources follow the generator
that measured, ``grid`` is what consumption needed beyond local generation and discharge, and ``confidence`` is the
share of the expected readings that were measured (a missing, faulty or quarantined one would have to be substituted).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from energy_cloud_dagster.adapters import energy, energy_buckets, vpps
from energy_cloud_dagster.adapters.energy import QUALITIES, Bucket, EnergySeries, Flow, SeriesSum
from energy_cloud_dagster.adapters.tables import vpp, vpp_resource

CUSTOMER_CLASSES: Final = ("residential", "commercial", "industrial")
SOURCES: Final = ("solar", "wind", "hydro", "grid")
#: Share of the readings that must be at least as good as the quality that the document names.
_QUALITY_SHARE: Final = 0.95
#: Below this power in kW storage counts as idle.
_IDLE_KW: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Storage:
    """Storage of a region: energy in kWh; ``status`` is charging, discharging or idle."""

    capacity_kwh: float
    current_kwh: float
    status: str


@dataclass(frozen=True, slots=True)
class RegionEnergy:
    """The figures of the energy document, energies in kWh over the window; ``confidence`` from 0 to 1."""

    consumption: float
    breakdown: dict[str, float]
    generation: float
    sources: dict[str, float]
    storage: Storage
    quality: str
    consumption_quality: str
    confidence: float


def region_energy(
    connection: sa.Connection, region_id: str, start: datetime, end: datetime, as_of: datetime | None = None
) -> RegionEnergy:
    """Compute the document of ``[start, end)`` from the readings known at ``as_of`` (None: now)."""
    meters = energy.flow_series(connection, "consumption", region_id=region_id)
    generators = energy.flow_series(connection, "generation", region_id=region_id)
    batteries = energy.storage_series(connection, region_id)
    measured = [*meters, *generators, *batteries]
    sums = energy.sums(connection, measured, start, end, as_of)

    breakdown = dict.fromkeys(CUSTOMER_CLASSES, 0.0)
    for item in meters:
        if item.series_id in sums:
            # A meter that nobody classified still consumed: it counts where most meters are.
            breakdown[item.customer_class or "residential"] += item.kwh(sums[item.series_id].total)
    # Meters that fed in more than they drew, consumed nothing.
    breakdown = {name: max(0.0, kwh) for name, kwh in breakdown.items()}
    consumption = sum(breakdown.values())
    sources = dict.fromkeys(SOURCES, 0.0)
    for item in generators:
        if item.series_id in sums and item.source is not None:
            sources[item.source] = sources.get(item.source, 0.0) + item.kwh(sums[item.series_id].total)
    # Idle turbines draw a little: a source that took more than it gave, gave nothing.
    sources = {name: max(0.0, kwh) for name, kwh in sources.items()}
    discharged = sum(item.kwh(sums[item.series_id].total) for item in batteries if item.series_id in sums)
    sources["grid"] = max(0.0, consumption - sum(sources.values()) - discharged)
    return RegionEnergy(
        consumption=consumption,
        breakdown=breakdown,
        generation=sum(sources.values()),
        sources=sources,
        storage=_storage(connection, region_id, end, as_of),
        quality=overall_quality(sums.values()),
        consumption_quality=overall_quality(sums[item.series_id] for item in meters if item.series_id in sums),
        confidence=confidence(measured, sums, start, end),
    )


def totals(
    connection: sa.Connection,
    region_id: str,
    flow: Flow,
    bucket: Bucket,
    *,
    start: datetime,
    end: datetime,
    as_of: datetime | None = None,
) -> list[tuple[datetime, float]]:
    """Return the measured kWh of the region by bucket that has readings, in order of time."""
    measured = energy.flow_series(connection, flow, region_id=region_id)
    found: dict[datetime, float] = {}
    # Raw readings throughout, so that the buckets add up to the total of the document.
    for row in energy_buckets.bucketed(
        connection, measured, bucket, start, end, limit=None, as_of=as_of, from_marts=False
    ):
        found[row.ts] = found.get(row.ts, 0.0) + row.kwh
    return list(found.items())


def overall_quality(sums: Iterable[SeriesSum]) -> str:
    """Return the best quality that at least 95 % of the readings reach; ``bad`` where there are none."""
    counts = dict.fromkeys(QUALITIES, 0)
    for item in sums:
        for quality, count in item.by_quality.items():
            counts[quality] += count
    total = sum(counts.values())
    reached = 0
    for quality in QUALITIES:
        reached += counts[quality]
        if total and reached >= _QUALITY_SHARE * total:
            return quality
    return QUALITIES[-1]


def confidence(measured: Sequence[EnergySeries], sums: dict[int, SeriesSum], start: datetime, end: datetime) -> float:
    """Return good readings / expected readings, 0 where none were expected and none came.

    Of a series with a role every interval is expected; of others, just the readings that came.
    """
    good = expected = 0.0
    minutes = (end - start).total_seconds() / 60
    for item in measured:
        found = sums.get(item.series_id)
        came = 0 if found is None else found.readings
        good += 0 if found is None else came - found.by_quality["bad"]
        expected += came if item.role is None else max(came, minutes // item.interval_minutes)
    return good / expected if expected else 0.0


def _storage(connection: sa.Connection, region_id: str, end: datetime, as_of: datetime | None) -> Storage:
    rows = connection.execute(
        sa.select(vpp_resource.c.device_id, vpp_resource.c.parameters)
        .join_from(vpp_resource, vpp, vpp.c.vpp_id == vpp_resource.c.vpp_id)
        .where(vpp.c.region_id == region_id, vpp.c.deleted_at.is_(None))
        .where(vpp_resource.c.type == "storage", vpp_resource.c.device_id.is_not(None))
    ).all()
    states = vpps.latest_states(connection, [row.device_id for row in rows], as_of, before=end)
    capacity = current = power = 0.0
    for row in rows:
        size = float(row.parameters.get("energyCapacity", 0.0))
        capacity += size
        for state in states.get(row.device_id, []):
            if state.role == "soc":
                current += state.value * size
            elif state.role == "storage":
                power += state.value
    status = "idle" if abs(power) <= _IDLE_KW else "discharging" if power > 0 else "charging"
    return Storage(capacity, max(0.0, current), status)
