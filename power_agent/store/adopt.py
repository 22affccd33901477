"""Events of another store, taken over as they are: one function in the database thread, one transaction, all or none.

Nothing is believed: each hash is computed anew from the bytes that are written, and every trigger of the table judges each event
as it judges a new one (order, epochs, one outcome, one input per key). Killed anywhere, nothing of it is there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from power_agent import errors
from power_agent.chain import UNSALTED, digest_of, link
from power_agent.events import call_of, decode
from power_agent.failpoints import passing
from power_agent.ports import Adoption, Blob, Record
from power_agent.store.commit import INSERT, NUMBERS, born, check_unchanged, find_row, keep_blobs
from power_agent.store.file import Log

LONG_AGO = -(2**63)
"""The deadline while events are taken over: every change of owner that once was allowed is allowed again."""


def adopt(db: Log, adoptions: Sequence[Adoption], now: int) -> None:
    """Take everything over, or raise and leave the file as it was."""
    try:
        passing("before", ("adoption",))
        db.execute("BEGIN IMMEDIATE")
        check_unchanged(db)
        for one in adoptions:
            _taken(db, one, now)
        passing("in", ("adoption",))
        db.execute("COMMIT")
        passing("after", ("adoption",))
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _taken(db: Log, one: Adoption, now: int) -> None:
    session = _gone_on(db, one, now) if one.known else born(db, one.session, one.branch).id
    db.execute("UPDATE session SET deadline = ? WHERE id = ?", (LONG_AGO, session))
    writer = _Copyist(db, session, one)
    try:
        for arrival in one.arrivals():
            if isinstance(arrival, Blob):
                keep_blobs(db, session, {arrival.digest: arrival.content})
            else:
                writer.copy(arrival)
        for fact in one.facts:
            writer.write(fact.at, fact.kind, fact.body)
    except sqlite3.IntegrityError as error:
        raise errors.ImportRefused(f"Event {writer.seq + 1} of {one.session!r} breaks a rule of the log: {error}.") from None
    except (sqlite3.DataError, sqlite3.InterfaceError, ValueError, OverflowError) as error:
        raise errors.ImportRefused(f"Event {writer.seq + 1} of {one.session!r} cannot be kept: {error}.") from None
    db.execute("UPDATE session SET deadline = 0 WHERE id = ?", (session,))


def _gone_on(db: Log, one: Adoption, now: int) -> int:
    """Check that the session still stands where it was found, and that nobody works on it."""
    row = find_row(db, one.session)
    if row is None:
        raise errors.SessionNotFound(f"There is no session {one.session!r}.", session=one.session)
    if row.erased:
        raise errors.SessionErased(f"Session {one.session!r} was erased.", session=one.session)
    if row.owner is not None and row.owner != one.holder and row.deadline >= now:
        raise errors.SessionBusy(f"Session {one.session!r} is held by {errors.holder(row.owner)}.", session=one.session, owner=row.owner, deadline=row.deadline)
    if (row.head, row.tip) != (one.head, one.tip):
        raise errors.HeadMoved(f"Session {one.session!r} is at {row.head}, not at {one.head}.", session=one.session, head=row.head)
    return row.id


class _Copyist:
    """Writes one event behind the other and computes their hashes."""

    def __init__(self, db: Log, session: int, one: Adoption) -> None:
        self._db = db
        self._id = session
        self._name = one.session
        self._salt = one.salt
        self._tip = one.tip
        self._epoch = 1
        self.seq = one.head

    def copy(self, record: Record) -> None:
        """Write an event as it arrived; its hash must come out."""
        if record.body is None or (record.session, record.seq) != (self._name, self.seq + 1):
            raise errors.ImportRefused(f"Event {record.seq} of {record.session!r} does not follow event {self.seq} of {self._name!r}.")
        self._epoch = record.epoch
        self.write(record.at, record.kind, record.body)
        if self._tip != record.hash:
            raise errors.ImportRefused(f"Event {record.seq} of {record.session!r} has another hash than its content.")

    def write(self, at: int, kind: str, body: str) -> None:
        """Write the next event."""
        try:
            event, seq = decode(kind, body), self.seq + 1
        except errors.StoreDamaged as error:  # not this file's damage
            raise errors.ImportRefused(error.message) from None
        salt = UNSALTED if kind == "session.erased" else self._salt
        tip = link(self._tip, self._name, seq, self._epoch, at, kind, digest_of(salt, seq, body))
        self._db.execute(INSERT, (self._id, seq, self._epoch, at, NUMBERS[kind], call_of(event), getattr(event, "key", None), body, tip))
        self._tip, self.seq = tip, seq
