"""Simulated devices of resources: they come and go while the fleet runs, and do what their resource can."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from energy_cloud_dagster.adapters.played import Played
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.sample_data.community import Community
from energy_cloud_dagster.services.virtual_devices import IDLE_SECONDS, REPORT_SECONDS, VirtualDevices

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOBODY = Community((), (), (), (), ())


def resource(kind: str, kw: float = 100.0, **parameters: Any) -> Played:
    return Played(f"V-{kind}", "seoul", f"a-{kind}", 15, kind, kw, parameters)


class Registry:
    """What the registry holds, and how often it was asked; None: it does not answer."""

    def __init__(self, *found: Played) -> None:
        self.found: list[Played] | None = list(found)
        self.asked = 0

    def __call__(self) -> list[Played] | None:
        self.asked += 1
        return self.found


def order(devices: VirtualDevices, kind: str, kw: float, now: datetime = NOW, span: timedelta = HOUR) -> list[str]:
    document = {
        "commandId": f"{kind}-{kw}-{now:%H%M%S}", "type": "setpoint", "value": kw, "unit": "kW",
        "validUntil": rfc3339(now + span),
    }  # fmt: skip
    topic = f"energy-cloud/seoul/a-{kind}/V-{kind}"
    answers = devices.heard(f"{topic}/command", json.dumps(document).encode(), now)
    assert {at for at, _ in answers} <= {f"{topic}/ack"}
    return [json.loads(payload)["state"] for _, payload in answers]


def power(devices: VirtualDevices, kind: str, now: datetime = NOW) -> float | None:
    return {each.metric: each.value for each in devices.report(f"V-{kind}", now)}.get("power")


def test_each_kind_rests_obeys_within_its_limits_and_rests_again() -> None:
    kinds = ("solar", "wind", "hydro", "chp", "grid", "load", "storage")
    devices = VirtualDevices(NOBODY, registry=Registry(*(resource(kind) for kind in kinds)))
    devices.look()
    free = {kind: power(devices, kind) for kind in kinds}
    # What sun, wind and water give is theirs; all else waits to be asked.
    assert free == {kind: 100 if kind in {"solar", "wind", "hydro"} else 0 for kind in kinds}
    for kind in kinds:
        assert order(devices, kind, 60) == ["accepted", "done"]
        assert power(devices, kind) == 60
        assert order(devices, kind, 101, NOW + timedelta(seconds=1)) == ["rejected"]
        both_ways = kind in {"grid", "storage"}
        assert order(devices, kind, -60, NOW + timedelta(seconds=2)) == (
            ["accepted", "done"] if both_ways else ["rejected"]
        )
        assert power(devices, kind, NOW + timedelta(seconds=3)) == (-60 if both_ways else 60)
        assert power(devices, kind, NOW + 2 * HOUR) == free[kind]


def test_a_store_keeps_its_energy_across_orders_and_restarts(tmp_path: Path) -> None:
    store = resource("storage", energyCapacity=400.0, efficiency=0.81, soc=0.5)

    def soc(devices: VirtualDevices, now: datetime) -> float | None:
        return {each.metric: each.value for each in devices.report("V-storage", now)}["soc"]

    devices = VirtualDevices(NOBODY, tmp_path / "devices.json", registry=Registry(store))
    devices.look()
    assert soc(devices, NOW - 100 * HOUR) == soc(devices, NOW) == 0.5
    order(devices, "storage", -100)  # for an hour
    charged = 0.5 + 100 * 0.9 / 400
    for each in (devices, VirtualDevices(NOBODY, tmp_path / "devices.json", registry=Registry(store))):
        each.look()
        assert soc(each, NOW + HOUR / 2) == round((0.5 + charged) / 2, 6)
        assert soc(each, NOW + 90 * HOUR) == round(charged, 6)
        # Nobody needs its past any more; it is as full as it was.
        each.forget(lambda _: NOW + 80 * HOUR)
        assert soc(each, NOW + 90 * HOUR) == round(charged, 6)
    order(devices, "storage", 100, NOW + 90 * HOUR, 10 * HOUR)
    assert math.isclose(soc(devices, NOW + 91 * HOUR) or 0, charged - 100 / 0.9 / 400, abs_tol=1e-6)
    assert (soc(devices, NOW + 99 * HOUR), power(devices, "storage", NOW + 99 * HOUR)) == (0, 0)


def test_a_device_that_was_made_a_moment_before_hears_its_first_order() -> None:
    registry = Registry()
    devices = VirtualDevices(NOBODY, registry=registry)
    assert set(devices.topics()) == {"energy-cloud/+/+/+/command", "energy-cloud/+/+/+/config"}
    registry.found = [resource("chp")]
    assert order(devices, "chp", 40) == ["accepted", "done"]
    assert power(devices, "chp") == 40
    # Orders to devices of others are no reason to ask each time.
    asked = registry.asked
    for _ in range(10):
        assert order(devices, "wind", 1) == []
    assert registry.asked == asked + 1


def test_resources_that_change_or_leave_are_played_as_they_are(tmp_path: Path) -> None:
    registry = Registry(resource("chp"), resource("load"))
    devices = VirtualDevices(NOBODY, tmp_path / "devices.json", registry=registry)
    devices.look()
    order(devices, "chp", 40)
    order(devices, "load", 30)
    assert set(devices.reporting(NOW).values()) == {REPORT_SECONDS}
    registry.found = None  # a database that is away changes nothing
    devices.look()
    assert power(devices, "load") == 30
    registry.found = [resource("chp", kw=200.0)]
    devices.look()
    assert power(devices, "chp") == 40
    assert order(devices, "chp", 150, NOW + HOUR / 2) == ["accepted", "done"]
    assert devices.report("V-load", NOW) == []
    assert devices.reporting(NOW + 2 * HOUR) == {"V-chp": IDLE_SECONDS}
    registry.found = [resource("chp", kw=200.0), resource("load")]
    devices.look()
    assert power(devices, "load") == 30
    registry.found = [resource("load", kw=20.0)]  # of a smaller one it cannot give more
    devices.look()
    assert power(devices, "load") == 20
