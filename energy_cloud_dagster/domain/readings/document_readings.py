"""The readings that a WIA-ENE-014 meter or energy document tells.

An energy document speaks of the device that its member ``meterId`` names, else of the caller's own where that is a
device, else of the grid point of ``metadata.gridId``. What a grid point consumes is the sum of its meters, so it goes
under metrics of its own (``region-consumption`` …) and never counts a second time in a sum. Totals are kept with their
parts: ``consumption``, ``consumption-residential``, ``generation``, ``generation-solar``, ``storage`` …
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from energy_cloud_dagster.domain.documents import EnergyDocument, MeterDocument
from energy_cloud_dagster.domain.errors import Rejected
from energy_cloud_dagster.domain.readings.decode import Payload
from energy_cloud_dagster.domain.readings.measurements import MOST_ELEMENTS, Measurement, pointer_of

_GRID_PREFIX = "region-"


def of_meter(body: bytes) -> tuple[list[Measurement], list[Rejected]]:
    """Return the measurements and the faults of a meter document; numbers may come as strings."""
    document, faults = _validated(MeterDocument, body)
    if document is None:
        return [], faults
    if len(document.readings) > MOST_ELEMENTS:
        detail = f"{len(document.readings)} readings came, {MOST_ELEMENTS} may; send several documents"
        return [], [Rejected("too_many", detail, pointer="/readings")]
    found = []
    for index, reading in enumerate(document.readings):
        place = f"/readings/{index}"
        payload = Payload(reading.timestamp.isoformat(), reading.value, reading.unit, reading.quality)
        found.append(Measurement(document.meter_id, reading.metric, payload, place, ""))
    return found, faults


def of_energy(body: bytes, own_device: str | None) -> tuple[list[Measurement], list[Rejected], list[Any], str | None]:
    """Return the measurements and the faults of an energy document, no records, and the grid point that it speaks of.

    The grid point is None where it speaks of one device.
    """
    document, faults = _validated(EnergyDocument, body)
    if document is None:
        return [], faults, [], None
    named = (document.model_extra or {}).get("meterId", own_device)
    grid_id = None if named is not None or document.metadata is None else document.metadata.grid_id
    if named is None and grid_id is None:
        detail = "the document names no place; add metadata.gridId, or meterId for the totals of one meter"
        pointer = "/metadata" if document.metadata is None else "/metadata/gridId"
        return [], [Rejected("bad_payload", detail, pointer=pointer)], [], None
    found = list(_totals(document, str(named or grid_id), "" if grid_id is None else _GRID_PREFIX))
    if len(found) > MOST_ELEMENTS:
        return [], [Rejected("too_many", f"{len(found)} totals came, {MOST_ELEMENTS} may")], [], None
    return found, faults, [], grid_id


def _totals(document: EnergyDocument, device_id: str, prefix: str) -> Iterator[Measurement]:
    data, metadata = document.energy_data, document.metadata
    stated = "high" if metadata is None or metadata.quality is None else metadata.quality
    moment = document.timestamp.isoformat()

    def total(metric: str, value: float, quality: str | None, *steps: str) -> Measurement:
        payload = Payload(moment, value, "kWh", quality or stated)
        return Measurement(device_id, prefix + metric, payload, "", pointer_of(("energyData", *steps)))

    consumed, generated = data.consumption, data.generation
    yield total("consumption", consumed.total, consumed.quality, "consumption", "total")
    for name, value in (consumed.breakdown or {}).items():
        yield total(f"consumption-{name}", value, consumed.quality, "consumption", "breakdown", name)
    if generated is not None:
        yield total("generation", generated.total, None, "generation", "total")
        for name, value in (generated.sources or {}).items():
            yield total(f"generation-{name}", value, None, "generation", "sources", name)
    if data.storage is not None:
        yield total("storage", data.storage.current, None, "storage", "current")


def _validated[Model: BaseModel](model: type[Model], body: bytes) -> tuple[Model | None, list[Rejected]]:
    try:
        return model.model_validate_json(body, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, [
            Rejected("bad_payload", fault["msg"], pointer=pointer_of(fault["loc"]))
            for fault in error.errors(include_url=False, include_input=False)
        ]
