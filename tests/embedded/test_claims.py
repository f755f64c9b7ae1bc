from __future__ import annotations

import socket
from pathlib import Path

import pytest

from energy_cloud_dagster.domain.errors import Conflict, DatabaseUnavailable, Misconfigured
from energy_cloud_dagster.embedded.claims import FolderLock, accepts, free_port, require_free_port, secret, usable

HOLD_LOCK = """
import sys, time
from pathlib import Path
from energy_cloud_dagster.embedded.claims import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("up", flush=True)
time.sleep(600)
"""


def test_a_second_holder_is_told_who_holds_until_that_one_is_killed(folder: Path, parent) -> None:
    holder = parent(HOLD_LOCK.replace("FolderLock(P", "lock = FolderLock(P"), folder / "home")
    with pytest.raises(Conflict, match=rf"home is in use by another energy-cloud \(process {holder.process.pid}\)"):
        FolderLock(folder / "home").acquire()
    holder.kill()
    with FolderLock(folder / "home") as lock:
        with pytest.raises(Conflict):
            FolderLock(folder / "home").acquire()
        lock.release()
        FolderLock(folder / "home").acquire().release()


def test_a_folder_that_cannot_be_made_is_misconfigured(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(Misconfigured, match="home cannot be used: not a directory; choose another with ENERGY_CLOUD_H"):
        FolderLock(folder / "file" / "home").acquire()


def test_a_port_in_use_names_the_variable_that_moves_it() -> None:
    port = free_port()
    require_free_port("The broker", port, "ENERGY_CLOUD_MQTT_PORT")
    assert not accepts(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert accepts(port)
        with pytest.raises(
            Misconfigured,
            match=rf"The broker cannot listen on 127.0.0.1:{port} \(address already in use\); "
            "choose another port with ENERGY_CLOUD_MQTT_PORT",
        ):
            require_free_port("The broker", port, "ENERGY_CLOUD_MQTT_PORT")


def test_a_secret_is_made_once_and_private(folder: Path) -> None:
    path = folder / "new" / "secret"
    made = secret(path)
    assert len(made) >= 32
    assert secret(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")  # torn: made again
    assert secret(path, lambda: "given") == "given"
    assert [each.name for each in path.parent.iterdir()] == ["secret"]


def test_what_the_system_says_is_one_sentence(folder: Path) -> None:
    with (
        pytest.raises(
            DatabaseUnavailable, match=rf"^PostgreSQL cannot use {folder}/absent: no such file or directory\.$"
        ),
        usable("PostgreSQL", folder, DatabaseUnavailable),
    ):
        (folder / "absent").read_text()
    with (
        pytest.raises(DatabaseUnavailable, match=rf"^PostgreSQL cannot use {folder}: no space left"),
        usable("PostgreSQL", folder, DatabaseUnavailable),
    ):
        raise OSError(28, "No space left on device")
