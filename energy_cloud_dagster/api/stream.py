"""The hub of the live streams, one in every process of the API.

It listens to the database on one connection, looks at what is new once a tick, writes each channel's message once and
hands it to all who listen. Ticks are at least ``TICK_SECONDS`` apart, which is what coalesces updates; a tick that was
dear is followed by a longer pause, so that the hub takes a bounded share of the database. Nothing is done for channels
that nobody listens to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import psycopg
import sqlalchemy as sa
import structlog

from energy_cloud_dagster.adapters import accounts, streams
from energy_cloud_dagster.adapters.streams import Window
from energy_cloud_dagster.api import channels
from energy_cloud_dagster.api.feeds import CommandFeed, Feed, FlowFeed, MarketFeed, News, Update, VppFeed
from energy_cloud_dagster.api.subscriber import UNAUTHENTICATED, Subscriber
from energy_cloud_dagster.domain.errors import EnergyCloudError
from energy_cloud_dagster.domain.intervals import rfc3339
from energy_cloud_dagster.domain.readings.live import LiveReading

#: At most ten updates a second.
TICK_SECONDS: Final = 0.1
#: Pause after a tick, as a multiple of what the tick took.
_SHARE: Final = 1.0
#: A reading is to be heard within a second.
_LONGEST_PAUSE: Final = 0.5
_FAILURE_PAUSE: Final = 1.0
#: Without news the feeds are asked this often, for what nobody tells of.
_IDLE_SECONDS: Final = 1.0
_WATCH_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = (0.1, 5.0)
#: More rows than this are not looked at one by one: the totals are read anew.
_MOST_ROWS: Final = 200_000
#: How far before the newest of some readings a VPP's state may still be new.
_STATE_SPAN: Final = timedelta(days=1)

log = structlog.get_logger()


class Hub:
    """Who listens to what, and what was said last."""

    def __init__(self, engine: sa.Engine, url: str, *, replay: bool = False) -> None:
        self._engine = engine
        self._url = url
        self._flows = FlowFeed()
        self._feeds: tuple[Feed, ...] = (self._flows, VppFeed(replay=replay), MarketFeed(), CommandFeed())
        self._listeners: dict[str, set[Subscriber]] = {}
        self._subscribers: set[Subscriber] = set()
        self._newcomers: dict[Subscriber, set[str]] = {}
        self._last: dict[str, str] = {}
        self._window: Window | None = None
        self._commands: list[tuple[str, str]] = []
        self._lost = True
        self._wake = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve for as long as the block runs."""
        tasks = [asyncio.create_task(work()) for work in (self._listen, self._tick, self._watch)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- who listens

    def join(self, subscriber: Subscriber) -> None:
        """Watch over a subscriber: its token, its account, its speed."""
        self._subscribers.add(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Forget a subscriber."""
        self.unsubscribe(subscriber, list(subscriber.channels))
        self._subscribers.discard(subscriber)
        self._newcomers.pop(subscriber, None)

    def subscribe(self, subscriber: Subscriber, names: Iterable[str]) -> None:
        """Let it hear ``names``, which were checked, from what they say now on."""
        added = set(names) - subscriber.channels
        if added:
            subscriber.channels |= added
            for name in added:
                self._listeners.setdefault(name, set()).add(subscriber)
            self._newcomers.setdefault(subscriber, set()).update(added)
            self._wake.set()

    def unsubscribe(self, subscriber: Subscriber, names: Iterable[str]) -> None:
        """Let it hear no more of ``names``."""
        for name in subscriber.channels.intersection(names):
            subscriber.channels.discard(name)
            listening = self._listeners[name]
            listening.discard(subscriber)
            if not listening:
                del self._listeners[name]

    def _wanted(self, channel: str) -> bool:
        return any(pattern in self._listeners for pattern in channels.patterns(channel))

    def _demanded(self) -> list[Feed]:
        heads = {name.partition(".")[0] + "." for name in self._listeners}
        return [feed for feed in self._feeds if heads.intersection(feed.families)]

    # -- what is new

    async def _listen(self) -> None:
        """Hear what the database tells, for ever; connect again where it was lost."""
        pause, longest = _RETRY_SECONDS
        while True:
            try:
                async for told in streams.listen(self._url):
                    if told is None:  # what was told while nobody heard it is lost
                        self._lost = True
                        pause = _RETRY_SECONDS[0]
                        log.info("stream_listening")
                    else:
                        self._hear(*told)
                    self._wake.set()
            except (psycopg.Error, OSError) as error:
                log.warning("stream_database_lost", error=" ".join(str(error).split()), retry_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def _hear(self, channel: str, payload: str) -> None:
        if not self._listeners:  # who comes before the next tick must not be told what the feeds still remember
            self._lost = True
            return
        try:
            told = json.loads(payload)
            if channel == streams.COMMANDS:
                self._commands.append((str(told["commandId"]), str(told["state"])))
                return
            received = (told.get("receivedFrom"), told.get("receivedTo"))
            window = Window(
                datetime.fromisoformat(told["from"]),
                datetime.fromisoformat(told["to"]),
                *(None if moment is None else datetime.fromisoformat(moment) for moment in received),
            )
            self._window = window if self._window is None else self._window.around(window)
        except (ValueError, TypeError, KeyError, AttributeError):
            log.warning("stream_news_unreadable", channel=channel, payload=payload[:200])
            self._lost = True

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _IDLE_SECONDS)
            self._wake.clear()
            began = clock()
            try:
                await self._look(began)
                pause = min(max(_SHARE * (clock() - began), TICK_SECONDS), _LONGEST_PAUSE)
            except (EnergyCloudError, sa.exc.SQLAlchemyError) as error:
                self._lost = True
                pause = _FAILURE_PAUSE
                log.warning("stream_tick_failed", error=" ".join(str(error).split()))
            except Exception:
                # One faulty row must not end everybody's stream.
                self._lost = True
                pause = _FAILURE_PAUSE
                log.exception("stream_tick_failed")
            await asyncio.sleep(pause)

    async def _look(self, clock: float) -> None:
        demanded = self._demanded()
        for feed in self._feeds:
            if feed not in demanded:
                feed.forget()
        window, self._window = self._window, None
        commands, self._commands = self._commands, []
        newcomers, self._newcomers = self._newcomers, {}
        lost, self._lost = self._lost, False
        if not demanded:
            self._last.clear()
            self._lost = lost
            return
        try:
            said = await asyncio.to_thread(
                self._collect, demanded, window, commands, clock, lost=lost, newcomers=bool(newcomers)
            )
        except BaseException:
            for subscriber, names in newcomers.items():
                self._newcomers.setdefault(subscriber, set()).update(names)
            raise
        self._say(said, newcomers)

    def _collect(
        self,
        demanded: list[Feed],
        window: Window | None,
        commands: list[tuple[str, str]],
        clock: float,
        *,
        lost: bool,
        newcomers: bool,
    ) -> list[tuple[Update, str]]:
        """Ask the feeds, in a thread; return what they say and the message of each."""
        with self._engine.connect() as connection:
            readings: list[LiveReading] = []
            if window is not None and any(feed.reads for feed in demanded):
                horizon = self._flows.horizon or window.last - _STATE_SPAN
                readings = streams.fresh(connection, window, horizon, limit=_MOST_ROWS)
                lost = lost or len(readings) >= _MOST_ROWS
            news = News(clock, datetime.now(UTC), self._wanted_now(), readings, commands, lost, newcomers)
            updates = [update for feed in demanded for update in feed.update(connection, news)]
        return [(update, _message(update)) for update in updates]

    def _wanted_now(self) -> Callable[[str], bool]:
        """Return a test that another thread may ask while listeners come and go."""
        listened = frozenset(self._listeners)
        return lambda channel: any(pattern in listened for pattern in channels.patterns(channel))

    def _say(self, said: list[tuple[Update, str]], newcomers: dict[Subscriber, set[str]]) -> None:
        for update, text in said:
            channel = update.channel
            news = not update.state or self._last.get(channel) != text
            if update.state:
                self._last[channel] = text
            known = set(channels.patterns(channel))
            listening = {one for pattern in known for one in self._listeners.get(pattern, ())}
            for subscriber in listening:
                if not (news or known & newcomers.get(subscriber, set())):
                    continue
                if update.everybody or channels.may_see(subscriber.principal, update.participant_id):
                    subscriber.offer(text, channel=channel if update.state else None)

    # -- who may still listen

    async def _watch(self) -> None:
        """End, within seconds, the connections of expired tokens, closed accounts and stalled readers."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = datetime.now(UTC)
            for subscriber in list(self._subscribers):
                subscriber.check(clock(), now)
            names = {subscriber.principal.username for subscriber in self._subscribers}
            if not names:
                continue
            try:
                known = await asyncio.to_thread(self._accounts, names)
            except (EnergyCloudError, sa.exc.SQLAlchemyError):
                continue  # the listener says that the database is away
            for subscriber in list(self._subscribers):
                caller = subscriber.principal
                account = known.get(caller.username)
                if account is None or account.disabled:
                    if caller.username in names:
                        subscriber.end(UNAUTHENTICATED, "the account is closed")
                elif (account.role, account.participant_id) != (caller.role, caller.participant_id):
                    subscriber.end(UNAUTHENTICATED, "the account has changed; log in again")

    def _accounts(self, names: set[str]) -> dict[str, accounts.Account]:
        with self._engine.connect() as connection:
            return accounts.named(connection, names)


def _message(update: Update) -> str:
    document: dict[str, Any] = {
        "channel": update.channel,
        "timestamp": rfc3339(update.timestamp),
        "payload": update.payload,
    }
    return msgspec.json.encode(document).decode()
