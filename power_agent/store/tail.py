"""Following the log live, also what other processes write: a connection of its own that asks SQLite whether anything changed.

`PRAGMA data_version` costs a few microseconds and reads nothing; only when it moved does a short SELECT follow. No transaction is held
while nobody asks, so checkpoints are not in anybody's way. What this process commits is known at once, without asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite

from power_agent.errors import StoreChanged, StoreError
from power_agent.limits import LOCK_SECONDS, READ_CHUNK_EVENTS, TAIL_SECONDS
from power_agent.ports import Record
from power_agent.store import reading
from power_agent.store.file import Log, check_place, place_of, translated

T = TypeVar("T")
Run = Callable[..., Awaitable[Any]]
"""Runs a function of a connection in that connection's thread."""


class Tail:
    """Wakes those who follow a file whenever something was committed to it; idle while nobody follows."""

    def __init__(self, path: str, run: Run) -> None:
        self._path = path
        self._run = run
        self._followers: set[asyncio.Event] = set()
        self._db: aiosqlite.Connection | None = None
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    def notice(self) -> None:
        """Wake everybody: something was committed."""
        for follower in self._followers:
            follower.set()

    async def follow(self, session: str | None, after: int) -> AsyncIterator[list[Record]]:
        """Yield what is kept behind a cursor, for ever, in order and without gaps; ends when the store is closed."""
        news = asyncio.Event()
        self._followers.add(news)
        try:
            while not self._closed:
                news.clear()
                records = await self._read(session, after)
                if records:
                    after = records[-1].position if session is None else records[-1].seq
                    yield records
                elif not self._closed:
                    self._poll()
                    await news.wait()
        finally:
            self._followers.discard(news)

    async def _read(self, session: str | None, after: int) -> list[Record]:
        if session is None:
            return cast("list[Record]", await self._run(_in_place, reading.read_all, after, READ_CHUNK_EVENTS))
        return cast("list[Record]", await self._run(_in_place, reading.read, session, after, None, READ_CHUNK_EVENTS, None))

    def _poll(self) -> None:
        """See to it that somebody looks for what other processes commit."""
        if self._path != ":memory:" and (self._poller is None or self._poller.done()):
            self._poller = asyncio.create_task(self._look(), name=f"tail of {self._path}")
            self._poller.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _look(self) -> None:
        """Ask again and again whether the file changed, as long as somebody follows it."""
        seen = None
        while self._followers:
            if self._db is None:
                self._db = await _opened(self._path)
            try:
                with translated(self._path):
                    found = await self._db.execute_fetchall(cast("str", _in_place), (_version,))
            except StoreChanged:
                self.notice()  # who follows finds out the same
                raise
            if found != seen:
                seen = found
                self.notice()
            await asyncio.sleep(TAIL_SECONDS)

    async def close(self) -> None:
        """Let everybody go."""
        self._closed = True
        self.notice()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(StoreError):
                await db.close()


async def _opened(path: str) -> aiosqlite.Connection:
    db = aiosqlite.Connection(partial(_open, path), 64)
    db._thread.daemon = True  # noqa: SLF001  as with the writer
    return await db


def _open(path: str) -> Log:
    """Open a connection that only reads. Runs in its own thread."""
    with translated(path):
        db = sqlite3.connect(f"{Path(path).as_uri()}?mode=rw", uri=True, factory=Log, isolation_level=None, check_same_thread=False, timeout=LOCK_SECONDS)
        db.execute("PRAGMA query_only = ON")
        db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        db.path, db.place = path, place_of(path)
        return db


def _in_place(db: Log, read: Callable[..., T], *args: object) -> T:
    """Read, unless nobody will ever write there again because the file is not at its path any more."""
    check_place(db)
    return read(db, *args)


def _version(db: Log) -> int:
    return cast("int", db.execute("PRAGMA data_version").fetchone()[0])
