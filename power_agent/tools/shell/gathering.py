"""Output as it comes: the beginning and the end of it are kept, whatever there is in between; whoever looks on sees it live."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

LIVE_BYTES = 4_096
"""What one glimpse shows: the newest."""
LIVE_SECONDS = 0.1
"""How often there is one: a person reads no faster."""
_SHOWN = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0)) if code not in {9, 10}}
_SHOWN |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)}


def text_of(raw: bytes) -> str:
    """Return output as text: what is no UTF-8 is written as an escape, and no character moves a cursor or turns a line around."""
    return raw.replace(b"\r\n", b"\n").decode(errors="backslashreplace").translate(_SHOWN)


class Gathered:
    """Head and tail of what came, in bounded memory."""

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._in_tail = 0
        self.total = 0

    def take(self, piece: bytes) -> None:
        """Take the next piece."""
        self.total += len(piece)
        room = self._half - len(self._head)
        if room > 0:
            self._head += piece[:room]
            piece = piece[room:]
        if not piece:
            return
        self._tail.append(piece)
        self._in_tail += len(piece)
        while self._in_tail - len(self._tail[0]) >= self._half:
            self._in_tail -= len(self._tail.popleft())

    @property
    def text(self) -> str:
        """Everything, or its beginning and its end with a word about what is between them."""
        tail = b"".join(self._tail)
        left_out = self.total - len(self._head) - min(len(tail), self._half)
        if left_out == 0:
            return text_of(bytes(self._head) + tail)
        return f"{text_of(bytes(self._head))}\n[… {left_out} bytes are left out here …]\n{text_of(tail[-self._half :])}"


class Live:
    """Shows the newest of what came to whoever looks on, not more often than is read."""

    def __init__(self, show: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._show = show
        self._clock = clock
        self._next = 0.0
        self._waiting = b""

    def take(self, piece: bytes) -> None:
        """Take the next piece."""
        self._waiting = (self._waiting + piece)[-LIVE_BYTES:]
        if self._clock() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Show what was not shown."""
        if self._waiting:
            self._next = self._clock() + LIVE_SECONDS
            self._show(text_of(self._waiting))
            self._waiting = b""
