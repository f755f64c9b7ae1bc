"""Commands and configuration, cloud to device. Posting queues them; the outbox process sends them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path
from pydantic import Field
from starlette.responses import Response

from energy_cloud_dagster.adapters import commands, registry
from energy_cloud_dagster.adapters.commands import Command
from energy_cloud_dagster.api.context import Context, Shared
from energy_cloud_dagster.api.idempotency import Writing
from energy_cloud_dagster.api.paging import Paged
from energy_cloud_dagster.api.security import Caller, Principal, needs, utc_now
from energy_cloud_dagster.api.values import Document, Moment, Page, absent
from energy_cloud_dagster.domain.commands import Kind, Scalar, State, instruction
from energy_cloud_dagster.domain.errors import NotFound

router = APIRouter(prefix="/v1/devices", tags=["devices"])

DeviceId = Annotated[str, Path(alias="id", max_length=128)]
CommandId = Annotated[str, Path(alias="commandId", max_length=64)]
ValidUntil = Annotated[
    Moment | None,
    Field(
        description="It expires unless it is done by then, and a setpoint is obeyed until then; "
        "ENERGY_CLOUD_COMMAND_VALIDITY_SECONDS from now if absent."
    ),
]


class CommandRequest(Document):
    """What a device is to do."""

    type: str = Field(description="`setpoint` (a power) or `release` (back to its own schedule).", max_length=64)
    value: float | None = Field(
        None,
        description="Of a setpoint. Storage: discharge positive, charge negative; generators: limit of the output.",
    )
    unit: str | None = Field(None, description="kW, W or MW; devices are sent kW.", max_length=16)
    valid_until: ValidUntil = None


class ConfigRequest(Document):
    """The whole configuration of a device."""

    settings: dict[str, Any] = Field(
        description="A flat object: texts, numbers (zero, or from 0.0001 to below 10^15), booleans, nulls.",
        examples=[{"reportSeconds": 60, "maxExport": 4.5}],
    )
    valid_until: ValidUntil = None


class Queued(Document):
    """A command that was queued."""

    command_id: str
    state: State


class QueuedConfig(Document):
    """A configuration that was queued; devices answer by its version."""

    command_id: str
    version: int
    state: State


class CommandDocument(Document):
    """A command or configuration as it stands."""

    command_id: str
    device_id: str
    kind: Kind
    type: str | None = Field(None, exclude_if=absent)
    value: float | None = Field(None, exclude_if=absent)
    unit: str | None = Field(None, exclude_if=absent)
    version: int | None = Field(None, exclude_if=absent)
    settings: dict[str, Scalar] | None = Field(None, exclude_if=absent)
    state: State
    reason: str | None = Field(description="Why it was rejected or expired; null otherwise.")
    requested_by: str
    created_at: datetime
    valid_until: datetime
    updated_at: datetime = Field(description="When it entered its state.")
    attempts: int = Field(description="How often it was published.")


class EventDocument(Document):
    """One step of a command's history; `detail` starts with `ignored` where the device's answer changed nothing."""

    at: datetime
    state: State
    actor: str = Field(description="An account, the device or `outbox`.")
    detail: str


class CommandHistory(CommandDocument):
    """A command with every step that it took, oldest first."""

    events: list[EventDocument]


@router.post("/{id}/commands", summary="Command a device", status_code=202, response_model=Queued)
@needs("devices:write")
def post_command(
    context: Shared, caller: Caller, device_id: DeviceId, wanted: CommandRequest, writing: Writing
) -> Response:
    """Queue a command and answer before it is sent; `GET` it to see what became of it."""
    now = utc_now()
    order = instruction(wanted.type, wanted.value, wanted.unit)
    with context.engine.begin() as connection:
        if (earlier := writing.answered(connection)) is not None:
            return earlier
        _require(connection, caller, device_id)
        queued = commands.enqueue(
            connection,
            device_id,
            order,
            requested_by=caller.username,
            now=now,
            valid_until=wanted.valid_until or _default_validity(context, now),
        )
        answer = Queued(command_id=queued.command_id, state=queued.state)
        return writing.keep(connection, 202, answer.model_dump_json(by_alias=True).encode())


@router.post("/{id}/config", summary="Configure a device", status_code=202, response_model=QueuedConfig)
@needs("devices:write")
def post_config(
    context: Shared, caller: Caller, device_id: DeviceId, wanted: ConfigRequest, writing: Writing
) -> Response:
    """Queue the next version of the device's configuration, which replaces the one before.

    It is signed for each of the device's credentials: `signature` is `{credentialId}:{hex}`, several separated by
    spaces, where hex is the HMAC-SHA256 of the canonical JSON (RFC 8785) of `{settings, version}` under the key
    HMAC-SHA256(token, "energy-cloud config").
    """
    now = utc_now()
    with context.engine.begin() as connection:
        if (earlier := writing.answered(connection)) is not None:
            return earlier
        _require(connection, caller, device_id)
        queued = commands.enqueue_config(
            connection,
            device_id,
            wanted.settings,
            requested_by=caller.username,
            now=now,
            valid_until=wanted.valid_until or _default_validity(context, now),
        )
        answer = QueuedConfig(command_id=queued.command_id, version=queued.version or 0, state=queued.state)
        return writing.keep(connection, 202, answer.model_dump_json(by_alias=True).encode())


@router.get("/{id}/commands", summary="Commands and configurations of a device, newest first")
@needs("devices:read")
def list_commands(context: Shared, caller: Caller, device_id: DeviceId, paging: Paged) -> Page[CommandDocument]:
    """Return what the device was asked, with how far it is."""
    before = paging.after(datetime, str)
    with context.engine.connect() as connection:
        _require(connection, caller, device_id)
        found = commands.of_device(
            connection,
            device_id,
            limit=paging.fetch,
            before=None if before is None else (before[0], before[1]),
        )
    kept, cursor = paging.page(found, lambda each: (each.created_at, each.command_id))
    return Page(items=[CommandDocument(**_fields(each)) for each in kept], next_cursor=cursor)


@router.get("/{id}/commands/{commandId}", summary="One command and its history")
@needs("devices:read")
def get_command(context: Shared, caller: Caller, device_id: DeviceId, command_id: CommandId) -> CommandHistory:
    """Return a command or configuration with every step that it took."""
    with context.engine.connect() as connection:
        _require(connection, caller, device_id)
        if not command_id.isprintable():
            raise NotFound(f"device {device_id} has no such command")
        found = commands.get(connection, device_id, command_id)
        events = commands.history(connection, command_id)
    return CommandHistory(**_fields(found), events=[EventDocument(**each._asdict()) for each in events])


def _require(connection: sa.Connection, caller: Principal, device_id: str) -> None:
    """Raise ``NotFound``, in the same words, for an unknown device and for another participant's."""
    try:
        known = registry.device_by_id(connection, device_id) if device_id.isprintable() else None
    except NotFound:
        known = None
    if known is None or not (caller.sees_all or (known.participant_id or "") == caller.participant_id):
        raise NotFound(f"there is no device {device_id}")


def _default_validity(context: Context, now: datetime) -> datetime:
    return now + timedelta(seconds=context.settings.command_validity_seconds)


def _fields(found: Command) -> dict[str, Any]:
    same = {name: getattr(found, name) for name in CommandDocument.model_fields if name in Command._fields}
    return {
        name: value for name, value in found.payload.items() if name in {"type", "value", "unit", "settings"}
    } | same
