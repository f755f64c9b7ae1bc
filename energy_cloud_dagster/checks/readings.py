"""What the validation of an hour means for those who use it; these checks warn, they hold nothing back."""

from datetime import timedelta
from typing import Final

import dagster as dg

from energy_cloud_dagster.adapters import validation
from energy_cloud_dagster.assets.readings import validated_readings_hourly
from energy_cloud_dagster.checks.window import hours_checked
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339, run_time
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

#: Share of rows in quarantine above which something is wrong with a device or a rule.
_MOST_QUARANTINED: Final = 0.05
#: An hour's readings should be known this long before it is worked on.
_MARGIN: Final = timedelta(minutes=1)


@dg.asset_check(asset=validated_readings_hourly)
def few_readings_in_quarantine(context: dg.AssetCheckExecutionContext, database: Database) -> dg.AssetCheckResult:
    """At most 5 % of the hour's readings failed a row rule of Great Expectations."""
    found = _census(context, database)
    bad = {rfc3339(one.hour): one.rows_quarantined for one in found if one.rows_quarantined}
    worst = max((one.rows_quarantined / max(one.rows_read, 1) for one in found), default=0.0)
    return dg.AssetCheckResult(
        passed=worst <= _MOST_QUARANTINED,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"quarantined": bad, "worst_share": worst},
    )


@dg.asset_check(asset=validated_readings_hourly)
def every_series_has_readings(context: dg.AssetCheckExecutionContext, database: Database) -> dg.AssetCheckResult:
    """Every series with a role has at least half of the hour's intervals."""
    missing = {rfc3339(one.hour): one.missing for one in _census(context, database) if not one.complete}
    return dg.AssetCheckResult(
        passed=not missing, severity=dg.AssetCheckSeverity.WARN, metadata={"hours": len(missing), "missing": missing}
    )


@dg.asset_check(asset=validated_readings_hourly)
def readings_are_fresh(context: dg.AssetCheckExecutionContext, database: Database) -> dg.AssetCheckResult:
    """The hour's last reading arrived a minute or more before the hour is worked on."""
    late = {
        rfc3339(one.hour): rfc3339(one.known_at) if one.known_at else "nothing arrived"
        for one in _census(context, database)
        if one.known_at is None or one.known_at > run_time(one.hour) - _MARGIN
    }
    return dg.AssetCheckResult(
        passed=not late, severity=dg.AssetCheckSeverity.WARN, metadata={"hours": len(late), "late": late}
    )


def _census(context: dg.AssetCheckExecutionContext, database: Database) -> list[validation.HourCensus]:
    region = load_settings().region
    with database.begin() as connection:
        looked_at = hours_checked(context, connection, region)
        if not looked_at:
            return []
        return validation.census(connection, region, looked_at[0], looked_at[-1] + HOUR)


CHECKS: Final = [few_readings_in_quarantine, every_series_has_readings, readings_are_fresh]
