"""What the cloud asks of a device, and how far that is: commands, configuration, acknowledgements, states.

    queued ─▶ sent ─▶ accepted ─▶ done
       └────────┴─────────┴─────▶ rejected (the device says no) or expired (its time ran out)

The last three are final. A device may skip states: what it says is later knowledge than ours, for we may have died
between publishing a command and noting that we did. So the same command may reach a device more than once; the device
goes by ``commandId``, or by the ``version`` of a configuration, and acts once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from energy_cloud_dagster.domain.errors import InvalidInput, Rejected
from energy_cloud_dagster.domain.intervals import rfc3339

type Kind = Literal["command", "config"]
type State = Literal["queued", "sent", "accepted", "done", "rejected", "expired"]
type Event = Literal["sent", "accepted", "done", "rejected", "expired"]
type Scalar = str | int | float | bool | None

KINDS: Final[tuple[Kind, ...]] = get_args(Kind.__value__)
STATES: Final[tuple[State, ...]] = get_args(State.__value__)
EVENTS: Final[tuple[Event, ...]] = get_args(Event.__value__)
OPEN: Final[tuple[State, ...]] = ("queued", "sent", "accepted")
#: State -> what may follow. ``sent`` follows itself: a command that nobody acknowledged is published again.
_FOLLOW: Final[Mapping[State, frozenset[Event]]] = {
    "queued": frozenset(EVENTS),
    "sent": frozenset(EVENTS),
    "accepted": frozenset({"done", "rejected", "expired"}),
    "done": frozenset(),
    "rejected": frozenset(),
    "expired": frozenset(),
}
#: Why a command expired, by the state that it was in.
EXPIRED_BECAUSE: Final[Mapping[State, str]] = {
    "queued": "it could not be published in time",
    "sent": "no device acknowledged it",
    "accepted": "accepted but not done in time",
}

LONGEST_VALIDITY: Final = timedelta(days=7)
_KW: Final = {"W": 0.001, "kW": 1.0, "MW": 1_000.0}
_TYPES: Final = {"setpoint": "a power in kW", "release": "back to the device's own schedule"}
_MOST_SETTINGS: Final = 200
_LONGEST_TEXT: Final = 1_024
_LARGEST_NUMBER: Final = 1e15
_LEAST_NUMBER: Final = 1e-4
_SETTING: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_COMMAND_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LARGEST_ACK_BYTES: Final = 4_096
_LONGEST_REASON: Final = 500
_KEY_PURPOSE: Final = b"energy-cloud config"


class Instruction(NamedTuple):
    """What a device is to do: ``setpoint`` with a value in kW, or ``release`` without value and unit.

    Storage: discharge positive, charge negative. Generators: the limit of their output, which is curtailment.
    """

    type: str
    value: float | None
    unit: str | None


class Ack(NamedTuple):
    """What a device answered: to the command ``command_id``, or to the configuration ``version`` where that is None."""

    command_id: str | None
    version: int | None
    state: Literal["accepted", "done", "rejected"]
    reason: str | None


def following(state: State, event: Event) -> State | None:
    """Return the state after ``event``, None where the event changes nothing: it came late, or again."""
    return event if event in _FOLLOW[state] else None


def instruction(kind: str, value: float | None = None, unit: str | None = None) -> Instruction:
    """Return a checked command; W and MW become kW. ``InvalidInput`` points at the faulty field."""
    if kind not in _TYPES:
        known = ", ".join(f"{name} ({meaning})" for name, meaning in _TYPES.items())
        raise InvalidInput(f"there is no command of this type; known are {known}", pointer="/type")
    if kind == "release":
        if value is not None or unit is not None:
            raise InvalidInput("a release has no value and no unit; leave them out", pointer="/value")
        return Instruction(kind, None, None)
    if value is None or not math.isfinite(value):
        raise InvalidInput("a setpoint needs a finite value in kW", pointer="/value")
    if unit not in _KW:
        raise InvalidInput(f"a setpoint is a power; its unit is one of {', '.join(_KW)}", pointer="/unit")
    power = value * _KW[unit]
    if abs(power) >= _LARGEST_NUMBER:
        raise InvalidInput("no device has so much power", pointer="/value")
    return Instruction(kind, power, "kW")


def check_validity(valid_until: datetime, now: datetime) -> datetime:
    """Return ``valid_until`` where it lies after ``now`` and at most seven days ahead; else ``InvalidInput``."""
    if valid_until <= now:
        raise InvalidInput(f"validUntil {rfc3339(valid_until)} has passed", pointer="/validUntil")
    if valid_until - now > LONGEST_VALIDITY:
        raise InvalidInput(f"validUntil lies more than {LONGEST_VALIDITY.days} days ahead", pointer="/validUntil")
    return valid_until


def check_settings(settings: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return a flat object of texts, numbers, booleans and nulls, whole floats as integers.

    Names are of letters, digits, ``_``, ``.`` and ``-``; numbers have plain digits in every language (zero, or from
    0.0001 to below 10¹⁵). Anything else is ``InvalidInput`` with the pointer of the setting.
    """
    if not settings:
        raise InvalidInput("send at least one setting", pointer="/settings")
    if len(settings) > _MOST_SETTINGS:
        raise InvalidInput(f"at most {_MOST_SETTINGS} settings fit in one configuration", pointer="/settings")
    checked = {}
    for name, value in settings.items():
        pointer = "/settings/" + name.replace("~", "~0").replace("/", "~1")
        if not _SETTING.fullmatch(name):
            raise InvalidInput(
                "the name of a setting has 1 to 64 letters, digits, underscores, points or hyphens", pointer=pointer
            )
        checked[name] = _scalar(value, pointer)
    return checked


def command_document(command_id: str, wanted: Instruction, valid_until: datetime) -> dict[str, Any]:
    """Return the payload of a command; a release has null as value and unit."""
    return {
        "commandId": command_id,
        "type": wanted.type,
        "value": wanted.value,
        "unit": wanted.unit,
        "validUntil": rfc3339(valid_until),
    }


def config_document(
    version: int, settings: Mapping[str, Scalar], keys: Iterable[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Return the payload of a configuration, signed with each of ``keys``: (credential id, hex key).

    ``signature`` is ``{credentialId}:{hex}`` for every credential, separated by spaces, so that a device whose token is
    being rotated finds the one that it can check; null for a device without credentials.
    """
    content = canonical({"version": version, "settings": dict(settings)})
    signatures = [f"{credential}:{_sign(bytes.fromhex(key), content)}" for credential, key in keys]
    return {"version": version, "settings": dict(settings), "signature": " ".join(signatures) or None}


def config_key(token: str) -> str:
    """Return the key (hex) that signs the configuration of the device with this token.

    It is kept where the token is not, and tells nothing of it: HMAC-SHA256 of ``energy-cloud config`` under the token,
    which itself holds 256 random bits.
    """
    return hmac.new(token.encode(), _KEY_PURPOSE, hashlib.sha256).hexdigest()


def is_signed(document: Mapping[str, Any], credential_id: str, token: str) -> bool:
    """Return whether a configuration carries the signature that a device with this token must find on it."""
    content = canonical({"version": document["version"], "settings": document["settings"]})
    right = f"{credential_id}:{_sign(bytes.fromhex(config_key(token)), content)}"
    found = str(document.get("signature") or "").split()
    return any(hmac.compare_digest(right.encode(), each.encode()) for each in found)


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return canonical JSON (RFC 8785) of checked settings: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class _AckPayload(msgspec.Struct, rename="camel"):
    state: Literal["accepted", "done", "rejected"]
    command_id: str | None = None
    version: int | None = None
    reason: str | None = None


_ACK: Final = msgspec.json.Decoder(_AckPayload)
_SHAPE: Final = 'send {"commandId", "state": "accepted|rejected|done", "reason"?}, for a configuration {"version", …}'


def parse_ack(payload: bytes) -> Ack:
    """Return what a device answered; a payload that is no acknowledgement is ``Rejected`` as ``bad_ack``.

    The reason is cut to 500 characters and holds no control characters.
    """
    if len(payload) > _LARGEST_ACK_BYTES:
        raise Rejected("too_large", f"an acknowledgement has at most {_LARGEST_ACK_BYTES} bytes")
    try:
        read = _ACK.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("bad_ack", f"no acknowledgement ({error}); {_SHAPE}") from None
    if (read.command_id is None) == (read.version is None):
        raise Rejected("bad_ack", f"an acknowledgement names a commandId or a version; {_SHAPE}")
    if read.command_id is not None and not _COMMAND_ID.fullmatch(read.command_id):
        raise Rejected("bad_ack", "commandId is none of ours", pointer="/commandId")
    if read.version is not None and not 1 <= read.version < 2**31:
        raise Rejected("bad_ack", "version is none of ours", pointer="/version")
    reason = None if read.reason is None else _printable(read.reason[:_LONGEST_REASON])
    return Ack(read.command_id, read.version, read.state, reason)


def _scalar(value: Any, pointer: str) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT or _printable(value) != value:
            raise InvalidInput(
                f"a text has at most {_LONGEST_TEXT} characters and no control characters", pointer=pointer
            )
        return value
    if isinstance(value, int | float):
        if value != 0 and not _LEAST_NUMBER <= abs(value) < _LARGEST_NUMBER:
            raise InvalidInput("a number is zero, or from 0.0001 to below 10^15", pointer=pointer)
        return int(value) if value == int(value) else value
    raise InvalidInput("settings are flat: texts, numbers, true, false or null", pointer=pointer)


def _printable(text: str) -> str:
    """Return foreign text without control characters and lone surrogates, which PostgreSQL's text cannot all hold."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _sign(key: bytes, content: bytes) -> str:
    return hmac.new(key, content, hashlib.sha256).hexdigest()
