"""What meters send over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from energy_cloud_dagster.adapters import registry, rest_ingest
from energy_cloud_dagster.adapters.rest_ingest import Ingested
from energy_cloud_dagster.api.context import Context, Shared
from energy_cloud_dagster.api.errors import Forbidden, problem
from energy_cloud_dagster.api.idempotency import Write, Writing
from energy_cloud_dagster.api.routers import consumption_schema
from energy_cloud_dagster.api.security import Caller, Principal, needs, utc_now
from energy_cloud_dagster.domain.errors import Rejected
from energy_cloud_dagster.domain.readings import ReadingRow, Rules
from energy_cloud_dagster.domain.readings.measurements import Measurement
from energy_cloud_dagster.domain.readings.submissions import Record, Submission, read_submission
from energy_cloud_dagster.settings import Settings

router = APIRouter(prefix="/v1/energy", tags=["energy"])

ROUTE: Final = "POST /v1/energy/consumption"
#: Faults that an answer names; a caller mends the first hundred before it looks at more.
MOST_FAULTS: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_encode: Final = msgspec.json.Encoder().encode


class StoredRecord(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """A record as it was stored: ``id`` names the reading, which a repetition or a correction has again."""

    id: str
    meter_id: str
    timestamp: datetime
    consumption: float
    received_at: datetime
    quality: str
    unit: str
    voltage: float | None = None
    current: float | None = None
    power_factor: float | None = None
    metadata: dict[str, Any] | None = None


class StoredReading(msgspec.Struct, rename="camel", gc=False):
    """A reading of a document as it was stored, in the unit of its series."""

    id: str
    timestamp: datetime
    metric: str
    value: float
    unit: str
    quality: str


class StoredDocument(msgspec.Struct, rename="camel"):
    """The readings of a meter or an energy document as they were stored."""

    meter_id: str
    received_at: datetime
    readings: list[StoredReading]


@router.post(
    "/consumption",
    status_code=201,
    summary="Store what meters measured",
    response_class=Response,
    responses=consumption_schema.RESPONSES,
    openapi_extra={"requestBody": consumption_schema.REQUEST_BODY},
)
@needs("energy:write")
def record_consumption(context: Shared, caller: Caller, writing: Writing) -> Response:
    """Store a record, an array of up to 10,000 of them, a meter document or an energy document, whole or not at all.

    The answer comes once the readings are durable. What was stored already is absorbed, another value is the next
    revision. Unknown meters are registered as unverified in the platform's region where the caller is an operator or
    admin; a device writes its own readings only. What is refused is kept with the reason.
    """
    now = utc_now()
    try:
        submission = read_submission(writing.body, own_device=caller.device_id)
    except Rejected as fault:
        return _refused(context, writing, [fault], now)
    _own_only(caller, submission)
    with context.engine.begin() as connection:
        if (earlier := writing.answered(connection)) is not None:
            return earlier
        home = None if caller.device_id is not None else registry.resolve_region(connection, context.settings.region)
        done = rest_ingest.ingest(
            connection, submission, received_at=now, rules=_rules(context.settings), register_in=home
        )
        if not done.faults:
            return writing.keep(connection, 201, _answer(submission, done, now))
    return _refused(context, writing, done.faults, now)


def _own_only(caller: Principal, submission: Submission) -> None:
    if caller.device_id is None:
        return
    others = {each.device_id for each in submission.measurements} - {caller.device_id}
    if others:
        raise Forbidden(f"device {caller.device_id} writes its own readings only")


def _refused(context: Context, writing: Write, faults: Sequence[Rejected], now: datetime) -> Response:
    """Keep what is refused, with the reasons, and return the problem that names every fault."""
    with context.engine.begin() as connection:
        limit = context.settings.max_payload_bytes
        rest_ingest.reject(connection, faults, route=ROUTE, body=writing.body, received_at=now, max_bytes=limit)
    named = [{"detail": each.detail, "pointer": each.pointer, "in": "body"} for each in faults[:MOST_FAULTS]]
    detail = f"nothing was stored: {faults[0].pointer or 'the body'}: {faults[0].detail}"
    if len(faults) > 1:
        more = f", the first {MOST_FAULTS} are listed" if len(faults) > MOST_FAULTS else ""
        detail += f"; {len(faults)} faults in all{more}"
    if faults[0].reason == "bad_json":
        return problem(400, faults[0].detail)
    return problem(422, detail, kind="invalid-input", errors=named)


def _answer(submission: Submission, done: Ingested, now: datetime) -> bytes:
    pairs = zip(submission.measurements, done.rows, strict=True)
    if submission.kind == "record":
        return _encode(next(_stored_records(submission.records, pairs, now)))
    if submission.kind == "batch":
        return _encode(list(_stored_records(submission.records, pairs, now)))
    stored = [
        StoredReading(
            _id(row), row.ts, each.metric, row.value, done.series[each.device_id, each.metric].unit, row.quality
        )
        for each, row in pairs
    ]
    return _encode(StoredDocument(submission.measurements[0].device_id, now, stored))


def _stored_records(
    records: Iterable[Record], pairs: Iterator[tuple[Measurement, ReadingRow]], now: datetime
) -> Iterator[StoredRecord]:
    """Yield the stored form of each record; its values follow one another among the pairs, consumption first."""
    for record in records:
        _, row = next(pairs)
        yield StoredRecord(
            _id(row),
            record.meter_id,
            row.ts,
            row.value,
            now,
            row.quality,
            "kWh",
            voltage=None if record.voltage is None else next(pairs)[1].value,
            current=None if record.current is None else next(pairs)[1].value,
            power_factor=None if record.power_factor is None else next(pairs)[1].value,
            metadata=record.metadata,
        )


def _id(row: ReadingRow) -> str:
    """Return the name of a reading: its series and the start of its interval in microseconds since 1970."""
    return f"{row.series_id}-{(row.ts - _EPOCH) // _MICROSECOND}"


def _rules(settings: Settings) -> Rules:
    # A caller over HTTP tells no time of receipt, in a replay either.
    return Rules(
        future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
        late_tolerance=timedelta(days=settings.late_tolerance_days),
    )
