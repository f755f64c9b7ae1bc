"""The VPP's plan: what every resource does in the next 24 hours at least cost, and why."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import actuals, forecasts, markets, plans, registry, vpps
from energy_cloud_dagster.adapters.plans import PlanRow, SetpointRow
from energy_cloud_dagster.adapters.vpps import VppResource
from energy_cloud_dagster.assets.dispatch_plots import plan_plot
from energy_cloud_dagster.assets.forecasts import load_key, region_load_forecast_hourly
from energy_cloud_dagster.assets.generation import availability_key, generation_availability_hourly
from energy_cloud_dagster.assets.issued import HORIZON_HOURS
from energy_cloud_dagster.assets.prices import outside_prices_hourly
from energy_cloud_dagster.assets.report import (
    Effort,
    columns,
    hourly_asset,
    load_plotting,
    result,
)
from energy_cloud_dagster.domain.audit.canonical import digest
from energy_cloud_dagster.domain.dispatch.applying.commitment import Commitment, honouring, steps_under
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339, run_time
from energy_cloud_dagster.domain.units import MICRO
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    from energy_cloud_dagster.domain.dispatch.ahead.scenarios import Outlook, Risk

#: A forecast and a problem's figure are the same up to this share.
_SAME: Final = 1e-9
#: A measured state of charge older than this is not believed; the previous plan's is used.
STATE_VALID: Final = timedelta(hours=2)
#: One VPP's search; the plan found by then counts.
LONGEST_SEARCH: Final = timedelta(minutes=5)
#: What gives as much as nature allows: less is curtailment, and may be sold instead.
_ALLOWED: Final = frozenset({"solar", "wind", "hydro"})


@hourly_asset(
    "5_dispatch",
    {"python", "pulp"},
    "dispatch.setpoint",
    columns(
        vpp_id="The virtual power plant",
        issued_at="The now of the plan: nothing received later was used",
        resource_id="The resource",
        ts="Start of the hour",
        type="solar, wind, hydro, storage, chp, load or grid",
        output_kw="Mean power in kW; storage: discharge - charge, grid: import - export",
        available_kw="What sun, wind or water allow in kW",
        soc="State of charge at the end of the hour, fraction",
        marginal_price="Dual of the balance: what one more kWh of demand would cost",
    ),
    deps=[region_load_forecast_hourly, generation_availability_hourly, outside_prices_hourly],
)
def dispatch_plan_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Least-cost plan of every VPP for 24 hours: from the measured state of charge, honouring accepted commands."""
    effort = Effort()
    with effort.importing():
        load_plotting()
        import highspy  # noqa: F401
        import pulp  # noqa: F401

        from energy_cloud_dagster.domain.dispatch.ahead import scenarios  # noqa: F401
    region, risk = load_settings().region, load_settings().dispatch_risk
    found: dict[datetime, dict[str, Any]] = {}
    rows: list[SetpointRow] = []
    demand: list[float] = []
    for hour in hours_in(context.partition_time_window):
        now, start = run_time(hour), hour + HOUR
        solved: dict[str, dict[str, Any]] = {}
        unplanned: dict[str, str] = {}
        with database.begin() as connection:
            serving = planned_vpps(connection, region)
            whole = sum(one.capacity_kw for one in serving)
            for one in serving:
                # several share the load by their capacities
                share = one.capacity_kw / whole if whole else 1.0
                problem = _problem(connection, one.vpp_id, region, now, start, share)
                outlook = _outlook(connection, one.vpp_id, region, now, problem, share)
                # what nobody can plan is its own VPP's trouble: the others plan, and the market opens without it
                solution, why_not = _solution(problem, outlook, risk)
                if why_not:
                    unplanned[one.vpp_id] = why_not
                    context.log.error("no plan for %s at %s: %s", one.vpp_id, rfc3339(now), why_not)
                    plans.remove_plan(connection, one.vpp_id, now)
                    continue
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
                rows, demand = _setpoints(row), problem["demand"]
                plans.replace_plan(connection, row, rows, run_id=context.run.run_id)
                solved[one.vpp_id] = solution | {"digest": row.digest}
        found[hour] = _described(solved, unplanned)
    plot = {"plot_of_last_hour": plan_plot(rows, demand)} if rows else {}
    return result(context, effort, found, plot)


def planned_vpps(connection: sa.Connection, region: str) -> list[vpps.Vpp]:
    """Return the VPPs that serve the region's load: those that trade as VPPs in its market. Others plan on request."""
    trading = {one.participant_id for one in registry.participants(connection, region) if one.kind == "vpp"}
    return [one for one in vpps.in_region(connection, region) if one.participant_id in trading]


def _problem(
    connection: sa.Connection, vpp_id: str, region: str, now: datetime, start: datetime, share: float = 1.0
) -> dict[str, Any]:
    """Return the dispatch problem of one VPP as PLAN.json: kW per hourly step, money in the market's currency.

    ``share`` is the part of the region's load that it serves.
    """
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
    commanded = actuals.in_force(connection, [one.device_id for one in resources if one.device_id is not None], now)
    documents = []
    for one in resources:
        document = _resource(connection, one, now, ahead, [prices[hour] for hour in ahead])
        found = commanded.get(one.device_id or "")
        commitment = None if found is None else Commitment(found.setpoint_kw, found.valid_until)
        held = 0 if commitment is None else steps_under(commitment, start, HOUR, len(ahead))
        documents.append(honouring(document, commitment, len(ahead), held, HOUR / timedelta(hours=1)))
    return {
        "start": rfc3339(start),
        "stepMinutes": 60,
        "timeLimit": LONGEST_SEARCH / timedelta(seconds=1),
        "demand": [load[hour] * share for hour in ahead],
        "resources": documents,
    }


def _solution(problem: dict[str, Any], outlook: "Outlook", risk: "Risk") -> tuple[dict[str, Any], str]:
    """Return the answer to a VPP's problem, and why it is no plan: empty where it is one."""
    from energy_cloud_dagster.domain.dispatch import parse_problem
    from energy_cloud_dagster.domain.dispatch.ahead.scenarios import solve_outlook
    from energy_cloud_dagster.domain.dispatch.solving.lp import SolverFailed

    try:
        solution = solve_outlook(parse_problem(problem), outlook, risk).to_document()
    except InvalidInput as error:
        return {}, f"{error.pointer}: {error}"
    except SolverFailed as error:
        return {}, str(error)
    return solution, "" if solution["status"] == "completed" else " ".join(solution["explanation"])


def _outlook(
    connection: sa.Connection, vpp_id: str, region: str, now: datetime, problem: dict[str, Any], share: float
) -> "Outlook":
    """Return the bands around what the problem takes for certain: of the load, and of what sun and wind allow."""
    import numpy as np

    from energy_cloud_dagster.domain.dispatch.ahead.scenarios import Band, Outlook

    first = datetime.fromisoformat(problem["start"])
    ahead = {first + step * HOUR: step for step in range(len(problem["demand"]))}

    def band(key: str, middle: list[float], factor: float = 1.0) -> Band:
        p50 = np.array(middle, dtype=float)
        low, high = p50.copy(), p50.copy()
        for one in forecasts.issued(connection, now, prefixes=(key,)):
            step = ahead.get(one.ts)
            # what a command holds below the forecast is certain
            if step is not None and abs(one.p50 * factor - p50[step]) <= _SAME * max(1.0, p50[step]):
                low[step], high[step] = min(one.p10 * factor, p50[step]), max(one.p90 * factor, p50[step])
        return Band(low, p50, high)

    return Outlook(
        band(load_key(region), problem["demand"], share),
        {
            one["id"]: band(availability_key(vpp_id, one["id"]), one["availability"])
            for one in problem["resources"]
            if one["type"] in ("solar", "wind")
        },
    )


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
        **resource.planned,
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
        if (state.role == "soc" or state.metric == "soc") and state.ts >= now - STATE_VALID and believed:
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
        allowed = resource.get("availability", 1.0) if one["type"] in _ALLOWED else None
        for step, output in enumerate(one["output"]):
            rows.append(
                SetpointRow(
                    row.vpp_id,
                    row.issued_at,
                    one["resourceId"],
                    row.plan_start + step * HOUR,
                    one["type"],
                    output,
                    None
                    if allowed is None
                    else (allowed[step] if isinstance(allowed, list) else allowed) * resource["capacity"],
                    one["soc"][step] if "soc" in one else None,
                    prices[step],
                )
            )
    return rows


def _told(solved: dict[str, dict[str, Any]], unplanned: dict[str, str]) -> str:
    """Return the plans in sentences, as Markdown: one list for each VPP, and what fell short first."""
    told = [f"**{name}**: no plan. {why}" for name, why in unplanned.items()]
    for name, one in solved.items():
        short = [
            f"- **{each['constraint']}**: {each['required']:g} required, {each['achieved']:g} achieved"
            for each in one["violations"]
        ]
        told.append("\n".join([f"**{name}**", "", *short, *(f"- {text}" for text in one["explanation"])]))
    return "\n\n".join(told)


def _described(solved: dict[str, dict[str, Any]], unplanned: dict[str, str]) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": sum(len(one["allocation"]) * HORIZON_HOURS for one in solved.values()),
        "cost": sum(one["cost"] for one in solved.values()),
        "unmet_kwh": sum(one["unmetEnergy"] for one in solved.values()),
        "renewable_ratio": {name: one["renewableRatio"] for name, one in solved.items()},
        "marginal_price_first_hour": {name: one["steps"][0]["marginalPrice"] for name, one in solved.items()},
        "explanation": dg.MetadataValue.md(_told(solved, unplanned)),
        "without_plan": unplanned,
        "digest": digest({name: one["digest"] for name, one in solved.items()}),
    }
