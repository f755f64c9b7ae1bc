"""Canonical bytes of plain data, and digests over them.

The form is JSON in UTF-8: keys sorted by code point, no spaces, characters unescaped where JSON allows it.

- Integers and floats differ: ``1`` and ``1.0`` have different digests. Floats are Python's shortest text that reads
  back as the same double; -0.0 is written as 0.0 (equal values, and PostgreSQL's jsonb drops the sign); NaN and
  infinity are refused.
- Times are RFC 3339 in UTC with a trailing Z, and must have an offset. Decimals are their plain digits without
  trailing zeros, as a string; bytes are ``0x`` and lower-case hex. So a time and its text have the same digest: which
  of them stands at a place is a matter of the format, not of the value.
- Tuples are arrays, dataclasses are objects of their fields. Sets and anything else are refused.

jsonb turns floats of 1e16 and more into integers: take digests of such documents from what the database returns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from json.encoder import encode_basestring
from numbers import Integral, Rational, Real
from typing import Any, Final

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import rfc3339

LEAST_SALT_BYTES: Final = 16


def encode(obj: object) -> bytes:
    """Return the canonical bytes of ``obj``; ``InvalidInput`` names what has no canonical form."""
    return _bytes(_write(obj))


def digest(obj: object) -> str:
    """Return the SHA-256 of the canonical bytes, 64 hex digits."""
    return hashlib.sha256(encode(obj)).hexdigest()


def rows_bytes(rows: Iterable[tuple[Any, ...]]) -> bytes:
    """Return the canonical lines of ``rows``, sorted and joined by newlines: the order of the rows does not matter.

    A row that comes twice counts twice. No line contains a newline, so two sets of rows never share their bytes.
    """
    return _bytes("\n".join(sorted(map(_array, rows))))


def rows_digest(rows: Iterable[tuple[Any, ...]]) -> str:
    """Return the SHA-256 of ``rows_bytes``, 64 hex digits."""
    return hashlib.sha256(rows_bytes(rows)).hexdigest()


def salted_rows_digest(salt: bytes, rows: Iterable[tuple[Any, ...]]) -> str:
    """Return the HMAC-SHA-256 of ``rows_bytes`` under a subject's salt (16 bytes or more), 64 hex digits.

    Without the salt nobody can tell from the digest which readings it stands for, or find them by trying; erasing the
    salt therefore erases the link.
    """
    if len(salt) < LEAST_SALT_BYTES:
        raise InvalidInput(f"a subject's salt has {LEAST_SALT_BYTES} bytes or more")
    return hmac.new(salt, rows_bytes(rows), hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("a text with a lone surrogate has no canonical form") from error


def _write(obj: object) -> str:
    writer = _WRITERS.get(type(obj))
    return writer(obj) if writer else _unusual(obj)


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise InvalidInput(f"{value} has no canonical form; use null for a missing value")
    return float.__repr__(value + 0.0)


def _stamp(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise InvalidInput(f"the time {moment} has no offset, so it has no canonical form")
    return f'"{rfc3339(moment)}"'


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise InvalidInput(f"{value} has no canonical form; use null for a missing value")
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return '"0"' if value == 0 else f'"{text}"'


def _array(items: Iterable[object]) -> str:
    return "[" + ",".join([_write(item) for item in items]) + "]"


def _object(mapping: Mapping[Any, object]) -> str:
    for key in mapping:
        if not isinstance(key, str):
            raise InvalidInput(f"the key {key!r} is not a text")
    return "{" + ",".join([f"{encode_basestring(key)}:{_write(mapping[key])}" for key in sorted(mapping)]) + "}"


def _unusual(obj: object) -> str:
    """Write subclasses, numbers of other libraries, dataclasses and other mappings."""
    for kind, writer in _BY_KIND:
        if isinstance(obj, kind) and not isinstance(obj, type):
            return writer(obj)
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return _object({field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)})
    if isinstance(obj, Real) and not isinstance(obj, Rational):
        return _float(float(obj))
    raise InvalidInput(f"{type(obj).__name__} has no canonical form")


_WRITERS: dict[type, Callable[[Any], str]] = {
    int: int.__repr__,
    float: _float,
    str: encode_basestring,
    datetime: _stamp,
    type(None): lambda _: "null",
    bool: lambda flag: "true" if flag else "false",
    dict: _object,
    list: _array,
    tuple: _array,
    Decimal: _decimal,
    bytes: lambda raw: f'"0x{raw.hex()}"',
}
_BY_KIND: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
    (str, lambda text: encode_basestring(str.__str__(text))),
    (datetime, _stamp),
    (date, lambda day: f'"{day.isoformat()}"'),
    (Decimal, _decimal),
    (Integral, lambda number: int.__repr__(int(number))),
    (Mapping, _object),
    ((list, tuple), _array),
    ((bytearray, memoryview), lambda raw: f'"0x{bytes(raw).hex()}"'),
)
