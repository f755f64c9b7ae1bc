"""The SCADA bridge: tags of an OPC UA server, by a tag-map file, to the rows of their series.

``ts`` is the SourceTimestamp. A value is received when the server had it (ServerTimestamp) in a replay, else when it
came in here. A bad status is kept in ``raw.rejected``, as is everything else that is no reading.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import psycopg
import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters import database, readings
from energy_cloud_dagster.adapters.opcua import Tag, TagSubscription, TagValue, read_tag_map, subscribed
from energy_cloud_dagster.adapters.readings import ReadingRow, RejectRow
from energy_cloud_dagster.domain.errors import Misconfigured, PartUnavailable, Rejected
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.readings import Rules, SeriesInfo, convert
from energy_cloud_dagster.domain.readings.decode import check_time
from energy_cloud_dagster.services.ingest import rules_of
from energy_cloud_dagster.services.processes import stop_on_signals
from energy_cloud_dagster.services.storing import Writer
from energy_cloud_dagster.settings import Settings

log = structlog.get_logger()

SOURCE: Final = "opcua"
_BATCH: Final = 2_000
_WAIT_SECONDS: Final = 0.5
_LINGER_SECONDS: Final = 0.05
_RETRY_SECONDS: Final = 2.0


def to_row(given: TagValue, info: SeriesInfo, received_at: datetime, rules: Rules) -> ReadingRow:
    """Return the row of one tag value in the unit of its series, or raise ``Rejected``."""
    if not given.good or given.value is None:
        raise Rejected("bad_status", f"the server reports {given.status}; look at the tag's source")
    if given.source_time is None:
        raise Rejected("bad_timestamp", "the value has no SourceTimestamp; let the server send one")
    if not math.isfinite(given.value):
        raise Rejected("not_finite", f"the value {given.value} is no finite number")
    check_time(given.source_time, info, received_at, rules)
    quality = "high" if given.status == "Good" else "medium"
    value = convert(given.value, given.tag.unit, info.unit)
    return ReadingRow(info.series_id, given.source_time, value, quality, received_at, SOURCE)


def resolve(connection: sa.Connection, tags: Sequence[Tag]) -> dict[Tag, SeriesInfo]:
    """Return the series of every tag that is registered and whose unit fits; the others are logged and left out."""
    known = readings.series_ids(connection, {tag.device for tag in tags})
    resolved: dict[Tag, SeriesInfo] = {}
    for tag in tags:
        info = known.get((tag.device, tag.metric))
        if info is None:
            log.error(
                "tag_left_out", node=tag.node, reason=f"no series {tag.metric} of device {tag.device}; register it"
            )
            continue
        try:
            convert(0.0, tag.unit, info.unit)
        except Rejected as reason:
            log.warning("tag_left_out", node=tag.node, reason=f"{reason.detail}; correct the tag map")
            continue
        resolved[tag] = info
    return resolved


class Bridge:
    """Stores what a subscription brings, in batches, until it is told to stop."""

    def __init__(self, engine: sa.Engine, series: dict[Tag, SeriesInfo], rules: Rules, stop: threading.Event) -> None:
        self.totals: Counter[str] = Counter()
        self._series = series
        self._rules = rules
        self._stop = stop
        self._writer = Writer(engine, stop)

    async def work(self, subscription: TagSubscription) -> None:
        """Take and store values until ``stop``; what has arrived by then is stored."""
        while not self._stop.is_set():
            batch = await subscription.take(_BATCH, wait=_WAIT_SECONDS, linger=_LINGER_SECONDS)
            # In a thread: while the database is away, keep-alives and notifications go on.
            await asyncio.to_thread(self._store, batch)
        while batch := await subscription.take(_BATCH, wait=0.0, linger=0.0):
            await asyncio.to_thread(self._store, batch)

    def _store(self, batch: list[TagValue]) -> None:
        if not batch:
            return
        rows, rejects = self._sort(batch, datetime.now(UTC))
        try:
            done = self._writer.until_committed(lambda connection: _write(connection, rows, rejects))
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            if len(batch) > 1:
                for given in batch:
                    self._store([given])
                return
            detail = f"the database refused it: {str(getattr(error, 'orig', error)).partition(chr(10))[0]}"
            log.warning("value_set_aside", node=batch[0].tag.node, reason=detail)
            refused = [_reject(batch[0], datetime.now(UTC), Rejected("not_storable", detail))]
            done = self._writer.until_committed(lambda connection: _write(connection, [], refused))
        if done is None:
            log.warning("values_lost", values=len(batch), reason="stopped while the database was away")
            done = Counter(lost=len(batch))
        self.totals.update(done, values=len(batch))

    def _sort(self, batch: list[TagValue], now: datetime) -> tuple[list[ReadingRow], list[RejectRow]]:
        rows, rejects = [], []
        for given in batch:
            received_at = given.server_time if self._rules.replay and given.server_time is not None else now
            try:
                rows.append(to_row(given, self._series[given.tag], received_at, self._rules))
            except Rejected as reason:
                rejects.append(_reject(given, received_at, reason))
        return rows, rejects


async def bridge(
    engine: sa.Engine,
    url: str,
    tags: Sequence[Tag],
    rules: Rules,
    stop: threading.Event,
    *,
    on_ready: Callable[[], None] | None = None,
) -> Counter[str]:
    """Bridge ``tags`` of the server at ``url`` until ``stop``; waits for a server or database that is away."""
    writer = Writer(engine, stop)
    series = await asyncio.to_thread(writer.until_committed, lambda connection: resolve(connection, tags))
    if not series:
        if stop.is_set():
            return Counter()
        raise Misconfigured("no tag of the tag map is a registered series; register the devices or correct the tag map")
    worker = Bridge(engine, series, rules, stop)
    while not stop.is_set():
        try:
            async with subscribed(
                url, list(series), on_lost=lambda: log.warning("scada_lost", url=url)
            ) as subscription:
                for tag in subscription.missing:
                    log.warning("tag_left_out", node=tag.node, reason=f"the server {url} has no node {tag.node}")
                if len(subscription.missing) == len(series):
                    raise Misconfigured(f"the server {url} has none of the tag map's nodes; correct the tag map")
                log.info("scada_ready", url=url, tags=len(series) - len(subscription.missing))
                if on_ready is not None:
                    on_ready()
                await worker.work(subscription)
        except PartUnavailable as error:
            log.warning("scada_unavailable", reason=str(error))
            await asyncio.to_thread(stop.wait, _RETRY_SECONDS)
    log.info("scada_stopped", **worker.totals)
    return worker.totals


def run(
    settings: Settings, *, stop: threading.Event | None = None, on_ready: Callable[[], None] | None = None
) -> Counter[str]:
    """Run the bridge until SIGTERM, SIGINT or ``stop``; return its totals. ``on_ready``: the tags are subscribed."""
    if not settings.opcua_url:
        raise Misconfigured("ENERGY_CLOUD_OPCUA_URL is empty; set it to opc.tcp://host:port/path of the SCADA server")
    stop = stop or threading.Event()
    tags = read_tag_map(settings.tag_map)
    engine = database.make_engine(settings.database_url.get_secret_value(), pool_size=1)
    try:
        with stop_on_signals(stop):
            Writer(engine, stop).until_committed(database.require_current)
            return asyncio.run(bridge(engine, settings.opcua_url, tags, rules_of(settings), stop, on_ready=on_ready))
    finally:
        engine.dispose()


def _write(connection: sa.Connection, rows: list[ReadingRow], rejects: list[RejectRow]) -> Counter[str]:
    stored = readings.store(connection, rows)
    return Counter({**stored._asdict(), "rejected": readings.reject(connection, rejects)})


def _reject(given: TagValue, received_at: datetime, reason: Rejected) -> RejectRow:
    times = {"sourceTimestamp": given.source_time, "serverTimestamp": given.server_time}
    document = {"value": given.value, "unit": given.tag.unit, "status": given.status}
    payload = json.dumps(document | {name: rfc3339(at) for name, at in times.items() if at is not None}).encode()
    return RejectRow(received_at, SOURCE, given.tag.node, payload, reason.reason, reason.detail)
