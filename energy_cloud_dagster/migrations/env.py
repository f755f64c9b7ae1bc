"""Alembic's environment: runs on the connection that ``adapters.database`` hands over; there is no ini file."""

from __future__ import annotations

from alembic import context

from energy_cloud_dagster.adapters.tables import metadata
from energy_cloud_dagster.migrations.scope import include_name


def run() -> None:
    """Run the migrations in one transaction on the given connection."""
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise RuntimeError("run migrations with `energy-cloud db upgrade`")
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_schemas=True,
        include_name=include_name,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
