"""The time, chance, who is alive, and who listens."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from power_agent.events import Envelope


class Clock(Protocol):
    """The time, and waiting for it."""

    def now(self) -> int:
        """Milliseconds of the wall clock since 1970, shared between processes."""
        ...

    def elapsed(self) -> float:
        """Seconds of a clock that never jumps, for durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Chance(Protocol):
    """Where new names and nonces come from."""

    def session_id(self) -> str:
        """Return a new session id."""
        ...

    def nonce(self) -> str:
        """Return 128 random bits in hex."""
        ...


class Listener(Protocol):
    """Hears of what was kept, after the fact. It must not block; what it raises is logged and changes nothing."""

    def __call__(self, kept: Envelope) -> None:
        """Hear of one event."""
        ...


class DeadCheck(Protocol):
    """Says whether an owner is known to be dead; False also when nobody can know."""

    def __call__(self, owner: str, /) -> bool:
        """Judge one owner."""
        ...


class Guard(Protocol):
    """May refuse or change something before it happens. What it decides is kept."""

    def __call__(self, subject: Any) -> Awaitable[Any]:
        """Judge one subject."""
        ...
