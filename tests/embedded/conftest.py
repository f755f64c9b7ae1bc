"""Short folders, and a look at the machine's processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def _stat(pid: int) -> tuple[str, int] | None:
    """State and parent of a process; None when it is gone."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return state, int(parent)


def alive(pid: int) -> bool:
    found = _stat(pid)
    return found is not None and found[0] not in "ZX"


def descendants(pid: int) -> set[int]:
    """Every living process below ``pid``."""
    parents = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found: set[int] = set()
    while True:
        more = {child for child, stat in parents.items() if stat and stat[0] not in "ZX" and stat[1] in found | {pid}}
        if more <= found:
            return found
        found |= more


def await_true(what: Callable[[], object], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that another user may enter, too."""
    made = Path(tempfile.mkdtemp(prefix="ec-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


class Parent:
    """A Python process of its own that runs ``script``; its first line of output says that it is ready."""

    def __init__(self, script: str, *arguments: object) -> None:
        argv = [sys.executable, "-c", script, *map(str, arguments)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout
        self.said = self.process.stdout.readline().strip()
        self.below = descendants(self.process.pid)

    def kill(self, *others: int) -> None:
        """SIGKILL it (and ``others``), and await that nothing of what it started is left."""
        for pid in (*others, self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.await_end()

    def await_end(self) -> None:
        """Await that nothing of what it started is left."""
        await_true(lambda: not [pid for pid in self.below if alive(pid)])


@pytest.fixture
def parent() -> Iterator[Callable[..., Parent]]:
    started: list[Parent] = []

    def start(script: str, *arguments: object) -> Parent:
        started.append(Parent(script, *arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
        assert each.process.stdout
        each.process.stdout.close()
