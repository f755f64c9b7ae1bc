"""What resources take, what is safe and what counts as following: rules that hold for every resource."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.dispatch.applying.allocations import (
    Assignment,
    Span,
    Target,
    checked,
    kept,
    largest_total_kw,
    limits_of,
    safe_setpoint,
)
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput

TYPES = ("solar", "wind", "hydro", "chp", "storage", "grid", "load")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)

targets = st.builds(
    Target,
    st.just("R"),
    st.sampled_from(TYPES),
    st.floats(0, 1e6),
    st.fixed_dictionaries({}, optional={"minPower": st.floats(0, 1e5)}),
)


@settings(max_examples=50)
@given(targets, st.floats(-2e6, 2e6))
def test_what_is_taken_is_within_the_limits_and_as_it_was_asked(target: Target, wanted: float) -> None:
    least, most = limits_of(target)
    entries = [{"resourceId": "R", "output": wanted}]
    slack = 1e-6 * max(1, target.capacity_kw)
    starts_at = target.parameters.get("minPower", 0)
    if not least - slack <= wanted <= most + slack or slack < wanted < starts_at - slack:
        with pytest.raises(InvalidInput) as refused:
            checked(entries, [target])
        assert refused.value.pointer == "/allocation/0/output"
        return
    ((_, (taken,)),) = checked(entries, [target])
    assert least <= taken <= most
    assert taken == pytest.approx(wanted, abs=slack)


@settings(max_examples=50)
@given(targets, st.floats(0, 1))
def test_what_is_safe_stays_within_what_was_asked_and_the_resource_s_own_word_counts(
    target: Target, share: float
) -> None:
    least, most = limits_of(target)
    setpoint = least + share * (most - least)
    safe = safe_setpoint(target.type, setpoint, {})
    assert safe in {0.0, setpoint}
    assert (safe == setpoint) or target.type not in {"solar", "wind", "hydro"}
    assert kept(target, setpoint, setpoint) == "following"
    assert safe_setpoint(target.type, setpoint, {"safePower": 7}) == 7
    # A word that is no power is no word.
    assert safe_setpoint(target.type, setpoint, {"safePower": math.nan}) == safe


def test_less_sun_than_its_limit_is_short_and_a_store_that_gives_less_deviates() -> None:
    sun, store = Target("S", "solar", 1_000, {}), Target("B", "storage", 1_000, {})
    assert [kept(sun, 800, output) for output in (100, 791, 809, 811)] == [
        "short",
        "following",
        "following",
        "deviating",
    ]
    assert [kept(store, 800, output) for output in (100, 791, 809, 811)] == [
        "deviating", "following", "following", "deviating"
    ]  # fmt: skip


def test_the_total_is_that_of_the_busiest_step_whatever_the_signs() -> None:
    assert largest_total_kw([Assignment("A", (5.0, -7.0)), Assignment("B", (1.0, -2.0))]) == 9
    assert largest_total_kw([Assignment("A", (3.0,))]) == 3


@pytest.mark.parametrize("value", [None, True, "5", math.inf, math.nan, [], [1, None]])
def test_an_output_is_numbers(value: Any) -> None:
    with pytest.raises(InvalidInput):
        checked([{"resourceId": "R", "output": value}], [Target("R", "grid", 10, {})])


def test_steps_follow_each_other_until_the_end() -> None:
    span = Span(START, 15, 3)
    assert [span.step_at(START + minutes * timedelta(minutes=1)) for minutes in (-5, 0, 14, 15, 44)] == [0, 0, 0, 1, 2]
    assert span.end == START + timedelta(minutes=45)
    with pytest.raises(Conflict, match="are over"):
        span.step_at(span.end)
