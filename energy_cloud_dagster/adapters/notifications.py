"""LISTEN in a thread of its own: calls back for every NOTIFY, and once more whenever some may have been missed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import psycopg
import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters.database import driver
from energy_cloud_dagster.domain.errors import DatabaseUnavailable

log = structlog.get_logger()

_LOOK_SECONDS: Final = 0.2
_PAUSE_SECONDS: Final = 1.0


class Listener:
    """Hears ``channel``; use it as a context manager.

    ``on_news`` gets each payload, or an empty text after every (re)connection: what was told meanwhile is unknown.
    """

    def __init__(self, engine: sa.Engine, channel: str, on_news: Callable[[str], None]) -> None:
        self._engine = engine
        self._channel = channel
        self._on_news = on_news
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"listen-{channel}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except (DatabaseUnavailable, sa.exc.OperationalError, psycopg.OperationalError) as error:
                log.warning("listening_interrupted", channel=self._channel, reason=str(error).partition("\n")[0])
                self._stop.wait(_PAUSE_SECONDS)

    def _listen(self) -> None:
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            raw = driver(connection)
            try:
                raw.execute(f'listen "{self._channel}"')
                self._on_news("")
                while not self._stop.is_set():
                    for note in raw.notifies(timeout=_LOOK_SECONDS):
                        self._on_news(note.payload)
                        if self._stop.is_set():
                            break
            finally:
                # Back in the pool it would go on hearing.
                connection.invalidate()
