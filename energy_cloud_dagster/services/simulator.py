"""The plan of the simulated fleet: which device says what, when, and when the platform would have known it.

Deterministic: the same span gives the same messages. A message is received some 1 to 20 seconds after its interval
ended; how many depends on the device and the interval alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from energy_cloud_dagster import sample_data
from energy_cloud_dagster.domain.intervals import rfc3339, utc
from energy_cloud_dagster.domain.readings import ReadingRow, SeriesInfo, SeriesKey
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services import battery

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MAX_LATENCY: Final = timedelta(seconds=20)
PROTOCOLS: Final[frozenset[plain.Protocol]] = frozenset({"mqtt", "opcua"})

_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
_DECIMALS: Final = 6  # of values that were scaled; measured ones are sent as they stand


class Message(NamedTuple):
    """What one device says about one interval of one metric.

    ``value`` is None where the source has an empty reading: a SCADA server reports that with a bad status, a meter says
    nothing. ``received_at`` is simulated.
    """

    received_at: datetime
    device_id: str
    metric: str
    ts: datetime
    value: float | None
    unit: str
    quality: str
    region_id: str
    device_type: str

    @property
    def topic(self) -> str:
        """Return the MQTT topic."""
        return f"energy-cloud/{self.region_id}/{self.device_type}/{self.device_id}/{self.metric}"

    def payload(self, *, simulated_receipt: bool) -> bytes:
        """Return the MQTT payload; ``receivedAt`` is in it for replays only."""
        document = {"timestamp": rfc3339(self.ts), "value": self.value, "unit": self.unit, "quality": self.quality}
        if simulated_receipt:
            document["receivedAt"] = rfc3339(self.received_at)
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class _Values(NamedTuple):
    seconds: np.ndarray  # int64, interval starts since 1970, ascending
    values: np.ndarray  # float64, NaN for an empty reading


def messages(
    community: plain.Community,
    start: datetime,
    end: datetime,
    protocols: frozenset[plain.Protocol] = PROTOCOLS,
) -> Iterator[Message]:
    """Yield the messages of every interval that starts in ``[start, end)``, ordered by their simulated receipt.

    Devices without a sample series say nothing. Spans of any length need the memory of one day.
    """
    begin, stop = utc(start), utc(end)
    while begin < stop:
        # Days are cut at UTC midnight, which every interval ends at: the next day's first receipt is later than all.
        midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY
        yield from sorted(_unordered(community, begin, min(midnight, stop), protocols), key=lambda each: each[:3])
        begin = midnight


def received_between(
    community: plain.Community,
    after: datetime,
    until: datetime,
    protocols: frozenset[plain.Protocol] = PROTOCOLS,
) -> Iterator[Message]:
    """Yield the messages whose simulated receipt lies in ``(after, until]``, in its order."""
    longest = timedelta(minutes=max((device.interval_minutes for device in community.devices), default=0))
    for message in messages(community, after - longest - MAX_LATENCY, until, protocols):
        if after < message.received_at <= until:
            yield message


def count(
    community: plain.Community,
    start: datetime,
    end: datetime,
    protocols: frozenset[plain.Protocol] = PROTOCOLS,
) -> int:
    """Return how many readings with a value ``messages`` yields for the same arguments."""
    return sum(message.value is not None for message in messages(community, start, end, protocols))


def history_rows(
    series_ids: Mapping[SeriesKey, SeriesInfo],
    start: datetime,
    end: datetime,
    community: plain.Community = plain.SEOUL_COMMUNITY,
) -> list[ReadingRow]:
    """Return the readings of ``[start, end)`` of the given (device_id, metric) for a bulk preload, source "history".

    They equal what ``messages`` would have brought, receipt included. Empty readings and series that the community does
    not play are left out.
    """
    import numpy as np

    rows: list[ReadingRow] = []
    for played in community.all_series():
        known = series_ids.get(played.key)
        if known is None:
            continue
        seconds, values = _values(played, utc(start), utc(end))
        measured = ~np.isnan(values)
        seconds, values = seconds[measured], values[measured]
        received = seconds + played.device.interval_minutes * 60 + latencies(played.device.device_id, seconds)
        number = known.series_id
        rows.extend(
            ReadingRow(number, ts, value, "high", received_at, "history")
            for ts, value, received_at in zip(_moments(seconds), values.tolist(), _moments(received), strict=True)
        )
    return rows


def latencies(device_id: str, seconds: np.ndarray) -> np.ndarray:
    """Return the whole seconds (1 to 20) from each interval's end to its receipt, by device and interval start."""
    import numpy as np

    return latencies_by_seed(np.uint64(_seed(device_id)), seconds)


def latencies_by_seed(seeds: np.ndarray | np.uint64, seconds: np.ndarray) -> np.ndarray:
    """Return the same for devices that are known by 64-bit numbers; the arrays are broadcast against each other.

    The mixing is that of splitmix64 (Steele, Lea, Flood 2014), started from the device's number.
    """
    import numpy as np

    mixed = seconds.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seeds
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    whole: np.ndarray = (mixed % np.uint64(int(MAX_LATENCY.total_seconds()))).astype(np.int64) + 1
    return whole


@cache
def _seed(device_id: str) -> int:
    return int.from_bytes(hashlib.sha256(device_id.encode()).digest()[:8], "big")


def _unordered(
    community: plain.Community, start: datetime, end: datetime, protocols: frozenset[plain.Protocol]
) -> Iterator[Message]:
    for played in community.all_series():
        device, series = played
        if device.protocol not in protocols:
            continue
        seconds, values = _values(played, start, end)
        received = seconds + device.interval_minutes * 60 + latencies(device.device_id, seconds)
        for ts, value, received_at in zip(_moments(seconds), values.tolist(), _moments(received), strict=True):
            empty = value != value  # noqa: PLR0124 - NaN
            if empty and device.protocol == "mqtt":
                continue
            yield Message(
                received_at,
                device.device_id,
                series.metric,
                ts,
                None if empty else value,
                series.unit,
                "bad" if empty else "high",
                device.region_id,
                device.device_type,
            )


def _values(played: plain.DeviceSeries, start: datetime, end: datetime) -> _Values:
    """Return every interval of ``[start, end)`` that the device reports on."""
    import numpy as np

    device, series = played
    if series.sample is None and device.device_type != "battery":
        return _Values(np.empty(0, dtype=np.int64), np.empty(0))
    step = device.interval_minutes * 60
    seconds = sample_data.interval_starts(device.interval_minutes, start, end)
    if series.sample is None:
        values = battery.soc(seconds) if series.metric == "soc" else battery.output_kw(seconds, step // 60)
        return _Values(seconds, np.round(values, _DECIMALS))
    measured = sample_data.series(series.sample, start, end)
    values = np.full(len(seconds), np.nan)
    index = cast("pd.DatetimeIndex", measured.index)
    values[np.searchsorted(seconds, index.as_unit("s").asi8)] = measured.to_numpy()
    if series.scale != 1.0:
        values = np.round(values * series.scale, _DECIMALS)
    return _Values(seconds, values)


def _moments(seconds: np.ndarray) -> list[datetime]:
    import pandas as pd

    return list(pd.DatetimeIndex(seconds.astype("datetime64[s]"), tz="UTC").to_pydatetime())
