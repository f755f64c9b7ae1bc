"""Log lines: on standard error, at the level that was asked for, readable by programs where that was asked for."""

from __future__ import annotations

import json

import pytest
import structlog

from energy_cloud_dagster.cli import logs
from energy_cloud_dagster.settings import load_settings


def said(capsys: pytest.CaptureFixture[str]) -> str:
    log = structlog.get_logger()
    log.debug("one")
    log.info("two", part="broker")
    log.warning("three")
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_they_go_to_stderr_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(load_settings())
    lines = said(capsys).splitlines()
    assert len(lines) == 2
    assert "two" in lines[0]
    assert "part=broker" in lines[0]


def test_or_as_one_json_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(load_settings(log_format="json", log_level="debug"))
    first, second, _ = (json.loads(line) for line in said(capsys).splitlines())
    assert (first["event"], first["level"]) == ("one", "debug")
    assert (second["event"], second["part"]) == ("two", "broker")
    assert second["timestamp"].endswith("Z")


def test_a_command_that_says_itself_what_goes_on_logs_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(load_settings(), quiet=True)
    assert "three" in (lines := said(capsys))
    assert "two" not in lines
    logs.before_settings()
    assert "two" not in said(capsys)


def test_unless_a_level_is_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGY_CLOUD_LOG_LEVEL", "info")
    logs.configure(load_settings(), quiet=True)
    assert "two" in said(capsys)
