"""How a simulated device reads what the cloud asks of it, with the reason of every refusal.

Who sends is not believed: every field is checked here, whatever the platform checked before it published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from energy_cloud_dagster.domain import commands
from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import rfc3339, utc

#: Setting -> its least and largest value. ``reportSeconds`` 0 means: report while under command only.
KNOWN_SETTINGS: Final[Mapping[str, tuple[float, float]]] = {"reportSeconds": (0.0, 3_600.0)}

_LARGEST_BYTES: Final = 65_536
_LONGEST_ID: Final = 64
_LARGEST_VERSION: Final = 2**31
#: A limit that was computed is not refused for its last bits.
_TOLERANCE_KW: Final = 1e-6
#: Epoch numbers from here on are milliseconds.
_FIRST_MILLISECONDS: Final = 1e11


class Limits(NamedTuple):
    """The setpoints in kW that a device takes; ``most`` None where its rated power is not known."""

    least: float
    most: float | None


def document_of(payload: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a payload, None for anything else: it names nothing that could be answered."""
    if len(payload) > _LARGEST_BYTES:
        return None
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def command_id_of(document: Mapping[str, Any]) -> str | None:
    """Return the id that answers name, None where there is none."""
    found = document.get("commandId")
    return found if isinstance(found, str) and 0 < len(found) <= _LONGEST_ID and found.isprintable() else None


def version_of(document: Mapping[str, Any]) -> int | None:
    """Return the version that answers to a configuration name, None where there is none."""
    found = document.get("version")
    if not isinstance(found, int) or isinstance(found, bool):
        return None
    return found if 1 <= found < _LARGEST_VERSION else None


def judged(document: Mapping[str, Any], limits: Limits, now: datetime) -> float | None:
    """Return the setpoint in kW that a command asks for, None for a release; ``InvalidInput`` says why not."""
    until = valid_until(document)
    if until is not None and until <= now:
        raise InvalidInput(f"expired: it was valid until {rfc3339(until)}, and it is {rfc3339(now)}")
    kind, value, unit = (document.get(name) for name in ("type", "value", "unit"))
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidInput("value is no number")
    wanted = commands.instruction(str(kind), value, None if unit is None else str(unit))
    if wanted.value is None:
        return None
    if wanted.value < limits.least - _TOLERANCE_KW:
        raise InvalidInput(f"{wanted.value:g} kW is below {limits.least:g} kW, the least that this device takes")
    if limits.most is not None and wanted.value > limits.most + _TOLERANCE_KW:
        raise InvalidInput(f"{wanted.value:g} kW is above {limits.most:g} kW, the most that this device takes")
    most = wanted.value if limits.most is None else limits.most
    return min(max(wanted.value, limits.least), most)


def valid_until(document: Mapping[str, Any]) -> datetime | None:
    """Return when a command ends, None where it says nothing; ``InvalidInput`` for anything else."""
    given = document.get("validUntil")
    if given is None:
        return None
    try:
        return _moment(given)
    except (ValueError, TypeError, OverflowError, OSError):
        raise InvalidInput("validUntil is no time with an offset, such as 2026-03-01T10:15:00Z") from None


def judged_settings(document: Mapping[str, Any], present: int, token: str | None) -> tuple[dict[str, float], list[str]]:
    """Return the settings that a device at version ``present`` applies, and the names of those that it does not know.

    With ``token`` the configuration must carry the signature made for it. ``InvalidInput`` says why it is refused.
    """
    if document["version"] < present:
        raise InvalidInput(f"version {present} is applied already")
    settings = document.get("settings")
    if not isinstance(settings, dict):
        raise InvalidInput("settings is no object")
    if token is not None and not _is_signed(document, token):
        raise InvalidInput("the signature is not the one for this device")
    applied: dict[str, float] = {}
    for name, value in settings.items():
        if name not in KNOWN_SETTINGS:
            continue
        least, most = KNOWN_SETTINGS[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise InvalidInput(f"{name} is a number from {least:g} to {most:g}")
        applied[name] = float(value)
    return applied, sorted(set(settings) - set(applied))


def _is_signed(document: Mapping[str, Any], token: str) -> bool:
    credential = token.removeprefix("ecd_").partition("_")[0]
    return commands.is_signed(document, credential, token)


def _moment(given: object) -> datetime:
    if isinstance(given, str):
        return utc(datetime.fromisoformat(given))
    if isinstance(given, int | float) and not isinstance(given, bool):
        return datetime.fromtimestamp(given / 1000 if abs(given) >= _FIRST_MILLISECONDS else given, UTC)
    raise TypeError(f"{given!r} is no time")
