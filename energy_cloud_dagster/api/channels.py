"""The channels of the live streams: their names, what a name may be, and who may listen.

    consumption.real-time      consumption of the whole platform       energy:read
    consumption.{region}       consumption of one region               energy:read
    generation.{type}          generation by solar, wind, hydro, chp   energy:read
    vpp.{id}.status            a virtual power plant as it stands      vpp:read
    trading.market.{market}    the last price of a market              trading:read
    meter.{id}.command         transitions of a device's commands      devices:read; traders and viewers: their own

``*`` as the last part stands for all that may follow: ``generation.*``, ``vpp.*``, ``vpp.VPP-001.*``, ``meter.*``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from energy_cloud_dagster.adapters import streams, vpps
from energy_cloud_dagster.adapters.energy import SOURCE_OF_ROLE
from energy_cloud_dagster.api.security import Principal

REAL_TIME: Final = "consumption.real-time"
SOURCES: Final = tuple(dict.fromkeys(SOURCE_OF_ROLE.values()))
#: Longer names are not looked at.
LONGEST_NAME: Final = 256
_SCOPES: Final = {
    "consumption": "energy:read",
    "generation": "energy:read",
    "vpp": "vpp:read",
    "trading": "trading:read",
    "meter": "devices:read",
}
#: One channel each, which needs no look-up.
_WHOLE: Final = frozenset({("consumption", "real-time"), ("trading", "market.*")})
_KNOWN: Final = (
    "consumption.real-time, consumption.{region}, generation.{type}, vpp.{id}.status, trading.market.{market}, "
    "meter.{id}.command, and * as the last part"
)


class Refusal(Exception):
    """A channel that this caller cannot have; ``code`` is for programs."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def consumption(region_id: str) -> str:
    """Return the channel of a region's consumption."""
    return f"consumption.{region_id}"


def generation(source: str) -> str:
    """Return the channel of one kind of generation."""
    return f"generation.{source}"


def vpp_status(vpp_id: str) -> str:
    """Return the channel of a VPP."""
    return f"vpp.{vpp_id}.status"


def market(market_id: str) -> str:
    """Return the channel of a market."""
    return f"trading.market.{market_id}"


def command(device_id: str) -> str:
    """Return the channel of a device's commands."""
    return f"meter.{device_id}.command"


def patterns(channel: str) -> Iterator[str]:
    """Yield every subscription that ``channel`` answers: itself, and with ``*`` for all that follows a dot."""
    yield channel
    dot = channel.find(".")
    while dot >= 0:
        yield channel[: dot + 1] + "*"
        dot = channel.find(".", dot + 1)


def may_see(caller: Principal, participant_id: str | None) -> bool:
    """Return whether a caller may see what belongs to a participant (None: to nobody)."""
    return caller.sees_all or (participant_id is not None and participant_id == caller.participant_id)


def check(connection: sa.Connection, name: str, caller: Principal) -> None:
    """Raise ``Refusal`` unless ``name`` is a channel (or all of some) that ``caller`` may listen to.

    To who may not see all devices, another's device is as unknown as one that does not exist.
    """
    family, _, rest = name.partition(".")
    scope = _SCOPES.get(family)
    if scope is None or not rest or len(name) > LONGEST_NAME or "*" in name[:-1]:
        raise Refusal("unknown_channel", f"there is no such channel; channels are {_KNOWN}")
    if scope not in caller.scopes:
        raise Refusal("forbidden", f"the role {caller.role} may not listen to {family} channels; that needs {scope}")
    kind, key = _part(family, rest)
    if key == "*":
        return
    if kind == "meter":
        exists, owner = streams.owner_of(connection, key)
        if not may_see(caller, owner):
            raise Refusal("forbidden", "this is no device of yours")
        known = [key] if exists else []
    else:
        known = _keys(connection, kind, caller)
    if key not in known:
        shown = f"; there are {', '.join(known[:20])}" if known else ""
        raise Refusal("unknown_channel", f"there is no {kind} of that name{shown}")


def _part(family: str, rest: str) -> tuple[str, str]:
    """Return what the channel is about and its id; ``*`` as the id for all of them."""
    if rest == "*" or (family, rest) in _WHOLE:
        return family, "*"
    if family == "consumption":
        return "region", rest
    if family == "generation":
        return "source", rest
    if family == "trading" and rest.startswith("market."):
        return "market", rest.removeprefix("market.")
    ending = {"vpp": "status", "meter": "command"}.get(family, "")
    key, _, last = rest.rpartition(".")
    if key and ending and last in {ending, "*"}:
        return family, key
    raise Refusal("unknown_channel", f"there is no such channel; channels are {_KNOWN}")


def _keys(connection: sa.Connection, kind: str, caller: Principal) -> list[str]:
    """Return the ids of what there is of a kind for a caller."""
    match kind:
        case "region":
            return streams.region_ids(connection)
        case "vpp":
            return vpps.ids(connection, participant_id=caller.participant_id, everyone=caller.sees_all)
        case "market":
            return streams.market_ids(connection)
    return list(SOURCES)
