"""Devices as people manage them, on the real database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.adapters import credentials, devices, readings, registry
from energy_cloud_dagster.adapters.devices import SeriesSpec
from energy_cloud_dagster.adapters.readings import ReadingRow
from energy_cloud_dagster.domain.errors import Conflict, InvalidInput, NotFound
from energy_cloud_dagster.domain.readings import Topic, parse_topic
from energy_cloud_dagster.domain.readings.names import topic_safe
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def seeded(connection: sa.Connection) -> sa.Connection:
    registry.seed(connection, SEOUL_COMMUNITY, NOW, demo_key="demo")
    return connection


def test_a_device_gets_the_series_of_its_type(seeded: sa.Connection) -> None:
    made = devices.add(seeded, "SM-NEW", "kr-seoul", "smart-meter", NOW, customer_class="commercial")
    assert made.device == registry.device_by_id(seeded, "SM-NEW")
    assert (made.device.region_id, made.device.interval_minutes, made.device.verified) == ("seoul", 15, True)
    assert made.series == (("consumption", "kWh", "energy", None),)
    assert ("SM-NEW", "consumption") in readings.series_ids(seeded, ["SM-NEW"])
    for device_type, specs in devices.DEFAULT_SERIES.items():
        made = devices.add(seeded, f"NEW-{device_type}", "seoul", device_type, NOW)
        assert [row.metric for row in made.series] == sorted(spec.metric for spec in specs)


def test_series_are_kept_in_their_base_unit(seeded: sa.Connection) -> None:
    measures = [SeriesSpec("voltage", "V"), SeriesSpec("consumption", "Wh", "load"), SeriesSpec("power", "W")]
    made = devices.add(
        seeded, "X-1", "seoul", "novel", NOW, participant_id="HOME-01", interval_minutes=60, measures=measures
    )
    assert made.series == (
        ("consumption", "kWh", "energy", "load"),
        ("power", "kW", "power", None),
        ("voltage", "V", "state", None),
    )
    assert devices.get(seeded, "X-1", NOW) == made


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"device_id": "a/b"}, "/id"),
        ({"device_id": "energy-cloud"}, "/id"),
        ({"device_id": "x" * 129}, "/id"),
        ({"device_type": "a+"}, "/type"),
        ({"region": "mars"}, "/region"),
        ({"customer_class": "royal"}, "/customerClass"),
        ({"participant_id": "HOME-99"}, "/participantId"),
        ({"interval_minutes": 7}, "/intervalMinutes"),
        ({"interval_minutes": 0}, "/intervalMinutes"),
        ({"device_type": "novel"}, "/series"),
        ({"measures": [SeriesSpec("a b", "kWh")]}, "/series/0/metric"),
        ({"measures": [SeriesSpec("power", "kW"), SeriesSpec("command", "kW")]}, "/series/1/metric"),
        ({"measures": [SeriesSpec("power", "kW"), SeriesSpec("power", "W")]}, "/series/1/metric"),
        ({"measures": [SeriesSpec("power", "furlong")]}, "/series/0/unit"),
        ({"measures": [SeriesSpec("power", "kW", "king")]}, "/series/0/role"),
    ],
)
def test_a_fault_is_pointed_at_and_nothing_is_added(
    seeded: sa.Connection, changed: dict[str, Any], pointer: str
) -> None:
    wanted: dict[str, Any] = {"device_id": "SM-NEW", "region": "seoul", "device_type": "smart-meter"} | changed
    with pytest.raises(InvalidInput) as raised:
        devices.add(seeded, created_at=NOW, **wanted)
    assert raised.value.pointer == pointer
    assert "SM-NEW" not in {row.device_id for row in registry.devices(seeded)}


def test_a_taken_id_conflicts_and_one_seen_before_is_adopted(seeded: sa.Connection) -> None:
    with pytest.raises(Conflict, match="SM-001 is registered already"):
        devices.add(seeded, "SM-001", "seoul", "smart-meter", NOW)
    registry.register_device(seeded, Topic("seoul", "smart-meter", "SM-SEEN", "voltage"), "V", NOW)
    with pytest.raises(Conflict):
        devices.add(seeded, "SM-SEEN", "busan", "smart-meter", NOW)
    adopted = devices.add(seeded, "SM-SEEN", "seoul", "smart-meter", NOW, participant_id="HOME-02")
    assert (adopted.device.verified, adopted.device.participant_id) == (True, "HOME-02")
    assert [row.metric for row in adopted.series] == ["consumption", "voltage"]
    with pytest.raises(Conflict):
        devices.add(seeded, "SM-SEEN", "seoul", "smart-meter", NOW)


def test_pages_follow_each_other_and_filters_hold(seeded: sa.Connection) -> None:
    everything = [row.device_id for row in registry.devices(seeded)]
    seen: list[str] = []
    while found := devices.page(seeded, NOW, limit=7, after=seen[-1] if seen else None):
        seen += [each.device.device_id for each in found]
    assert seen == everything
    meters = devices.page(seeded, NOW, limit=1000, device_type="smart-meter", region_id="seoul")
    assert {each.device.device_type for each in meters} == {"smart-meter"}
    assert all(each.series for each in meters)
    assert devices.page(seeded, NOW, limit=10, region_id="busan") == []
    own = {each.device.device_id for each in devices.page(seeded, NOW, limit=10, owner="HOME-01")}
    assert own == {"SM-H01", "PV-H01"}


def test_who_does_not_see_all_sees_its_own(seeded: sa.Connection) -> None:
    def seen(participant: str | None) -> set[str]:
        found = devices.page(seeded, NOW, limit=1000, participant_id=participant, everyone=False)
        return {each.device.device_id for each in found}

    assert seen("HOME-01") == {"SM-H01", "PV-H01"}
    assert seen(None) == set()
    assert devices.get(seeded, "SM-H01", NOW, participant_id="HOME-01", everyone=False).device.device_id == "SM-H01"
    for other in ("SM-H02", "SM-001", "nothing"):
        for participant in ("HOME-01", None):
            with pytest.raises(NotFound, match=f"device '{other}' is not registered"):
                devices.get(seeded, other, NOW, participant_id=participant, everyone=False)


def test_a_device_on_which_nothing_rests_goes_with_its_token(seeded: sa.Connection) -> None:
    devices.add(seeded, "SM-NEW", "seoul", "smart-meter", NOW)
    token = credentials.issue(seeded, "SM-NEW", NOW)
    assert devices.get(seeded, "SM-NEW", NOW).tokens == 1
    devices.remove(seeded, "SM-NEW")
    assert credentials.authenticate(seeded, token, NOW) is None
    assert readings.series_ids(seeded, ["SM-NEW"]) == {}
    for act in (devices.remove, lambda c, each: devices.get(c, each, NOW)):
        with pytest.raises(NotFound):
            act(seeded, "SM-NEW")
    assert devices.add(seeded, "SM-NEW", "seoul", "smart-meter", NOW).tokens == 0


def test_what_was_measured_planned_or_commanded_keeps_its_device(seeded: sa.Connection) -> None:
    with pytest.raises(Conflict, match="has a resource of a VPP and stays"):
        devices.remove(seeded, "BAT-001")
    made = devices.add(seeded, "SM-NEW", "seoul", "smart-meter", NOW)
    series_id = readings.series_ids(seeded, ["SM-NEW"])["SM-NEW", "consumption"].series_id
    readings.store(seeded, [ReadingRow(series_id, NOW, 1.0, "high", NOW, "mqtt")])
    with pytest.raises(Conflict, match="has readings and stays registered; revoke its tokens"):
        devices.remove(seeded, "SM-NEW")
    assert devices.get(seeded, "SM-NEW", NOW) == made


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=20))
def test_a_safe_name_is_one_level_of_a_topic_one_field_and_one_line(name: str) -> None:
    if not topic_safe(name):
        return
    assert parse_topic(f"energy-cloud/seoul/x/{name}/power").device_id == name
    assert f"{name}:hash".split(":") == [name, "hash"]
    assert f"user {name}".split() == ["user", name]
    assert f"{name}\n".splitlines() == [name]


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "a:b", "a b", "a\tb", "a\n", "\x00", "$SYS", "device-token"])
def test_these_names_are_not_safe(name: str) -> None:
    assert not topic_safe(name)
