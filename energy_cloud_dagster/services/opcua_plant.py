"""The simulated wind farm: a real OPC UA server whose tags replay the measured turbines.

``SourceTimestamp`` is the start of the interval, ``ServerTimestamp`` when the platform would have received it (replay)
or when it was written (live). An empty reading is written with the status ``BadNoCommunication``.

Subscribe with the data-change trigger ``StatusValueTimestamp`` and a queue: under the default trigger a server
reports a changed value only, so that two equal readings in a row become one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Coroutine, Iterable, Iterator
from datetime import UTC, datetime
from itertools import batched
from types import TracebackType
from typing import Any, Final, Self, cast

import structlog

from energy_cloud_dagster.adapters.opcua import Tag, read_tag_map
from energy_cloud_dagster.domain.errors import Misconfigured, PartUnavailable
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services.simulator import Message, messages

log = structlog.get_logger()

NAMESPACE: Final = "urn:energy-cloud:plant"
_LARGEST_BATCH: Final = 500
_POLL_SECONDS: Final = 0.01
_OPCUA: Final[frozenset[plain.Protocol]] = frozenset({"opcua"})


class PlantServer:
    """The OPC UA server of the turbines; use it as an async context manager.

    ``port`` None takes a free one; ``url`` is what clients connect to.
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        host: str = "127.0.0.1",
        community: plain.Community = plain.SEOUL_COMMUNITY,
        tags: tuple[Tag, ...] | None = None,
    ) -> None:
        self._community = community
        self._tags = read_tag_map() if tags is None else tags
        units = {played.key: played.series.unit for played in community.all_series()}
        for tag in self._tags:
            if units.get((tag.device, tag.metric)) != tag.unit:
                raise Misconfigured(f"tag {tag.node}: the community has no {tag.metric} of {tag.device} in {tag.unit}")
        self._nodes: dict[tuple[str, str], Any] = {}
        self._server: Any = None
        self._host, self._port = host, _free_port(host) if port is None else port
        self.url = f"opc.tcp://{host}:{self._port}/energy-cloud/plant"

    async def __aenter__(self) -> Self:
        from asyncua import ua
        from asyncua.server.server import Server

        _require_free(self._host, self._port, self.url)
        # Its info lines are one a subscription and one a connection.
        logging.getLogger("asyncua").setLevel(logging.ERROR)
        server = Server()
        await server.init()
        server.set_endpoint(self.url)
        server.set_server_name("Energy Cloud simulated plant")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        # The plant says itself when a value was received: the clock of this process is not the replay's.
        server.set_force_server_timestamp(False)
        await server.register_namespace(NAMESPACE)
        folders: dict[str, Any] = {}
        for tag in self._tags:
            node_id = ua.NodeId.from_string(tag.node)
            if tag.device not in folders:
                folders[tag.device] = await server.nodes.objects.add_object(node_id.NamespaceIndex, tag.device)
            node = await folders[tag.device].add_variable(
                node_id, ua.QualifiedName(tag.metric, node_id.NamespaceIndex), 0.0, ua.VariantType.Double
            )
            await server.write_attribute_value(node.nodeid, _data_value(None, "BadWaitingForInitialData"))
            self._nodes[tag.device, tag.metric] = node.nodeid
        await server.start()
        self._server = server
        log.info("plant_started", url=self.url, tags=len(self._nodes))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()
        log.info("plant_stopped", url=self.url)

    def watched(self) -> bool:
        """Return whether every tag is subscribed to by someone."""
        seen = {item.read_value_id.NodeId for _, item in self._items()}
        return all(node in seen for node in self._nodes.values())

    async def wait_until_watched(self, timeout_seconds: float = 60.0) -> None:
        """Wait until every tag is subscribed to; ``PartUnavailable`` when nobody came in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.watched():
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise PartUnavailable(f"nobody subscribed to the tags of {self.url} in {timeout_seconds:.0f} s") from None

    async def replay(self, start: datetime, end: datetime, *, timeout_seconds: float = 60.0) -> int:
        """Write every interval of ``[start, end)`` and return how many, after the subscribers acknowledged them.

        Waits for a subscriber first. Raises ``PartUnavailable`` when none came, or one stopped taking values.
        """
        await self.wait_until_watched(timeout_seconds)
        written = await self.write(messages(self._community, start, end, _OPCUA), timeout_seconds=timeout_seconds)
        log.info("fleet_replayed", protocol="opcua", messages=written)
        return written

    async def write(self, due: Iterable[Message], *, live: bool = False, timeout_seconds: float = 60.0) -> int:
        """Write ``due`` in order and return how many; never more at once than a subscriber's queues hold.

        ``live`` stamps the wall clock as server time instead of the simulated receipt.
        """
        written = 0
        tagged = (message for message in due if (message.device_id, message.metric) in self._nodes)
        # A queue counts per tag, so a batch as long as the shortest queue can overflow none.
        for batch in batched(tagged, max(1, min([_LARGEST_BATCH, *self._queues()]))):
            for message in batch:
                await self._write_one(message, live=live)
            await self._delivered(timeout_seconds)
            written += len(batch)
        return written

    async def _write_one(self, message: Message, *, live: bool) -> None:
        value = _data_value(
            message.value,
            "BadNoCommunication" if message.value is None else "Good",
            source=message.ts,
            server=datetime.now(UTC) if live else message.received_at,
        )
        await self._server.write_attribute_value(self._nodes[message.device_id, message.metric], value)

    def _items(self) -> Iterator[tuple[Any, Any]]:
        """Yield (subscription, monitored item) of our tags. asyncua has no public way to ask a server for them."""
        ours = set(self._nodes.values())
        for subscription in list(self._server.iserver.subscription_service.subscriptions.values()):
            for item in list(subscription.monitored_item_srv._monitored_items.values()):  # noqa: SLF001
                if item.read_value_id.NodeId in ours:
                    yield subscription, item

    def _queues(self) -> list[int]:
        return [max(1, item.queue_size) for _, item in self._items()]

    async def _delivered(self, timeout_seconds: float) -> None:
        """Wait until the subscriptions hold nothing that is unsent or unacknowledged."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while any(
                    subscription._triggered_datachanges or subscription._not_acknowledged_results  # noqa: SLF001
                    for subscription, _ in self._items()
                ):
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise PartUnavailable(
                f"a subscriber of {self.url} took no values for {timeout_seconds:.0f} s; start the bridge again"
            ) from None


class PlantThread:
    """A ``PlantServer`` on an event loop in a thread of its own, for callers without one; use as a context manager."""

    def __init__(self, port: int | None = None, *, community: plain.Community = plain.SEOUL_COMMUNITY) -> None:
        self._plant = PlantServer(port, community=community)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="plant", daemon=True)
        self.url = self._plant.url

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self._plant.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._plant.__aexit__(None, None, None))
        finally:
            self._end()

    def wait_until_watched(self, timeout_seconds: float = 60.0) -> None:
        """As ``PlantServer.wait_until_watched``."""
        self._run(self._plant.wait_until_watched(timeout_seconds))

    def replay(self, start: datetime, end: datetime, *, timeout_seconds: float = 60.0) -> int:
        """As ``PlantServer.replay``."""
        return self._run(self._plant.replay(start, end, timeout_seconds=timeout_seconds))

    def _run[Result](self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _data_value(
    value: float | None, status: str, source: datetime | None = None, server: datetime | None = None
) -> Any:
    """Return an ``asyncua.ua.DataValue`` of type Double, or without a value."""
    from asyncua.ua import status_codes, uatypes

    double = uatypes.Variant(value, uatypes.VariantType.Double) if value is not None else None
    code = uatypes.StatusCode(uatypes.UInt32(getattr(status_codes.StatusCodes, status)))
    return uatypes.DataValue(double, code, cast("uatypes.DateTime", source), cast("uatypes.DateTime", server))


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _require_free(host: str, port: int, url: str) -> None:
    with socket.socket() as probe:
        # As the server itself does, so that a port of a server that just stopped counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PartUnavailable(f"the OPC UA server cannot listen on {url}: {error.strerror}") from None
