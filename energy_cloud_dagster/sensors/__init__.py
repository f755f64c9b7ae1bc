"""What starts a run besides the clock: late readings, settlements without a receipt, failed runs."""

from energy_cloud_dagster.sensors.automation import SENSORS

__all__ = ["SENSORS"]
