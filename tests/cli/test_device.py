"""Devices and their tokens from the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from energy_cloud_dagster.adapters import credentials, registry
from energy_cloud_dagster.cli.device import app
from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.sample_data.community import SEOUL_COMMUNITY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import sqlalchemy as sa

    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres


@pytest.fixture(scope="module")
def devices_engine(postgres: EmbeddedPostgres) -> sa.Engine:
    from energy_cloud_dagster.adapters.database import make_engine, upgrade

    postgres.ensure_database("energy_cloud_devices")
    url = postgres.url("energy_cloud_devices")
    upgrade(url)
    engine = make_engine(url)
    with engine.begin() as connection:
        registry.seed(connection, SEOUL_COMMUNITY, datetime.now(UTC), demo_key="test")
    return engine


@pytest.fixture
def run(devices_engine: sa.Engine) -> Callable[..., Result]:
    url = devices_engine.url.render_as_string(hide_password=False)

    def invoke(*arguments: str, **variables: str) -> Result:
        return CliRunner().invoke(app, arguments, env={"ENERGY_CLOUD_DATABASE_URL": url, **variables})

    return invoke


def holder(engine: sa.Engine, token: str) -> str | None:
    with engine.connect() as connection:
        return credentials.authenticate(connection, token, datetime.now(UTC))


def test_a_token_is_alone_on_standard_output(run: Callable[..., Result], devices_engine: sa.Engine) -> None:
    added = run("add", "SM-2", "--region", "seoul", "--type", "smart-meter", "--owner", "HOME-01")
    assert added.exit_code == 0
    first = added.stdout.removesuffix("\n")
    assert holder(devices_engine, first) == "SM-2"
    assert "energy-cloud/seoul/smart-meter/SM-2/consumption" in added.stderr
    rotated = run("rotate-token", "SM-2", ENERGY_CLOUD_TOKEN_GRACE_SECONDS="0")
    second = rotated.stdout.removesuffix("\n")
    assert [holder(devices_engine, token) for token in (first, second)] == [None, "SM-2"]
    third = json.loads(run("rotate-token", "SM-2", "--json").stdout)
    assert third.keys() == {"id", "token", "graceSeconds"}
    assert [holder(devices_engine, token) for token in (second, third["token"])] == ["SM-2", "SM-2"]
    assert run("revoke", "SM-2").stdout == "Device SM-2: 2 tokens revoked\n"
    assert holder(devices_engine, third["token"]) is None
    assert json.loads(run("revoke", "SM-2", "--json").stdout) == {"id": "SM-2", "revoked": 0}
    assert run("remove", "SM-2").stdout == "Device SM-2 is removed\n"


def test_what_is_added_is_listed(run: Callable[..., Result]) -> None:
    metrics = ("--metric", "consumption:kWh:load", "--metric", "voltage:V")
    added = run("add", "SM-3", "--region", "busan", "--type", "odd", "--class", "industrial", *metrics, "--json")
    document = json.loads(added.stdout)
    token = document.pop("token")
    assert json.loads(run("list", "--region", "busan", "--json").stdout) == [document]
    assert document["series"] == [
        {"metric": "consumption", "unit": "kWh", "kind": "energy", "role": "load"},
        {"metric": "voltage", "unit": "V", "kind": "state", "role": None},
    ]
    (line,) = run("list", "--type", "odd").stdout.splitlines()
    assert line.split() == ["SM-3", "busan", "odd", "-", "1", "token", "consumption:kWh,voltage:V"]
    assert len(run("list").stdout.splitlines()) == len(SEOUL_COMMUNITY.devices) + 1
    assert token not in run("list", "--json").stdout
    assert json.loads(run("remove", "SM-3", "--json").stdout) == {"id": "SM-3", "removed": True}


def test_pages_are_joined(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energy_cloud_dagster.cli.device._PAGE", 7)
    assert len(run("list").stdout.splitlines()) == len(SEOUL_COMMUNITY.devices)


def test_the_files_of_a_broker_of_one_s_own(run: Callable[..., Result], tmp_path: Path) -> None:
    run("add", "SM-4", "--region", "seoul", "--type", "smart-meter")
    written = run("broker-files", str(tmp_path / "new"), ENERGY_CLOUD_MQTT_PASSWORD="secret")
    assert written.exit_code == 0
    assert [line.rpartition("/")[2] for line in written.stdout.splitlines()] == ["passwords", "acl", "mosquitto.conf"]
    assert "systemctl reload mosquitto" in written.stderr
    users = [line.split(":")[0] for line in (tmp_path / "new" / "passwords").read_text().splitlines()]
    assert users == ["energy-cloud", "SM-4"]
    kept = (tmp_path / "new" / "passwords").read_text().split("\n")[0].partition(":")[2]
    assert credentials.verify_password("secret", kept)
    again = run("broker-files", str(tmp_path / "new"), "--json", ENERGY_CLOUD_MQTT_PASSWORD="secret")
    assert json.loads(again.stdout)["devices"] == 1
    run("revoke", "SM-4")
    run("remove", "SM-4")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("add", "a/b", "--region", "seoul", "--type", "smart-meter"), "cannot be a device id"),
        (("add", "x", "--region", "seoul", "--type", "smart-meter", "--metric", "power"), "is not NAME:UNIT"),
        (("add", "x", "--region", "mars", "--type", "smart-meter"), "region 'mars' is unknown"),
        (("add", "SM-001", "--region", "seoul", "--type", "smart-meter"), "SM-001 is registered already"),
        (("rotate-token", "nobody"), "'nobody' is not registered"),
        (("revoke", "nobody"), "'nobody' is not registered"),
        (("remove", "BAT-001"), "has a resource of a VPP"),
        (("broker-files", "/proc/none"), "set ENERGY_CLOUD_MQTT_PASSWORD"),
    ],
)
def test_a_fault_is_one_sentence(run: Callable[..., Result], arguments: tuple[str, ...], sentence: str) -> None:
    failed = run(*arguments)
    assert isinstance(failed.exception, EnergyCloudError)
    assert sentence in str(failed.exception)
    assert failed.stdout == ""


def test_a_folder_that_cannot_be_written_is_named(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failed = run("broker-files", str(tmp_path / "file" / "x"), ENERGY_CLOUD_MQTT_PASSWORD="secret")
    assert "cannot be written: not a directory" in str(failed.exception)
