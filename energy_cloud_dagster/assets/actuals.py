"""What became of the plan: the hour that ended, planned against actual, for every resource of the VPPs."""

from datetime import datetime, timedelta
from typing import Any, Final

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import actuals, marts, plans, vpps
from energy_cloud_dagster.adapters.actuals import ActualRow
from energy_cloud_dagster.adapters.plans import PlanRow, SetpointRow
from energy_cloud_dagster.assets.dispatch import dispatch_plan_hourly, planned_vpps
from energy_cloud_dagster.assets.dispatch_plots import actual_plot
from energy_cloud_dagster.assets.report import Effort, columns, hourly_asset, load_plotting, result
from energy_cloud_dagster.domain.audit.canonical import rows_digest
from energy_cloud_dagster.domain.intervals import HOUR, run_time
from energy_cloud_dagster.partitions import hours_in, offset
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

#: Hours that the plot looks back on.
SHOWN: Final = timedelta(hours=48)
_ROLES: Final = ("solar", "wind", "storage", "soc", "region_load")


@hourly_asset(
    "5_dispatch",
    {"python"},
    "dispatch.actual",
    columns(
        vpp_id="The virtual power plant",
        ts="Start of the hour",
        resource_id="The resource",
        type="solar, wind, storage or grid",
        issued_at="The now of the newest plan of the hour",
        planned_kw="Mean power in kW; storage: discharge - charge, grid: import - export",
        actual_kw="The same as it was; null: nobody measured it",
        source="measured by the resource's device, balance of what the region's meters leave for the tie, or none",
        planned_soc="State of charge at the end of the hour, fraction",
        actual_soc="The last that was measured in the hour",
        planned_cost="In the market's currency; exports earn",
        actual_cost="Actual energy at the plan's costs",
        compared_at="As-of time of the comparison",
    ),
    # the newest plan of an hour was made in the partition before it
    deps=["fct_series__hourly", dg.AssetDep(dispatch_plan_hourly, partition_mapping=offset(1))],
)
def dispatch_actual_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Every resource's hour as planned and as it was: power, state of charge and cost, the hour after."""
    effort = Effort()
    with effort.importing():
        load_plotting()
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    shown: list[ActualRow] = []
    for hour in hours_in(context.partition_time_window):
        now = run_time(hour)
        rows: list[ActualRow] = []
        with database.begin() as connection:
            serving = planned_vpps(connection, region)
            for one in serving:
                own = compared(connection, one.vpp_id, region, hour, now, alone=len(serving) == 1)
                actuals.replace_actuals(connection, one.vpp_id, hour, own)
                rows += own
                shown = actuals.actuals(connection, one.vpp_id, hour + HOUR - SHOWN, hour + HOUR)
        found[hour] = _described(rows)
    plot = {"planned_against_actual": actual_plot(shown)} if shown else {}
    return result(context, effort, found, plot)


def compared(
    connection: sa.Connection, vpp_id: str, region: str, hour: datetime, now: datetime, *, alone: bool = True
) -> list[ActualRow]:
    """Return the rows of one VPP's hour as known at ``now``; none where no plan had been made for it.

    What an unmetered tie carried follows from the region's meters where the VPP serves the region ``alone``.
    """
    made = run_time(hour - HOUR)
    plan = plans.plan_of(connection, vpp_id, made)
    if plan is None:
        return []
    measured = marts.history(connection, region, _ROLES, hour, hour + HOUR, now)
    energy = {(row.device_id, row.role): row.energy_kwh for row in measured}
    states = {row.device_id: row.last_value for row in measured if row.role == "soc"}
    load = [row.energy_kwh for row in measured if row.role == "region_load"]
    devices = {one.resource_id: one.device_id or "" for one in vpps.resources(connection, [vpp_id])[vpp_id]}
    steps = plans.setpoints(connection, vpp_id, made, hour)
    power = {
        step.resource_id: energy.get((devices.get(step.resource_id, ""), step.type))
        for step in steps
        if step.type != "grid"
    }
    ties = [step for step in steps if step.type == "grid"]
    rest = _rest(load, list(power.values())) if alone and len(ties) == 1 else None
    rows = []
    for step in steps:
        actual = rest if step.type == "grid" else power[step.resource_id]
        source = "none" if actual is None else "balance" if step.type == "grid" else "measured"
        rows.append(
            ActualRow(
                vpp_id,
                hour,
                step.resource_id,
                step.type,
                made,
                step.output_kw,
                actual,
                source,
                step.soc,
                states.get(devices.get(step.resource_id, "")) if step.type == "storage" else None,
                _cost(plan, step, step.output_kw),
                None if actual is None else _cost(plan, step, actual),
                now,
            )
        )
    return rows


def _rest(load: list[float | None], others: list[float | None]) -> float | None:
    """Return what the tie must have carried (kWh in the hour, which is mean kW): the load less what all others gave."""
    known = [value for value in (*load, *others) if value is not None]
    if not load or len(known) < len(load) + len(others):
        return None
    return sum(value for value in load if value is not None) - sum(value for value in others if value is not None)


def _cost(plan: PlanRow, step: SetpointRow, kilowatts: float) -> float:
    """Return what an hour at this power costs by the plan's own prices: exports at the export price, else at cost."""
    resource = next(one for one in plan.problem["resources"] if one["id"] == step.resource_id)
    place = int((step.ts - plan.plan_start) / HOUR)
    price = "exportPrice" if step.type == "grid" and kilowatts < 0 else "costPerKWh"
    given = resource.get(price) or 0.0
    rate: float = given[place] if isinstance(given, list) else given
    # what a storage takes in is paid where it comes from; its own cost is that of discharging
    return rate * (max(kilowatts, 0.0) if step.type == "storage" else kilowatts)


def _described(rows: list[ActualRow]) -> dict[str, Any]:
    known = [row for row in rows if row.actual_kw is not None]
    complete = bool(rows) and len(known) == len(rows)
    lines = []
    for row in rows:
        actual = (
            ("-", "-")
            if row.actual_kw is None
            else (f"{row.actual_kw:,.1f}", f"{row.actual_kw - row.planned_kw:+,.1f}")
        )
        lines.append(f"| {' | '.join((row.resource_id, f'{row.planned_kw:,.1f}', *actual, row.source))} |")
    table = "\n".join(
        ["| resource | planned kW | actual kW | deviation kW | source |", "|---|---:|---:|---:|---|", *lines]
    )
    return {
        "dagster/partition_row_count": len(rows),
        "comparison": dg.MetadataValue.md(table if rows else "No plan had been made for this hour."),
        "mean_deviation_kw": (
            sum(abs((row.actual_kw or 0.0) - row.planned_kw) for row in known) / len(known) if known else None
        ),
        "planned_cost": sum(row.planned_cost for row in rows),
        "actual_cost": sum(row.actual_cost or 0.0 for row in rows) if complete else None,
        "digest": rows_digest(rows),
    }
