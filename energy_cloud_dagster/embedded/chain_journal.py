"""The append-only journal of the embedded chain: a line for the genesis, then one for each block.

A block is on disk (fsync) before anybody is told of it. A crash can tear the last line only; a torn line is a block
that nobody was told of, and is cut off. Any other damage stops the node: money may depend on it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

VERSION: Final = 1
JOURNAL: Final = "journal.jsonl"


class JournalBroken(Exception):
    """The journal cannot be used; the message is one sentence for a person."""


class RpcError(Exception):
    """A JSON-RPC error: ``code``, a message, and optional ``data`` (hex of a revert's output)."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


@dataclass(frozen=True, slots=True)
class Genesis:
    """What the genesis block is made of: the EVM, its Unix time and the account (0x hex) that owns the coins."""

    kind: str
    time: int
    account: str
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Entry:
    """One block: its Unix time, its raw transaction (0x hex; empty for an empty block) and the hash it had."""

    time: int
    raw: str
    hash: str


class Journal:
    """The journal file, opened and locked by one process. Read ``entries`` to the end before ``append``."""

    def __init__(self, path: Path, genesis: Genesis) -> None:
        """Open ``path``; a new journal starts with ``genesis``, an old one keeps its own. May raise JournalBroken."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise JournalBroken(f"{path} is in use by another node.") from None
        self.cut_bytes = self._cut_torn_line()
        self._file.seek(0)
        first = self._file.readline()
        if first:
            try:
                self.genesis = Genesis(**json.loads(first))
            except (ValueError, TypeError):
                raise JournalBroken(f"{path} is no journal of a chain; move it away to start a new chain.") from None
        else:
            self.genesis = genesis
            self._write(genesis)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        if self.genesis.version != VERSION:
            raise JournalBroken(f"{path} has format {self.genesis.version}, this program reads format {VERSION}.")

    def _cut_torn_line(self) -> int:
        """Cut an unfinished or undecodable last line; return how many bytes went."""
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        last = content.rfind(b"\n", 0, max(whole - 1, 0)) + 1
        if whole == len(content) and last > 0:
            # A file system may keep the length of a torn write and fill it with zeros.
            try:
                json.loads(content[last:])
            except ValueError:
                whole = last
        if whole < len(content):
            self._file.truncate(whole)
            os.fsync(self._file.fileno())
        return len(content) - whole

    def entries(self) -> Iterator[Entry]:
        """Yield the blocks in order; raises JournalBroken at a damaged line."""
        self._file.seek(0)
        for number, line in enumerate(self._file):
            if number == 0:
                continue
            try:
                yield Entry(**json.loads(line))
            except (ValueError, TypeError):
                raise JournalBroken(f"{self.path} is damaged at line {number + 1}; restore it from a copy.") from None

    def append(self, entry: Entry) -> None:
        """Make one block durable; on an OSError (a full disk) the file is as before."""
        self._write(entry)

    def _write(self, line: Genesis | Entry) -> None:
        size = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(json.dumps(asdict(line), separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), size)
            raise

    @staticmethod
    def kind_in(folder: Path) -> str | None:
        """Return the kind of EVM that wrote the journal in ``folder``; None without a readable journal."""
        try:
            with (folder / JOURNAL).open("rb") as file:
                return str(json.loads(file.readline())["kind"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
