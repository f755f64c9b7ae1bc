"""Ids of settlement batches."""

from __future__ import annotations

from datetime import datetime

from energy_cloud_dagster.domain.errors import InvalidInput
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.market.orders import sha256_hex


def batch_id(market_id: str, delivery: datetime, revision: int) -> str:
    """Return ``0x`` and 64 hex digits derived from market, delivery hour and revision (0 is the first settlement).

    The contract takes an id once, so a batch that is sent twice is booked once.
    """
    if revision < 0:
        raise InvalidInput(f"revision {revision} is negative")
    return "0x" + sha256_hex("batch", market_id, rfc3339(delivery), str(revision))
