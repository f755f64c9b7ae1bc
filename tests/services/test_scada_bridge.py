from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
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
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.readings import Rules, SeriesInfo
from energy_cloud_dagster.sample_data.community import community
from energy_cloud_dagster.services.opcua_plant import PlantThread
from energy_cloud_dagster.services.scada_bridge import bridge, run, to_row
from energy_cloud_dagster.services.simulator import Message
from energy_cloud_dagster.settings import Settings

if TYPE_CHECKING:
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

START = datetime(2034, 1, 1, tzinfo=UTC)
TAGS = read_tag_map()
REPLAY = Rules(replay=True)
STARTS = pytest.StashKey[list[datetime]]()


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


class Cable:
    """The line to the plant: a TCP proxy that can be cut and mended."""

    def __init__(self, url: str) -> None:
        self._port = int(url.split(":")[2].split("/", maxsplit=1)[0])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._mine = int(probe.getsockname()[1])
        self.url = url.replace(f":{self._port}/", f":{self._mine}/")
        self._ends: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._mine)

    def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.close()
        self._ends.clear()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends += [writer, far_writer]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


@pytest.fixture
def start(request: pytest.FixtureRequest) -> datetime:
    """Days of its own for each test: a new subscription begins with the last value of the test before."""
    seen = request.session.stash.setdefault(STARTS, [START])
    seen.append(seen[-1] + timedelta(days=60))
    return seen[-1]


def message(tag: Tag, ts: datetime, value: float | None) -> Message:
    received = ts + timedelta(minutes=10, seconds=7)
    return Message(received, tag.device, tag.metric, ts, value, tag.unit, "high", "seoul", "wind-turbine")


async def write(plant: PlantThread, *due: Message) -> None:
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(plant._plant.write(due), plant._loop))


def rows(engine: sa.Engine, tag: Tag, start: datetime) -> list[readings.KnownReading]:
    with engine.connect() as connection:
        return readings.rows_between(
            connection, start, start + timedelta(days=60), device_ids=[tag.device], metrics=[tag.metric]
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


def test_every_value_is_stored_once_with_the_times_of_the_plant(
    plant_engine: sa.Engine, plant: PlantThread, start: datetime
) -> None:
    power = TAGS[0]
    # Equal neighbours included: they are readings too.
    values = [float(step // 2) for step in range(300)]
    due = [message(power, start + timedelta(minutes=10 * step), value) for step, value in enumerate(values)]
    absent = message(power, start + timedelta(days=30), None)
    odd = message(power, start + timedelta(days=31), float("nan"))

    async def play() -> None:
        async with bridged(plant_engine, plant.url):
            await write(plant, *due, absent, odd)
            await until(lambda: len(rows(plant_engine, power, start)) == len(values))

    asyncio.run(play())
    stored = rows(plant_engine, power, start)
    assert [each.value for each in stored] == values
    assert {each.revision for each in stored} == {1}
    assert stored[3].received_at == start + timedelta(minutes=40, seconds=7)
    assert (stored[3].source, stored[3].quality, stored[3].unit) == ("opcua", "high", "kW")
    with plant_engine.connect() as connection:
        kept = connection.execute(
            sa.select(rejected).where(rejected.c.received_at > start).order_by(rejected.c.received_at)
        ).all()
    assert [(each.source, each.topic, each.reason) for each in kept] == [
        ("opcua", power.node, "bad_status"),
        ("opcua", power.node, "not_finite"),
    ]
    assert "BadNoCommunication" in kept[0].detail
    assert json.loads(kept[0].payload)["sourceTimestamp"] == rfc3339(absent.ts)


def test_a_tag_without_node_or_series_is_named_and_the_others_go_on(
    plant_engine: sa.Engine, plant: PlantThread, start: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    speed = TAGS[1]
    tags = (
        Tag("ns=2;s=NOWHERE", "WT-R80711", "output", "kW"),
        Tag("ns=2;s=X", "WT-NOBODY", "output", "kW"),
        Tag("ns=2;s=Y", "WT-R80721", "output", "°C"),
        speed,
    )

    async def play() -> None:
        async with bridged(plant_engine, plant.url, tags):
            await write(plant, message(speed, start, 7.5))
            await until(lambda: len(rows(plant_engine, speed, start)) == 1)
        with pytest.raises(Misconfigured, match="none of the tag map's nodes"):
            await bridge(plant_engine, plant.url, tags[:1], REPLAY, threading.Event())

    asyncio.run(play())
    said = "".join(capsys.readouterr())
    assert "has no node ns=2;s=NOWHERE" in said
    assert "no series output of device WT-NOBODY; register it" in said
    assert "unit °C measures temperature" in said


def test_the_bridge_waits_for_its_server_and_finds_it_again(
    plant_engine: sa.Engine, plant: PlantThread, start: datetime
) -> None:
    speed = TAGS[1]
    cable = Cable(plant.url)

    async def play() -> None:
        stop = threading.Event()
        task = asyncio.create_task(bridge(plant_engine, cable.url, TAGS, REPLAY, stop))
        try:
            await asyncio.sleep(0.5)
            for turn in range(2):
                if turn:
                    cable.cut()
                await cable.mend()
                await asyncio.to_thread(plant.wait_until_watched)
                await write(plant, message(speed, start + turn * timedelta(minutes=10), float(turn)))
                await until(lambda wanted=turn + 1: len(rows(plant_engine, speed, start)) == wanted)
        finally:
            stop.set()
            await asyncio.wait_for(task, 30)
            cable.cut()

    asyncio.run(play())
    assert [each.value for each in rows(plant_engine, speed, start)] == [0.0, 1.0]


def test_outside_of_a_replay_the_wall_clock_says_when_a_value_was_received(
    plant_engine: sa.Engine, plant: PlantThread, start: datetime
) -> None:
    speed = TAGS[1]
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    fresh = message(speed, now, 7.5)._replace(received_at=start)

    def received() -> list[datetime]:
        with plant_engine.connect() as connection:
            return list(connection.execute(sa.select(reading.c.received_at).where(reading.c.ts == now)).scalars())

    async def play() -> None:
        async with bridged(plant_engine, plant.url, rules=Rules()):
            await write(plant, fresh)
            await until(lambda: len(received()) == 1)

    asyncio.run(play())
    assert abs(received()[0] - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_database_that_is_away_loses_no_value(
    plant_engine: sa.Engine, plant: PlantThread, start: datetime, postgres: EmbeddedPostgres
) -> None:
    speed = TAGS[1]
    admin = database.make_engine(postgres.url("postgres")).execution_options(isolation_level="AUTOCOMMIT")

    def allow(yes: bool) -> None:
        with admin.connect() as connection:
            connection.execute(sa.text(f"alter database ec_scada allow_connections {yes}"))
            if not yes:
                connection.execute(
                    sa.text("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'ec_scada'")
                )

    async def play() -> None:
        async with bridged(plant_engine, plant.url):
            allow(False)
            try:
                await write(plant, *(message(speed, start + timedelta(minutes=10 * step), 1.0) for step in range(5)))
            finally:
                allow(True)
            await until(lambda: len(rows(plant_engine, speed, start)) == 5)

    asyncio.run(play())
    admin.dispose()


def test_a_value_that_the_database_refuses_is_set_aside_alone(
    plant_engine: sa.Engine, plant: PlantThread, start: datetime
) -> None:
    speed = TAGS[1]
    with plant_engine.begin() as connection:
        info = readings.series_ids(connection, [speed.device])[speed.device, speed.metric]
        readings.ensure_days(connection, [start.date()])
        row = {"series_id": info.series_id, "ts": start, "value": 0.0, "quality": "high", "received_at": start}
        numbers = [{**row, "source": "opcua", "revision": revision} for revision in (1, 32_767)]
        connection.execute(sa.insert(reading), numbers)

    async def play() -> None:
        async with bridged(plant_engine, plant.url):
            await write(plant, message(speed, start, 1.0), message(speed, start + timedelta(minutes=10), 2.0))
            await until(lambda: len(rows(plant_engine, speed, start)) == 2)

    asyncio.run(play())
    with plant_engine.connect() as connection:
        assert readings.rejects_by_reason(connection)["not_storable"] == 1


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
