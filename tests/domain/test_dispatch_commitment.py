"""A resource under an accepted command: the plan follows it as the device does, and is free again afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.domain.dispatch import parse_problem, solve
from energy_cloud_dagster.domain.dispatch.applying.commitment import Commitment, honouring, steps_under

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEPS = 6


def battery(**changes: Any) -> dict[str, Any]:
    return {
        "id": "BAT",
        "type": "storage",
        "capacity": 100,
        "energyCapacity": 200,
        "soc": 0.5,
        "efficiency": 0.81,
    } | changes


def until(hours: float) -> datetime:
    return START + hours * HOUR


def planned(resource: dict[str, Any]) -> dict[str, Any]:
    tie = {"id": "TIE", "type": "grid", "capacity": 1000, "costPerKWh": [0.1, 0.3] * (STEPS // 2), "exportPrice": 0.05}
    answer = solve(parse_problem({"demand": [200] * STEPS, "resources": [resource, tie]})).to_document()
    assert answer["status"] == "completed", answer
    found: dict[str, Any] = answer["allocation"][0]
    return found


@pytest.mark.parametrize(
    ("hours", "steps"), [(-1, 0), (0, 0), (0.25, 0), (0.5, 1), (0.75, 1), (1, 1), (2.4, 2), (2.6, 3), (1000, STEPS)]
)
def test_a_command_holds_the_steps_that_it_covers_by_more_than_half(hours: float, steps: int) -> None:
    assert steps_under(Commitment(10, until(hours)), START, HOUR, STEPS) == steps


@given(setpoint=st.integers(-150, 150), soc=st.integers(0, 100), held=st.integers(0, STEPS))
@settings(max_examples=50, deadline=None)
def test_a_battery_follows_until_it_is_empty_or_full_and_the_plan_can_always_be_made(
    setpoint: int, soc: int, held: int
) -> None:
    state, one_way = soc / 100, 0.9
    resource = battery(soc=state, minSoc=0.1, maxSoc=0.9)
    found = planned(honouring(resource, Commitment(setpoint, until(held)), STEPS, held, 1.0))
    power = min(max(setpoint, -100), 100)
    for step in range(held):
        wanted = state - (power / one_way if power > 0 else power * one_way) / 200
        after = min(max(wanted, min(0.1, state)), max(0.9, state))
        assert found["soc"][step] == pytest.approx(after, abs=1e-6)
        if after == wanted:
            assert found["output"][step] == pytest.approx(power, abs=1e-4)
        state = after
    # with an hour of full power at hand it ends within its limits
    if held < STEPS - 1:
        assert 0.1 - 1e-6 <= found["soc"][-1] <= 0.9 + 1e-6


def test_a_generator_is_curtailed_to_its_setpoint_and_free_afterwards() -> None:
    sun = {"id": "SUN", "type": "solar", "capacity": 100, "availability": [0.2, 0.8, 0.8, 0.8, 0.8, 0.8]}
    found = honouring(sun, Commitment(50, until(2)), STEPS, 2, 1.0)
    assert found["availability"] == [0.2, 0.5, 0.8, 0.8, 0.8, 0.8]
    assert planned(found)["output"] == pytest.approx([20, 50, 80, 80, 80, 80])


def test_what_takes_no_command_stays_as_it_is() -> None:
    tie = {"id": "TIE", "type": "grid", "capacity": 10}
    assert honouring(tie, Commitment(5, until(9)), STEPS, STEPS, 1.0) == tie
    sun = {"id": "SUN", "type": "solar", "capacity": 100}
    assert honouring(sun, None, STEPS, 0, 1.0) == sun


def test_a_state_outside_its_limits_is_given_the_steps_to_come_back() -> None:
    found = planned(honouring(battery(soc=0.0, minSoc=0.8, energyCapacity=400), None, STEPS, 0, 1.0))
    gained = 100 * sqrt(0.81) / 400
    assert found["soc"][:3] == pytest.approx([gained, 2 * gained, 3 * gained])
    assert found["soc"][-1] >= 0.8 - 1e-6
