"""Where the archive lies: a local folder, or a prefix of an S3 bucket. Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from energy_cloud_dagster.domain.errors import Conflict, Misconfigured, NotFound, PartUnavailable

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_VARIABLE: Final = "ENERGY_CLOUD_ARCHIVE_URL"
_UNFINISHED: Final = ".part"
_CHUNK: Final = 1 << 20


class ArchiveStore:
    """The archive's file system; ``url`` names its root without credentials or options."""

    def __init__(self, filesystem: FileSystem, root: str, url: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self.url = url.rstrip("/")

    @classmethod
    def open(cls, url: str, home: Path) -> ArchiveStore:
        """Return the archive at ``url``: a folder, ``file://…`` or ``s3://bucket/prefix?region=…``; empty: under home.

        Credentials, region and endpoint of S3 come from the standard AWS environment; ``endpoint_override``, ``scheme``
        and ``region`` may stand in the URL. ``Misconfigured`` where it is none of these.
        """
        from pyarrow import ArrowInvalid, fs

        if not url.startswith("s3://"):
            if "://" in url and not url.startswith("file:///"):
                raise Misconfigured(f"{_VARIABLE} is neither a folder nor s3://bucket/prefix")
            folder = Path(url.removeprefix("file://")) if url else home / "archive"
            folder = folder.expanduser().absolute()
            return cls(fs.LocalFileSystem(), str(folder), folder.as_uri())
        parts = urlsplit(url)
        try:
            filesystem, root = fs.FileSystem.from_uri(url)
        except (ArrowInvalid, OSError) as error:
            raise Misconfigured(f"{_VARIABLE} cannot be used ({_short(error)})") from None
        bucket = parts.netloc.rpartition("@")[2]
        return cls(filesystem, root, urlunsplit(("s3", bucket, parts.path, "", "")))

    @staticmethod
    def name(day: date, revision: int) -> str:
        """Return where a day's file lies below the root: one folder a day, as engines with hive partitions read it."""
        return f"readings/day={day.isoformat()}/readings-{day.isoformat()}-r{revision:04d}.parquet"

    def uri(self, name: str) -> str:
        """Return the address of a file, without credentials or options."""
        return f"{self.url}/{name}"

    def write(self, name: str, fill: Callable[[Any], None], check: Callable[[str], None]) -> None:
        """Let ``fill`` write an open file, ``check`` read it back by its temporary name, then give it its name.

        Whatever raises in between leaves nothing under ``name``.
        """
        unfinished = name + _UNFINISHED
        with self._asked():
            if self._local:
                Path(self._path(name)).parent.mkdir(parents=True, exist_ok=True)
            with self._filesystem.open_output_stream(self._path(unfinished)) as stream:
                fill(stream)
            self._to_disk(unfinished)
        check(unfinished)
        with self._asked():
            self._filesystem.move(self._path(unfinished), self._path(name))
            self._to_disk(str(Path(name).parent))

    @contextmanager
    def read(self, name: str) -> Iterator[Any]:
        """Open a file at random places; ``NotFound`` where there is none."""
        with self._asked(name), self._filesystem.open_input_file(self._path(name)) as file:
            yield file

    def fingerprint(self, name: str) -> tuple[int, str]:
        """Return the bytes of a file and their SHA-256 (64 hex digits), read from where it lies."""
        found, size = hashlib.sha256(), 0
        with self._asked(name), self._filesystem.open_input_stream(self._path(name)) as stream:
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
                size += len(chunk)
        return size, found.hexdigest()

    def require(self, name: str, sha256: str) -> None:
        """Raise ``Conflict`` where a file is not the one with this SHA-256, ``NotFound`` where there is none."""
        actual = self.fingerprint(name)[1]
        if actual != sha256:
            raise Conflict(f"{self.uri(name)} is not the file that was archived: its SHA-256 is {actual}, not {sha256}")

    def keep_only(self, name: str) -> list[str]:
        """Remove every other file of the day of ``name`` (older revisions, what an abort left); return their names."""
        from pyarrow import fs

        folder = str(Path(name).parent)
        removed = []
        with self._asked():
            selector = fs.FileSelector(self._path(folder), allow_not_found=True)
            for found in self._filesystem.get_file_info(selector):
                if found.type == fs.FileType.File and found.base_name != Path(name).name:
                    self._filesystem.delete_file(found.path)
                    removed.append(f"{folder}/{found.base_name}")
        return sorted(removed)

    @property
    def _local(self) -> bool:
        return str(self._filesystem.type_name) == "local"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _to_disk(self, name: str) -> None:
        """Let a local file or folder reach the disk: days are dropped on the strength of it."""
        if not self._local:
            return
        opened = os.open(self._path(name), os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

    @contextmanager
    def _asked(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"there is no file {self.uri(name)}; {_VARIABLE} says where the archive lies") from None
        except OSError as error:
            raise PartUnavailable(f"the archive {self.url} did not answer ({_short(error)})") from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
