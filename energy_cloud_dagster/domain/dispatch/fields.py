"""Typed reading of a JSON object, field by field; every fault names its JSON pointer (RFC 6901)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import utc

#: The largest number that is believed: above all the power of the world in kW, and far below a solver's infinity.
MOST: Final = 1e12
#: What breaks the lines of a table, steers a terminal, or is no character at all (one half of a surrogate pair).
UNREADABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
#: Characters of a wrong text that a message repeats.
_QUOTED: Final = 40


def at(pointer: str, key: str | int) -> str:
    """Return the pointer of ``key`` below ``pointer``."""
    return f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"


def listing(value: Any, pointer: str) -> list[Any]:
    """Return ``value`` if it is an array."""
    if not isinstance(value, list | tuple):
        raise InvalidInput("must be an array", pointer=pointer)
    return list(value)


def shape_of(value: Any) -> int | None:
    """Return the length of an array, ``None`` for anything else."""
    return len(value) if isinstance(value, list | tuple) else None


def finite(value: Any, pointer: str, *, low: float | None = 0.0, high: float | None = None) -> float:
    """Return ``value`` as a float if it is a finite number within ``[low, high]``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"must be a number, not {_kind_of(value)}", pointer=pointer)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidInput(f"must be finite, not {number}", pointer=pointer)
    if abs(number) > MOST:
        raise InvalidInput(f"must be within ±{MOST:g}, not {number:g}", pointer=pointer)
    if low is not None and number < low:
        raise InvalidInput(f"must be at least {low:g}, not {number:g}", pointer=pointer)
    if high is not None and number > high:
        raise InvalidInput(f"must be at most {high:g}, not {number:g}", pointer=pointer)
    return number + 0.0  # no negative zero


def _kind_of(value: Any) -> str:
    """Return what a JSON value that is no number is, as a sentence says it."""
    if isinstance(value, str):
        return f"the text {value[:_QUOTED]!r}"
    if isinstance(value, bool):
        return str(value).lower()
    return "an array" if isinstance(value, list | tuple) else "null" if value is None else "an object"


class Fields:
    """One JSON object at ``pointer``, of which only the ``known`` fields may be there; null counts as absent."""

    def __init__(self, document: Any, pointer: str, known: Collection[str]) -> None:
        if not isinstance(document, dict):
            raise InvalidInput("must be an object", pointer=pointer)
        for key in document:
            if key not in known:
                near = get_close_matches(str(key), sorted(known), n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InvalidInput(f"{key!r} is not known here{hint}", pointer=at(pointer, key))
        self.pointer = pointer
        self._document = document

    def get(self, key: str, default: Any = None) -> Any:
        """Return the raw value, ``default`` where it is absent or null."""
        value = self._document.get(key)
        return default if value is None else value

    def required(self, key: str) -> Any:
        """Return the raw value of a field that must be there."""
        value = self._document.get(key)
        if value is None:
            raise InvalidInput(f"{key!r} is missing", pointer=at(self.pointer, key))
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float | None = 0.0, high: float | None = None
    ) -> float:
        """Return a number within ``[low, high]``; without a ``default`` the field must be there."""
        value = self.required(key) if default is None else self.get(key, default)
        return finite(value, at(self.pointer, key), low=low, high=high)

    def optional_number(self, key: str, *, low: float | None = 0.0, high: float | None = None) -> float | None:
        """Return a number in ``[low, high]``, ``None`` where it is absent."""
        return None if self.get(key) is None else self.number(key, low=low, high=high)

    def whole(self, key: str, *, low: float | None = None) -> int | None:
        """Return an integer, ``None`` where it is absent."""
        if self.get(key) is None:
            return None
        number = self.number(key, low=low)
        if number != int(number):
            raise InvalidInput("must be a whole number", pointer=at(self.pointer, key))
        return int(number)

    def series(
        self,
        key: str,
        steps: int,
        *,
        default: float = 0.0,
        required: bool = False,
        low: float | None = 0.0,
        high: float | None = None,
    ) -> tuple[float, ...]:
        """Return one value per step from a number or an array of exactly ``steps`` numbers."""
        pointer = at(self.pointer, key)
        value = self.required(key) if required else self.get(key, default)
        length = shape_of(value)
        if length is None:
            return (finite(value, pointer, low=low, high=high),) * steps
        if length != steps:
            raise InvalidInput(f"has {length} values; the plan has {steps} steps", pointer=pointer)
        return tuple(finite(each, at(pointer, index), low=low, high=high) for index, each in enumerate(value))

    def text(self, key: str, default: str) -> str:
        """Return a string that is not empty."""
        value = self.get(key, default)
        if not isinstance(value, str) or not value.strip():
            raise InvalidInput("must be a string that is not empty", pointer=at(self.pointer, key))
        return value

    def flag(self, key: str) -> bool:
        """Return a boolean, false where it is absent."""
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise InvalidInput("must be true or false", pointer=at(self.pointer, key))
        return value

    def moment(self, key: str) -> datetime | None:
        """Return an RFC 3339 time with offset in UTC, ``None`` where it is absent."""
        value = self.get(key)
        if value is None:
            return None
        try:
            return utc(value if isinstance(value, datetime) else datetime.fromisoformat(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInput("must be an RFC 3339 time with offset", pointer=at(self.pointer, key)) from error
