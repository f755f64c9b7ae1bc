"""What keeps allocations going does so at its time, and calls nobody silent before it has listened itself."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import allocations, commands, vpp_registry
from energy_cloud_dagster.adapters.tables import market_registry, region
from energy_cloud_dagster.adapters.vpp_registry import NewResource
from energy_cloud_dagster.domain.dispatch.allocations import Assignment, Span
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


def asked(engine: sa.Engine, vpp_id: str) -> list[tuple[float, str]]:
    with engine.connect() as connection:
        found = commands.of_device(connection, f"{vpp_id}-CHP", limit=10)
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
