"""From what arrived to what can be relied on: the hour's census, and validation with quarantine."""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any, Final

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters import evidence, validation
from energy_cloud_dagster.adapters.validation import HourCensus, RawRow
from energy_cloud_dagster.assets.report import OWNER, Effort, columns, hourly_asset, result
from energy_cloud_dagster.domain.audit.canonical import rows_digest
from energy_cloud_dagster.domain.intervals import HOUR, hour_start, hours
from energy_cloud_dagster.partitions import hours_in
from energy_cloud_dagster.resources import Database
from energy_cloud_dagster.settings import load_settings

#: Hours validated in one pass: bounds the memory of a long range.
_CHUNK: Final = timedelta(days=7)

mqtt_meters = dg.AssetSpec(
    "mqtt_meters",
    group_name="0_sources",
    owners=[OWNER],
    description="Smart meters, inverters, the battery and the weather station, over MQTT with QoS 1. "
    "The ingest workers acknowledge a message after its row is committed.",
    kinds={"mqtt"},
)
scada_turbines = dg.AssetSpec(
    "scada_turbines",
    group_name="0_sources",
    owners=[OWNER],
    description="Wind turbines as tags of an OPC UA server; the SCADA bridge subscribes to them.",
    kinds={"opcua"},
)
registry_device = dg.AssetSpec(
    "registry_device",
    group_name="0_sources",
    owners=[OWNER],
    description="Registered devices: region, type, owner, and the length of their intervals.",
    kinds={"postgres"},
)
registry_series = dg.AssetSpec(
    "registry_series",
    group_name="0_sources",
    owners=[OWNER],
    description="One row per (device, metric): unit, kind, and what the pipeline uses it as.",
    kinds={"postgres"},
)


@hourly_asset(
    "1_ingest",
    {"postgres"},
    "raw.reading",
    columns(
        series_id="Series of the registry",
        ts="Start of the measured interval",
        revision="1 for what came first, one more for each correction",
        value="In the unit of its series",
        quality="high, medium, low or bad, as the device said",
        received_at="When the platform knew",
        source="mqtt, rest, opcua or history",
    ),
    deps=[mqtt_meters, scada_turbines, registry_device, registry_series],
)
def raw_readings_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """What arrived for the hour, counted and fingerprinted; the streaming plane has already stored it."""
    effort = Effort()
    region = load_settings().region
    window = context.partition_time_window
    with database.begin() as connection:
        rows = validation.raw_between(connection, region, window.start, window.end)
    by_hour = _by_hour(rows)
    return result(
        context,
        effort,
        {
            hour: {
                "dagster/partition_row_count": len(by_hour[hour]),
                "series": len({row.series_id for row in by_hour[hour]}),
                "corrections": sum(row.revision > 1 for row in by_hour[hour]),
                "digest": _digest(by_hour[hour]),
            }
            for hour in hours_in(window)
        },
    )


@hourly_asset(
    "2_quality",
    {"greatexpectations", "postgres"},
    "validated.reading",
    columns(
        series_id="Series of the registry",
        ts="Start of the measured interval",
        revision="Revision of the raw reading",
        value="In the unit of its series",
        quality="high, medium or low",
        received_at="When the platform knew",
    ),
    deps=[raw_readings_hourly],
)
def validated_readings_hourly(context: dg.AssetExecutionContext, database: Database) -> dg.MaterializeResult[Any]:
    """Readings that pass the row rules of Great Expectations; the others wait in ``validated.quarantine``."""
    effort = Effort()
    with effort.importing():
        from energy_cloud_dagster.quality import readings as _  # noqa: F401
        from energy_cloud_dagster.quality.suites import row_suite

        row_suite()
    region = load_settings().region
    window = context.partition_time_window
    with database.begin() as connection:
        found = validate(connection, region, window.start, window.end, context.run.run_id)
    return result(
        context,
        effort,
        {
            one.hour: {
                "dagster/partition_row_count": one.rows_valid,
                "rows_read": one.rows_read,
                "rows_quarantined": one.rows_quarantined,
                "expected": one.expected,
                "complete": one.complete,
                "missing": one.missing,
                "digest": one.digest,
            }
            for one in found
        },
    )


def validate(connection: sa.Connection, region: str, start: datetime, end: datetime, run_id: str) -> list[HourCensus]:
    """Validate ``[start, end)``: replace validated rows, quarantine and census; return the census of every hour."""
    import pandas as pd

    from energy_cloud_dagster.quality.readings import split_by_row_rules

    expected = validation.expected_series(connection, region)
    per_hour = {one.series_id: max(60 // one.interval_minutes, 1) for one in expected}
    found: list[HourCensus] = []
    first = start
    while first < end:
        last = min(first + _CHUNK, end)
        rows = validation.raw_between(connection, region, first, last)
        frame = pd.DataFrame(rows, columns=list(RawRow._fields))
        _, failed, _ = split_by_row_rules(frame)
        pardoned = validation.released(connection, region, first, last)
        quarantined: list[dict[str, Any]] = [
            {str(name): value for name, value in row.items()} for row in failed.drop(columns="role").to_dict("records")
        ]
        held = {(row["series_id"], row["ts"].to_pydatetime(), row["revision"]) for row in quarantined} - pardoned
        valid = [row for row in rows if (row.series_id, row.ts, row.revision) not in held]
        validation.replace_valid(connection, region, first, last, (row[:-1] for row in valid))
        validation.replace_quarantine(connection, region, first, last, quarantined)
        read_by_hour, valid_by_hour = _by_hour(rows), _by_hour(valid)
        for hour in hours(first, last):
            good = valid_by_hour[hour]
            seen = Counter(row.series_id for row in {(row.series_id, row.ts): row for row in good}.values())
            missing = [
                f"{one.device_id}/{one.metric}"
                for one in expected
                if 2 * seen.get(one.series_id, 0) < per_hour[one.series_id]
            ]
            found.append(
                HourCensus(
                    region_id=region,
                    hour=hour,
                    rows_read=len(read_by_hour[hour]),
                    rows_valid=len(good),
                    rows_quarantined=len(read_by_hour[hour]) - len(good),
                    expected=sum(per_hour.values()),
                    complete=not missing,
                    missing=missing,
                    known_at=max((row.received_at for row in read_by_hour[hour]), default=None),
                    digest=_digest(good),
                )
            )
        first = last
    validation.save_census(connection, found)
    evidence.save_steps(
        connection, [("validated", region, one.hour, one.digest, one.rows_valid, run_id) for one in found]
    )
    return found


def _by_hour(rows: list[RawRow]) -> dict[datetime, list[RawRow]]:
    split: dict[datetime, list[RawRow]] = defaultdict(list)
    for row in rows:
        split[hour_start(row.ts)].append(row)
    return split


def _digest(rows: list[RawRow]) -> str:
    """Return the digest of readings: what was measured, and when it was known."""
    return rows_digest((row.series_id, row.ts, row.revision, row.value, row.quality, row.received_at) for row in rows)


__all__ = [
    "HOUR",
    "mqtt_meters",
    "raw_readings_hourly",
    "registry_device",
    "registry_series",
    "scada_turbines",
    "validate",
    "validated_readings_hourly",
]
