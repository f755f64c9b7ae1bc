"""Devices as callers: their tokens, each believed for a second at most after the database was asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from fastapi.concurrency import run_in_threadpool

from energy_cloud_dagster.adapters import credentials

_CACHE_SECONDS: Final = 1.0
_MOST_KEPT: Final = 10_000


class DeviceCallers:
    """Which device a token belongs to; only tokens that were valid are remembered."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._kept: dict[str, tuple[float, str]] = {}

    async def find(self, token: str) -> str | None:
        """Return the id of the device whose token this is, None for anything else."""
        kept = self._kept.get(token)
        asked = self._clock()
        if kept is not None and asked - kept[0] < _CACHE_SECONDS:
            return kept[1]
        device_id = await run_in_threadpool(self._load, token)
        self._kept.pop(token, None)
        if device_id is not None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[token] = (asked, device_id)
        return device_id

    def _load(self, token: str) -> str | None:
        with self._engine.connect() as connection:
            return credentials.authenticate(connection, token, datetime.now(UTC))
