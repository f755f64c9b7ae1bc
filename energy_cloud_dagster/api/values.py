"""How values look over HTTP: camelCase documents, moments, energy and money."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

#: Epoch numbers from here on are milliseconds: as seconds they would lie past the year 5000.
_MILLISECONDS_FROM: Final = 100_000_000_000
_EPOCH: Final = re.compile(r"-?\d+(\.\d+)?")
#: A plus sign that a URL turned into a space, as curl users meet it.
_LOST_PLUS: Final = re.compile(r"(T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?) (\d{2}:?\d{2})$")


def moment(value: Any) -> datetime:
    """Return a moment in UTC from RFC 3339 with an offset, or from epoch seconds or milliseconds.

    Anything else, a text without offset included, is a ``ValueError`` that says what would be right.
    """
    if isinstance(value, bool):
        raise ValueError("is no time; write RFC 3339 such as 2026-01-31T09:00:00Z, or epoch seconds")  # noqa: TRY004
    text = str(value).strip() if isinstance(value, str | int | float | Decimal) else ""
    if _EPOCH.fullmatch(text):
        number = float(text)
        seconds = number / 1000 if abs(number) >= _MILLISECONDS_FROM else number
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (OverflowError, OSError, ValueError):
            raise ValueError("is an epoch time out of range") from None
    try:
        parsed = value if isinstance(value, datetime) else datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", text))
    except ValueError:
        raise ValueError("is no time; write RFC 3339 such as 2026-01-31T09:00:00Z, or epoch seconds") from None
    if parsed.tzinfo is None:
        raise ValueError("has no offset; write RFC 3339 such as 2026-01-31T09:00:00Z or 2026-01-31T18:00:00+09:00")
    try:
        return parsed.astimezone(UTC)
    except OverflowError:
        raise ValueError("is a time out of range") from None


Moment = Annotated[
    datetime,
    BeforeValidator(moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T09:00:00Z"]}),
]
"""A moment as callers may write it."""


class Document(BaseModel):
    """Base of all answers and requests: camelCase names outside, unknown fields of a request refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Page[Item](Document):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last.")


def absent(value: object) -> bool:
    """Whether an optional field is left out of an answer."""
    return value is None


def finite(number: float) -> float:
    """Return ``number`` rounded to nine digits after the point: sums of floats carry noise past that."""
    return round(number, 9)


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema without references: for a body that OpenAPI describes and a route reads by hand."""
    definitions = schema.get("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(each) for each in part]
        if not isinstance(part, Mapping):
            return part
        if "$ref" in part:
            part = {**definitions[part["$ref"].removeprefix("#/$defs/")], **part}
        return {name: resolved(each) for name, each in part.items() if name not in {"$ref", "$defs"}}

    return resolved(schema)  # type: ignore[no-any-return]
