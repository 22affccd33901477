"""The same verbs for callers without an event loop: scripts, notebooks, threads of a web server.

The loop lives in a thread of its own, so that this works where an event loop is running already. Ctrl-C in a verb interrupts what it
waits for, as cancelling its task would: the turn stays open for `resume`, and the session is free before the exception goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from power_agent.errors import InvalidInput, StoreClosed, StoreError, StoreForked
from power_agent.limits import STOP_SECONDS
from power_agent.loop.agent import StatefulAgentLoop
from power_agent.loop.work import closed, closed_before
from power_agent.ports import Tip

if TYPE_CHECKING:
    from power_agent.editions import Kind

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(verb: Callable[Concatenate[StatefulAgentLoop, P], Awaitable[R]]) -> Callable[Concatenate[SyncLoop, P], R]:
    """Make a verb that waits."""

    @functools.wraps(verb)
    def waits(self: SyncLoop, *args: P.args, **values: P.kwargs) -> R:
        return self.run(lambda loop: verb(loop, *args, **values))

    return waits  # type: ignore[return-value]  # the first parameter has a name


def _iterating(verb: Callable[Concatenate[StatefulAgentLoop, P], AsyncIterator[R]]) -> Callable[Concatenate[SyncLoop, P], Iterator[R]]:
    """Make a verb whose items are waited for one by one."""

    @functools.wraps(verb)
    def iterates(self: SyncLoop, *args: P.args, **values: P.kwargs) -> Iterator[R]:
        async def begin(loop: StatefulAgentLoop) -> AsyncIterator[R]:
            return verb(loop, *args, **values)

        items = self.run(begin)
        end = object()
        try:
            while True:
                item: Any = self.run(lambda _: anext(items, end))
                if item is end:
                    return
                yield item
        finally:
            with contextlib.suppress(StoreClosed, StoreForked):
                self.run(lambda _: _left(items))

    return iterates  # type: ignore[return-value]  # the same


async def _left(items: Any) -> None:
    """Leave an iterator before its end."""
    await items.aclose()


class SyncLoop:
    """The verbs of a `StatefulAgentLoop`, each waiting for its result. Use it inside `with`, or call `close()`.

    Safe from several threads; a verb called from the event loop's own thread would wait for itself and is refused.
    """

    def __init__(self, loop: StatefulAgentLoop) -> None:
        self._loop = loop
        self._home: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._opening = threading.RLock()  # a handler of signals may close what is being closed
        self._pid: int | None = None
        self._entered = False
        self._closed = False
        self._tasks: dict[Future[Any], asyncio.Task[Any]] = {}

    def __enter__(self) -> Self:
        self._check()
        with self._opening:
            self._open()
            if self._entered:
                raise StoreError(f"{self._path} is open already.", path=self._path)
            self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _path(self) -> str:
        return str(getattr(self._loop.store, "path", ""))

    @property
    def _forked_off(self) -> bool:
        """Whether what was opened is the parent's: its thread is not here, and its lock may be held for ever."""
        return self._pid not in {None, os.getpid()}

    def _check(self) -> None:
        """Refuse what would wait for ever."""
        if self._forked_off:
            raise StoreForked(f"{self._path} was opened before this process was forked off.", path=self._path)
        if sys.is_finalizing():
            raise StoreClosed("Python is ending, and the loop's thread with it.", path=self._path, hint="Close the loop before.")
        if threading.current_thread() is self._thread:
            raise InvalidInput("A synchronous verb was called from the agent's own event loop.", hint="Await the verb of the loop itself there.")

    def _open(self) -> asyncio.AbstractEventLoop:
        """Start the thread and open the loop in it, once."""
        if self._closed:
            raise closed()
        if self._home is None:
            home, self._pid = asyncio.new_event_loop(), os.getpid()
            self._thread = threading.Thread(target=self._live, args=(home,), name="power-agent-sync", daemon=True)
            self._thread.start()
            try:
                asyncio.run_coroutine_threadsafe(self._loop.__aenter__(), home).result()
            except BaseException:
                self._stop(home)
                raise
            self._home = home
        return self._home

    @staticmethod
    def _live(home: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(home)
        try:
            home.run_forever()
        finally:
            home.close()

    def _stop(self, home: asyncio.AbstractEventLoop) -> None:
        home.call_soon_threadsafe(home.stop)
        if self._thread is not None:
            self._thread.join()
        self._thread = self._pid = None

    def close(self) -> None:
        """Interrupt what runs, leaving every turn resumable, close the store and end the thread. Nothing happens in the child of a fork()."""
        if self._forked_off or sys.is_finalizing():
            return
        self._check()
        with self._opening:
            home, self._home, self._closed = self._home, None, True
            if home is not None:
                try:
                    asyncio.run_coroutine_threadsafe(self._end(), home).result()
                finally:
                    self._stop(home)

    async def _end(self) -> None:
        """Close the loop, and let nobody wait for what comes no more."""
        try:
            await self._loop.aclose()
        finally:
            left = dict(self._tasks)
            for task in left.values():
                task.cancel()
            if left:
                await asyncio.wait(left.values(), timeout=STOP_SECONDS)
            for answer in self._tasks:  # of what does not end when it is cancelled
                answer.set_exception(self._was_closed())

    def run(self, work: Callable[[StatefulAgentLoop], Awaitable[R]]) -> R:
        """Run something with the loop in its thread and wait for it."""
        self._check()
        answer: Future[R] = Future()
        with self._opening:  # what is begun before a closing is ended by it
            home = self._open()
            home.call_soon_threadsafe(self._begin, work, answer)
        try:
            return answer.result()
        except BaseException:
            if not answer.done():  # this thread was interrupted, not the work
                home.call_soon_threadsafe(self._interrupt, answer)
                wait([answer])
            raise

    def _begin(self, work: Callable[[StatefulAgentLoop], Awaitable[R]], answer: Future[R]) -> None:
        async def result() -> R:
            return await work(self._loop)

        self._tasks[answer] = task = asyncio.create_task(result())
        task.add_done_callback(lambda _: self._answered(answer, task))

    def _interrupt(self, answer: Future[Any]) -> None:
        if answer in self._tasks:
            self._tasks[answer].cancel()

    def _answered(self, answer: Future[R], task: asyncio.Task[R]) -> None:
        del self._tasks[answer]
        if answer.done():  # the closing was over before
            return
        if task.cancelled():
            answer.set_exception(self._was_closed() if self._closed else CancelledError())
        elif (error := task.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(task.result())

    def _was_closed(self) -> StoreClosed:
        return closed_before("this", self._path)

    send = _blocking(StatefulAgentLoop.send)
    resume = _blocking(StatefulAgentLoop.resume)
    resume_all = _blocking(StatefulAgentLoop.resume_all)
    pending = _blocking(StatefulAgentLoop.pending)
    settle = _blocking(StatefulAgentLoop.settle)
    abort_pending = _blocking(StatefulAgentLoop.abort_pending)
    cancel = _blocking(StatefulAgentLoop.cancel)
    close_session = _blocking(StatefulAgentLoop.close_session)
    erase = _blocking(StatefulAgentLoop.erase)
    prune = _blocking(StatefulAgentLoop.prune)
    fork = _blocking(StatefulAgentLoop.fork)
    forks = _blocking(StatefulAgentLoop.forks)
    tree = _blocking(StatefulAgentLoop.tree)
    history = _blocking(StatefulAgentLoop.history)
    messages = _blocking(StatefulAgentLoop.messages)
    state = _blocking(StatefulAgentLoop.state)
    sessions = _blocking(StatefulAgentLoop.sessions)
    blob = _blocking(StatefulAgentLoop.blob)
    diff = _blocking(StatefulAgentLoop.diff)
    replay = _blocking(StatefulAgentLoop.replay)
    import_ = _blocking(StatefulAgentLoop.import_)
    compact = _blocking(StatefulAgentLoop.compact)
    context_report = _blocking(StatefulAgentLoop.context_report)
    stream = _iterating(StatefulAgentLoop.stream)
    events = _iterating(StatefulAgentLoop.events)
    watch = _iterating(StatefulAgentLoop.watch)
    verify = _iterating(StatefulAgentLoop.verify)

    def export(self, session_id: str, path: str | os.PathLike[str], *, format: Kind | None = None, redacted: bool = False) -> Tip:  # noqa: A002  as in the loop
        """Write a session as it stands now to a file; returns the tip, which is worth keeping elsewhere."""

        async def written(loop: StatefulAgentLoop) -> Tip:
            found = await loop.export(session_id, format=format, redacted=redacted)
            await found.to(path)
            return found.tip

        return self.run(written)
