"""``dispatch.command``, the outbox to devices, and ``audit.command_event``, its history.

Every transition leaves an event and tells the listeners of ``CHANNEL``. Functions take an open connection and never
commit; what they tell is heard after the commit.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from energy_cloud_dagster.adapters.tables import command, command_event, credential, device
from energy_cloud_dagster.domain.commands import (
    EXPIRED_BECAUSE,
    OPEN,
    Ack,
    Event,
    Instruction,
    Kind,
    Scalar,
    State,
    check_settings,
    check_validity,
    command_document,
    config_document,
    following,
)
from energy_cloud_dagster.domain.errors import Conflict, NotFound, Rejected
from energy_cloud_dagster.domain.readings import Topic, parse_topic

#: NOTIFY channel; its payload is {"commandId", "deviceId", "state"}.
CHANNEL: Final = "commands"
OUTBOX: Final = "outbox"
#: A device that repeats itself for ever must not fill the history.
_MOST_EVENTS: Final = 100


class Command(NamedTuple):
    """One command or configuration, as it stands."""

    command_id: str
    device_id: str
    kind: Kind
    topic: str
    payload: dict[str, Any]
    version: int | None
    state: State
    reason: str | None
    requested_by: str
    created_at: datetime
    valid_until: datetime
    attempts: int
    next_attempt_at: datetime | None
    updated_at: datetime


class CommandEvent(NamedTuple):
    """One entry of a command's history; ``detail`` starts with ``ignored`` where nothing changed."""

    at: datetime
    state: State
    actor: str
    detail: str


class Outgoing(NamedTuple):
    """A message that is due, and the command that it carries."""

    command: Command
    document: dict[str, Any]


_COLUMNS: Final = tuple(command.c[name] for name in Command._fields)
_newer = command.alias("newer")
_older = command.alias("older")


def enqueue(
    connection: sa.Connection,
    device_id: str,
    wanted: Instruction,
    *,
    requested_by: str,
    now: datetime,
    valid_until: datetime,
) -> Command:
    """Queue a command; ``NotFound`` for an unknown device, ``InvalidInput`` for a time that has passed."""
    topic = _topic(connection, device_id, "command")
    command_id = str(uuid.uuid4())
    document = command_document(command_id, wanted, check_validity(valid_until, now))
    return _insert(connection, command_id, device_id, "command", topic, document, None, requested_by, now, valid_until)


def enqueue_all(
    connection: sa.Connection,
    wanted: Mapping[str, Instruction],
    *,
    requested_by: str,
    now: datetime,
    valid_until: datetime,
) -> dict[str, Command]:
    """Queue a command for each device at once and return them by device; faults as ``enqueue`` has them."""
    check_validity(valid_until, now)
    topics = _topics(connection, wanted, "command")
    queued = {}
    for device_id, instruction in wanted.items():
        command_id = str(uuid.uuid4())
        payload = command_document(command_id, instruction, valid_until)
        queued[device_id] = Command(
            command_id, device_id, "command", topics[device_id], payload, None, "queued", None, requested_by, now,
            valid_until, 0, now, now,
        )  # fmt: skip
    if queued:
        connection.execute(sa.insert(command), [each._asdict() for each in queued.values()])
        _record(connection, list(queued.values()), "queued", now, requested_by, "")
    return queued


def enqueue_config(
    connection: sa.Connection,
    device_id: str,
    settings: Mapping[str, Any],
    *,
    requested_by: str,
    now: datetime,
    valid_until: datetime,
) -> Command:
    """Queue the next version of a device's whole configuration; it is signed when it is published.

    ``NotFound`` for an unknown device, ``InvalidInput`` with its pointer for a faulty setting.
    """
    checked = check_settings(settings)
    topic = _topic(connection, device_id, "config")
    check_validity(valid_until, now)
    last = sa.select(sa.func.max(command.c.version)).where(command.c.device_id == device_id)
    version = (connection.execute(last).scalar() or 0) + 1
    document: dict[str, Any] = {"version": version, "settings": checked}
    return _insert(
        connection, str(uuid.uuid4()), device_id, "config", topic, document, version, requested_by, now, valid_until
    )


def claim(connection: sa.Connection, now: datetime, *, limit: int = 100) -> list[Outgoing]:
    """Return what is due for publication, oldest first, locked until the transaction ends; others pass it by.

    A device's queued messages of one kind come one at a time, so that two processes never swap their order.
    """
    queue_before = sa.exists().where(
        _older.c.device_id == command.c.device_id,
        _older.c.kind == command.c.kind,
        # Not to be met by the index of all open commands: while its statistics know nothing of ten thousand that were
        # queued a moment ago, each of them would be looked up by a scan of them all.
        sa.func.coalesce(_older.c.state, "") == "queued",
        sa.tuple_(_older.c.created_at, _older.c.command_id) < sa.tuple_(command.c.created_at, command.c.command_id),
    )
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(
            sa.or_(
                sa.and_(command.c.state == "queued", ~queue_before),
                sa.and_(command.c.state == "sent", command.c.next_attempt_at <= now),
            ),
            command.c.valid_until > now,
        )
        .order_by(command.c.created_at, command.c.command_id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=command)
    ).all()
    due = [Command._make(row) for row in rows]
    keys = _config_keys(connection, {each.device_id for each in due if each.kind == "config"}, now)
    return [Outgoing(each, _document(each, keys.get(each.device_id, ()))) for each in due]


def mark_sent(connection: sa.Connection, commands: Sequence[Command], at: datetime, retry: timedelta) -> None:
    """Note that the broker took the messages of ``commands``, which this transaction claimed.

    They are due again after ``retry``. Older ones of the same device and kind are not: published again, a setpoint
    would undo the newer one.
    """
    if not commands:
        return
    ids = [each.command_id for each in commands]
    connection.execute(
        sa.update(command)
        .where(command.c.command_id.in_(ids))
        .values(state="sent", attempts=command.c.attempts + 1, next_attempt_at=at + retry)
    )
    superseded = (
        sa.select(command.c.command_id)
        .where(
            command.c.state == "sent",
            command.c.next_attempt_at.is_not(None),
            sa.exists().where(
                _newer.c.command_id.in_(ids),
                _newer.c.device_id == command.c.device_id,
                _newer.c.kind == command.c.kind,
                sa.tuple_(_newer.c.created_at, _newer.c.command_id)
                > sa.tuple_(command.c.created_at, command.c.command_id),
            ),
        )
        # Who claims never waits for who hears, who waits for who claims.
        .with_for_update(skip_locked=True, of=command)
    )
    connection.execute(sa.update(command).where(command.c.command_id.in_(superseded)).values(next_attempt_at=None))
    _enter(connection, [each for each in commands if each.state != "sent"], "sent", at, OUTBOX)


def acknowledge(connection: sa.Connection, device_id: str, ack: Ack, at: datetime) -> Command:
    """Take what ``device_id`` answered and return the command as it is then.

    What comes late or again changes nothing and is kept as an event. A command that does not exist is ``Rejected`` as
    ``unknown_command``, one of another device as ``not_its_command``.
    """
    which = (
        command.c.command_id == ack.command_id
        if ack.command_id is not None
        else sa.and_(command.c.device_id == device_id, command.c.version == ack.version)
    )
    row = connection.execute(sa.select(*_COLUMNS).where(which).with_for_update()).one_or_none()
    if row is None:
        named = f"command {ack.command_id}" if ack.command_id is not None else f"configuration version {ack.version}"
        raise Rejected("unknown_command", f"there is no {named} of this device; answer what was received")
    found = Command._make(row)
    if found.device_id != device_id:
        raise Rejected(
            "not_its_command", f"command {ack.command_id} was not given to this device", pointer="/commandId"
        )
    if following(found.state, ack.state) is None:
        detail = f"ignored: {ack.state} while {found.state}" + (f" ({ack.reason})" if ack.reason else "")
        _note_ignored(connection, found, at, device_id, detail)
        return found
    (changed,) = _enter(connection, [found], ack.state, at, device_id, ack.reason or "")
    return changed


def expire(connection: sa.Connection, now: datetime, *, limit: int = 1_000) -> list[Command]:
    """End what is still open after its time, oldest first, and return it; the reason says how far it had come."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(command.c.state.in_(OPEN), command.c.valid_until <= now)
        .order_by(command.c.valid_until, command.c.command_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ended: list[Command] = []
    late = [Command._make(row) for row in rows]
    for state in OPEN:
        stale = [each for each in late if each.state == state]
        ended += _enter(connection, stale, "expired", now, OUTBOX, EXPIRED_BECAUSE[state])
    return ended


def withdraw(connection: sa.Connection, command_ids: Collection[str], now: datetime, why: str) -> list[Command]:
    """End those of the commands that no device has answered yet, for the reason ``why``, and return them."""
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(command.c.command_id.in_(command_ids), command.c.state.in_(("queued", "sent")))
        .order_by(command.c.command_id)
        .with_for_update()
    )
    return _enter(connection, [Command._make(row) for row in rows], "expired", now, OUTBOX, why)


def next_due(connection: sa.Connection) -> datetime | None:
    """Return when the outbox has to act next: the first repetition, expiry or queued message; None: nothing is open."""
    at = sa.func.least(
        sa.case(
            (command.c.state == "queued", command.c.created_at), (command.c.state == "sent", command.c.next_attempt_at)
        ),
        command.c.valid_until,
    )
    return connection.execute(sa.select(sa.func.min(at)).where(command.c.state.in_(OPEN))).scalar()


def get(connection: sa.Connection, device_id: str, command_id: str) -> Command:
    """Return one command of a device; ``NotFound`` where there is none."""
    row = connection.execute(
        sa.select(*_COLUMNS).where(command.c.command_id == command_id, command.c.device_id == device_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"device {device_id} has no command {command_id}")
    return Command._make(row)


def of_device(
    connection: sa.Connection, device_id: str, *, limit: int, before: tuple[datetime, str] | None = None
) -> list[Command]:
    """Return the commands and configurations of a device, newest first, from those before (created_at, id) on."""
    statement = sa.select(*_COLUMNS).where(command.c.device_id == device_id)
    if before is not None:
        statement = statement.where(sa.tuple_(command.c.created_at, command.c.command_id) < sa.tuple_(*before))
    newest = statement.order_by(command.c.created_at.desc(), command.c.command_id.desc()).limit(limit)
    return [Command._make(row) for row in connection.execute(newest)]


def history(connection: sa.Connection, command_id: str) -> list[CommandEvent]:
    """Return the events of a command in the order in which they happened."""
    columns = [command_event.c[name] for name in CommandEvent._fields]
    rows = connection.execute(
        sa.select(*columns).where(command_event.c.command_id == command_id).order_by(command_event.c.event_id)
    )
    return [CommandEvent._make(row) for row in rows]


def _topic(connection: sa.Connection, device_id: str, kind: Kind) -> str:
    return _topics(connection, [device_id], kind)[device_id]


def _topics(connection: sa.Connection, device_ids: Collection[str], kind: Kind) -> dict[str, str]:
    """Return where devices listen, and hold their rows: versions of one device are counted one at a time."""
    rows = connection.execute(
        sa.select(device.c.device_id, device.c.region_id, device.c.device_type)
        .where(device.c.device_id.in_(list(device_ids)))
        .order_by(device.c.device_id)
        .with_for_update(key_share=True)
    )
    found = {row.device_id: Topic(row.region_id, row.device_type, row.device_id, kind) for row in rows}
    for device_id in device_ids:
        if device_id not in found:
            raise NotFound(f"device {device_id!r} is not registered")
    return {device_id: _reachable(topic) for device_id, topic in found.items()}


def _reachable(topic: Topic) -> str:
    try:
        safe = parse_topic(str(topic)) == topic and not {"+", "#"}.intersection(str(topic))
    except Rejected:
        safe = False
    if not safe:
        raise Conflict("no MQTT topic can name this device, so it cannot be reached; register it under another id")
    return str(topic)


def _insert(
    connection: sa.Connection,
    command_id: str,
    device_id: str,
    kind: Kind,
    topic: str,
    document: Mapping[str, Scalar],
    version: int | None,
    requested_by: str,
    now: datetime,
    valid_until: datetime,
) -> Command:
    row = connection.execute(
        sa.insert(command)
        .values(
            command_id=command_id,
            device_id=device_id,
            kind=kind,
            topic=topic,
            payload=document,
            version=version,
            state="queued",
            requested_by=requested_by,
            created_at=now,
            valid_until=valid_until,
            next_attempt_at=now,
            updated_at=now,
        )
        .returning(*_COLUMNS)
    ).one()
    queued = Command._make(row)
    _record(connection, [queued], "queued", now, requested_by, "")
    return queued


def _enter(
    connection: sa.Connection, commands: Sequence[Command], event: Event, at: datetime, actor: str, detail: str = ""
) -> list[Command]:
    """Move ``commands``, which this transaction holds, to the state of ``event``; those already there included."""
    if not commands:
        return []
    changes: dict[str, Any] = {"state": event, "updated_at": at}
    if event != "sent":
        changes["next_attempt_at"] = None
    if event in {"rejected", "expired"}:
        changes["reason"] = detail or None
    rows = connection.execute(
        sa.update(command)
        .where(command.c.command_id.in_([each.command_id for each in commands]))
        .values(**changes)
        .returning(*_COLUMNS)
    )
    changed = [Command._make(row) for row in rows]
    _record(connection, changed, event, at, actor, detail)
    return changed


def _record(
    connection: sa.Connection, commands: Sequence[Command], state: State, at: datetime, actor: str, detail: str
) -> None:
    connection.execute(
        sa.insert(command_event),
        [
            {"command_id": each.command_id, "at": at, "state": state, "actor": actor, "detail": detail}
            for each in commands
        ],
    )
    news = [json.dumps({"commandId": each.command_id, "deviceId": each.device_id, "state": state}) for each in commands]
    told = sa.func.unnest(sa.cast(news, ARRAY(sa.Text))).column_valued("news")
    connection.execute(sa.select(sa.func.pg_notify(CHANNEL, told)))


def _note_ignored(connection: sa.Connection, found: Command, at: datetime, actor: str, detail: str) -> None:
    kept = sa.select(sa.func.count()).where(command_event.c.command_id == found.command_id)
    if connection.execute(kept).scalar_one() < _MOST_EVENTS:
        connection.execute(
            sa.insert(command_event).values(
                command_id=found.command_id, at=at, state=found.state, actor=actor, detail=detail
            )
        )


def _config_keys(
    connection: sa.Connection, device_ids: Collection[str], now: datetime
) -> dict[str, list[tuple[str, str]]]:
    """Return (credential id, key) of the live credentials of devices, newest first."""
    keys: dict[str, list[tuple[str, str]]] = {}
    if device_ids:
        rows = connection.execute(
            sa.select(credential.c.device_id, credential.c.credential_id, credential.c.config_key)
            .where(
                credential.c.device_id.in_(device_ids),
                credential.c.config_key.is_not(None),
                credential.c.revoked_at.is_(None),
                sa.or_(credential.c.expires_at.is_(None), credential.c.expires_at > now),
            )
            .order_by(credential.c.created_at.desc(), credential.c.credential_id)
        )
        for row in rows:
            keys.setdefault(row.device_id, []).append((row.credential_id, row.config_key))
    return keys


def _document(found: Command, keys: Iterable[tuple[str, str]]) -> dict[str, Any]:
    if found.version is None:
        return found.payload
    return config_document(found.version, found.payload["settings"], keys)
