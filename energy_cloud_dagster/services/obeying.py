"""The line between the broker and the devices that obey: their orders, their answers, their state every few seconds.

It has a connection of its own, so that an order is answered at once while the fleet sends hours of stored readings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import structlog

from energy_cloud_dagster.domain.errors import PartUnavailable
from energy_cloud_dagster.services.mqtt_fleet import FleetClient
from energy_cloud_dagster.services.virtual_devices import VirtualDevices

log = structlog.get_logger()

#: How often it is looked whether a report is due, or the fleet shall stop.
_LOOK_SECONDS: Final = 0.25
_RETRY_SECONDS: Final = 2.0
#: Orders that are obeyed together, and kept on the disk by one write.
_AT_ONCE: Final = 500

type Order = tuple[str, bytes]


async def obey(
    make_client: Callable[[list[str], Callable[[str, bytes], None]], FleetClient],
    devices: VirtualDevices,
    stop: asyncio.Event,
    *,
    clock: Callable[[], datetime],
    simulated_receipt: bool = False,
) -> None:
    """Let ``devices`` obey until ``stop`` is set; a broker that is away is tried again.

    ``make_client`` builds a client that subscribes to the given topics. Orders sent while nobody listens are lost: it
    is for the platform to repeat what was not acknowledged.
    """
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[Order] = asyncio.Queue()

    def take(topic: str, payload: bytes) -> None:
        loop.call_soon_threadsafe(orders.put_nowait, (topic, payload))

    line = _Line(devices, clock, simulated_receipt=simulated_receipt)
    while not stop.is_set():
        client = make_client(devices.topics(), take)
        try:
            await asyncio.to_thread(client.connect)
            log.info("devices_listen", topics=len(devices.topics()))
            while not stop.is_set():
                await asyncio.to_thread(line.work, client, await _next(orders))
        except PartUnavailable as error:
            if not stop.is_set():
                log.warning("devices_unreachable", error=str(error), retry_seconds=_RETRY_SECONDS)
                await _pause(stop, _RETRY_SECONDS)
        finally:
            await asyncio.to_thread(client.close)


class _Line:
    """Answers orders and sends the reports that are due, on one client at a time."""

    def __init__(self, devices: VirtualDevices, clock: Callable[[], datetime], *, simulated_receipt: bool) -> None:
        self._devices = devices
        self._clock = clock
        self._simulated_receipt = simulated_receipt
        self._reported: dict[str, float] = {}

    def work(self, client: FleetClient, asked: Sequence[Order]) -> None:
        """Answer the orders, then send the reports that are due; returns once the broker has it all.

        A device that was asked something reports at once.
        """
        now = self._clock()
        named = {topic.rpartition("/")[0].rpartition("/")[2] for topic, _ in asked}
        for topic, payload in self._devices.heard_all(asked, now):
            client.publish(topic, payload)
        reporting = self._devices.reporting(now)
        # One report more, of the state that a device came back to.
        for device_id in reporting.keys() | self._reported.keys():
            since = time.monotonic() - self._reported.get(device_id, float("-inf"))
            if device_id in named or device_id not in reporting or since >= reporting[device_id]:
                self._report(client, device_id, now)
            if device_id not in reporting:
                del self._reported[device_id]
        client.flush()

    def _report(self, client: FleetClient, device_id: str, now: datetime) -> None:
        for message in self._devices.report(device_id, now):
            client.publish(message.topic, message.payload(simulated_receipt=self._simulated_receipt))
        self._reported[device_id] = time.monotonic()


async def _next(orders: asyncio.Queue[Order]) -> list[Order]:
    """Return the orders that have come, none after a while without."""
    try:
        found = [await asyncio.wait_for(orders.get(), _LOOK_SECONDS)]
    except TimeoutError:
        return []
    while len(found) < _AT_ONCE and not orders.empty():
        found.append(orders.get_nowait())
    return found


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
