"""The platform's PostgreSQL as a Dagster resource."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import dagster as dg
import sqlalchemy as sa

from energy_cloud_dagster.adapters.database import make_engine
from energy_cloud_dagster.settings import load_settings


@lru_cache(maxsize=8)
def _engine(url: str) -> sa.Engine:
    """Return the process's engine for ``url``: one pool, however many resources a run makes."""
    return make_engine(url)


class Database(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Transactions on the platform's database (``ENERGY_CLOUD_DATABASE_URL``)."""

    url: str = ""

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Open a transaction: committed at the end of the block, rolled back when it raises."""
        with _engine(self.resolved_url).begin() as connection:
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[sa.Connection]:
        """Open a connection without a transaction, for the few statements that refuse to be in one."""
        with _engine(self.resolved_url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    @property
    def resolved_url(self) -> str:
        """The URL given, else that of the settings."""
        return self.url or load_settings().database_url.get_secret_value()
