"""What every long-running process does: it stops when it is asked to, and has a name of its own at the broker."""

from __future__ import annotations

import fcntl
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from energy_cloud_dagster.domain.errors import Misconfigured


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` on SIGTERM and SIGINT while the block runs; in other threads than the main one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def session_name(home: Path, program: str, given: str | None = None) -> Iterator[str]:
    """Yield ``given``, else a client id for this process: the lowest number that no other one of this home uses.

    A process that is started again after a kill so finds the session, and the messages, of the killed one.
    """
    if given:
        yield given
        return
    home.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1_000):
        with (home / f"{program}-{number}.lock").open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield f"energy-cloud-{program}-{socket.gethostname()}-{number}"
            return
    raise Misconfigured(f"a thousand {program} processes hold locks under {home}; give this one a name of its own")
