"""The one way to PostgreSQL: engines, migrations and clear sentences when the server does not answer.

SQLAlchemy Core over psycopg 3. Repositories take an open ``sa.Connection`` and never commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg
import sqlalchemy as sa

from energy_cloud_dagster.domain.errors import DatabaseUnavailable, Misconfigured

if TYPE_CHECKING:
    from alembic.config import Config

#: Serialises migrations of concurrent starts; any constant that no other program uses.
_MIGRATION_LOCK: Final = 0x454E4552
_SCRIPTS: Final = "energy_cloud_dagster:migrations"
_CONNECT_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands: its revision (None: empty), the newest one, and what is missing, oldest first."""

    current: str | None
    head: str
    pending: tuple[str, ...]

    @property
    def up_to_date(self) -> bool:
        """Whether nothing is pending."""
        return not self.pending


def parse_url(url: str) -> sa.URL:
    """Return ``url`` for psycopg 3; ``Misconfigured`` when it is no PostgreSQL URL. The password is never repeated."""
    if not url:
        raise Misconfigured("ENERGY_CLOUD_DATABASE_URL is empty and no embedded PostgreSQL was started")
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise Misconfigured(
            "ENERGY_CLOUD_DATABASE_URL is no URL; write postgresql://user:password@host:5432/database"
        ) from None
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise Misconfigured(
            f"ENERGY_CLOUD_DATABASE_URL names {parsed.drivername}; only postgresql:// is supported"
        ) from None
    return parsed.set(drivername="postgresql+psycopg")


def make_engine(url: str, *, pool_size: int = 5) -> sa.Engine:
    """Return an engine whose sessions speak UTC; a server that does not answer raises ``DatabaseUnavailable``."""
    parsed = parse_url(url)
    engine = sa.create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=10,
        pool_pre_ping=True,
        connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "energy-cloud"},
    )

    @sa.event.listens_for(engine, "connect")
    def _utc(connection: psycopg.Connection, _record: object) -> None:
        autocommit = connection.autocommit
        connection.autocommit = True
        connection.execute("set timezone to 'UTC'")
        connection.autocommit = autocommit

    @sa.event.listens_for(engine, "handle_error")
    def _translate(context: sa.engine.ExceptionContext) -> None:
        # The pool mends a connection that died while it rested; only a failure to connect anew counts.
        if not context.is_pre_ping and (context.connection is None or context.is_disconnect):
            raise DatabaseUnavailable(_sentence(parsed, context.original_exception)) from context.original_exception

    return engine


def driver(connection: sa.Connection) -> psycopg.Connection:
    """Return the psycopg connection below ``connection``, in the same transaction, for COPY and LISTEN."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise TypeError(f"expected a psycopg connection, got {type(raw).__name__}")
    return raw


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's passing troubles (lost connection, deadlock, shutdown) into ``DatabaseUnavailable``.

    For statements that go past SQLAlchemy, such as COPY.
    """
    try:
        yield
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"PostgreSQL did not finish the statement ({' '.join(str(error).split())})"
        ) from error


def upgrade(url: str) -> None:
    """Bring the database to the newest revision. Safe to call again and from several processes at once."""
    from alembic import command

    engine = make_engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(_MIGRATION_LOCK)))
            connection.commit()
            try:
                command.upgrade(alembic_config(connection), "head")
            finally:
                connection.rollback()
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_MIGRATION_LOCK)))
                connection.commit()
    finally:
        engine.dispose()


def status(url: str) -> SchemaStatus:
    """Return where the database stands, without changing it."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    engine = make_engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            scripts = ScriptDirectory.from_config(alembic_config(connection))
    finally:
        engine.dispose()
    head = scripts.get_current_head() or ""
    pending = [script.revision for script in scripts.iterate_revisions(head, current or "base")]
    return SchemaStatus(current, head, tuple(reversed(pending)))


def require_current(connection: sa.Connection) -> None:
    """Raise ``Misconfigured`` where migrations are pending; for processes that must not migrate by themselves."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    current = MigrationContext.configure(connection).get_current_revision()
    head = ScriptDirectory.from_config(alembic_config(connection)).get_current_head()
    if current != head:
        raise Misconfigured(f"the database is at revision {current}, {head} is needed; run `energy-cloud db upgrade`")


def alembic_config(connection: sa.Connection | None = None) -> Config:
    """Return Alembic's configuration, made in code so that an installed wheel needs no ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", _SCRIPTS)
    config.set_main_option("path_separator", "os")
    config.set_main_option("file_template", "%%(year)d_%%(month).2d_%%(day).2d_%%(slug)s")
    config.attributes["connection"] = connection
    return config


def _sentence(url: sa.URL, error: BaseException | None) -> str:
    """Say which server, what happened, and what to do, without the password."""
    host = url.query.get("host") or url.host or "the local socket"
    where = f"PostgreSQL database {url.database or '(default)'} at {host}" + (f":{url.port}" if url.port else "")
    reason = " ".join(str(error).split())
    if "password authentication failed" in reason or "no password supplied" in reason:
        return f"{where} refused the login; correct user and password in ENERGY_CLOUD_DATABASE_URL"
    if "does not exist" in reason:
        return f"{where} cannot be opened ({reason}); create it or correct ENERGY_CLOUD_DATABASE_URL"
    return f"{where} does not answer ({reason}); start it or correct ENERGY_CLOUD_DATABASE_URL"
