from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from energy_cloud_dagster.adapters import database, readings, registry
from energy_cloud_dagster.adapters.opcua import Tag, TagValue, read_tag_map
from energy_cloud_dagster.adapters.tables import reading, rejected
from energy_cloud_dagster.domain.errors import Misconfigured, Rejected
from energy_cloud_dagster.domain.readings import Rules, SeriesInfo
from energy_cloud_dagster.sample_data.community import community
from energy_cloud_dagster.services.opcua_plant import PlantServer
from energy_cloud_dagster.services.opcua_plant import Tag as PlantTag
from energy_cloud_dagster.services.scada_bridge import bridge, run, to_row
from energy_cloud_dagster.services.simulator import Message
from energy_cloud_dagster.settings import Settings

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

START = datetime(2034, 1, 1, tzinfo=UTC)
TAGS = read_tag_map()
REPLAY = Rules(replay=True)


@pytest.fixture(scope="module")
def url(postgres: EmbeddedPostgres) -> str:
    postgres.ensure_database("ec_scada")
    return postgres.url("ec_scada")


@pytest.fixture(scope="module")
def plant_engine(url: str) -> Iterator[sa.Engine]:
    database.upgrade(url)
    engine = database.make_engine(url)
    with engine.begin() as connection:
        registry.seed(connection, community(), START)
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def _empty(plant_engine: sa.Engine) -> None:
    with plant_engine.begin() as connection:
        connection.execute(sa.delete(reading))
        connection.execute(sa.delete(rejected))


def message(tag: Tag, step: int, value: float | None, *, minutes: int = 10) -> Message:
    ts = START + timedelta(minutes=minutes * step)
    received = ts + timedelta(minutes=10, seconds=7)
    return Message(received, tag.device, tag.metric, ts, value, tag.unit, "high", "seoul", "wind-turbine")


def rows(engine: sa.Engine, tag: Tag) -> list[readings.KnownReading]:
    with engine.connect() as connection:
        return readings.rows_between(
            connection, START, START + timedelta(days=60), device_ids=[tag.device], metrics=[tag.metric]
        )


@asynccontextmanager
async def bridged(
    engine: sa.Engine, url: str, tags: tuple[Tag, ...] = TAGS, rules: Rules = REPLAY
) -> AsyncIterator[asyncio.Task[object]]:
    stop, ready = threading.Event(), asyncio.Event()
    task = asyncio.create_task(bridge(engine, url, tags, rules, stop, on_ready=ready.set))
    waiter = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiter}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert ready.is_set()
        yield task
    finally:
        waiter.cancel()
        stop.set()
        await asyncio.wait_for(task, 30)


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Ask the database until it says so: there is no event across a subscription."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.05)


def test_every_value_is_stored_once_with_the_times_of_the_plant(plant_engine: sa.Engine) -> None:
    power = TAGS[0]
    # Equal neighbours included: they are readings too.
    values = [float(step // 2) for step in range(600)]

    async def play() -> None:
        async with PlantServer() as plant, bridged(plant_engine, plant.url):
            await plant.write([message(power, step, value) for step, value in enumerate(values)])
            await plant.write([message(power, 600, None), message(power, 601, float("nan"))])
            await until(lambda: len(rows(plant_engine, power)) == 600)

    asyncio.run(play())
    stored = rows(plant_engine, power)
    assert [each.value for each in stored] == values
    assert {each.revision for each in stored} == {1}
    assert stored[3].received_at == START + timedelta(minutes=40, seconds=7)
    assert (stored[3].source, stored[3].quality, stored[3].unit) == ("opcua", "high", "kW")
    with plant_engine.connect() as connection:
        kept = connection.execute(sa.select(rejected).order_by(rejected.c.rejected_id)).all()
    assert [(each.source, each.topic, each.reason) for each in kept] == [
        ("opcua", power.node, "bad_status"),
        ("opcua", power.node, "not_finite"),
    ]
    assert "BadNoCommunication" in kept[0].detail
    assert json.loads(kept[0].payload)["sourceTimestamp"] == "2034-01-05T04:00:00Z"


def test_a_tag_without_node_or_series_is_named_and_the_others_go_on(
    plant_engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    speed = TAGS[1]
    tags = (
        Tag("ns=2;s=NOWHERE", "WT-R80711", "output", "kW"),
        Tag("ns=2;s=X", "WT-NOBODY", "output", "kW"),
        Tag("ns=2;s=Y", "WT-R80721", "output", "°C"),
        speed,
    )

    async def play() -> None:
        async with PlantServer(tags=tuple(PlantTag(*tag) for tag in TAGS[1:2])) as plant:
            async with bridged(plant_engine, plant.url, tags):
                await plant.write([message(speed, 0, 7.5)])
                await until(lambda: len(rows(plant_engine, speed)) == 1)

    asyncio.run(play())
    said = capsys.readouterr().out
    assert "has no node ns=2;s=NOWHERE" in said
    assert "no series output of device WT-NOBODY; register it" in said
    assert "unit °C measures temperature" in said


def test_the_bridge_waits_for_its_server_and_finds_it_again(plant_engine: sa.Engine) -> None:
    speed = TAGS[1]

    async def play() -> None:
        async with PlantServer() as plant:
            port = int(plant.url.split(":")[2].split("/")[0])
        stop = threading.Event()
        task = asyncio.create_task(bridge(plant_engine, plant.url, TAGS, REPLAY, stop))
        await asyncio.sleep(0)
        for turn in range(2):
            async with PlantServer(port) as again:
                await again.wait_until_watched(60)
                await again.write([message(speed, turn, float(turn))])
                await until(lambda wanted=turn + 1: len(rows(plant_engine, speed)) == wanted)
        stop.set()
        await asyncio.wait_for(task, 30)

    asyncio.run(play())
    assert [each.value for each in rows(plant_engine, speed)] == [0.0, 1.0]


def test_outside_of_a_replay_the_wall_clock_says_when_a_value_was_received(plant_engine: sa.Engine) -> None:
    speed = TAGS[1]
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    fresh = message(speed, 0, 7.5)._replace(ts=now, received_at=START)

    async def play() -> None:
        async with PlantServer() as plant, bridged(plant_engine, plant.url, rules=Rules()):
            await plant.write([fresh])
            await until(stored)

    def found() -> list[object]:
        with plant_engine.connect() as connection:
            return list(connection.execute(sa.select(reading.c.received_at)).scalars())

    def stored() -> bool:
        return len(found()) == 1

    asyncio.run(play())
    (received_at,) = found()
    assert abs(received_at - datetime.now(UTC)) < timedelta(minutes=5)  # type: ignore[operator]


def test_run_needs_a_server_tags_and_registered_devices(url: str, plant_engine: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="ENERGY_CLOUD_OPCUA_URL is empty"):
        run(Settings(database_url=SecretStr(url)))
    strange = tmp_path / "tags.toml"
    strange.write_text('[[tag]]\nnode = "ns=2;s=A"\ndevice = "NOBODY"\nmetric = "output"\nunit = "kW"\n')
    given = Settings(database_url=SecretStr(url), opcua_url="opc.tcp://127.0.0.1:9/x", tag_map=strange)
    with pytest.raises(Misconfigured, match="no tag of the tag map is a registered series"):
        run(given)
    stop = threading.Event()
    stop.set()
    assert run(given.model_copy(update={"tag_map": None}), stop=stop) == {}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", r"has no \[\[tag\]\]"),
        ("[[tag", "cannot be read"),
        ('[[tag]]\nnode = "ns=2;s=A"\nmetric = "output"', r"\[\[tag\]\] 1 lacks device, unit"),
        (
            '[[tag]]\nnode="a"\ndevice="d"\nmetric="m"\nunit="kW"\n[[tag]]\nnode="a"\ndevice="e"\nmetric="m"\nunit="kW"',
            "has the node a twice",
        ),
        (
            '[[tag]]\nnode="a"\ndevice="d"\nmetric="m"\nunit="kW"\n[[tag]]\nnode="b"\ndevice="d"\nmetric="m"\nunit="kW"',
            "has the series .* twice",
        ),
    ],
)
def test_a_faulty_tag_map_is_said_so(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=part):
        read_tag_map(path)
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_tag_map(tmp_path / "none.toml")


def test_a_faulty_node_id_is_said_so(plant_engine: sa.Engine) -> None:
    faulty = (Tag("garbage", "WT-R80711", "output", "kW"),)
    with pytest.raises(Misconfigured, match="write it like ns=2;s=NAME"):
        asyncio.run(bridge(plant_engine, "opc.tcp://127.0.0.1:9/x", faulty, REPLAY, threading.Event()))


def test_values_without_time_or_with_a_doubtful_status() -> None:
    info = SeriesInfo(1, "kW", "power", 10, "seoul", "wind-turbine", "wind")
    value = TagValue(Tag("n", "d", "m", "MW"), 1.5, "Uncertain", True, START, None)
    row = to_row(value, info, START + timedelta(minutes=10), Rules())
    assert (row.value, row.quality) == (1500.0, "medium")
    with pytest.raises(Rejected, match="SourceTimestamp"):
        to_row(value._replace(source_time=None), info, START, Rules())
    with pytest.raises(Rejected, match="10-minute interval"):
        to_row(value._replace(source_time=START + timedelta(seconds=1)), info, START, Rules())
