"""What a part claims of the machine: a folder, a port, a secret."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Self

from energy_cloud_dagster.domain.errors import Conflict, Misconfigured, PartUnavailable


@contextlib.contextmanager
def usable(part: str, folder: Path, error: type[PartUnavailable]) -> Iterator[None]:
    """Raise what the operating system says about ``folder`` (full disk, wrong owner, …) as one sentence."""
    try:
        yield
    except OSError as fault:
        where = fault.filename or folder
        raise error(f"{part} cannot use {where}: {(fault.strerror or str(fault)).lower()}.") from fault


class FolderLock:
    """A folder that one process at a time may use; the kernel frees it whatever way the holder ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[str] | None = None

    def acquire(self) -> Self:
        """Take the lock; raises Conflict, naming the holder, when another process (or this one) has it.

        Raises Misconfigured when the folder cannot be made or written.
        """
        path = self.folder / "lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except OSError as fault:
            why = (fault.strerror or str(fault)).lower()
            mend = "choose another with ENERGY_CLOUD_HOME."
            raise Misconfigured(f"{self.folder} cannot be used: {why}; {mend}") from fault
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = path.read_text().strip() or "unknown"
            file.close()
            raise Conflict(
                f"{self.folder} is in use by another energy-cloud (process {holder}); stop that one or choose "
                "another folder with ENERGY_CLOUD_HOME."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return self

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two holders in."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free_port(part: str, port: int, variable: str | None) -> None:
    """Raise Misconfigured when ``port`` of 127.0.0.1 is taken or not ours to take.

    It names ``variable``, and ENERGY_CLOUD_PORT_BASE, which alone moves a port without a variable of its own.
    """
    mend = f"choose another port with {variable} or move all" if variable else "move all ports"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Misconfigured(
                f"{part} cannot listen on 127.0.0.1:{port} ({(error.strerror or str(error)).lower()}); "
                f"{mend} with ENERGY_CLOUD_PORT_BASE."
            ) from None


def accepts(port: int) -> bool:
    """Whether something accepts TCP connections on ``port`` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def secret(path: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
    """Return the secret kept in ``path`` (readable by its owner alone), made by ``make`` at first use."""
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = ""
    if not kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = make()
        write_private(path, kept)
    return kept


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` with mode 0600, whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
