"""paho's client with a receive path in bulk: many messages for one system call, acknowledgements in one packet.

paho reads a message with three system calls and builds a dozen objects for it. Here its socket is wrapped: messages
are taken out of the byte stream before paho sees them; connecting, subscribing, pings and reconnecting stay paho's.
Nothing but ``_create_socket`` and ``_packet_queue`` of paho is touched.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

_PUBLISH: Final = 0x30
_PUBACK: Final = 0x40
_CHUNK: Final = 262_144
#: A chunk smaller than this is followed by a pause in which more can gather: waking up costs more than the messages.
_SMALL: Final = 16_384
_GATHER_SECONDS: Final = 0.002
#: Pause while the messages have nowhere to go.
_FULL_SECONDS: Final = 0.02


class Frame(NamedTuple):
    """One message as it came: ``mid`` is 0 for QoS 0, which is not acknowledged."""

    topic: bytes
    payload: bytes
    mid: int


def split(data: bytes) -> tuple[list[Frame], bytes, int, int]:
    """Take the complete packets out of the head of an MQTT 3.1.1 byte stream.

    Returns the messages, the bytes of all other packets, how many bytes were taken, and how many bytes the packet that
    follows has in all (0 where its length is not known yet). What is malformed counts as another packet.
    """
    frames: list[Frame] = []
    others = b""
    at, end = 0, len(data)
    while at + 2 <= end:
        length, body = data[at + 1], at + 2
        if length > 127:
            length, body = _long_length(data, at)
            if body < 0:
                return frames, others + data[at:], end, 0
            if body == 0:
                break
        after = body + length
        if after > end:
            return frames, others, at, after - at
        kind = data[at]
        if kind & 0xF0 == _PUBLISH:
            name = body + 2
            rest = name + (data[body] << 8 | data[body + 1]) if length >= 2 else end + 1
            first = rest + 2 if kind & 0x06 else rest
            if first <= after:
                frames.append(
                    Frame(data[name:rest], data[first:after], data[rest] << 8 | data[rest + 1] if first > rest else 0)
                )
                at = after
                continue
        others += data[at:after]
        at = after
    return frames, others, at, 0


def _long_length(data: bytes, at: int) -> tuple[int, int]:
    """Return the length of a packet and where its body starts: 0 where bytes are missing, -1 where it has no end."""
    length = 0
    for place in range(4):
        if at + 1 + place >= len(data):
            return 0, 0
        byte = data[at + 1 + place]
        length |= (byte & 127) << 7 * place
        if byte < 128:
            return length, at + 2 + place
    return 0, -1


class _Tap:
    """A socket that hands messages to ``deliver`` and everything else to whoever reads it."""

    def __init__(
        self, connection: socket.socket, deliver: Callable[[list[Frame]], None], has_room: Callable[[], bool]
    ) -> None:
        self._socket = connection
        self._deliver = deliver
        self._has_room = has_room
        self._parts: list[bytes] = []
        self._gathered = self._needed = 0
        self._others = b""

    def recv(self, size: int) -> bytes:
        """Return bytes of other packets; ``BlockingIOError`` while there are none, b"" at the end of the stream."""
        if not self._others and not self._more():
            return b""
        if not self._others:
            raise BlockingIOError
        given, self._others = self._others[:size], self._others[size:]
        return given

    def pending(self) -> int:
        """Return how many bytes can be read though the socket does not say so."""
        hidden = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return len(self._others) + hidden

    def _more(self) -> bool:
        if not self._has_room():
            time.sleep(_FULL_SECONDS)
            raise BlockingIOError
        chunk = self._socket.recv(_CHUNK)
        if not chunk:
            return False
        self._parts.append(chunk)
        self._gathered += len(chunk)
        # A large message comes in many chunks: they are joined once, when it is complete.
        if self._gathered >= self._needed:
            data = b"".join(self._parts) if len(self._parts) > 1 else chunk
            frames, self._others, taken, self._needed = split(data)
            self._parts = [data[taken:]] if taken < len(data) else []
            self._gathered = len(data) - taken
            if frames:
                self._deliver(frames)
                if len(chunk) < _SMALL:
                    time.sleep(_GATHER_SECONDS)
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class BulkClient(mqtt.Client):
    """paho's client for MQTT 3.1.1 and a lasting session: receives in lists of frames, acknowledges when it is told to.

    ``deliver`` is called on paho's thread for every list; nothing is read while ``has_room`` says no.
    """

    def __init__(
        self, client_id: str, deliver: Callable[[list[Frame]], None], has_room: Callable[[], bool] = lambda: True
    ) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, clean_session=False, protocol=mqtt.MQTTv311)
        self._deliver_frames = deliver
        self._has_room = has_room

    def ack_all(self, mids: list[int]) -> None:
        """Acknowledge messages in one write, in the given order (a broker finds those it sent first quickest)."""
        packets = b"".join([b"\x40\x02" + mid.to_bytes(2) for mid in mids])
        self._packet_queue(_PUBACK, packets, 0, 1)

    def _create_socket(self) -> Any:
        return _Tap(super()._create_socket(), self._deliver_frames, self._has_room)  # type: ignore[arg-type]
