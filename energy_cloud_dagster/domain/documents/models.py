"""The three WIA-ENE-014 documents as models. JSON is camelCase; members that the standard does not name are kept.

Energy is in kWh, power in kW, fractions from 0 to 1, timestamps RFC 3339 with an offset.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

type Quality = Literal["high", "medium", "low", "bad"]
type Unit = Literal["W", "kW", "MW", "Wh", "kWh", "MWh", "°C", "m/s", "%", "1", "V", "A", "Hz"]
type Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
type Number = Annotated[float, Field(allow_inf_nan=False)]
type Fraction = Annotated[float, Field(ge=0, le=1)]
type Text = Annotated[str, Field(min_length=1)]


class Document(BaseModel):
    """What all parts of the documents have in common."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


class Consumption(Document):
    """Energy consumed in the document's window."""

    total: Amount = Field(description="kWh; the sum of the breakdown where there is one.")
    unit: Literal["kWh"]
    breakdown: dict[str, Amount] | None = Field(None, description="kWh by customer class: residential, commercial …")
    quality: Quality | None = Field(None, description="Of the readings it sums.")


class Generation(Document):
    """Energy generated, and taken from the grid, in the document's window."""

    total: Amount = Field(description="kWh; the sum of the sources where there are any.")
    unit: Literal["kWh"]
    sources: dict[str, Amount] | None = Field(None, description="kWh by source: solar, wind, hydro, grid …")


class Storage(Document):
    """Storage at the end of the document's window."""

    capacity: Amount = Field(description="kWh that fit in.")
    current: Amount = Field(description="kWh that are in it.")
    unit: Literal["kWh"]
    status: Literal["charging", "discharging", "idle"]


class EnergyData(Document):
    """The quantities."""

    consumption: Consumption
    generation: Generation | None = None
    storage: Storage | None = None


class Metadata(Document):
    """Where the quantities hold, and how far they can be trusted."""

    location: Text | None = None
    grid_id: Text | None = None
    quality: Quality | None = None
    confidence: Fraction | None = Field(None, description="Share of the readings that were measured, not substituted.")


class EnergyDocument(Document):
    """The energy of a place: in full, or as phase 1 of the standard has it (`phase`, consumption alone)."""

    standard: Literal["WIA-ENE-014"]
    version: Literal["1.0"] | None = None
    phase: Literal[1] | None = Field(None, description="1 in the document of phase 1.")
    timestamp: AwareDatetime
    energy_data: EnergyData
    metadata: Metadata | None = None


class Location(Document):
    """A place on Earth, in degrees."""

    lat: Annotated[float, Field(ge=-90, le=90)]
    lng: Annotated[float, Field(ge=-180, le=180)]


class Resource(Document):
    """One resource of a virtual power plant."""

    id: Text
    type: Literal["solar", "wind", "hydro", "storage", "chp", "grid", "load"]
    capacity: Amount = Field(description="kW.")
    current: Number | None = Field(None, description="kW now; storage: discharge positive.")
    efficiency: Fraction | None = None
    soc: Fraction | None = Field(None, description="State of charge of storage.")
    location: Location | None = None


class VppDocument(Document):
    """A virtual power plant and what its resources give."""

    vpp_id: Text
    name: Text
    capacity: Amount = Field(description="kW.")
    unit: Literal["kW"]
    resources: list[Resource]
    aggregated_output: Number | None = Field(None, description="kW now, over all resources.")
    status: Text | None = None
    last_update: AwareDatetime | None = None


class MeterReading(Document):
    """One reading; energy is that of the interval which starts at `timestamp`, power the mean over it."""

    timestamp: AwareDatetime
    metric: Text = Field(description="consumption, generation, voltage …")
    value: Number
    unit: Unit
    quality: Quality


class MeterDocument(Document):
    """The readings of one meter (requirement ENE-101)."""

    standard: Literal["WIA-ENE-014"]
    version: Literal["1.0"]
    timestamp: AwareDatetime = Field(description="When the document was made.")
    meter_id: Text
    readings: Annotated[list[MeterReading], Field(min_length=1)]
