from __future__ import annotations

import fcntl
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from energy_cloud_dagster.domain.errors import Misconfigured
from energy_cloud_dagster.services import processes
from energy_cloud_dagster.services.processes import session_name


def test_processes_of_one_home_have_different_names_and_a_killed_one_leaves_its_name_to_the_next(
    tmp_path: Path,
) -> None:
    host = socket.gethostname()
    with ExitStack() as stack:
        names = [stack.enter_context(session_name(tmp_path, "outbox")) for _ in range(3)]
        other = stack.enter_context(session_name(tmp_path, "other"))
    assert names == [f"energy-cloud-outbox-{host}-{number}" for number in (1, 2, 3)]
    assert other == f"energy-cloud-other-{host}-1"
    with session_name(tmp_path, "outbox") as again:
        assert again == names[0]


def test_a_given_name_is_taken_as_it_is(tmp_path: Path) -> None:
    with session_name(tmp_path / "absent", "outbox", "hall-1") as name:
        assert name == "hall-1"
    assert not (tmp_path / "absent").exists()


def test_a_home_where_every_name_is_taken_is_a_matter_for_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr(processes.fcntl, "flock", taken)
    assert fcntl.flock is taken
    with pytest.raises(Misconfigured, match="outbox"), session_name(tmp_path, "outbox"):
        pass
