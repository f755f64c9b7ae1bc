"""The VPP's plan: what every resource does in the next 24 hours at least cost, and why."""

from datetime import datetime, timedelta
from typing import Any, Final

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import forecasts, markets, plans, registry, vpps
from energy_cloud_dagster.adapters.plans import PlanRow, SetpointRow
from energy_cloud_dagster.adapters.vpps import VppResource
from energy_cloud_dagster.assets.forecasts import load_key, region_load_forecast_hourly
from energy_cloud_dagster.assets.generation import availability_key, generation_availability_hourly
from energy_cloud_dagster.assets.issued import HORIZON_HOURS
from energy_cloud_dagster.assets.prices import outside_prices_hourly
from energy_cloud_dagster.assets.report import (
    Effort,
    columns,
    hourly_asset,
    load_plotting,
    new_figure,
    picture,
    result,
)
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339, run_time
from energy_cloud_dagster.domain.units import MICRO
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

#: A measured state of charge older than this is not believed; the previous plan's is used.
STATE_VALID: Final = timedelta(hours=2)
_COLOURS: Final = {"solar": "gold", "wind": "tab:cyan", "storage": "tab:green", "grid": "tab:grey"}


@hourly_asset(
    "5_dispatch",
    {"python", "pulp"},
    "dispatch.setpoint",
    columns(
        vpp_id="The virtual power plant",
        issued_at="The now of the plan: nothing received later was used",
        resource_id="The resource",
        ts="Start of the hour",
        type="solar, wind, storage or grid",
        output_kw="Mean power in kW; storage: discharge - charge, grid: import - export",
        available_kw="What sun or wind allow in kW",
        soc="State of charge at the end of the hour, fraction",
        marginal_price="Dual of the balance: what one more kWh of demand would cost",
    ),
    deps=[region_load_forecast_hourly, generation_availability_hourly, outside_prices_hourly],
)
def dispatch_plan_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Least-cost plan of every VPP from the hour after on: PuLP and HiGHS, from the measured state of charge."""
    effort = Effort()
    with effort.importing():
        load_plotting()
        import highspy  # noqa: F401
        import pulp  # noqa: F401

        from energy_cloud_dagster.domain.dispatch import parse_problem, solve
    region = load_settings().region
    found: dict[datetime, dict[str, Any]] = {}
    rows: list[SetpointRow] = []
    for hour in hours_in(context.partition_time_window):
        now, start = run_time(hour), hour + HOUR
        solved: dict[str, dict[str, Any]] = {}
        with database.begin() as connection:
            for one in vpps.in_region(connection, region):
                problem = _problem(connection, one.vpp_id, region, now, start)
                solution = solve(parse_problem(problem)).to_document()
                if solution["status"] != "completed":
                    raise dg.Failure(f"no plan for {one.vpp_id} at {rfc3339(now)}: {solution['explanation']}")
                row = PlanRow(
                    one.vpp_id,
                    now,
                    start,
                    solution["solver"],
                    solution["status"],
                    solution["cost"],
                    solution["unmetEnergy"],
                    solution["renewableRatio"],
                    problem,
                    solution,
                    digest([problem, solution]),
                )
                rows = _setpoints(row)
                plans.replace_plan(connection, row, rows)
                solved[one.vpp_id] = solution | {"digest": row.digest}
        found[hour] = _described(solved)
    plot = {"plot_of_last_hour": _stack_plot(rows, problem["demand"])} if rows else {}
    return result(context, effort, found, plot)


def _problem(connection: sa.Connection, vpp_id: str, region: str, now: datetime, start: datetime) -> dict[str, Any]:
    """Return the dispatch problem of one VPP as PLAN.json: kW per hourly step, money in the market's currency."""
    ahead = [start + step * HOUR for step in range(HORIZON_HOURS)]
    market_id = registry.find_region(connection, region).market_id
    prices = markets.outside_prices(connection, market_id, ahead[0], ahead[-1] + HOUR, now)
    if missing := [rfc3339(hour) for hour in ahead if hour not in prices]:
        raise dg.Failure(
            f"no price of {market_id} was known at {rfc3339(now)} for {missing[0]} and {len(missing) - 1} more hours"
        )
    load = {
        one.ts: one.p50 for one in forecasts.issued(connection, now, prefixes=(load_key(region),)) if one.ts in ahead
    }
    if len(load) != len(ahead):
        raise dg.Failure(f"no load was forecast at {rfc3339(now)}; materialise region_load_forecast_hourly first")
    resources = vpps.resources(connection, [vpp_id])[vpp_id]
    return {
        "start": rfc3339(start),
        "stepMinutes": 60,
        "demand": [load[hour] for hour in ahead],
        "resources": [_resource(connection, one, now, ahead, [prices[hour] for hour in ahead]) for one in resources],
    }


def _resource(
    connection: sa.Connection,
    resource: VppResource,
    now: datetime,
    ahead: list[datetime],
    prices: list[markets.OutsidePrice],
) -> dict[str, Any]:
    """Return one resource of the problem with what is known of it now."""
    document: dict[str, Any] = {
        "id": resource.resource_id,
        "type": resource.type,
        "capacity": resource.capacity_kw,
        **resource.parameters,
    }
    if resource.type in ("solar", "wind"):
        key = availability_key(resource.vpp_id, resource.resource_id)
        allowed = {one.ts: one.p50 for one in forecasts.issued(connection, now, prefixes=(key,))}
        document["availability"] = [allowed.get(hour, 0.0) for hour in ahead]
    elif resource.type == "storage":
        document["soc"] = _state_of_charge(connection, resource, now, ahead[0])
    elif resource.type == "grid":
        document["costPerKWh"] = [one.import_price_micro / MICRO for one in prices]
        document["exportPrice"] = [one.export_price_micro / MICRO for one in prices]
    return document


def _state_of_charge(connection: sa.Connection, storage: VppResource, now: datetime, start: datetime) -> float:
    """Return the measured state of charge, the previous plan's where that is missing, bad or older than two hours."""
    states = vpps.latest_states(connection, [storage.device_id or ""], now).get(storage.device_id or "", [])
    for state in states:
        believed = state.quality != "bad" and 0.0 <= state.value <= 1.0
        if state.role == "soc" and state.ts >= now - STATE_VALID and believed:
            return state.value
    previous = plans.setpoints(connection, storage.vpp_id, now - HOUR, start - HOUR)
    for row in previous:
        if row.resource_id == storage.resource_id and row.soc is not None:
            return row.soc
    return float(storage.parameters.get("soc", 0.5))


def _setpoints(row: PlanRow) -> list[SetpointRow]:
    prices = [step["marginalPrice"] for step in row.solution["steps"]]
    capacities = {one["id"]: one for one in row.problem["resources"]}
    rows = []
    for one in row.solution["allocation"]:
        resource = capacities[one["resourceId"]]
        availability = resource.get("availability")
        for step, output in enumerate(one["output"]):
            rows.append(
                SetpointRow(
                    row.vpp_id,
                    row.issued_at,
                    one["resourceId"],
                    row.plan_start + step * HOUR,
                    one["type"],
                    output,
                    availability[step] * resource["capacity"] if availability else None,
                    one["soc"][step] if "soc" in one else None,
                    prices[step],
                )
            )
    return rows


def _described(solved: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": sum(len(one["allocation"]) * HORIZON_HOURS for one in solved.values()),
        "cost": sum(one["cost"] for one in solved.values()),
        "unmet_kwh": sum(one["unmetEnergy"] for one in solved.values()),
        "renewable_ratio": {name: one["renewableRatio"] for name, one in solved.items()},
        "marginal_price_first_hour": {name: one["steps"][0]["marginalPrice"] for name, one in solved.items()},
        "explanation": [text for one in solved.values() for text in one["explanation"][:6]],
        "digest": digest({name: one["digest"] for name, one in solved.items()}),
    }


def _stack_plot(rows: list[SetpointRow], demand: list[float]) -> dg.MarkdownMetadataValue:
    """Draw the planned outputs as a stack over the hours, demand and marginal price with it."""
    import numpy as np

    figure = new_figure(height=3.8)
    axes = figure.subplots()
    hours = sorted({row.ts for row in rows})
    above, below = np.zeros(len(hours)), np.zeros(len(hours))
    for resource in sorted({(row.type, row.resource_id) for row in rows}, reverse=True):
        output = np.array([row.output_kw for row in rows if row.resource_id == resource[1]])
        up, down = np.maximum(output, 0), np.minimum(output, 0)
        colour = _COLOURS.get(resource[0])
        axes.bar(range(len(hours)), up, bottom=above, color=colour, label=resource[1], edgecolor="white", linewidth=0.4)
        axes.bar(range(len(hours)), down, bottom=below, color=colour, edgecolor="white", linewidth=0.4)
        above, below = above + up, below + down
    axes.step(range(len(hours)), demand, where="mid", color="black", linewidth=1.2, label="demand")
    axes.set_xticks(range(0, len(hours), 4), [hours[i].strftime("%d %H:%M") for i in range(0, len(hours), 4)])
    axes.set_ylabel("kW")
    price = axes.twinx()
    price.plot(range(len(hours)), [row.marginal_price for row in rows[: len(hours)]], color="tab:red", linewidth=1)
    price.set_ylabel("marginal price per kWh", color="tab:red")
    axes.legend(loc="upper left", ncols=6, fontsize="x-small")
    return picture(figure)
