"""The database of a command: the one that the settings name, else the embedded one, started where it does not run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from energy_cloud_dagster.domain.errors import Conflict, Misconfigured

if TYPE_CHECKING:
    from energy_cloud_dagster.settings import Settings


@contextmanager
def home_database(settings: Settings, *, share: bool = True) -> Iterator[Settings]:
    """Yield settings that name a database; where they name none, that of ``settings.home``, migrated.

    With ``share`` an embedded server that another process runs is used as it is; without, that is a ``Conflict``.
    """
    from pydantic import SecretStr

    if settings.database_url.get_secret_value():
        yield settings
        return
    from energy_cloud_dagster.adapters.database import upgrade
    from energy_cloud_dagster.embedded.claims import FolderLock
    from energy_cloud_dagster.embedded.postgres import EmbeddedPostgres

    home = settings.home.absolute()
    server = EmbeddedPostgres(home / "postgres", log=home / "logs" / "postgres.log")
    with ExitStack() as stack:
        try:
            stack.enter_context(FolderLock(home))
        except Conflict:
            if not share:
                raise
        else:
            stack.callback(server.stop)
            server.start()
            server.ensure_database("energy_cloud")
            upgrade(server.url("energy_cloud"))
        url = SecretStr(server.url("energy_cloud"))
        yield settings.model_copy(update={"home": home, "database_url": url})


def require_migrated(url: str) -> None:
    """Raise Misconfigured, with what to do, when the database lacks migrations; DatabaseUnavailable when it is down."""
    from energy_cloud_dagster.adapters import database

    pending = database.status(url).pending
    if pending:
        raise Misconfigured(f"the database lacks {len(pending)} migration(s); run `energy-cloud db upgrade` first")
