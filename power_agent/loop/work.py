"""The sessions this loop works on at the moment: each in a task of its own, so that whoever asked may stop waiting.

A task works until nothing more can be done without somebody else, also on inputs that others queued. Who waits, waits for one turn.
When the last one who waits for the turn in progress is cancelled, the work is interrupted; the turn stays open for `resume`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any

from power_agent import events as e
from power_agent.drive import Drive
from power_agent.errors import InvalidInput, SessionBusy, StoreClosed, StoreError
from power_agent.events import Envelope
from power_agent.limits import MAX_LIVE_STATES, STOP_SECONDS
from power_agent.ports import Clock, Store
from power_agent.results import TurnReader, TurnResult
from power_agent.sink import Sink
from power_agent.state import SessionState
from power_agent.word import replace

_log = logging.getLogger("power_agent")

Job = Callable[["Work"], Awaitable[SessionState]]
"""Works on a session that was reserved for it, and returns the state it left."""


_HERE: ContextVar[Desk | None] = ContextVar("desk", default=None)
"""At whose work this task, or one that began it, was begun."""


class Waiter:
    """Somebody who waits for the end of a turn: of the one the work was begun for, or of the one that takes an input."""

    def __init__(self, seq: int | None) -> None:
        self.seq = seq
        self.result: TurnResult | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Work:
    """One session that is worked on. `detached`: it goes on when nobody waits any more."""

    def __init__(self, session: str, key: str | None = None) -> None:
        self.session = session
        self.key = key
        self.drive: Drive | None = None
        self.task: asyncio.Task[SessionState] | None = None
        self.input_seq = 0
        self.turn = 0
        self.detached = False
        self.is_kept = False
        self.placed: Callable[[int], None] | None = None
        self.kept = asyncio.Event()
        self.done = asyncio.Event()
        self._waiters: set[Waiter] = set()
        self._reader: TurnReader | None = None

    # -- what happens --------------------------------------------------------------------------------------------------

    def hear(self, kept: Envelope) -> None:
        """Follow the turns, so that whoever waits for the end of one hears of it at once."""
        if kept.seq == self.input_seq and self.drive is not None and self.drive.stages(kept.event):  # at that place another input may be kept first
            self.is_kept = True
            self.kept.set()
            if self.placed is not None:
                self.placed(kept.seq)
        if isinstance(kept.event, e.TurnStarted):
            self._let_go(waiter for waiter in self._waiters if waiter.result is not None)
            self._reader = TurnReader(self.session, kept.event.turn)
        if self._reader is not None and kept.event is not None and self._reader.take(kept.seq, kept.event):
            self._ended(self._reader)

    def follow(self, number: int, events: Iterable[Envelope]) -> None:
        """Learn what happened before in a turn that is open already."""
        self._reader = TurnReader(self.session, number)
        for kept in events:
            if kept.event is not None:
                self._reader.take(kept.seq, kept.event)

    def _ended(self, reader: TurnReader) -> None:
        """Give everybody concerned their result. They go when the next turn begins, or when the session has been given up: whoever
        sends again at once must find it free.
        """
        last = None if self.drive is None else self.drive.state.last
        result = replace(reader.result(), shape=last.output if last is not None and last.number == reader.number else None)
        for waiter in filter(self._concerns, self._waiters):
            waiter.result = replace(result, input_seq=waiter.seq or result.input_seq)
        self._reader = None

    @staticmethod
    def _let_go(waiters: Iterable[Waiter]) -> None:
        for waiter in waiters:
            if not waiter.over.done():
                waiter.over.set_result(None)

    def _concerns(self, waiter: Waiter) -> bool:
        """Say whether somebody waits for the turn in progress; between turns, for the one that is about to begin."""
        if waiter.result is not None:
            return False
        if self._reader is None:
            return waiter.seq is None
        if waiter.seq is not None:
            return waiter.seq in self._reader.inputs
        return self._reader.number == self.turn or (self.is_kept and self.input_seq in self._reader.inputs)

    def finished(self) -> None:
        """Nothing more is done here: whoever still waits must look at the log."""
        self.kept.set()
        self.done.set()
        self._let_go(self._waiters)

    # -- who waits -----------------------------------------------------------------------------------------------------

    async def over(self, seq: int | None = None) -> TurnResult | None:
        """Wait for the end of a turn: of the one this work was begun for, or of the one that takes an input. None: look at the log."""
        waiter = Waiter(seq)
        if self.done.is_set():
            return None
        self._waiters.add(waiter)
        try:
            await waiter.over
        except asyncio.CancelledError:
            self._waiters.discard(waiter)
            if self.task is not None and not self.detached and not self.task.done() and self._alone(waiter):
                self.task.cancel()
                await asyncio.wait([self.task])
            raise
        finally:
            self._waiters.discard(waiter)
        return waiter.result

    async def ended(self) -> None:
        """Wait until nothing more is done here; who is cancelled while waiting for that interrupts it."""
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            if self.task is not None and not self._waiters and not self.task.done():
                self.task.cancel()
                await asyncio.wait([self.task])
            raise

    def _alone(self, waiter: Waiter) -> bool:
        """Say whether what is done at the moment is done for this one, and for nobody else who waits here."""
        return self._concerns(waiter) and not any(map(self._concerns, self._waiters))


def closed() -> StoreClosed:
    """Return what is raised about a loop that was left."""
    return StoreClosed("The loop was closed.", hint="A loop is not opened again: make a new one.", path="")


def closed_before(what: str, path: str = "") -> StoreClosed:
    """Return what is told to those who were waiting when the loop was closed: they were not cancelled themselves."""
    return StoreClosed(f"The loop was closed before {what} was over.", path=path, hint="An open turn stays open: resume it in a loop that is opened anew.")


class Desk:
    """Which sessions are worked on here. Two coroutines of one owner must not work on the same one."""

    def __init__(self, sink: Sink, store: Store, clock: Clock) -> None:
        self._sink = sink
        self._store = store
        self._clock = clock
        self._works: dict[str, Work] = {}
        self._before: set[asyncio.Future[Any]] = set()
        self._closing = False
        self._home: asyncio.AbstractEventLoop | None = None
        self.live: dict[str, SessionState] = {}

    def open(self) -> None:
        """Begin to work, in this event loop and in no other."""
        if self._home is not None:
            raise StoreError("This loop is open already.", path="")
        self._home = asyncio.get_running_loop()

    @property
    def closing(self) -> bool:
        """Whether the loop is being closed, or was."""
        return self._closing

    @property
    def inside(self) -> bool:
        """Whether this task is a part of what is worked on here: a tool's, for example."""
        return _HERE.get() is self

    @staticmethod
    def closed(name: str) -> StoreClosed:
        """Return what is told to those who waited for the work on a session."""
        return closed_before(f"the work on session {name!r}")

    def working(self, name: str) -> Work | None:
        """Return the work on a session, if there is one here."""
        return self._works.get(name)

    @property
    def idle(self) -> bool:
        """Whether nothing is worked on here."""
        return not self._works

    async def before(self, name: str, thinking: Awaitable[Any], seconds: float | None) -> Any:
        """Wait for what has to be known before a session is worked on, at most so long, and as long as this is open."""
        task = asyncio.ensure_future(asyncio.shield(thinking) if asyncio.isfuture(thinking) else thinking)  # a future may be somebody else's as well
        self._before.add(task)
        timer = asyncio.timeout(seconds)
        if self._closing:
            task.cancel()
        try:
            async with timer:
                return await task
        except TimeoutError:
            if timer.expired():
                raise TimeoutError(f"it had not decided after {seconds:g} s") from None
            raise
        except asyncio.CancelledError:
            if self._closing and not being_cancelled():
                raise self.closed(name) from None
            raise
        finally:
            self._before.discard(task)

    def begin(self, name: str, job: Job, key: str | None = None, *, detached: bool = False) -> Work:
        """Reserve a session and do a job on it in a task of its own."""
        work = self._reserve(name, key)
        work.detached = detached
        work.task = asyncio.create_task(self._do(work, job), name=f"session {name}")
        work.task.add_done_callback(looked_at)
        work.task.add_done_callback(lambda _: self._end(work))
        return work

    def _reserve(self, name: str, key: str | None = None) -> Work:
        if self._home not in {None, asyncio.get_running_loop()}:
            raise InvalidInput("This loop is used from another event loop than the one it was opened in.", hint="Open one in that event loop too, or use `.sync`.")
        if self._closing:
            raise closed()
        if name in self._works:
            raise SessionBusy(f"This process works on session {name!r} already.", session=name, owner=self._sink.owner, deadline=self._clock.now() + self._store.lease_ms)
        work = self._works[name] = Work(name, key)
        return work

    async def _do(self, work: Work, job: Job) -> SessionState:
        _HERE.set(self)
        try:
            after = await job(work)
        except BaseException as error:
            await asyncio.shield(asyncio.ensure_future(self._give_back(work.session)))
            if work.detached and isinstance(error, Exception) and work.drive is not None and (work.is_kept or not work.input_seq):  # else whoever sent is told
                _log.warning("Work on session %r stopped: %s", work.session, error)
            if self._closing and isinstance(error, asyncio.CancelledError):
                raise self.closed(work.session) from None
            raise
        else:
            if work.drive is not None:
                await self._after_work(after)
            return after
        finally:
            self._end(work)

    def _end(self, work: Work) -> None:
        """Let a session go. Also said by a task that was cancelled before its first step, which never came to say it itself."""
        if self._works.get(work.session) is work:
            del self._works[work.session]
        work.finished()

    async def _after_work(self, state: SessionState) -> None:
        """Keep the state of a session that is between turns, so that its next input need not read the log again; and cache it on disk
        when it has grown much.
        """
        try:
            await self._sink.snapshot_if_due(state)
        except StoreError as error:  # a cache: nothing depends on it
            _log.warning("The state of session %r could not be cached: %s", state.session, error)
        if state.turn is not None:
            return
        self.live[state.session] = state
        while len(self.live) > MAX_LIVE_STATES:
            self.live.pop(next(iter(self.live)))

    @contextlib.asynccontextmanager
    async def reserved(self, name: str) -> AsyncIterator[None]:
        """Reserve a session for something short."""
        work = self._reserve(name)
        self.live.pop(name, None)
        try:
            yield
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._give_back(name)))
            raise
        finally:
            self._end(work)

    async def _give_back(self, name: str) -> None:
        """After a failure or an interruption: nobody shall have to wait for our lease."""
        await self._sink.settled(name)
        with contextlib.suppress(StoreError):
            row = await self._store.find(name)
            if row is not None and row.owner == self._sink.owner and row.deadline:
                await self._store.release(name, row.epoch)

    # -- news ----------------------------------------------------------------------------------------------------------

    def hear(self, kept: Envelope) -> None:
        """Let the work on a session hear what was kept."""
        work = self._works.get(kept.session)
        if work is not None:
            work.hear(kept)

    def notice(self, name: str) -> None:
        """Let the work on a session look at the log soon: somebody here added a fact from outside."""
        work = self._works.get(name)
        if work is not None and work.drive is not None:
            work.drive.notice()

    async def close(self) -> None:
        """Interrupt everything; what was known is put down before this returns."""
        self._closing = True
        works: Iterable[Work] = list(self._works.values())
        for work in works:
            if work.task is not None:
                work.task.cancel()
        for task in self._before:
            task.cancel()
        if works:
            await asyncio.wait([asyncio.ensure_future(work.done.wait()) for work in works], timeout=2 * STOP_SECONDS)


def being_cancelled() -> bool:
    """Say whether somebody cancels this very task, not what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def looked_at(task: asyncio.Task[Any]) -> None:
    """Take note of a task's error, also when nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
