"""Alembic migrations: dated files under ``versions/``, run by ``adapters.database.upgrade``."""
