"""What can still be read of a damaged file: from a copy, row by row, believing nothing.

The damaged file itself is opened by nobody here: a process of its own copies it and its write-ahead log, because closing a
descriptor in a process that has it open would drop SQLite's locks. In the copy the constants of the header are set right and
SQLite is told to go on where it can. Every row that can be read is put on a scratch file, in the order of its session; whether it
was kept like that, the chain of hashes says.
"""

from __future__ import annotations

import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from power_agent import errors
from power_agent.chain import UNSALTED, digest_of, link, secret_of
from power_agent.events import CODES, Parent, SessionOpened, decode
from power_agent.ports import Blob, Record
from power_agent.store.verify import blobs_of

COPY = "import shutil, sys, pathlib\nfor end in ('', '-wal'):\n    if pathlib.Path(sys.argv[1] + end).is_file(): shutil.copyfile(sys.argv[1] + end, sys.argv[2] + end)"
PAGE = 4096
SMALLEST_ROW = 40
"""Bytes that a row takes at least; bounds what a damaged number can make us look for."""
STRIDE = 64
SCRATCH = """
CREATE TABLE event (session INTEGER, seq INTEGER, pos INTEGER, epoch INTEGER, at INTEGER, kind INTEGER, body TEXT, hash BLOB, PRIMARY KEY (session, seq, pos)) WITHOUT ROWID;
CREATE TABLE blob (hash BLOB PRIMARY KEY, id INTEGER);
CREATE TABLE name (session INTEGER, name TEXT, head INTEGER, tip BLOB, PRIMARY KEY (session, name));
"""


class Begin(NamedTuple):
    """Where a session begins: behind which event, and by which names it may go."""

    number: int
    names: tuple[str, ...]
    parent: Parent | None
    nonce: str
    first: int


class Prefix(NamedTuple):
    """The longest beginning of a session whose hashes fit."""

    name: str
    upto: int
    tip: bytes


class Wreck:
    """A copy of a damaged file, and a scratch file with what could be read of it."""

    def __init__(self, path: str, folder: Path) -> None:
        copy = folder / "copy.db"
        done = subprocess.run([sys.executable, "-I", "-c", COPY, path, str(copy)], check=False, capture_output=True, text=True)  # noqa: S603  our own words
        if done.returncode or not copy.exists():
            raise errors.StoreNotFound(f"{path} cannot be read: {(done.stderr.splitlines() or ['it is not a file'])[-1]}.", path=path)
        self._size = _mend_header(copy)
        self._db = _opened(copy)
        self._scratch = sqlite3.connect(folder / "scratch.db", isolation_level=None, check_same_thread=False)
        self._scratch.execute("PRAGMA journal_mode = OFF")
        self._scratch.executescript(SCRATCH)
        self.unreadable = self._gather()

    def close(self) -> None:
        """Let go of both files."""
        self._db.close()
        self._scratch.close()

    # -- reading what can be read --------------------------------------------------------------------------------------

    def _gather(self) -> int:
        """Put every row that can be read on the scratch file; return how many rows of events could not."""
        self._scratch.execute("BEGIN")
        for row in self._rows("SELECT id, name, head, tip FROM session WHERE id BETWEEN ? AND ?", "SELECT max(id) FROM session"):
            self._put("name", _typed(row, (int, str, int, bytes)))
        for number, name in self._names():
            if not self._scratch.execute("SELECT 1 FROM name WHERE session = ? AND name = ?", (number, name)).fetchone():
                self._put("name", (number, name, None, None))
        found = 0
        sql = "SELECT session, seq, pos, epoch, at, kind, body, hash FROM event WHERE pos BETWEEN ? AND ?"
        for row in self._rows(sql, "SELECT max(pos) FROM event"):
            found += 1
            self._put("event", _typed(row, (int, int, int, int, int, int, str, bytes)))
        for row in self._rows("SELECT hash, id FROM blob WHERE id BETWEEN ? AND ?", "SELECT max(id) FROM blob"):
            self._put("blob", _typed(row, (bytes, int)))
        self._scratch.execute("COMMIT")
        return max(self._top("SELECT max(pos) FROM event", "SELECT sum(head - base) FROM session") - found, 0)

    def _put(self, table: str, row: tuple[Any, ...] | None) -> None:
        if row is not None:
            self._scratch.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    def _rows(self, sql: str, top: str) -> Iterator[tuple[Any, ...]]:
        """Read rows by their number, in strides; where one fails, one by one."""
        last = self._top(top) or self._size // SMALLEST_ROW
        for first in range(1, last + 1, STRIDE):
            rows = self._try(sql, (first, first + STRIDE - 1))
            if rows is not None:
                yield from rows
                continue
            for number in range(first, first + STRIDE):
                yield from self._try(sql, (number, number)) or ()

    def _names(self) -> Iterator[tuple[int, str]]:
        """Read the names of sessions once more, from their index."""
        after = ""
        while rows := self._try("SELECT id, name FROM session INDEXED BY sqlite_autoindex_session_1 WHERE name > ? ORDER BY name LIMIT 1", (after,)):
            row = _typed(rows[0], (int, str))
            if row is None or row[1] <= after:
                return
            after = row[1]
            yield row[0], after

    def _top(self, *questions: str) -> int:
        """Return the largest of the answers that can be true."""
        answers = [rows[0][0] for question in questions if (rows := self._try(question))]
        return max((answer for answer in answers if isinstance(answer, int) and 0 < answer <= self._size // SMALLEST_ROW), default=0)

    def _try(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]] | None:
        try:
            return self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, OverflowError, MemoryError):
            return None

    # -- what fits -----------------------------------------------------------------------------------------------------

    def sessions(self) -> list[int]:
        """Return the numbers of all sessions of which anything is known, those first that others may begin in."""
        events = dict(self._scratch.execute("SELECT session, min(pos) FROM event GROUP BY session").fetchall())
        named = {number for (number,) in self._scratch.execute("SELECT session FROM name")}
        return sorted(named | events.keys(), key=lambda number: (events.get(number, 2**63), number))

    def begin(self, number: int) -> Begin | None:
        """Return how a session begins; None when its first event cannot be read."""
        names = tuple(name for (name,) in self._scratch.execute("SELECT name FROM name WHERE session = ? ORDER BY head IS NULL", (number,)))
        row = self._scratch.execute("SELECT seq, kind, body FROM event WHERE session = ? ORDER BY seq LIMIT 1", (number,)).fetchone()
        try:
            event = decode(CODES[row[1]], row[2]) if row is not None else None
        except (errors.PowerAgentError, KeyError):
            event = None
        return Begin(number, names, event.parent, event.nonce, row[0]) if isinstance(event, SessionOpened) else None

    def said_end(self, number: int) -> tuple[str, int, bytes] | None:
        """Return the name, head and tip that the session's row gives, if that can be read."""
        row: tuple[str, int, bytes] | None = self._scratch.execute("SELECT name, head, tip FROM name WHERE session = ? AND head IS NOT NULL", (number,)).fetchone()
        return row

    def last_seen(self, number: int) -> int:
        """Return the largest seq that could be read."""
        return int(self._scratch.execute("SELECT coalesce(max(seq), 0) FROM event WHERE session = ?", (number,)).fetchone()[0])

    def prefix(self, begin: Begin, tip: bytes) -> Prefix | None:
        """Return the longest beginning whose hashes fit, under the first name for which any does."""
        for name in begin.names:
            upto, last = begin.first - 1, tip
            for record in self.records(begin, name):
                salt = UNSALTED if record.kind == "session.erased" else secret_of(begin.nonce)
                hashed = link(last, name, record.seq, record.epoch, record.at, record.kind, digest_of(salt, record.seq, record.body or ""))
                if record.seq == upto + 1 and hashed == record.hash:
                    upto, last = record.seq, hashed
                elif record.seq > upto:
                    break
            if upto >= begin.first:
                return Prefix(name, upto, last)
        return None

    def records(self, begin: Begin, name: str, upto: int = 2**62) -> Iterator[Record]:
        """Read the events of a session in order."""
        sql = "SELECT seq, epoch, at, kind, body, hash FROM event WHERE session = ? AND seq <= ? ORDER BY seq, pos"
        for seq, epoch, at, kind, body, hashed in self._scratch.execute(sql, (begin.number, upto)):
            if kind in CODES:
                yield Record(0, name, seq, epoch, at, CODES[kind], body, None, hashed)

    def arrivals(self, begin: Begin, prefix: Prefix, lost: set[str]) -> Iterator[Record | Blob]:
        """Read what fits, each blob before the first event that names it; name the blobs that are lost."""
        sent: set[str] = set()
        for record in self.records(begin, prefix.name, prefix.upto):
            for digest in blobs_of(record):
                if digest not in sent | lost:
                    content = self._blob(digest)
                    (lost if content is None else sent).add(digest)
                    if content is not None:
                        yield Blob(digest, content)
            yield record

    def _blob(self, digest: str) -> bytes | None:
        """Return a blob that is what its name says, whichever session it was kept for."""
        for (number,) in self._scratch.execute("SELECT id FROM blob WHERE hash = ?", (bytes.fromhex(digest),)).fetchall():
            rows = self._try("SELECT content FROM blob WHERE id = ?", (number,))
            if rows and isinstance(rows[0][0], bytes) and sha256(rows[0][0]).hexdigest() == digest:
                return rows[0][0]
        return None


def _mend_header(copy: Path) -> int:
    """Set right what stands in the header of every such file; return the size of all that was copied."""
    log = copy.with_name(copy.name + "-wal")
    with copy.open("r+b") as file:
        size = file.seek(0, 2)
        if size >= PAGE:
            for offset, constant in (
                (0, b"SQLite format 3\0"),
                (16, struct.pack(">H", PAGE) + b"\2\2\0\x40\x20\x20"),
                (28, struct.pack(">I", size // PAGE)),
                (44, b"\0\0\0\4"),
                (56, b"\0\0\0\1"),
            ):
                file.seek(offset)
                file.write(constant)
    return size + (log.stat().st_size if log.exists() else 0)


def _opened(copy: Path) -> sqlite3.Connection:
    db = sqlite3.connect(copy, isolation_level=None, check_same_thread=False)
    db.text_factory = bytes  # what is not UTF-8 any more shall not stop us
    try:
        db.execute("PRAGMA writable_schema = ON").fetchall()  # go on where the schema or the size is not what it should be
        db.execute("PRAGMA cell_size_check = ON").fetchall()
        db.execute("SELECT pos FROM event LIMIT 0").fetchall()
    except sqlite3.Error as error:
        db.close()
        raise errors.StoreDamaged(f"Nothing of it can be read: {error}.", path=str(copy)) from error
    return db


def _typed(row: Iterable[Any], kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
    """Return a row with its texts as text, or None when a value is not of its kind."""
    values: list[Any] = []
    for value, kind in zip(row, kinds, strict=True):
        try:
            values.append(value.decode() if kind is str and isinstance(value, bytes) else value)
        except UnicodeDecodeError:
            return None
        if type(values[-1]) is not kind:
            return None
    return tuple(values)
