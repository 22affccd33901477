"""SQL from outside: whoever can run statements, but drops no trigger, cannot change what was kept or keep what must not be.

Every attack runs over plain sqlite3, with `recursive_triggers` on and off, against a copy of one honest story. Besides each kind
of attack stands the honest statement it imitates, which must pass: an attack that fails by a slip of the pen proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from power_agent import SQLiteStore, Text
from power_agent import events as e
from power_agent.chance import CountedChance
from power_agent.clock import HeldClock
from power_agent.errors import HasForks, IllegalMove, KeyConflict, SessionErased, StoreBusy
from power_agent.messages import Attachment, Call
from power_agent.sink import Sink

NOW = HeldClock().now()
STORY, BRANCH, GONE, PLAIN = 1, 2, 3, 4  # the ids that the sessions get, in the order of their birth
HEAD = {STORY: 8, BRANCH: 5, GONE: 3, PLAIN: 2}
PICTURE = b"\x89PNG of a zebra"
TABLES = ("session", "event", "blob", "snapshot", "kind", "sqlite_master")

# -- the honest story --------------------------------------------------------------------------------------------------


async def tell(path: Path) -> None:
    async with SQLiteStore(path, clock=HeldClock()) as store:
        sink = Sink(store, HeldClock(), CountedChance(), "me")
        state = await sink.open(session="story")
        digest = hashlib.sha256(PICTURE).hexdigest()
        said = (Text("Look at this."), Attachment("image/png", blob=digest, size=len(PICTURE)))
        state = await sink.record(state, [e.InputReceived(parts=said, key="k-1")], blobs={digest: PICTURE})
        state = await sink.record(state, [e.TurnStarted(turn=1, inputs=(2,)), e.ModelAsked(turn=1, round=1, model="m")])
        calls = (Call("look", id="t1r1c1"), Call("leap", id="t1r1c2"))
        state = await sink.record(state, [e.ModelAnswered(round=1, parts=calls, finish="calls")])
        state = await sink.record(state, [e.CallStarted(call="t1r1c1"), e.CallSucceeded(call="t1r1c1", output="seen"), e.CallStarted(call="t1r1c2")])
        branch = await sink.open(session="branch", parent=e.Parent(relation="fork", session="story", seq=3))
        await sink.record(branch, [e.InputReceived(parts=(Text("Another way."),), key="k-1")])
        gone = await sink.open(session="gone")
        gone = await sink.record(gone, [e.InputReceived(parts=(Text("Forget me."),), key="k-1")])
        await sink.erase(gone, "asked to")
        plain = await sink.open(session="plain")
        plain = await sink.record(plain, [e.InputReceived(parts=(Text("Hello."),), key="k-1")])
        await sink.snapshot(plain)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attack") / "story.db"
    asyncio.run(tell(path))
    return path


@pytest.fixture
def copy(story: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(story, tmp_path / "copy.db"))


@contextlib.contextmanager
def outsider(path: Path, recursive: str = "OFF") -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA recursive_triggers = {recursive}")
        yield db


def dump(db: sqlite3.Connection) -> dict[str, list[object]]:
    return {table: db.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid").fetchall() for table in TABLES}


async def wrongs(path: Path) -> list[str]:
    async with SQLiteStore(path) as store:
        return [wrong async for wrong in store.verify()]


# -- the attacks -------------------------------------------------------------------------------------------------------

COLUMNS = ("pos", "session", "seq", "epoch", "at", "kind", "call", "key", "body", "digest", "hash")
NOTE = {
    "pos": "NULL", "session": PLAIN, "seq": 3, "epoch": 1, "at": NOW, "kind": 13, "call": "NULL", "key": "NULL",
    "body": """'{"text":"x","why":"y"}'""", "digest": "NULL", "hash": "zeroblob(32)",
}  # fmt: skip


def event(verb: str = "INSERT", tail: str = "", **other: object) -> str:
    """An honest note as the next event of the session `plain`, except for what is said otherwise."""
    row = NOTE | other
    return f"{verb} INTO event ({', '.join(COLUMNS)}) VALUES ({', '.join(str(row[name]) for name in COLUMNS)}) {tail}"


def outcome(kind: int, verb: str = "INSERT", **other: object) -> str:
    return event(verb, **({"session": STORY, "seq": 9, "kind": kind, "call": "'t1r1c1'", "body": """'{"call":"t1r1c1"}'"""} | other))


def takeover(why: str = "expired", at: int = NOW, **other: object) -> str:
    body = f"""'{{"owner":"thief","previous":"{other.pop("previous", "me")}","why":"{why}"}}'"""
    return event(**({"kind": 6, "epoch": 2, "at": at, "body": body} | other))


def born(verb: str = "INSERT", **other: object) -> str:
    """A session as it is born empty, except for what is said otherwise."""
    row = {"name": "'new'", "head": 0, "tip": "x''", "epoch": 0, "deadline": 0} | other
    return f"{verb} INTO session ({', '.join(row)}) VALUES ({', '.join(map(str, row.values()))})"


def hash_of(session: int, seq: int) -> str:
    return f"(SELECT hash FROM event WHERE session = {session} AND seq = {seq})"


def forked(parent: int, base: int, **other: object) -> str:
    return born(**({"head": base, "base": base, "tip": hash_of(parent, base), "parent": parent} | other))


OTHER = {
    "pos": "pos + 100", "session": "session + 1", "seq": "seq + 100", "epoch": "epoch + 1", "at": "at + 1", "kind": "13", "call": "'t9r9c9'", "key": "'k-9'",
    "body": """'{"text":"forged"}'""", "digest": "zeroblob(32)", "hash": "zeroblob(32)",
}  # fmt: skip
MOVED = {"id": "9", "name": "'renamed'", "head": "head + 1", "tip": "zeroblob(32)", "epoch": "epoch + 1", "base": "base + 1", "parent": str(BRANCH)}
BLOB = f"(SELECT hash FROM blob WHERE session = {STORY})"
TOMBSTONE = event(kind=5, body="""'{"reason":"by hand"}'""")
SESSION_IS_PLAIN = f"WHERE id = {PLAIN}"

Attack = tuple[str, tuple[str, ...]]


def updates() -> Iterator[tuple[str, Attack]]:
    for name, value in OTHER.items():
        for what, where in (("an event", f"session = {STORY} AND seq = 2"), ("an outcome", f"session = {STORY} AND seq = 7"), ("an erased event", f"session = {GONE} AND seq = 1")):
            yield f"UPDATE {name} of {what}", ("append_only", (f"UPDATE event SET {name} = {value} WHERE {where}",))
        yield f"UPDATE {name} of the tombstone", ("append_only", (f"UPDATE event SET {name} = {value} WHERE session = {GONE} AND seq = 3",))
        yield f"UPDATE OR REPLACE {name}", ("append_only", (f"UPDATE OR REPLACE event SET {name} = {value} WHERE session = {STORY} AND seq = 2",))
    for name, value in MOVED.items():
        yield f"UPDATE {name} of a session", ("session_moves", (f"UPDATE session SET {name} = {value} {SESSION_IS_PLAIN}",))


def outcomes() -> Iterator[tuple[str, Attack]]:
    for kind in (32, 34, 35, 36):
        for verb in ("INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"):
            yield f"{verb} a second outcome of kind {kind}", ("append_only", (outcome(kind, verb),))
    yield "a second outcome by UPSERT", ("append_only", (outcome(34) + " ON CONFLICT DO UPDATE SET body = excluded.body",))
    yield "a second outcome, hidden under another call's column", ("event_incomplete", (outcome(34, call="'t1r1c1 '"),))
    yield "an outcome without its call", ("event_incomplete", (outcome(34, call="NULL"),))
    yield "a call on a note", ("event_incomplete", (event(call="'t1r1c1'"),))


REPLACED = {
    "DELETE an event": ("append_only", (f"DELETE FROM event WHERE session = {STORY} AND seq = 2",)),
    "DELETE the last event": ("append_only", ("DELETE FROM event WHERE pos = (SELECT max(pos) FROM event)",)),
    "DELETE everything": ("append_only", ("DELETE FROM event",)),
    "REPLACE by position": ("append_only", (event("INSERT OR REPLACE", pos=2),)),
    "REPLACE the last by position": ("append_only", (event("INSERT OR REPLACE", pos="(SELECT max(pos) FROM event)"),)),
    "REPLACE by session and seq": ("append_only", (event("REPLACE", seq=2),)),
    "REPLACE by key": ("append_only", (event("INSERT OR REPLACE", kind=10, key="'k-1'", body="""'{"parts":[{"text":"x"}],"key":"k-1"}'"""),)),
    "the same key again": ("append_only", (event(kind=10, key="'k-1'", body="""'{"parts":[{"text":"x"}],"key":"k-1"}'"""),)),
    "the same key again, hidden in the body": ("event_incomplete", (event(kind=10, body="""'{"parts":[{"text":"x"}],"key":"k-1"}'"""),)),
    "INSERT OR IGNORE a repeated seq": ("append_only", (event("INSERT OR IGNORE", seq=2),)),
    "UPSERT by seq": ("append_only", (event(tail="ON CONFLICT (session, seq) DO UPDATE SET body = excluded.body", seq=2),)),
    "UPSERT by position": ("append_only", (event(tail="ON CONFLICT (pos) DO UPDATE SET body = excluded.body", pos=2),)),
    "UPSERT by anything": ("append_only", (event(tail="ON CONFLICT DO UPDATE SET body = excluded.body", seq=1),)),
    "UPDATE that changes nothing": ("append_only", ("UPDATE event SET body = body",)),
}

ORDER = {
    "a gap in seq": ("gap_or_fenced", (event(seq=4),)),
    "a gap in seq with REPLACE": ("gap_or_fenced", (event("INSERT OR REPLACE", seq=4),)),
    "a repeated seq": ("append_only", (event(seq=2),)),
    "seq 0": ("gap_or_fenced", (event(seq=0),)),
    "a negative seq": ("gap_or_fenced", (event(seq=-1),)),
    "the largest seq": ("gap_or_fenced|datatype mismatch|overflow", (event(seq=2**63 - 1),)),
    "a stale epoch": ("gap_or_fenced", (event(epoch=0),)),
    "a future epoch": ("gap_or_fenced", (event(epoch=2),)),
    "an unknown session": ("gap_or_fenced", (event(session=99, seq=1),)),
    "an opening of an unknown session": ("gap_or_fenced", (event(session=99, seq=1, kind=1),)),
    "a takeover of an unknown session": ("owner_lives", (takeover(session=99, seq=1, at=NOW + 60_000),)),
    "an event before session.opened": ("gap_or_fenced", (born(), event(session=5, seq=1))),
    "an event of epoch 0 before session.opened": ("gap_or_fenced", (born(), event(session=5, seq=1, epoch=0))),
    "a takeover before session.opened": ("owner_lives", (born(), takeover(session=5, seq=1, epoch=1, at=NOW + 60_000))),
    "a second session.opened": ("gap_or_fenced", (event(kind=1, body="""'{"owner":"thief"}'"""),)),
    "session.opened at epoch 2": ("gap_or_fenced", (born(), event(session=5, seq=1, epoch=2, kind=1, body="""'{"owner":"thief"}'"""))),
    "a gap in positions": ("gap_in_positions", (event(pos="(SELECT max(pos) + 2 FROM event)"),)),
    "a huge position": ("gap_in_positions", (event(pos=2**63 - 1),)),
    "a negative position": ("gap_in_positions", (event(pos=-1),)),
    "the lowest position": ("gap_in_positions", (event(pos=-(2**63)),)),
    "position 0": ("gap_in_positions", (event(pos=0),)),
    "position 1 again": ("append_only", (event(pos=1),)),
    "an event without a body": ("event_incomplete", (event(body="NULL"),)),
    "an event with a digest": ("event_incomplete", (event(digest="zeroblob(32)"),)),
    "a short hash": ("event_incomplete", (event(hash="zeroblob(31)"),)),
    "no hash": ("NOT NULL", (event(hash="NULL"),)),
    "no kind": ("NOT NULL", (event(kind="NULL"),)),
    "a kind of text": ("cannot store TEXT|event_incomplete|datatype", (event(kind="'note'"),)),
}

OWNERS = {
    "a takeover of a living lease": ("owner_lives", (takeover(),)),
    "a takeover in the lease's last millisecond": ("owner_lives", (takeover(at=NOW + 30_000),)),
    "a takeover that claims a release": ("owner_lives", (takeover("released"),)),
    "a takeover that names the wrong dead owner": ("owner_lives", (takeover("dead", previous="somebody"),)),
    "a takeover at the same epoch": ("owner_lives", (takeover(epoch=1, at=NOW + 60_000),)),
    "a takeover that skips an epoch": ("owner_lives", (takeover(epoch=3, at=NOW + 60_000),)),
    "a takeover with a gap": ("owner_lives", (takeover(seq=4, at=NOW + 60_000),)),
    "another owner by hand, in the same epoch": ("session_moves", (f"UPDATE session SET owner = 'thief' {SESSION_IS_PLAIN}",)),
    "no owner by hand, in the same epoch": ("session_moves", (f"UPDATE session SET owner = NULL {SESSION_IS_PLAIN}",)),
    "the old owner writes on after a takeover": ("gap_or_fenced", (takeover(at=NOW + 60_000), event(seq=4))),
}

SESSIONS = {
    "DELETE a session": ("append_only", (f"DELETE FROM session {SESSION_IS_PLAIN}",)),
    "the head back": ("session_moves", (f"UPDATE session SET head = head - 1 {SESSION_IS_PLAIN}",)),
    "the head and tip back": ("session_moves", (f"UPDATE session SET head = 1, tip = {hash_of(PLAIN, 1)} {SESSION_IS_PLAIN}",)),
    "the head far forward": ("session_moves", (f"UPDATE session SET head = head + 2 {SESSION_IS_PLAIN}",)),
    "the head forward with a known tip": ("session_moves", (f"UPDATE session SET head = 3, tip = {hash_of(PLAIN, 2)} {SESSION_IS_PLAIN}",)),
    "the head to nothing": ("session_moves|NOT NULL", (f"UPDATE OR REPLACE session SET head = NULL {SESSION_IS_PLAIN}",)),
    "the epoch back": ("session_moves", (f"UPDATE session SET epoch = epoch - 1 {SESSION_IS_PLAIN}",)),
    "everything back to birth": ("session_moves", (f"UPDATE session SET head = 0, tip = x'', epoch = 0 {SESSION_IS_PLAIN}",)),
    "the base to nothing": ("session_moves", (f"UPDATE OR REPLACE session SET base = NULL WHERE id = {BRANCH}",)),
    "a fork cut from its parent": ("session_moves", (f"UPDATE session SET parent = NULL WHERE id = {BRANCH}",)),
    "a name taken over with REPLACE": ("session_moves", (f"UPDATE OR REPLACE session SET name = 'story' {SESSION_IS_PLAIN}",)),
    "an id taken over with REPLACE": ("session_moves", (f"UPDATE OR REPLACE session SET id = {STORY} {SESSION_IS_PLAIN}",)),
    "a session's id again": ("session_born", (born("INSERT OR REPLACE", id=PLAIN),)),
    "a session's name again": ("session_born", (born("INSERT OR REPLACE", name="'plain'"),)),
    "UPSERT of a session": ("session_born", (born(name="'plain'") + " ON CONFLICT (name) DO UPDATE SET head = 0",)),
    "a session born with a head": ("session_born", (born(head=7),)),
    "a session born with head and base": ("session_born", (born(head=7, base=7),)),
    "a session born with a head and no base": ("session_born|NOT NULL", (born("INSERT OR REPLACE", head=7, base="NULL"),)),
    "a session born with a tip": ("session_born", (born(tip="zeroblob(32)"),)),
    "a session born at an epoch": ("session_born", (born(epoch=1),)),
    "a session born erased": ("session_born", (born(erased=1),)),
    "a session born under a negative id": ("session_born|CHECK", (born(id=-1),)),
    "a fork of an unknown parent": ("session_born", (forked(99, 1, tip="zeroblob(32)"),)),
    "a fork behind the parent's head": ("session_born", (forked(PLAIN, 3, tip="zeroblob(32)"),)),
    "a fork with another tip": ("session_born", (forked(PLAIN, 1, tip=hash_of(PLAIN, 2)),)),
    "a fork with another head": ("session_born", (forked(PLAIN, 1, head=2),)),
    "a fork at nothing": ("session_born", (forked(PLAIN, 0, tip="x''"),)),
    "a fork of an erased session": ("session_born", (forked(GONE, 2),)),
}

ERASURE = {
    "un-erasing": ("session_moves", (f"UPDATE session SET erased = 0 WHERE id = {GONE}",)),
    "un-erasing with REPLACE": ("session_moves|NOT NULL", (f"UPDATE OR REPLACE session SET erased = NULL WHERE id = {GONE}",)),
    "erasing twice": ("session_moves", (f"UPDATE session SET erased = 2 WHERE id = {GONE}",)),
    "marking as erased without a tombstone": ("session_moves", (f"UPDATE session SET erased = 1 {SESSION_IS_PLAIN}",)),
    "a note after session.erased": ("gap_or_fenced", (event(session=GONE, seq=4),)),
    "a second session.erased": ("gap_or_fenced", (event(session=GONE, seq=4, kind=5),)),
    "a takeover after session.erased": ("owner_lives", (takeover(session=GONE, seq=4, at=NOW + 60_000),)),
    "a session.opened after session.erased": ("gap_or_fenced", (event(session=GONE, seq=4, epoch=2, kind=1),)),
    "a blob after session.erased": ("append_only", (f"INSERT INTO blob (session, hash, content) VALUES ({GONE}, zeroblob(32), x'00')",)),
    "an erased body filled again": ("append_only", (f"UPDATE event SET body = '{{}}' WHERE session = {GONE} AND seq = 2",)),
    "an erased digest changed": ("append_only", (f"UPDATE event SET digest = zeroblob(32) WHERE session = {GONE} AND seq = 2",)),
    "a body erased without a tombstone": ("append_only", (f"UPDATE event SET body = NULL, key = NULL, digest = zeroblob(32) WHERE session = {PLAIN}",)),
    "a digest filled in alone": ("append_only", (f"UPDATE event SET digest = zeroblob(32) WHERE session = {PLAIN} AND seq = 2",)),
    "a digest filled in beside the body, behind a tombstone": ("append_only", (TOMBSTONE, f"UPDATE event SET digest = zeroblob(32) WHERE session = {PLAIN} AND seq = 2")),
    "a body erased without a digest": ("append_only", (TOMBSTONE, f"UPDATE event SET body = NULL, key = NULL WHERE session = {PLAIN} AND seq = 2")),
    "a body erased with a short digest": ("append_only", (TOMBSTONE, f"UPDATE event SET body = NULL, key = NULL, digest = x'00' WHERE session = {PLAIN} AND seq = 2")),
    "a body erased but not its key": ("append_only", (TOMBSTONE, f"UPDATE event SET body = NULL, digest = zeroblob(32) WHERE session = {PLAIN} AND seq = 2")),
    "a tombstone erased": ("append_only", (TOMBSTONE, f"UPDATE event SET body = NULL, digest = zeroblob(32) WHERE session = {PLAIN} AND seq = 3")),
    "an erasure of a parent whose forks live": ("has_forks", (event(session=STORY, seq=9, kind=5, body="""'{"reason":"x"}'"""),)),
}

BLOBS = {
    "UPDATE a blob's content": ("append_only", ("UPDATE blob SET content = x'00'",)),
    "UPDATE a blob's name": ("append_only", ("UPDATE blob SET hash = zeroblob(32)",)),
    "UPDATE a blob's session": ("append_only", (f"UPDATE OR REPLACE blob SET session = {PLAIN}",)),
    "DELETE a blob": ("append_only", ("DELETE FROM blob",)),
    "REPLACE a blob by name": ("append_only", (f"INSERT OR REPLACE INTO blob (session, hash, content) VALUES ({STORY}, {BLOB}, x'00')",)),
    "REPLACE a blob by id": ("append_only", (f"INSERT OR REPLACE INTO blob (id, session, hash, content) VALUES (1, {PLAIN}, zeroblob(32), x'00')",)),
    "a blob under a negative id": ("append_only|CHECK", (f"INSERT INTO blob (id, session, hash, content) VALUES (-1, {PLAIN}, zeroblob(32), x'00')",)),
    "UPSERT of a blob": ("append_only", (f"INSERT INTO blob (session, hash, content) VALUES ({STORY}, {BLOB}, x'00') ON CONFLICT DO UPDATE SET content = x'00'",)),
    "UPDATE a kind": ("append_only", ("UPDATE kind SET name = 'note.forged' WHERE code = 13",)),
    "DELETE a kind": ("append_only", ("DELETE FROM kind WHERE code = 13",)),
    "REPLACE a kind by code": ("append_only", ("INSERT OR REPLACE INTO kind (code, name) VALUES (13, 'note.forged')",)),
    "REPLACE a kind by name": ("append_only", ("INSERT OR REPLACE INTO kind (code, name) VALUES (99, 'note.added')",)),
}

ATTACKS: dict[str, Attack] = {**dict(updates()), **dict(outcomes()), **REPLACED, **ORDER, **OWNERS, **SESSIONS, **ERASURE, **BLOBS}


@pytest.mark.parametrize("recursive", ["ON", "OFF"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_changes_nothing(name: str, recursive: str, copy: Path):
    """The last statement of an attack is refused by the table's own rules, and every table holds what it held before."""
    why, (*steps, attack) = ATTACKS[name]
    with outsider(copy, recursive) as db:
        for step in steps:
            db.execute(step)
        before = dump(db)
        with pytest.raises(sqlite3.IntegrityError, match=why):
            db.execute(attack)
        assert dump(db) == before


HONEST = {
    "the next event": event(),
    "the next event at its position": event(pos="(SELECT max(pos) + 1 FROM event)"),
    "a takeover after the deadline": takeover(at=NOW + 30_001),
    "a takeover from a dead owner": takeover("dead"),
    "the first outcome of another call": outcome(34, call="'t1r1c2'", body="""'{"call":"t1r1c2"}'"""),
    "an input with a new key": event(kind=10, key="'k-2'", body="""'{"parts":[{"text":"x"}],"key":"k-2"}'"""),
    "a session": born(),
    "a fork": forked(PLAIN, 1),
    "a tombstone": TOMBSTONE,
    "a blob": f"INSERT INTO blob (session, hash, content) VALUES ({PLAIN}, zeroblob(32), x'00')",
    "a renewed lease": f"UPDATE session SET deadline = deadline + 1 {SESSION_IS_PLAIN}",
    "a dropped snapshot": "DELETE FROM snapshot",
}


@pytest.mark.parametrize("name", HONEST)
def test_the_honest_statement_that_the_attacks_imitate_is_accepted(name: str, copy: Path):
    """Each attack differs in one thing from a statement that passes, so it is this one thing that was refused."""
    with outsider(copy) as db:
        before = dump(db)
        db.execute(HONEST[name])
        assert dump(db) != before


def test_the_story_stands_where_the_attacks_suppose(story: Path):
    """Ids and heads are what the table of attacks is written against."""
    with outsider(story) as db:
        assert dict(db.execute("SELECT id, head FROM session")) == HEAD
        assert db.execute(f"SELECT deadline FROM session {SESSION_IS_PLAIN}").fetchone() == (NOW + 30_000,)


async def test_an_attacked_file_verifies_and_goes_on(copy: Path):
    """After all attacks on one file, with the owner's connection open beside them, it verifies and takes the next fact."""
    clock = HeldClock()
    async with SQLiteStore(copy, clock=clock) as store:
        sink = Sink(store, clock, CountedChance(), "me")
        state = await sink.claim("plain")
        with outsider(copy) as db:
            for _, statements in ATTACKS.values():
                if len(statements) == 1:
                    with contextlib.suppress(sqlite3.IntegrityError):
                        db.execute(statements[0])
        await sink.record(state, [e.NoteAdded(text="still here", why="test")])
        assert [wrong async for wrong in store.verify()] == []


# -- the lawful ways ---------------------------------------------------------------------------------------------------


async def test_a_takeover_after_the_deadline(copy: Path):
    """Once the lease has run out another owner takes the session, at the next epoch, and the file verifies."""
    clock = HeldClock()
    clock.move(31)
    async with SQLiteStore(copy, clock=clock) as store:
        state = await Sink(store, clock, CountedChance(), "heir").claim("plain")
        assert (state.epoch, state.owner, state.seq) == (2, "heir", 3)
        assert [wrong async for wrong in store.verify()] == []


async def test_a_fork_is_born(copy: Path):
    """A fork begins behind an event of its parent, reads its past, and the file verifies."""
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        sink = Sink(store, HeldClock(), CountedChance(), "me")
        state = await sink.open(session="twig", parent=e.Parent(relation="fork", session="branch", seq=5))
        assert [record.session for record in await store.read("twig")] == ["story"] * 3 + ["branch"] * 2 + ["twig"]
        assert (state.seq, state.epoch) == (6, 1)
        assert [wrong async for wrong in store.verify()] == []


async def test_a_parent_with_living_forks_is_not_erased(copy: Path):
    """The sink says HasForks and nothing is destroyed."""
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        sink = Sink(store, HeldClock(), CountedChance(), "me")
        branch = await sink.load("branch")
        await sink.open(session="twig", parent=e.Parent(relation="fork", session="branch", seq=5))
        with pytest.raises(HasForks):
            await sink.erase(branch, "asked to")
        assert all(record.body for record in await store.read("branch"))


async def test_a_key_and_an_outcome_are_refused_by_name(copy: Path):
    """Through the sink the same rules answer with errors of ours."""
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        sink = Sink(store, HeldClock(), CountedChance(), "me")
        with pytest.raises(KeyConflict):
            await sink.report(await sink.load("plain"), [e.InputReceived(parts=(Text("again"),), key="k-1")])
        with pytest.raises(IllegalMove):
            await sink.report(await sink.load("story"), [e.CallAborted(call="t1r1c1", by="me", reason="again")])
        with pytest.raises((SessionErased, IllegalMove)):
            await sink.record(await sink.load("gone"), [e.NoteAdded(text="x", why="y")])


# -- erasure -----------------------------------------------------------------------------------------------------------

WORDS = ("zebra-system", "zebra-input", "zebra-key", "zebra-note", "zebra-answer", "zebra-metadata", "zebra-blob", "zebra-attachment")

SCAN = "import pathlib, sys; print([w for w in sys.argv[2:] if any(w.encode() in p.read_bytes() for p in pathlib.Path(sys.argv[1]).iterdir() if p.is_file())])"


def found_in(folder: Path, words: tuple[str, ...] = WORDS) -> list[str]:
    """Look for words in the bytes of all files; in another process, because closing the file here would drop SQLite's locks."""
    answer = subprocess.run([sys.executable, "-c", SCAN, folder, *words], check=True, capture_output=True, text=True).stdout
    return eval(answer)  # noqa: S307  a list of our own words


async def confide(sink: Sink) -> object:
    """Tell a session things, over several pages."""
    state = await sink.open(e.Config(system="zebra-system " * 99), "secretive", metadata={"who": "zebra-metadata"})
    content = b"zebra-blob " * 2_000
    digest = hashlib.sha256(content).hexdigest()
    said = (Text("zebra-input " * 500), Attachment("text/plain", blob=digest, name="zebra-attachment"))
    state = await sink.record(state, [e.InputReceived(parts=said, key="zebra-key-0")], blobs={digest: content})
    for number in range(1, 30):
        state = await sink.record(state, [e.InputReceived(parts=(Text("zebra-input " * number),), key=f"zebra-key-{number}")])
    state = await sink.record(state, [e.NoteAdded(text="zebra-note", why="test")])
    state = await sink.record(state, [e.TurnStarted(turn=1, inputs=(2,)), e.ModelAsked(turn=1, round=1, model="m")])
    state = await sink.record(state, [e.ModelAnswered(round=1, parts=(Text("zebra-answer"),)), e.TurnEnded(turn=1)])
    await sink.snapshot(state)
    return state


async def test_nothing_of_an_erased_session_is_left(copy: Path):
    """After an erasure no byte of the text is in the file, its write-ahead log, its blobs or snapshots; the chain still verifies."""
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        sink = Sink(store, HeldClock(), CountedChance(), "me")
        state = await confide(sink)
        assert found_in(copy.parent) == list(WORDS)
        await sink.erase(state, "asked to")
        assert found_in(copy.parent) == []
        assert {record.body for record in await store.read("secretive", upto=state.seq)} == {None}
        assert await store.snapshot("secretive", 1) is None
        assert [wrong async for wrong in store.verify()] == []
    assert found_in(copy.parent) == []
    assert await wrongs(copy) == []


async def test_a_reader_in_the_way_of_an_erasure_is_not_passed_over_in_silence(copy: Path):
    """While another process still reads the old pages, erase either leaves nothing or says that it could not."""
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        sink = Sink(store, HeldClock(), CountedChance(), "me")
        state = await confide(sink)
        await store._opened().run(lambda db: db.execute("PRAGMA busy_timeout = 100") and None)
        with outsider(copy) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM event").fetchone()[0] > 30
            try:
                await sink.erase(state, "asked to")
            except StoreBusy:
                return
            assert found_in(copy.parent) == []


@pytest.mark.parametrize("table", ["session", "blob"])
async def test_an_outsider_cannot_block_new_rows(table: str, copy: Path):
    """No row that SQL from outside can insert keeps the owner from opening the next session and keeping the next blob."""
    row = born(id=-1) if table == "session" else f"INSERT INTO blob (id, session, hash, content) VALUES (-1, {PLAIN}, zeroblob(32), x'00')"
    with outsider(copy) as db, contextlib.suppress(sqlite3.IntegrityError):
        db.execute(row)
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        sink = Sink(store, HeldClock(), CountedChance(), "me")
        state = await sink.open(session="next")
        digest = hashlib.sha256(b"next").hexdigest()
        await sink.record(state, [e.NoteAdded(text="x", why="y")], blobs={digest: b"next"})
        assert await store.blob("next", digest) == b"next"
