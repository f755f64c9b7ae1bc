"""What the channels say. Each feed keeps what it needs in memory and looks at the database only for what is new.

Consumption and generation are the latest intervals of all meters (``domain.readings.live``), as they arrived: the
validation of an hour, its quarantine included, comes after the hour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final, NamedTuple, override

import sqlalchemy as sa

from energy_cloud_dagster.adapters import energy, streams, vpp_document, vpps
from energy_cloud_dagster.adapters.energy_document import CUSTOMER_CLASSES
from energy_cloud_dagster.adapters.vpp_document import VppState
from energy_cloud_dagster.api import channels
from energy_cloud_dagster.api.values import finite
from energy_cloud_dagster.domain.intervals import HOUR, rfc3339
from energy_cloud_dagster.domain.readings.live import Group, LiveReading, LiveTotals, Total, united
from energy_cloud_dagster.domain.units import WH_PER_KWH, decimal_string

_DECIMALS: Final = 6


class Update(NamedTuple):
    """What a channel says now; ``participant_id`` owns what it is about, where only some may see it."""

    channel: str
    timestamp: datetime
    payload: dict[str, Any]
    participant_id: str | None = None
    everybody: bool = True
    #: Whether a later update replaces it; an event is said even if another follows.
    state: bool = True


@dataclass(frozen=True, slots=True)
class News:
    """What happened since the last look. ``clock`` is seconds of a clock that only rises, ``now`` the time of day."""

    clock: float
    now: datetime
    #: Whether anybody listens to a channel.
    wanted: Callable[[str], bool]
    readings: Sequence[LiveReading] = ()
    #: (commandId, state) in the order of what happened.
    commands: Sequence[tuple[str, str]] = ()
    #: Whether news may have been lost, so that what is kept in memory is worth nothing.
    lost: bool = False
    #: Whether somebody came who has heard nothing yet.
    newcomers: bool = False


class Feed(ABC):
    """The channels of some families. A feed is asked by one thread at a time."""

    #: What the names of its channels start with.
    families: ClassVar[tuple[str, ...]]
    #: Whether it needs the readings of the news.
    reads: ClassVar[bool] = False

    @abstractmethod
    def forget(self) -> None:
        """Keep nothing: nobody listens, and news passes by."""

    @abstractmethod
    def update(self, connection: sa.Connection, news: News) -> Iterable[Update]:
        """Return what its channels say now, where that may have changed; all of it where there are newcomers."""


class FlowFeed(Feed):
    """``consumption.*`` and ``generation.*``."""

    families = ("consumption.", "generation.")
    reads = True
    #: All is read anew this often: regions and classes of meters change without a word.
    _RELOAD_SECONDS: Final = 1_800.0
    _SETTLE_SECONDS: Final = 60.0
    #: How often the registry is asked about series that were unknown.
    _ASK_SECONDS: Final = 1.0

    def __init__(self) -> None:
        self._totals: LiveTotals | None = None
        self._loaded = self._settled = self._asked = 0.0
        #: Series that are no meters, and those of which nobody knows yet.
        self._others: set[int] = set()
        self._unknown: set[int] = set()

    @property
    def horizon(self) -> datetime | None:
        """The start before which no reading matters to it."""
        return None if self._totals is None else self._totals.horizon

    @override
    def forget(self) -> None:
        self._totals = None

    @override
    def update(self, connection: sa.Connection, news: News) -> Iterable[Update]:
        totals = self._totals
        if totals is None or news.lost or news.clock - self._loaded >= self._RELOAD_SECONDS:
            totals = self._load(connection, news.clock)
            touched = set(totals.totals)
        else:
            touched = totals.apply(news.readings) | self._ask(connection, totals, news)
            if news.clock - self._settled >= self._SETTLE_SECONDS:
                touched |= totals.settle()
                self._settled = news.clock
        return _flow_updates(totals.totals, set(totals.totals) if news.newcomers else touched)

    def _load(self, connection: sa.Connection, clock: float) -> LiveTotals:
        """Start over from the registry and the latest reading of every meter."""
        totals = LiveTotals()
        newest = streams.newest_ts(connection)
        if newest is not None:
            totals.tell(newest)
        self._add(connection, totals)
        self._totals, self._others, self._unknown = totals, set(), set()
        self._loaded = self._settled = self._asked = clock
        return totals

    def _ask(self, connection: sa.Connection, totals: LiveTotals, news: News) -> set[Group]:
        """Look, now and then, whether series that nobody knew are new meters; return what they changed."""
        self._unknown |= {one.series_id for one in news.readings if one.series_id not in totals} - self._others
        if not self._unknown or news.clock - self._asked < self._ASK_SECONDS:
            return set()
        self._asked = news.clock
        touched = self._add(connection, totals)
        self._others |= {series_id for series_id in self._unknown if series_id not in totals}
        self._unknown = set()
        return touched

    @staticmethod
    def _add(connection: sa.Connection, totals: LiveTotals) -> set[Group]:
        meters = [meter for meter in streams.meters(connection) if meter.series_id not in totals]
        totals.add(meters)
        if not meters or totals.horizon is None:
            return set()
        return totals.apply(streams.latest(connection, [meter.series_id for meter in meters], totals.horizon))


def _flow_updates(totals: dict[Group, Total], touched: set[Group]) -> list[Update]:
    found: list[Update] = []
    regions = {group.region_id for group in touched if group.flow == "consumption"}
    for region_id in sorted(regions):
        parts = {group.part: one for group, one in totals.items() if group[:2] == ("consumption", region_id)}
        _say(found, channels.consumption(region_id), parts.values(), _consumption(parts) | {"region": region_id})
    if regions:
        by_class = {
            part: united(one for group, one in totals.items() if (group.flow, group.part) == ("consumption", part))
            for part in CUSTOMER_CLASSES
        }
        split = _by_region(totals, "consumption", None)
        _say(found, channels.REAL_TIME, by_class.values(), _consumption(by_class) | {"regions": split})
    for source in sorted({group.part for group in touched if group.flow == "generation"}):
        listed = [one for group, one in totals.items() if (group.flow, group.part) == ("generation", source)]
        payload = {"type": source, **_sum(listed), "regions": _by_region(totals, "generation", source)}
        _say(found, channels.generation(source), listed, payload)
    return found


def _say(found: list[Update], channel: str, totals: Iterable[Total], payload: dict[str, Any]) -> None:
    """Add an update, unless nobody has measured anything yet."""
    newest = united(totals).newest
    if newest is not None:
        found.append(Update(channel, newest, payload))


def _consumption(parts: dict[str, Total]) -> dict[str, Any]:
    breakdown = {name: _rounded(parts[name].kwh) if name in parts else 0.0 for name in CUSTOMER_CLASSES}
    return _sum(parts.values()) | {"breakdown": breakdown}


def _sum(totals: Iterable[Total]) -> dict[str, Any]:
    total = united(totals)
    return {"total": _rounded(total.kwh), "unit": "kWh", "power": _rounded(total.kw), "meters": total.meters}


def _by_region(totals: dict[Group, Total], flow: str, part: str | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for group, one in totals.items():
        if group.flow == flow and part in {None, group.part}:
            found[group.region_id] = found.get(group.region_id, 0.0) + one.kwh
    return {region_id: _rounded(kwh) for region_id, kwh in sorted(found.items())}


class VppFeed(Feed):
    """``vpp.{id}.status``: what the resources' devices last measured, and what they are asked for."""

    families = ("vpp.",)
    reads = True
    #: Without news too, time makes a state old.
    _AGE_SECONDS: Final = 30.0

    def __init__(self, *, replay: bool) -> None:
        self._replay = replay
        self._vpp_of: dict[int, str] | None = None
        self._looked = 0.0

    @override
    def forget(self) -> None:
        self._vpp_of = None

    @override
    def update(self, connection: sa.Connection, news: News) -> Iterable[Update]:
        if self._vpp_of is None or news.lost or news.newcomers or news.clock - self._looked >= self._AGE_SECONDS:
            self._vpp_of = streams.devices_of_vpps(connection)
            self._looked = news.clock
            touched = set(vpps.ids(connection))
        else:
            touched = {self._vpp_of[one.series_id] for one in news.readings if one.series_id in self._vpp_of}
            if news.commands:
                touched = set(vpps.ids(connection))
        ids = sorted(vpp_id for vpp_id in touched if news.wanted(channels.vpp_status(vpp_id)))
        if not ids:
            return []
        # In a replay the newest reading says what time it is.
        now = (energy.last_known(connection, None) if self._replay else None) or news.now
        found = [one for one in (vpps.by_id(connection, vpp_id) for vpp_id in ids) if one is not None]
        asked = streams.asked_of_resources(connection, ids, now)
        private = vpps.private(connection, ids)
        return [
            _vpp_update(state, asked.get(state.vpp.vpp_id), now, everybody=state.vpp.vpp_id not in private)
            for state in vpp_document.describe(connection, found, now, None)
        ]


def _vpp_update(state: VppState, asked_kw: float | None, now: datetime, *, everybody: bool) -> Update:
    stored = [
        (one.soc, float(one.resource.parameters.get("energyCapacity", one.resource.capacity_kw)))
        for one in state.resources
        if one.resource.type == "storage" and one.soc is not None
    ]
    capacity = sum(size for _, size in stored)
    payload = {
        "vppId": state.vpp.vpp_id,
        "currentOutput": _rounded(finite(state.output_kw)),
        "setpoint": None if asked_kw is None else _rounded(asked_kw),
        "soc": _rounded(sum(soc * size for soc, size in stored) / capacity) if capacity else None,
        "status": state.status,
        "lastUpdate": None if state.last_update is None else rfc3339(state.last_update),
    }
    channel, owner = channels.vpp_status(state.vpp.vpp_id), state.vpp.participant_id
    return Update(channel, state.last_update or now, payload, owner, everybody)


class MarketFeed(Feed):
    """``trading.market.{market}``: nobody tells of a clearing, so the newest ones are looked at now and then."""

    families = ("trading.",)
    _POLL_SECONDS: Final = 2.0

    def __init__(self) -> None:
        self._polled: float | None = None

    @override
    def forget(self) -> None:
        self._polled = None

    @override
    def update(self, connection: sa.Connection, news: News) -> Iterable[Update]:
        due = self._polled is None or news.clock - self._polled >= self._POLL_SECONDS
        if not (due or news.lost or news.newcomers):
            return []
        self._polled = news.clock
        return [
            Update(
                channels.market(one.market_id),
                one.gate_closure,
                {
                    "market": one.market_id,
                    "currency": one.currency,
                    "lastPrice": decimal_string(one.price_micro),
                    "volume": one.volume_wh / WH_PER_KWH,
                    "deliveryStart": rfc3339(one.delivery_start),
                    "deliveryEnd": rfc3339(one.delivery_start + HOUR),
                },
            )
            for one in streams.last_clearings(connection)
        ]


class CommandFeed(Feed):
    """``meter.{id}.command``: the transitions of a device's commands, several of one moment together."""

    families = ("meter.",)

    @override
    def forget(self) -> None:
        return

    @override
    def update(self, connection: sa.Connection, news: News) -> Iterable[Update]:
        if not news.commands:
            return []
        known = streams.command_states(connection, {command_id for command_id, _ in news.commands})
        found: dict[str, Update] = {}
        for command_id, state in news.commands:
            one = known.get(command_id)
            if one is None:
                continue
            document = {
                "commandId": command_id,
                "kind": one.kind,
                "state": state,
                "reason": one.reason if one.state == state else None,
                "command": one.payload,
            }
            before = found.get(one.device_id)
            earlier = [] if before is None else before.payload["transitions"]
            said = [*earlier, {"commandId": command_id, "state": state}]
            payload = {"deviceId": one.device_id, **document, "transitions": said}
            found[one.device_id] = Update(
                channels.command(one.device_id),
                one.updated_at,
                payload,
                participant_id=one.participant_id,
                everybody=False,
                state=False,
            )
        return list(found.values())


def _rounded(value: float) -> float:
    return round(value, _DECIMALS) + 0.0
