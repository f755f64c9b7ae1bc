"""Wrong usage, wrong settings and help: what people meet first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from energy_cloud_dagster.cli import app

ROOT = typer.main.get_command(app)


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Paths of all commands that are not groups of others."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path
    else:
        for name, each in below.items():
            yield from commands(each, *path, name)


def program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENERGY_CLOUD_")}
    return subprocess.run(
        [sys.executable, "-m", "energy_cloud_dagster.cli", *arguments],
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_all_commands_are_found() -> None:
    assert {("demo",), ("up",), ("audit", "verify"), ("db", "upgrade")} <= set(commands(ROOT))


@pytest.mark.parametrize("path", list(commands(ROOT)), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert f"Example: energy-cloud {' '.join(path)}" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("demmo",),
        ("demo", "--hours", "0"),
        ("demo", "--hours", "169"),
        ("demo", "--hours", "two"),
        ("demo", "--hour", "2"),
        ("up", "--port-base", "80"),
        ("audit", "verify"),
        ("audit", "verify", "trade"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


def test_an_unknown_command_says_so_on_stderr() -> None:
    finished = program("demmo")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "demmo" in finished.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ENERGY_CLOUD_PORT_BASE", "abc"),
        ("ENERGY_CLOUD_PORT_BASE", "80"),
        ("ENERGY_CLOUD_LOG_FORMAT", "xml"),
        ("ENERGY_CLOUD_TOKEN_SECRET", "short"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_its_variable(variable: str, value: str, tmp_path: Path) -> None:
    finished = program("demo", ENERGY_CLOUD_HOME=str(tmp_path / "none"), **{variable: value})
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith(f"energy-cloud: {variable}: ")
    assert len(finished.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_a_chain_without_its_key_is_refused(tmp_path: Path) -> None:
    finished = program(
        "demo",
        "--json",
        ENERGY_CLOUD_HOME=str(tmp_path),
        ENERGY_CLOUD_DATABASE_URL="postgresql:///none",
        ENERGY_CLOUD_DAGSTER_DATABASE_URL="postgresql:///none",
        ENERGY_CLOUD_MQTT_URL="mqtt://127.0.0.1:9",
        ENERGY_CLOUD_CHAIN_RPC_URL="http://127.0.0.1:9",
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "ENERGY_CLOUD_CHAIN_PRIVATE_KEY" in finished.stderr.splitlines()[-1]


def test_without_arguments_it_shows_what_there_is() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [])
    for name in ("demo", "up", "audit", "serve", "ingest"):
        assert name in result.output
