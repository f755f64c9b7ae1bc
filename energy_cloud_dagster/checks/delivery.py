"""The gate before money moves: Great Expectations over what every participant was metered at."""

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import marts, registry
from energy_cloud_dagster.checks.window import hours_checked
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339
from energy_cloud_dagster.domain.readings.energy import metered_wh
from energy_cloud_dagster.quality.rules import CONNECTION_WH
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

if TYPE_CHECKING:
    import pandas as pd


@dg.asset_check(
    asset=dg.AssetKey("fct_participant__hourly"),
    additional_deps=[dg.AssetKey("market_clearing_hourly")],
    blocking=True,
)
def delivery_may_be_settled(context: dg.AssetCheckExecutionContext, database: Database) -> dg.AssetCheckResult:
    """Every participant is completely metered within its connection; an hour that is not is held.

    Blocks the settlement when every hour of the run is held. In a range with some good hours it warns instead, and
    the settlement itself leaves the held hours out, so that a bad hour holds nothing but itself.
    """
    from energy_cloud_dagster.quality.suites import delivery_suite, run_suite

    region = load_settings().region
    with database.begin() as connection:
        looked_at = hours_checked(context, connection, region)
        frame = _frame(connection, region, looked_at)
    outcome = run_suite(delivery_suite(), frame)
    held: dict[str, list[str]] = defaultdict(list)
    for rule in outcome.rules:
        for hour, participant in rule.failed_index:
            held[rfc3339(hour)].append(f"{participant}: {rule.rule}")
    all_held = len(held) == len(looked_at)
    return dg.AssetCheckResult(
        passed=not held,
        severity=dg.AssetCheckSeverity.ERROR if all_held else dg.AssetCheckSeverity.WARN,
        metadata={"hours": len(looked_at), "held": dict(held), "rules": outcome.failures()},
    )


def _frame(connection: sa.Connection, region: str, hours: list[datetime]) -> "pd.DataFrame":
    """Return one row per participant and hour, those without any metering included."""
    import pandas as pd

    if not hours:
        return pd.DataFrame()
    metering = marts.participants(connection, region, hours[0], hours[-1] + HOUR)
    found = {(one.hour, one.participant_id): one for one in metering}
    rows = []
    for hour in hours:
        for one in registry.participants(connection, region):
            if one.kind == "grid":
                continue
            metered = found.get((hour, one.participant_id))
            wh = metered_wh(metered.net_injection_kwh) if metered else None
            rows.append(
                {
                    "hour": hour,
                    "participant": one.participant_id,
                    "complete": int(metered is not None and metered.complete),
                    "net_injection_wh": wh,
                    "magnitude_wh": abs(wh) if wh is not None else 0,
                    "greatest_wh": CONNECTION_WH[one.kind],
                }
            )
    return pd.DataFrame(rows).set_index(["hour", "participant"])
