"""The SQLite store: one file, one database thread. Opening the same file twice from one event loop gives both the same writer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from power_agent import errors
from power_agent.clock import SystemClock
from power_agent.limits import LEASE_SECONDS, LOCK_SECONDS, READ_CHUNK_EVENTS
from power_agent.ports import Adoption, Append, Clock, Durability, Kept, Record, SessionRow
from power_agent.store import reading
from power_agent.store.backup import backup
from power_agent.store.file import Log, check_place, checkpoint, prepare, translated
from power_agent.store.verify import Past, check_chain, check_file
from power_agent.store.writer import Writer


class SQLiteStore:
    """Keeps the log in one SQLite file, or in `":memory:"` for tests.

    `durability="full"` survives power loss, `"normal"` only the death of the process. Use it inside `async with`.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability = "full", clock: Clock | None = None, lease_seconds: float = LEASE_SECONDS) -> None:
        if durability not in {"full", "normal"}:
            raise errors.InvalidInput(f"There is no durability {durability!r}.", hint='Use "full" or "normal".')
        if not isinstance(path, str | os.PathLike):
            raise errors.InvalidInput(f"{path!r:.100} is not the path of a file.", hint='Pass a path, or ":memory:".')
        self._path = os.fspath(path)
        if self._path != ":memory:":
            self._path = _real(self._path)
        self._durability: Durability = durability
        self._clock = clock or SystemClock()
        self._lease_ms = round(lease_seconds * 1000)
        self._shortest_ms = max(self._lease_ms, round(LEASE_SECONDS * 1000))  # others may have longer ones, and renew them less often
        self._writer: Writer | None = None
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

    def _find_writer(self) -> Writer:
        make = partial(Writer, self._path, self._durability, self._clock, self._lease_ms)
        if self._path == ":memory:":
            self._key = (id(self),)
            return make()
        place = prepare(self._path)
        if place in Writer.inherited:
            raise errors.StoreForked(f"{self._path} was open when this process was forked off: SQLite would trust locks that only the parent holds.", path=self._path)
        self._key = (os.getpid(), id(asyncio.get_running_loop()), *place)
        writer = Writer.open.setdefault(self._key, make())
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
            Writer.open.pop(self._key, None)
            await asyncio.shield(asyncio.ensure_future(writer.close()))

    def _opened(self) -> Writer:
        if self._writer is None and self._key:
            raise errors.StoreClosed(f"{self._path} was closed.", hint="A loop is not opened again: make a new one. A store is, with `async with`.", path=self._path)
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
        return await self._opened().run(reading.find, session, self._clock, self._shortest_ms)

    async def sessions(self, *, after: str = "", limit: int = 1000, parent: str | None = None, unfinished: bool = False) -> list[SessionRow]:
        """List sessions by id; with `parent` only its forks, `unfinished` without those that their last events show to be at rest."""
        return await self._opened().run(reading.sessions, after, limit, parent, unfinished)

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
        """Write a consistent copy of the whole store to a new file. It is the same life once more, with the same approvals: go on with one."""
        place = await self._opened().run(check_place)
        if place is None:
            await self._opened().run(backup, self._path, target)
            return
        await asyncio.to_thread(_backup_apart, self._path, place, target)

    async def verify(self, session: str | None = None) -> AsyncIterator[str]:
        """Recompute everything; yield a sentence for each thing that is wrong."""
        if session is None:
            for wrong in await self._opened().run(check_file):
                yield wrong
        after, past = "", None if session is not None else Past()  # alone, a fork answers for what it shares as well
        names = [session] if session is not None else [row.session for row in await self.sessions()]
        while names:
            for name in names:
                async for wrong in check_chain(self, name, past):
                    yield wrong
            after = names[-1]
            names = [] if session is not None else [row.session for row in await self.sessions(after=after)]


def _real(path: str) -> str:
    """Return where a path leads, so that a link and its file share one lock; what leads nowhere is refused on opening."""
    try:
        return str(Path(path).expanduser().resolve())
    except (OSError, RuntimeError, ValueError):
        return str(Path(path).absolute())


def _backup_apart(path: str, place: tuple[int, int], target: str) -> None:
    """Copy over a connection of its own, so that commits go on meanwhile."""
    with translated(path), contextlib.closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=LOCK_SECONDS, factory=Log)) as db:
        db.path, db.place = path, place
        db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        db.execute("PRAGMA schema_version").fetchall()  # from here on it is open
        check_place(db)
        backup(db, path, target)
