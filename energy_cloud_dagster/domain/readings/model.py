"""The plain shapes that ingest passes on: series, rows and rejects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

QUALITIES: Final = ("high", "medium", "low", "bad")

#: (device_id, metric)
type SeriesKey = tuple[str, str]


class SeriesInfo(NamedTuple):
    """What decoding needs to know of one series of the registry."""

    series_id: int
    unit: str
    kind: str
    interval_minutes: int
    region_id: str
    device_type: str
    role: str | None = None


class ReadingRow(NamedTuple):
    """One reading, as ``raw.reading`` keeps it: ``value`` in the unit of its series, times in UTC."""

    series_id: int
    ts: datetime
    value: float
    quality: str
    received_at: datetime
    source: str


class RejectRow(NamedTuple):
    """One refused message, as ``raw.rejected`` keeps it."""

    received_at: datetime
    source: str
    topic: str
    payload: bytes
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of one ingest process; ``replay`` believes the ``receivedAt`` of messages."""

    future_tolerance: timedelta = timedelta(seconds=300)
    late_tolerance: timedelta = timedelta(days=400)
    max_payload_bytes: int = 262_144
    replay: bool = False
