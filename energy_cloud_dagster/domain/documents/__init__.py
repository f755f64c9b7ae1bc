"""The WIA-ENE-014 documents: models, JSON Schemas (2020-12) made from them, examples, and the verdict on a document."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from energy_cloud_dagster.domain.documents.examples import EXAMPLES
from energy_cloud_dagster.domain.documents.models import (
    Consumption,
    EnergyData,
    EnergyDocument,
    Generation,
    Metadata,
    MeterDocument,
    Storage,
    VppDocument,
)
from energy_cloud_dagster.domain.errors import NotFound

__all__ = [
    "EXAMPLE_KINDS",
    "KINDS",
    "Consumption",
    "EnergyData",
    "EnergyDocument",
    "Generation",
    "Metadata",
    "MeterDocument",
    "Storage",
    "VppDocument",
    "as_text",
    "example",
    "kind_of",
    "schema",
    "schemas",
    "validate",
]

_MODELS: Final[dict[str, type[BaseModel]]] = {"energy": EnergyDocument, "vpp": VppDocument, "meter": MeterDocument}
#: The kinds of documents; the energy document of phase 1 is an energy document.
KINDS: Final = tuple(_MODELS)
EXAMPLE_KINDS: Final = tuple(EXAMPLES)
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_ID: Final = "urn:wia-ene-014:1.0:{kind}"
_PLAIN_MEMBER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of document; ``NotFound`` lists the kinds."""
    if kind not in _MODELS:
        raise NotFound(f"there is no document {kind!r}; there are {', '.join(KINDS)}")
    made = _MODELS[kind].model_json_schema(by_alias=True)
    return {"$schema": _DIALECT, "$id": _ID.format(kind=kind), **made}


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every kind of document, as shipped under ``schemas/``."""
    return {kind: schema(kind) for kind in KINDS}


def as_text(document: Mapping[str, Any]) -> str:
    """Return a schema or an example as the text that is shipped and printed."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def example(kind: str) -> dict[str, Any]:
    """Return a conforming document; ``NotFound`` lists the kinds that there are."""
    if kind not in EXAMPLES:
        raise NotFound(f"there is no example {kind!r}; there are {', '.join(EXAMPLES)}")
    return copy.deepcopy(EXAMPLES[kind])


def kind_of(data: object) -> str | None:
    """Return which document ``data`` means to be, by the member that only that one has; None where it has none."""
    if isinstance(data, Mapping):
        for kind, members in (("energy", ("energyData",)), ("vpp", ("vppId",)), ("meter", ("meterId", "readings"))):
            if any(member in data for member in members):
                return kind
    return None


def validate(data: object, kind: str | None = None) -> list[tuple[str, str]]:
    """Return every fault of parsed JSON as (JSON path, what to fix); none: it conforms.

    ``kind`` None: as ``kind_of`` finds. Numbers must be numbers here, though the API takes them as strings too.
    """
    chosen = kind or kind_of(data)
    if chosen is None:
        return [("$", "this is no WIA-ENE-014 document: it has none of energyData, vppId, meterId")]
    if chosen not in _MODELS:
        raise NotFound(f"there is no document {chosen!r}; there are {', '.join(KINDS)}")
    try:
        _MODELS[chosen].model_validate_json(json.dumps(data), strict=True, by_name=False, by_alias=True)
    except ValidationError as error:
        return [(_path(fault["loc"]), fault["msg"]) for fault in error.errors(include_url=False)]
    return []


def _path(location: tuple[int | str, ...]) -> str:
    path = "$"
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if _PLAIN_MEMBER.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"
    return path
