"""Reaching the parts of a home: running ones as they are, sleeping ones for the length of a command."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from energy_cloud_dagster.cli.attached import attached, remember
from energy_cloud_dagster.domain.errors import Conflict
from energy_cloud_dagster.embedded.claims import FolderLock
from energy_cloud_dagster.settings import Settings, load_settings

if TYPE_CHECKING:
    from .conftest import Demo, Home


@pytest.fixture
def filled(tmp_path: Path) -> Settings:
    return load_settings(
        home=tmp_path,
        database_url=SecretStr("postgresql:///energy_cloud"),
        mqtt_url="mqtt://127.0.0.1:1",
        mqtt_password=SecretStr("secret"),
        chain_rpc_url="http://127.0.0.1:2",
        admin_password=SecretStr("not written down"),
    )


def test_credentials_are_readable_by_their_owner_alone(filled: Settings) -> None:
    wide = filled.home / "running.json"
    wide.touch(mode=0o644)
    wide.chmod(0o644)
    path = remember(filled)
    assert path == wide
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    known = json.loads(path.read_text())
    assert (known["mqtt_url"], known["mqtt_password"]) == ("mqtt://127.0.0.1:1", "secret")
    assert "not written down" not in path.read_text()


def test_what_runs_is_used_and_what_is_named_wins(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(filled)
    monkeypatch.setenv("ENERGY_CLOUD_HOME", str(filled.home))
    monkeypatch.setenv("ENERGY_CLOUD_CHAIN_RPC_URL", "http://chain.example")
    with FolderLock(filled.home), attached() as found:
        assert found.database_url.get_secret_value() == "postgresql:///energy_cloud"
        assert found.mqtt_password.get_secret_value() == "secret"
        assert found.chain_rpc_url == "http://chain.example"
        assert found.home == filled.home


def test_a_home_that_another_command_holds_is_waited_for_by_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENERGY_CLOUD_HOME", str(tmp_path))
    with FolderLock(tmp_path), pytest.raises(Conflict, match="wait for it to end"), attached():
        pass


def test_the_parts_of_a_sleeping_home_are_started_for_a_command(demo: Demo) -> None:
    verified = demo.home.run("audit", "verify", "trade", "T-0")
    assert (verified.returncode, verified.stdout) == (1, "")
    assert verified.stderr == "energy-cloud: no settled trade T-0; list them with GET /v1/trading/history\n"
    demo.home.await_no_process(seconds=5)


def test_an_empty_home_has_nothing_to_verify(make_home: Callable[[], Home]) -> None:
    home = make_home()
    verified = home.run("audit", "verify", "batch", "0x0")
    assert (verified.returncode, verified.stdout) == (1, "")
    assert "run `energy-cloud db upgrade` first" in verified.stderr
    assert len(verified.stderr.splitlines()) == 1
