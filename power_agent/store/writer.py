"""The writer of one file: its connection, who waits for the next commit, the leases that are renewed.

Whoever waits at the same moment shares a commit. A writer whose disk failed stays failed: what it acknowledged is kept, and
nothing is written after an error whose extent nobody knows. After a fork() everything here is the parent's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite

from power_agent import errors
from power_agent.limits import COMMITS_PER_CHECKPOINT
from power_agent.ports import Adoption, Append, Clock, Durability, Kept
from power_agent.store.adopt import adopt
from power_agent.store.commit import Answer, commit
from power_agent.store.file import checkpoint, open_log, translated
from power_agent.store.lease import LeaseKeeper, ended
from power_agent.store.tail import Tail

_log = logging.getLogger("power_agent.store")
T = TypeVar("T")


class Writer:
    """What all stores of one file in one event loop share: the connection, the queue, the leases."""

    open: dict[tuple[object, ...], Writer] = {}  # noqa: RUF012  the register of this process
    inherited: set[tuple[object, ...]] = set()  # noqa: RUF012  device and inode of what was open when this process was forked off

    def __init__(self, path: str, durability: Durability, clock: Clock, lease_ms: int) -> None:
        self.path = path
        self.durability = durability
        self.lease_ms = lease_ms
        self.users = 0
        self._home = asyncio.get_running_loop()
        self.failed: errors.StoreError | None = None
        self.leases = LeaseKeeper(path, clock, lease_ms)
        self.tail = Tail(path, self.run)
        self._pid = os.getpid()
        self._ready: asyncio.Task[None] | None = None
        self._db: aiosqlite.Connection | None = None
        self._waiting: list[tuple[Append, asyncio.Future[Kept]]] = []
        self._busy = False
        self._crowded = False
        self._visit: asyncio.Future[Any] | None = None
        self._commits = 0

    async def ready(self) -> None:
        """Open the file, once for all who wait for it."""
        if self._ready is None:
            self._ready = asyncio.create_task(self._open())
        await asyncio.shield(self._ready)

    async def _open(self) -> None:
        db = aiosqlite.Connection(partial(open_log, self.path, self.durability), 64)
        db._thread.daemon = True  # noqa: SLF001  a store that nobody closed must not keep the process from ending
        try:
            self._db = await db
        except BaseException:
            await ended(db._thread)  # noqa: SLF001  else it answers a loop that may be closed by then
            raise

    async def close(self) -> None:
        """Let everything that waits be kept, then close. After a fork() the connection, its thread and its locks are the parent's."""
        if os.getpid() != self._pid:
            return
        if self._ready is not None:
            await asyncio.wait([self._ready])  # whoever opened may have been cancelled
            self._ready.cancelled() or self._ready.exception()
        while self._busy:
            await asyncio.wait([self._visit]) if self._visit is not None and not self._visit.done() else await asyncio.sleep(0)
        await self.tail.close()
        db, self._db = self._db, None
        await self.leases.close()
        if db is not None:
            await db.close()

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Run a function of the connection in the database thread."""
        db = self._connected()
        with translated(self.path), _bindable():
            return cast("T", await db.execute_fetchall(cast("str", work), cast("Any", args)))

    def _connected(self) -> aiosqlite.Connection:
        if os.getpid() != self._pid:
            raise errors.StoreForked(f"{self.path} was opened before this process was forked off.", path=self.path)
        if asyncio.get_running_loop() is not self._home:
            raise errors.InvalidInput(f"{self.path} is used from another event loop than the one it was opened in.", hint="Open one in that event loop too, or use `.sync`.")
        if self._db is None:
            raise errors.StoreClosed(f"{self.path} is not open.", path=self.path)
        return self._db

    def append(self, request: Append) -> asyncio.Future[Kept]:
        """Queue a request for the next commit. What is returned only waits: cancelling it does not recall the request."""
        self._refuse_after_failure()
        self._connected()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Kept] = loop.create_future()
        self._waiting.append((request, answer))
        if self._busy:
            return answer
        self._busy = True
        if self._crowded:
            loop.call_soon(self._go_on)  # whoever asks at the same moment comes along
        else:
            self._commit()
        return answer

    async def adopt(self, adoptions: Sequence[Adoption], now: int) -> None:
        """Take over events of another store, in a transaction of their own."""
        self._refuse_after_failure()
        try:
            await self.run(adopt, adoptions, now)
        except errors.StoreError as error:
            self._remember_failure([error])
            raise

    def _refuse_after_failure(self) -> None:
        if self.failed is not None:
            raise self._failed_before()

    def _failed_before(self) -> errors.StoreFailed:
        return errors.StoreFailed(f"{self.path} failed before: {'' if self.failed is None else self.failed.message}", path=self.path)

    def _commit(self) -> None:
        """Commit whatever waits, together. It is the one visit to the database thread without a task of its own: what would be a task's steps
        are taken here, one before the visit and one after it.
        """
        batch, self._waiting = self._waiting, []
        self._crowded = len(batch) > 1
        try:
            steps = self._connected().execute_fetchall(cast("str", commit), ([request for request, _ in batch],)).__await__()
            self._visit = next(steps)
        except Exception as error:  # noqa: BLE001  whatever it is, somebody waits for it
            self._committed(batch, [error] * len(batch))
        else:
            self._visit.add_done_callback(lambda _: self._committed(batch, self._answers(steps, len(batch))))

    def _answers(self, steps: Generator[Any, None, Any], requests: int) -> Sequence[Answer | Exception]:
        try:
            return cast("Sequence[Answer]", _last(steps))
        except Exception as error:  # noqa: BLE001  the same
            return [_typed(error, self.path)] * requests

    def _committed(self, batch: Sequence[tuple[Append, asyncio.Future[Kept]]], answers: Sequence[Answer | Exception]) -> None:
        """Tell everybody what became of their requests, and commit what has come meanwhile."""
        self._remember_failure(answers)
        for (request, waiter), answer in zip(batch, answers, strict=True):
            self._settle(request, waiter, answer)
        self.tail.notice()
        self._commits += 1
        if self._commits < COMMITS_PER_CHECKPOINT:
            self._go_on()
        else:
            self._commits = 0
            self._visit = asyncio.ensure_future(self._checkpoint())
            self._visit.add_done_callback(lambda _: self._go_on())

    def _go_on(self) -> None:
        """Commit what waits; after a failure nothing is."""
        if self.failed is not None:
            waiting, self._waiting = self._waiting, []
            for request, waiter in waiting:
                self._settle(request, waiter, self._failed_before())
        self._busy = bool(self._waiting)
        if self._busy:
            self._commit()

    def _settle(self, request: Append, waiter: asyncio.Future[Kept], answer: Answer | Exception) -> None:
        """Tell one who waits what became of a request; a lease that was given up with it is renewed no more."""
        if isinstance(answer, Kept) and request.hold_until == 0:
            self.leases.let_go(request.session, answer.epoch)
        if waiter.done():
            return
        if isinstance(answer, Kept):
            waiter.set_result(answer)
        else:
            waiter.set_exception(answer.with_traceback(None))

    def _remember_failure(self, answers: Sequence[Answer | Exception]) -> None:
        """After an error of the disk nobody knows what is on it: write nothing more."""
        self.failed = self.failed or next((one for one in answers if isinstance(one, errors.StoreFailed | errors.StoreDamaged)), None)

    async def _checkpoint(self) -> None:
        try:
            await self.run(checkpoint)
        except errors.StoreError as error:
            if isinstance(error.__cause__, sqlite3.Error):  # else it was the side file, and nothing of the data was touched
                self._remember_failure([error])
            _log.warning("A checkpoint of %s failed: %s", self.path, error.message)


def _forked_off() -> None:
    """In the child of a fork(): the parent's writers are out of bounds, and so are their files."""
    Writer.inherited |= {key[2:] for key in Writer.open}
    Writer.open.clear()


os.register_at_fork(after_in_child=_forked_off)


def open_here(path: str | os.PathLike[str]) -> bool:
    """Say whether this process has that file open as a store: nothing else may open it then."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return False
    return (found.st_dev, found.st_ino) in {key[2:] for key in Writer.open} | Writer.inherited


def _typed(error: Exception, path: str) -> Exception:
    """Return an error as ours, if it is one of SQLite's or of the disk's."""
    try:
        with translated(path):
            raise error
    except Exception as typed:  # noqa: BLE001  that is what is asked for
        return typed


def _last(steps: Generator[Any, None, T]) -> T:
    """Take the last step of a coroutine that awaits one thing only, which is there."""
    try:
        next(steps)
    except StopIteration as end:
        return cast("T", end.value)
    raise RuntimeError("A visit to the database thread has more than one step.")


@contextlib.contextmanager
def _bindable() -> Iterator[None]:
    """Name what SQLite cannot even be asked: the caller's mistake, not the disk's."""
    try:
        yield
    except (UnicodeEncodeError, OverflowError) as error:
        raise errors.InvalidInput(f"That cannot be looked up: {error}.", hint="Pass texts without broken Unicode, and numbers below 2**63.") from None
