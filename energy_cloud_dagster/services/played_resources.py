"""Which resources the simulated fleet plays, from the registry while it runs; a database that is away is no fault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters import database, played
from energy_cloud_dagster.adapters.notifications import Listener
from energy_cloud_dagster.adapters.played import Played
from energy_cloud_dagster.domain.errors import DatabaseUnavailable

log = structlog.get_logger()


class PlayedResources:
    """Reads them, and tells when they may have changed; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self._engine = database.make_engine(url, pool_size=2)
        self._lost = threading.Event()

    def read(self) -> list[Played] | None:
        """Return the simulated devices of resources, None while the database does not answer."""
        try:
            with self._engine.connect() as connection:
                found = played.played(connection)
        except (DatabaseUnavailable, sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
            if not self._lost.is_set():
                log.warning("resources_unknown", reason=str(error).partition("\n")[0])
            self._lost.set()
            return None
        self._lost.clear()
        return found

    @contextmanager
    def watched(self, look: Callable[[], None]) -> Iterator[None]:
        """Call ``look``, in another thread, at once and after every change of resources, while the block runs."""
        try:
            with Listener(self._engine, played.CHANNEL, lambda _payload: look()):
                yield
        finally:
            self._engine.dispose()
