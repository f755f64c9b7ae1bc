"""The dispatch problem of a VPP from what is known of it: its resources, states of charge, forecasts and prices.

Functions take an open connection. Powers in kW, energy in kWh, prices in the market's currency per kWh.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters import forecasts, markets, registry, vpps
from energy_cloud_dagster.adapters.tables import forecast_point
from energy_cloud_dagster.adapters.vpps import Vpp, VppResource
from energy_cloud_dagster.domain.intervals import HOUR, hour_start
from energy_cloud_dagster.domain.units import MICRO

#: A measured state of charge older than this is not believed.
STATE_VALID: Final = timedelta(hours=2)
DEFAULT_SOC: Final = 0.5
_DAY: Final = timedelta(days=1)
_FORECAST_TYPES: Final = frozenset({"solar", "wind", "hydro"})


class Steps(NamedTuple):
    """The steps of a plan: ``number`` of ``minutes`` each from ``start`` (UTC) on."""

    start: datetime
    minutes: float
    number: int

    def hours(self) -> list[datetime]:
        """Return the hour that each step starts in."""
        return [hour_start(self.start + step * timedelta(minutes=self.minutes)) for step in range(self.number)]


class Prices(NamedTuple):
    """What the grid costs in each step, and pays for exports."""

    imports: list[float]
    exports: list[float]


def dispatchable(connection: sa.Connection, plant: Vpp) -> list[VppResource]:
    """Return the resources of a VPP, its own grid connection among them where it has no ``grid`` resource."""
    found = vpps.resources(connection, [plant.vpp_id])[plant.vpp_id]
    if all(each.type != "grid" for each in found):
        own = vpps.own_grid_id(plant.vpp_id)
        found.append(VppResource(plant.vpp_id, own, "grid", plant.capacity_kw, None, {}, None))
    return found


def resource_documents(
    connection: sa.Connection,
    plant: Vpp,
    resources: Sequence[VppResource],
    overrides: Mapping[str, Mapping[str, Any]],
    steps: Steps,
    now: datetime,
    *,
    grid_price: float,
) -> list[dict[str, Any]]:
    """Return the resources as a dispatch problem has them, with what was known of each at ``now``.

    ``overrides`` are fields that the caller gave, by resource id: they stand. Else the availability of sun, wind and
    water is the newest forecast's where there is one, else the registered one, else 1; hours past a forecast's end take
    the same hour of its last day. A state of charge is the measured one, else the registered one, else 0.5. A grid
    connection without prices of its own imports at the market's, or at ``grid_price`` where none is known; it exports
    at the market's feed-in price where the VPP trades there.
    """
    hours = steps.hours()
    prices: Prices | None = None
    foreseen = availabilities(connection, plant.vpp_id, hours, now)
    stores = [each.device_id for each in resources if each.type == "storage" and each.device_id is not None]
    charges = states_of_charge(connection, stores, now) if stores else {}
    documents = []
    for each in resources:
        document: dict[str, Any] = {"id": each.resource_id, "type": each.type, "capacity": each.capacity_kw}
        document |= each.planned
        given = overrides.get(each.resource_id, {})
        if each.type in _FORECAST_TYPES and each.resource_id in foreseen:
            document["availability"] = foreseen[each.resource_id]
        elif each.type == "storage":
            document["soc"] = charges.get(each.device_id or "", each.parameters.get("soc", DEFAULT_SOC))
        elif each.type == "grid" and not {"costPerKWh", "exportPrice"} & (given.keys() | document.keys()):
            prices = prices or market_prices(connection, plant.region_id, hours, now, grid_price)
            document["costPerKWh"] = prices.imports
            if plant.participant_id is not None:
                document["exportPrice"] = prices.exports
        documents.append({**document, **given})
    return documents


def states_of_charge(connection: sa.Connection, device_ids: Sequence[str], now: datetime) -> dict[str, float]:
    """Return the measured states of charge (fractions) that are believed at ``now``, by device."""
    found = {}
    for device_id, states in vpps.latest_states(connection, device_ids, now).items():
        for state in states:
            sound = state.quality != "bad" and 0.0 <= state.value <= 1.0
            if (state.role == "soc" or state.metric == "soc") and state.ts >= now - STATE_VALID and sound:
                found[device_id] = state.value
    return found


def availabilities(
    connection: sa.Connection, vpp_id: str, hours: Sequence[datetime], now: datetime
) -> dict[str, list[float]]:
    """Return the share of its capacity that each resource can give in ``hours`` by the newest forecasts, by id.

    Resources that no forecast issued by ``now`` covers in any of them are left out.
    """
    prefix, last = f"resource/{vpp_id}/", "/availability"
    point = forecast_point.c
    newest = connection.execute(
        sa.select(sa.func.max(point.issued_at)).where(
            point.series_key.startswith(prefix, autoescape=True), point.issued_at <= now
        )
    ).scalar()
    if newest is None:
        return {}
    known: dict[str, dict[datetime, float]] = {}
    for one in forecasts.issued(connection, newest, prefixes=(prefix,)):
        if one.series_key.endswith(last):
            resource_id = one.series_key.removeprefix(prefix).removesuffix(last)
            known.setdefault(resource_id, {})[one.ts] = one.p50
    wanted = set(hours)
    return {name: _by_hour(points, hours) for name, points in known.items() if not wanted.isdisjoint(points)}


def market_prices(
    connection: sa.Connection, region_id: str, hours: Sequence[datetime], now: datetime, grid_price: float
) -> Prices:
    """Return the outside prices of ``hours`` that were published by ``now``.

    Hours without one take the price of the same hour of the last day that has one, else the newest price, else
    ``grid_price`` (and 0 for exports).
    """
    market_id = registry.find_region(connection, region_id).market_id
    first, last = min(hours), max(hours)
    known = markets.outside_prices(connection, market_id, first - _DAY, last + HOUR, now)
    if not known:
        return Prices([grid_price] * len(hours), [0.0] * len(hours))
    imports = {hour: one.import_price_micro / MICRO for hour, one in known.items()}
    exports = {hour: one.export_price_micro / MICRO for hour, one in known.items()}
    return Prices(_by_hour(imports, hours), _by_hour(exports, hours))


def _by_hour(known: Mapping[datetime, float], hours: Sequence[datetime]) -> list[float]:
    """Return the value of each hour; where there is none that of the same hour of an earlier day, else the newest."""
    newest = known[max(known)]
    of_clock: dict[int, list[datetime]] = {}
    for hour in sorted(known):
        of_clock.setdefault(hour.hour, []).append(hour)
    values = []
    for hour in hours:
        same = of_clock.get(hour.hour, [])
        before = bisect_right(same, hour)
        values.append(known[same[before - 1]] if before else newest)
    return values
