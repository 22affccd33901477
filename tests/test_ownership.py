"""One owner at a time: taken over by deadline, by release, by proven death and never otherwise; a stale owner keeps nothing."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scenes
from processes import PATIENCE_SECONDS, PROMPT_SECONDS
from scenes import Stage, said, taken

from power_agent import Sink, SQLiteStore, process
from power_agent import events as e
from power_agent.chance import CountedChance, SystemChance
from power_agent.clock import HeldClock, SystemClock
from power_agent.errors import HeadMoved, IllegalMove, OwnershipLost, SessionBusy, StoreBusy, StoreClosed
from power_agent.events import FROM_OUTSIDE
from power_agent.limits import LEASE_SECONDS

log = logging.getLogger(__name__)
NOTE = e.NoteAdded(text="n", why="w")


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with Stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def clock():
    return HeldClock()


@pytest.fixture
async def store(tmp_path, clock):
    async with SQLiteStore(tmp_path / "log.db", clock=clock) as store:
        yield store
        assert [wrong async for wrong in store.verify()] == []
    scenes.judge(tmp_path / "log.db")


def sink_of(store, clock, owner, dead=lambda _: False) -> Sink:
    return Sink(store, clock, CountedChance(), owner, dead=dead)


def owners(path) -> list[tuple[int, str]]:
    """Every epoch and why it began, from the raw file."""
    return [(row.epoch, row.kind) for row in scenes.raw(path) if row.kind in {"session.opened", "owner.changed"}]


# -- when a session may be taken -------------------------------------------------------------------------------------------


async def test_a_lease_of_a_time_to_come(store, clock):
    """The clock was set back: what is left of the lease is one lease from when somebody first sees it; an owner who lives keeps it."""
    first, second = sink_of(store, clock, "one"), sink_of(store, clock, "two")
    state = await first.open(session="s")
    clock.move(-5 * 3_600)
    with pytest.raises(SessionBusy) as caught:
        await second.claim("s")
    assert caught.value.deadline == clock.now() + LEASE_SECONDS * 1000
    clock.move(LEASE_SECONDS - 1)
    await first.renew(state)
    clock.move(LEASE_SECONDS - 1)
    with pytest.raises(SessionBusy):
        await second.claim("s")
    clock.move(2)
    assert (await second.claim("s")).owner == "two"
    clock.move(1)
    await second.renew(await second.load("s"))
    assert await store.renew("s", 2, clock.now() + 300_000), "a longer lease, by a clock that agrees"
    row = await store.find("s")
    assert row is not None
    assert row.deadline == clock.now() + 300_000


async def test_a_living_owner_is_not_disturbed(store, clock):
    """Until the deadline has passed the answer is SessionBusy, with the owner and the deadline; nothing is written."""
    one, two = sink_of(store, clock, "one"), sink_of(store, clock, "two")
    state = await one.open(session="s")
    for seconds in (0, LEASE_SECONDS / 2, LEASE_SECONDS / 2):
        clock.move(seconds)
        with pytest.raises(SessionBusy) as busy:
            await two.claim("s")
        assert (busy.value.owner, busy.value.deadline) == ("one", state.at + LEASE_SECONDS * 1000)
    assert owners(store.path) == [(1, "session.opened")]


async def test_taken_over_by_deadline(store, clock):
    """A millisecond past the deadline the next one owns it, one epoch up; the old owner is refused, its facts are not kept."""
    one, two = sink_of(store, clock, "one"), sink_of(store, clock, "two")
    old = await one.open(session="s")
    clock.move(LEASE_SECONDS + 0.001)
    new = await two.claim("s")
    assert (new.epoch, new.owner) == (2, "two")
    with pytest.raises(OwnershipLost):
        await one.record(old, [NOTE])
    with pytest.raises(OwnershipLost):
        await one.erase(old, "the law")
    new = await two.record(new, [NOTE])
    changed = await store.read("s", kinds=["owner.changed"])
    assert '"why":"expired"' in changed[0].body
    assert [(record.epoch, record.kind) for record in await store.read("s")] == [(1, "session.opened"), (2, "owner.changed"), (2, "note.added")]


async def test_an_append_renews_the_lease(store, clock):
    """Whoever works keeps the session: each append moves the deadline."""
    one, two = sink_of(store, clock, "one"), sink_of(store, clock, "two")
    state = await one.open(session="s")
    for _ in range(4):
        clock.move(LEASE_SECONDS - 1)
        state = await one.record(state, [NOTE])
        with pytest.raises(SessionBusy):
            await two.claim("s")


async def test_released_and_taken_at_once(store, clock):
    """After a release, alone or with the last facts, the next owner need not wait."""
    names = ("one", "two", "three")
    one, two, three = (sink_of(store, clock, name) for name in names)
    await one.release(await one.open(session="s"))
    state = await two.claim("s")
    assert state.epoch == 2
    await two.record(state, [NOTE], release=True)
    state = await three.claim("s")
    assert state.epoch == 3
    bodies = [record.body for record in await store.read("s", kinds=["owner.changed"])]
    assert all('"why":"released"' in body for body in bodies)


async def test_taken_back_after_a_release(store, clock):
    """Who released a session and claims it again owns it again, as against everybody: the next one meets SessionBusy."""
    one, two = sink_of(store, clock, "one"), sink_of(store, clock, "two")
    await one.release(await one.open(session="s"))
    await one.claim("s")
    with pytest.raises(SessionBusy):
        await two.claim("s")


async def test_taken_back_after_the_deadline(store, clock):
    """Who claims its own session after the lease has run out, and nobody came, owns it again for a whole lease."""
    one, two = sink_of(store, clock, "one"), sink_of(store, clock, "two")
    await one.open(session="s")
    clock.move(LEASE_SECONDS * 2)
    state = await one.claim("s")
    with pytest.raises(SessionBusy):
        await two.claim("s")
    await one.record(state, [NOTE])


async def test_a_clock_set_back_makes_no_second_owner(store, clock):
    """An administrator's clock may jump back: the living owner is kept, and epochs do not fall."""
    one, two = sink_of(store, clock, "one"), sink_of(store, clock, "two")
    state = await one.open(session="s")
    clock.move(-3600)
    with pytest.raises(SessionBusy):
        await two.claim("s")
    state = await one.record(state, [NOTE])
    assert state.epoch == 1


async def test_a_dead_owner_is_replaced_at_once(stage, tmp_path):
    """The owner is a process that was killed: nobody waits for its lease."""
    path, journal = tmp_path / "log.db", tmp_path / "journal"
    actor = stage.play("owner", path, journal, "s", "idle", LEASE_SECONDS)
    owner = scenes.until(lambda: scenes.lines(journal, "owns"))[0]["owner"]
    async with SQLiteStore(path) as store:
        heir = Sink(store, SystemClock(), SystemChance(), process.me(), dead=process.proven_dead)
        with pytest.raises(SessionBusy) as busy:
            await heir.claim("s")
        assert busy.value.owner == owner
        actor.kill()
        begun = time.monotonic()
        state = await heir.claim("s")
        assert time.monotonic() - begun < PROMPT_SECONDS
        assert state.epoch == 2
        assert '"why":"dead"' in (await store.read("s", kinds=["owner.changed"]))[0].body
        await heir.record(state, [NOTE])
        assert [wrong async for wrong in store.verify()] == []


def test_a_corpse_is_dead():
    """A process that ended and that its parent has not buried yet is proven dead."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = scenes.until(lambda: process.start_time(child.pid))
        boot, namespace, _, _, token = process.me().split("/")
        owner = f"{boot}/{namespace}/{child.pid}/{started}/{token}"
        assert not process.proven_dead(owner)
        child.kill()
        scenes.until(lambda: process.proven_dead(owner))
    finally:
        child.kill()
        child.wait()
    assert process.proven_dead(owner)


async def test_a_reused_pid_does_not_keep_the_dead_alive(store, clock):
    """The same pid with another start time is another process: the owner is dead. Who cannot be looked up from here lives."""
    boot, namespace, pid, start, token = process.me().split("/")
    before = f"{boot}/{namespace}/{pid}/{int(start) - 1}/{token}"
    elsewhere = [f"other-boot/{namespace}/{pid}/1/{token}", f"{boot}/1/{pid}/1/{token}", f"{boot}/{namespace}/{pid}/-/{token}", f"-/-/{pid}/1/{token}", "somebody"]
    heir = sink_of(store, clock, "heir", process.proven_dead)
    await sink_of(store, clock, before).open(session="reused")
    assert (await heir.claim("reused")).epoch == 2
    for number, owner in enumerate([process.me(), *elsewhere]):
        await sink_of(store, clock, owner).open(session=f"s{number}")
        with pytest.raises(SessionBusy):
            await heir.claim(f"s{number}")


async def test_a_claim_of_the_dead_names_the_right_one(store, clock):
    """Proof of a death counts for the owner it was made for: one who came in between is not pushed out."""
    await sink_of(store, clock, "one").open(session="s")
    guard = []

    def slow(owner):
        with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            guard.extend(other.execute("SELECT sql FROM sqlite_master WHERE name = 'session_moves'").fetchone())
            other.execute("DROP TRIGGER session_moves")  # it would not let anybody but an event change the owner
            other.execute("UPDATE session SET owner = 'two'")
        return owner == "one"

    with pytest.raises(SessionBusy):
        await sink_of(store, clock, "heir", slow).claim("s")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("UPDATE session SET owner = 'one'")
        other.execute(guard[0])


# -- sleepers and blocked loops --------------------------------------------------------------------------------------------


async def test_a_sleeper_that_wakes_keeps_nothing(stage, tmp_path):
    """An owner is stopped, its lease runs out, another process takes over: the sleeper's next append is refused. Ten times."""
    path, journal = tmp_path / "log.db", tmp_path / "journal"
    for number in range(10):
        own = tmp_path / f"journal-{number}"
        sleeper = stage.play("owner", path, own, f"s{number}", "record", 0.6)
        scenes.until(lambda own=own: len(scenes.lines(own, "kept")) >= 3)
        sleeper.signal(signal.SIGSTOP)
        async with SQLiteStore(path) as store:
            heir = Sink(store, SystemClock(), SystemChance(), process.me())
            state = await claimed_in_time(heir, f"s{number}")
            assert state.epoch == 2
            sleeper.signal(signal.SIGCONT)
            assert await asyncio.to_thread(sleeper.wait) == 0
            assert scenes.lines(own, "refused") == [{"what": "refused", "who": sleeper.pid, "code": "ownership_lost", "epoch": 1}]
            state = await heir.record(await heir.catch_up(state), [NOTE])
            rows = [row for row in scenes.raw(path) if row.session == f"s{number}"]
            change = next(row for row in rows if row.kind == "owner.changed")
            assert {row.epoch for row in rows if row.seq < change.seq} == {1}
            assert {row.epoch for row in rows if row.seq >= change.seq} == {2}, "nothing of an old epoch after a new owner took over"
            kept = scenes.lines(own, "kept")[-1]["seq"]
            assert kept in {change.seq - 1, change.seq - 2}, "what it was told is there; one more may have been kept when it fell asleep"
            assert [wrong async for wrong in store.verify()] == []
    assert not journal.exists()
    scenes.judge(path)


async def claimed_in_time(sink: Sink, session: str, seconds: float = PATIENCE_SECONDS):
    """Claim until the lease has run out."""
    limit = time.monotonic() + seconds
    while True:
        try:
            return await sink.claim(session)
        except SessionBusy:
            assert time.monotonic() < limit, "the lease never ran out"
            await asyncio.sleep(0.02)


async def test_a_blocked_event_loop_keeps_its_lease(stage, tmp_path):
    """The loop stands still for four leases; the store's own thread renews, and nobody else gets the session."""
    path, journal = tmp_path / "log.db", tmp_path / "journal"
    blocked = stage.play("owner", path, journal, "s", "block", 0.6)
    scenes.until(lambda: scenes.lines(journal, "owns"))
    busy = 0
    async with SQLiteStore(path) as store:
        rival = Sink(store, SystemClock(), SystemChance(), process.me())
        while not scenes.lines(journal, "kept"):
            assert blocked.alive() or scenes.lines(journal, "kept"), blocked.errors.read_text(encoding="utf-8")
            with pytest.raises(SessionBusy):
                await rival.claim("s")
            busy += 1
            await asyncio.sleep(0.02)
    blocked.ends_well()
    assert busy >= 20
    assert scenes.lines(journal, "kept")[0]["epoch"] == 1
    assert owners(path) == [(1, "session.opened")]


async def test_the_lease_thread_notices_a_loss(tmp_path):
    """An owner that writes nothing finds out too, before it starts an effect: `record` refuses without asking the file."""
    clock = HeldClock()
    async with SQLiteStore(tmp_path / "log.db", clock=clock, lease_seconds=0.15) as store, SQLiteStore(tmp_path / "log.db", clock=clock, lease_seconds=0.15) as other:
        one, two = sink_of(store, clock, "one", lambda _: True), sink_of(other, clock, "two", lambda _: True)
        state = await one.open(session="s")
        await two.claim("s")
        for _ in range(200):
            if store.lost("s", 1):
                break
            await asyncio.sleep(0.01)
        assert store.lost("s", 1)
        assert not store.lost("s", 2)
        with pytest.raises(OwnershipLost):
            await one.record(state, [NOTE])


# -- facts from outside ----------------------------------------------------------------------------------------------------


async def test_facts_from_outside_are_kept_at_the_current_epoch(store, clock):
    """They need no ownership, renew no lease and fence nobody: the owner is told that the head moved, reads it, goes on."""
    one, two, person = (sink_of(store, clock, name) for name in ("one", "two", "person"))
    await one.release(await one.open(session="s"))
    state = await two.record(await two.claim("s"), [NOTE])
    before = await store.find("s")
    clock.move(20)
    seen = await person.report(await person.load("s"), [e.InputReceived(parts=said("hello"), mode="queue")])
    row = await store.find("s")
    assert (row.epoch, row.owner, row.deadline) == (before.epoch, "two", before.deadline)
    assert (seen.epoch, seen.seq, row.head) == (2, state.seq + 1, state.seq + 1)
    with pytest.raises(HeadMoved) as moved:
        await two.record(state, [NOTE])
    assert moved.value.head == row.head
    state = await two.catch_up(state)
    assert [item.seq for item in state.inputs] == [row.head]
    state = await two.record(state, [NOTE])
    assert [record.epoch for record in await store.read("s")] == [1, 2, 2, 2, 2]
    assert state.epoch == 2


async def test_facts_from_outside_reach_a_session_between_owners(store, clock):
    """A report is kept in a session whose lease ran out, or that was released; the next owner finds it."""
    one, person = sink_of(store, clock, "one"), sink_of(store, clock, "person")
    for name, leave in (("released", one.release), ("expired", None)):
        state = await one.open(session=name)
        if leave is not None:
            await leave(state)
        clock.move(LEASE_SECONDS * 2)
        await person.report(await person.load(name), [e.InputReceived(parts=said("hello"))])
        assert len((await sink_of(store, clock, "two").claim(name)).inputs) == 1


async def test_a_report_during_a_takeover_is_kept_once_at_one_epoch(store, clock):
    """A report and a takeover at the same moment: one comes first, the other is told that the head moved, none is lost."""
    person = sink_of(store, clock, "person")
    for number in range(20):
        name = f"s{number}"
        await sink_of(store, clock, "one").open(session=name)
        clock.move(LEASE_SECONDS + 1)
        seen = await person.load(name)
        two = sink_of(store, clock, "two")
        outcomes = await asyncio.gather(two.claim(name), person.report(seen, [e.InputReceived(parts=said("x"))]), return_exceptions=True)
        if isinstance(outcomes[1], HeadMoved):
            await person.report(await person.catch_up(seen), [e.InputReceived(parts=said("x"))])
        kinds = sorted(record.kind for record in await store.read(name))
        assert kinds == ["input.received", "owner.changed", "session.opened"]


async def test_only_the_owner_may_record_the_rest(store, clock):
    """`report` refuses every kind that belongs to the owner, alone or in company, and writes nothing."""
    one, person = sink_of(store, clock, "one"), sink_of(store, clock, "person")
    state = await one.open(session="s")
    await one.record(state, taken(state, "go"))
    state = await person.load("s")
    asked = e.CancelAsked(reason="enough")
    for fact in (
        NOTE,
        e.TurnEnded(turn=1),
        e.ModelAnswered(round=1, parts=said("no")),
        e.CallStarted(call="t1r1c1"),
        e.CallDoubted(call="t1r1c1", attempt=1, reason="r"),
        e.OwnerChanged(owner="person", previous="one", why="dead"),
        e.SessionClosed(reason="r"),
        e.SessionErased(reason="r"),
        e.ContextCompacted(from_seq=1, to_seq=2, summary="s", strategy="t"),
    ):
        for facts in ([fact], [asked, fact]):
            with pytest.raises(IllegalMove) as refused:
                await person.report(state, facts)
            assert refused.value.kind == fact.kind
    strange = set(e.EVENTS) - FROM_OUTSIDE
    assert {"call.started", "model.asked", "owner.changed", "session.erased", "turn.started", "turn.ended"} <= strange
    assert len(await store.read("s")) == 4
    await person.report(state, [asked])


# -- races -------------------------------------------------------------------------------------------------------------------


async def test_two_processes_race_for_a_claim(stage, tmp_path):
    """Two living processes claim the same free session at the same moment, thirty times: exactly one wins each."""
    path, journal = tmp_path / "log.db", tmp_path / "journal"
    async with SQLiteStore(path) as store:
        sink = Sink(store, SystemClock(), SystemChance(), process.me())
        for number in range(30):
            await sink.release(await sink.open(session=f"race-{number}"))
    start = time.time() + 0.3
    racers = [stage.play("racer", path, journal, 30, start) for _ in range(2)]
    for racer in racers:
        await asyncio.to_thread(racer.ends_well)
    wins = collections.Counter(line["session"] for line in scenes.lines(journal, "won"))
    losses = scenes.lines(journal, "lost")
    assert wins == dict.fromkeys(range(30), 1)
    assert sorted(line["session"] for line in losses) == list(range(30))
    assert {line["code"] for line in losses} == {"session_busy"}
    rows = scenes.judge(path)
    for line in scenes.lines(journal, "won"):
        changes = [row for row in rows if row.session == f"race-{line['session']}" and row.kind == "owner.changed"]
        assert [(row.epoch, line["owner"] in row.body) for row in changes] == [(2, True)]
    assert await scenes.faults(path) == []
    log.info("wins by process: %s", dict(collections.Counter(line["who"] for line in scenes.lines(journal, "won"))))


@pytest.mark.parametrize(("crowd", "rounds", "pause"), [(2, 32, 0.05), (8, 4, 0.4)])
async def test_a_fresh_file_opened_by_many_at_once(stage, tmp_path, crowd, rounds, pause):
    """All who open a file that is not there yet succeed, one of them makes it, and all write to it."""
    journal = tmp_path / "journal"
    start = time.time() + 0.2
    actors = [stage.play("crowd", tmp_path, journal, rounds, start, pause) for _ in range(crowd)]
    for actor in actors:
        await asyncio.to_thread(actor.ends_well)
    for number in range(rounds):
        rows = scenes.judge(tmp_path / f"{number}.db")
        assert {row.session for row in rows} == {f"s{actor.pid}" for actor in actors}
        assert await scenes.faults(tmp_path / f"{number}.db") == []


def test_ends_that_are_told_at_once_are_all_heard(stage, tmp_path):
    """The stage of these races is itself one: two who are over before anybody asks have both ended, and nobody waits for more."""
    actors = [stage.play("opening", tmp_path / f"{number}.db", tmp_path / "journal") for number in range(2)]
    scenes.until(lambda: not any(actor.alive() for actor in actors))
    time.sleep(0.1)
    assert [actor.wait() for actor in actors] == [0, 0]


# -- forks of the process --------------------------------------------------------------------------------------------------

FORKED = """
import asyncio, os, signal, sys, warnings
from power_agent import SQLiteStore, Sink, events as e, process
from power_agent.chance import SystemChance
from power_agent.clock import SystemClock
from power_agent.errors import StoreForked

def sink_on(store):
    return Sink(store, SystemClock(), SystemChance(), process.me(), dead=process.proven_dead)

async def refused(work):
    try:
        await work
    except StoreForked:
        return
    raise AssertionError("the child got through")

async def in_child(store, state):
    sink = Sink(store, SystemClock(), SystemChance(), state.owner)
    note = [e.NoteAdded(text="of the child", why="test")]
    for work in (store.find("s"), store.read("s"), sink.open(session="child"), sink.record(state, note), sink.claim("s"), sink.release(state), sink.load("s")):
        await asyncio.wait_for(refused(work), 60)

async def closed_in_child(store):
    await asyncio.wait_for(store.__aexit__(None, None, None), 60)

async def own_in_child(path, go):
    try:
        async with SQLiteStore(path) as own:
            os.write(go[1], b"open")
            os.read(go[2], 1)
            await sink_on(own).open(session="of the child's own store")
            os.write(1, b"acknowledged,")
    except StoreForked:
        os.write(go[1], b"open")
        os.read(go[2], 1)

async def main(path, how):
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of fork() beside threads: that is what this is about
    here, there = os.pipe(), os.pipe()
    async with SQLiteStore(path) as store:
        sink = sink_on(store)
        state = await sink.open(session="s")
        pid = os.fork()
        if pid == 0:
            signal.alarm(8)  # a child that hangs has failed
            status = 1
            try:
                if how == "uses":
                    asyncio.run(in_child(store, state))
                elif how == "closes":
                    asyncio.run(closed_in_child(store))
                else:
                    asyncio.run(own_in_child(path, (None, here[1], there[0])))
                status = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(status)
        if how == "own":
            os.read(here[0], 4)
        else:
            assert os.waitpid(pid, 0)[1] == 0, "the child failed"
        state = await sink.record(state, [e.NoteAdded(text="of the parent", why="test")])
        assert [wrong async for wrong in store.verify()] == []
    if how == "own":  # the parent is the last to close, as far as it knows
        os.write(there[1], b"1")
        assert os.waitpid(pid, 0)[1] == 0, "the child failed"
    async with SQLiteStore(path) as store:
        assert [wrong async for wrong in store.verify()] == []
        print(*sorted(row.session for row in await store.sessions()), sep=",")

asyncio.run(main(*sys.argv[1:]))
"""


def forked(path: Path, how: str) -> str:
    ended = subprocess.run([sys.executable, "-c", FORKED, str(path), how], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert ended.returncode == 0, ended.stderr
    scenes.judge(path)
    return ended.stdout.strip()


def test_the_child_of_a_fork_may_not_use_the_store(tmp_path):
    """In the child every use raises StoreForked; the parent works on, and nothing of the child is there."""
    assert forked(tmp_path / "log.db", "uses") == "s"


def test_the_child_of_a_fork_may_leave_the_store(tmp_path):
    """Leaving `async with` in the child neither hangs nor disturbs the parent."""
    assert forked(tmp_path / "log.db", "closes") == "s"


def test_a_store_of_its_own_in_the_child_of_a_fork(tmp_path):
    """SQLite inherits locks that the child does not have. Either the child is refused, or what its store acknowledged is kept,
    also when the parent, who does not see the child's locks, is the last to close as far as it knows.
    """
    assert forked(tmp_path / "log.db", "own") in {"s", "acknowledged,of the child's own store,s"}


# -- several stores, one file ------------------------------------------------------------------------------------------------


async def test_two_stores_on_one_path_share_a_writer(tmp_path):
    """Two objects in one event loop are one writer, in whatever order they are closed; both see what either keeps."""
    path = tmp_path / "log.db"
    (tmp_path / "link").symlink_to(path)
    one, two = SQLiteStore(path), SQLiteStore(tmp_path / "link")
    for first, last in ((one, two), (two, one)):
        await one.__aenter__()
        await two.__aenter__()
        assert one._writer is two._writer
        left, right = (Sink(store, SystemClock(), SystemChance(), process.me()) for store in (one, two))
        state = await left.open()
        await right.report(await right.load(state.session), [e.InputReceived(parts=said("x"))])
        await first.__aexit__(None, None, None)
        with pytest.raises(StoreClosed):
            await first.find("s")
        sink = left if last is one else right
        with contextlib.suppress(SessionBusy):
            await sink.claim(state.session)
        assert (await last.find(state.session)).head == 2
        await sink.open()
        await last.__aexit__(None, None, None)
        with pytest.raises(StoreClosed):
            await last.find("s")
    assert await scenes.faults(path) == []
    assert len({row.session for row in scenes.judge(path)}) == 4


async def test_a_lock_held_by_another_program(tmp_path, monkeypatch):
    """Whoever locks the file for too long makes an append fail as StoreBusy, retryable; nothing is kept, and the store works afterwards."""
    monkeypatch.setattr("power_agent.store.file.LOCK_SECONDS", 0.3)
    path = tmp_path / "log.db"
    async with SQLiteStore(path) as store:
        sink = Sink(store, SystemClock(), SystemChance(), process.me())
        state = await sink.open(session="s")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            with pytest.raises(StoreBusy) as busy:
                await sink.record(state, [NOTE])
            assert 0.2 < time.monotonic() - begun < PROMPT_SECONDS
            assert busy.value.retryable
            assert (await store.find("s")).head == 1, "reading goes on"
            other.execute("ROLLBACK")
        state = await sink.record(state, [NOTE])
        assert state.seq == 2
        assert [wrong async for wrong in store.verify()] == []
    assert [row.seq for row in scenes.judge(path)] == [1, 2]


async def test_a_lock_held_while_a_fresh_file_is_opened(tmp_path, monkeypatch):
    """Opening waits for a lock and then says StoreBusy; afterwards the file opens."""
    monkeypatch.setattr("power_agent.store.file.LOCK_SECONDS", 0.3)
    path = tmp_path / "log.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            await SQLiteStore(path).__aenter__()
        other.execute("ROLLBACK")
    async with SQLiteStore(path) as store:
        await Sink(store, SystemClock(), SystemChance(), process.me()).open(session="s")
    assert len(scenes.judge(path)) == 1


async def test_epochs_never_fall(store, clock):
    """Fifty takeovers by release, deadline and death: each epoch is one more than the last, each has one owner."""
    dead = set()
    for number in range(50):
        sink = sink_of(store, clock, f"owner-{number}", dead.__contains__)
        state = await sink.claim("s") if number else await sink.open(session="s")
        state = await sink.record(state, [NOTE])
        assert state.epoch == number + 1
        match number % 3:
            case 0:
                await sink.release(state)
            case 1:
                clock.move(LEASE_SECONDS + 1)
            case 2:
                dead.add(sink.owner)
    assert owners(store.path) == [(1, "session.opened"), *((epoch, "owner.changed") for epoch in range(2, 51))]
    assert os.getpid() == int(process.me().split("/")[2])
