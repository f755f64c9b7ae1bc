"""Live streams over WebSocket: who is calling, what it wants to hear, and one answer to every frame it sends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from energy_cloud_dagster.api import channels
from energy_cloud_dagster.api.errors import Unauthenticated
from energy_cloud_dagster.api.security import access_of, bearer_token, needs, session_of
from energy_cloud_dagster.api.subscriber import FORBIDDEN, UNAUTHENTICATED, Subscriber
from energy_cloud_dagster.domain.errors import PartUnavailable

if TYPE_CHECKING:
    from energy_cloud_dagster.api.context import Context
    from energy_cloud_dagster.api.stream import Hub

router = APIRouter(prefix="/v1/energy", tags=["energy"])
log = structlog.get_logger()

#: How long a connection may stay without saying who it is.
GRACE_SECONDS: Final = 10.0
LARGEST_FRAME: Final = 16_384
MOST_CHANNELS: Final = 100
#: A caller that is let go has this long to take what is on its way, the close frame last.
_CLOSE_SECONDS: Final = 10.0
#: Pause after each frame: what one connection can ask of us is bounded.
_FRAME_PAUSE: Final = 0.005
_ACTIONS: Final = "subscribe, unsubscribe and authenticate"


class Frame(msgspec.Struct):
    """What a client sends."""

    action: str
    channels: list[str] | None = None
    token: str | None = None


_FRAME: Final = msgspec.json.Decoder(Frame)


@router.websocket("/real-time")
@needs("energy:read")
async def real_time(websocket: WebSocket) -> None:
    """Stream live channels to the caller until it goes, its token ends, or it is too slow."""
    await websocket.accept()
    await Conversation(websocket).run()


class Conversation:
    """One connection, from its first frame to its close."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._context: Context = websocket.app.state.context
        self._hub: Hub = websocket.app.state.streams
        self._subscriber: Subscriber | None = None

    async def run(self) -> None:
        """Talk until one side ends it."""
        code, reason = 1000, ""
        try:
            subscriber = await self._introduced()
            self._hub.join(subscriber)
            await self._both_ways(subscriber)
            if subscriber.ended.done():
                code, reason = subscriber.ended.result()
                log.info("stream_ended", account=subscriber.principal.username, code=code, reason=reason)
        except _Refused as refusal:
            code, reason = refusal.code, str(refusal)
        except WebSocketDisconnect:
            return
        finally:
            if self._subscriber is not None:
                self._hub.leave(self._subscriber)
            await self._close(code, reason)

    async def _both_ways(self, subscriber: Subscriber) -> None:
        """Answer and deliver until the caller goes, or the hub ends it."""
        conversing = asyncio.create_task(self._converse(subscriber))
        delivering = asyncio.create_task(subscriber.deliver())
        ways: list[asyncio.Future[Any]] = [conversing, delivering, subscriber.ended]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (conversing, delivering):
                task.cancel()
            # What delivering raises is the connection's end; what answering raises is a fault of ours.
            answered, _ = await asyncio.gather(conversing, delivering, return_exceptions=True)
        if isinstance(answered, Exception):
            log.error("stream_answer_failed", account=subscriber.principal.username, exc_info=answered)

    async def _introduced(self) -> Subscriber:
        """Return the caller once it has shown a token; raise ``_Refused`` for a bad one or none in time."""
        token = bearer_token(self._websocket) or self._websocket.query_params.get("token")
        if token is not None:
            return await self._admitted(token)
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                while True:
                    frame = await self._receive()
                    if isinstance(frame, str):
                        await self._send(frame)
                    elif frame.action != "authenticate" or frame.token is None:
                        await self._send(
                            _error(frame.action, "unauthenticated", "send {action: authenticate, token} first")
                        )
                    else:
                        subscriber = await self._admitted(frame.token)
                        subscriber.offer(_ack("authenticate", expiresAt=subscriber.expires_at))
                        return subscriber
        except TimeoutError:
            raise _Refused(UNAUTHENTICATED, f"no token within {GRACE_SECONDS:.0f} seconds") from None

    async def _admitted(self, token: str) -> Subscriber:
        try:
            principal, expires_at = await session_of(self._context, token)
        except Unauthenticated as error:
            await self._send(_error("authenticate", "unauthenticated", str(error)))
            raise _Refused(UNAUTHENTICATED, str(error)) from None
        except PartUnavailable:
            await self._send(_error("authenticate", "unavailable", _AWAY))
            raise _Refused(1013, _AWAY) from None
        needed = access_of(real_time)
        if needed not in principal.scopes:
            detail = f"the role {principal.role} may not listen; that needs {needed}"
            await self._send(_error("authenticate", "forbidden", detail))
            raise _Refused(FORBIDDEN, detail)
        self._subscriber = Subscriber(self._send, principal, expires_at)
        return self._subscriber

    async def _converse(self, subscriber: Subscriber) -> None:
        """Answer every frame."""
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                frame = await self._receive()
                subscriber.offer(frame if isinstance(frame, str) else await self._answer(subscriber, frame))
                await asyncio.sleep(_FRAME_PAUSE)

    async def _answer(self, subscriber: Subscriber, frame: Frame) -> str:
        match frame.action:
            case "subscribe" | "unsubscribe" if frame.channels is None:
                return _error(frame.action, "bad_frame", "channels is missing; it is a list of names")
            case "subscribe":
                return await self._subscribe(subscriber, list(dict.fromkeys(frame.channels or ())))
            case "unsubscribe":
                self._hub.unsubscribe(subscriber, frame.channels or ())
                return _ack("unsubscribe", channels=frame.channels)
            case "authenticate":
                return await self._renew(subscriber, frame.token or "")
        return _error(frame.action[:64], "unknown_action", f"there is no such action; there are {_ACTIONS}")

    async def _subscribe(self, subscriber: Subscriber, names: list[str]) -> str:
        """Take what may be had; the answer is an error where anything was refused, and says what."""
        if len(subscriber.channels.union(names)) > MOST_CHANNELS:
            return _error("subscribe", "too_many_channels", f"a connection has up to {MOST_CHANNELS} channels")
        try:
            refused = await asyncio.to_thread(self._refused, subscriber, names)
        except PartUnavailable:
            return _error("subscribe", "unavailable", _AWAY)
        granted = [name for name in names if name not in refused]
        self._hub.subscribe(subscriber, granted)
        if not refused:
            return _ack("subscribe", channels=granted)
        errors = [
            {"channel": name[: channels.LONGEST_NAME], "code": one.code, "detail": one.detail}
            for name, one in refused.items()
        ]
        first = errors[0]
        detail = f"{first['channel']}: {first['detail']}"
        return _error("subscribe", first["code"], detail, channels=granted, errors=errors)

    def _refused(self, subscriber: Subscriber, names: list[str]) -> dict[str, channels.Refusal]:
        refused = {}
        with self._context.engine.connect() as connection:
            for name in names:
                try:
                    channels.check(connection, name, subscriber.principal)
                except channels.Refusal as refusal:
                    refused[name] = refusal
        return refused

    async def _renew(self, subscriber: Subscriber, token: str) -> str:
        """Take a newer token of the same account; a bad one changes nothing."""
        try:
            principal, expires_at = await session_of(self._context, token)
        except Unauthenticated as error:
            return _error("authenticate", "unauthenticated", str(error))
        except PartUnavailable:
            return _error("authenticate", "unavailable", _AWAY)
        now = subscriber.principal
        if (principal.username, principal.scopes) != (now.username, now.scopes):
            return _error("authenticate", "forbidden", "this is another account's token; open a connection for it")
        subscriber.expires_at = max(expires_at, subscriber.expires_at)
        return _ack("authenticate", expiresAt=subscriber.expires_at)

    async def _receive(self) -> Frame | str:
        """Return the next frame, or the error that answers one which cannot be read."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1005)
        data = message.get("text") or message.get("bytes") or b""
        if len(data) > LARGEST_FRAME:
            return _error(None, "frame_too_large", f"a frame has up to {LARGEST_FRAME} bytes")
        try:
            return _FRAME.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return _error(None, "bad_frame", f"{error}; a frame is {{action, channels}} in JSON")

    async def _send(self, text: str) -> None:
        await self._websocket.send({"type": "websocket.send", "text": text})

    async def _close(self, code: int, reason: str) -> None:
        # The caller may be gone, or not read what is on its way; then the connection is just dropped.
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._websocket.close(code, reason[:120]), _CLOSE_SECONDS)


_AWAY: Final = "the database does not answer; try again later"


class _Refused(Exception):
    """The connection is to be closed with ``code``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _ack(action: str, **more: Any) -> str:
    return msgspec.json.encode({"type": "ack", "action": action, **more}).decode()


def _error(action: str | None, code: str, detail: str, **more: Any) -> str:
    document = {"type": "error", "action": action, "code": code, "detail": detail, **more}
    return msgspec.json.encode(document).decode()
