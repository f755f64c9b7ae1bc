"""Tokens of devices: ``registry.credential``. Only a hash is kept, in the form that mosquitto's password file has.

A token is ``ecd_<credential id>_<secret>``. The id finds its row, so that one hash is computed whatever is registered;
the secret has 256 random bits, which is why mosquitto's few rounds of PBKDF2 are enough. Functions take an open
connection and never commit; every change tells the listeners of ``CHANNEL`` once it is committed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from energy_cloud_dagster.adapters.tables import credential, device
from energy_cloud_dagster.domain.commands import config_key
from energy_cloud_dagster.domain.errors import InvalidInput, NotFound
from energy_cloud_dagster.domain.readings.names import topic_safe

#: NOTIFY channel; its payload is the id of the device whose credentials changed.
CHANNEL: Final = "credentials"
PREFIX: Final = "ecd_"
_ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH: Final = 12
_TOKEN: Final = re.compile(rf"{PREFIX}([a-z2-7]{{{_ID_LENGTH}}})_([A-Za-z0-9_-]{{43}})")
_HASH: Final = re.compile(r"\$7\$(\d{1,6})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
_ROUNDS: Final = 101
_SALT_BYTES: Final = 12
_DIGEST_BYTES: Final = 64


class BrokerEntry(NamedTuple):
    """What a broker needs to let one device in: its id, its topic's levels and the hash of its newest token."""

    device_id: str
    region_id: str
    device_type: str
    token_hash: str


def hash_password(password: str) -> str:
    """Return what ``mosquitto_passwd`` would write: PBKDF2-SHA512, 101 rounds, 12 bytes of salt."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"$7${_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(_digest(password, salt)).decode()}"


def verify_password(password: str, kept: str) -> bool:
    """Whether ``kept``, a line of mosquitto's password file without the user, is the hash of ``password``."""
    parts = _HASH.fullmatch(kept)
    if parts is None:
        return False
    salt, digest = (base64.b64decode(part) for part in parts.groups()[1:])
    return hmac.compare_digest(_digest(password, salt, int(parts[1])), digest)


def issue(connection: sa.Connection, device_id: str, now: datetime) -> str:
    """Return a new token of a device, to be shown once; its other tokens stay as they are.

    An unknown device is ``NotFound``; one whose id cannot stand in a password file is ``InvalidInput``.
    """
    known = sa.select(device.c.device_id).where(device.c.device_id == device_id).with_for_update(key_share=True)
    if connection.execute(known).first() is None:
        raise NotFound(f"device {device_id!r} is not registered")
    if not topic_safe(device_id):
        raise InvalidInput(f"device {device_id!r} cannot have a token: its id cannot name a user", pointer="/id")
    credential_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
    token = f"{PREFIX}{credential_id}_{secrets.token_urlsafe(32)}"
    connection.execute(
        sa.insert(credential).values(
            credential_id=credential_id,
            device_id=device_id,
            token_hash=hash_password(token),
            config_key=config_key(token),
            created_at=now,
        )
    )
    _notify(connection, device_id)
    return token


def rotate(connection: sa.Connection, device_id: str, now: datetime, grace_seconds: float) -> str:
    """Return a new token of a device, to be shown once; its older ones expire ``grace_seconds`` after ``now``.

    One that expires sooner still does. Errors as of ``issue``.
    """
    end = now + timedelta(seconds=grace_seconds)
    older = sa.update(credential).where(_alive(now), credential.c.device_id == device_id)
    connection.execute(older.values(expires_at=sa.func.least(sa.func.coalesce(credential.c.expires_at, end), end)))
    return issue(connection, device_id, now)


def revoke(connection: sa.Connection, device_id: str, now: datetime) -> int:
    """End all tokens of a device at once and return how many were alive; an unknown device is ``NotFound``."""
    if connection.execute(sa.select(sa.literal(1)).where(device.c.device_id == device_id)).first() is None:
        raise NotFound(f"device {device_id!r} is not registered")
    ended = connection.execute(
        sa.update(credential).where(_alive(now), credential.c.device_id == device_id).values(revoked_at=now)
    ).rowcount
    if ended:
        _notify(connection, device_id)
    return ended


def forget(connection: sa.Connection, device_id: str) -> None:
    """Delete every token of a device, for its removal from the registry."""
    if connection.execute(sa.delete(credential).where(credential.c.device_id == device_id)).rowcount:
        _notify(connection, device_id)


def authenticate(connection: sa.Connection, token: str, now: datetime) -> str | None:
    """Return the device whose token this is; None for anything else, an expired or revoked token included.

    It takes the same time for an unknown id as for a wrong secret.
    """
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        return None
    found = connection.execute(
        sa.select(credential.c.device_id, credential.c.token_hash, _alive(now).label("alive")).where(
            credential.c.credential_id == parts[1]
        )
    ).one_or_none()
    right = verify_password(token, _NOBODY if found is None else found.token_hash)
    return str(found.device_id) if found is not None and right and found.alive else None


def broker_entries(connection: sa.Connection, now: datetime) -> list[BrokerEntry]:
    """Return the newest token of every device that has one alive, by device.

    A password file holds one password a user: while a token is rotated the broker already wants the new one.
    """
    newest = (
        sa.select(credential.c.device_id, device.c.region_id, device.c.device_type, credential.c.token_hash)
        .ext(distinct_on(credential.c.device_id))
        .join_from(credential, device)
        .where(_alive(now))
        .order_by(credential.c.device_id, credential.c.created_at.desc(), credential.c.expires_at.desc().nulls_first())
    )
    return [BrokerEntry._make(row) for row in connection.execute(newest)]


def alive_by_device(connection: sa.Connection, device_ids: Collection[str], now: datetime) -> dict[str, int]:
    """Return how many tokens of each device are valid; devices without one are left out."""
    counted = (
        sa.select(credential.c.device_id, sa.func.count())
        .where(credential.c.device_id.in_(list(device_ids)), _alive(now))
        .group_by(credential.c.device_id)
    )
    return {row[0]: row[1] for row in connection.execute(counted)}


def _alive(now: datetime) -> sa.ColumnElement[bool]:
    unexpired = sa.or_(credential.c.expires_at.is_(None), credential.c.expires_at > now)
    return sa.and_(credential.c.revoked_at.is_(None), unexpired)


def _notify(connection: sa.Connection, device_id: str) -> None:
    connection.execute(sa.select(sa.func.pg_notify(CHANNEL, device_id)))


def _digest(password: str, salt: bytes, rounds: int = _ROUNDS) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, _DIGEST_BYTES)


#: Checked in place of a hash that is missing.
_NOBODY: Final = hash_password(secrets.token_urlsafe(16))
