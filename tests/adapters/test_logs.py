"""Log lines go to standard error as it is when they are written, of the level and in the form that was asked for."""

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from energy_cloud_dagster.adapters.logs import configure_logging

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_line_goes_to_the_present_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    configure_logging("json", "info")
    log.info("started", rows=3)
    monkeypatch.setattr(sys, "stderr", second)
    first.close()
    log.info("stored", rows=4)
    line = json.loads(second.getvalue())
    assert (line["event"], line["rows"], line["level"]) == ("stored", 4, "info")
    assert line["timestamp"].endswith("Z")


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("console", "warning")
    log.info("unheard")
    log.warning("heard", reason="so")
    written = capsys.readouterr()
    assert written.out == ""
    assert "heard" in written.err
    assert "reason=so" in written.err
    assert "unheard" not in written.err
