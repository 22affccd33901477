"""Is what is on disk what was kept? The file's own check, the guards, the chain of hashes, and every move once more.

The chain proves order and bytes against a tip that is kept elsewhere. Alone it cannot show that the end of the log was cut off or
that the whole file was written anew by somebody who knows how.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from copy import copy
from hashlib import sha256

from power_agent.chain import UNSALTED, digest_of, link, secret_of
from power_agent.errors import PowerAgentError, StoreDamaged
from power_agent.events import CODES, Envelope, SessionOpened, decode
from power_agent.messages import Attachment
from power_agent.ports import Record, SessionRow, Store, Tip
from power_agent.state import SessionState, evolve
from power_agent.store.file import Log
from power_agent.store.migrate import migrate

CHUNK = 1_000


def check_file(db: Log) -> list[str]:
    """Let SQLite check the file, compare its tables and guards with what the migrations make, and the columns with the bodies."""
    wrong = [f"SQLite's check of the file: {row[0]}." for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
    wrong += _schema(db)
    columns = """SELECT session.name, seq FROM event LEFT JOIN session ON session.id = event.session
        WHERE body IS NOT NULL AND json_valid(body) AND ((kind BETWEEN 30 AND 39 AND call IS NOT body ->> '$.call') OR (kind = 10 AND key IS NOT body ->> '$.key'))"""
    wrong += [f"Session {name!r}, event {seq}: its call or key is not the one in its body." for name, seq in db.execute(columns)]
    strays = "SELECT count(*) FROM event WHERE session NOT IN (SELECT id FROM session)"
    if count := db.execute(strays).fetchone()[0]:
        wrong.append(f"{count} events belong to no session.")
    blobs = "SELECT lower(hex(hash)), coalesce(CAST(content AS BLOB), x'') FROM blob"  # a damaged one may be of any type
    wrong += [f"The blob {name} has other content than its name says." for name, content in db.execute(blobs) if sha256(content).hexdigest() != name]
    disorder = "SELECT count(*) FROM event JOIN event AS next ON next.session = event.session AND next.seq = event.seq + 1 WHERE next.pos <= event.pos"
    if disordered := db.execute(disorder).fetchone()[0]:
        wrong.append(f"{disordered} events stand before the one they follow.")
    if dict(db.execute("SELECT code, name FROM kind")) != CODES:
        wrong.append("The table of kinds does not say what the numbers mean.")
    count, last = db.execute("SELECT count(*), coalesce(max(pos), 0) FROM event").fetchone()
    if count != last:
        wrong.append(f"{last} positions were given, but {count} events are there.")
    return wrong


def _schema(db: Log) -> list[str]:
    sql = "SELECT type || ' ' || name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
    model = sqlite3.connect(":memory:", isolation_level=None)
    migrate(model, ":memory:")
    expected = dict(model.execute(sql).fetchall())
    model.close()
    found = dict(db.execute(sql).fetchall())
    return [f"The {name} is {'missing' if name not in found else 'not the one that belongs here'}." for name in expected if found.get(name) != expected[name]] + [
        f"The {name} is not one of ours." for name in found if name not in expected
    ]


async def check_chain(store: Store, session: str, past: Past | None = None) -> AsyncIterator[str]:
    """Recompute the chain of one session, fold it, and compare its row with what came out. Who checks many of them passes one `past` for
    all: what forks share is then walked once, and not for each of them.
    """
    row = await store.find(session)
    if row is None:
        yield f"There is no session {session!r}."
        return
    reader = ChainReader() if past is None or row.parent is None else await _branched(store, row, row.parent, past)
    records: list[Record] = []
    while not records or len(records) == CHUNK:
        records = await store.read(session, after=reader.state.seq, limit=CHUNK)
        for record in records:
            wrong = reader.take(record) or await _missing_blob(store, session, record)
            if wrong:
                yield f"Session {session!r}, event {record.seq}: {wrong}"
                return
        if not records:
            break
    if await store.find(session) == row:  # nobody wrote meanwhile
        for wrong in _row_against(row, reader.state, reader.tip):
            yield f"Session {session!r} {wrong}"


async def _branched(store: Store, row: SessionRow, parent: str, past: Past) -> ChainReader:
    """Return a reader that stands where a fork leaves its parent, gone there from the nearest place it is known at; a new one if
    something is wrong on the way.
    """
    known = past.setdefault(parent, {})
    reader = copy(known[max(seq for seq in known if seq <= row.base)]) if min(known, default=row.base + 1) <= row.base else ChainReader()
    while reader.state.seq < row.base:
        records = await store.read(parent, after=reader.state.seq, upto=row.base, limit=CHUNK)
        if not records or any(reader.take(record) for record in records):
            return ChainReader()
    known[row.base] = past.setdefault(row.session, {})[row.base] = copy(reader)
    return reader


async def check_tip(store: Store, session: str, tip: Tip) -> str | None:
    """Compare a session with a tip that was kept elsewhere; return what is wrong. What `check_chain` finds whole up to here is then
    what it was when the tip was noted.
    """
    found = await store.read(session, after=tip.seq - 1, upto=tip.seq) if tip.seq > 0 else []
    if not found:
        return f"Session {session!r} has no event {tip.seq}, which was there when its tip was noted."
    if found[0].hash.hex() != tip.hash.lower():
        return f"Session {session!r}, event {tip.seq}: it is not the one whose hash was noted."
    return None


def _row_against(row: SessionRow, state: SessionState, tip: bytes) -> Iterator[str]:
    if (state.seq, tip) != (row.head, row.tip):
        yield f"ends with event {state.seq}, but its row says {row.head}, or has another hash."
    if row.erased != state.erased:
        yield f"is {'' if row.erased else 'not '}marked as erased, but its events say otherwise."
    if row.epoch != state.epoch or (row.owner != state.owner and not row.erased):
        yield f"has epoch {state.epoch} and the owner {state.owner}, but its row says otherwise."


async def _missing_blob(store: Store, session: str, record: Record) -> str | None:
    for digest in blobs_of(record):
        try:
            there = await store.blob(session, digest, length=0)
        except StoreDamaged:
            return f"the blob {digest} has other content than its name says."
        if there is None:
            now = await store.read(session, after=record.seq - 1, upto=record.seq)
            erased = bool(now) and now[0].body is None  # since it was read
            return None if erased else f"the blob {digest} is missing."
    return None


def blobs_of(record: Record) -> list[str]:
    """Return the blobs that an event refers to."""
    event = decode(record.kind, record.body) if record.body is not None else None
    said = (*(getattr(event, "parts", None) or ()), *getattr(event, "context", ()))
    cut = getattr(event, "cut", None)
    return [part.blob for part in said if isinstance(part, Attachment) and part.blob] + ([cut.blob] if cut else [])


class ChainReader:
    """Walks one session from its first event, with what is needed to judge the next."""

    def __init__(self) -> None:
        self.state = SessionState("")
        self.tip = b""
        self._session = ""
        self._secret = UNSALTED
        self._hollow = False

    def take(self, record: Record) -> str | None:
        """Judge one event; return what is wrong with it."""
        try:
            event = decode(record.kind, record.body) if record.body is not None else None
            if record.session != self._session:
                self._session, self._hollow = record.session, event is None
                self._secret = secret_of(event.nonce) if isinstance(event, SessionOpened) else UNSALTED
            digest = record.digest
            if record.body is not None:
                digest = digest_of(UNSALTED if record.kind == "session.erased" else self._secret, record.seq, record.body)
            if digest is None:
                return "its body is gone and has left no digest."
            expected = link(self.tip, record.session, record.seq, record.epoch, record.at, record.kind, digest)
            if expected != record.hash:
                return "its hash does not follow from the events before it."
            self.tip = expected
            self.state = evolve(self.state, Envelope(record.session, record.seq, record.epoch, record.at, event, kind=record.kind))
        except (PowerAgentError, json.JSONDecodeError) as error:
            return str(error)
        return None


Past = dict[str, dict[int, ChainReader]]
"""Readers that stand where forks leave a session, by its id and the seq."""
