"""Accounts of people and programs: ``registry.account``, passwords as argon2id."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Final, NamedTuple

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy.dialects.postgresql import insert

from energy_cloud_dagster.adapters.tables import account, participant
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, NotFound

ROLES: Final = ("admin", "operator", "trader", "auditor", "device", "viewer")
MIN_PASSWORD_LENGTH: Final = 8
MAX_PASSWORD_LENGTH: Final = 1024
MAX_USERNAME_LENGTH: Final = 128

#: OWASP's second choice for argon2id: 19 MiB, two passes, one lane; about 20 ms a check.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
#: An unknown name costs the same work as a wrong password, so that neither can be told by the clock.
_NOBODY: Final = _HASHER.hash(secrets.token_urlsafe(16))
#: Bounds the memory and CPU that a flood of logins can take.
_CHECKS: Final = BoundedSemaphore(4)


class Account(NamedTuple):
    """One account; ``participant_id`` names whose orders, meters and evidence it may see."""

    username: str
    role: str
    participant_id: str | None
    disabled: bool
    created_at: datetime


_COLUMNS: Final = tuple(account.c[name] for name in Account._fields)


def add(
    connection: sa.Connection,
    username: str,
    password: str,
    role: str,
    *,
    participant_id: str | None = None,
    created_at: datetime | None = None,
) -> Account:
    """Create an account; a faulty field is ``InvalidInput`` with its pointer, a taken name ``Conflict``."""
    _check(connection, username, password, role, participant_id)
    row = connection.execute(
        insert(account)
        .values(
            username=username,
            password_hash=_HASHER.hash(password),
            role=role,
            participant_id=participant_id,
            created_at=created_at or datetime.now(UTC),
        )
        .on_conflict_do_nothing()
        .returning(*_COLUMNS)
    ).one_or_none()
    if row is None:
        raise Conflict(f"an account named {username} exists already; choose another name")
    return Account._make(row)


def ensure(
    connection: sa.Connection, username: str, password: str, role: str, *, participant_id: str | None = None
) -> str | None:
    """Create the account where it is missing; an empty ``password`` is generated.

    Returns the generated password, to be shown once, or None where nothing was generated.
    """
    if find(connection, username) is not None:
        return None
    secret = password or secrets.token_urlsafe(18)
    try:
        add(connection, username, secret, role, participant_id=participant_id)
    except Conflict:  # another process was first
        return None
    return None if password else secret


def bootstrap_admin(connection: sa.Connection, password: str) -> str | None:
    """Create the account ``admin`` at first start.

    Returns the generated password where ``password`` is empty and the account is new, for the caller to print once.
    """
    return ensure(connection, "admin", password, "admin")


def authenticate(connection: sa.Connection, username: str, password: str) -> Account | None:
    """Return the account whose password this is; None for a wrong one, an unknown name or a disabled account."""
    row = connection.execute(
        sa.select(account.c.password_hash, *_COLUMNS).where(account.c.username == username)
    ).one_or_none()
    with _CHECKS:
        try:
            _HASHER.verify(_NOBODY if row is None else row.password_hash, password)
        except (VerifyMismatchError, InvalidHashError):
            return None
    if row is None or row.disabled:
        return None
    if _HASHER.check_needs_rehash(row.password_hash):
        connection.execute(
            sa.update(account).where(account.c.username == username).values(password_hash=_HASHER.hash(password))
        )
    return Account._make(row[1:])


def find(connection: sa.Connection, username: str) -> Account | None:
    """Return one account, None where there is none of that name."""
    row = connection.execute(sa.select(*_COLUMNS).where(account.c.username == username)).one_or_none()
    return None if row is None else Account._make(row)


def named(connection: sa.Connection, usernames: Collection[str]) -> dict[str, Account]:
    """Return those of the named accounts that exist, by name."""
    rows = connection.execute(sa.select(*_COLUMNS).where(account.c.username.in_(usernames)))
    return {row.username: Account._make(row) for row in rows}


def everyone(connection: sa.Connection) -> list[Account]:
    """Return all accounts in the order of their names."""
    return [Account._make(row) for row in connection.execute(sa.select(*_COLUMNS).order_by(account.c.username))]


def set_disabled(connection: sa.Connection, username: str, *, disabled: bool = True) -> Account:
    """Close or reopen an account; its tokens stop working within a second. An unknown name is ``NotFound``."""
    row = connection.execute(
        sa.update(account).where(account.c.username == username).values(disabled=disabled).returning(*_COLUMNS)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no account named {username}; `energy-cloud user list` shows all")
    return Account._make(row)


def _check(connection: sa.Connection, username: str, password: str, role: str, participant_id: str | None) -> None:
    if not 0 < len(username) <= MAX_USERNAME_LENGTH or not username.isprintable() or username != username.strip():
        raise InvalidInput(f"a user name has 1 to {MAX_USERNAME_LENGTH} printable characters", pointer="/username")
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise InvalidInput(
            f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters", pointer="/password"
        )
    if role not in ROLES:
        raise InvalidInput(f"{role} is no role; choose one of {', '.join(ROLES)}", pointer="/role")
    known = sa.select(participant.c.participant_id).where(participant.c.participant_id == participant_id)
    if participant_id is not None and connection.execute(known).first() is None:
        raise InvalidInput(f"there is no participant {participant_id}", pointer="/participantId")
