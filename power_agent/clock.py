"""The system's time, and a time that tests hold in their hand."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        """Milliseconds of the wall clock since 1970."""
        return time.time_ns() // 1_000_000

    def elapsed(self) -> float:
        """Seconds of a clock that never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class HeldClock:
    """A clock that moves only when told to, or when somebody sleeps on it."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self._now = now
        self._elapsed = 0.0

    def now(self) -> int:
        """Milliseconds since 1970, as told."""
        return self._now

    def elapsed(self) -> float:
        """Seconds moved so far."""
        return self._elapsed

    def move(self, seconds: float) -> None:
        """Let time pass; a negative number sets the wall clock back, as an administrator would."""
        self._now += round(seconds * 1000)
        self._elapsed += max(seconds, 0.0)

    async def sleep(self, seconds: float) -> None:
        """Let that much time pass at once."""
        self.move(seconds)
        await asyncio.sleep(0)
