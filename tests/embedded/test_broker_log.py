from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.embedded import broker_log
from energy_cloud_dagster.embedded.broker_log import LogFilter, note_refused, take_refused

AT = "2026-03-01T00:00:00Z"
LOG = b"""\
New client connected from 127.0.0.1:50760 as any 'client (p2, c1, k10, u'SM-1').
No will message specified.
Sending CONNACK to any (0, 0)
Received PUBLISH from any 'client (d0, q1, r0, m1, 'energy-cloud/a/b/SM-1/c', ... (10 bytes))
Denied PUBLISH from any 'client (d0, q1, r0, m2, 'energy-cloud/a/b/it's/c', ... (10 bytes))
Denied PUBLISH from any 'client (d1, q1, r0, m2, 'energy-cloud/a/b/it's/c', ... (10 bytes))
Denied PUBLISH in words that nobody knows
Sending PUBACK to any 'client (m2, rc135)
\tenergy-cloud/# (QoS 1)
Saving in-memory database to /x/mosquitto.db.
"""


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, len(LOG)), max_size=6).map(sorted))
def test_however_the_log_is_cut_the_same_is_kept_and_noted(cuts: list[int]) -> None:
    lines, kept = LogFilter(), b""
    for start, end in zip([0, *cuts], [*cuts, len(LOG)], strict=True):
        kept += lines.feed(LOG[start:end], AT)
    connected, saving = LOG.splitlines()[0], LOG.splitlines()[-1]
    assert kept.splitlines() == [f"{AT}: ".encode() + connected, f"{AT}: ".encode() + saving]
    topic = "energy-cloud/a/b/it's/c"
    assert lines.taken() == [{"at": AT, "client": "any 'client", "user": "SM-1", "topic": topic, "messages": 2}]
    assert lines.taken() == []


def test_a_flood_of_topics_clients_or_bytes_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_log, "MOST_NOTED", 3)
    monkeypatch.setattr(broker_log, "MOST_CLIENTS", 2)
    monkeypatch.setattr(broker_log, "MOST_BYTES", 1_000)
    lines = LogFilter()
    for number in range(9):
        lines.feed(f"New client connected from ::1:1 as c{number} (p2, c1, k10, u'u{number}').\n".encode(), AT)
    for number in range(9):
        lines.feed(f"Denied PUBLISH from c8 (d0, q1, r0, m1, 't{number}', ... (1 bytes))\n".encode(), AT)
    noted = lines.taken()
    assert [(one["topic"], one["messages"]) for one in noted] == [("t0", 1), ("t1", 1), ("t2", 1), ("", 6)]
    assert {one["user"] for one in noted} == {"u8"}
    assert list(lines._users) == ["c7", "c8"]
    lines.feed(b"x" * 2_000, AT)
    assert lines._rest == b""


def test_what_is_noted_is_taken_once_and_a_full_file_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "refused"
    assert take_refused(file) == []
    note_refused(file, [{"n": 1}, {"n": 2}])
    note_refused(file, [{"n": 3}])
    assert file.stat().st_mode & 0o777 == 0o600
    assert take_refused(file) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert take_refused(file) == []
    monkeypatch.setattr(broker_log, "MOST_BYTES", 1)
    note_refused(file, [{"n": 4}])
    note_refused(file, [{"n": 5}])
    with file.open("ab") as cut:
        cut.write(b'{"n": ')
    assert take_refused(file) == [{"n": 4}]
