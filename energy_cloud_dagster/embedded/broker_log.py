"""Reads mosquitto's log as it is written and keeps what matters: a process of its own, run as a script.

mosquitto tells of a refused message only among debug lines, four or five of which every message costs. They go through
a pipe in memory: this process passes on what is no debug line, notes refused messages by client and topic, and drops
the rest. It must not fall behind, for a full pipe makes the broker wait. Imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

PIPE_BYTES: Final = 1_048_576
#: Noted at most this often, and while this process rests the broker's writes wake nobody.
FLUSH_SECONDS: Final = 0.5
REST_SECONDS: Final = 0.02
#: What nobody takes away does not grow past this.
MOST_BYTES: Final = 1_000_000
MOST_NOTED: Final = 1_000
MOST_CLIENTS: Final = 100_000
_F_SETPIPE_SZ: Final = getattr(fcntl, "F_SETPIPE_SZ", None)

#: Lines that are no debug noise. They carry no time: writing it would cost the broker more than the line does.
_TELLING: Final = re.compile(rb"^(?!Received |Sending |No will |Will message |\t).+$", re.MULTILINE)
_DENIED: Final = re.compile(r"Denied PUBLISH from (.*) \(d\d, q\d, r\d, m\d+, '(.*)', \.\.\. \(\d+ bytes\)\)")
_CONNECTED: Final = re.compile(r"New client connected from \S+ as (.*) \(p\d, c\d, k\d+, u'(.*)'\)\.")


class LogFilter:
    """Sorts the lines of mosquitto's log: debug noise is dropped, refused messages are counted."""

    def __init__(self) -> None:
        self._rest = b""
        self._users: dict[str, str] = {}
        self._refused: dict[tuple[str, str], dict[str, Any]] = {}

    def feed(self, chunk: bytes, at: str) -> bytes:
        """Take what the broker wrote by the time ``at``; return the whole lines that belong into its log, with it."""
        text = self._rest + chunk
        whole, _, self._rest = text.rpartition(b"\n")
        if len(self._rest) > MOST_BYTES:
            self._rest = b""
        kept = []
        for match in _TELLING.finditer(whole):
            line = match[0]
            if line.startswith(b"Denied "):
                self._note(line.decode(errors="replace"), at)
                continue
            if line.startswith(b"New client connected"):
                self._remember(line.decode(errors="replace"))
            kept.append(f"{at}: ".encode() + line + b"\n")
        return b"".join(kept)

    def taken(self) -> list[dict[str, Any]]:
        """Return what was refused since the last call: at, client, user, topic and how many messages."""
        noted, self._refused = list(self._refused.values()), {}
        return noted

    def _remember(self, line: str) -> None:
        found = _CONNECTED.fullmatch(line)
        if found is not None:
            if len(self._users) >= MOST_CLIENTS:
                self._users.pop(next(iter(self._users)))
            self._users[found[1]] = found[2]

    def _note(self, line: str, at: str) -> None:
        found = _DENIED.fullmatch(line)
        if found is None:
            return
        client, topic = found.groups()
        if (client, topic) not in self._refused and len(self._refused) >= MOST_NOTED:
            topic = ""
        first = {"at": at, "client": client, "user": self._users.get(client, ""), "topic": topic, "messages": 0}
        self._refused.setdefault((client, topic), first)["messages"] += 1


def take_refused(path: Path) -> list[dict[str, Any]]:
    """Return what was noted in ``path`` and empty it."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            lines = file.read().splitlines()
            file.truncate(0)
    except FileNotFoundError:
        return []
    noted = []
    for line in lines:
        with contextlib.suppress(ValueError):  # a line that a full disk cut short
            noted.append(json.loads(line))
    return noted


def note_refused(path: Path, noted: list[dict[str, Any]]) -> None:
    """Append to ``path`` for ``take_refused``, unless it is full."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_size < MOST_BYTES:
            file.write(b"".join(json.dumps(one).encode() + b"\n" for one in noted))


def main(pipe: str, log: str, refused: str) -> None:
    """Pass on what arrives in ``pipe`` until SIGTERM: to ``log`` what a log is for, to ``refused`` the refusals."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    # read and write: the pipe then stays open while the broker opens its log anew
    source = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    if _F_SETPIPE_SZ is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(source, _F_SETPIPE_SZ, PIPE_BYTES)
    lines, flushed = LogFilter(), 0.0
    while True:
        readable, _, _ = select.select([source], [], [], FLUSH_SECONDS)
        chunk = os.read(source, PIPE_BYTES) if readable else b""
        with contextlib.suppress(OSError):  # a full disk must not stop the broker
            if kept := lines.feed(chunk, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())):
                with Path(log).open("ab") as file:
                    file.write(kept)
            if ended or time.monotonic() - flushed > FLUSH_SECONDS:
                flushed = time.monotonic()
                if noted := lines.taken():
                    note_refused(Path(refused), noted)
        if ended and not readable:
            return
        time.sleep(REST_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:4])
