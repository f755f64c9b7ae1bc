"""The simulated fleet of ``up``: devices that follow the wall clock and store and forward like real ones.

A small state file remembers up to which receipt time each protocol was delivered. After a restart, the messages that
fell due in between are sent first; what was sent twice is absorbed by ingest. OPC UA values wait until somebody watches
every tag.

Batteries, panels and turbines obey commands meanwhile (``virtual_devices``), and so do the devices of resources that
were made without one; what was asked of them is kept in a second file beside the state file.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Final

import structlog

from energy_cloud_dagster.domain.errors import Misconfigured, PartUnavailable
from energy_cloud_dagster.domain.intervals import rfc3339, utc
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services.mqtt_fleet import FleetClient, publish
from energy_cloud_dagster.services.obeying import obey
from energy_cloud_dagster.services.opcua_plant import PlantServer
from energy_cloud_dagster.services.played_resources import PlayedResources
from energy_cloud_dagster.services.simulator import Message, received_between
from energy_cloud_dagster.services.virtual_devices import VirtualDevices

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
    ``tokens`` are those of devices that have one: they obey signed configurations only. With ``database_url`` the
    devices of resources that were made without one are played besides the community's.
    """

    mqtt_url: str
    mqtt_username: str
    mqtt_password: str
    state_file: Path
    plant_port: int | None = None
    since: datetime | None = None
    simulated_receipt: bool = False
    community: plain.Community = plain.SEOUL_COMMUNITY
    tokens: Mapping[str, str] = field(default_factory=dict)
    mqtt_ca: Path | None = None
    database_url: str = ""

    @property
    def devices_file(self) -> Path:
        """Where it is kept what was asked of the devices."""
        return self.state_file.with_suffix(".devices.json")


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
    """Publish every interval soon after it ended, and obey commands, until ``stop`` is set.

    A broker that does not answer is tried again, and nothing is lost by it. ``ready`` is called once with the URL of
    the OPC UA server (None without one). Raises ``Misconfigured`` for a wrong URL, login or state file.
    """
    state = FleetState(options.state_file, options.since or clock())
    registry = PlayedResources(options.database_url) if options.database_url else None
    devices = VirtualDevices(
        options.community,
        options.devices_file,
        options.tokens,
        registry=None if registry is None else registry.read,
    )
    async with AsyncExitStack() as stack:
        if registry is not None:
            stack.enter_context(registry.watched(devices.look))
        plant = None
        if options.plant_port is not None:
            plant = await stack.enter_async_context(PlantServer(options.plant_port, community=options.community))
        if ready is not None:
            ready(None if plant is None else plant.url)
        fleet = _Fleet(options, state, devices, stop, clock)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fleet.publish())
                group.create_task(fleet.obey())
                if plant is not None:
                    group.create_task(fleet.write_tags(plant))
        except ExceptionGroup as several:
            # Each loop ends by one exception, and takes the others with it.
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


@dataclass(frozen=True, slots=True)
class _Fleet:
    """The loops of a live fleet; each ends when ``stop`` is set."""

    options: FleetOptions
    state: FleetState
    devices: VirtualDevices
    stop: asyncio.Event
    clock: Callable[[], datetime]

    def client(
        self, topics: Sequence[str] = (), heard: Callable[[str, bytes], None] = lambda _topic, _payload: None
    ) -> FleetClient:
        return FleetClient(
            self.options.mqtt_url,
            self.options.mqtt_username,
            self.options.mqtt_password,
            stall_seconds=_STALL_SECONDS,
            cancelled=self.stop.is_set,
            topics=topics,
            heard=heard,
            ca=self.options.mqtt_ca,
        )

    async def obey(self) -> None:
        await obey(
            self.client,
            self.devices,
            self.stop,
            clock=self.clock,
            simulated_receipt=self.options.simulated_receipt,
        )

    async def publish(self) -> None:
        while not self.stop.is_set():
            client = self.client()
            try:
                await asyncio.to_thread(client.connect)
                since = rfc3339(self.state.delivered("mqtt"))
                log.info("fleet_connected", url=self.options.mqtt_url, since=since)
                while not self.stop.is_set():
                    now = self.clock()
                    await asyncio.to_thread(self._publish_due, client, now)
                    await self._wait(self._until_next("mqtt", now))
            except PartUnavailable as error:
                if not self.stop.is_set():
                    log.warning("fleet_broker_unavailable", error=str(error), retry_seconds=_RETRY_SECONDS)
                    await self._wait(_RETRY_SECONDS)
            finally:
                await asyncio.to_thread(client.close)

    async def write_tags(self, plant: PlantServer) -> None:
        while not self.stop.is_set():
            if not plant.watched():
                await self._wait(1.0)
                continue
            now = self.clock()
            try:
                for batch in batched(self._due("opcua", now), _BATCH):
                    live = not self.options.simulated_receipt
                    await plant.write(batch, live=live, timeout_seconds=_STALL_SECONDS)
                    self.state.advance("opcua", batch[-1].received_at - _SECOND)
                    log.info("fleet_tags_written", values=len(batch), until=rfc3339(batch[-1].received_at))
                    if self.stop.is_set():
                        return
            except PartUnavailable as error:
                log.warning("fleet_subscriber_unavailable", error=str(error))
                continue
            self._delivered("opcua", now)
            await self._wait(self._until_next("opcua", now))

    def _publish_due(self, client: FleetClient, now: datetime) -> None:
        for batch in batched(self._due("mqtt", now), _BATCH):
            if self.stop.is_set():
                return
            publish(client, batch, simulated_receipt=self.options.simulated_receipt)
            # The next batch may begin with the same second: a restart sends that second again.
            self.state.advance("mqtt", batch[-1].received_at - _SECOND)
            log.info("fleet_published", messages=len(batch), until=rfc3339(batch[-1].received_at))
        self._delivered("mqtt", now)

    def _due(self, protocol: plain.Protocol, now: datetime) -> Iterator[Message]:
        """Return what ``protocol`` has to deliver by ``now``, as the devices did it."""
        delivered = self.state.delivered(protocol)
        return map(
            self.devices.altered, received_between(self.options.community, delivered, now, frozenset({protocol}))
        )

    def _delivered(self, protocol: plain.Protocol, now: datetime) -> None:
        self.state.advance(protocol, now)
        self.devices.forget(self.state.delivered)

    def _until_next(self, protocol: plain.Protocol, now: datetime) -> float:
        """Return the seconds from ``now`` to the next message that falls due, at most a minute."""
        coming = received_between(self.options.community, now, now + _LONGEST_WAIT, frozenset({protocol}))
        return (next((message.received_at for message in coming), now + _LONGEST_WAIT) - now).total_seconds()

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            return
