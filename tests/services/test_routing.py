from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from energy_cloud_dagster.adapters import registry
from energy_cloud_dagster.adapters.mqtt import Received
from energy_cloud_dagster.adapters.tables import device, series
from energy_cloud_dagster.domain.readings import Topic, parse_topic
from energy_cloud_dagster.sample_data.community import community
from energy_cloud_dagster.services import routing
from energy_cloud_dagster.services.routing import KNOWN_SECONDS, UNKNOWN_SECONDS, Routes

NOW = datetime(2031, 5, 1, tzinfo=UTC)
GOOD = json.dumps({"timestamp": NOW.isoformat(), "value": 1, "unit": "kWh"}).encode()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seeded(connection: sa.Connection) -> sa.Connection:
    registry.seed(connection, community(), NOW)
    return connection


@contextmanager
def statements(connection: sa.Connection) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sa.event.listen(connection, "before_cursor_execute", note)
    yield seen
    sa.event.remove(connection, "before_cursor_execute", note)


def meter() -> Topic:
    return Topic("seoul", "smart-meter", f"M-{uuid.uuid4().hex[:8]}", "consumption")


def said(topic: Topic | str, payload: bytes = GOOD) -> Received:
    return Received(str(topic), payload, NOW, 1, 0)


def ask(routes: Routes, connection: sa.Connection, *messages: Received) -> list[str | None]:
    """Route messages and return the reasons why they were refused."""
    if missing := routes.missing(messages):
        routes.learn(routes.look_up(connection, missing))
    refusals = [routes[message.topic].refusal for message in messages]
    return [refusal.reason if refusal else None for refusal in refusals]


def test_every_topic_has_a_series_or_a_reason_or_carries_nothing(seeded: sa.Connection) -> None:
    topic = Topic("seoul", "smart-meter", "SM-H01", "consumption")
    routes = Routes(1_000)
    asked = [
        topic,
        topic._replace(region="kr-seoul"),
        topic._replace(region="busan"),
        topic._replace(metric="colour"),
        topic._replace(metric="status"),
        meter(),
        "energy-cloud/seoul",
        "energy-cloud/seoul/smart-meter/a\x00b/consumption",
    ]
    assert ask(routes, seeded, *map(said, asked)) == [
        None,
        None,
        "topic_mismatch",
        "unknown_metric",
        None,
        "unknown_device",
        "bad_topic",
        "bad_topic",
    ]
    infos = [routes[str(topic)].info for topic in asked]
    assert infos[0] is not None
    assert infos[0] == infos[1]
    assert infos[2:] == [None] * 6


def test_a_burst_of_strangers_asks_once_and_a_new_device_is_known_soon(seeded: sa.Connection) -> None:
    clock, topic = Clock(), meter()
    routes = Routes(1_000, clock=clock)
    with statements(seeded) as seen:
        strangers = [said(topic), *(said(meter()) for _ in range(500))]
        for _ in range(20):
            assert set(ask(routes, seeded, *strangers)) == {"unknown_device"}
    assert len(seen) <= 2
    registry.register_device(seeded, topic, "kWh", NOW)
    clock.now = UNKNOWN_SECONDS + 0.1
    assert ask(routes, seeded, said(topic)) == [None]


def test_what_the_registry_changed_is_seen_in_time(seeded: sa.Connection) -> None:
    clock, topic = Clock(), meter()
    routes = Routes(1_000, clock=clock)
    registry.register_device(seeded, topic, "kWh", NOW)
    assert ask(routes, seeded, said(topic)) == [None]
    for table in (series, device):
        seeded.execute(sa.delete(table).where(table.c.device_id == topic.device_id))
    assert routes.missing([said(topic)]) == {}
    clock.now = KNOWN_SECONDS + 0.1
    assert ask(routes, seeded, said(topic)) == ["unknown_device"]


def test_a_stranger_is_registered_by_its_first_good_message(seeded: sa.Connection) -> None:
    topic = meter()
    routes = Routes(1_000, register=True)
    for bad in (b"{", b"[]", b"[7]", GOOD.replace(b"kWh", b"furlong")):
        assert ask(routes, seeded, said(topic, bad)) == ["unknown_device"]
    elsewhere = topic._replace(region="atlantis")
    assert ask(routes, seeded, said(elsewhere)) == ["unknown_device"]
    assert ask(routes, seeded, said(topic, b"{"), said(topic)) == [None, None]
    assert not registry.device_by_id(seeded, topic.device_id).verified
    more = topic._replace(metric="voltage")
    assert ask(routes, seeded, said(more, GOOD.replace(b"kWh", b"V"))) == [None]
    assert ask(routes, seeded, said(elsewhere)) == ["topic_mismatch"]
    assert ask(routes, seeded, said("energy-cloud/seoul")) == ["bad_topic"]


def test_the_routes_of_random_topics_do_not_pile_up(seeded: sa.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_MANY_ROUTES", 10)
    clock = Clock()
    routes = Routes(1_000, clock=clock)
    for _ in range(5):
        clock.now += UNKNOWN_SECONDS + 1
        ask(routes, seeded, *(said(meter()) for _ in range(10)))
    assert len(routes._routes) <= 20
    assert all(parse_topic(topic).device_id for topic in routes._routes)
