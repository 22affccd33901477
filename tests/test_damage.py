"""A damaged file is refused, reported, or read exactly as it was kept. Wrong data is never taken for the log.

What cannot be told from a file alone: that its end was cut off cleanly, and when a lease runs out (the one column that no event
vouches for). Both are left out here and said in the README; so is who owned a session that was erased.
"""
# ruff: noqa: ASYNC221, ASYNC240  nobody else waits for the event loop of a test

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import shutil
import sqlite3
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from power_agent import SQLiteStore, Text
from power_agent import events as e
from power_agent.chance import CountedChance
from power_agent.clock import HeldClock
from power_agent.errors import PowerAgentError, StoreDamaged, StoreForeign, StoreNewer, StoreNotFound
from power_agent.messages import Attachment, Call
from power_agent.sink import Sink
from power_agent.state import freeze
from power_agent.store.migrate import migrations

FLIPS = 300
WAL_FLIPS = 60
CONTENT = bytes(random.Random(7).randbytes(9_000))
DIGEST = hashlib.sha256(CONTENT).hexdigest()


# -- the history that is damaged ---------------------------------------------------------------------------------------


def _sink(store: SQLiteStore) -> Sink:
    return Sink(store, HeldClock(), CountedChance(), "me")


async def tell(store: SQLiteStore) -> None:
    """A story with a blob, calls, a snapshot, a fork and an erasure."""
    sink = _sink(store)
    state = await sink.open(e.Config(system="Be brief."), "story", metadata={"who": "someone"})
    said = (Text("Look at this. " * 20), Attachment("image/png", blob=DIGEST, size=len(CONTENT)))
    state = await sink.record(state, [e.InputReceived(parts=said, key="k-1")], blobs={DIGEST: CONTENT})
    for number in range(1, 8):
        state = await sink.record(state, [e.InputReceived(parts=(Text(f"And {number}. " * 30),), key=f"more-{number}")])
    state = await sink.record(state, [e.TurnStarted(turn=1, inputs=(2,)), e.ModelAsked(turn=1, round=1, model="m")])
    state = await sink.record(state, [e.ModelAnswered(round=1, parts=(Call("look", {"at": "it"}, id="t1r1c1"),), finish="calls")])
    state = await sink.record(state, [e.CallStarted(call="t1r1c1"), e.CallSucceeded(call="t1r1c1", output="seen " * 200)])
    await sink.snapshot(state)
    await sink.record(state, [e.ModelAsked(turn=1, round=2, model="m"), e.ModelAnswered(round=2, parts=(Text("Done."),)), e.TurnEnded(turn=1)])
    branch = await sink.open(session="branch", parent=e.Parent(relation="fork", session="story", seq=9))
    await sink.record(branch, [e.InputReceived(parts=(Text("Another way."),), key="k-1")])
    gone = await sink.open(session="gone")
    gone = await sink.record(gone, [e.InputReceived(parts=(Text("Forget me."),), key="k-1")])
    await sink.erase(gone, "asked to")
    last = await sink.open(session="zuletzt")
    await sink.record(last, [e.InputReceived(parts=(Text("The end."),), key="k-1"), e.NoteAdded(text="over", why="test")])


class History(NamedTuple):
    """All that can be read back: rows, events, blobs and states."""

    rows: tuple[object, ...]
    records: dict[str, object]
    states: dict[str, str]
    blobs: dict[str, object]


async def history(store: SQLiteStore) -> History:
    sink, rows = _sink(store), await store.sessions()
    records = {row.session: tuple(await store.read(row.session)) for row in rows}
    states = {row.session: freeze(await sink.load(row.session), b"") for row in rows}
    blobs = {row.session: await store.blob(row.session, DIGEST) for row in rows}
    return History(tuple(row._replace(deadline=0, owner=None if row.erased else row.owner) for row in rows), records, states, blobs)


async def look(path: Path) -> tuple[History | None, list[str], PowerAgentError | None]:
    """Open a file, verify it, read everything: what was read, what was found wrong, what was refused."""
    wrong: list[str] = []
    try:
        async with SQLiteStore(path, clock=HeldClock()) as store:
            async for sentence in store.verify():
                wrong.append(sentence)  # noqa: PERF401  what was said before an error counts
            return await history(store), wrong, None
    except PowerAgentError as error:
        return None, wrong, error


async def outcome(path: Path, original: History) -> str:
    """Say what became of a damaged file: "refused", "reported", "exact"; or, never, "untyped" or "misread" and in what."""
    try:
        found, wrong, error = await look(path)
    except Exception as untyped:  # noqa: BLE001  whatever it is, a caller cannot know it
        return f"untyped {type(untyped).__name__}"
    if wrong or error is not None:
        return "reported" if wrong else "refused"
    different = [name for name in History._fields if found is None or getattr(found, name) != getattr(original, name)]
    return f"misread {', '.join(different)}" if different else "exact"


GOOD = {"refused", "reported", "exact"}


class Sound(NamedTuple):
    """A closed store, what is in it, and the same with its write-ahead log as a killed process would leave it."""

    path: Path
    original: History
    killed: Path


async def _make(folder: Path) -> Sound:
    path, killed = folder / "sound.db", folder / "killed"
    killed.mkdir()
    async with SQLiteStore(path, clock=HeldClock()) as store:
        await tell(store)
        subprocess.run(["cp", path, f"{path}-wal", killed], check=True)  # noqa: S607  in a process of its own: closing a descriptor here would drop locks
        original = await history(store)
        assert [wrong async for wrong in store.verify()] == []
    return Sound(path, original, killed / "sound.db")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return asyncio.run(_make(tmp_path_factory.mktemp("damage")))


@pytest.fixture
def copy(sound: Sound, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound.path, tmp_path / "copy.db"))


def with_bit_flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


async def test_an_undamaged_copy_is_exact(sound: Sound, copy: Path):
    """The measure itself: without damage nothing is refused or reported, and without its write-ahead log the history is not exact."""
    assert sound.original.blobs["story"] == CONTENT
    assert await outcome(copy, sound.original) == "exact"
    shutil.copy(sound.killed, copy)
    assert await outcome(copy, sound.original) == "misread rows, records, states, blobs"
    shutil.copy(sound.killed, copy)
    shutil.copy(f"{sound.killed}-wal", f"{copy}-wal")
    assert await outcome(copy, sound.original) == "exact"


# -- bytes -------------------------------------------------------------------------------------------------------------


async def test_a_flipped_bit_is_never_misread(sound: Sound, tmp_path: Path):
    """300 seeded single-bit flips all over the file: each is refused, reported, or changes nothing that is read."""
    data, chance = sound.path.read_bytes(), random.Random(1)
    counts: Counter[str] = Counter()
    misread = []
    for number in range(FLIPS):
        position, bit = chance.randrange(len(data)), chance.randrange(8)
        path = tmp_path / f"{number}.db"
        path.write_bytes(with_bit_flipped(data, position, bit))
        became = await outcome(path, sound.original)
        counts[became] += 1
        if became not in GOOD:
            misread.append((position, bit, became))
    print(f"{len(data)} bytes, {FLIPS} flips: {dict(counts)}")  # noqa: T201  shown by -rP
    assert misread == []
    assert counts["refused"] > 0
    assert counts["reported"] > FLIPS // 10  # the file is full enough for the flips to meet something


async def test_a_flipped_bit_in_the_header_is_never_misread(sound: Sound, tmp_path: Path):
    """The 100 bytes of the file's header, one bit each."""
    data = sound.path.read_bytes()
    misread = []
    for position in range(100):
        path = tmp_path / f"{position}.db"
        path.write_bytes(with_bit_flipped(data, position, position % 8))
        became = await outcome(path, sound.original)
        if became not in GOOD:
            misread.append((position, became))
    assert misread == []


async def test_a_flipped_bit_in_a_page_header_is_never_misread(sound: Sound, tmp_path: Path):
    """Where a page says how many rows it has and where they lie: what is read from the wrong place may be of any type."""
    data, chance = sound.path.read_bytes(), random.Random(3)
    misread = []
    for page in range(4096, len(data), 4096):
        for position in range(page, page + 12):
            path, bit = tmp_path / f"{position}.db", chance.randrange(8) if position % 4096 > 5 else 7
            path.write_bytes(with_bit_flipped(data, position, bit))
            became = await outcome(path, sound.original)
            if became not in GOOD:
                misread.append((position, bit, became))
    assert misread == []


async def test_a_truncated_file_is_never_misread(sound: Sound, tmp_path: Path):
    """Cut at every page and at odd lengths between: never read as another history."""
    data, chance = sound.path.read_bytes(), random.Random(2)
    lengths = {1, 15, 16, 17, 99, 100, 101, 511, 512, *range(4096, len(data), 4096), len(data) - 1, *(chance.randrange(1, len(data)) for _ in range(40))}
    became = {}
    for length in sorted(lengths):
        path = tmp_path / f"{length}.db"
        path.write_bytes(data[:length])
        became[length] = await outcome(path, sound.original)
    assert {length: what for length, what in became.items() if what not in GOOD} == {}
    assert sum(what == "exact" for what in became.values()) < 5  # an unused end of the last page may be cut


async def test_a_flip_in_the_write_ahead_log_only_shortens(sound: Sound, tmp_path: Path):
    """What a killed process left in its log is checked by SQLite frame by frame: what is read is a beginning of what was kept."""
    log, chance = Path(f"{sound.killed}-wal").read_bytes(), random.Random(3)
    counts: Counter[str] = Counter()
    for number in range(WAL_FLIPS):
        path = Path(shutil.copy(sound.killed, tmp_path / f"{number}.db"))
        Path(f"{path}-wal").write_bytes(with_bit_flipped(log, chance.randrange(len(log)), chance.randrange(8)))
        found, wrong, error = await look(path)
        whole = found is not None and all(tuple(sound.original.records[name])[: len(part)] == part or name == "gone" for name, part in found.records.items())
        counts["beginning" if whole and not wrong else "reported" if wrong else "refused" if error else "misread"] += 1
    print(f"{len(log)} bytes of log, {WAL_FLIPS} flips: {dict(counts)}")  # noqa: T201
    assert counts["misread"] == 0
    assert counts["beginning"] > 0


# -- rows --------------------------------------------------------------------------------------------------------------

BODY = "(SELECT body FROM event WHERE session = 1 AND seq = {})"
TAMPERED = {
    "two bodies swapped": "UPDATE event SET body = CASE seq WHEN 4 THEN " + BODY.format(5) + " ELSE " + BODY.format(4) + " END WHERE session = 1 AND seq IN (4, 5)",
    "two rows swapped": "UPDATE event SET seq = -seq WHERE session = 1 AND seq IN (4, 5); UPDATE event SET seq = 9 + seq WHERE session = 1 AND seq < 0",
    "two positions swapped": "UPDATE event SET pos = -pos WHERE pos IN (4, 5); UPDATE event SET pos = 9 + pos WHERE pos < 0",
    "a body changed": "UPDATE event SET body = replace(body, 'And 3', 'And 4') WHERE session = 1 AND seq = 5",
    "a space in a body": "UPDATE event SET body = body || ' ' WHERE session = 1 AND seq = 5",
    "a time changed": "UPDATE event SET at = at + 1 WHERE session = 1 AND seq = 5",
    "an epoch changed": "UPDATE event SET epoch = 2 WHERE session = 1 AND seq = 5",
    "a kind changed": "UPDATE event SET kind = 13 WHERE session = 1 AND seq = 5",
    "an unknown kind": "UPDATE event SET kind = 99 WHERE session = 1 AND seq = 5",
    "a hash changed": "UPDATE event SET hash = zeroblob(32) WHERE session = 1 AND seq = 5",
    "a key changed": "UPDATE event SET key = 'other' WHERE session = 1 AND seq = 5",
    "a key removed": "UPDATE event SET key = NULL WHERE session = 1 AND seq = 5",
    "a call changed": "UPDATE event SET call = 't1r1c2' WHERE session = 1 AND kind = 34",
    "an event deleted": "DELETE FROM event WHERE session = 1 AND seq = 5",
    "the first event deleted": "DELETE FROM event WHERE session = 1 AND seq = 1",
    "the last event deleted": "DELETE FROM event WHERE pos = (SELECT max(pos) FROM event)",
    "an end cut off, but not its positions": (
        "DELETE FROM event WHERE session = 2 AND seq = 11; UPDATE session SET head = 10, tip = (SELECT hash FROM event WHERE session = 2 AND seq = 10) WHERE id = 2"
    ),
    "an event moved to another session": "UPDATE event SET session = 2, seq = 12 WHERE session = 4 AND seq = 3",
    "a session renamed": "UPDATE session SET name = 'tale' WHERE id = 1",
    "two sessions' names swapped": ("UPDATE session SET name = 'x' WHERE id = 1; UPDATE session SET name = 'story' WHERE id = 4; UPDATE session SET name = 'zuletzt' WHERE id = 1"),
    "a session's row deleted": "DELETE FROM session WHERE id = 4",
    "a session deleted": "DELETE FROM session WHERE id = 3; DELETE FROM event WHERE session = 3",
    "a head moved back": "UPDATE session SET head = head - 1 WHERE id = 1",
    "a tip changed": "UPDATE session SET tip = zeroblob(32) WHERE id = 1",
    "a session's epoch changed": "UPDATE session SET epoch = 7 WHERE id = 1",
    "a session's owner changed": "UPDATE session SET owner = 'thief' WHERE id = 1",
    "a fork cut from its parent": "UPDATE session SET parent = NULL WHERE id = 2",
    "a fork at another place": "UPDATE session SET base = 8 WHERE id = 2",
    "a fork of another parent": "UPDATE session SET parent = 4 WHERE id = 2",
    "a session marked as erased": "UPDATE session SET erased = 1 WHERE id = 4",
    "a session marked as not erased": "UPDATE session SET erased = 0 WHERE id = 3",
    "an erased digest changed": "UPDATE event SET digest = zeroblob(32) WHERE session = 3 AND seq = 1",
    "an erased digest removed": "UPDATE event SET digest = NULL WHERE session = 3 AND seq = 1",
    "an erased body made up": 'UPDATE event SET body = \'{"parts":[{"text":"forged"}]}\' WHERE session = 3 AND seq = 2',
    "a tombstone removed": "DELETE FROM event WHERE session = 3 AND seq = 3",
    "a body lost": "UPDATE event SET body = NULL, key = NULL WHERE session = 1 AND seq = 5",
    "a blob changed": "UPDATE blob SET content = zeroblob(length(content))",
    "a blob cut": "UPDATE blob SET content = substr(content, 1, 100)",
    "a blob deleted": "DELETE FROM blob",
    "a blob renamed": "UPDATE blob SET hash = zeroblob(32)",
    "a kind renamed": "UPDATE kind SET name = 'note.forged' WHERE code = 13",
}


def tamper(path: Path, script: str) -> None:
    """Change rows as somebody would who can: drop the triggers, change, put them back as they were."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        before = list(db.iterdump())
        db.executescript(script)
        assert list(db.iterdump()) != before, "nothing was tampered with"
        for _, sql in triggers:
            db.execute(sql)


@pytest.mark.parametrize("name", TAMPERED)
async def test_a_tampered_row_is_reported(name: str, sound: Sound, copy: Path):
    """Rows changed behind the triggers' back are found by verify, or refused."""
    tamper(copy, TAMPERED[name])
    assert await outcome(copy, sound.original) in {"reported", "refused"}


async def test_a_tampered_snapshot_is_not_believed(sound: Sound, copy: Path):
    """A cached state that was changed is reported, or not used: the state is the one that the events amount to."""
    tamper(copy, "UPDATE snapshot SET body = replace(body, 'Be brief.', 'Be rude.')")
    assert await outcome(copy, sound.original) in {"reported", "exact"}


@pytest.mark.parametrize("name", ["a blob deleted", "a body changed"])
async def test_a_fork_answers_for_what_it_shares(name: str, copy: Path):
    """Verified alone, a fork is not whole when its parent's part is not."""
    tamper(copy, TAMPERED[name])
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        fork = next(row.session for row in await store.sessions() if row.parent == "story")
        assert [wrong async for wrong in store.verify(fork)]


async def test_a_tampered_blob_is_not_handed_out(copy: Path):
    """What is read under a blob's name is what the name stands for, or an error."""
    tamper(copy, TAMPERED["a blob changed"])
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        with pytest.raises(StoreDamaged):
            await store.blob("story", DIGEST)


def varint(number: int) -> bytes:
    """Return a number as SQLite writes it."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:0:-1]), groups[0]])


async def test_a_blob_of_another_type_is_never_given_away(sound: Sound, copy: Path):
    """One bit of a row's head makes text of its bytes: verify says so, and nobody is given it, whole or in part."""
    before, after = (b"\x4c" + varint(kind + 2 * len(CONTENT)) for kind in (12, 13))
    assert copy.read_bytes().count(before) == 1
    copy.write_bytes(copy.read_bytes().replace(before, after))
    assert await outcome(copy, sound.original) == "reported"
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        for length in (None, 4):
            with pytest.raises(StoreDamaged):
                await store.blob("story", DIGEST, length=length)
        assert [f"Session 'story', event 2: the blob {DIGEST} has other content than its name says."] == [wrong async for wrong in store.verify("story")]


# -- guards ------------------------------------------------------------------------------------------------------------


def made(kind: str) -> list[str]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for _, sql in migrations():
            db.executescript(sql)
        return [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = ? AND name NOT LIKE 'sqlite_%'", (kind,))]


@pytest.mark.parametrize("guard", [f"{kind} {name}" for kind in ("trigger", "index", "view") for name in made(kind)])
async def test_a_missing_guard_is_reported(guard: str, copy: Path):
    """A trigger, an index or a view that was dropped is named."""
    with contextlib.closing(sqlite3.connect(copy)) as db:
        db.execute(f"DROP {guard}")
    _, wrong, _ = await look(copy)
    assert [sentence for sentence in wrong if guard.split()[1] in sentence]


STRANGE = {
    "a weakened trigger": "DROP TRIGGER event_stays; CREATE TRIGGER event_stays BEFORE DELETE ON event WHEN 0 BEGIN SELECT RAISE(ABORT, 'append_only'); END",
    "a trigger that drops facts": "CREATE TRIGGER deaf BEFORE INSERT ON event BEGIN SELECT RAISE(IGNORE); END",
    "a trigger that rewrites leases": "CREATE TRIGGER greedy AFTER INSERT ON event BEGIN UPDATE session SET deadline = 0; END",
    "a view instead of a view": "DROP VIEW pending; CREATE VIEW pending AS SELECT 1",
}


@pytest.mark.parametrize("name", STRANGE)
async def test_a_strange_guard_is_reported(name: str, copy: Path):
    """What was added to the schema or changed in it is named too: a trigger can undo what the others hold."""
    with contextlib.closing(sqlite3.connect(copy)) as db:
        db.executescript(STRANGE[name])
    _, wrong, error = await look(copy)
    assert wrong or error


async def test_a_fact_that_was_not_kept_is_not_acknowledged(copy: Path):
    """Even with a strange trigger that swallows rows: no acknowledgement without a row."""
    async with SQLiteStore(copy, clock=HeldClock()) as store:
        sink = _sink(store)
        state = await sink.claim("zuletzt")
        with contextlib.closing(sqlite3.connect(copy)) as db:
            db.executescript(STRANGE["a trigger that drops facts"])
        with pytest.raises(PowerAgentError):
            await sink.record(state, [e.NoteAdded(text="swallowed", why="test")])


# -- what is not ours --------------------------------------------------------------------------------------------------


def _database(path: Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(script)


FOREIGN = {
    "with tables and no application id": "CREATE TABLE todo (id INTEGER PRIMARY KEY, what TEXT); INSERT INTO todo (what) VALUES ('milk')",
    "with tables like ours": "CREATE TABLE session (id INTEGER PRIMARY KEY); CREATE TABLE event (pos INTEGER PRIMARY KEY)",
    "with an application id": "PRAGMA application_id = 252006673; CREATE TABLE todo (id INTEGER PRIMARY KEY)",
    "with an application id and no tables": "PRAGMA application_id = 252006673",
    "with a version and no tables": "PRAGMA user_version = 3",
    "in WAL mode": "PRAGMA journal_mode = WAL; CREATE TABLE todo (id INTEGER PRIMARY KEY)",
}


async def opened_with(path: Path) -> PowerAgentError:
    with pytest.raises(PowerAgentError) as caught:
        async with SQLiteStore(path):
            pass
    return caught.value


@pytest.mark.parametrize("name", FOREIGN)
async def test_another_program_s_database_is_refused_untouched(name: str, tmp_path: Path):
    """StoreForeign, and the file is the same, byte for byte."""
    path = tmp_path / "theirs.db"
    _database(path, FOREIGN[name])
    before = path.read_bytes()
    assert type(await opened_with(path)) is StoreForeign
    assert path.read_bytes() == before


JUNK = {
    "text": b"Dear diary,\n" * 100,
    "one byte": b"x",
    "zeros": bytes(8192),
    "noise": random.Random(5).randbytes(20_000),
    "half a magic": b"SQLite format",
    "only a magic": b"SQLite format 3\x00",
    "a magic and noise": b"SQLite format 3\x00" + random.Random(6).randbytes(8_176),
}


@pytest.mark.parametrize("name", JUNK)
async def test_a_file_that_is_no_database_is_refused_untouched(name: str, tmp_path: Path):
    """StoreForeign or StoreDamaged, and the file is the same, byte for byte."""
    path = tmp_path / "junk"
    path.write_bytes(JUNK[name])
    assert type(await opened_with(path)) in {StoreForeign, StoreDamaged}
    assert path.read_bytes() == JUNK[name]


async def test_a_newer_file_is_refused_untouched(copy: Path):
    """StoreNewer, nothing written."""
    _database(copy, "PRAGMA user_version = 999")
    before = copy.read_bytes()
    assert type(await opened_with(copy)) is StoreNewer
    assert copy.read_bytes() == before


def left_behind(path: Path, script: str) -> None:
    """Write to a database in WAL mode and leave its log beside it, as a killed process would."""
    working = path.with_name("working.db")
    if path.exists():
        shutil.copy(path, working)
    db = sqlite3.connect(working, isolation_level=None)
    db.executescript("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;" + script)
    for suffix in ("", "-wal"):
        shutil.copy(f"{working}{suffix}", f"{path}{suffix}")
    db.close()


async def test_a_foreign_write_ahead_log_is_left_alone(tmp_path: Path):
    """A database whose killed owner left a write-ahead log: refused without copying that log into the file or removing it."""
    path = tmp_path / "theirs.db"
    left_behind(path, "CREATE TABLE todo (what TEXT); INSERT INTO todo VALUES ('milk')")
    before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    assert type(await opened_with(path)) is StoreForeign
    assert Path(f"{path}-wal").exists()
    assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before


async def test_a_newer_write_ahead_log_is_left_alone(copy: Path):
    """The same for a file of ours that a newer version wrote last."""
    left_behind(copy, "PRAGMA user_version = 999")
    before = copy.read_bytes(), Path(f"{copy}-wal").read_bytes()
    assert type(await opened_with(copy)) is StoreNewer
    assert Path(f"{copy}-wal").exists()
    assert (copy.read_bytes(), Path(f"{copy}-wal").read_bytes()) == before


async def test_a_refused_opening_leaves_no_thread(tmp_path: Path):
    """Its database thread has ended when the error arrives; else it would answer an event loop that is closed, one time in a hundred."""
    path = tmp_path / "junk"
    path.write_bytes(JUNK["text"])
    before = set(threading.enumerate())
    for _ in range(30):
        await opened_with(path)
        assert [thread for thread in threading.enumerate() if thread not in before and "_connection_worker" in thread.name] == []


async def test_an_empty_file_is_taken_as_fresh(tmp_path: Path):
    """Zero bytes are what a process leaves that was killed while creating the store."""
    path = tmp_path / "empty.db"
    path.touch()
    async with SQLiteStore(path, clock=HeldClock()) as store:
        await tell(store)
        assert [wrong async for wrong in store.verify()] == []


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def _dangling(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nothing" / "there")
    return folder / "link"


def _under_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "agent.db"


PATHS = {
    "a directory": lambda folder: folder,
    "a missing directory": lambda folder: folder / "missing" / "agent.db",
    "a file as directory": _under_a_file,
    "a link to nowhere": _dangling,
    "a link to itself": _loop,
    "a name that is too long": lambda folder: folder / ("x" * 300),
    "a path with a NUL": lambda folder: f"{folder}/a\0b",
}


@pytest.mark.parametrize("name", PATHS)
async def test_a_path_that_cannot_be_a_store_is_refused(name: str, tmp_path: Path):
    """With an error of ours, and nothing is created."""
    path = PATHS[name](tmp_path)
    before = sorted(tmp_path.iterdir())
    error = await opened_with(path)
    assert name not in {"a directory", "a missing directory", "a file as directory"} or type(error) is StoreNotFound
    assert sorted(tmp_path.iterdir()) == before
