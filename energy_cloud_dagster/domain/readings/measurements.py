"""The values of one submission over HTTP, each with its place in the body, and the rows that they come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from energy_cloud_dagster.domain.errors import InvalidInput, Rejected
from energy_cloud_dagster.domain.readings.conversion import BASE_UNITS, dimension
from energy_cloud_dagster.domain.readings.decode import Payload, to_row
from energy_cloud_dagster.domain.readings.model import ReadingRow, Rules, SeriesInfo, SeriesKey
from energy_cloud_dagster.domain.readings.names import require_topic_safe
from energy_cloud_dagster.domain.readings.topic import CONTROL_METRICS

#: Records of one array, readings of one document.
MOST_ELEMENTS: Final = 10_000


class Measurement(msgspec.Struct, gc=False):
    """One value of a submission.

    ``place`` is the JSON pointer of its element (empty: the body), ``field`` the pointer of the value below that, or
    empty where the element itself is a reading with ``value``, ``unit`` and ``quality``.
    """

    device_id: str
    metric: str
    payload: Payload
    place: str
    field: str


def to_rows(
    measurements: Iterable[Measurement],
    series: Mapping[SeriesKey, SeriesInfo],
    *,
    received_at: datetime,
    rules: Rules,
    source: str,
) -> tuple[list[ReadingRow], list[Rejected]]:
    """Return the rows of measurements in their order, and the faults of those that cannot be stored.

    ``series`` holds every (device, metric) among them. The rules are those of messages.
    """
    rows, faults = [], []
    for each in measurements:
        try:
            info = series[each.device_id, each.metric]
            rows.append(to_row(each.payload, info, received_at=received_at, rules=rules, source=source))
        except Rejected as reason:
            faults.append(_placed(reason, each))
    return rows, faults


def new_series(measurement: Measurement) -> tuple[str, str]:
    """Return (unit, kind) of the series that a measurement would start; ``Rejected`` where it cannot.

    What is in a store is a state of it, though it is counted in kWh.
    """
    metric, place = measurement.metric, measurement.place + (measurement.field or "/metric")
    try:
        require_topic_safe(metric, "metric", place)
    except InvalidInput as error:
        raise Rejected("bad_payload", str(error), pointer=error.pointer) from None
    if metric in CONTROL_METRICS:
        raise Rejected("bad_payload", f"{metric} carries no readings; choose another metric", pointer=place)
    measured = dimension(measurement.payload.unit)
    kind = measured if measured in {"energy", "power"} and not metric.endswith("storage") else "state"
    return BASE_UNITS[measured], kind


def pointer_of(steps: Iterable[object]) -> str:
    """Return the JSON pointer (RFC 6901) of steps into a document."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def _placed(reason: Rejected, measurement: Measurement) -> Rejected:
    """Return a fault of one value with its place in the submission."""
    member = reason.pointer
    if measurement.field and member in {"/value", "/unit"}:
        member = measurement.field
    return Rejected(reason.reason, reason.detail, pointer=measurement.place + member)
