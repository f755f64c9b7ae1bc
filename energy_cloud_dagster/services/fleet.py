"""The simulated fleet of ``up``: devices that follow the wall clock and store and forward like real ones.

A small state file remembers up to which receipt time each protocol was delivered. After a restart, the messages that
fell due in between are sent first; what was sent twice is absorbed by ingest. OPC UA values wait until somebody watches
every tag.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Final

import structlog

from energy_cloud_dagster.domain.errors import Misconfigured, PartUnavailable
from energy_cloud_dagster.domain.intervals import rfc3339, utc
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services.mqtt_fleet import FleetClient, publish
from energy_cloud_dagster.services.opcua_plant import PlantServer
from energy_cloud_dagster.services.simulator import received_between

log = structlog.get_logger()

_BATCH: Final = 500
#: The longest sleep: a clock that was set, or a machine that slept, is noticed after this.
_LONGEST_WAIT: Final = timedelta(seconds=60)
_RETRY_SECONDS: Final = 2.0
#: How long a running fleet waits for a part before it looks whether it shall stop.
_STALL_SECONDS: Final = 10.0
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """What a live fleet needs to know.

    ``since``: where to begin when the state file does not exist yet (None: now). ``plant_port`` None: no OPC UA
    server. ``simulated_receipt`` puts ``receivedAt`` into the messages and the server timestamps, for replays.
    """

    mqtt_url: str
    mqtt_username: str
    mqtt_password: str
    state_file: Path
    plant_port: int | None = None
    since: datetime | None = None
    simulated_receipt: bool = False
    community: plain.Community = plain.SEOUL_COMMUNITY


class FleetState:
    """Up to which simulated receipt each protocol was delivered; kept in a JSON file that is replaced as a whole."""

    def __init__(self, path: Path, since: datetime) -> None:
        self._path = path
        self._writing = threading.Lock()
        try:
            text = path.read_text()
        except FileNotFoundError:
            self._delivered = {"mqtt": utc(since), "opcua": utc(since)}
            return
        try:
            kept = json.loads(text)
            self._delivered = {name: utc(datetime.fromisoformat(kept[name])) for name in ("mqtt", "opcua")}
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(
                f"{path} is no state of the simulated fleet ({error!r}); delete it to begin anew"
            ) from None

    def delivered(self, protocol: plain.Protocol) -> datetime:
        """Return the receipt time up to which everything of ``protocol`` was delivered."""
        return self._delivered[protocol]

    def advance(self, protocol: plain.Protocol, until: datetime) -> None:
        """Remember durably that everything up to ``until`` was delivered; never goes back."""
        with self._writing:
            self._delivered[protocol] = max(self._delivered[protocol], until)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps({name: rfc3339(moment) for name, moment in self._delivered.items()}))
            fresh.replace(self._path)


async def live(
    options: FleetOptions,
    stop: asyncio.Event,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ready: Callable[[str | None], None] | None = None,
) -> None:
    """Publish every interval soon after it ended, until ``stop`` is set.

    A broker that does not answer is tried again, and nothing is lost by it. ``ready`` is called once with the URL of
    the OPC UA server (None without one). Raises ``Misconfigured`` for a wrong URL, login or state file.
    """
    state = FleetState(options.state_file, options.since or clock())
    if options.plant_port is None:
        if ready is not None:
            ready(None)
        await _mqtt_loop(options, state, stop, clock)
        return
    async with PlantServer(options.plant_port, community=options.community) as plant:
        if ready is not None:
            ready(plant.url)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_mqtt_loop(options, state, stop, clock))
                group.create_task(_plant_loop(options, plant, state, stop, clock))
        except ExceptionGroup as several:
            # Either loop ends by one exception, and takes the other loop with it.
            raise several.exceptions[0] from None


def run_live(options: FleetOptions, ready: Callable[[str | None], None] | None = None) -> None:
    """Run ``live`` until SIGTERM or SIGINT, then stop cleanly; for a process of its own."""

    async def until_signalled() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await live(options, stop, ready=ready)

    asyncio.run(until_signalled())
    log.info("fleet_stopped", state=str(options.state_file))


async def _mqtt_loop(
    options: FleetOptions, state: FleetState, stop: asyncio.Event, clock: Callable[[], datetime]
) -> None:
    while not stop.is_set():
        client = FleetClient(
            options.mqtt_url,
            options.mqtt_username,
            options.mqtt_password,
            stall_seconds=_STALL_SECONDS,
            cancelled=stop.is_set,
        )
        try:
            await asyncio.to_thread(client.connect)
            log.info("fleet_connected", url=options.mqtt_url, since=rfc3339(state.delivered("mqtt")))
            while not stop.is_set():
                now = clock()
                await asyncio.to_thread(_publish_due, client, options, state, now, stop)
                await _wait(stop, _until_next(options, "mqtt", now))
        except PartUnavailable as error:
            if not stop.is_set():
                log.warning("fleet_broker_unavailable", error=str(error), retry_seconds=_RETRY_SECONDS)
                await _wait(stop, _RETRY_SECONDS)
        finally:
            await asyncio.to_thread(client.close)


def _publish_due(
    client: FleetClient, options: FleetOptions, state: FleetState, now: datetime, stop: asyncio.Event
) -> None:
    due = received_between(options.community, state.delivered("mqtt"), now, frozenset({"mqtt"}))
    for batch in batched(due, _BATCH):
        if stop.is_set():
            return
        publish(client, batch, simulated_receipt=options.simulated_receipt)
        # The next batch may begin with the same second: a restart sends that second again.
        state.advance("mqtt", batch[-1].received_at - _SECOND)
        log.info("fleet_published", messages=len(batch), until=rfc3339(batch[-1].received_at))
    state.advance("mqtt", now)


async def _plant_loop(
    options: FleetOptions, plant: PlantServer, state: FleetState, stop: asyncio.Event, clock: Callable[[], datetime]
) -> None:
    while not stop.is_set():
        if not plant.watched():
            await _wait(stop, 1.0)
            continue
        now = clock()
        due = received_between(options.community, state.delivered("opcua"), now, frozenset({"opcua"}))
        try:
            for batch in batched(due, _BATCH):
                await plant.write(batch, live=not options.simulated_receipt, timeout_seconds=_STALL_SECONDS)
                state.advance("opcua", batch[-1].received_at - _SECOND)
                log.info("fleet_tags_written", values=len(batch), until=rfc3339(batch[-1].received_at))
                if stop.is_set():
                    return
        except PartUnavailable as error:
            log.warning("fleet_subscriber_unavailable", error=str(error))
            continue
        state.advance("opcua", now)
        await _wait(stop, _until_next(options, "opcua", now))


def _until_next(options: FleetOptions, protocol: plain.Protocol, now: datetime) -> float:
    """Return the seconds from ``now`` to the next message that falls due, at most a minute."""
    coming = received_between(options.community, now, now + _LONGEST_WAIT, frozenset({protocol}))
    return (next((message.received_at for message in coming), now + _LONGEST_WAIT) - now).total_seconds()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
