"""The program as people run it: real subprocesses, one finished demo for all tests, a look at what is left running."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

PROGRAM = [sys.executable, "-m", "energy_cloud_dagster.cli"]
#: The same, where coverage is measured: it is not handed on to children, whose time it nearly doubles.
MEASURED = [
    sys.executable,
    "-c",
    "import os; os.environ.pop('COVERAGE_PROCESS_CONFIG'); from energy_cloud_dagster.cli import main; main()",
]
PASSWORD = "correct horse battery"
DEMO = ("demo", "--hours", "2", "--json")
#: A demo takes about a minute of CPU; on a busy machine several of wall time.
PATIENCE = 900.0


def await_true(what: Callable[[], object], seconds: float, said: Callable[[], str] = lambda: "it") -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {said()}"
        time.sleep(0.05)


def free_port_base() -> int:
    """A port N such that N to N+7 are free; below the ports that the kernel gives to clients."""
    while True:
        base = random.SystemRandom().randrange(20000, 32000, 10)  # hypothesis seeds the other one
        with ExitStack() as stack:
            try:
                for port in range(base, base + 8):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return base


@dataclass
class Home:
    """A home, its ports, and the program run on it."""

    folder: Path
    ports: int = field(default_factory=free_port_base)
    #: Whether coverage is measured in the program itself; once is enough where the same happens again.
    measured: bool = True

    @property
    def program(self) -> list[str]:
        return MEASURED if self.measured and "COVERAGE_PROCESS_CONFIG" in os.environ else PROGRAM

    def environment(self, **variables: str) -> dict[str, str]:
        dropped = ("ENERGY_CLOUD_",) if self.measured else ("ENERGY_CLOUD_", "COVERAGE_PROCESS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        own = {
            "ENERGY_CLOUD_HOME": str(self.folder),
            "ENERGY_CLOUD_PORT_BASE": str(self.ports),
            "ENERGY_CLOUD_ADMIN_PASSWORD": PASSWORD,
        }
        return kept | own | variables

    def run(self, *arguments: str, timeout: float = PATIENCE, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *arguments],
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @contextmanager
    def start(self, *arguments: str, **variables: str) -> Iterator[Started]:
        """The program in the background, its output in a file; killed at the end where it still runs."""
        log = self.folder.with_name(f"{self.folder.name}-{arguments[0]}-{time.monotonic_ns()}.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.program, *arguments],
                env=self.environment(**variables),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Started(process, log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
                self.await_no_process()
            log.unlink(missing_ok=True)

    def processes(self) -> dict[int, str]:
        """Every living process that names this home in its environment or command line."""
        name, found = str(self.folder).encode(), {}
        for path in Path("/proc").glob("[0-9]*"):
            if int(path.name) == os.getpid():
                continue
            try:
                state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
                command = (path / "cmdline").read_bytes()
                if state not in "ZX" and (name in command or name in (path / "environ").read_bytes()):
                    found[int(path.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
        return found

    def await_no_process(self, seconds: float = 30.0) -> None:
        await_true(lambda: not self.processes(), seconds, lambda: f"left: {self.processes()}")

    def kill_when(self, arguments: Sequence[str], query: str) -> None:
        """Run the program and kill it outright once ``query`` gives true; await that nothing of it is left."""
        from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

        server = EmbeddedPostgres(self.folder / "postgres")

        def reached() -> bool:
            with psycopg.connect(server.url("energy_cloud"), connect_timeout=5) as connection:
                row = connection.execute(query).fetchone()  # type: ignore[arg-type]
            return bool(row and row[0])

        with self.start(*arguments) as started:
            # neither server nor table is there from the start
            started.await_true(reached, psycopg.Error, OSError)
            started.process.kill()
            started.process.wait()
            self.await_no_process()

    @contextmanager
    def database(self) -> Iterator[str]:
        """URL of the home's database, the server started for the length of the block."""
        from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

        server = EmbeddedPostgres(self.folder / "postgres", log=self.folder / "logs" / "postgres.log")
        server.start()
        try:
            yield server.url("energy_cloud")
        finally:
            server.stop()


@dataclass
class Started:
    """A process in the background and what it has printed so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def await_true(
        self, what: Callable[[], object], *passing: type[Exception], seconds: float = PATIENCE, pause: float = 0.05
    ) -> None:
        """Await ``what``; that it raises one of ``passing`` means not yet, that the process ends first is a failure."""
        end = time.monotonic() + seconds
        while True:
            with suppress(*passing):
                if what():
                    return
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < end, self.printed
            time.sleep(pause)

    def await_line(self, line: str, seconds: float = PATIENCE) -> None:
        """Await ``line`` on a line of its own."""
        self.await_true(lambda: line in self.printed.splitlines(), seconds=seconds)

    def interrupt(self, seconds: float = 30.0) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)


@dataclass
class Demo:
    """A finished demo: its home, what it printed, and its report."""

    home: Home
    finished: subprocess.CompletedProcess[str]

    @property
    def report(self) -> dict[str, Any]:
        assert self.finished.returncode == 0, self.finished.stderr
        found: dict[str, Any] = json.loads(self.finished.stdout)
        return found


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command that runs in this process leaves no logging behind for other tests."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def make_home() -> Iterator[Callable[[], Home]]:
    """Makes homes with short paths; all go at the end, with whatever still runs there ended by its own id."""
    made: list[Home] = []

    def make() -> Home:
        made.append(Home(Path(tempfile.mkdtemp(prefix="ec-"))))
        return made[-1]

    yield make
    for each in made:
        for pid in each.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(each.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def demo(make_home: Callable[[], Home], request: pytest.FixtureRequest) -> Demo:
    """One demo from an empty home, for all tests that read; who changes something there puts it back."""
    if any("disturbed" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("disturbed")  # beside this one, for it takes longer
    home = make_home()
    return Demo(home, home.run(*DEMO))


@pytest.fixture(scope="session")
def disturbed(make_home: Callable[[], Home]) -> Iterator[Future[Demo]]:
    """Becomes a demo that was killed while it loaded, killed while it settled, and run again."""
    home = make_home()
    home.measured = False

    def run() -> Demo:
        home.kill_when(DEMO, "select count(*) > 0 from raw.reading")
        home.kill_when(DEMO, "select count(*) > 0 from settlement.batch")
        return Demo(home, home.run(*DEMO))

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run)
