"""`energy-cloud ingest`, `energy-cloud outbox` and `energy-cloud scada` as people start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from energy_cloud_dagster.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from energy_cloud_dagster.embedded.broker import EmbeddedBroker

PROGRAM = [sys.executable, "-m", "energy_cloud_dagster.cli"]


@pytest.mark.parametrize(
    ("command", "variables", "part"),
    [
        (["ingest"], {}, "ENERGY_CLOUD_MQTT_URL '' is not mqtt://"),
        (["ingest"], {"ENERGY_CLOUD_MQTT_URL": "mqtt://127.0.0.1:1"}, "ENERGY_CLOUD_DATABASE_URL is empty"),
        (["outbox"], {}, "ENERGY_CLOUD_MQTT_URL '' is not mqtt://"),
        (["scada"], {}, "ENERGY_CLOUD_OPCUA_URL is empty"),
        (
            ["scada", "--tag-map", "nothing.toml"],
            {"ENERGY_CLOUD_OPCUA_URL": "opc.tcp://127.0.0.1:9"},
            "the tag map nothing.toml cannot be read",
        ),
        (["ingest"], {"ENERGY_CLOUD_LOG_LEVEL": "loud"}, "ENERGY_CLOUD_LOG_LEVEL"),
    ],
)
def test_what_is_missing_is_one_sentence(
    command: list[str],
    variables: dict[str, str],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in os.environ:
        if name.startswith("ENERGY_CLOUD_"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["energy-cloud", *command])
    with pytest.raises(SystemExit, match="1"):
        main()
    told = capsys.readouterr().err
    assert told.startswith("energy-cloud: ")
    assert part in told
    assert told.count("\n") == 1


@pytest.fixture
def own_broker(home: Path) -> Iterator[EmbeddedBroker]:
    """A worker's session outlives it and goes on taking its share of all messages: of nobody else's broker."""
    from energy_cloud_dagster.embedded.broker import EmbeddedBroker

    server = EmbeddedBroker(home / "cli-broker")
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("program", ["ingest", "outbox"])
def test_a_worker_says_when_it_is_ready_and_stops_when_asked(
    database_url: str, own_broker: EmbeddedBroker, home: Path, program: str
) -> None:
    variables = {
        "ENERGY_CLOUD_HOME": str(home / f"cli-{program}"),
        "ENERGY_CLOUD_DATABASE_URL": database_url,
        "ENERGY_CLOUD_MQTT_URL": own_broker.url,
        "ENERGY_CLOUD_MQTT_USERNAME": own_broker.username,
        "ENERGY_CLOUD_MQTT_PASSWORD": own_broker.password,
        "ENERGY_CLOUD_LOG_FORMAT": "json",
    }
    child = subprocess.Popen(
        [*PROGRAM, program, "--name", f"cli-{program}"], env=os.environ | variables, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert json.loads(child.stderr.readline())["event"] == f"{program}_ready"
    child.send_signal(signal.SIGTERM)
    _, rest = child.communicate(timeout=20)
    assert child.returncode == 0
    assert json.loads(rest.splitlines()[-1])["event"] == f"{program}_stopped"
