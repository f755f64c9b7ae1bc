"""Rows survive every form that they pass through, to the bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.adapters import archive_rows
from energy_cloud_dagster.adapters.archive_rows import (
    RowsDigest,
    SeriesNames,
    Texts,
    batch_of_rows,
    copy_bytes,
    groups,
    row_dtype,
    rows_of_batch,
)
from energy_cloud_dagster.domain.errors import Conflict

TEXTS = Texts(("bad", "high"), ("history", "mqtt", "opc»ua"))
NAMES = SeriesNames(
    np.array([1, 3], np.int32), pa.table({"device_id": ["A", "B"], "metric": ["m", "n"], "unit": ["kWh", "°C"]})
)
MICROSECONDS = st.integers(-(2**60), 2**60)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**31 - 1),
        MICROSECONDS,
        st.integers(1, 2**15 - 1),
        st.floats(width=64),
        MICROSECONDS,
        st.integers(0, 1),
        st.integers(0, 2),
    ),
    max_size=200,
)


def made(rows: list[tuple[Any, ...]]) -> np.ndarray[Any, Any]:
    return np.array(rows, row_dtype())


def digest(*parts: np.ndarray[Any, Any], texts: Texts = TEXTS) -> str:
    found = RowsDigest(texts)
    for part in parts:
        found.update(part)
    return found.hexdigest()


@settings(max_examples=60)
@given(ROWS)
def test_rows_come_back_from_arrow_as_they_were(rows: list[tuple[Any, ...]]) -> None:
    before = made(rows)
    table = batch_of_rows(before, TEXTS, NAMES)
    after = [rows_of_batch(batch, TEXTS) for batch in table.to_batches()]
    assert b"".join(part.tobytes() for part in after) == before.tobytes()


@settings(max_examples=60)
@given(ROWS, st.integers(10, 90), st.integers(20, 700))
def test_rows_come_back_from_copy_however_it_is_cut(rows: list[tuple[Any, ...]], group: int, message: int) -> None:
    before = made(rows)
    sent = b"".join(copy_bytes([before[:7], before[7:]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_rows, "GROUP_ROWS", group)
        after = list(groups(sent[start : start + message] for start in range(0, len(sent), message)))
    assert b"".join(part.tobytes() for part in after) == before.tobytes()
    assert all(len(part) <= group for part in after)
    assert digest(*after) == digest(before)


def test_the_digest_tells_any_two_days_apart() -> None:
    row = (1, 5, 1, 2.5, 9, 0, 1)
    others = [(2, *row[1:]), (*row[:3], -0.0, *row[4:]), (*row[:3], math.nan, *row[4:]), (*row[:5], 1, 1)]
    found = {digest(made([one])) for one in [row, *others]}
    found |= {digest(made([])), digest(made([row, row])), digest(made([row]), texts=Texts(("bad", "low"), ("mqtt",)))}
    assert len(found) == 8


def test_a_series_that_nobody_registered_has_no_names() -> None:
    table = batch_of_rows(made([(one, 0, 1, 1.0, 0, 0, 0) for one in (0, 1, 2, 3, 4)]), TEXTS, NAMES)
    assert table["device_id"].to_pylist() == [None, "A", None, "B", None]
    assert table["unit"].to_pylist() == [None, "kWh", None, "°C", None]
    empty = SeriesNames(np.array([], np.int32), NAMES.names.slice(0, 0))
    assert batch_of_rows(made([(1, 0, 1, 1.0, 0, 0, 0)]), TEXTS, empty)["metric"].to_pylist() == [None]


def test_a_copy_of_another_shape_is_refused() -> None:
    whole = b"".join(copy_bytes([made([(1, 5, 1, 2.5, 9, 0, 1)])]))
    with pytest.raises(Conflict, match="ended early"):
        list(groups([whole[:-2]]))
    with pytest.raises(Conflict, match="header"):
        list(groups([b"x" * len(whole)]))
    with pytest.raises(Conflict, match="one length"):
        list(groups([whole[:19], b"\x00\x06", whole[21:]]))


def test_a_text_that_the_metadata_does_not_name_is_refused() -> None:
    table = batch_of_rows(made([(1, 5, 1, 2.5, 9, 0, 1)]), TEXTS, NAMES)
    with pytest.raises(Conflict, match="quality"):
        rows_of_batch(table.to_batches()[0], Texts(("low",), TEXTS.sources))
