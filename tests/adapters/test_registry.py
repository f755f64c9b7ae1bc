from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import readings, registry
from energy_cloud_dagster.adapters.tables import participant, vpp_resource
from energy_cloud_dagster.domain.errors import NotFound, Rejected
from energy_cloud_dagster.domain.readings import Topic
from energy_cloud_dagster.sample_data.community import community

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def seeded(connection: sa.Connection) -> sa.Connection:
    for table in reversed(participant.metadata.sorted_tables):
        if table.schema == "registry" or table.name in {"command", "command_event"}:
            connection.execute(sa.delete(table))
    registry.seed(connection, community(), NOW, account_of=lambda each: f"0x{each}", demo_key="demo")
    return connection


def test_seeding_again_adds_nothing_and_restores_no_salt(seeded: sa.Connection) -> None:
    erased = sa.update(participant).where(participant.c.participant_id == "HOME-02").values(salt=None, name="Erased")
    seeded.execute(erased)
    assert registry.seed(seeded, community(), NOW, demo_key="demo") == 0
    home = registry.participant_by_id(seeded, "HOME-02")
    assert (home.salt, home.name, home.account) == (None, "Erased", "0xHOME-02")


def test_salts_of_demos_agree_and_others_are_random(seeded: sa.Connection) -> None:
    first, second = registry.participants(seeded, "seoul")[:2]
    assert first.salt == registry.derive_salt("demo", first.participant_id)
    assert first.salt != second.salt
    seeded.execute(sa.delete(participant).where(participant.c.participant_id == "GRID"))
    registry.seed(seeded, community(), NOW)
    grid = registry.participant_by_id(seeded, "GRID")
    assert grid.salt is not None
    assert grid.salt != registry.derive_salt("demo", "GRID")


def test_look_ups(seeded: sa.Connection) -> None:
    assert [each.region_id for each in registry.regions(seeded)] == ["busan", "seoul"]
    assert registry.resolve_region(seeded, "kr-seoul") == "seoul"
    assert registry.resolve_region(seeded, "seoul") == "seoul"
    with pytest.raises(NotFound, match="known are busan, kr-busan, kr-seoul, seoul"):
        registry.resolve_region(seeded, "mars")
    assert len(registry.participants(seeded)) == 12
    assert registry.participants(seeded, "busan") == []
    with pytest.raises(NotFound):
        registry.participant_by_id(seeded, "nobody")
    assert registry.device_by_id(seeded, "BAT-001").interval_minutes == 15
    assert len(registry.devices(seeded, "seoul")) == len(registry.devices(seeded)) == len(community().devices)
    with pytest.raises(NotFound):
        registry.device_by_id(seeded, "nothing")
    kept = seeded.execute(sa.select(vpp_resource.c.parameters, vpp_resource.c.location, sa.literal(1))).all()
    assert {"energyCapacity": 1000.0, "efficiency": 0.9} in [each.parameters for each in kept]


def test_accounts_can_be_set(seeded: sa.Connection) -> None:
    registry.set_accounts(seeded, {"HOME-01": "0xabc"})
    assert registry.participant_by_id(seeded, "HOME-01").account == "0xabc"


def test_a_device_is_registered_on_first_sight(seeded: sa.Connection) -> None:
    topic = Topic("kr-seoul", "solar-panel", "SP-001", "generation")
    registry.register_device(seeded, topic, "W", NOW)
    registry.register_device(seeded, topic, "W", NOW)
    assert not registry.device_by_id(seeded, "SP-001").verified
    info = readings.series_ids(seeded, ["SP-001"])["SP-001", "generation"]
    assert (info.unit, info.kind, info.role) == ("kW", "power", None)
    registry.register_device(seeded, topic._replace(metric="charge"), "%", NOW)
    assert readings.series_ids(seeded, ["SP-001"])["SP-001", "charge"].kind == "state"
    with pytest.raises(Rejected, match="is unknown") as caught:
        registry.register_device(seeded, topic._replace(region="mars"), "W", NOW)
    assert caught.value.reason == "unknown_region"
