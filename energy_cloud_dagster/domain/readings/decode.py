"""Decode MQTT messages: a reading or an array of readings, each to a row or to a ``Rejected``.

Decisions:

- Numbers may come as strings. Timestamps are RFC 3339 with an offset, or epoch seconds or milliseconds.
- ``unit`` must be given; ``quality`` is ``high`` where the device says nothing.
- Readings of energy and power cover an interval that starts at ``timestamp``. A series that the pipeline plans and
  settles by (it has a role) takes only starts on its grid, counted from midnight UTC: two readings that overlap would
  be paid twice. States, and series without a role, take any instant.
- Whether a value is plausible is not decided here; the validation rules do that, where the reading can be released.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from energy_cloud_dagster.domain.errors import Rejected
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.readings.conversion import convert, shown
from energy_cloud_dagster.domain.readings.model import QUALITIES, ReadingRow, Rules, SeriesInfo, SeriesKey
from energy_cloud_dagster.domain.readings.topic import CONTROL_METRICS, Topic, parse_topic

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_NOT_FINITE: Final = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)\b")
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_NOT_FINITE_TEXT: Final = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
#: Elements of an array that are looked at one by one: more cannot all be readings, and each costs its refusal.
MOST_READINGS: Final = 10_000
#: Epoch numbers from here on are milliseconds: as seconds they would lie past the year 5138.
_FIRST_MILLISECONDS: Final = 1e11


class Payload(msgspec.Struct, rename="camel"):
    """One reading as a device sends it."""

    timestamp: float | str
    value: float | str
    unit: str
    quality: str = "high"
    received_at: float | str | None = None


class Decoded(NamedTuple):
    """What one message came to: rows to store, and the reasons for what could not be stored."""

    rows: list[ReadingRow]
    rejected: list[Rejected]


_ONE: Final = msgspec.json.Decoder(Payload)
_MANY: Final = msgspec.json.Decoder(list[Payload])
_RAW_MANY: Final = msgspec.json.Decoder(list[msgspec.Raw])


def decode_message(
    topic: str,
    payload: bytes,
    *,
    received_at: datetime,
    series: Mapping[SeriesKey, SeriesInfo],
    rules: Rules,
    aliases: Mapping[str, str] | None = None,
    source: str = "mqtt",
) -> Decoded:
    """Return the rows and rejects of one message; never raises for what a device sent.

    ``series`` maps (device, metric) to its series, ``aliases`` other names of regions to their ids. Messages on control
    topics (``command``, ``ack`` …) come to nothing. In an array each reading stands for itself.
    """
    try:
        info = find_series(topic, series, aliases or {})
    except Rejected as reason:
        return Decoded([], [reason])
    if info is None:
        return Decoded([], [])
    return decode_readings(payload, info, received_at=received_at, rules=rules, source=source)


def decode_readings(
    payload: bytes, info: SeriesInfo, *, received_at: datetime, rules: Rules, source: str = "mqtt"
) -> Decoded:
    """Return the rows and rejects of the bytes of one message for the series ``info``; never raises."""
    rejected: list[Rejected] = []
    try:
        items = decode_payload(payload, rules.max_payload_bytes, rejected)
    except Rejected as reason:
        return Decoded([], [reason])
    rows = []
    for index, item in items:
        try:
            rows.append(to_row(item, info, received_at=received_at, rules=rules, source=source))
        except Rejected as reason:
            rejected.append(reason if index is None else _placed(reason, index))
    return Decoded(rows, rejected)


def decode_payload(
    payload: bytes, max_bytes: int, rejected: list[Rejected] | None = None
) -> list[tuple[int | None, Payload]]:
    """Return (index in the array or None, reading) of the bytes of a message.

    Faulty elements of an array go to ``rejected`` where it is given; everything else faulty raises ``Rejected``.
    """
    if len(payload) > max_bytes:
        raise Rejected(
            "too_large", f"the message has {len(payload)} bytes, {max_bytes} are allowed; send fewer readings"
        )
    many = payload.lstrip()[:1] == b"["
    try:
        if not many:
            return [(None, _ONE.decode(payload))]
        found = list(enumerate(_MANY.decode(payload)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not (many and isinstance(error, msgspec.ValidationError)) or rejected is None:
            raise _undecodable(payload, error) from None
        return _element_by_element(payload, rejected)
    if not found:
        raise Rejected("bad_payload", "the array is empty; send at least one reading")
    return list(found)


def to_row(item: Payload, info: SeriesInfo, *, received_at: datetime, rules: Rules, source: str) -> ReadingRow:
    """Return the row of one reading in the unit of its series, or raise ``Rejected``."""
    return usual_row(item, info, received_at, rules, source) or careful_row(item, info, received_at, rules, source)


def usual_row(item: Payload, info: SeriesInfo, received_at: datetime, rules: Rules, source: str) -> ReadingRow | None:
    """Return what ``careful_row`` would, for a good reading in the shape that nearly all have; None for any other."""
    timestamp, value = item.timestamp, item.value
    if (
        type(value) is not float
        or type(timestamp) is not str
        or timestamp[-1:] != "Z"
        or item.unit != info.unit
        or item.quality not in QUALITIES
        or (item.received_at is not None and rules.replay)
        or not math.isfinite(value)
    ):
        return None
    try:
        ts = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    if ts - received_at > rules.future_tolerance or received_at - ts > rules.late_tolerance:
        return None
    if info.role is not None and info.kind != "state" and not _on_grid(ts, info.interval_minutes):
        return None
    return ReadingRow(info.series_id, ts, value, item.quality, received_at, source)


def careful_row(item: Payload, info: SeriesInfo, received_at: datetime, rules: Rules, source: str) -> ReadingRow:
    """Return the row of one reading, however it is written, or raise ``Rejected``."""
    if rules.replay and item.received_at is not None:
        received_at = _moment(item.received_at, "receivedAt")
    ts = _moment(item.timestamp, "timestamp")
    check_time(ts, info, received_at, rules)
    if item.quality not in QUALITIES:
        raise Rejected(
            "bad_quality", f"quality {shown(item.quality)} is not one of {', '.join(QUALITIES)}", pointer="/quality"
        )
    value = convert(_number(item.value, "value"), item.unit, info.unit)
    return ReadingRow(info.series_id, ts, value, item.quality, received_at, source)


def check_time(ts: datetime, info: SeriesInfo, received_at: datetime, rules: Rules) -> None:
    """Raise ``Rejected`` where ``ts`` lies too far from its receipt, or off the grid of a series that is settled."""
    if ts - received_at > rules.future_tolerance:
        raise Rejected(
            "future_timestamp",
            f"timestamp {rfc3339(ts)} lies {ts - received_at} after its receipt, "
            f"{rules.future_tolerance} are allowed; set the device's clock",
            pointer="/timestamp",
        )
    if received_at - ts > rules.late_tolerance:
        raise Rejected(
            "too_old",
            f"timestamp {rfc3339(ts)} lies {(received_at - ts).days} days before its receipt, "
            f"{rules.late_tolerance.days} are allowed; import old readings as history",
            pointer="/timestamp",
        )
    if info.kind != "state" and info.role is not None and not _on_grid(ts, info.interval_minutes):
        interval = timedelta(minutes=info.interval_minutes)
        midnight = ts.replace(hour=0, minute=0, second=0, microsecond=0)
        start = midnight + (ts - midnight) // interval * interval
        raise Rejected(
            "misaligned",
            f"timestamp {rfc3339(ts)} is not the start of a {info.interval_minutes}-minute interval; "
            f"send {rfc3339(start)} or {rfc3339(start + interval)}",
            pointer="/timestamp",
        )


def _on_grid(ts: datetime, interval_minutes: int) -> bool:
    """Whether ``ts`` (UTC) starts an interval, counted from midnight."""
    return ts.second == 0 == ts.microsecond and (ts.hour * 60 + ts.minute) % interval_minutes == 0


def find_series(topic: str, series: Mapping[SeriesKey, SeriesInfo], aliases: Mapping[str, str]) -> SeriesInfo | None:
    """Return the series that a topic belongs to, None for a control topic; raises ``Rejected`` for all others.

    ``series`` need hold no more than the series of the topic's device.
    """
    parsed = parse_topic(topic)
    return None if parsed.metric in CONTROL_METRICS else _series_of(parsed, series, aliases)


def _series_of(topic: Topic, series: Mapping[SeriesKey, SeriesInfo], aliases: Mapping[str, str]) -> SeriesInfo:
    info = series.get((topic.device_id, topic.metric))
    if info is None:
        metrics = sorted(metric for device, metric in series if device == topic.device_id)
        if metrics:
            raise Rejected(
                "unknown_metric",
                f"device {shown(topic.device_id)} has no metric {shown(topic.metric)}; it has {', '.join(metrics)}",
            )
        raise Rejected("unknown_device", f"device {shown(topic.device_id)} is not registered; register it first")
    if aliases.get(topic.region, topic.region) != info.region_id or topic.device_type != info.device_type:
        right = Topic(info.region_id, info.device_type, topic.device_id, topic.metric)
        raise Rejected("topic_mismatch", f"device {shown(topic.device_id)} is registered elsewhere; publish on {right}")
    return info


def _element_by_element(payload: bytes, rejected: list[Rejected]) -> list[tuple[int | None, Payload]]:
    good: list[tuple[int | None, Payload]] = []
    try:
        elements = _RAW_MANY.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _undecodable(payload, error) from None
    if len(elements) > MOST_READINGS:
        raise Rejected("too_large", f"the array has {len(elements)} elements, {MOST_READINGS} are allowed; send fewer")
    for index, raw in enumerate(elements):
        try:
            good.append((index, _ONE.decode(raw)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            rejected.append(_placed(_undecodable(bytes(raw), error), index))
    return good


def _undecodable(payload: bytes, error: Exception) -> Rejected:
    if isinstance(error, msgspec.ValidationError):
        return Rejected("bad_payload", f"{error}; a reading is {{timestamp, value, unit, quality}}")
    if isinstance(error, RecursionError):
        return Rejected("bad_payload", "it is nested too deeply; a reading is {timestamp, value, unit, quality}")
    if _NOT_FINITE.search(_STRING.sub(b'""', payload)):
        return Rejected("not_finite", "NaN and Infinity are no JSON; leave such a reading out")
    return Rejected("bad_json", f"the payload is no JSON in UTF-8 ({error}); a reading is {{timestamp, value, unit}}")


def _placed(reason: Rejected, index: int) -> Rejected:
    return Rejected(reason.reason, f"reading {index}: {reason.detail}", pointer=f"/{index}{reason.pointer}")


def _number(given: float | str, field: str) -> float:
    if isinstance(given, str):
        text = given.strip()
        if _NUMBER.fullmatch(text):
            given = float(text)
        elif not _NOT_FINITE_TEXT.fullmatch(text):
            raise Rejected("bad_value", f"{field} {shown(given)} is no number", pointer=f"/{field}")
    if isinstance(given, str) or not math.isfinite(given):
        raise Rejected("not_finite", f"{field} {shown(str(given))} is no finite number", pointer=f"/{field}")
    return float(given)


def _moment(given: float | str, field: str) -> datetime:
    """Return a timestamp in UTC, or raise ``Rejected`` as ``bad_timestamp``."""
    try:
        if isinstance(given, str) and not _NUMBER.fullmatch(given):
            moment = datetime.fromisoformat(given)
            if moment.tzinfo is None:
                raise Rejected(
                    "bad_timestamp",
                    f"{field} {shown(given)} has no offset; append Z or such as +09:00",
                    pointer=f"/{field}",
                )
            return moment.astimezone(UTC)
        epoch = _number(given, field)
        return datetime.fromtimestamp(epoch / 1000 if abs(epoch) >= _FIRST_MILLISECONDS else epoch, UTC)
    except (ValueError, OverflowError, OSError):
        raise Rejected(
            "bad_timestamp",
            f"{field} {shown(str(given))} is neither RFC 3339 (2026-03-01T10:15:00Z) nor epoch seconds or milliseconds",
            pointer=f"/{field}",
        ) from None
