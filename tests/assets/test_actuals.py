"""The plan against what happened: measured power and state of charge, the tie as what the meters leave, their cost."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import actuals, commands, plans, readings
from energy_cloud_dagster.domain.commands import Ack, instruction
from energy_cloud_dagster.domain.intervals import HOUR, run_time

if TYPE_CHECKING:
    from tests.conftest import Pipeline

Known = tuple["Pipeline", sa.Connection]


def test_every_planned_hour_is_compared_and_the_first_has_no_plan(known: Known) -> None:
    pipeline, connection = known
    for hour in pipeline.hours:
        rows = actuals.actuals(connection, "VPP-001", hour, hour + HOUR)
        assert {row.resource_id for row in rows} == (
            set() if hour == pipeline.first else {"SOLAR-001", "WIND-001", "WIND-002", "BAT-001", "GRID-001"}
        )
        assert all(row.issued_at == run_time(hour - HOUR) and row.compared_at == run_time(hour) for row in rows)


def test_what_the_devices_and_the_tie_gave_is_the_load_that_the_region_drew(known: Known) -> None:
    pipeline, connection = known
    rows = actuals.actuals(connection, "VPP-001", pipeline.last, pipeline.last + HOUR)
    load = connection.execute(
        sa.text("select energy_kwh from marts.fct_series__hourly where role = 'region_load' and hour_utc = :hour"),
        {"hour": pipeline.last},
    ).scalar_one()
    assert sum(row.actual_kw or 0.0 for row in rows) == pytest.approx(load)
    assert {row.source for row in rows if row.type == "grid"} == {"balance"}
    assert {row.source for row in rows if row.type != "grid"} == {"measured"}
    assert sum(row.planned_kw for row in rows) != pytest.approx(load), "no forecast is that good"


def test_the_actual_power_is_that_of_the_readings_and_its_cost_that_of_the_plan_s_prices(known: Known) -> None:
    pipeline, connection = known
    rows = {row.type: row for row in actuals.actuals(connection, "VPP-001", pipeline.last, pipeline.last + HOUR)}
    series = readings.series_ids(connection)["BAT-001", "output"].series_id
    mean = connection.execute(
        sa.text("select avg(value) from raw.reading where series_id = :series and ts >= :hour and ts < :end"),
        {"series": series, "hour": pipeline.last, "end": pipeline.last + HOUR},
    ).scalar_one()
    assert rows["storage"].actual_kw == pytest.approx(mean)
    assert 0 <= (rows["storage"].actual_soc or -1) <= 1
    plan = plans.plan_of(connection, "VPP-001", run_time(pipeline.last - HOUR))
    assert plan is not None
    tie = next(one for one in plan.problem["resources"] if one["type"] == "grid")
    actual = rows["grid"].actual_kw or 0.0
    price = tie["costPerKWh"][0] if actual >= 0 else tie["exportPrice"][0]
    assert rows["grid"].actual_cost == pytest.approx(actual * price)
    assert sum(row.planned_cost for row in rows.values() if row.type != "grid") == 0


def test_a_device_that_was_not_measured_leaves_the_tie_unknown_too(known: Known) -> None:
    from energy_cloud_dagster.assets.actuals import compared

    pipeline, connection = known
    connection.execute(
        sa.text("delete from marts.fct_series__hourly where device_id = 'BAT-001' and hour_utc = :hour"),
        {"hour": pipeline.last},
    )
    rows = {
        row.resource_id: row for row in compared(connection, "VPP-001", "seoul", pipeline.last, run_time(pipeline.last))
    }
    assert (rows["BAT-001"].actual_kw, rows["BAT-001"].source) == (None, "none")
    assert (rows["GRID-001"].actual_kw, rows["GRID-001"].actual_cost) == (None, None)
    assert rows["SOLAR-001"].source == "measured"


def test_a_plan_honours_the_setpoint_that_the_battery_accepted_until_it_is_released(known: Known) -> None:
    from energy_cloud_dagster.assets.dispatch import _problem
    from energy_cloud_dagster.domain.dispatch import parse_problem, solve

    pipeline, connection = known
    now, start = run_time(pipeline.last), pipeline.last + HOUR

    def planned() -> list[float]:
        answer = solve(parse_problem(_problem(connection, "VPP-001", "seoul", now, start))).to_document()
        found: list[float] = next(one for one in answer["allocation"] if one["resourceId"] == "BAT-001")["output"]
        return found

    def asked(kind: str, value: float | None, minutes: int) -> None:
        at = now - timedelta(minutes=minutes)
        unit = None if value is None else "kW"
        order = instruction(kind, value, unit)
        queued = commands.enqueue(
            connection, "BAT-001", order, requested_by="operator", now=at, valid_until=now + 3 * HOUR
        )
        if value != 99:
            commands.acknowledge(connection, "BAT-001", Ack(queued.command_id, None, "accepted", None), at)

    free = planned()
    asked("setpoint", -120.0, 30)
    asked("setpoint", 99, 20)  # nobody accepted it
    assert planned()[:3] == pytest.approx([-120.0] * 3, abs=1e-4)
    asked("release", None, 10)
    assert planned() == pytest.approx(free)


@pytest.mark.parametrize("risk", ["robust", "scenarios"])
def test_the_hourly_plan_can_be_made_against_the_bands_of_the_forecasts(known: Known, risk: Any) -> None:
    from energy_cloud_dagster.assets.dispatch import _outlook, _problem
    from energy_cloud_dagster.domain.dispatch import parse_problem
    from energy_cloud_dagster.domain.dispatch.ahead.scenarios import solve_outlook

    pipeline, connection = known
    now, start = run_time(pipeline.last), pipeline.last + HOUR
    problem = _problem(connection, "VPP-001", "seoul", now, start)
    outlook = _outlook(connection, "VPP-001", "seoul", now, problem, 1.0)
    assert (outlook.demand.p90 - outlook.demand.p10).min() > 0
    assert set(outlook.availability) == {"SOLAR-001", "WIND-001", "WIND-002"}
    middle = solve_outlook(parse_problem(problem), outlook, "p50")
    hedged = solve_outlook(parse_problem(problem), outlook, risk)
    assert hedged.status == "completed"
    # nothing known makes a plan cheaper than planning with the middle of the bands as if it were certain
    assert hedged.cost is not None
    assert middle.cost is not None
    assert hedged.cost >= middle.cost - 1e-3 * abs(middle.cost)
