"""At most so many requests and tokens in any minute, for all who share a `Pace`: every session, every loop, every thread of a process.

A place is booked before a request leaves: a moment in the future, behind everybody who came before. Nothing is queued; whoever
booked sleeps until the moment comes, and gives the place back when cancelled. What a request uses is estimated when it is booked and
put right when its answer is there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from power_agent.clock import SystemClock
from power_agent.errors import InvalidInput, ModelError
from power_agent.gauge import crude, of_message, of_prefix
from power_agent.limits import ANSWER_TOKENS, MAX_QUEUE_SECONDS
from power_agent.messages import Usage
from power_agent.ports import Clock, ModelRequest

MINUTE = 60.0


class Booking:
    """A place: when, and for how many tokens."""

    __slots__ = ("at", "tokens")

    def __init__(self, at: float, tokens: int) -> None:
        self.at = at
        self.tokens = tokens

    def used(self, usage: Usage) -> None:
        """Put right what the request used, where the provider counted."""
        self.tokens = usage.total or self.tokens


class Pace:
    """Limits that a provider sets per minute, kept on this side. Pass the same one to every model that they are for."""

    def __init__(self, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None, clock: Clock | None = None) -> None:
        asked: dict[str, Any] = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        for name, value in asked.items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InvalidInput(f"{name} cannot be {value!r}.", hint="It is a whole number above 0, or None: unbounded.")
        self._requests = requests_per_minute
        self._tokens = tokens_per_minute
        self._clock = clock or SystemClock()
        self._bookings: deque[Booking] = deque()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Pace(requests_per_minute={self._requests}, tokens_per_minute={self._tokens})"

    def wait(self, tokens: int = 0) -> float:
        """Return the seconds that a request of that size would wait if it came now."""
        with self._lock:
            now = self._clock.elapsed()
            return self._moment(now, tokens) - now

    def book(self, tokens: int) -> Booking:
        """Book the next place. Raises a retryable `ModelError` when it is further away than anybody should stand in a queue."""
        with self._lock:
            now = self._clock.elapsed()
            booking = Booking(self._moment(now, tokens), tokens)
            wait = booking.at - now
            if wait > MAX_QUEUE_SECONDS:
                raise ModelError(f"So many requests wait for {self!r} that another one would wait {wait:.0f} s.", retryable=True, retry_after=wait, unspent=True, own=True)
            self._bookings.append(booking)
            return booking

    def drop(self, booking: Booking) -> None:
        """Give a place back that was not used."""
        with self._lock:
            if booking in self._bookings:
                self._bookings.remove(booking)

    async def reached(self, booking: Booking) -> None:
        """Sleep until the moment of a place has come."""
        while (wait := booking.at - self._clock.elapsed()) > 0:
            await self._clock.sleep(wait)

    def _moment(self, now: float, tokens: int) -> float:
        """Return the first moment, behind everybody, at which the minute before it has room."""
        while self._bookings and self._bookings[0].at <= now - MINUTE:
            self._bookings.popleft()
        at = max(now, self._bookings[-1].at) if self._bookings else now
        if self._requests is not None and len(self._bookings) >= self._requests:
            at = max(at, self._bookings[-self._requests].at + MINUTE)
        if self._tokens is not None:
            left = self._tokens - tokens  # a request that is larger than the limit goes alone
            for booking in reversed(self._bookings):
                left -= booking.tokens
                if left < 0:
                    at = max(at, booking.at + MINUTE)
                    break
        return at


@asynccontextmanager
async def taken(pace: Pace | None, request: ModelRequest) -> AsyncIterator[Booking]:
    """Wait for a place and hold it while the request runs. One that fails has used its place and no tokens."""
    if pace is None:
        yield Booking(0.0, 0)
        return
    booking = pace.book(estimated(request))
    try:
        await pace.reached(booking)
    except BaseException:
        pace.drop(booking)
        raise
    try:
        yield booking
    except BaseException:
        booking.tokens = 0
        raise


def estimated(request: ModelRequest) -> int:
    """Return what a request may come to, its answer included."""
    if request.tokens:
        return request.tokens
    return of_prefix(request.system, request.tools, crude) + sum(of_message(message, crude) for message in request.messages) + ANSWER_TOKENS
