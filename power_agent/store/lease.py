"""The thread that keeps leases alive.

It is the store's own, with a connection of its own: an event loop that is blocked keeps its sessions, a process that is stopped
or dead loses them. What it finds taken over is remembered as lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from pathlib import Path

from power_agent.limits import LEASE_RENEWAL_SECONDS, LOCK_SECONDS
from power_agent.ports import Clock
from power_agent.store.file import side_lock

_log = logging.getLogger("power_agent.store")


class LeaseKeeper:
    """Renews what is held, a third of the lease's time after the last renewal."""

    def __init__(self, path: str, clock: Clock, lease_ms: int) -> None:
        self._path = path
        self._clock = clock
        self._lease_ms = lease_ms
        self._pause = min(LEASE_RENEWAL_SECONDS, lease_ms / 3000)
        self._home = asyncio.get_running_loop()
        self._held: dict[tuple[str, int], str] = {}
        self._lost: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, session: str, epoch: int, owner: str) -> None:
        """Begin to renew. In memory nobody else can come, and nothing needs renewing."""
        with self._lock:
            self._held[session, epoch] = owner
            self._lost.discard((session, epoch))
        if self._thread is None and self._path != ":memory:":
            self._thread = threading.Thread(target=self._run, name="power-agent-lease", daemon=True)
            self._thread.start()

    def let_go(self, session: str, epoch: int) -> None:
        """Stop renewing."""
        with self._lock:
            self._held.pop((session, epoch), None)

    def lost(self, session: str, epoch: int) -> bool:
        """Say whether a renewal found another owner."""
        return (session, epoch) in self._lost

    async def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            await ended(self._thread)

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        pause = self._pause
        while not self._stop.wait(pause) and not self._home.is_closed():  # else nobody works on what is held, and nobody will
            pause = self._pause
            try:
                db = db or self._connect()
                self._renew(db)
            except sqlite3.Error as error:
                _log.warning("Leases in %s could not be renewed: %s", self._path, error)
                pause = min(1.0, self._pause)
        if db is not None:
            with contextlib.suppress(OSError), side_lock(self._path):
                db.close()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(f"{Path(self._path).resolve().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=self._pause)
        for pragma in ("synchronous = NORMAL", "wal_autocheckpoint = 0", "mmap_size = 0"):  # a lease need not survive a power cut
            db.execute(f"PRAGMA {pragma}").fetchall()
        return db

    def _renew(self, db: sqlite3.Connection) -> None:
        with self._lock:
            held = dict(self._held)
        if not held:
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            until = self._clock.now() + self._lease_ms
            gone = {lease for lease, owner in held.items() if not self._renewed(db, *lease, owner, until)}
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        with self._lock:
            self._lost |= gone
            for lease in gone:
                self._held.pop(lease, None)

    @staticmethod
    def _renewed(db: sqlite3.Connection, session: str, epoch: int, owner: str, until: int) -> bool:
        """Renew one lease; False means that somebody else has it. One that was released meanwhile stays released."""
        sql = "UPDATE session SET deadline = max(deadline, ?) WHERE name = ? AND epoch = ? AND owner = ? AND deadline > 0"
        if db.execute(sql, (until, session, epoch, owner)).rowcount:
            return True
        return db.execute("SELECT 1 FROM session WHERE name = ? AND epoch = ?", (session, epoch)).fetchone() is not None


async def ended(thread: threading.Thread) -> None:
    """Wait for the end of a thread, which may have outlived its event loop. No other thread does: at the end of Python none can be begun."""
    until = time.monotonic() + LOCK_SECONDS
    while thread.is_alive() and time.monotonic() < until:  # noqa: ASYNC110  nothing else tells of it
        await asyncio.sleep(0.001)
