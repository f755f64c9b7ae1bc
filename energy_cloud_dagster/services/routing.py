"""Which series a topic belongs to: asked of the registry once for many messages, and again when the answer is old."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters import readings, registry
from energy_cloud_dagster.adapters.mqtt import Received
from energy_cloud_dagster.domain.errors import Rejected
from energy_cloud_dagster.domain.readings import (
    SeriesInfo,
    SeriesKey,
    decode_payload,
    dimension,
    find_series,
    parse_topic,
)

log = structlog.get_logger()

KNOWN_SECONDS: Final = 30.0
#: Short, so that a device that was just registered need not wait; long enough that a burst asks but once.
UNKNOWN_SECONDS: Final = 2.0
#: From here on old routes are dropped, so that topics that never come again take no memory.
_MANY_ROUTES: Final = 100_000
_REGISTRABLE: Final = {"unknown_device", "unknown_metric"}


class Route(NamedTuple):
    """Where the messages of a topic go: to ``info``, or to the rejects with ``refusal``, or (control topics) nowhere.

    ``until`` is on the clock of ``Routes``.
    """

    info: SeriesInfo | None
    refusal: Rejected | None
    until: float


class Routes:
    """The routes of the topics that a worker has seen."""

    def __init__(
        self, max_payload_bytes: int, *, register: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``register`` lets the good message of an unknown device register it, unverified."""
        self._max_payload_bytes = max_payload_bytes
        self._register = register
        self._clock = clock
        self._routes: dict[str, Route] = {}
        self._many = _MANY_ROUTES

    def __getitem__(self, topic: str) -> Route:
        return self._routes[topic]

    def missing(self, messages: Iterable[Received]) -> dict[str, list[Received]]:
        """Return the messages whose topic has no route, or an old one, by topic."""
        now, found = self._clock(), dict[str, list[Received]]()
        if len(self._routes) > self._many:
            self._routes = {topic: route for topic, route in self._routes.items() if route.until >= now}
            self._many = max(_MANY_ROUTES, 2 * len(self._routes))
        known = self._routes
        for message in messages:
            route = known.get(message.topic)
            if route is None or route.until < now:
                found.setdefault(message.topic, []).append(message)
        return found

    def learn(self, routes: Mapping[str, Route]) -> None:
        """Take what ``look_up`` returned, once its transaction is committed."""
        self._routes |= routes

    def look_up(self, connection: sa.Connection, missing: Mapping[str, list[Received]]) -> dict[str, Route]:
        """Return the routes of topics as the registry has them now, after registering what may be registered."""
        aliases = registry.region_names(connection)
        series = _by_device(connection, missing)
        if self._register:
            fresh = {
                parse_topic(topic).device_id
                for topic, messages in missing.items()
                if self._registered(connection, topic, messages, series, aliases)
            }
            series |= _by_device(connection, missing, fresh)
        return {topic: self._route(topic, series, aliases) for topic in missing}

    def _route(
        self, topic: str, series: Mapping[str, Mapping[SeriesKey, SeriesInfo]], aliases: Mapping[str, str]
    ) -> Route:
        now = self._clock()
        try:
            return Route(find_series(topic, series.get(_device(topic), {}), aliases), None, now + KNOWN_SECONDS)
        except Rejected as refusal:
            # The next message may be the good one that registers the device: do not remember that it is unknown.
            again = self._register and refusal.reason in _REGISTRABLE
            return Route(None, refusal, -math.inf if again else now + UNKNOWN_SECONDS)

    def _registered(
        self,
        connection: sa.Connection,
        topic: str,
        messages: list[Received],
        series: Mapping[str, Mapping[SeriesKey, SeriesInfo]],
        aliases: Mapping[str, str],
    ) -> bool:
        route = self._route(topic, series, aliases)
        if route.refusal is None or route.refusal.reason not in _REGISTRABLE:
            return False
        parsed = parse_topic(topic)
        good = next((unit for message in messages if (unit := self._unit(message)) is not None), None)
        if good is None or parsed.region not in aliases:
            return False
        registry.register_device(connection, parsed, good, messages[0].received_at)
        log.info("device_registered", topic=topic)
        return True

    def _unit(self, message: Received) -> str | None:
        """Return the unit of a message's first reading, None where it has no good one."""
        try:
            items = decode_payload(message.payload, self._max_payload_bytes, [])
            if items:
                dimension(items[0][1].unit)
                return items[0][1].unit
        except Rejected:
            pass
        return None


def _by_device(
    connection: sa.Connection, topics: Iterable[str], devices: set[str] | None = None
) -> dict[str, dict[SeriesKey, SeriesInfo]]:
    wanted = {_device(topic) for topic in topics} - {""} if devices is None else devices
    found: dict[str, dict[SeriesKey, SeriesInfo]] = {}
    for key, info in readings.series_ids(connection, wanted).items() if wanted else ():
        found.setdefault(key[0], {})[key] = info
    return found


def _device(topic: str) -> str:
    """Return the device that a topic names, "" where it is none of ours."""
    try:
        return parse_topic(topic).device_id
    except Rejected:
        return ""
