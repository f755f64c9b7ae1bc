from __future__ import annotations

import json
import socket
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from energy_cloud_dagster.adapters import credentials, registry
from energy_cloud_dagster.adapters.database import make_engine, upgrade
from energy_cloud_dagster.domain.errors import ChainUnavailable, Conflict, Misconfigured
from energy_cloud_dagster.embedded.broker import find_mosquitto
from energy_cloud_dagster.embedded.chain import EmbeddedChain
from energy_cloud_dagster.embedded.claims import accepts, free_port
from energy_cloud_dagster.embedded.parts import EmbeddedParts, child_environment
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY
from energy_cloud_dagster.settings import Settings, load_settings

from .conftest import await_true

RUN = """
import logging, sys, time
from pathlib import Path
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
import psycopg
from energy_cloud_dagster.embedded.parts import EmbeddedParts
from energy_cloud_dagster.settings import Settings
home, mqtt, chain, mqtts, mqtt5, hang = sys.argv[1:]
ports = {"mqtt_port": mqtt, "chain_port": chain, "mqtts_port": mqtts, "mqtt5_port": mqtt5}
with EmbeddedParts(Settings(home=home, **ports)) as settings:
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        rows = connection.execute("SELECT count(*) FROM kept").fetchone()[0]
    print(rows, flush=True)
    if hang == "hang":
        time.sleep(600)
"""


def settings_of(home: Path, **more: object) -> Settings:
    ports = {name: free_port() for name in ("mqtt_port", "chain_port", "mqtts_port", "mqtt5_port")}
    return load_settings(**{"home": home, "_env_file": None, **ports, **more})


def chain_id(url: str) -> int:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as answer:
        return int(json.load(answer)["result"], 16)


def test_everything_that_is_left_empty_runs_and_stops(folder: Path) -> None:
    given = settings_of(folder / "home")
    parts = EmbeddedParts(given)
    with parts as settings:
        for url in (settings.database_url, settings.dagster_database_url):
            with psycopg.connect(url.get_secret_value()) as connection:
                assert connection.info.dbname in {"energy_cloud", "dagster"}
        assert settings.mqtt_url == f"mqtt://127.0.0.1:{given.mqtt_port}"
        assert settings.mqtt_username
        assert settings.mqtt_password.get_secret_value()
        assert chain_id(settings.chain_rpc_url) > 0
        assert settings.chain_private_key.get_secret_value().startswith("0x")
        assert [part.part for part in parts.running] == ["database", "broker", "chain"]
        assert all(part.version[:1].isdigit() for part in parts.running)
        banner = repr(parts.running)
        for password in (settings.mqtt_password, settings.chain_private_key):
            assert password.get_secret_value() not in banner
        assert parts.postgres
        assert parts.postgres._password() not in banner

        with pytest.raises(Conflict, match="home is in use by another energy-cloud"), EmbeddedParts(given):
            pass
    assert parts.running == []
    assert not accepts(given.port("mqtt"))
    assert not accepts(given.port("chain"))
    assert not list(folder.rglob("*.pid"))


def test_a_kill_leaves_no_process_and_a_restart_finds_the_rows(folder: Path, parent) -> None:
    arguments = (folder / "home", *(free_port() for _ in range(4)))
    first = parent(RUN, *arguments, "hang")
    assert first.said == "1"
    assert len(first.below) > 7  # the server's own processes, broker, chain, guardian
    first.process.kill()
    first.process.wait()
    assert parent(RUN, *arguments, "stop").said == "2"  # at once, beside what is still ending
    first.await_end()


def test_what_the_settings_name_is_not_started(folder: Path) -> None:
    given = settings_of(
        folder / "home",
        database_url=SecretStr("postgresql://db/x"),
        dagster_database_url=SecretStr("postgresql://db/y"),
        mqtt_url="mqtt://broker:1883",
        chain_rpc_url="http://chain:8545",
        chain_private_key=SecretStr("0x01"),
    )
    parts = EmbeddedParts(given)
    with parts as settings:
        assert parts.running == []
        assert settings == given
    with pytest.raises(Misconfigured, match="set ENERGY_CLOUD_CHAIN_PRIVATE_KEY too"):
        EmbeddedParts(given.model_copy(update={"chain_private_key": SecretStr("")})).__enter__()


def test_a_port_in_use_stops_what_had_started(folder: Path) -> None:
    given = settings_of(folder / "home")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", given.port("mqtt")))
        taken.listen()
        parts = EmbeddedParts(given)
        with pytest.raises(Misconfigured, match=r"ENERGY_CLOUD_MQTT_PORT or move all with ENERGY_CLOUD_PORT_BASE"):
            parts.__enter__()
    assert parts.postgres
    assert parts.postgres.pid is None


def test_a_failing_part_frees_the_home_for_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_of(folder / "home", database_url="postgresql://db/x", dagster_database_url="postgresql://db/y")

    def fail(_: EmbeddedChain) -> None:
        raise ChainUnavailable("no")

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedChain, "start", fail)
        for _ in range(2):
            with pytest.raises(ChainUnavailable, match="no"):
                EmbeddedParts(given).__enter__()
    assert not accepts(given.port("mqtt"))


def test_settings_reach_a_child_unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_of(
        folder / "home", replay=True, tag_map=Path("tags.toml"), admin_password=SecretStr("s3cret"), catchup_hours=9
    )
    environment = child_environment(given)
    assert "ENERGY_CLOUD_PORT_BASE" not in environment
    assert environment["ENERGY_CLOUD_ADMIN_PASSWORD"] == "s3cret"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings(_env_file=None) == given.model_copy(update={"tag_map": Path("tags.toml").absolute()})


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_a_device_that_is_registered_while_all_runs_is_let_in_and_shut_out(folder: Path) -> None:
    given = settings_of(folder / "home", chain_rpc_url="http://chain:8545", chain_private_key=SecretStr("0x01"))
    parts = EmbeddedParts(given)
    with parts as settings:
        url = settings.database_url.get_secret_value()
        upgrade(url)  # only now has it tables
        with make_engine(url).begin() as connection:
            registry.seed(connection, SEOUL_COMMUNITY, datetime.now(UTC), demo_key="test")
            token = credentials.issue(connection, "SM-001", datetime.now(UTC))
        await_true(lambda: code_of(given.port("mqtt"), "SM-001", token) == 0)
        with make_engine(url).begin() as connection:
            credentials.revoke(connection, "SM-001", datetime.now(UTC))
        await_true(lambda: code_of(given.port("mqtt"), "SM-001", token) == 5, 5)
        assert f"mqtts://localhost:{given.port('mqtts')}" in parts.running[1].url
        assert accepts(given.port("mqtts"))


def code_of(port: int, user: str, password: str) -> int:
    """The broker's answer to an MQTT 3.1.1 login: 0 in, 5 not authorised."""
    fields = (f"{user}-{port}", user, password)
    body = b"\x00\x04MQTT\x04\xc2\x00\x0a" + b"".join(len(one).to_bytes(2) + one.encode() for one in fields)
    with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
        connection.sendall(b"\x10" + bytes([len(body)]) + body)
        return connection.recv(4)[3]
