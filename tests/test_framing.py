"""Bytes in pieces: wherever a piece ends, the same things come out; and nothing grows without a bound."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from power_agent.errors import WireError
from power_agent.framing import Lines, ServerEvent, ServerEvents, Unpacking

STREAM = "\ufeff: hello\r\nevent: one\r\ndata: grüße\r\ndata:  世界\r\n\r\nid: 7\nretry: 9\ndata\ndata: x\n\n\rdata:y\r\revent: lost\n\ndata: last".encode()
EVENTS = [ServerEvent("one", "grüße\n 世界"), ServerEvent("", "\nx"), ServerEvent("", "y"), ServerEvent("", "last")]


def cut(data, places):
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


@given(st.lists(st.integers(0, 1_000), max_size=8))
def test_server_events_wherever_they_are_cut(places):
    """A byte order mark, every end of a line, comments, several lines of data, an event without any, a last one without its end."""
    events = ServerEvents(1_000)
    assert [event for piece in cut(STREAM, places) for event in events.feed(piece)] + events.end() == EVENTS


@given(st.lists(st.integers(0, 1_000), max_size=8))
def test_lines_wherever_they_are_cut(places):
    data = "a\r\n\rb\n\nc\rgrüße\r\n\r\nrest".encode()
    both, newlines = Lines(100), Lines(100, newline_only=True)
    assert [line for piece in cut(data, places) for line in both.feed(piece)] == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    assert [line for piece in cut(data, places) for line in newlines.feed(piece)] == data.split(b"\n")[:-1]
    assert both.rest() == newlines.rest() == b"rest"


PACKED = {"gzip": gzip.compress(b"hello " * 50), "zlib": zlib.compress(b"hello " * 50), "two": gzip.compress(b"hello " * 20) + gzip.compress(b"hello " * 30)}


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_unpacking_wherever_it_is_cut(packed):
    """gzip, zlib, and two packed files behind each other; what stops early is not whole."""
    for step in (1, 7, len(packed)):
        unpacking = Unpacking("gzip")
        pieces = [packed[start : start + step] for start in range(0, len(packed), step)]
        assert b"".join(block for piece in pieces for block in unpacking.feed(piece)) == b"hello " * 50
        unpacking.end()
    short = Unpacking("deflate")
    list(short.feed(packed[:-3]))
    with pytest.raises(WireError, match="before it was whole"):
        short.end()


def test_a_bomb_comes_out_in_blocks():
    """A megabyte of packed nothing is a gigabyte; it is handed out block by block, and whoever counts may stop."""
    blocks = Unpacking("gzip").feed(gzip.compress(b"\0" * 2**24))
    assert max(len(next(blocks)) for _ in range(3)) <= 65_536


def test_what_is_packed_otherwise():
    for encoding in ("br", "zstd", "gzip, br"):
        with pytest.raises(WireError, match="not asked for"):
            Unpacking(encoding)
    assert b"".join(Unpacking("identity").feed(b"x")) == b"x"
    with pytest.raises(WireError, match="cannot be unpacked"):
        list(Unpacking("gzip").feed(b"hello, this is not packed"))


@pytest.mark.parametrize("data", [b"x" * 101, b"x" * 101 + b"\n", b"\n" + b"x" * 101])
def test_a_line_is_bounded(data):
    with pytest.raises(WireError, match="more than 100"):
        Lines(100).feed(data)


def test_an_event_is_bounded():
    """Also one of many short lines."""
    events = ServerEvents(100)
    with pytest.raises(WireError, match="event of more than 100"):
        events.feed(b"data: xxxxxxx\n" * 30)
