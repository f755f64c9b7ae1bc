"""Canonical bytes: one form for one value, and different forms for different values."""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.audit.canonical import digest, encode, rows_bytes, rows_digest, salted_rows_digest
from energy_cloud_dagster.domain.errors import InvalidInput

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Side(enum.StrEnum):
    BUY = "buy"


@dataclass(frozen=True)
class Pair:
    left: int
    right: str


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, 1.0]}, '{"a":[true,null,1.0],"b":1}'),
        ('é\n"', '"é\\n\\""'),
        (0.1 + 0.2, "0.30000000000000004"),
        (-0.0, "0.0"),
        (1e22, "1e+22"),
        (NOON, '"2026-03-02T12:00:00Z"'),
        (NOON.astimezone(timezone(timedelta(hours=9))), '"2026-03-02T12:00:00Z"'),
        (pd.Timestamp("2026-03-02T12:00Z"), '"2026-03-02T12:00:00Z"'),
        (date(2026, 3, 2), '"2026-03-02"'),
        (Decimal("1.500"), '"1.5"'),
        (Decimal("1E+3"), '"1000"'),
        (Decimal("-0.00"), '"0"'),
        (b"\x00\xff", '"0x00ff"'),
        (bytearray(b"\x01"), '"0x01"'),
        (np.int64(7), "7"),
        (np.float64(0.5), "0.5"),
        (np.float32(0.5), "0.5"),
        (Side.BUY, '"buy"'),
        (Pair(1, "x"), '{"left":1,"right":"x"}'),
        ((1, (2,)), "[1,[2]]"),
        (MappingProxyType({"k": 1}), '{"k":1}'),
    ],
)
def test_forms(value: object, text: str) -> None:
    assert encode(value).decode() == text


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        np.float64("nan"),
        Decimal("NaN"),
        datetime(2026, 1, 1),  # noqa: DTZ001
        {1: "a"},
        {"a": {1, 2}},
        Fraction(1, 2),
        object(),
        Pair,
        "\ud800",
    ],
)
def test_what_has_no_form_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        encode(value)


def test_integers_and_floats_differ() -> None:
    assert digest(1) != digest(1.0)
    assert digest([1]) != digest(["1"])


@given(PLAIN)
@settings(max_examples=100, deadline=None)
def test_form_is_json_and_keeps_the_value(value: object) -> None:
    assert json.loads(encode(value)) == value
    assert encode(json.loads(encode(value))) == encode(value)
    assert digest(value) == hashlib.sha256(encode(value)).hexdigest()


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
@settings(max_examples=30, deadline=None)
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert encode(dict(reversed(value.items()))) == encode(value)


@given(st.lists(st.tuples(st.integers(), st.text(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
@settings(max_examples=60, deadline=None)
def test_rows_have_no_order_but_every_row_counts(rows: list[tuple[int, str, float]]) -> None:
    assert rows_digest(reversed(rows)) == rows_digest(rows)
    assert rows_digest([*rows, rows[0]]) != rows_digest(rows)
    assert rows_digest(rows[1:]) != rows_digest(rows)
    changed = [(rows[0][0] + 1, *rows[0][1:]), *rows[1:]]
    assert rows_digest(changed) != rows_digest(rows)
    assert rows_bytes(rows).count(b"\n") == len(rows) - 1
    assert sorted(rows_bytes(rows).decode().split("\n")) == sorted(encode(row).decode() for row in rows)


def test_salts_hide_and_tell_subjects_apart() -> None:
    rows = [(1, NOON, 0.25, "high")]
    one, other = bytes(16), bytes([1] * 16)
    assert salted_rows_digest(one, rows) == hmac.new(one, rows_bytes(rows), hashlib.sha256).hexdigest()
    assert salted_rows_digest(one, rows) != salted_rows_digest(other, rows)
    with pytest.raises(InvalidInput, match="16 bytes"):
        salted_rows_digest(b"short", rows)
