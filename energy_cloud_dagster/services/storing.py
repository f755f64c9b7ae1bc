"""How the long-running processes write: one transaction a batch, repeated until the database took it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
import structlog

from energy_cloud_dagster.domain.errors import DatabaseUnavailable

log = structlog.get_logger()

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class Writer:
    """Runs work in transactions of its own, again and again while the database does not answer.

    ``stop`` ends the waiting. Other errors pass through: repeating would not mend them.
    """

    def __init__(self, engine: sa.Engine, stop: threading.Event) -> None:
        self._engine = engine
        self._stop = stop

    def until_committed[T](self, work: Callable[[sa.Connection], T]) -> T | None:
        """Return what ``work`` returned once it is committed; None when told to stop while the database was away."""
        pause, lost_at = _FIRST_PAUSE, 0.0
        while True:
            try:
                with self._engine.begin() as connection:
                    result = work(connection)
            except (DatabaseUnavailable, sa.exc.OperationalError) as error:
                if not lost_at:
                    lost_at = time.monotonic()
                    log.warning("database_lost", reason=str(error).partition("\n")[0])
                if self._stop.wait(pause):
                    return None
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if lost_at:
                log.info("database_back", seconds=round(time.monotonic() - lost_at, 1))
            return result
