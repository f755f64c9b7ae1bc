"""The registry of devices and their credentials."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from energy_cloud_dagster.adapters import credentials, devices, registry
from energy_cloud_dagster.adapters.devices import Registered, SeriesSpec
from energy_cloud_dagster.api.context import Shared
from energy_cloud_dagster.api.idempotency import Writing
from energy_cloud_dagster.api.paging import Paged
from energy_cloud_dagster.api.security import Caller, needs, utc_now
from energy_cloud_dagster.api.values import Document, Page, absent
from energy_cloud_dagster.domain.readings.names import MAX_NAME_LENGTH

router = APIRouter(prefix="/v1/devices", tags=["devices"])

DeviceId = Annotated[str, Path(alias="id", max_length=MAX_NAME_LENGTH)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
CustomerClass = Literal["residential", "commercial", "industrial"]


class Measure(Document):
    """One metric of a device that is being registered."""

    metric: Name = Field(examples=["consumption"])
    unit: Name = Field(examples=["kWh"], description="As the device sends it; kept in the base unit.")
    role: str | None = Field(None, description="What the pipeline uses it as, such as load, pv or soc; null: stored.")


class NewDevice(Document):
    """A device to register."""

    id: Name = Field(examples=["SM-002"], description="Also its user name and client id at the broker.")
    type: Name = Field(examples=["smart-meter"], description="The third level of its topics.")
    region: Name = Field(examples=["seoul"], description="Id or alias of its region.")
    customer_class: CustomerClass | None = None
    participant_id: Name | None = Field(None, description="Who owns it.")
    interval_minutes: int = Field(15, ge=1, le=60, description="Length of its intervals, a whole part of an hour.")
    series: list[Measure] = Field([], max_length=100, description="What it measures; by default what its type does.")


class DeviceSeries(Document):
    """One metric of a device."""

    metric: str
    unit: str = Field(description="Unit that its readings are kept in.")
    kind: Literal["energy", "power", "state"]
    role: str | None


class DeviceDocument(Document):
    """A registered device."""

    id: str
    type: str
    region: str
    customer_class: CustomerClass | None
    participant_id: str | None
    interval_minutes: int
    verified: bool = Field(description="False where it was registered on first sight; registering it verifies it.")
    created_at: datetime
    topic: str = Field(description="Where it publishes; + stands for a metric.")
    tokens: int = Field(description="How many of its tokens are valid.")
    series: list[DeviceSeries]
    metadata: dict[str, Any] | None = Field(
        None, exclude_if=absent, description="What it last said of itself over HTTP; left out: nothing."
    )


class DeviceToken(Document):
    """A new token; it is shown this once."""

    device_id: str
    token: str
    previous_valid_until: datetime | None = Field(
        exclude_if=absent, description="Until when its older tokens are accepted over HTTP; left out: it had none."
    )


@router.get("", summary="All devices")
@needs("devices:read")
def list_devices(
    context: Shared,
    caller: Caller,
    paging: Paged,
    region: Annotated[str | None, Query(max_length=128, description="Id, alias or name of a region.")] = None,
    device_type: Annotated[str | None, Query(alias="type", max_length=128, description="Such as smart-meter.")] = None,
    participant_id: Annotated[str | None, Query(alias="participantId", max_length=128, description="Owner.")] = None,
) -> Page[DeviceDocument]:
    """Return devices in the order of their ids; a trader or viewer sees those of its own participant."""
    after = paging.after(str)
    with context.engine.connect() as connection:
        found = devices.page(
            connection,
            utc_now(),
            limit=paging.fetch,
            after=None if after is None else after[0],
            region_id=None if region is None else registry.find_region(connection, region).region_id,
            device_type=device_type,
            owner=participant_id,
            participant_id=caller.participant_id,
            everyone=caller.sees_all,
        )
    kept, cursor = paging.page(found, lambda each: (each.device.device_id,))
    return Page(items=[_document(each) for each in kept], next_cursor=cursor)


@router.post("", summary="Register a device", status_code=201, response_model=DeviceDocument)
@needs("devices:write")
def add_device(wanted: NewDevice, context: Shared, writing: Writing) -> Response:
    """Register a device with its series; one that was registered on first sight becomes verified.

    It has no token yet: `POST /v1/devices/{id}/token` hands one out.
    """
    with context.engine.begin() as connection:
        if (answer := writing.answered(connection)) is None:
            made = devices.add(
                connection,
                wanted.id,
                wanted.region,
                wanted.type,
                utc_now(),
                customer_class=wanted.customer_class,
                participant_id=wanted.participant_id,
                interval_minutes=wanted.interval_minutes,
                measures=[SeriesSpec(each.metric, each.unit, each.role) for each in wanted.series],
            )
            answer = writing.keep(connection, 201, _document(made).model_dump_json(by_alias=True).encode())
    answer.headers["Location"] = f"{router.prefix}/{quote(wanted.id)}"
    return answer


@router.get("/{id}", summary="One device")
@needs("devices:read")
def get_device(context: Shared, caller: Caller, device_id: DeviceId) -> DeviceDocument:
    """Return a device with its series."""
    with context.engine.connect() as connection:
        return _document(
            devices.get(
                connection,
                device_id,
                utc_now(),
                participant_id=caller.participant_id,
                everyone=caller.sees_all,
            )
        )


@router.delete("/{id}", summary="Remove a device", status_code=204)
@needs("devices:write")
def remove_device(context: Shared, device_id: DeviceId) -> None:
    """Delete a device, its series and its tokens; 409 where readings, a VPP or commands rest on it."""
    with context.engine.begin() as connection:
        devices.remove(connection, device_id)


@router.post("/{id}/token", summary="Hand out or rotate a device's token", status_code=201)
@needs("devices:write")
def rotate_token(context: Shared, device_id: DeviceId, response: Response) -> DeviceToken:
    """Return a new token, once. Older ones stay valid over HTTP for `ENERGY_CLOUD_TOKEN_GRACE_SECONDS`.

    A broker with a password file accepts the new token alone, within seconds.
    """
    now, grace = utc_now(), context.settings.token_grace_seconds
    with context.engine.begin() as connection:
        had = credentials.alive_by_device(connection, [device_id], now)
        token = credentials.rotate(connection, device_id, now, grace)
    response.headers["Cache-Control"] = "no-store"
    until = now + timedelta(seconds=grace) if had else None
    return DeviceToken(device_id=device_id, token=token, previous_valid_until=until)


@router.delete("/{id}/token", summary="Revoke a device's tokens", status_code=204)
@needs("devices:write")
def revoke_tokens(context: Shared, device_id: DeviceId) -> None:
    """End all tokens of a device: over HTTP within a second, at the broker within five, its connection included."""
    with context.engine.begin() as connection:
        credentials.revoke(connection, device_id, utc_now())


def _document(found: Registered) -> DeviceDocument:
    device = found.device
    return DeviceDocument(
        id=device.device_id,
        type=device.device_type,
        region=device.region_id,
        customer_class=device.customer_class,
        participant_id=device.participant_id,
        interval_minutes=device.interval_minutes,
        verified=device.verified,
        created_at=device.created_at,
        topic=f"energy-cloud/{device.region_id}/{device.device_type}/{device.device_id}/+",
        tokens=found.tokens,
        series=[DeviceSeries(**each._asdict()) for each in found.series],
        metadata=device.metadata,
    )
