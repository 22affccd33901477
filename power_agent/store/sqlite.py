"""The SQLite store: one file, one database thread, one commit for everybody who waits at the same moment.

Opening the same file twice from one event loop gives both the same writer. A writer whose disk failed stays failed: what it
acknowledged is kept, and nothing is written after an error whose extent nobody knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import aiosqlite

from power_agent import errors
from power_agent.clock import SystemClock
from power_agent.limits import COMMITS_PER_CHECKPOINT, LEASE_SECONDS, LOCK_SECONDS, READ_CHUNK_EVENTS
from power_agent.ports import Adoption, Append, Clock, Durability, Kept, Record, SessionRow
from power_agent.store import reading
from power_agent.store.adopt import adopt
from power_agent.store.backup import backup
from power_agent.store.commit import Answer, commit
from power_agent.store.file import Log, checkpoint, open_log, prepare, translated
from power_agent.store.lease import LeaseKeeper
from power_agent.store.tail import Tail
from power_agent.store.verify import check_chain, check_file

_log = logging.getLogger("power_agent.store")
T = TypeVar("T")


class _Writer:
    """What all stores of one file in one event loop share: the connection, the queue, the leases."""

    open: dict[tuple[object, ...], _Writer] = {}  # noqa: RUF012  the register of this process
    inherited: set[tuple[object, ...]] = set()  # noqa: RUF012  device and inode of what was open when this process was forked off

    def __init__(self, path: str, durability: Durability, clock: Clock, lease_ms: int) -> None:
        self.path = path
        self.durability = durability
        self.lease_ms = lease_ms
        self.users = 0
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
            await asyncio.to_thread(db._thread.join, LOCK_SECONDS)  # noqa: SLF001  else it answers a loop that may be closed by then
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
        await asyncio.to_thread(self.leases.close)
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
            with translated(self.path):
                return cast("Sequence[Answer]", _last(steps))
        except Exception as error:  # noqa: BLE001  the same
            return [error] * requests

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
            self._remember_failure([error])
            _log.warning("A checkpoint of %s failed: %s", self.path, error)


def _forked_off() -> None:
    """In the child of a fork(): the parent's writers are out of bounds, and so are their files."""
    _Writer.inherited |= {key[2:] for key in _Writer.open}
    _Writer.open.clear()


os.register_at_fork(after_in_child=_forked_off)


def open_here(path: str | os.PathLike[str]) -> bool:
    """Say whether this process has that file open as a store: nothing else may open it then."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return False
    return (found.st_dev, found.st_ino) in {key[2:] for key in _Writer.open} | _Writer.inherited


class SQLiteStore:
    """Keeps the log in one SQLite file, or in `":memory:"` for tests.

    `durability="full"` survives power loss, `"normal"` only the death of the process. Use it inside `async with`.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability = "full", clock: Clock | None = None, lease_seconds: float = LEASE_SECONDS) -> None:
        if durability not in {"full", "normal"}:
            raise errors.InvalidInput(f"There is no durability {durability!r}.", hint='Use "full" or "normal".')
        self._path = os.fspath(path)
        if self._path != ":memory:":
            self._path = _real(self._path)
        self._durability: Durability = durability
        self._clock = clock or SystemClock()
        self._lease_ms = round(lease_seconds * 1000)
        self._writer: _Writer | None = None
        self._key: tuple[object, ...] = ()

    def __repr__(self) -> str:
        return f"SQLiteStore({self._path!r})"

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._path

    @property
    def lease_ms(self) -> int:
        """How long a lease lasts."""
        return self._lease_ms

    async def __aenter__(self) -> Self:
        if self._writer is not None:
            raise errors.StoreError(f"{self._path} is open already.", path=self._path)
        writer = self._find_writer()
        writer.users += 1
        self._writer = writer
        try:
            await writer.ready()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    def _find_writer(self) -> _Writer:
        make = partial(_Writer, self._path, self._durability, self._clock, self._lease_ms)
        if self._path == ":memory:":
            self._key = (id(self),)
            return make()
        place = prepare(self._path)
        if place in _Writer.inherited:
            raise errors.StoreForked(f"{self._path} was open when this process was forked off: SQLite would trust locks that only the parent holds.", path=self._path)
        self._key = (os.getpid(), id(asyncio.get_running_loop()), *place)
        writer = _Writer.open.setdefault(self._key, make())
        if (writer.durability, writer.lease_ms) != (self._durability, self._lease_ms):
            message = f"{self._path} is open with durability={writer.durability!r} and a lease of {writer.lease_ms / 1000:g} s already."
            raise errors.InvalidInput(message, hint="Use the same durability and lease everywhere in one process.")
        return writer

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.users -= 1
        if writer.users == 0:
            _Writer.open.pop(self._key, None)
            await asyncio.shield(asyncio.ensure_future(writer.close()))

    def _opened(self) -> _Writer:
        if self._writer is None:
            raise errors.StoreClosed(f"{self._path} is not open.", path=self._path)
        return self._writer

    def append(self, request: Append) -> asyncio.Future[Kept]:
        """Keep facts, all or none; durable when the future that this returns has its answer."""
        return self._opened().append(request)

    async def adopt(self, adoptions: Sequence[Adoption], now: int) -> None:
        """Keep events of another store as they are, all of them or none."""
        await self._opened().adopt(adoptions, now)

    async def scrub(self) -> None:
        """Leave nothing of what was erased in the write-ahead log; `StoreBusy` when somebody still reads old pages."""
        if not await self._opened().run(partial(checkpoint, truncate=True, seconds=LOCK_SECONDS)):
            raise errors.StoreBusy(
                f"What was erased is gone from {self._path}, but somebody who still reads keeps a copy in its write-ahead log.",
                path=self._path,
                hint="It goes with the next checkpoint; call scrub() when the reader is done.",
            )

    async def read(self, session: str, *, after: int = 0, upto: int | None = None, limit: int | None = None, kinds: Collection[str] | None = None) -> list[Record]:
        """Read kept events of a session, chunk by chunk, so that commits find room in between."""
        records: list[Record] = []
        left = limit if limit is not None else -1
        while left:
            size = READ_CHUNK_EVENTS if left < 0 else min(left, READ_CHUNK_EVENTS)
            chunk = await self._opened().run(reading.read, session, after, upto, size, kinds)
            records += chunk
            if len(chunk) < size:
                break
            after, left = chunk[-1].seq, left - size if left > 0 else left
        return records

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> list[Record]:
        """Read kept events of all sessions in the order of their commits."""
        return await self._opened().run(reading.read_all, after, limit)

    def follow(self, session: str | None = None, *, after: int = 0) -> AsyncIterator[list[Record]]:
        """Yield what is kept behind a cursor, of one session (by seq) or of all (by position), for ever and whoever wrote it."""
        return self._opened().tail.follow(session, after)

    async def find(self, session: str) -> SessionRow | None:
        """Look a session up."""
        return await self._opened().run(reading.find, session)

    async def sessions(self, *, after: str = "", limit: int = 1000, parent: str | None = None) -> list[SessionRow]:
        """List sessions by id; with `parent` only its forks."""
        return await self._opened().run(reading.sessions, after, limit, parent)

    async def find_key(self, session: str, key: str) -> int | None:
        """Return the seq of the input that has this key."""
        return await self._opened().run(reading.find_key, session, key)

    async def blob(self, session: str, digest: str, *, start: int = 0, length: int | None = None) -> bytes | None:
        """Read (a part of) a blob of the session or of a fork's ancestor."""
        return await self._opened().run(reading.blob, session, digest, start, length)

    async def hold(self, session: str, epoch: int, owner: str) -> None:
        """Keep the lease alive from a thread of the store's own."""
        self._opened().leases.hold(session, epoch, owner)

    async def renew(self, session: str, epoch: int, until: int) -> bool:
        """Renew the lease now; False: the session is at another epoch."""
        return await self._opened().run(reading.set_deadline, session, epoch, until)

    async def release(self, session: str, epoch: int) -> None:
        """Give the session up, so that the next owner need not wait."""
        writer = self._opened()
        writer.leases.let_go(session, epoch)
        await writer.run(reading.set_deadline, session, epoch, 0)

    def lost(self, session: str, epoch: int) -> bool:
        """Say whether a held lease was found to be somebody else's."""
        return self._opened().leases.lost(session, epoch)

    async def snapshot(self, session: str, fold: int) -> tuple[int, str] | None:
        """Read the cached state that this version of the fold made."""
        return await self._opened().run(reading.snapshot, session, fold)

    async def keep_snapshot(self, session: str, seq: int, fold: int, text: str) -> None:
        """Cache a state. It may be dropped at any time."""
        await self._opened().run(reading.keep_snapshot, session, seq, fold, text)

    async def backup(self, target: str) -> None:
        """Write a consistent copy of the whole store to a new file."""
        self._opened()
        if self._path == ":memory:":
            await self._opened().run(backup, self._path, target)
            return
        await asyncio.to_thread(_backup_apart, self._path, target)

    async def verify(self, session: str | None = None) -> AsyncIterator[str]:
        """Recompute everything; yield a sentence for each thing that is wrong."""
        if session is None:
            for wrong in await self._opened().run(check_file):
                yield wrong
        after = ""
        names = [session] if session is not None else [row.session for row in await self.sessions()]
        while names:
            for name in names:
                async for wrong in check_chain(self, name):
                    yield wrong
            after = names[-1]
            names = [] if session is not None else [row.session for row in await self.sessions(after=after)]


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


def _real(path: str) -> str:
    """Return where a path leads, so that a link and its file share one lock; what leads nowhere is refused on opening."""
    try:
        return str(Path(path).expanduser().resolve())
    except (OSError, RuntimeError, ValueError):
        return str(Path(path).absolute())


def _backup_apart(path: str, target: str) -> None:
    """Copy over a connection of its own, so that commits go on meanwhile."""
    with translated(path), contextlib.closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=LOCK_SECONDS, factory=Log)) as db:
        db.path = path
        db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        backup(db, path, target)
