"""One simulated device under command: its past as far as readings need it, and what it says about any span of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from energy_cloud_dagster.domain.intervals import rfc3339, utc
from energy_cloud_dagster.sample_data import community as plain
from energy_cloud_dagster.services import simulator
from energy_cloud_dagster.services.device_physics import (
    Battery,
    Piece,
    mean_limited,
    on_schedule,
    pieces,
    scheduled_soc,
)
from energy_cloud_dagster.services.orders import Limits
from energy_cloud_dagster.services.simulator import MAX_LATENCY, Message

#: Commands whose answers are remembered, so that one that comes again is not carried out twice.
_REMEMBERED: Final = 500
_DECIMALS: Final = 6
_UNITS: Final = {"soc": "1", "power": "kW"}


class Change(NamedTuple):
    """From ``at`` on the device holds ``setpoint_kw`` (None: released); ``soc`` is a battery's at that moment."""

    at: datetime
    setpoint_kw: float | None
    soc: float | None = None


class VirtualDevice(ABC):
    """What batteries and generators share: orders, configuration, and the changes that they brought."""

    #: Whether a released device does as if nobody had ever commanded it.
    has_schedule = True

    def __init__(self, device: plain.Device, limits: Limits) -> None:
        self.device = device
        self.limits = limits
        #: Ascending; empty for a device that does what it always did.
        self.changes: list[Change] = []
        #: The release to come, when the last setpoint's time runs out.
        self.lapse: Change | None = None
        #: Command -> None where it was obeyed, else why not; oldest first.
        self.answered: dict[str, str | None] = {}
        self.version = 0
        self.report_seconds = 0.0

    def obey(self, setpoint_kw: float | None, now: datetime, until: datetime | None = None) -> None:
        """Hold a setpoint from ``now`` until ``until`` (None: for good), or do as by itself (None)."""
        if setpoint_kw is None and not self.is_commanded(now):
            return
        # A clock that was set back must not reorder what happened.
        now = max(now, self.changes[-1].at) if self.changes else now
        self._settle(now)
        self.changes.append(Change(now, setpoint_kw, self._soc(now)))
        self.lapse = None
        if setpoint_kw is not None and until is not None:
            self.lapse = Change(until, None, self._soc(until))

    def standing(self, now: datetime) -> Change | None:
        """Return the change that the device stands under at ``now``, None for one that nobody commanded."""
        if self.lapse is not None and self.lapse.at <= now:
            return self.lapse
        return self.changes[-1] if self.changes else None

    def answer(self, command_id: str, reason: str | None) -> None:
        """Remember what was answered to a command: None where it was obeyed, else why it was not."""
        self.answered[command_id] = reason
        while len(self.answered) > _REMEMBERED:
            del self.answered[next(iter(self.answered))]

    def configure(self, version: int, settings: Mapping[str, float]) -> None:
        """Apply a newer configuration."""
        self.version = version
        self.report_seconds = settings.get("reportSeconds", self.report_seconds)

    def altered(self, message: Message) -> Message:
        """Return the message with what the device really did in its interval."""
        end = message.ts + timedelta(minutes=self.device.interval_minutes)
        if message.value is None or not self.changes or self.changes[0].at >= end:
            return message
        value = round(self._value(message, message.ts, end), _DECIMALS)
        return message._replace(value=value)

    def message(self, metric: str, moment: datetime, value: float) -> Message:
        """Return a report of the device's state at ``moment``."""
        device = self.device
        return Message(
            moment,
            device.device_id,
            metric,
            moment,
            round(value, _DECIMALS),
            _UNITS[metric],
            "high",
            device.region_id,
            device.device_type,
        )

    def forget(self, delivered: datetime) -> bool:
        """Forget changes that no reading after ``delivered`` needs; return whether there were any."""
        horizon = delivered - timedelta(minutes=self.device.interval_minutes) - MAX_LATENCY
        self._settle(horizon)
        passed = sum(change.at <= horizon for change in self.changes)
        if passed == len(self.changes) > 0 and self.has_schedule and not self.is_commanded(horizon):
            self.changes.clear()
            return True
        del self.changes[: max(passed - 1, 0)]
        return passed > 1

    def kept(self) -> dict[str, Any]:
        """Return what a restart needs as JSON; empty for a device that nobody asked anything of."""
        if not (self.changes or self.answered or self.version):
            return {}
        return {
            "changes": [[rfc3339(change.at), change.setpoint_kw, change.soc] for change in self.changes],
            "lapse": None if self.lapse is None else [rfc3339(self.lapse.at), None, self.lapse.soc],
            "answered": self.answered,
            "version": self.version,
            "reportSeconds": self.report_seconds,
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Take over what ``kept`` returned; anything else is a ``ValueError``, ``KeyError`` or ``TypeError``."""
        self.changes = [_change(*each) for each in kept["changes"]]
        self.lapse = _change(*kept["lapse"]) if kept.get("lapse") else None
        self.answered = {str(name): reason for name, reason in kept["answered"].items()}
        self.version, self.report_seconds = int(kept["version"]), float(kept["reportSeconds"])

    def is_commanded(self, now: datetime) -> bool:
        """Return whether the device may still do, at ``now``, something else than it would by itself."""
        standing = self.standing(now)
        return standing is not None and standing.setpoint_kw is not None

    @abstractmethod
    def state(self, now: datetime) -> dict[str, float]:
        """Return what the device reports of the moment ``now``, by metric."""

    @abstractmethod
    def _value(self, message: Message, begin: datetime, end: datetime) -> float:
        """Return what the device says of ``[begin, end)`` in place of the message's value."""

    def _soc(self, _now: datetime) -> float | None:
        return None

    def _settle(self, now: datetime) -> None:
        """Make the release that came by ``now`` a change like any other."""
        if self.lapse is not None and self.lapse.at <= now:
            self.changes.append(self.lapse)
            self.lapse = None

    def _parts(self, begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, Change | None]]:
        """Yield the parts of ``[begin, end)`` with the change that each stands under (None: before the first)."""
        changes = self.changes if self.lapse is None else [*self.changes, self.lapse]
        for change, following in zip([None, *changes], [*changes, None], strict=True):
            first = begin if change is None else max(begin, change.at)
            last = end if following is None else min(end, following.at)
            if first < last:
                yield first, last, change


class BatteryDevice(VirtualDevice):
    """A battery: it holds a setpoint until it is empty or full; released, it goes at full power to its schedule."""

    #: What it holds when nobody commands it; None: it follows its schedule.
    _rest_kw: float | None = None

    def __init__(self, device: plain.Device, resource: plain.Resource) -> None:
        super().__init__(device, Limits(-resource.capacity_kw, resource.capacity_kw))
        given = resource.parameters
        self._battery = Battery(
            resource.capacity_kw,
            given["energyCapacity"],
            given.get("efficiency", 0.9),
            given.get("minSoc", 0.0),
            given.get("maxSoc", 1.0),
        )

    def is_commanded(self, now: datetime) -> bool:
        """Return whether it is under a setpoint, or still on its way back to its schedule."""
        if super().is_commanded(now):
            return True
        return bool(self.changes) and not on_schedule(self._soc(now), now.timestamp())

    def state(self, now: datetime) -> dict[str, float]:
        """Return ``power`` (kW, discharge positive) and ``soc`` (0 to 1)."""
        ahead = next(self._pieces(now, now + timedelta(seconds=1)))
        return {"power": ahead.kw, "soc": ahead.soc_begin}

    def _value(self, message: Message, begin: datetime, end: datetime) -> float:
        if message.metric == "soc":
            return self._soc(begin)
        done = list(self._pieces(begin, end))
        return sum(piece.kw * (piece.end - piece.begin) for piece in done) / sum(
            piece.end - piece.begin for piece in done
        )

    def _own_soc(self, moment: datetime) -> float:
        return scheduled_soc(moment.timestamp())

    def _soc(self, now: datetime) -> float:
        return next(self._pieces(now, now + timedelta(seconds=1))).soc_begin

    def _pieces(self, begin: datetime, end: datetime) -> Iterator[Piece]:
        for first, last, change in self._parts(begin, end):
            setpoint = self._rest_kw if change is None or change.setpoint_kw is None else change.setpoint_kw
            since = first if change is None else change.at
            soc = self._own_soc(since) if change is None or change.soc is None else change.soc
            # What a change began is followed from its own moment on: a span gives the same whole or in parts.
            for piece in pieces(self._battery, soc, since.timestamp(), last.timestamp(), setpoint):
                if piece.end > first.timestamp():
                    yield _from(piece, first.timestamp())


class GeneratorDevice(VirtualDevice):
    """A panel, turbine or inverter: a setpoint limits what it gives."""

    def __init__(self, device: plain.Device, rated_kw: float | None) -> None:
        super().__init__(device, Limits(0.0, rated_kw))

    def state(self, now: datetime) -> dict[str, float]:
        """Return ``power`` in kW; nothing where the interval was not measured."""
        available = self._available_kw(now)
        if available is None:
            return {}
        standing = self.standing(now)
        limit = None if standing is None else standing.setpoint_kw
        return {"power": available if limit is None else min(available, limit)}

    def _value(self, message: Message, begin: datetime, end: datetime) -> float:
        value = message.value or 0.0
        series = next(each for each in self.device.series if each.metric == message.metric)
        if series.kind == "state":
            return value
        to_kw = _kw(series, self.device)
        parts = self._parts(begin, end)
        limits = (
            ((last - first).total_seconds(), None if change is None else change.setpoint_kw)
            for first, last, change in parts
        )
        limited = mean_limited(value * to_kw, limits)
        return value if limited == value * to_kw else limited / to_kw

    def _available_kw(self, now: datetime) -> float | None:
        """Return what the present interval's sample gives; the fleet knows it before the interval has ended."""
        step = self.device.interval_minutes * 60
        begin = datetime.fromtimestamp(now.timestamp() // step * step, UTC)
        alone = plain.Community((), (), (), (self.device,), ())
        for message in simulator.messages(alone, begin, begin + timedelta(seconds=step)):
            series = next(each for each in self.device.series if each.metric == message.metric)
            if series.kind != "state" and message.value is not None:
                return message.value * _kw(series, self.device)
        return None


def _change(at: str, kw: float | None, soc: float | None) -> Change:
    moment = utc(datetime.fromisoformat(at))
    return Change(moment, None if kw is None else float(kw), None if soc is None else float(soc))


def _kw(series: plain.Series, device: plain.Device) -> float:
    """Return what turns a value of the series into kW."""
    return 60 / device.interval_minutes if series.kind == "energy" else 1.0


def _from(piece: Piece, begin: float) -> Piece:
    """Return the part of a piece from ``begin`` on."""
    if begin <= piece.begin:
        return piece
    share = (begin - piece.begin) / (piece.end - piece.begin)
    return piece._replace(begin=begin, soc_begin=piece.soc_begin + share * (piece.soc_end - piece.soc_begin))
