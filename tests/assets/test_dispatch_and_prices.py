"""What a plan starts from, and what it refuses to be made without."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import plans, readings, tables, vpp_registry, vpps
from energy_cloud_dagster.adapters.vpp_registry import NewResource
from energy_cloud_dagster.domain.intervals import HOUR, run_time

if TYPE_CHECKING:
    from tests.conftest import Pipeline

Known = tuple["Pipeline", sa.Connection]


def start_state(connection: sa.Connection, hour: datetime) -> float:
    """Return the state of charge that the plan of partition ``hour`` starts from."""
    from energy_cloud_dagster.assets.dispatch import _state_of_charge

    storage = next(one for one in vpps.resources(connection, ["VPP-001"])["VPP-001"] if one.type == "storage")
    return _state_of_charge(connection, storage, run_time(hour), hour + HOUR)


def states(connection: sa.Connection, hour: datetime) -> tuple[float, float]:
    """Return (the last state measured before the plan's now, the end state that the previous plan gave)."""
    series = readings.series_ids(connection)["BAT-001", "soc"].series_id
    measured = connection.execute(
        sa.text(
            "select value from raw.reading where series_id = :series and received_at <= :now order by ts desc limit 1"
        ),
        {"series": series, "now": run_time(hour)},
    ).scalar_one()
    planned = connection.execute(
        sa.text("select soc from dispatch.setpoint where resource_id = 'BAT-001' and issued_at = :then and ts = :hour"),
        {"then": run_time(hour - HOUR), "hour": hour},
    ).scalar_one()
    return measured, planned


def damage(connection: sa.Connection, what: str) -> None:
    series = readings.series_ids(connection)["BAT-001", "soc"].series_id
    changed = connection.execute(
        sa.text(f"update raw.reading set {what} where series_id = :series"), {"series": series}
    )
    assert changed.rowcount > 100


def test_a_plan_starts_from_the_measured_state(known: Known) -> None:
    pipeline, connection = known
    measured, planned = states(connection, pipeline.last)
    assert measured != planned, "the two could not be told apart"
    assert start_state(connection, pipeline.last) == measured


@pytest.mark.parametrize("what", ["quality = 'bad'", "value = 1.7", "value = -0.2"])
def test_a_state_that_is_not_believed_gives_way_to_the_previous_plan(known: Known, what: str) -> None:
    pipeline, connection = known
    _, planned = states(connection, pipeline.last)
    damage(connection, what)
    assert start_state(connection, pipeline.last) == planned


def test_a_state_older_than_two_hours_gives_way_to_the_previous_plan(known: Known) -> None:
    pipeline, connection = known
    _, planned = states(connection, pipeline.last)
    connection.execute(
        sa.text("delete from raw.reading where ts > :since"), {"since": run_time(pipeline.last) - timedelta(hours=2)}
    )
    assert start_state(connection, pipeline.last) == planned


def test_a_first_plan_without_any_state_starts_half_full(known: Known) -> None:
    pipeline, connection = known
    damage(connection, "quality = 'bad'")
    assert start_state(connection, pipeline.first) == 0.5


def test_no_plan_is_made_without_a_price_or_a_load(known: Known) -> None:
    from energy_cloud_dagster.assets.dispatch import _problem

    pipeline, connection = known
    now, start = run_time(pipeline.last), pipeline.last + HOUR
    assert len(_problem(connection, "VPP-001", "seoul", now, start)["demand"]) == 24
    with pytest.raises(dg.Failure, match="no price of KRW-KWH was known"):
        _problem(connection, "VPP-001", "seoul", now, start + timedelta(days=30))
    connection.execute(sa.text("delete from forecast.point where series_key like 'region/%'"))
    with pytest.raises(dg.Failure, match="materialise region_load_forecast_hourly first"):
        _problem(connection, "VPP-001", "seoul", now, start)


def test_a_market_without_a_price_is_a_failure_and_homes_without_a_forecast_stay_away(known: Known) -> None:
    from energy_cloud_dagster.assets.market import _clear

    pipeline, connection = known
    delivery = pipeline.settled[-1]
    _, _, orders = _clear(connection, "seoul", delivery, "test")
    connection.execute(sa.text("delete from forecast.point where series_key = 'site/HOME-04/pv'"))
    connection.execute(sa.text("update registry.vpp set participant_id = null"))
    _, _, fewer = _clear(connection, "seoul", delivery, "test")
    assert {one.participant_id for one in orders} - {one.participant_id for one in fewer} == {"HOME-04", "VPP-001"}
    with pytest.raises(dg.Failure, match="was known at its gate"):
        _clear(connection, "seoul", delivery + timedelta(days=30), "test")


def test_an_earlier_hour_can_be_worked_on_after_a_later_one(altered: Pipeline) -> None:
    """Prices stand as they were first published: a backfill of the hours before finds those that it needs."""
    hour = altered.first - 4 * HOUR
    with altered.begin() as connection:
        later = connection.execute(sa.text("select min(published_at) from market.price")).scalar_one()
    assert later > run_time(hour)
    keys = ["outside_prices_hourly", "region_load_forecast_hourly", "generation_availability_hourly"]
    ran = altered.job("hourly", hour, asset_selection=[dg.AssetKey(key) for key in [*keys, "dispatch_plan_hourly"]])
    assert ran.success
    with altered.begin() as connection:
        plans = connection.execute(
            sa.text("select count(*) from dispatch.plan where issued_at = :now"), {"now": run_time(hour)}
        ).scalar_one()
        published = connection.execute(
            sa.text("select published_at from market.price where hour = :hour"), {"hour": altered.first + HOUR}
        ).scalar_one()
    assert plans == 1
    assert published == run_time(hour)


def test_a_resource_that_nobody_can_plan_is_its_own_vpp_s_trouble(altered: Pipeline) -> None:
    hour = altered.last
    now = run_time(hour)
    odd = [
        NewResource("hydro", 50.0, {"availability": 0.5}, "WATER"),
        NewResource("chp", 40.0, {"availability": 0.5, "minPower": 10.0, "costPerKWh": 9.0}, "ENGINE"),
        NewResource("solar", 0.0, {}, "NOTHING", "PV-H01"),
        NewResource("wind", 10.0, {}, "NEW"),
        NewResource("storage", 0.0, {"energyCapacity": 1.0, "soc": 0.1, "minSoc": 0.5}, "SMALL"),
        NewResource("load", 5.0, {"availability": 0.5, "costPerKWh": 1.0}, "SHED"),
    ]
    impossible = [NewResource("chp", 10.0, {"rampRate": 1.0, "initialOutput": 100.0}, "STUCK")]
    with altered.begin() as connection:
        vpp_registry.create_resources(connection, "VPP-001", odd, actor="test", now=now, simulated=True)
        held = connection.execute(
            sa.select(tables.participant).where(tables.participant.c.participant_id == "VPP-001")
        ).one()
        connection.execute(sa.insert(tables.participant), held._asdict() | {"participant_id": "STUCK"})
        made = {"actor": "test", "now": now, "simulated": True}
        vpp_registry.create(connection, "Stuck", 1.0, "seoul", vpp_id="VPP-STUCK", participant_id="STUCK", **made)
        vpp_registry.create_resources(connection, "VPP-STUCK", impossible, **made)
    keys = ("generation_availability_hourly", "dispatch_plan_hourly", "dispatch_actual_hourly")
    ran = altered.job("hourly", hour, asset_selection=[dg.AssetKey(key) for key in keys])
    assert ran.success
    (told,) = ran.asset_materializations_for_node("dispatch_plan_hourly")
    assert list(told.metadata["without_plan"].value) == ["VPP-STUCK"]
    assert "STUCK.rampRate" in told.metadata["without_plan"].value["VPP-STUCK"]
    with altered.begin() as connection:
        assert plans.plan_of(connection, "VPP-STUCK", now) is None
        steps = plans.setpoints(connection, "VPP-001", now, hour + HOUR)
    assert {each.resource_id for each in steps} >= {each.resource_id for each in odd}
    allowed = {each.resource_id: each.available_kw for each in steps}
    assert (allowed["WATER"], allowed["NOTHING"], allowed["NEW"]) == (25.0, 0.0, 0.0)
    # only what nature allows can be curtailed and sold instead
    assert allowed["ENGINE"] is allowed["SHED"] is allowed["SMALL"] is None


def test_a_store_that_reports_its_state_without_a_role_is_believed(known: Known) -> None:
    pipeline, connection = known
    measured, planned = states(connection, pipeline.last)
    connection.execute(sa.text("update registry.series set role = null where device_id = 'BAT-001'"))
    assert start_state(connection, pipeline.last) == measured != planned
