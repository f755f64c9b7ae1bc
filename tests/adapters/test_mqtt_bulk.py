from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_cloud_dagster.adapters.mqtt_bulk import Frame, _Tap, split


def packet(kind: int, body: bytes) -> bytes:
    length, head = len(body), bytearray([kind])
    while True:
        length, low = length >> 7, length & 127
        head.append(low | (128 if length else 0))
        if not length:
            return bytes(head) + body


def published(frame: Frame) -> bytes:
    mid = struct.pack("!H", frame.mid) if frame.mid else b""
    return packet(0x32 if frame.mid else 0x30, struct.pack("!H", len(frame.topic)) + frame.topic + mid + frame.payload)


frames = st.builds(Frame, st.binary(max_size=20), st.binary(max_size=300), st.integers(0, 65_535))
others = st.builds(packet, st.sampled_from([0x20, 0x40, 0x90, 0xD0]), st.binary(max_size=200))


class Lines:
    """A tap on one end of a pair of sockets, and what it delivered."""

    def __init__(self) -> None:
        self.far, near = socket.socketpair()
        near.setblocking(False)
        self.frames: list[Frame] = []
        self.room = True
        self.tap = _Tap(near, self.frames.extend, lambda: self.room)

    def close(self) -> None:
        self.far.close()
        self.tap.close()

    def read(self, size: int = 1_000) -> bytes:
        try:
            return self.tap.recv(size)
        except BlockingIOError:
            return b""


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    yield made
    made.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(frames | others, max_size=8), st.lists(st.integers(1, 400), max_size=12), st.integers(1, 9))
def test_any_cut_of_a_stream_gives_the_same_messages_and_leaves_the_rest(
    packets: list[Frame | bytes], cuts: list[int], size: int
) -> None:
    stream = b"".join(published(each) if isinstance(each, Frame) else each for each in packets)
    made, rest = Lines(), b""
    try:
        for cut in [*cuts, len(stream)]:
            piece, stream = stream[:cut], stream[cut:]
            if piece:
                made.far.sendall(piece)
            while got := made.read(size):
                rest += got
            assert made.tap.pending() == 0
    finally:
        made.close()
    assert made.frames == [each for each in packets if isinstance(each, Frame)]
    assert rest == b"".join(each for each in packets if isinstance(each, bytes))


def test_a_message_larger_than_a_read_is_joined_once_it_is_complete(lines: Lines) -> None:
    whole = Frame(b"t", b"x" * 100_000, 7)
    data = published(whole)
    for start in range(0, len(data), 10_000):
        assert lines.frames == []
        lines.far.sendall(data[start : start + 10_000])
        assert lines.read() == b""
    assert lines.frames == [whole]


@pytest.mark.parametrize(
    "data",
    [
        b"\x32\xff\xff\xff\xff\x01",  # a length without an end
        packet(0x32, b"\x00\x09topic"),  # a topic longer than its packet
        packet(0x32, b"\x00\x05topic"),  # no room for its number
        packet(0x30, b"\x00"),
    ],
)
def test_what_is_malformed_is_left_to_paho_which_ends_the_connection(data: bytes) -> None:
    good = Frame(b"t", b"p", 1)
    assert split(published(good) + data) == ([good], data, len(published(good) + data), 0)


def test_nothing_is_read_while_there_is_no_room(lines: Lines) -> None:
    lines.room = False
    lines.far.sendall(published(Frame(b"t", b"p", 1)))
    assert lines.read() == b""
    assert lines.frames == []
    lines.room = True
    lines.read()
    assert len(lines.frames) == 1


def test_the_end_of_the_stream_is_passed_on(lines: Lines) -> None:
    lines.far.close()
    assert lines.tap.recv(1) == b""
