"""From a damaged file comes a new one that holds, of every session, the longest beginning that can be proven; nothing else is touched."""
# ruff: noqa: ASYNC240  nobody else waits for the event loop of a test

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest
import test_damage
from shelf import placeless, sink_of, wrongs

from power_agent import Call, PowerAgentError, ScriptedModel, SQLiteStore, StatefulAgentLoop, ToolContext, tool
from power_agent import events as e
from power_agent.clock import HeldClock
from power_agent.errors import StoreBusy, StoreDamaged, StoreError, StoreNotFound
from power_agent.ports import Record
from power_agent.salvage import DOUBT, Salvage, salvage

FLIPS = 120
CUTS = 40


class Sound(NamedTuple):
    """A closed store and what is in it, session by session."""

    path: Path
    records: dict[str, list[Record]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """The story of the damage tests (a blob, calls, a fork, an erasure), and enough beside it to fill some pages."""

    async def make() -> Sound:
        path = tmp_path_factory.mktemp("salvage") / "sound.db"
        async with SQLiteStore(path, clock=HeldClock()) as store:
            await test_damage.tell(store)
            sink = sink_of(store)
            for number in range(12):
                state = await sink.open(session=f"more-{number}")
                for more in range(8):
                    state = await sink.record(state, [e.NoteAdded(text=f"{number}.{more} " * 60, why="test")], release=True)
            rows = await store.sessions()
            return Sound(path, {row.session: placeless(await store.read(row.session)) for row in rows})

    return asyncio.run(make())


async def saved(source: Path, target: Path) -> tuple[Salvage, dict[str, list[Record]]]:
    """Salvage, check the new file and that the old one is what it was; return the report and what was kept."""
    before = {path.name: path.read_bytes() for path in source.parent.iterdir() if path.is_file()}
    report = await salvage(source, target)
    after = {path.name: path.read_bytes() for path in source.parent.iterdir() if path.is_file()}
    if target.parent == source.parent:
        after.pop(target.name)
        after.pop(f"{target.name}-lock", None)
    assert after == before, "the damaged file or its folder was touched"
    async with SQLiteStore(target, clock=HeldClock()) as store:
        blobs = [digest for one in report.sessions for digest in one.blobs]
        assert [wrong for wrong in await wrongs(store) if not any(digest in wrong for digest in blobs)] == []
        rows = await store.sessions()
        kept = {row.session: placeless(await store.read(row.session)) for row in rows}
        assert all(row.deadline == 0 for row in rows)
    return report, kept


def judge(sound: Sound, report: Salvage, kept: dict[str, list[Record]]) -> int:
    """Demand that what was kept is a beginning of what was, but for what salvage says itself; return how many events are whole."""
    events = 0
    for one in report.sessions:
        if not one.kept:
            assert one.session not in kept or one.why
            continue
        original, found = sound.records[one.session], kept[one.session]
        assert found[: one.kept] == original[: one.kept], one
        behind = {record.kind for record in found[one.kept :]}
        assert behind <= {"session.imported", "call.started", "call.doubted"}
        assert bool(behind) == (one.why is not None)
        if one.why is None:
            assert one.kept == len(original)
        events += one.kept
    return events


async def test_an_undamaged_file_is_copied_whole(sound: Sound, tmp_path: Path):
    """Nothing is lost, nothing is added, the blob comes along; what was erased stays erased."""
    report, kept = await saved(sound.path, tmp_path / "new.db")
    assert kept == {name: records for name, records in sound.records.items() if name != "gone"}
    assert {one.session: (one.kept, one.lost, one.why) for one in report.sessions if one.session != "gone"} == {name: (len(records), 0, None) for name, records in kept.items()}
    (gone,) = [one for one in report.sessions if one.session == "gone"]
    assert (gone.kept, gone.lost) == (0, 3)
    assert report.unreadable == 0
    async with SQLiteStore(tmp_path / "new.db") as store:
        assert await store.blob("branch", test_damage.DIGEST) == test_damage.CONTENT
        assert [row.parent for row in await store.sessions() if row.session == "branch"] == ["story"]
    assert "story: kept up to event 17" in str(report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.db", "new.db-lock"]


async def test_flipped_bits(sound: Sound, tmp_path: Path):
    """Seeded single-bit flips all over the file: what comes out is a proven beginning of what was, and nearly all of it."""
    data, chance = sound.path.read_bytes(), random.Random(5)
    whole = sum(len(records) for name, records in sound.records.items() if name != "gone")
    shares, refused = [], 0
    for number in range(FLIPS):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / "damaged.db"
        path.write_bytes(test_damage.with_bit_flipped(data, chance.randrange(len(data)), chance.randrange(8)))
        try:
            report, kept = await saved(path, tmp_path / f"{number}.db")
        except StoreDamaged:
            refused += 1
            continue
        shares.append(judge(sound, report, kept) / whole)
    mean = sum(shares) / len(shares)
    print(f"{len(data)} bytes, {FLIPS} flips: {refused} hopeless, worst {min(shares):.2f}, mean {mean:.3f}, {shares.count(1.0)} whole")  # noqa: T201
    assert refused <= FLIPS // 20
    assert mean > 0.95


async def test_a_damaged_header(sound: Sound, tmp_path: Path):
    """What stands in every header can be set right: all of it gone, nothing is lost."""
    data = sound.path.read_bytes()
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "damaged.db"
    path.write_bytes(bytes(32) + data[32:])
    report, kept = await saved(path, tmp_path / "new.db")
    assert judge(sound, report, kept) == sum(len(records) for name, records in sound.records.items() if name != "gone")


async def test_a_page_of_zeros_costs_what_stood_on_it(sound: Sound, tmp_path: Path):
    """A page in the middle of the events is gone: the rows of its neighbours are still read, one by one."""
    data = sound.path.read_bytes()
    page = data.index(b"5.3 5.3 5.3") // 4096
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "damaged.db"
    path.write_bytes(data[: page * 4096] + bytes(4096) + data[(page + 1) * 4096 :])
    report, kept = await saved(path, tmp_path / "new.db")
    judge(sound, report, kept)
    assert 0 < report.unreadable < 30
    assert "more-5" in {one.session for one in report.sessions if one.why}
    assert not {"more-1", "more-9", "story"} & {one.session for one in report.sessions if one.why}


async def test_a_damaged_guard(sound: Sound, tmp_path: Path):
    """A trigger that cannot be read keeps nobody from reading the events."""
    data = sound.path.read_bytes()
    assert b"CREATE TRIGGER event_kept" in data
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "damaged.db"
    path.write_bytes(data.replace(b"CREATE TRIGGER event_kept", b"CREATE TRIGGEX event_kept"))
    report, kept = await saved(path, tmp_path / "new.db")
    assert judge(sound, report, kept) == sum(len(records) for name, records in sound.records.items() if name != "gone")


async def test_truncated_files(sound: Sound, tmp_path: Path):
    """Cut anywhere: a beginning of every session that is still there, or a typed refusal; the longer the file, the more."""
    data, chance = sound.path.read_bytes(), random.Random(6)
    kept_of: dict[int, int] = {}
    for length in sorted({0, 1, 100, 4096, len(data) - 1, len(data) - 4096, *(chance.randrange(1, len(data)) for _ in range(CUTS))}):
        folder = tmp_path / str(length)
        folder.mkdir()
        path = folder / "damaged.db"
        path.write_bytes(data[:length])
        try:
            report, kept = await saved(path, tmp_path / f"{length}.db")
        except StoreDamaged:
            kept_of[length] = 0
            assert not (tmp_path / f"{length}.db").exists()
        else:
            kept_of[length] = judge(sound, report, kept)
    print(kept_of)  # noqa: T201
    assert kept_of[0] == 0
    assert max(kept_of.values()) > 100


DROPPED = {
    "in the middle": ("DELETE FROM event WHERE session = 1 AND seq = 9", "story", 8),
    "the last": ("DELETE FROM event WHERE session = 4 AND seq = 3", "zuletzt", 2),
    "a changed body": ("UPDATE event SET body = replace(body, 'And 3', 'And 4') WHERE session = 1 AND seq = 5", "story", 4),
    "two swapped": ("UPDATE event SET seq = -seq WHERE session = 1 AND seq IN (4, 5); UPDATE event SET seq = 9 + seq WHERE session = 1 AND seq < 0", "story", 3),
    "the first": ("DELETE FROM event WHERE session = 4 AND seq = 1", "zuletzt", 0),
    "its row": ("DELETE FROM session WHERE id = 4", "zuletzt", 0),
    "another name": ("UPDATE session SET name = 'tale' WHERE id = 4", "tale", 0),
}


@pytest.mark.parametrize("name", DROPPED)
async def test_dropped_and_changed_rows(sound: Sound, tmp_path: Path, name: str):
    """The log ends before the first row that is not what it was; the report says where and how much."""
    script, session, upto = DROPPED[name]
    (tmp_path / "in").mkdir()
    path = Path(shutil.copy(sound.path, tmp_path / "in" / "damaged.db"))
    test_damage.tamper(path, script)
    report, kept = await saved(path, tmp_path / "new.db")
    assert len([found for found in kept if found.startswith("more-")]) == 12
    if name == "its row":
        assert session not in kept
        assert any(one.kept == 0 and one.lost == 3 for one in report.sessions)
        return
    (one,) = [one for one in report.sessions if one.session == session]
    assert one.kept == upto
    assert one.why is not None
    assert (session in kept) == bool(upto)
    if upto:
        judge(sound, report, kept)
        assert one.lost == len(sound.records[session]) - upto


async def test_a_fork_lives_as_long_as_what_it_shares(sound: Sound, tmp_path: Path):
    """Damage behind a fork's place leaves the fork whole; damage before it takes it along."""
    for seq, there in ((12, True), (5, False)):
        folder = tmp_path / str(seq)
        folder.mkdir()
        path = Path(shutil.copy(sound.path, folder / "damaged.db"))
        test_damage.tamper(path, f"DELETE FROM event WHERE session = 1 AND seq = {seq}")
        report, kept = await saved(path, tmp_path / f"{seq}.db")
        (branch,) = [one for one in report.sessions if one.session == "branch"]
        assert (branch.kept > 0, "branch" in kept) == (there, there)
        assert (branch.why is None) == there


async def test_a_lost_blob_is_named(sound: Sound, tmp_path: Path):
    """An event whose blob is damaged stays; the blob is reported, and never handed out."""
    path = Path(shutil.copy(sound.path, tmp_path / "damaged.db"))
    test_damage.tamper(path, "UPDATE blob SET content = zeroblob(length(content))")
    report = await salvage(path, tmp_path / "new.db")
    assert {one.session: one.blobs for one in report.sessions if one.blobs} == {"story": (test_damage.DIGEST,)}
    assert f"blob {test_damage.DIGEST} lost" in str(report)
    async with SQLiteStore(tmp_path / "new.db") as store:
        assert await store.blob("story", test_damage.DIGEST) is None
        assert len(await store.read("story")) == len(sound.records["story"])


async def test_what_lies_in_the_write_ahead_log_is_saved(tmp_path: Path):
    """A process that was killed leaves its last commits in the log beside the file."""
    live = tmp_path / "live"
    live.mkdir()
    dead = tmp_path / "dead"
    dead.mkdir()
    async with SQLiteStore(live / "a.db") as store:
        await sink_of(store).open(session="s")
        copying = await asyncio.create_subprocess_exec("cp", live / "a.db", live / "a.db-wal", dead)
        assert await copying.wait() == 0
        records = placeless(await store.read("s"))
    _, kept = await saved(dead / "a.db", tmp_path / "new.db")
    assert kept == {"s": records}


async def test_a_torn_end_makes_a_person_look(tmp_path: Path):
    """The log was cut where a call had been asked for; the call ran. Salvaged, it is in doubt, and nothing runs again by itself."""
    ran: list[int] = []

    @tool
    async def pay(cents: int, ctx: ToolContext) -> str:
        """Pay."""
        ran.append(cents)
        return "paid"

    path = tmp_path / "agent.db"

    def agent(where: Path) -> StatefulAgentLoop:
        return StatefulAgentLoop(ScriptedModel([[Call("pay", {"cents": 5})], "done"]), tools=[pay], store=where)

    async with agent(path) as loop:
        assert (await loop.send("go", "s")).text == "done"
        started = next(record.seq for record in await loop._store.read("s") if record.kind == "call.started")
    test_damage.tamper(path, f"UPDATE event SET hash = zeroblob(32) WHERE seq = {started}")
    report = await salvage(path, tmp_path / "new.db")
    assert [(one.kept, one.why) for one in report.sessions] == [(started - 1, "its end is lost")]
    async with agent(tmp_path / "new.db") as loop:
        result = await loop.resume("s")
        assert result.status == "waiting"
        assert [(call.state, call.why) for call in result.pending] == [("doubted", DOUBT)]
        assert [wrong async for wrong in loop.verify()] == []
    assert ran == [5]


async def test_refusals(sound: Sound, tmp_path: Path):
    """A file that is open, or not there, or of another program; a target that is there."""
    with pytest.raises(StoreNotFound):
        await salvage(tmp_path / "nothing.db", tmp_path / "new.db")
    with pytest.raises(StoreNotFound):
        await salvage(sound.path, tmp_path / "nowhere" / "new.db")
    with pytest.raises(StoreError):
        await salvage(sound.path, sound.path)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE recipes (name)")
    db.close()
    text = tmp_path / "text.db"
    text.write_text("hello " * 5_000)
    for path in (foreign, text):
        with pytest.raises(PowerAgentError) as caught:
            await salvage(path, tmp_path / "new.db")
        assert caught.value.code == "store_damaged"
    async with SQLiteStore(tmp_path / "open.db"):
        with pytest.raises(StoreBusy):
            await salvage(tmp_path / "open.db", tmp_path / "new.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.db", "open.db", "open.db-lock", "text.db"]


def test_the_damage_is_done_to_something(sound: Sound):
    """The measure itself: a hundred events, in more pages than one, with the blob in place."""
    assert sum(map(len, sound.records.values())) > 100
    assert len(sound.path.read_bytes()) > 100_000
    assert hashlib.sha256(test_damage.CONTENT).hexdigest() == test_damage.DIGEST
