"""The load's forecast from fit to score: who speaks, what stands beside, what it was worth, when it is fitted anew."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import forecasts
from energy_cloud_dagster.adapters.forecasts import IssuedPoint, Selection
from energy_cloud_dagster.domain.intervals import HOUR, SETTLING_TIME, gate_closure, rfc3339, run_time

if TYPE_CHECKING:
    from tests.conftest import Pipeline

KEY = "region/seoul/load"


def daily(pipeline: Pipeline, asset: str, day: str, **how: Any) -> dict[str, Any]:
    """Run one asset of the daily job; return the metadata of its materialisation by name."""
    from energy_cloud_dagster.definitions import defs

    outcome = defs.resolve_job_def("daily_fit").execute_in_process(
        instance=pipeline.instance, partition_key=day, asset_selection=[dg.AssetKey(asset)], **how
    )
    (made,) = outcome.asset_materializations_for_node(asset)
    return {name: value.value for name, value in made.metadata.items()}


def measured(connection: sa.Connection, hour: Any) -> float:
    """Return the region's load in kWh; 0 where the hour is not known."""
    statement = sa.text(
        "select energy_kwh from marts.fct_series__hourly"
        " where role = 'region_load' and is_latest and region_id = 'seoul' and hour_utc = :hour"
    )
    return float(connection.execute(statement, {"hour": hour}).scalar() or 0.0)


def issues(pipeline: Pipeline) -> dict[Any, list[IssuedPoint]]:
    with pipeline.begin() as connection:
        moments = [run_time(hour) for hour in pipeline.hours]
        rows = forecasts.issues_at(connection, KEY, moments)
    return {moment: [row for row in rows if row.issued_at == moment] for moment in moments}


def test_the_champion_speaks_and_its_members_and_the_naive_stand_beside_it(pipeline: Pipeline) -> None:
    with pipeline.begin() as connection:
        decided = forecasts.newest_selection(connection, KEY, run_time(pipeline.first))
        assert decided is not None
        fitted = {row.model for row in forecasts.models_of(connection, KEY, decided.decided_at)}
    assert {"prophet", "gradient_boosting", "similar_day", "seasonal_naive", "ensemble"} <= set(
        decided.document["scores"]
    ), decided.document["notes"]
    for moment, rows in issues(pipeline).items():
        models = {row.model for row in rows}
        assert {row.model for row in rows if row.chosen} == {decided.champion}, moment
        assert {row.rung for row in rows if row.chosen} == {"champion"}
        assert fitted <= models
        assert "seasonal_naive" in models
        assert len(rows) == 24 * len(models)
        assert all(row.p10 <= row.p50 <= row.p90 for row in rows)


def test_the_champion_was_not_beaten_by_the_naive_in_its_backtest(pipeline: Pipeline) -> None:
    with pipeline.begin() as connection:
        decided = forecasts.newest_selection(connection, KEY, run_time(pipeline.first))
        assert decided is not None
        found = forecasts.accuracy(connection, KEY, decided.champion, run_time(pipeline.first))
    assert found is not None
    assert found["mase"] <= found["baseline"]["mase"], "the naive itself is champion where nothing beats it"
    assert 0.5 <= found["coverage"] <= 1


def test_hours_before_any_fit_are_answered_by_a_lower_rung(altered: Pipeline) -> None:
    with altered.begin() as connection:
        connection.execute(sa.text("delete from forecast.selection"))
    altered.run(altered.first)
    rows = issues(altered)[run_time(altered.first)]
    assert {(row.model, row.rung) for row in rows if row.chosen} == {("similar_day", "similar_day")}
    assert {row.model for row in rows} == {"similar_day", "seasonal_naive"}


def test_what_was_published_is_scored_beside_the_naive_and_scoring_again_changes_nothing(altered: Pipeline) -> None:
    day = altered.first.date()
    found = daily(altered, "forecast_accuracy_daily", day.isoformat())
    with altered.begin() as connection:
        rows = forecasts.accuracies(connection, KEY, day, day)
    points = issues(altered)
    # the first issue is of an hour in the afternoon: the day's midnight had none, its last gates nothing measured yet
    known = [hour for hour in altered.hours if run_time(hour - 2 * HOUR) in points]
    assert {row.lead for row in rows} == {"gate"}
    published = next(row for row in rows if row.model == "published")
    assert published.hours == len(known)
    assert sum(published.rungs.values()) >= published.hours
    assert {"seasonal_naive", "prophet"} <= {row.model for row in rows}
    errors = []
    with altered.begin() as connection:
        for hour in known:
            (row,) = (row for row in points[gate_closure(hour)] if row.chosen and row.ts == hour)
            errors.append(abs(row.p50 - measured(connection, hour)))
    assert published.mae == pytest.approx(sum(errors) / len(errors))
    assert "published" in found["accuracy"]
    assert found["fan_chart"].startswith("![plot](data:image/png;base64,")
    assert found["champion_history"].startswith("![plot]")
    assert daily(altered, "forecast_accuracy_daily", day.isoformat())["digest"] == found["digest"]


def test_a_day_without_forecasts_is_scored_as_such(altered: Pipeline) -> None:
    found = daily(altered, "forecast_accuracy_daily", "2026-04-01")
    assert found["dagster/row_count"] == 0
    assert "Nothing was published" in found["accuracy"]


def test_the_weather_forecast_that_was_known_is_the_temperature_ahead(altered: Pipeline) -> None:
    """Known before the first hour's now, and another after it, which that hour must not see."""
    from energy_cloud_dagster.adapters import weather
    from energy_cloud_dagster.adapters.open_meteo import WeatherPoint
    from energy_cloud_dagster.assets.outlook import foreseen_temperature
    from energy_cloud_dagster.assets.weather import locations

    origin, now = altered.first + HOUR, run_time(altered.first)
    with altered.begin() as connection:
        before = issues(altered)[now]
        assert foreseen_temperature(connection, "seoul", origin, now) is None
        for place in set(locations(connection, "seoul").values()):
            key = weather.location_key(*place)
            for issued, degrees in ((now - 30 * HOUR, 35.0), (now + SETTLING_TIME, -10.0)):
                hours = [issued.replace(minute=0) + step * HOUR for step in range(80)]
                points = [WeatherPoint("temperature", hour, degrees) for hour in hours]
                weather.save(connection, key, issued, "open-meteo", points)
        foreseen = foreseen_temperature(connection, "seoul", origin, now)
        assert foreseen is not None
        assert set(foreseen[foreseen.index >= origin]) == {35.0}
    run = altered.run(altered.first)
    (made,) = (
        record.asset_materialization
        for record in altered.instance.get_records_for_run(
            run, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        if record.asset_materialization
        and record.asset_materialization.asset_key.path == ["region_load_forecast_hourly"]
    )
    assert any("by weather forecast, moved by" in note for note in made.metadata["notes"].value)
    after = issues(altered)[now]
    assert [row for row in after if row.model == "seasonal_naive"] == [
        row for row in before if row.model == "seasonal_naive"
    ]
    assert after != before, "the models that look at the temperature say something else"


# -- drift


def drift(pipeline: Pipeline) -> Any:
    from energy_cloud_dagster.sensors.drift import forecast_drift

    return pipeline.asked_by(forecast_drift)


def test_a_fresh_fit_is_given_time(altered: Pipeline) -> None:
    assert drift(altered) == "5 hours are known since the fit; 12 tell"


def test_a_region_without_a_fit_does_not_drift(altered: Pipeline) -> None:
    with altered.begin() as connection:
        connection.execute(sa.text("delete from forecast.selection"))
    assert "nothing was fitted for region/seoul/load" in drift(altered)


def test_forecasts_worse_than_their_backtest_are_fitted_again_on_what_is_known_now(altered: Pipeline) -> None:
    """The fit is made a day and a half old, and what was published since then wrong by half."""
    now = run_time(altered.last)
    since = now - 36 * HOUR
    with altered.begin() as connection:
        decided = forecasts.newest_selection(connection, KEY, now)
        assert decided is not None
        connection.execute(sa.text("delete from forecast.selection"))
        forecasts.save_selection(connection, Selection(KEY, since, decided.champion, decided.document))
    assert "hours are known since the fit" in drift(altered)
    for factor, answer in ((1.0, "within 1.5 times"), (1.5, None)):
        with altered.begin() as connection:
            for step in range(1, 30):
                issued = since + step * HOUR
                rows = [
                    IssuedPoint(KEY, issued, decided.champion, hour, level * 0.9, level, level * 1.1, True, "champion")
                    for hour in (issued - SETTLING_TIME + ahead * HOUR for ahead in range(2))
                    if (level := measured(connection, hour) * factor)
                ]
                forecasts.replace_points(connection, KEY, issued, rows)
        found = drift(altered)
        if answer is not None:
            assert answer in found
    (asked,) = found
    assert asked.asset_selection == [dg.AssetKey("region_load_model_daily")]
    assert "above 1.5 times" in asked.tags["energy-cloud/drift"]
    assert asked.partition_key == (now - timedelta(days=1)).date().isoformat()
    made = daily(altered, "region_load_model_daily", asked.partition_key, run_config=asked.run_config)
    assert made["as_of"] == now.isoformat()
    with altered.begin() as connection:
        newest = forecasts.newest_selection(connection, KEY, now + timedelta(seconds=1))
        assert newest is not None
        assert newest.decided_at == now
        assert forecasts.models_of(connection, KEY, now)
        unchanged = forecasts.newest_selection(connection, KEY, now)
        assert unchanged is not None
        assert unchanged.decided_at == since, "what was issued at that moment keeps its fit"
    assert drift(altered).endswith("12 tell"), "the new fit is given time"
    assert rfc3339(now) in asked.run_key


def test_an_unknown_database_is_a_reason_and_no_failure(pipeline: Pipeline) -> None:
    from energy_cloud_dagster.resources import Database
    from energy_cloud_dagster.sensors.drift import forecast_drift

    nobody = Database(url="postgresql://nobody:nothing@127.0.0.1:9/none?connect_timeout=2")
    with dg.build_sensor_context(instance=pipeline.instance, resources={"database": nobody}) as context:
        assert "PostgreSQL" in str(forecast_drift.evaluate_tick(context).skip_message)


def test_the_setting_names_the_models_of_the_registry() -> None:
    from energy_cloud_dagster.domain.errors import Misconfigured
    from energy_cloud_dagster.domain.forecasting.models.registry import MODELS
    from energy_cloud_dagster.settings import FORECAST_MODELS, Settings, load_settings

    assert set(FORECAST_MODELS) == set(MODELS)
    assert Settings(forecast_models=" prophet, lstm,prophet").forecast_models == "prophet,lstm"
    for wrong in ("", "prophet,", "Prophet", "prophet;lstm"):
        with pytest.raises(Misconfigured, match="ENERGY_CLOUD_FORECAST_MODELS"):
            load_settings(forecast_models=wrong)
