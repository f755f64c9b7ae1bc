"""What keeps allocations going does so at its time, and calls nobody silent before it has listened itself."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import allocations, commands, plan_allocations, plans, vpp_registry
from energy_cloud_dagster.adapters.plans import PlanRow, SetpointRow
from energy_cloud_dagster.adapters.tables import market_registry, region
from energy_cloud_dagster.adapters.vpp_registry import NewResource
from energy_cloud_dagster.domain.commands import Instruction
from energy_cloud_dagster.domain.dispatch.applying.allocations import Assignment, Span
from energy_cloud_dagster.services.following import Following
from energy_cloud_dagster.services.storing import Writer

WATCHDOG = timedelta(seconds=0.2)


@pytest.fixture
def vpp_id(engine: sa.Engine) -> Iterator[str]:
    """A VPP whose one engine runs at 60 kW, and at 70 in the next quarter; nobody plays it."""
    name, now = f"VPP-{uuid.uuid4().hex[:8]}", datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(sa.insert(market_registry).values(market_id=name, currency="EUR"))
        connection.execute(
            sa.insert(region).values(region_id=name, name=name, timezone="UTC", market_id=name, grid_id=name)
        )
        vpp_registry.create(connection, "Test", 100, name, actor="test", now=now, vpp_id=name, simulated=True)
        vpp_registry.create_resources(
            connection, name, [NewResource("chp", 100.0, {}, "CHP")], actor="test", now=now, simulated=True
        )
        made = allocations.add(
            connection,
            name,
            [Assignment("CHP", (60.0, 70.0))],
            {"CHP": ("chp", f"{name}-CHP")},
            Span(now, 15, 2),
            requested_by="test",
            now=now,
        )
        allocations.apply(connection, made, now, by="test")
    yield name
    with engine.begin() as connection:
        vpp_registry.delete(connection, name, actor="test", now=datetime.now(UTC))


def asked(engine: sa.Engine, vpp_id: str, resource: str = "CHP") -> list[tuple[float, str]]:
    with engine.connect() as connection:
        found = commands.of_device(connection, f"{vpp_id}-{resource}", limit=10)
    return [(each.payload["value"], each.requested_by) for each in reversed(found)]


def test_a_step_is_commanded_when_it_begins(engine: sa.Engine, vpp_id: str) -> None:
    later = datetime.now(UTC) + timedelta(minutes=15)
    patient = timedelta(hours=1)
    Following(Writer(engine, threading.Event()), patient).work()
    assert asked(engine, vpp_id) == [(60, "test")]
    following = Following(Writer(engine, threading.Event()), patient, clock=lambda: later)
    following.work()
    following.work()
    assert asked(engine, vpp_id) == [(60, "test"), (70, "dispatch")]


def test_silence_before_it_listened_is_nobody_s(engine: sa.Engine, vpp_id: str) -> None:
    """A platform that was away for an hour has not heard its devices, and says nothing against them."""
    following = Following(
        Writer(engine, threading.Event()), WATCHDOG, clock=lambda: datetime.now(UTC) + timedelta(minutes=10)
    )
    began = time.monotonic()
    while not (done := following.work())["fallen_back"]:
        assert time.monotonic() - began < 30
        if time.monotonic() - began < WATCHDOG.total_seconds():
            assert asked(engine, vpp_id) == [(60, "test")]
    assert time.monotonic() - began >= WATCHDOG.total_seconds()
    assert done["fallen_back"] >= 1
    assert asked(engine, vpp_id) == [(60, "test"), (0, "watchdog")]
    assert following.pause_seconds <= WATCHDOG.total_seconds()


def planned(
    engine: sa.Engine, vpp_id: str, start: datetime, resources: dict[str, tuple[str, float, float | None]]
) -> None:
    """Store a plan of two hours: {resource: (type, kW in both, kW that it could give or None)}."""
    issued = start + timedelta(minutes=5)
    solution = {"allocation": []}
    row = PlanRow(vpp_id, issued, start, "lp", "completed", 0.0, 0.0, None, {}, solution, uuid.uuid4().hex)
    steps = [
        SetpointRow(vpp_id, issued, name, start + index * timedelta(hours=1), kind, kw, allowed, None, 0.1)
        for name, (kind, kw, allowed) in resources.items()
        for index in range(2)
    ]
    with engine.begin() as connection:
        plans.replace_plan(connection, row, steps, run_id=None)


def taken_up(engine: sa.Engine, now: datetime, approval_kw: float | None = None) -> list[str]:
    with engine.begin() as connection:
        return [each.state for each in plan_allocations.take_up(connection, now, approval_kw)]


def test_a_new_plan_is_applied_once_and_curtails_only_where_it_means_to(engine: sa.Engine, vpp_id: str) -> None:
    now = datetime.now(UTC)
    start = now.replace(minute=0, second=0, microsecond=0)
    with engine.begin() as connection:
        more = [
            NewResource("chp", 90.0, {}, "ENGINE"),
            NewResource("solar", 50.0, {}, "SUN"),
            NewResource("wind", 80.0, {}, "WIND"),
        ]
        vpp_registry.create_resources(connection, vpp_id, more, actor="test", now=now, simulated=True)
    planned(
        engine,
        vpp_id,
        start,
        {
            "CHP": ("chp", 41.0, None),
            "ENGINE": ("chp", 40.0, None),
            "SUN": ("solar", 20.0, 20.0),
            "WIND": ("wind", 10.0, 60.0),
            "TIE": ("grid", 5.0, None),
        },
    )
    later = max(now, start + timedelta(minutes=6))
    following = Following(
        Writer(engine, threading.Event()), timedelta(hours=1), applies_plans=True, clock=lambda: later
    )
    assert following.work()["taken_up"] == 1
    assert taken_up(engine, later) == [], "it was taken up already"
    with engine.connect() as connection:
        standing = allocations.standing(connection, vpp_id, later)
    assert {name: each.item.setpoint_kw for name, each in standing.items()} == {
        "CHP": 60.0,  # as the person asked who applied an allocation
        "ENGINE": 40.0,
        "WIND": 10.0,
    }
    assert asked(engine, vpp_id, "ENGINE") == [(40.0, allocations.FOLLOWER)]


def test_a_plan_that_asks_for_much_waits_and_a_person_s_command_is_left_alone(engine: sa.Engine, vpp_id: str) -> None:
    now = datetime.now(UTC)
    start = now - timedelta(minutes=70)
    with engine.begin() as connection:
        engines = [NewResource("chp", 90.0, {}, "ENGINE")]
        vpp_registry.create_resources(connection, vpp_id, engines, actor="test", now=now, simulated=True)
    planned(engine, vpp_id, start, {"ENGINE": ("chp", 40.0, None)})
    assert taken_up(engine, now, approval_kw=39.0) == ["waiting"]
    assert asked(engine, vpp_id, "ENGINE") == [], "nobody has approved it"
    with engine.begin() as connection:
        wanted = Instruction("setpoint", 80.0, "kW")
        until = now + timedelta(hours=3)
        commands.enqueue(connection, f"{vpp_id}-ENGINE", wanted, requested_by="anna", now=now, valid_until=until)
    planned(engine, vpp_id, start + timedelta(hours=1), {"ENGINE": ("chp", 41.0, None)})
    assert taken_up(engine, now) == []
    assert asked(engine, vpp_id, "ENGINE") == [(80.0, "anna")]


def test_an_old_plan_is_not_taken_up(engine: sa.Engine, vpp_id: str) -> None:
    now = datetime.now(UTC)
    with engine.begin() as connection:
        engines = [NewResource("chp", 90.0, {}, "ENGINE")]
        vpp_registry.create_resources(connection, vpp_id, engines, actor="test", now=now, simulated=True)
    planned(engine, vpp_id, now - timedelta(hours=3), {"ENGINE": ("chp", 40.0, None)})
    assert taken_up(engine, now) == []


def test_a_limit_that_the_next_plan_does_not_need_is_lifted(engine: sa.Engine, vpp_id: str) -> None:
    now = datetime.now(UTC)
    start = now.replace(minute=0, second=0, microsecond=0)
    with engine.begin() as connection:
        wind = [NewResource("wind", 80.0, {}, "WIND")]
        vpp_registry.create_resources(connection, vpp_id, wind, actor="test", now=now, simulated=True)
    planned(engine, vpp_id, start, {"WIND": ("wind", 10.0, 60.0)})
    first, second = (start + timedelta(hours=hours, minutes=59) for hours in (0, 1))
    assert taken_up(engine, first) == ["applied"]
    planned(engine, vpp_id, start + timedelta(hours=1), {"WIND": ("wind", 60.0, 60.0)})
    assert taken_up(engine, second) == ["applied"]
    with engine.connect() as connection:
        assert allocations.standing(connection, vpp_id, second)["WIND"].item.setpoint_kw == 80.0
