"""How OpenAPI describes ``POST /v1/energy/consumption``, whose body is decoded by hand for its speed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from energy_cloud_dagster.api.values import Document, Moment
from energy_cloud_dagster.domain import documents
from energy_cloud_dagster.domain.readings.measurements import MOST_ELEMENTS
from energy_cloud_dagster.domain.readings.submissions import MAX_METADATA_BYTES

type Number = Annotated[float | str, Field(description="A number, or a string that holds one.")]
type Quality = Literal["high", "medium", "low", "bad"]


class ConsumptionRecord(Document):
    """What one meter consumed in the interval that starts at `timestamp`."""

    meter_id: Annotated[str, Field(min_length=1, max_length=128, examples=["SM-001"])]
    timestamp: Annotated[Moment | float, Field(description="RFC 3339 with offset, or epoch seconds or milliseconds.")]
    consumption: Annotated[Number, Field(description="kWh.")]
    voltage: Annotated[Number | None, Field(description="V.")] = None
    current: Annotated[Number | None, Field(description="A.")] = None
    power_factor: Annotated[Number | None, Field(description="From -1 to 1.")] = None
    quality: Quality = "high"
    metadata: Annotated[
        dict[str, Any] | None,
        Field(
            description=f"Of the meter itself, {MAX_METADATA_BYTES} bytes at most; the latest is kept with the device."
        ),
    ] = None


class StoredRecord(ConsumptionRecord):
    """A record as it was stored; numbers are numbers."""

    id: str = Field(description="Names the reading; a repetition or a correction of it has the same.")
    timestamp: datetime
    consumption: float
    voltage: float | None = None
    current: float | None = None
    power_factor: float | None = None
    unit: Literal["kWh"]
    received_at: datetime


class StoredReading(Document):
    """A reading of a document, in the unit of its series."""

    id: str
    timestamp: datetime
    metric: str
    value: float
    unit: str
    quality: Quality


class StoredDocument(Document):
    """The readings of a meter or energy document as they were stored."""

    meter_id: str
    received_at: datetime
    readings: list[StoredReading]


_SUFFIX: Final = "Body"
_MODELS: Final[tuple[type[BaseModel], ...]] = (
    ConsumptionRecord,
    StoredRecord,
    StoredDocument,
    documents.MeterDocument,
    documents.EnergyDocument,
)


def _components() -> dict[str, Any]:
    _, made = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template=f"#/components/schemas/{{model}}{_SUFFIX}"
    )
    return {f"{name}{_SUFFIX}": schema for name, schema in made["$defs"].items()}


#: Schemas that the descriptions below refer to, by name.
COMPONENTS: Final = _components()


def _of(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}{_SUFFIX}"}


def _array_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": MOST_ELEMENTS, "items": _of(model)}


_RECORD: Final = {
    "meterId": "SM-001",
    "timestamp": "2026-03-01T09:00:00+09:00",
    "consumption": 0.42,
    "voltage": 229.8,
    "current": 1.9,
    "powerFactor": 0.97,
    "metadata": {"meterType": "smart-meter-v2", "firmware": "2.1.5"},
}
REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "anyOf": [
                    _of(ConsumptionRecord),
                    _array_of(ConsumptionRecord),
                    _of(documents.MeterDocument),
                    _of(documents.EnergyDocument),
                ]
            },
            "examples": {
                "record": {"summary": "One record", "value": _RECORD},
                "batch": {
                    "summary": "An array of records, epoch times and numbers as strings",
                    "value": [
                        {"meterId": "SM-001", "timestamp": 1772323200000, "consumption": "0.42"},
                        {"meterId": "SM-TEST-001", "timestamp": 1772323200, "consumption": 0.4},
                    ],
                },
                "meter": {"summary": "A meter document", "value": documents.example("meter")},
                "energy": {"summary": "An energy document", "value": documents.example("energy")},
            },
        }
    },
}
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    201: {
        "description": "Stored, and durable: the record with its id, an array of them, or the readings of a document.",
        "content": {
            "application/json": {"schema": {"anyOf": [_of(StoredRecord), _array_of(StoredRecord), _of(StoredDocument)]}}
        },
    },
}
