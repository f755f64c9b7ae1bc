"""From the bytes of a device to rows in the unit of their series, or a ``Rejected`` that says what to fix."""

from energy_cloud_dagster.domain.readings.conversion import BASE_UNITS, convert, dimension
from energy_cloud_dagster.domain.readings.decode import (
    Decoded,
    decode_message,
    decode_payload,
    decode_readings,
    find_series,
    to_row,
)
from energy_cloud_dagster.domain.readings.model import (
    QUALITIES,
    ReadingRow,
    RejectRow,
    Rules,
    SeriesInfo,
    SeriesKey,
)
from energy_cloud_dagster.domain.readings.topic import CONTROL_METRICS, SUBSCRIPTION, Topic, parse_topic

__all__ = [
    "BASE_UNITS",
    "CONTROL_METRICS",
    "QUALITIES",
    "SUBSCRIPTION",
    "Decoded",
    "ReadingRow",
    "RejectRow",
    "Rules",
    "SeriesInfo",
    "SeriesKey",
    "Topic",
    "convert",
    "decode_message",
    "decode_payload",
    "decode_readings",
    "dimension",
    "find_series",
    "parse_topic",
    "to_row",
]
