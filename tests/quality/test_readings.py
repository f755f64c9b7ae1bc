"""Row rules send rows to quarantine by name; the set rules of a delivery say who is not ready."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.quality.readings import split_by_row_rules
from energy_cloud_dagster.quality.rules import ANY_SERIES, PLAUSIBLE, plausible_range
from energy_cloud_dagster.quality.suites import SuiteResult, delivery_suite, row_suite, run_suite

TS = datetime(2026, 4, 6, 9, tzinfo=UTC)
COLUMNS = ["series_id", "ts", "revision", "value", "quality", "received_at", "role"]


def frame(*rows: tuple[float | None, str, str]) -> pd.DataFrame:
    """Return readings of (value, quality, role), one series each."""
    return pd.DataFrame(
        [(number, TS, 1, value, quality, TS, role) for number, (value, quality, role) in enumerate(rows)],
        columns=COLUMNS,
    )


def test_nothing_gives_nothing() -> None:
    valid, quarantined, result = split_by_row_rules(frame())
    assert valid.empty
    assert quarantined.empty
    assert [*quarantined.columns] == [*COLUMNS, "rule", "detail"]
    assert result.passed


def test_good_rows_all_pass() -> None:
    given = frame((0.0, "high", "load"), (50.0, "medium", "load"), (-205.0, "low", "wind"), (1e9, "high", ""))
    valid, quarantined, result = split_by_row_rules(given)
    pd.testing.assert_frame_equal(valid, given)
    assert quarantined.empty
    assert result.failures() == {}


@pytest.mark.parametrize(
    ("value", "quality", "role", "rules"),
    [
        (50.000001, "high", "load", ["above_plausible_range"]),
        (-0.000001, "high", "pv", ["below_plausible_range"]),
        (math.inf, "high", "wind", ["above_plausible_range"]),
        (-math.inf, "high", "", ["below_plausible_range"]),
        (1.0, "bad", "load", ["quality_bad"]),
        (1.0, "High", "load", ["quality_bad"]),
        (99.0, "bad", "load", ["above_plausible_range", "quality_bad"]),
        (math.nan, "high", "load", ["value_missing"]),
        (None, "bad", "load", ["quality_bad", "value_missing"]),
    ],
)
def test_a_bad_row_is_kept_under_every_rule_that_it_failed(
    value: float | None, quality: str, role: str, rules: list[str]
) -> None:
    valid, quarantined, result = split_by_row_rules(frame((1.0, "high", "load"), (value, quality, role)))
    assert list(valid["series_id"]) == [0]
    assert sorted(quarantined["rule"]) == rules
    assert sorted(result.failures()) == rules
    assert set(quarantined["series_id"]) == {1}
    assert quarantined["detail"].str.len().min() > 5
    assert not result.passed


def test_labels_of_the_frame_and_not_its_positions_name_the_rows() -> None:
    given = frame((1.0, "high", "load"), (99.0, "high", "load"), (2.0, "high", "load"))
    given.index = pd.Index([30, 10, 20])
    valid, quarantined, _ = split_by_row_rules(given)
    assert list(valid.index) == [30, 20]
    assert list(quarantined.index) == [10]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(-1e10, 1e10), st.just(math.nan)),
            st.sampled_from(["high", "medium", "low", "bad", ""]),
            st.sampled_from([*PLAUSIBLE, ""]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_every_row_is_valid_or_in_quarantine(rows: list[tuple[float, str, str]]) -> None:
    valid, quarantined, _ = split_by_row_rules(frame(*rows))
    held = set(quarantined["series_id"])
    assert held | set(valid["series_id"]) == set(range(len(rows)))
    assert held & set(valid["series_id"]) == set()
    for number, (value, quality, role) in enumerate(rows):
        within = plausible_range(role).least <= value <= plausible_range(role).greatest
        assert (number not in held) == (within and quality in {"high", "medium", "low"})


def test_an_unknown_role_has_the_widest_range() -> None:
    assert plausible_range(None) is plausible_range("") is plausible_range("heat") is ANY_SERIES
    assert all(one.least < one.greatest for one in PLAUSIBLE.values())


def delivery(**changed: Any) -> pd.DataFrame:
    row = {"complete": 1, "net_injection_wh": -500, "magnitude_wh": 500, "greatest_wh": 50_000}
    return pd.DataFrame([row, row | changed], index=[("h", "HOME-01"), ("h", "HOME-02")], dtype=object).infer_objects()


@pytest.mark.parametrize(
    ("changed", "failures"),
    [
        ({}, {}),
        ({"complete": 0}, {"meter_missing": 1}),
        (
            {"complete": 0, "net_injection_wh": None, "magnitude_wh": 0},
            {"meter_missing": 1, "net_injection_missing": 1},
        ),
        ({"magnitude_wh": 50_000}, {}),
        ({"magnitude_wh": 50_001}, {"beyond_connection": 1}),
    ],
)
def test_a_delivery_says_who_is_not_ready(changed: dict[str, Any], failures: dict[str, int]) -> None:
    found = run_suite(delivery_suite(), delivery(**changed))
    assert found.failures() == failures
    assert {label for rule in found.rules for label in rule.failed_index} == ({("h", "HOME-02")} if failures else set())
    assert all(rule.checked == 2 for rule in found.rules)


def test_a_delivery_of_nobody_passes() -> None:
    assert run_suite(delivery_suite(), delivery().iloc[:0]) == SuiteResult("delivery_before_settlement")


def test_a_rule_that_cannot_be_evaluated_is_an_error_and_never_a_pass() -> None:
    with pytest.raises(RuntimeError, match="could not be evaluated"):
        run_suite(row_suite(), pd.DataFrame({"value": [1.0], "quality": ["high"]}))
