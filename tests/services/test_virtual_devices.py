"""Devices that obey: what they take and refuse, what their telemetry shows, and that a restart forgets nothing."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import readings, registry
from energy_cloud_dagster.domain import commands
from energy_cloud_dagster.domain.errors import BrokerUnavailable, Misconfigured
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.readings import Rules, decode_message
from energy_cloud_dagster.sample_data.community import BATTERY_EFFICIENCY, BATTERY_KWH, OBEYING, community
from energy_cloud_dagster.services.fleet import FleetOptions, live
from energy_cloud_dagster.services.mqtt_fleet import FleetClient
from energy_cloud_dagster.services.obeying import _Line, obey
from energy_cloud_dagster.services.simulator import Message, messages
from energy_cloud_dagster.services.virtual_devices import REPORT_SECONDS, VirtualDevices

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker
    from tests.services.conftest import Listen

SEOUL = community()
#: Six in the morning in Seoul, when the battery rests at its lowest state; the panels work three hours later.
DAWN = datetime(2026, 3, 2, 21, tzinfo=UTC)
NOON = DAWN + timedelta(hours=6)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
BAT = "energy-cloud/seoul/battery/BAT-001"
PV = "energy-cloud/seoul/solar-panel/PV-VPP-001"
HOME_PV = "energy-cloud/seoul/solar-panel/PV-H01"
WIND = "energy-cloud/seoul/wind-turbine/WT-R80711"


def order(devices: VirtualDevices, topic: str, now: datetime, **document: Any) -> list[dict[str, Any]]:
    answers = list(devices.heard(topic, json.dumps(document).encode(), now))
    assert all(at == f"{topic.rpartition('/')[0]}/ack" for at, _ in answers)
    return [json.loads(payload) for _, payload in answers]


def setpoint(
    devices: VirtualDevices, device: str, now: datetime, kw: float, command_id: str = "c-1", span: timedelta = 24 * HOUR
) -> list[str]:
    answers = order(
        devices, f"{device}/command", now, commandId=command_id, type="setpoint", value=kw, unit="kW",
        validUntil=rfc3339(now + span),
    )  # fmt: skip
    assert all(answer["commandId"] == command_id for answer in answers)
    return [answer["state"] for answer in answers]


def release(devices: VirtualDevices, device: str, now: datetime, command_id: str = "c-2") -> list[str]:
    return [each["state"] for each in order(devices, f"{device}/command", now, commandId=command_id, type="release")]


def spoken(devices: VirtualDevices, start: datetime, end: datetime) -> dict[tuple[str, str, datetime], float | None]:
    heard = map(devices.altered, messages(SEOUL, start, end))
    return {(each.device_id, each.metric, each.ts): each.value for each in heard}


def reported(devices: VirtualDevices, device_id: str, now: datetime) -> dict[str, float | None]:
    return {each.metric: each.value for each in devices.report(device_id, now)}


def test_without_a_command_nothing_differs() -> None:
    devices = VirtualDevices(SEOUL)
    said = list(messages(SEOUL, DAWN, DAWN + 24 * HOUR))
    assert [devices.altered(each) for each in said] == said
    assert devices.reporting(NOON) == {}
    assert release(devices, BAT, NOON) == ["accepted", "done"]
    assert [devices.altered(each) for each in said] == said
    listening = {topic.split("/")[3] for topic in devices.topics()}
    assert listening == {each.device_id for each in SEOUL.devices if each.device_type in OBEYING}
    assert len(devices.topics()) == 2 * len(listening)


def test_a_battery_follows_a_setpoint_and_goes_back_to_its_schedule() -> None:
    devices = VirtualDevices(SEOUL)
    begin, end = DAWN + 7 * MINUTE, DAWN + HOUR + 7 * MINUTE
    assert setpoint(devices, BAT, begin, -400) == ["accepted", "done"]
    charged = 400 * math.sqrt(BATTERY_EFFICIENCY) / BATTERY_KWH
    assert reported(devices, "BAT-001", end) == {"power": -400, "soc": pytest.approx(0.2 + charged)}
    assert devices.reporting(end) == {"BAT-001": REPORT_SECONDS}
    assert release(devices, BAT, end) == ["accepted", "done"]
    said = spoken(devices, DAWN - HOUR, DAWN + 3 * HOUR)
    before = spoken(VirtualDevices(SEOUL), DAWN - HOUR, DAWN + 3 * HOUR)
    quarter = 15 * MINUTE
    # Nothing of the past changes, nor of any other device.
    differs = {key for key in said if said[key] != before[key]}
    assert {key[0] for key in differs} == {"BAT-001"}
    assert min(key[2] for key in differs) == DAWN
    assert said["BAT-001", "output", DAWN] == pytest.approx(-400 * 8 / 15, abs=1e-6)
    assert said["BAT-001", "soc", DAWN] == before["BAT-001", "soc", DAWN] == pytest.approx(0.2)
    assert said["BAT-001", "output", DAWN + quarter] == -400
    assert said["BAT-001", "soc", DAWN + quarter] == pytest.approx(0.2 + charged * 8 / 60, abs=1e-6)
    # Released at full power: what was charged is gone again within the hour, at the price of the round trip.
    assert said["BAT-001", "output", DAWN + 5 * quarter] == 500
    assert said["BAT-001", "soc", DAWN + 2 * HOUR + quarter] == pytest.approx(0.2)
    discharged = sum(
        value * 0.25 for (device, metric, _), value in said.items()
        if (device, metric) == ("BAT-001", "output") and value is not None and value > 0
    )  # fmt: skip
    charged_kwh = sum(
        value * 0.25 for (device, metric, _), value in said.items()
        if (device, metric) == ("BAT-001", "output") and value is not None and value < 0
    )  # fmt: skip
    # One quarter both charges and discharges; its mean counts once.
    assert charged_kwh + discharged == pytest.approx(-400 * (1 - BATTERY_EFFICIENCY), abs=1e-3)
    assert devices.reporting(DAWN + 3 * HOUR) == {}


def test_a_battery_stops_when_it_is_empty() -> None:
    devices = VirtualDevices(SEOUL)
    setpoint(devices, BAT, DAWN, 500)
    assert reported(devices, "BAT-001", DAWN + HOUR) == {"power": 0, "soc": 0}
    assert devices.reporting(DAWN + HOUR)


def test_a_setpoint_holds_until_its_time_runs_out_and_no_longer(tmp_path: Path) -> None:
    """Also across a restart, and told by nobody; the readings are those of a device that was released just then."""
    released = VirtualDevices(SEOUL)
    for device, kw in ((BAT, -400.0), (PV, 20.0)):
        setpoint(released, device, NOON + 5 * MINUTE, kw)
        release(released, device, NOON + HOUR)
    devices = VirtualDevices(SEOUL, tmp_path / "devices.json")
    for device, kw in ((BAT, -400.0), (PV, 20.0)):
        setpoint(devices, device, NOON + 5 * MINUTE, kw, span=55 * MINUTE)
    for each in (devices, VirtualDevices(SEOUL, tmp_path / "devices.json")):
        assert reported(each, "BAT-001", NOON + HOUR - MINUTE)["power"] == -400
        assert reported(each, "PV-VPP-001", NOON + HOUR - MINUTE) == {"power": 20}
        assert "PV-VPP-001" not in each.reporting(NOON + HOUR)
        assert spoken(each, NOON, NOON + 3 * HOUR) == spoken(released, NOON, NOON + 3 * HOUR)
    # A newer setpoint has a time of its own.
    assert setpoint(devices, PV, NOON + 2 * HOUR, 10, "c-3") == ["accepted", "done"]
    assert reported(devices, "PV-VPP-001", NOON + 3 * HOUR) == {"power": 10}


def test_panels_and_turbines_are_curtailed() -> None:
    devices = VirtualDevices(SEOUL)
    free = spoken(devices, NOON, NOON + 2 * HOUR)
    available = free["PV-VPP-001", "generation", NOON]
    assert available is not None
    assert available > 50
    assert setpoint(devices, PV, NOON + 30 * MINUTE, 20) == ["accepted", "done"]
    assert setpoint(devices, HOME_PV, NOON, 1_000) == ["accepted", "done"]
    assert setpoint(devices, WIND, NOON, 0) == ["accepted", "done"]
    said = spoken(devices, NOON, NOON + 2 * HOUR)
    assert said["PV-VPP-001", "generation", NOON] == pytest.approx((available + 20) / 2)
    assert said["PV-VPP-001", "generation", NOON + HOUR] == 20
    # Far above what it can give: what was measured, to the last digit.
    assert said["PV-H01", "generation", NOON] == free["PV-H01", "generation", NOON]
    for key, value in free.items():
        if key[0] == "WT-R80711" and value is not None:
            assert said[key] == (min(value, 0) if key[1] == "output" else value)
    assert reported(devices, "PV-VPP-001", NOON + 45 * MINUTE) == {"power": 20}
    assert release(devices, PV, NOON + HOUR) == ["accepted", "done"]
    assert reported(devices, "PV-VPP-001", NOON + 15 * MINUTE + HOUR) == {
        "power": pytest.approx(free["PV-VPP-001", "generation", NOON + HOUR])
    }
    # An interval that the turbine did not measure says nothing of the present either.
    empty = next(each for each in messages(SEOUL, DAWN, DAWN + 400 * 24 * HOUR) if each.value is None)
    assert devices.altered(empty) == empty
    assert reported(devices, "WT-R80711", empty.ts) == {} or empty.device_id != "WT-R80711"


@pytest.mark.parametrize(
    ("device", "document", "reason"),
    [
        (BAT, {"type": "dance"}, "no command of this type"),
        (BAT, {}, "no command of this type"),
        (BAT, {"type": "setpoint", "value": 501, "unit": "kW"}, "above 500 kW"),
        (BAT, {"type": "setpoint", "value": -0.6, "unit": "MW"}, "below -500 kW"),
        (BAT, {"type": "setpoint", "value": 1, "unit": "kWh"}, "is a power"),
        (BAT, {"type": "setpoint", "value": 1}, "is a power"),
        (BAT, {"type": "setpoint", "value": "1", "unit": "kW"}, "no number"),
        (BAT, {"type": "setpoint", "value": True, "unit": "kW"}, "no number"),
        (BAT, {"type": "setpoint", "unit": "kW"}, "needs a finite value"),
        (BAT, {"type": "release", "value": 1}, "has no value"),
        (PV, {"type": "setpoint", "value": -1, "unit": "kW"}, "below 0 kW"),
        (PV, {"type": "setpoint", "value": 700, "unit": "kW"}, "above 600 kW"),
        (BAT, {"type": "release", "validUntil": rfc3339(NOON)}, "expired"),
        (BAT, {"type": "release", "validUntil": NOON.timestamp() * 1_000 - 1}, "expired"),
        (BAT, {"type": "release", "validUntil": "2026-03-02T10:00:00"}, "no time"),
        (BAT, {"type": "release", "validUntil": True}, "no time"),
    ],
)
def test_a_wrong_command_is_rejected_with_its_reason(device: str, document: dict[str, Any], reason: str) -> None:
    devices = VirtualDevices(SEOUL)
    (answer,) = order(devices, f"{device}/command", NOON, commandId="c-1", **document)
    assert (answer["commandId"], answer["state"]) == ("c-1", "rejected")
    assert reason in answer["reason"]
    assert commands.parse_ack(json.dumps(answer).encode()).reason == answer["reason"]
    assert devices.reporting(NOON) == {}
    # The same answer, were it right by now.
    assert order(devices, f"{device}/command", NOON - HOUR, commandId="c-1", type="release") == [answer]


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (f"{BAT}/command", b"{"),
        (f"{BAT}/command", b"\xff"),
        (f"{BAT}/command", b"[]"),
        (f"{BAT}/command", b'{"type": "release"}'),
        (f"{BAT}/command", b'{"commandId": 7, "type": "release"}'),
        (f"{BAT}/command", b'{"commandId": "' + b"x" * 70_000 + b'"}'),
        (f"{BAT}/command", b"[" * 60_000),
        (f"{BAT}/config", b'{"settings": {}}'),
        (f"{BAT}/config", b'{"version": true, "settings": {}}'),
        (f"{BAT}/config", b'{"version": 0, "settings": {}}'),
        (f"{BAT}/ack", b'{"commandId": "c", "state": "done"}'),
        ("energy-cloud/seoul/battery/BAT-999/command", b'{"commandId": "c", "type": "release"}'),
        ("odd", b"{}"),
    ],
)
def test_what_names_nothing_to_answer_to_is_ignored(topic: str, payload: bytes) -> None:
    assert list(VirtualDevices(SEOUL).heard(topic, payload, NOON)) == []


def test_a_command_that_comes_again_is_carried_out_once(tmp_path: Path) -> None:
    devices = VirtualDevices(SEOUL, tmp_path / "devices.json")
    assert setpoint(devices, BAT, DAWN, -400, "c-1") == ["accepted", "done"]
    assert setpoint(devices, BAT, DAWN + HOUR, 100, "c-2") == ["accepted", "done"]
    for again in (devices, VirtualDevices(SEOUL, tmp_path / "devices.json")):
        assert setpoint(again, BAT, DAWN + HOUR + MINUTE, -400, "c-1") == ["accepted", "done"]
        assert reported(again, "BAT-001", DAWN + HOUR + MINUTE)["power"] == 100


def test_answers_are_remembered_to_a_limit() -> None:
    devices = VirtualDevices(SEOUL)
    for number in range(600):
        release(devices, BAT, NOON, f"c-{number}")
    assert len(devices._devices["BAT-001"].answered) == 500


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    devices = VirtualDevices(SEOUL, path)
    setpoint(devices, BAT, DAWN + 7 * MINUTE, -400)
    setpoint(devices, PV, NOON, 20)
    order(devices, f"{PV}/config", NOON, version=3, settings={"reportSeconds": 7})
    again = VirtualDevices(SEOUL, path)
    for now in (DAWN + HOUR, NOON + HOUR):
        assert reported(again, "BAT-001", now) == reported(devices, "BAT-001", now)
        assert again.reporting(now) == devices.reporting(now)
    assert spoken(again, DAWN, NOON + HOUR) == spoken(devices, DAWN, NOON + HOUR)
    assert not list(tmp_path.glob("*.new"))


def test_a_clock_that_was_set_back_reorders_nothing() -> None:
    devices = VirtualDevices(SEOUL)
    setpoint(devices, BAT, DAWN + HOUR, -400, "c-1")
    setpoint(devices, BAT, DAWN, 100, "c-2")
    assert reported(devices, "BAT-001", DAWN + HOUR) == {"power": 100, "soc": pytest.approx(0.2)}


@pytest.mark.parametrize("text", ["{", "[]", '{"BAT-001": {}}', '{"BAT-001": {"changes": [["x", 1, 1]]}}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "devices.json"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=r"devices\.json is no state"):
        VirtualDevices(SEOUL, path)
    path.write_text('{"GONE-001": {}}')
    assert VirtualDevices(SEOUL, path).reporting(NOON) == {}


def test_what_no_reading_needs_any_more_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    devices = VirtualDevices(SEOUL, path)
    for hours in range(4):
        setpoint(devices, BAT, DAWN + hours * HOUR, 10 * hours, f"c-{hours}")
    needed = spoken(devices, DAWN + 2 * HOUR, DAWN + 6 * HOUR)
    devices.forget(lambda _: DAWN + 2 * HOUR + 16 * MINUTE)
    assert len(devices._devices["BAT-001"].changes) == 2
    assert spoken(VirtualDevices(SEOUL, path), DAWN + 2 * HOUR, DAWN + 6 * HOUR) == needed
    release(devices, BAT, DAWN + 4 * HOUR, "c-9")
    devices.forget(lambda _: DAWN + 4 * HOUR)
    assert devices._devices["BAT-001"].changes
    devices.forget(lambda _: DAWN + 24 * HOUR)
    assert VirtualDevices(SEOUL, path)._devices["BAT-001"].changes == []


# -- configuration


def test_a_configuration_is_applied_once_and_never_an_older_one() -> None:
    devices = VirtualDevices(SEOUL)
    topic = f"{BAT}/config"
    done = [{"version": 2, "state": "accepted"}, {"version": 2, "state": "done"}]
    assert order(devices, topic, NOON, version=2, settings={"reportSeconds": 30}) == done
    assert devices.reporting(NOON) == {"BAT-001": 30}
    assert order(devices, topic, NOON, version=2, settings={"reportSeconds": 30}) == done
    (old,) = order(devices, topic, NOON, version=1, settings={"reportSeconds": 5})
    assert (old["state"], old["reason"]) == ("rejected", "version 2 is applied already")
    (wrong,) = order(devices, topic, NOON, version=3, settings={"reportSeconds": -1})
    assert wrong["state"] == "rejected"
    (wrong,) = order(devices, topic, NOON, version=3, settings=[])
    assert wrong == {"version": 3, "state": "rejected", "reason": "settings is no object"}
    assert devices.reporting(NOON) == {"BAT-001": 30}
    accepted, partly = order(devices, topic, NOON, version=3, settings={"reportSeconds": 0, "colour": "red"})
    assert accepted["state"] == "accepted"
    assert partly == {"version": 3, "state": "done", "reason": "unknown settings were ignored: colour"}
    assert devices.reporting(NOON) == {}


def test_a_device_with_a_token_wants_its_signature() -> None:
    token = "ecd_abcdefghijkl_secret_with_underscores"
    devices = VirtualDevices(SEOUL, tokens={"BAT-001": token})
    signed = commands.config_document(1, {"reportSeconds": 9}, [("abcdefghijkl", commands.config_key(token))])
    foreign = commands.config_document(1, {"reportSeconds": 9}, [("abcdefghijkl", commands.config_key("other"))])
    for document in (foreign, {**signed, "signature": None}, {**signed, "settings": {"reportSeconds": 1}}):
        (answer,) = order(devices, f"{BAT}/config", NOON, **document)
        assert (answer["state"], answer["reason"]) == ("rejected", "the signature is not the one for this device")
    assert [each["state"] for each in order(devices, f"{BAT}/config", NOON, **signed)] == ["accepted", "done"]
    assert devices.reporting(NOON) == {"BAT-001": 9}


# -- over a real broker


class Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def fleet(broker: EmbeddedBroker, folder: Path, clock: Clock) -> AsyncIterator[None]:
    options = FleetOptions(
        broker.url, broker.username, broker.password, folder / "fleet.json", since=clock.now - timedelta(minutes=30)
    )
    stop = asyncio.Event()
    task = asyncio.create_task(live(options, stop, clock=clock))
    try:
        yield
    finally:
        stop.set()
        await task


type Heard = list[tuple[str, dict[str, Any]]]


def of(heard: Heard, topic: str, **fields: Any) -> Heard:
    return [(at, document) for at, document in heard if at == topic and fields.items() <= document.items()]


async def say_until(listener: Any, topic: str, document: dict[str, Any], reached: Callable[[Heard], bool]) -> Heard:
    """Say it as the outbox does, again until somebody answers: the fleet may not have subscribed yet."""
    async with asyncio.timeout(20):
        while not reached(listener.heard):
            await asyncio.to_thread(listener.say, topic, document)
            for _ in range(20):
                if reached(listener.heard):
                    break
                await asyncio.sleep(0.05)
    return list(listener.heard)


def test_a_commanded_battery_is_seen_on_the_broker_and_survives_a_restart(
    broker: EmbeddedBroker, listen: Listen, tmp_path: Path, connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energy_cloud_dagster.services.virtual_devices.REPORT_SECONDS", 0.2)
    clock = Clock(DAWN + 7 * MINUTE)
    charge = {
        "commandId": "c-1", "type": "setpoint", "value": -400, "unit": "kW", "validUntil": rfc3339(DAWN + 24 * HOUR)
    }  # fmt: skip

    def accepted(heard: Heard) -> bool:
        return bool(of(heard, f"{BAT}/ack", commandId="c-1", state="done")) and bool(of(heard, f"{BAT}/soc"))

    async def first() -> Heard:
        with listen() as listener:
            async with fleet(broker, tmp_path, clock):
                heard = await say_until(listener, f"{BAT}/command", charge, accepted)
                states = [document["state"] for _, document in of(heard, f"{BAT}/ack")]
                assert states[:2] == ["accepted", "done"]
                clock.now = DAWN + HOUR + 7 * MINUTE

                def charged(heard: Heard) -> bool:
                    reports = [each for _, each in of(heard, f"{BAT}/soc") if each["timestamp"] == rfc3339(clock.now)]
                    return any(each["value"] > 0.5 for each in reports)

                return await asyncio.to_thread(listener.wait_until, charged)

    heard = asyncio.run(first())
    soc = 0.2 + 400 * math.sqrt(BATTERY_EFFICIENCY) / BATTERY_KWH
    report = of(heard, f"{BAT}/soc", timestamp=rfc3339(clock.now))[-1][1]
    assert report["value"] == pytest.approx(soc, abs=1e-6)
    assert of(heard, f"{BAT}/power", value=-400.0, timestamp=rfc3339(clock.now))

    async def second() -> Heard:
        with listen() as listener:
            async with fleet(broker, tmp_path, clock):
                await asyncio.to_thread(
                    listener.wait_until, lambda heard: bool(of(heard, f"{BAT}/soc", timestamp=rfc3339(clock.now)))
                )
                release = {"commandId": "c-2", "type": "release", "value": None, "unit": None}
                await say_until(
                    listener,
                    f"{BAT}/command",
                    release,
                    lambda heard: bool(of(heard, f"{BAT}/ack", commandId="c-2", state="done")),
                )
            clock.now += 5 * HOUR
            async with fleet(broker, tmp_path, clock):
                return await asyncio.to_thread(
                    listener.wait_until,
                    lambda heard: bool(of(heard, f"{BAT}/output", timestamp=rfc3339(DAWN + 2 * HOUR))),
                )

    heard = asyncio.run(second())
    # It goes on with what it held, and its interval readings tell the same story.
    kept = of(heard, f"{BAT}/soc", timestamp=rfc3339(DAWN + HOUR + 7 * MINUTE))[0][1]
    assert kept["value"] == pytest.approx(soc, abs=1e-6)
    quarter = of(heard, f"{BAT}/output", timestamp=rfc3339(DAWN + 30 * MINUTE))[0][1]
    assert quarter["value"] == -400
    released = of(heard, f"{BAT}/output", timestamp=rfc3339(DAWN + 75 * MINUTE))[0][1]
    assert released["value"] == 500

    # Ingest takes what was said: reports at any instant, intervals on their grid.
    registry.seed(connection, SEOUL, DAWN)
    series = readings.series_ids(connection)
    for topic, document in heard:
        taken = decode_message(
            topic, json.dumps(document).encode(), received_at=clock.now, series=series, rules=Rules()
        )
        assert taken.rejected == []


def test_a_curtailed_panel_says_so_in_its_hours(broker: EmbeddedBroker, listen: Listen, tmp_path: Path) -> None:
    clock = Clock(NOON)
    limit = {"commandId": "c-1", "type": "setpoint", "value": 20, "unit": "kW"}

    async def play() -> Heard:
        with listen() as listener:
            async with fleet(broker, tmp_path, clock):
                await say_until(
                    listener, f"{PV}/command", limit,
                    lambda heard: bool(of(heard, f"{PV}/ack", commandId="c-1", state="done")),
                )  # fmt: skip
            # The hour ends while the fleet is away.
            clock.now = NOON + HOUR + MINUTE
            async with fleet(broker, tmp_path, clock):
                return await asyncio.to_thread(
                    listener.wait_until,
                    lambda heard: bool(of(heard, f"{PV}/generation", timestamp=rfc3339(NOON))),
                )

    heard = asyncio.run(play())
    assert of(heard, f"{PV}/generation", timestamp=rfc3339(NOON))[0][1]["value"] == 20


def test_refused_topics_are_a_reason(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energy_cloud_dagster.services.mqtt_fleet._CONNECT_SECONDS", 0.3)
    client = FleetClient(broker.url, broker.username, broker.password, topics=["energy-cloud/#"])
    client._client.on_subscribe = None
    with pytest.raises(BrokerUnavailable, match="refused the topics"):
        client.connect()


def test_reports_are_messages_like_any_other() -> None:
    devices = VirtualDevices(SEOUL)
    setpoint(devices, BAT, DAWN, 0)
    now = DAWN + timedelta(microseconds=1_234_567)
    assert devices.report("BAT-001", now) == [
        Message(at, "BAT-001", metric, at, value, unit, "high", "seoul", "battery")
        for at in [now.replace(microsecond=234_000)]
        for metric, value, unit in (("power", 0.0, "kW"), ("soc", 0.2, "1"))
    ]


def test_devices_wait_for_a_broker_that_is_away(
    broker: EmbeddedBroker, listen: Listen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first connections fail; then the battery listens, and reports while it is commanded."""
    monkeypatch.setattr("energy_cloud_dagster.services.obeying._RETRY_SECONDS", 0.01)
    tried: list[str] = []
    devices = VirtualDevices(SEOUL, tmp_path / "devices.json")
    setpoint(devices, BAT, DAWN, -100)

    def client(topics: list[str], heard: Callable[[str, bytes], None]) -> FleetClient:
        tried.append("once")
        url = "mqtt://127.0.0.1:1" if len(tried) < 3 else broker.url
        return FleetClient(url, broker.username, broker.password, topics=topics, heard=heard)

    async def play() -> Heard:
        stop = asyncio.Event()
        with listen() as listener:
            task = asyncio.create_task(obey(client, devices, stop, clock=Clock(DAWN + HOUR)))
            try:
                return await asyncio.to_thread(listener.wait_until, lambda heard: bool(of(heard, f"{BAT}/power")))
            finally:
                stop.set()
                await task

    heard = asyncio.run(play())
    assert len(tried) == 3
    assert of(heard, f"{BAT}/power")[0][1]["value"] == -100


def test_a_released_panel_says_once_more_what_it_gives() -> None:
    devices, sent = VirtualDevices(SEOUL), list[tuple[str, Any]]()
    clock = Clock(NOON)
    free = spoken(devices, NOON, NOON + HOUR)["PV-VPP-001", "generation", NOON]

    class Wire:
        def publish(self, topic: str, payload: bytes) -> None:
            sent.append((topic, json.loads(payload)))

        def flush(self) -> None:
            pass

    line = _Line(devices, clock, simulated_receipt=False)
    wire: Any = Wire()
    line.work(wire, [(f"{PV}/config", b'{"version": 1, "settings": {"reportSeconds": 3600}}')])
    limit = {"commandId": "c-1", "type": "setpoint", "value": 20, "unit": "kW"}
    line.work(wire, [(f"{PV}/command", json.dumps(limit).encode())])
    assert [document["value"] for _, document in sent if "value" in document] == [pytest.approx(free), 20]
    # However rarely it reports, it does so when it was asked something.
    line.work(wire, [])
    line.work(wire, [(f"{PV}/config", b'{"version": 2, "settings": {"reportSeconds": 0}}')])
    sent.clear()
    line.work(wire, [(f"{PV}/command", b'{"commandId": "c-2", "type": "release"}')])
    line.work(wire, [])
    assert [topic.rpartition("/")[2] for topic, _ in sent] == ["ack", "ack", "power"]
    assert sent[-1][1]["value"] == free
