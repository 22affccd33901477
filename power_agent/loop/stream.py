"""A turn as it happens: kept events with their seq, and glimpses between them.

The reader never slows the turn down: what it does not take in time waits in a bounded buffer. When that is full, glimpses are let go
(the facts they belong to come whole), and facts are read from the log instead, where none can be missing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from power_agent.errors import InvalidInput, SessionNotFound
from power_agent.events import Envelope, Event, ModelAsked, TurnEnded, TurnStarted
from power_agent.hooks import Hooks
from power_agent.limits import LOOK_SECONDS, MAX_STREAM_ITEMS
from power_agent.ports import Glimpsed, Store
from power_agent.results import TurnResult
from power_agent.sink import opened


class Stream(AsyncIterator[Envelope | Glimpsed]):
    """What happens in a session from an input on, until its turn is over or waits; afterwards `result` says how it ended.

    Leaving it detaches: the turn runs on. Everything kept comes once and in order; glimpses only while they are new.
    """

    def __init__(self, session: str, hooks: Hooks, store: Store) -> None:
        self.session = session
        self._store = store
        self._cursor: int | None = None
        self._items: deque[Envelope | Glimpsed] = deque()
        self._skipped = 0
        self._behind = False
        self._quiet = False
        self._input = 0
        self._turn = 0
        self._ended = False
        self._news = asyncio.Event()
        self._sending: asyncio.Task[TurnResult] | None = None
        self._ends: tuple[Callable[[], None], ...] = (hooks.add(self._hear), hooks.show(self._see))

    def begin(self, sending: asyncio.Task[TurnResult]) -> Self:
        """Follow what this comes to."""
        self._sending = sending
        sending.add_done_callback(self._sent)
        return self

    def _sent(self, _: asyncio.Task[TurnResult]) -> None:
        """All that was to be heard is in the buffer by now, or in the log: who left without a word is told no more."""
        self._detach()
        self._news.set()

    def start(self, after: int) -> None:
        """Say behind which event it all begins."""
        self._cursor = after
        self._news.set()

    def place(self, seq: int) -> None:
        """Say where the input stands whose turn this shows."""
        self._input = seq

    @property
    def result(self) -> TurnResult:
        """How the turn ended, or where it stands."""
        if self._sending is None or not self._sending.done():
            raise InvalidInput("The stream is not over.", hint="Read it to its end first.")
        return self._sending.result()

    # -- what comes in -------------------------------------------------------------------------------------------------

    def _hear(self, kept: Envelope) -> None:
        if kept.session != self.session or self._behind:
            return
        if len(self._items) >= MAX_STREAM_ITEMS:
            self._fall_behind()
        else:
            self._items.append(kept)
        self._news.set()

    def _see(self, seen: Glimpsed) -> None:
        if seen.session != self.session:
            return
        if self._behind or len(self._items) >= MAX_STREAM_ITEMS:
            self._skipped += 1
        else:
            self._items.append(seen)
        self._news.set()

    def _fall_behind(self) -> None:
        """Nobody reads: let glimpses go, and have the facts read from the log later."""
        self._behind = True
        self._skipped += sum(isinstance(item, Glimpsed) for item in self._items)
        self._items.clear()

    # -- what goes out -------------------------------------------------------------------------------------------------

    async def __anext__(self) -> Envelope | Glimpsed:
        while True:
            if self._ended and self._sending is not None:
                await asyncio.wait({self._sending})  # whoever drives it may be a moment later than its log
            item = self._next()
            over = self._over()
            if item is not None and not (over and isinstance(item, Envelope) and item.seq > self.result.seq):
                if isinstance(item, Envelope) and item.event is not None:
                    self._follow(item.event)
                return item
            if (self._behind or self._quiet or over) and await self._catch_up():
                continue
            if over:
                await self.aclose()
                raise StopAsyncIteration
            self._news.clear()
            if (not self._items or self._cursor is None) and not self._over():
                await self._wait()

    def _follow(self, event: Event) -> None:
        """Learn which turn takes our input, and when that one ends."""
        if isinstance(event, TurnStarted | ModelAsked) and self._input in event.inputs:
            self._turn = event.turn
        self._ended = self._ended or (isinstance(event, TurnEnded) and event.turn == self._turn)

    def _over(self) -> bool:
        """Say whether the turn is over or waits; raises what went wrong with it."""
        if self._sending is None or not self._sending.done():
            return False
        self._sending.result()
        return True

    def _next(self) -> Envelope | Glimpsed | None:
        """Return what is next in the buffer; facts that came already are passed over, a gap is left to the log."""
        while self._items and self._cursor is not None:
            item = self._items.popleft()
            if isinstance(item, Glimpsed):
                return item
            if item.seq == self._cursor + 1:
                self._cursor = item.seq
                return item
            if item.seq > self._cursor:
                self._fall_behind()
        if self._skipped and not self._behind:
            skipped, self._skipped = self._skipped, 0
            return Glimpsed(session=self.session, kind="skipped", text=str(skipped))
        return None

    async def _catch_up(self) -> bool:
        """Read from the log what did not come through the buffer; True when there was something."""
        self._behind = self._quiet = False  # from here on the buffer counts again: what it gets twice is passed over
        upto = self.result.seq if self._over() else None
        if self._cursor is None:
            return False
        try:
            records = await self._store.read(self.session, after=self._cursor, upto=upto, limit=MAX_STREAM_ITEMS)
        except SessionNotFound:  # not even its first event is kept yet
            return False
        self._items.extendleft(map(opened, reversed(records)))
        return bool(records)

    async def _wait(self) -> None:
        """Wait for news; what another process drives is looked for when it was quiet for a while."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._news.wait()
        except TimeoutError:
            self._quiet = True

    async def aclose(self) -> None:
        """Stop following; the turn runs on."""
        self._detach()

    def _detach(self) -> None:
        for end in self._ends:
            end()
        self._ends = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()
