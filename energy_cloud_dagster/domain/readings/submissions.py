"""What a caller posts over HTTP: a consumption record, an array of them, a meter or an energy document.

Every fault of a submission is named by a JSON pointer, for it is taken whole or not at all. A record's ``voltage`` (V),
``current`` (A) and ``powerFactor`` (1) are readings of the same meter at the same time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple

import msgspec

from energy_cloud_dagster.domain.errors import Rejected
from energy_cloud_dagster.domain.readings import document_readings
from energy_cloud_dagster.domain.readings.decode import Payload
from energy_cloud_dagster.domain.readings.measurements import MOST_ELEMENTS, Measurement, pointer_of

MAX_METADATA_BYTES: Final = 4_096
_MOST_NESTED: Final = 100
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")

type Kind = Literal["record", "batch", "meter", "energy"]


class Record(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """What one meter consumed in one interval, as the standard's SDK sends it; numbers may come as strings."""

    meter_id: str
    timestamp: float | str
    consumption: float | str
    voltage: float | str | None = None
    current: float | str | None = None
    power_factor: float | str | None = None
    quality: str = "high"
    metadata: dict[str, Any] | None = None


class Submission(NamedTuple):
    """What a body came to; with any fault nothing of it may be stored.

    ``records`` are those of a record or a batch, each of which has one to four of the ``measurements``, in this order.
    ``grid_id`` is set where an energy document speaks of a whole grid point.
    """

    kind: Kind
    measurements: list[Measurement]
    faults: list[Rejected]
    records: list[Record]
    grid_id: str | None = None

    def device_pointer(self, measurement: Measurement) -> str:
        """Return the JSON pointer of what names the device of a measurement."""
        if self.kind == "energy" and self.grid_id is not None:
            return "/metadata/gridId"
        return "/meterId" if self.kind in {"energy", "meter"} else f"{measurement.place}/meterId"


class _Probe(msgspec.Struct, rename="camel"):
    """The members that tell the documents from a record."""

    standard: msgspec.Raw = msgspec.Raw(b"")
    energy_data: msgspec.Raw = msgspec.Raw(b"")
    vpp_id: msgspec.Raw = msgspec.Raw(b"")


#: (member of a record, its name in JSON, metric, unit)
_VALUES: Final = (
    ("consumption", "/consumption", "consumption", "kWh"),
    ("voltage", "/voltage", "voltage", "V"),
    ("current", "/current", "current", "A"),
    ("power_factor", "/powerFactor", "power-factor", "1"),
)
_ONE: Final = msgspec.json.Decoder(Record)
_MANY: Final = msgspec.json.Decoder(list[Record])
_RAW_MANY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_PROBE: Final = msgspec.json.Decoder(_Probe)
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_submission(body: bytes, *, own_device: str | None = None) -> Submission:
    """Return what a body came to; ``own_device`` is the caller where it is a device.

    A body that is no JSON raises ``Rejected`` as ``bad_json``; every other fault is in the submission.
    """
    if body.lstrip()[:1] == b"[":
        return _batch(body)
    try:
        probe = _PROBE.decode(body)
    except msgspec.ValidationError:
        return _faulty("record", Rejected("bad_payload", "send an object, or an array of objects"))
    except _UNDECODABLE as error:
        raise _no_json(error) from None
    if bytes(probe.vpp_id):
        return _faulty("record", Rejected("bad_payload", "a VPP document holds no readings", pointer="/vppId"))
    if bytes(probe.energy_data):
        return Submission("energy", *document_readings.of_energy(body, own_device))
    if bytes(probe.standard):
        return Submission("meter", *document_readings.of_meter(body), [])
    try:
        record = _ONE.decode(body)
    except _UNDECODABLE as error:
        return _faulty("record", _misshapen(error))
    return Submission("record", list(_measurements([("", record)])), _checked([("", record)]), [record])


def _batch(body: bytes) -> Submission:
    faults: list[Rejected] = []
    try:
        records = _MANY.decode(body)
        placed = [(f"/{index}", record) for index, record in enumerate(records)]
    except msgspec.ValidationError:
        placed = _one_by_one(body, faults)
    except _UNDECODABLE as error:
        raise _no_json(error) from None
    came = len(placed) + len(faults)
    if not came:
        return _faulty("batch", Rejected("bad_payload", "the array is empty; send at least one record"))
    if came > MOST_ELEMENTS:
        return _faulty("batch", Rejected("too_many", f"{came} records came, {MOST_ELEMENTS} may; send several arrays"))
    faults += _checked(placed)
    return Submission("batch", list(_measurements(placed)), faults, [record for _, record in placed])


def _one_by_one(body: bytes, faults: list[Rejected]) -> list[tuple[str, Record]]:
    """Decode an array of which some element is faulty; ``faults`` gets each of those."""
    placed: list[tuple[str, Record]] = []
    try:
        elements = _RAW_MANY.decode(body)
    except _UNDECODABLE as error:
        raise _no_json(error) from None
    for index, raw in enumerate(elements):
        try:
            placed.append((f"/{index}", _ONE.decode(raw)))
        except _UNDECODABLE as error:
            faults.append(_misshapen(error, f"/{index}"))
    return placed


def _measurements(placed: Iterable[tuple[str, Record]]) -> Iterator[Measurement]:
    for place, record in placed:
        for member, field, metric, unit in _VALUES:
            value = getattr(record, member)
            if value is not None:
                payload = Payload(record.timestamp, value, unit, record.quality)
                yield Measurement(record.meter_id, metric, payload, place, field)


def _checked(placed: Iterable[tuple[str, Record]]) -> list[Rejected]:
    """Return the faults of metadata that cannot be kept."""
    faults = []
    for place, record in placed:
        if record.metadata is not None and not _keepable(record.metadata):
            detail = f"metadata may have {MAX_METADATA_BYTES} bytes, {_MOST_NESTED} objects and arrays, and no NUL"
            faults.append(Rejected("bad_payload", detail, pointer=f"{place}/metadata"))
    return faults


def _keepable(metadata: dict[str, Any]) -> bool:
    try:
        text = msgspec.json.encode(metadata)
    except RecursionError:
        return False
    nested = text.count(b"{") + text.count(b"[")
    return len(text) <= MAX_METADATA_BYTES and nested <= _MOST_NESTED and b"\\u0000" not in text


def _faulty(kind: Kind, fault: Rejected) -> Submission:
    return Submission(kind, [], [fault], [])


def _misshapen(error: Exception, place: str = "") -> Rejected:
    """Return what msgspec found wrong with the shape of a record, with its path as a pointer."""
    text, _, path = str(error).partition(" - at `$")
    steps = [name or index for name, index in _STEP.findall(path.rstrip("`"))]
    return Rejected("bad_payload", text, pointer=place + pointer_of(steps))


def _no_json(error: Exception) -> Rejected:
    return Rejected("bad_json", f"the body is no JSON in UTF-8: {error}")
