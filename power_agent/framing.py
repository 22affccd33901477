"""Bytes that come in pieces, cut into what was meant: unpacked, lines, server-sent events. Every one of them bounded.

Nothing here reads a socket: pieces are fed in and whole things come out, so that a piece may end anywhere, in the middle of a
character, of a line's end or of a packed block.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from power_agent.errors import WireError

_ANY_END = re.compile(rb"\r\n|\n|\r")
_NEWLINE = re.compile(rb"\n")
_BLOCK = 65_536
_BOM = b"\xef\xbb\xbf"


class Unpacking:
    """Content-Encoding undone, a block at a time, so that a small bomb cannot become a large one."""

    def __init__(self, encoding: str) -> None:
        self._packed = encoding.strip().lower() not in {"", "identity"}
        if self._packed and encoding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
            raise WireError(f"The server packed its answer as {encoding[:40]!r}, which was not asked for.")
        self._unpacker = _unpacker()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take packed bytes; yield unpacked ones. Whoever counts them may stop in between."""
        if not self._packed:
            yield data
            return
        while data:
            self._begun = True
            if self._unpacker.eof:  # another packed file behind the first
                self._unpacker = _unpacker()
            try:
                block = self._unpacker.decompress(data, _BLOCK)
            except zlib.error as error:
                raise WireError(f"The server's answer cannot be unpacked: {error}.", retryable=True) from None
            if block:
                yield block
            data = self._unpacker.unconsumed_tail or self._unpacker.unused_data

    def end(self) -> None:
        """Raise when the packed bytes stopped before their end."""
        if self._begun and not self._unpacker.eof:
            raise WireError("The server's answer ended before it was whole.", retryable=True)


def _unpacker() -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, told apart by their heads


class Lines:
    """Lines of bytes. `newline_only`: a carriage return ends none."""

    def __init__(self, limit: int, *, newline_only: bool = False) -> None:
        self._ends = _NEWLINE if newline_only else _ANY_END
        self._limit = limit
        self._buffer = bytearray()
        self._looked = 0
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the lines that are whole now."""
        if self._after_return and data:
            data = data.removeprefix(b"\n")
            self._after_return = False
        self._buffer += data
        lines, start = list[bytes](), 0
        for end in self._ends.finditer(self._buffer, self._looked):
            lines.append(bytes(self._buffer[start : end.start()]))
            start = end.end()
            self._after_return = end[0] == b"\r" and start == len(self._buffer)
        del self._buffer[:start]
        self._looked = len(self._buffer)
        if max(len(self._buffer), max(map(len, lines), default=0)) > self._limit:
            raise WireError(f"The server sent a line of more than {self._limit} bytes.")
        return lines

    def rest(self) -> bytes:
        """Return what stands behind the last line's end."""
        rest, self._buffer, self._looked = bytes(self._buffer), bytearray(), 0
        return rest


class ServerEvent(NamedTuple):
    """One server-sent event: its name, empty for the usual kind, and its data."""

    name: str
    data: str


class ServerEvents:
    """Server-sent events, as the HTML standard reads them; an event without data is none."""

    def __init__(self, limit: int) -> None:
        self._lines = Lines(limit)
        self._limit = limit
        self._first = True
        self._clear()

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Take bytes; return the events that are whole now."""
        return [event for line in self._lines.feed(data) if (event := self._line(line)) is not None]

    def end(self) -> list[ServerEvent]:
        """Return the last event when only its blank line is missing: whether it is whole its reader will see."""
        rest = self._lines.rest()
        events = [self._line(rest) if rest else None, self._line(b"")]
        return [event for event in events if event is not None]

    def _clear(self) -> None:
        self._name, self._data, self._size = "", list[str](), 0

    def _line(self, line: bytes) -> ServerEvent | None:
        if self._first:
            line, self._first = line.removeprefix(_BOM), False
        if not line:
            event = ServerEvent(self._name, "\n".join(self._data))
            self._clear()
            return event if event.data else None
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._limit:
                raise WireError(f"The server sent an event of more than {self._limit} bytes.")
            self._data.append(value.decode("utf-8", "replace"))
        elif name == b"event":
            self._name = value[:200].decode("utf-8", "replace")
        return None
