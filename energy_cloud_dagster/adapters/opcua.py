"""Tags of a SCADA server over OPC UA: a tag-map file, and a subscription that reports every value in order.

Values wait in queues on both sides; a broken connection is made again and the server sends what it still has.
"""

from __future__ import annotations

import asyncio
import logging
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from energy_cloud_dagster.domain.errors import Misconfigured, PartUnavailable

if TYPE_CHECKING:
    from asyncua.client.client import Client

log = structlog.get_logger()

#: Values that a server keeps for one tag, and that wait here, before any is lost.
TAG_QUEUE: Final = 10_000
_WAITING: Final = 100_000
_PUBLISHING_MILLISECONDS: Final = 100
_REQUEST_SECONDS: Final = 10.0
#: How long the server keeps our queues after the line broke; those of a killed bridge burden it as long.
_LIFETIME_SECONDS: Final = 120
_KEEP_ALIVE_SECONDS: Final = 5


class Tag(NamedTuple):
    """Which node is which metric of which device, and the unit of the node's values."""

    node: str
    device: str
    metric: str
    unit: str


class TagValue(NamedTuple):
    """One value of a tag. ``value`` is None and ``status`` not ``Good`` where the server has none to give.

    ``source_time`` is when it was measured, ``server_time`` when the server had it; both UTC, None where not given.
    """

    tag: Tag
    value: float | None
    status: str
    good: bool
    source_time: datetime | None
    server_time: datetime | None


class TagSubscription:
    """The values of the tags that the server has, in the order of their arrival; ``missing`` are the others."""

    def __init__(self, subscription: Any, tags: dict[Any, Tag], missing: list[Tag]) -> None:
        self.missing = missing
        self._subscription = subscription
        self._tags = tags

    async def take(self, most: int, *, wait: float, linger: float) -> list[TagValue]:
        """Return up to ``most`` values: waits ``wait`` seconds for the first, then ``linger`` for more."""
        taken: list[TagValue] = []
        clock = asyncio.get_running_loop().time
        until = clock() + wait
        while len(taken) < most:
            event = await self._subscription.next_event(timeout=max(until - clock(), 0.0) or 1e-3)
            if event is None:
                break
            data = getattr(event, "data", None)
            if data is None:
                log.warning("scada_subscription_status", status=str(event))
                continue
            if not taken:
                until = clock() + linger
            value = _tag_value(self._tags[event.node.nodeid], data.monitored_item.Value)
            if value is not None:
                taken.append(value)
        return taken


def read_tag_map(path: Path | None = None) -> tuple[Tag, ...]:
    """Return the tags of a TOML file (None: those of the sample turbines).

    ``Misconfigured`` says which entry lacks what, or which node or series is there twice.
    """
    name = str(path or "tag_map.toml of the sample turbines")
    try:
        source = path if path is not None else files("energy_cloud_dagster.sample_data") / "tag_map.toml"
        entries = tomllib.loads(source.read_text(encoding="utf-8")).get("tag", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Misconfigured(f"the tag map {name} cannot be read: {error}") from None
    tags = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        lacking = [field for field in Tag._fields if not isinstance(entry.get(field), str) or not entry[field]]
        if lacking:
            raise Misconfigured(f"the tag map {name}: [[tag]] {number} lacks {', '.join(lacking)}")
        tags.append(Tag(*(entry[field] for field in Tag._fields)))
    if not tags:
        raise Misconfigured(f"the tag map {name} has no [[tag]] with {', '.join(Tag._fields)}")
    for field, keys in (
        ("node", [tag.node for tag in tags]),
        ("series", [f"{tag.device}/{tag.metric}" for tag in tags]),
    ):
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise Misconfigured(f"the tag map {name} has the {field} {twice} twice")
    return tuple(tags)


@asynccontextmanager
async def subscribed(
    url: str, tags: Sequence[Tag], *, on_lost: Callable[[], None] | None = None
) -> AsyncIterator[TagSubscription]:
    """Subscribe to every tag that the server has; raises ``PartUnavailable`` when the server does not answer."""
    from asyncua.client.client import Client
    from asyncua.common.subscription import OverflowPolicy

    ua = _ua()
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    nodes = {_node_id(tag): tag for tag in tags}

    async def lost(_error: Exception) -> None:
        if on_lost is not None:
            on_lost()

    client = Client(url, timeout=_REQUEST_SECONDS, auto_reconnect=True, reconnect_max_delay=10.0)
    client.connection_lost_callback = lost
    try:
        await client.connect()
    except (OSError, TimeoutError, ua.uaerrors.UaError) as error:
        raise PartUnavailable(
            f"the SCADA server {url} does not answer ({error or type(error).__name__}); "
            "start it or correct ENERGY_CLOUD_OPCUA_URL"
        ) from None
    try:
        terms = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=_PUBLISHING_MILLISECONDS,
            RequestedLifetimeCount=_LIFETIME_SECONDS * 1_000 // _PUBLISHING_MILLISECONDS,
            RequestedMaxKeepAliveCount=_KEEP_ALIVE_SECONDS * 1_000 // _PUBLISHING_MILLISECONDS,
            MaxNotificationsPerPublish=TAG_QUEUE,
            PublishingEnabled=True,
        )
        subscription = await client.create_subscription(
            terms, queue_maxsize=_WAITING, overflow=OverflowPolicy.DISCONNECT
        )
        results = await subscription.create_monitored_items(
            [_request(client, node, handle) for handle, node in enumerate(nodes, 1)]
        )
        missing = [
            tag for tag, result in zip(nodes.values(), results, strict=True) if isinstance(result, ua.StatusCode)
        ]
        yield TagSubscription(subscription, nodes, missing)
    finally:
        await _disconnect(client)


def _ua() -> Any:
    # asyncua re-exports most of these names without saying so to type checkers.
    from asyncua import ua

    return ua


def _node_id(tag: Tag) -> Any:
    ua = _ua()
    try:
        return ua.NodeId.from_string(tag.node)
    except (ua.uaerrors.UaError, ValueError) as error:
        raise Misconfigured(
            f"the tag map's node {tag.node!r} is no OPC UA node id ({error}); write it like ns=2;s=NAME"
        ) from None


def _request(client: Client, node: Any, handle: int) -> Any:
    ua = _ua()
    # Not the default trigger: two equal values in a row are two readings.
    trigger = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
    parameters = ua.MonitoringParameters(
        ClientHandle=handle, SamplingInterval=0.0, QueueSize=TAG_QUEUE, DiscardOldest=True, Filter=trigger
    )
    item = ua.ReadValueId(NodeId=client.get_node(node).nodeid, AttributeId=ua.AttributeIds.Value)
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=item, MonitoringMode=ua.MonitoringMode.Reporting, RequestedParameters=parameters
    )


def _tag_value(tag: Tag, given: Any) -> TagValue | None:
    """Return what the server says of a tag; None while it waits for its first value."""
    ua = _ua()
    status = given.StatusCode or ua.StatusCode(ua.StatusCodes.Good)
    if status.value == ua.StatusCodes.BadWaitingForInitialData:
        return None
    held = None if given.Value is None else given.Value.Value
    number = isinstance(held, int | float) and not isinstance(held, bool)
    good = bool(status.is_good()) and number
    name = status.name if number or not status.is_good() else f"{status.name}, but {type(held).__name__} is no number"
    return TagValue(
        tag,
        float(held) if good and held is not None else None,
        name,
        good,
        _aware(given.SourceTimestamp),
        _aware(given.ServerTimestamp),
    )


def _aware(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


async def _disconnect(client: Client) -> None:
    ua = _ua()
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            await client.disconnect()
    except (OSError, TimeoutError, ua.uaerrors.UaError) as error:
        log.debug("scada_disconnect_failed", reason=str(error))
