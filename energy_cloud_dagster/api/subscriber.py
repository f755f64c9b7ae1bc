"""One listener of the live streams: what waits to be sent to it, and when it is too slow.

What waits is bounded: of a channel only the newest state, of answers and events a fixed number. A listener that takes
nothing for ``STALL_SECONDS``, or lets more than ``MOST_WAITING`` messages gather, is let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from itertools import count
from typing import Final

from energy_cloud_dagster.api.security import Principal

STALL_SECONDS: Final = 5.0
MOST_WAITING: Final = 1_024
#: Close codes: of RFC 6455, and 4000 and up of our own.
TRY_AGAIN_LATER: Final = 1013
UNAUTHENTICATED: Final = 4401
FORBIDDEN: Final = 4403


class Subscriber:
    """A caller and its connection; ``send`` sends one text and waits until the connection has taken it."""

    def __init__(self, send: Callable[[str], Awaitable[None]], principal: Principal, expires_at: datetime) -> None:
        self.principal = principal
        self.expires_at = expires_at
        self.channels: set[str] = set()
        #: (close code, reason) once the connection is to end.
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._send = send
        self._waiting: dict[object, str] = {}
        self._something = asyncio.Event()
        self._numbers = count()
        self._sending_since: float | None = None

    def offer(self, text: str, *, channel: str | None = None) -> None:
        """Let ``text`` be sent; with ``channel`` it replaces what still waits of that channel."""
        key: object = next(self._numbers) if channel is None else channel
        if len(self._waiting) >= MOST_WAITING and key not in self._waiting:
            self.end(TRY_AGAIN_LATER, "too slow: too many messages wait")
            return
        self._waiting[key] = text
        self._something.set()

    def end(self, code: int, reason: str) -> None:
        """Let the connection be closed; the first reason holds."""
        if not self.ended.done():
            self._waiting.clear()
            self.ended.set_result((code, reason))

    def check(self, clock: float, now: datetime) -> None:
        """End what has expired or takes nothing any more; ``clock`` is the loop's time."""
        if now >= self.expires_at:
            self.end(UNAUTHENTICATED, "the token has expired")
        elif self._sending_since is not None and clock - self._sending_since > STALL_SECONDS:
            self.end(TRY_AGAIN_LATER, "too slow: it takes nothing")

    async def deliver(self) -> None:
        """Send what waits, for ever; ends by whatever ``send`` raises."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                text = self._waiting.pop(next(iter(self._waiting)))
                self._sending_since = clock()
                await self._send(text)
                self._sending_since = None
