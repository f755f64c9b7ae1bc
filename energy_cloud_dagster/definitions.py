"""Entry of orchestration: everything that Dagster knows, assets listed in flow order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from energy_cloud_dagster.assets.accuracy import forecast_accuracy_daily
from energy_cloud_dagster.assets.actuals import dispatch_actual_hourly
from energy_cloud_dagster.assets.data_life import DATA_LIFE
from energy_cloud_dagster.assets.dispatch import dispatch_plan_hourly
from energy_cloud_dagster.assets.evidence import trade_evidence_hourly
from energy_cloud_dagster.assets.forecasts import region_load_forecast_hourly, region_load_model_daily
from energy_cloud_dagster.assets.generation import generation_availability_hourly
from energy_cloud_dagster.assets.market import market_clearing_hourly
from energy_cloud_dagster.assets.marts import build_marts
from energy_cloud_dagster.assets.prices import outside_prices_hourly, price_feed
from energy_cloud_dagster.assets.readings import (
    mqtt_meters,
    raw_readings_hourly,
    registry_device,
    registry_series,
    scada_turbines,
    validated_readings_hourly,
)
from energy_cloud_dagster.assets.settlement import settlement_batch_hourly
from energy_cloud_dagster.assets.sites import site_forecast_hourly, site_model_daily
from energy_cloud_dagster.assets.weather import weather_forecast_hourly, weather_service
from energy_cloud_dagster.checks import delivery, readings
from energy_cloud_dagster.resources import Chain, Database, Dbt
from energy_cloud_dagster.resources.dbt import manifest_path
from energy_cloud_dagster.schedules import JOBS, SCHEDULES
from energy_cloud_dagster.sensors import SENSORS
from energy_cloud_dagster.settings import load_settings


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the definitions; tests hand in resources of their own."""
    return dg.Definitions(
        assets=[
            # where it comes from
            mqtt_meters,
            scada_turbines,
            registry_device,
            registry_series,
            price_feed,
            weather_service,
            # what arrived, and what can be relied on
            raw_readings_hourly,
            outside_prices_hourly,
            weather_forecast_hourly,
            validated_readings_hourly,
            build_marts(manifest_path(load_settings())),
            # what comes next
            region_load_model_daily,
            region_load_forecast_hourly,
            generation_availability_hourly,
            site_model_daily,
            site_forecast_hourly,
            forecast_accuracy_daily,
            # what to do
            dispatch_plan_hourly,
            dispatch_actual_hourly,
            market_clearing_hourly,
            # what is owed, and the proof
            settlement_batch_hourly,
            trade_evidence_hourly,
            # how long it is kept, and where
            *DATA_LIFE,
        ],
        asset_checks=[*readings.CHECKS, delivery.delivery_may_be_settled],
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={"database": Database(), "chain": Chain(), "dbt": Dbt(), **(resource_overrides or {})},
    )


defs = build_defs()
