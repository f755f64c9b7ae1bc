"""Which hours a check looks at."""

from datetime import datetime

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import validation
from energy_cloud_dagster.domain.intervals import hours


def hours_checked(context: dg.AssetCheckExecutionContext, connection: sa.Connection, region: str) -> list[datetime]:
    """Return the hours of the run; for a check that someone executes by itself, the newest hour that was validated.

    The checks themselves have no partitions: one evaluation speaks of all hours of a run, and names the bad ones.
    """
    if context.has_partition_key or context.has_partition_key_range:
        window = context.partition_time_window
        return list(hours(window.start, window.end))
    newest = validation.newest_hour(connection, region)
    return [] if newest is None else [newest]
