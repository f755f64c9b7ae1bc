"""Children that die with us: their own session, a log file, and an end whatever way this process ends.

Three nets, each enough alone: ``Child.stop``; on Linux a death signal from the kernel; and a guardian process that
ends whole process groups (grandchildren too) once this process is gone. Should all of them fail, the next start finds
the orphan by its pid file and ends it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self

from energy_cloud_dagster.domain.errors import Conflict, Misconfigured, PartUnavailable
from energy_cloud_dagster.embedded.guardian import NOBODY, ended, group_lives, signal_group

GUARDIAN = Path(__file__).with_name("guardian.py")
PREDECESSOR_GRACE_SECONDS = 10.0
GRANDCHILDREN_GRACE_SECONDS = 2.0
FULL_DISK = re.compile(r"no space left|free disk space", re.IGNORECASE)
LOG_BYTES = 10_000_000
LOOKS_LIKE_A_FAULT = re.compile(r"(error|fatal|panic)\b", re.IGNORECASE)
POLL_SECONDS = 0.01


class _Guardian:
    """Our end of the guardian's pipe, and the one thread that forks.

    The kernel's death signal fires when the forking *thread* ends, so all forks happen in a thread that lives as long
    as this process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: dict[int, int] = {}
        self._forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="supervise-fork")

    def fork(
        self, argv: Sequence[str], *, user: str, number: int, log: IO[bytes], env: Mapping[str, str] | None, cwd: Path
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` in a session of its own and have its group ended with us, by signal ``number``."""
        shim = [sys.executable, "-I", "-S", str(GUARDIAN), "exec", str(os.getpid()), str(int(number)), user, *argv]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                shim, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=cwd, start_new_session=True
            )

        process = self._forker.submit(start).result()
        with self._lock:
            self._groups[process.pid] = int(number)
            self._tell(f"+ {process.pid} {int(number)}\n")
        return process

    def forget(self, group: int) -> None:
        """Have the guardian forget ``group``: it is gone, and its number may be given to a stranger."""
        with self._lock:
            if self._groups.pop(group, None) is not None:
                self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = self._forker.submit(self._start).result()
            line = "".join(f"+ {group} {number}\n" for group, number in self._groups.items())
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARDIAN), "guard", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


_guardian = _Guardian()


def _after_fork() -> None:
    global _guardian  # noqa: PLW0603 - a forked copy has neither our thread nor our children
    _guardian = _Guardian()


os.register_at_fork(after_in_child=_after_fork)


class Child:
    """One supervised child process.

    ``argv`` is started with stdout and stderr appended to ``log`` (its folder is made). ``stop_signal`` is the polite
    way to end it. ``user`` says as whom a child of root runs (see ``guardian.py``). Faults are raised as ``error``.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None,
        log: Path,
        *,
        cwd: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: str = "-",
        error: type[PartUnavailable] = PartUnavailable,
    ) -> None:
        self.name = name
        self.argv = [str(part) for part in argv]
        self.env = env
        self.log = log
        self.cwd = cwd
        self.stop_signal = stop_signal
        self.user = user
        self.error = error
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id (and id of the process group); None before ``start`` and after the end."""
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether the child runs. When it ended by itself, what remains of its group is ended too."""
        if self._process is None:
            return False
        if self._process.returncode is None and self._process.poll() is not None:
            self._bury(self._process.pid)
        return self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        """Exit status once the child has ended (negative: a signal), else None."""
        return None if self._process is None or self.alive else self._process.returncode

    def start(self) -> Self:
        """Start the child; an orphan of an earlier run is ended first.

        Raises Misconfigured when the program is missing, Conflict when another living process runs this child.
        """
        if self.alive:
            return self
        program = shutil.which(self.argv[0])
        if program is None:
            raise Misconfigured(f"{self.name} cannot start: there is no program {self.argv[0]!r} on this machine.")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.end_predecessor()
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = _guardian.fork(
                [program, *self.argv[1:]],
                user=self.user,
                number=self.stop_signal,
                log=log,
                env=self.env,
                cwd=self.cwd or Path.cwd(),
            )
        self._pid_file.write_text(f"{_identity(self._process.pid)}\n{_identity(os.getpid())}\n")
        return self

    def end_predecessor(self) -> None:
        """End an orphan that an earlier run of this child left behind; ``start`` does so too.

        For parts that check a port first. Raises Conflict when the process that started it still lives.
        """
        try:
            orphan, parent = self._pid_file.read_text().splitlines()[:2]
        except (OSError, ValueError):
            return
        if not _runs(orphan):
            return
        if _runs(parent):
            raise Conflict(
                f"{self.name} already runs (process {orphan.split()[0]}, started by process {parent.split()[0]}); "
                "stop that one or choose another folder with ENERGY_CLOUD_HOME."
            )
        group = int(orphan.split()[0])
        signal_group(group, self.stop_signal)
        end = time.monotonic() + PREDECESSOR_GRACE_SECONDS
        while _runs(orphan):
            if time.monotonic() > end:
                signal_group(group, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def wait_until_ready(self, predicate: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait until ``predicate()`` is true.

        Raises ``error`` with the log's last line when the child ends first, or after ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        while True:
            alive = self.alive
            if alive and predicate():
                return
            if not alive:
                raise self.error(f"{self.name} ended at start ({_status(self.returncode)}): {self.last_line()}")
            if time.monotonic() > end:
                raise self.error(f"{self.name} was not ready within {timeout:.0f} s: {self.last_line()}")
            time.sleep(POLL_SECONDS)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the child ends by itself; its exit status, or None after ``timeout`` seconds."""
        if self._process is None:
            return None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._bury(self._process.pid)
        return self._process.returncode

    def stop(self, timeout: float = 10.0) -> None:
        """End the child and its group: the polite signal, ``timeout`` seconds of grace, then SIGKILL."""
        if self._process is not None and self.alive:
            end = time.monotonic() + timeout
            group = self._process.pid
            signal_group(group, self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
                end = min(end, time.monotonic() + GRANDCHILDREN_GRACE_SECONDS)
            while group_lives(group) and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
            signal_group(group, signal.SIGKILL)
            self.wait()
        self._pid_file.unlink(missing_ok=True)

    def tail(self, lines: int = 20) -> str:
        """Return the last ``lines`` lines that the child wrote since its start."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - 65536))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(line for line in text.splitlines()[-lines:])

    def last_line(self) -> str:
        """Return the last line that names a fault (else the last that says anything), and where the log is."""
        spoken = [line.strip() for line in self.tail(50).splitlines() if line.strip()]
        faults = [line for line in spoken if LOOKS_LIKE_A_FAULT.search(line)]
        if full := [line for line in spoken if FULL_DISK.search(line)]:  # what follows only obscures it
            return f"the disk is full: {full[-1]} (log: {self.log})"
        if not spoken and shutil.disk_usage(self.log.parent).free < 1_000_000:
            return f"no space left on the disk of {self.log.parent}"
        return f"{(faults or spoken or ['it wrote nothing'])[-1]} (log: {self.log})"

    @property
    def _pid_file(self) -> Path:
        return self.log.with_suffix(".pid")

    def _bury(self, group: int) -> None:
        # at once after the leader was reaped: later the number may belong to a stranger
        signal_group(group, signal.SIGKILL)
        _guardian.forget(group)


@functools.cache
def unprivileged() -> str:
    """Return the ``user`` as which a child of root runs without root's powers: ``-`` where we are not root."""
    if os.geteuid() != 0:
        return "-"
    shim = [sys.executable, "-I", "-S", str(GUARDIAN), "exec", str(os.getpid()), "0", "userns"]
    if subprocess.run(shim, capture_output=True, check=False).returncode == 0:
        return "userns"
    return f"{NOBODY}:{NOBODY}"


def _identity(pid: int) -> str:
    """Return ``pid`` with its start time: numbers are reused, the pair is not. Empty when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if ended(stat) else f"{pid} {stat[19]}"
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    # macOS
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return f"{pid} {answer.stdout.strip()}" if answer.stdout.strip() else ""


def _runs(identity: str) -> bool:
    return bool(identity) and identity == _identity(int(identity.split(maxsplit=1)[0]))


def _status(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
