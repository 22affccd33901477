"""What is asked of the file, as functions in the database thread. A fork reads its ancestors up to its place."""

from __future__ import annotations

import re
from collections.abc import Collection
from hashlib import sha256
from typing import Any

from power_agent.errors import InvalidInput, SessionNotFound, StoreDamaged
from power_agent.events import CODES, EVENTS
from power_agent.failpoints import passing
from power_agent.ports import Clock, Record, SessionRow
from power_agent.store.file import Log

DIGEST = re.compile("[0-9a-f]{64}")
ROW = """SELECT session.name, session.head, session.tip, session.epoch, session.owner, session.deadline, session.erased, up.name, session.base
FROM session LEFT JOIN session AS up ON up.id = session.parent """
EVENT = "SELECT pos, seq, epoch, at, kind, body, digest, hash FROM event WHERE session = ? AND seq > ? AND seq <= ?"
_LARGEST = 2**31 - 2
"""No blob is larger, and substr() takes no larger numbers for what they are."""
INPUTS = "json_each(CASE WHEN json_valid({0}.body) THEN {0}.body ELSE '{{}}' END, '$.inputs')"
UNFINISHED = f"""AND session.erased = 0 AND (
    (SELECT kind FROM event WHERE session = session.id AND kind IN (11, 12) ORDER BY seq DESC LIMIT 1) = 11
    OR EXISTS (
        SELECT 1 FROM event AS said
        WHERE said.session = session.id AND said.kind = 10 AND said.seq > coalesce((
                SELECT value FROM event AS began, {INPUTS.format("began")} WHERE began.session = session.id AND began.kind = 11 ORDER BY began.seq DESC, value DESC LIMIT 1), 0)
            AND NOT EXISTS (
                SELECT 1 FROM event AS took, {INPUTS.format("took")}
                WHERE took.session = session.id AND took.seq > said.seq AND took.kind IN (11, 20) AND value = said.seq))) """
"""The last of a turn's two events is a start; or something was said behind the last input that a turn began with, and taken by nothing.
What a fork's parent left is the parent's."""
FROM_AHEAD = "SELECT 1 FROM event JOIN session ON session.id = event.session WHERE session.name = ? AND seq = session.head AND at > ?"


def find(db: Log, session: str, clock: Clock, lease_ms: int) -> SessionRow | None:
    """Look a session up. Where the clock was set back, its last event and its lease are of a time to come: what is left of that lease is
    one lease from now on. An owner who lives renews it before that; to one whose clock agrees this does not happen.
    """
    row = db.execute(ROW + "WHERE session.name = ?", (session,)).fetchone()
    found = _row(row) if row else None
    if found is None or found.deadline <= (until := (now := clock.now()) + lease_ms) or not db.execute(FROM_AHEAD, (session, now)).fetchone():
        return found
    db.execute("UPDATE session SET deadline = ? WHERE name = ? AND deadline > ?", (until, session, until))
    return found._replace(deadline=until)


def sessions(db: Log, after: str, limit: int, parent: str | None, unfinished: bool) -> list[SessionRow]:
    """List sessions by id; with `parent` only its forks, with `unfinished` without those that are seen to be at rest."""
    forks, which = ("AND up.name = ? ", (parent,)) if parent is not None else ("", ())
    left = UNFINISHED if unfinished else ""
    return [_row(row) for row in db.execute(f"{ROW}WHERE session.name > ? {forks}{left}ORDER BY session.name LIMIT ?", (after, *which, limit))]


def _row(row: tuple[Any, ...]) -> SessionRow:
    name, head, tip, epoch, owner, deadline, erased, parent, base = row
    return SessionRow(name, head, tip, epoch, owner, deadline, bool(erased), parent, base)


def lineage(db: Log, session: str) -> list[tuple[int, str, int, int]]:
    """Return, eldest first, whose events make up a session: (id, name, after, up to)."""
    found: list[tuple[int, str, int, int]] = []
    row = db.execute("SELECT id, name, base, head, parent FROM session WHERE name = ?", (session,)).fetchone()
    if row is None:
        raise SessionNotFound(f"There is no session {session!r}.", session=session)
    while row is not None:
        number, name, base, end, parent = row
        found.append((number, name, base, end))
        row = db.execute("SELECT id, name, base, ?, parent FROM session WHERE id = ?", (base, parent)).fetchone()
    return found[::-1]


def read(db: Log, session: str, after: int, upto: int | None, limit: int, kinds: Collection[str] | None) -> list[Record]:
    """Read events of a session in order."""
    records: list[Record] = []
    sql = EVENT
    if kinds is not None:
        if unknown := [kind for kind in kinds if kind not in EVENTS]:
            raise InvalidInput(f"There is no event called {min(unknown)!r}.", hint=f"The events are: {', '.join(EVENTS)}.")
        sql += f" AND kind IN ({','.join(str(EVENTS[kind].code) for kind in sorted(kinds))})"
    db.execute("BEGIN")  # one look at everything: an erasure in between would show bodies gone and no tombstone
    try:
        for number, name, low, high in lineage(db, session):
            first, last = max(after, low), high if upto is None else min(upto, high)
            if first < last and len(records) < limit:
                rows = db.execute(f"{sql} ORDER BY seq LIMIT ?", (number, first, last, limit - len(records)))
                records += [Record(pos, name, seq, epoch, at, CODES.get(kind) or _kind(kind), body, digest, hashed) for pos, seq, epoch, at, kind, body, digest, hashed in rows]
    finally:
        db.execute("END")
    return records


def read_all(db: Log, after: int, limit: int) -> list[Record]:
    """Read events of all sessions in the order of their commits."""
    rows = db.execute(
        "SELECT pos, name, seq, event.epoch, at, kind, body, digest, hash FROM event JOIN session ON session.id = event.session WHERE pos > ? ORDER BY pos LIMIT ?",
        (after, limit),
    )
    return [Record(pos, name, seq, epoch, at, _kind(kind), body, digest, hashed) for pos, name, seq, epoch, at, kind, body, digest, hashed in rows]


def _kind(code: int) -> str:
    return CODES.get(code) or f"unknown.{code}"


def find_key(db: Log, session: str, key: str) -> int | None:
    """Return the seq of the input with this key. A fork has keys of its own."""
    row = db.execute("SELECT seq FROM event WHERE session = (SELECT id FROM session WHERE name = ?) AND key = ?", (session, key)).fetchone()
    return row[0] if row else None


def blob(db: Log, session: str, digest: object, start: int, length: int | None) -> bytes | None:
    """Read a part of a blob, of the session's own or, where an event of the shared past names it, of an ancestor's."""
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise InvalidInput(f"{digest!r} is not the name of a blob.", hint="Pass the 64 hexadecimal digits that stand in the event.")
    own, *shared = lineage(db, session)[::-1]
    for number, _, _, last in (own, *shared):
        if number != own[0] and not _named(db, number, last, digest):
            continue
        where = (number, bytes.fromhex(digest))
        part, places = ("content", ()) if length is None else ("coalesce(substr(content, ?, ?), x'')", (min(start, _LARGEST) + 1, min(length, _LARGEST)))
        row = db.execute(f"SELECT CASE typeof(content) WHEN 'blob' THEN {part} END FROM blob WHERE session = ? AND hash = ?", (*places, *where)).fetchone()
        if row is not None:
            content: bytes | None = row[0]  # a damaged one may be of any type
            if content is None or (length is None and sha256(content).digest() != where[1]):
                raise StoreDamaged(f"The blob {digest} has other content than its name says.", path=db.path)
            return content if length is not None else content[start:]
    return None


def _named(db: Log, session: int, last: int, digest: str) -> bool:
    """Say whether an event up to a seq names a blob: what an ancestor got later is none of its forks' business."""
    return db.execute("SELECT 1 FROM event WHERE session = ? AND seq <= ? AND instr(body, ?) LIMIT 1", (session, last, digest)).fetchone() is not None


def snapshot(db: Log, session: str, fold: int) -> tuple[int, str] | None:
    """Read the cached state, if this version of the fold made it."""
    row = db.execute("SELECT seq, body FROM snapshot WHERE session = (SELECT id FROM session WHERE name = ? AND erased = 0) AND fold = ?", (session, fold)).fetchone()
    return (row[0], row[1]) if row else None


def keep_snapshot(db: Log, session: str, seq: int, fold: int, text: str) -> None:
    """Cache a state; never one that is ahead of the log."""
    passing("before", ("snapshot",))
    db.execute(
        "INSERT OR REPLACE INTO snapshot (session, seq, fold, body) SELECT id, ?, ?, ? FROM session WHERE name = ? AND erased = 0 AND head >= ?", (seq, fold, text, session, seq)
    )
    passing("after", ("snapshot",))


def set_deadline(db: Log, session: str, epoch: int, until: int) -> bool:
    """Renew a lease, or release it with 0; False: the session is at another epoch."""
    name = "renewal" if until else "release"
    passing("before", (name,))
    changed = db.execute(f"UPDATE session SET deadline = {'max(deadline, ?)' if until else '?'} WHERE name = ? AND epoch = ?", (until, session, epoch)).rowcount
    passing("after", (name,))
    return bool(changed)
