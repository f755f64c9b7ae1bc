"""Faults on demand: what goes wrong between a sensor and the platform, as functions of a stream of messages.

Whether a fault strikes is drawn by (seed, device, metric, interval) alone: it depends neither on how many devices there
are nor on where the stream begins. Each share is the share of readings that the fault strikes, but that of ``reset``,
which is of a register's days.

=========== ========================================================================================================
drop        silent for a span of four hours; what was measured is kept and sent when the span is over
lose        the same, but what was measured in the span is lost
duplicate   sent again, up to a minute later
reorder     held back for up to two minutes, so that others overtake it
stuck       the sensor repeats, for a span of four hours, what it said at its beginning
spike       one reading is 20 to 100 times what was measured
reset       a cumulative register falls to zero at some moment of a day and counts on from there, until midnight UTC
skew        seconds, not a share: each device's clock is off by a constant between minus and plus as many
=========== ========================================================================================================
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import utc
from energy_cloud_dagster.services.dice import roll, stream
from energy_cloud_dagster.services.simulator import Message

#: How long a device is silent, or a sensor stuck.
SPAN: Final = timedelta(hours=4)
#: How long a message may be held back for others to overtake it.
REORDER_WINDOW: Final = timedelta(seconds=120)
#: How much later a message is sent again at most.
DUPLICATE_WINDOW: Final = timedelta(seconds=60)
#: The metric of a cumulative meter register.
REGISTER: Final = "register"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_SPAN_SECONDS: Final = int(SPAN.total_seconds())
_DAY_SECONDS: Final = 86_400
_LONGEST_INTERVAL: Final = timedelta(hours=1)
_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each fault strikes; shares from 0 to 1, ``skew`` in seconds. The default is a faultless world."""

    drop: float = 0.0
    lose: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    stuck: float = 0.0
    spike: float = 0.0
    reset: float = 0.0
    skew: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "skew" and not 0 <= value <= _DAY_SECONDS:
                raise InvalidInput(f"skew={value:g} is not between 0 and {_DAY_SECONDS} seconds")
            if field.name != "skew" and not 0 <= value <= 1:
                raise InvalidInput(f"{field.name}={value:g} is no share: write a number from 0 to 1")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``drop=0.01,skew=5``; an unknown name or a wrong number is ``InvalidInput``."""
        known = [field.name for field in fields(cls)]
        given: dict[str, float] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, number = (piece.strip() for piece in part.partition("="))
            if not equals or name not in known:
                raise InvalidInput(f"fault {part!r} is not one of {', '.join(f'{each}=…' for each in known)}")
            try:
                given[name] = float(number)
            except ValueError:
                raise InvalidInput(f"fault {part!r} has no number after the equals sign") from None
        return cls(**given)

    @property
    def any(self) -> bool:
        """Return whether any fault may strike."""
        return self != type(self)()

    @property
    def lead(self) -> timedelta:
        """How much earlier than ``since`` the messages of ``faulty`` must begin, for sensors to be what they were."""
        if self.reset:
            return _DAY + _LONGEST_INTERVAL
        return SPAN + _LONGEST_INTERVAL if self.stuck else timedelta(0)


def faulty(
    messages: Iterable[Message], faults: Faults, seed: int, *, since: datetime | None = None
) -> Iterator[Message]:
    """Yield what becomes of ``messages``, which come by their receipt, again ordered by receipt.

    The receipt of what is held back is when it is sent. Messages whose interval starts before ``since`` only tell what
    the sensors did before: nothing of them is yielded; let them begin ``faults.lead`` earlier. The memory needed is
    that of what is held back at once.
    """
    if not faults.any:
        yield from messages if since is None else (each for each in messages if each.ts >= since)
        return
    first = None if since is None else utc(since)
    sensors, way = Sensors(faults, seed), _Delivery(faults, seed)
    held: list[Message] = []
    for message in messages:
        while held and held[0].received_at < message.received_at:
            yield heapq.heappop(held)
        said = sensors.said(message)
        if first is None or message.ts >= first:
            for copy in way.copies(message, said):
                heapq.heappush(held, copy)
    while held:
        yield heapq.heappop(held)


class Sensors:
    """What the sensors say instead of what they should: stuck and spiking ones, and registers that were reset.

    It remembers one value of each series.
    """

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults = faults
        self._seed = seed
        self._stuck: dict[tuple[str, str], tuple[int, float]] = {}
        self._zero: dict[tuple[str, str], tuple[int, float]] = {}

    def said(self, message: Message) -> Message:
        """Return the message with the value that the sensor gives; an empty reading stays empty."""
        if message.value is None:
            return message
        second, value = _second(message.ts), message.value
        if message.metric == REGISTER:
            value = self._since_reset(message, second, value)
        elif self._faults.spike and self._draw(message, "spike", second) < self._faults.spike:
            value = round((value or 1.0) * (20 + 80 * self._draw(message, "spike-size", second)), _DECIMALS)
        if self._faults.stuck:
            value = self._as_stuck(message, second, value)
        return message if value == message.value else message._replace(value=value)

    def _as_stuck(self, message: Message, second: int, value: float) -> float:
        span = _span(self._seed, message.device_id, second)
        if self._draw(message, "stuck", span) >= self._faults.stuck:
            return value
        key = message.device_id, message.metric
        known, first = self._stuck.get(key, (None, value))
        if known == span:
            return first
        self._stuck[key] = span, value
        return value

    def _since_reset(self, message: Message, second: int, value: float) -> float:
        day, within = divmod(second, _DAY_SECONDS)
        struck = self._faults.reset and self._draw(message, "reset", day) < self._faults.reset
        if not struck or within < int(self._draw(message, "reset-time", day) * _DAY_SECONDS):
            return value
        key = message.device_id, message.metric
        known, zero = self._zero.get(key, (None, value))
        if known != day:
            self._zero[key] = day, value
            return 0.0
        return round(value - zero, _DECIMALS)

    def _draw(self, message: Message, what: str, moment: int) -> float:
        return roll(stream(self._seed, message.device_id, message.metric, what), moment)


class _Delivery:
    """When, and how often, a message is sent, and what the device's clock says of its time."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults = faults
        self._seed = seed

    def copies(self, message: Message, said: Message) -> Iterator[Message]:
        """Yield what is sent of ``said``: nothing, one or two messages, never before its receipt."""
        faults, second = self._faults, _second(message.ts)
        sent_at, draw = message.received_at, self._drawer(message)
        if faults.drop or faults.lose:
            span = _span(self._seed, message.device_id, second)
            of_device = stream(self._seed, message.device_id, "silent")
            struck = roll(of_device, span)
            if struck < faults.lose:
                return
            if struck < faults.lose + faults.drop:
                back = _span_end(self._seed, message.device_id, span) + timedelta(seconds=1 + int(20 * draw("back")))
                sent_at = max(sent_at, back)
        if faults.reorder and draw("reorder") < faults.reorder:
            sent_at += _whole_seconds(REORDER_WINDOW, draw("reorder-by"))
        if faults.skew:
            offset = roll(stream(self._seed, message.device_id, "skew"), 0) * 2 - 1
            said = said._replace(ts=said.ts + timedelta(seconds=round(offset * faults.skew)))
        yield said if sent_at == said.received_at else said._replace(received_at=sent_at)
        if faults.duplicate and draw("duplicate") < faults.duplicate:
            yield said._replace(received_at=sent_at + _whole_seconds(DUPLICATE_WINDOW, draw("duplicate-by")))

    def _drawer(self, message: Message) -> Callable[[str], float]:
        second = _second(message.ts)
        return lambda what: roll(stream(self._seed, message.device_id, message.metric, what), second)


def _second(moment: datetime) -> int:
    return int(moment.timestamp())


def _phase(seed: int, device_id: str) -> int:
    """Return by how many seconds the spans of a device are shifted, so that not all fall silent together."""
    return int(roll(stream(seed, device_id, "phase"), 0) * _SPAN_SECONDS)


def _span(seed: int, device_id: str, second: int) -> int:
    return (second - _phase(seed, device_id)) // _SPAN_SECONDS


def _span_end(seed: int, device_id: str, span: int) -> datetime:
    return _EPOCH + timedelta(seconds=(span + 1) * _SPAN_SECONDS + _phase(seed, device_id))


def _whole_seconds(longest: timedelta, share: float) -> timedelta:
    """Return a whole number of seconds from 1 to ``longest``."""
    return timedelta(seconds=1 + int(share * longest.total_seconds()))
