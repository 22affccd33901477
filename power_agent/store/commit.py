"""One commit, as one function in the database thread.

BEGIN IMMEDIATE, a savepoint for each session, COMMIT. A session that is refused rolls back alone; the others of the shared
commit do not notice. Everything is checked here against the row that is locked, and once more by the table's own triggers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from power_agent import errors
from power_agent.chain import UNSALTED, digest_of, link
from power_agent.events import EVENTS
from power_agent.failpoints import passing
from power_agent.limits import MAX_BLOB_BYTES
from power_agent.ports import Append, Fact, Kept, Place
from power_agent.store.file import Log, check_place, of_sqlite
from power_agent.store.migrate import current

NUMBERS = {kind: event.code for kind, event in EVENTS.items()}
INSERT = "INSERT INTO event (session, seq, epoch, at, kind, call, key, body, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

LEASE_KEPT = 0.9
"""Share of a lease that may be left for it not to be written anew: that would cost a tenth of the commit it rides on."""

Answer = Kept | errors.PowerAgentError


class Row(NamedTuple):
    """A session's row, locked."""

    id: int
    head: int
    tip: bytes
    epoch: int
    owner: str | None
    deadline: int
    base: int
    erased: int


def find_row(db: Log, session: str) -> Row | None:
    """Read a session's row."""
    row = db.execute("SELECT id, head, tip, epoch, owner, deadline, base, erased FROM session WHERE name = ?", (session,)).fetchone()
    return Row(*row) if row else None


def commit(db: Log, requests: Sequence[Append]) -> list[Answer]:
    """Keep what each request asks for, all or none of it; answer each with where it stands or with why not."""
    kinds = [fact.kind for request in requests for fact in request.facts]
    answers: list[Answer] = []
    try:
        passing("before", kinds)
        db.execute("BEGIN IMMEDIATE")
        check_unchanged(db)
        if len(requests) == 1:  # alone, the transaction is savepoint enough
            answers.append(_keep_typed(db, requests[0]))
        else:
            answers += [_keep_apart(db, request) for request in requests]
        passing("in", kinds)
        db.execute("COMMIT")
        passing("after", kinds)
    except sqlite3.Error as error:
        return [of_sqlite(error, db.path)] * len(requests)
    except errors.PowerAgentError as error:
        return [error] * len(requests)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return answers


def _keep_apart(db: Log, request: Append) -> Answer:
    """Keep one request of several: refused, it rolls back alone."""
    db.execute("SAVEPOINT one")
    answer: Answer
    try:
        answer = _keep_typed(db, request)
    except errors.PowerAgentError as refused:
        db.execute("ROLLBACK TO one")
        answer = refused
    db.execute("RELEASE one")
    return answer


def check_unchanged(db: Log) -> None:
    """Refuse to write to a file that another process has migrated meanwhile, or that is not at its path any more."""
    check_place(db)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != current():
        raise errors.StoreChanged(f"{db.path} was migrated to schema {version} while it was open here with {current()}.", path=db.path)


def _keep_typed(db: Log, request: Append) -> Kept:
    """Keep one request; what SQLite cannot even bind is that caller's mistake alone."""
    try:
        return _keep(db, request)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_TOOBIG and not isinstance(error, sqlite3.DataError | sqlite3.InterfaceError):
            raise
        size = max(len(fact.body) for fact in request.facts)
        raise errors.EventTooLarge(f"A fact of {request.session!r} is too large for SQLite: {error}.", bytes=size, limit=0) from None
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise errors.InvalidInput(f"A fact of {request.session!r} cannot be kept: {error}.") from None


def _keep(db: Log, request: Append) -> Kept:
    try:
        row = born(db, request.session, request.branch) if request.facts[0].kind == "session.opened" else _checked(db, request)
        if request.blobs:
            keep_blobs(db, row.id, request.blobs)
    except sqlite3.IntegrityError as error:  # a rule of the table, no fault of the disk
        raise errors.IllegalMove(f"The store refused {request.session!r}: {error}.", session=request.session, kind=request.facts[0].kind, place="") from None
    epoch = request.epoch if request.epoch is not None else row.epoch
    seq, tip, position = row.head, row.tip, 0
    hashes: list[bytes] = []
    try:
        for fact in request.facts:
            seq += 1
            digest = digest_of(UNSALTED if fact.kind == "session.erased" else request.salt, seq, fact.body)
            tip = link(tip, request.session, seq, epoch, fact.at, fact.kind, digest)
            position = db.execute(INSERT, (row.id, seq, epoch, fact.at, NUMBERS[fact.kind], fact.call, fact.key, fact.body, tip)).lastrowid
            hashes.append(tip)
        if db.execute("SELECT hash FROM event WHERE session = ? AND seq = ?", (row.id, seq)).fetchone() != (tip,):
            raise errors.StoreDamaged(f"{db.path} swallowed what was to be kept.", path=db.path)
    except sqlite3.IntegrityError as error:
        raise _refused(db, request, row, request.facts[len(hashes)], str(error)) from None
    if request.hold_until is not None and _worth_writing(row.deadline, request):
        db.execute("UPDATE session SET deadline = ? WHERE id = ?", (request.hold_until, row.id))
    if request.facts[-1].kind == "session.erased":
        _destroy(db, row, seq, request.salt)
    return Kept(row.head + 1, epoch, position - len(hashes) + 1, tuple(hashes))


def _worth_writing(deadline: int, request: Append) -> bool:
    at, until = request.facts[-1].at, request.hold_until or 0
    return until == 0 or deadline - at < LEASE_KEPT * (until - at)


def _checked(db: Log, request: Append) -> Row:
    """Fence first, then order: a stale owner is told so even when the head moved too."""
    name = request.session
    row = find_row(db, name)
    if row is None:
        raise errors.SessionNotFound(f"There is no session {name!r}.", session=name)
    if row.erased:
        raise errors.SessionErased(f"Session {name!r} was erased.", session=name)
    takes = request.facts[0].kind == "owner.changed"
    if request.epoch is not None and request.epoch != row.epoch + takes:
        raise errors.OwnershipLost(f"Session {name!r} is at epoch {row.epoch}; {request.epoch} is over.", session=name, epoch=row.epoch)
    if row.head != request.head:
        raise errors.HeadMoved(f"Session {name!r} is at {row.head}, not at {request.head}.", session=name, head=row.head)
    return row


def born(db: Log, name: str, branch: Place | None) -> Row:
    """Make the row of a new session, at the beginning or at a place of its parent."""
    if find_row(db, name) is not None:
        raise errors.SessionExists(f"There is a session {name!r} already.", session=name)
    parent, base, tip = None, 0, b""
    if branch is not None:
        found = db.execute(
            "SELECT session.id, event.hash, session.erased FROM session JOIN event ON event.session = session.id AND event.seq = ? WHERE name = ?", (branch.seq, branch.holder)
        ).fetchone()
        if found is None:
            raise errors.SessionNotFound(f"Session {branch.holder!r} has no event {branch.seq}.", session=branch.holder)
        (parent, tip, erased), base = found, branch.seq
        if erased:
            raise errors.SessionErased(f"Session {branch.holder!r} was erased.", session=branch.holder)
    db.execute("INSERT INTO session (name, head, tip, epoch, deadline, base, parent) VALUES (?, ?, ?, 0, 0, ?, ?)", (name, base, tip, base, parent))
    return Row(db.execute("SELECT id FROM session WHERE name = ?", (name,)).fetchone()[0], base, tip, 1, None, 0, base, 0)


def _refused(db: Log, request: Append, row: Row, fact: Fact, why: str) -> errors.PowerAgentError:
    """Say which of the table's own rules a fact broke."""
    name = request.session
    if "owner_lives" in why:
        return errors.SessionBusy(f"Session {name!r} is held by {errors.holder(row.owner)}.", session=name, owner=row.owner, deadline=row.deadline)
    if "has_forks" in why:
        return errors.HasForks(f"Other sessions begin in the middle of {name!r}.", session=name)
    if fact.key is not None and db.execute("SELECT 1 FROM event WHERE session = ? AND key = ?", (row.id, fact.key)).fetchone():
        return errors.KeyConflict(f"Session {name!r} has an input with the key {fact.key!r} already.", session=name, key=fact.key)
    return errors.IllegalMove(f"The log of {name!r} refused {fact.kind}: {why}.", session=name, kind=fact.kind, place="")


def keep_blobs(db: Log, session: int, blobs: Mapping[str, bytes]) -> None:
    """Keep blobs of a session under the names that their content gives them."""
    for digest, content in blobs.items():
        try:
            raw = bytes.fromhex(digest)
        except ValueError:
            raise errors.InvalidInput(f"{digest!r} is not the name of a blob.") from None
        if len(content) > MAX_BLOB_BYTES:
            raise errors.EventTooLarge(f"The blob {digest} has {len(content)} bytes; {MAX_BLOB_BYTES} are allowed.", bytes=len(content), limit=MAX_BLOB_BYTES)
        if sha256(content).digest() != raw:
            raise errors.InvalidInput(f"The blob {digest} has other content than its name says.")
        known = db.execute("SELECT 1 FROM blob WHERE session = ? AND hash = ?", (session, raw)).fetchone()
        if not known:
            db.execute("INSERT INTO blob (session, hash, content) VALUES (?, ?, ?)", (session, raw, content))


def _destroy(db: Log, row: Row, tombstone: int, salt: bytes) -> None:
    """Replace every body before the tombstone by its digest; drop blobs and snapshot."""
    bodies = db.execute("SELECT pos, seq, body FROM event WHERE session = ? AND seq < ? AND body IS NOT NULL", (row.id, tombstone)).fetchall()
    gone = [(digest_of(salt, seq, body), position) for position, seq, body in bodies]
    db.executemany("UPDATE event SET body = NULL, key = NULL, digest = ? WHERE pos = ?", gone)
    db.execute("DELETE FROM blob WHERE session = ?", (row.id,))
    db.execute("DELETE FROM snapshot WHERE session = ?", (row.id,))
