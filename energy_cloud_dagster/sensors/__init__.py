"""What starts a run besides the clock: late readings, missing receipts, drifting forecasts; and failed runs."""

from typing import Any, Final

from energy_cloud_dagster.sensors import automation
from energy_cloud_dagster.sensors.drift import forecast_drift

SENSORS: Final[list[Any]] = [*automation.SENSORS, forecast_drift]

__all__ = ["SENSORS"]
