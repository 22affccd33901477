"""Forks, erasure and retention through the loop's own verbs: what belongs to whom, what is gone, and what it costs."""

import asyncio
import contextlib
import inspect
import os
import signal
import sys
from pathlib import Path

import pytest

from power_agent import Call, Config, ScriptedModel, SQLiteStore, StatefulAgentLoop, ToolContext, failpoints, tool
from power_agent import events as e
from power_agent.clock import HeldClock
from power_agent.errors import HasForks, InvalidInput, InvalidSessionId, SessionBusy, SessionErased, SessionExists, SessionNotFound, SessionPending
from power_agent.limits import SNAPSHOT_EVENTS
from power_agent.state import FOLD


@tool
async def pay(to: str, ctx: ToolContext) -> str:
    ctx.deps.append((ctx.session, ctx.call, ctx.idempotency_key))
    return f"{to} is paid"


@tool(recovery="rerun")
async def dump(size: int) -> str:
    return "0123456789" * (size // 10)


def echo(request) -> object:
    last = request.messages[-1]
    if last.role == "user" and last.text.startswith("pay"):
        return [Call("pay", {"to": "ada"}), Call("pay", {"to": "bob"})]
    if last.role == "user" and last.text.startswith("dump"):
        return [Call("dump", {"size": int(last.text.split()[1])})]
    return f"answer {request.replies}"


def make(store: Path | str = ":memory:", script=echo, **options) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(script), tools=[pay, dump], store=store, deps=options.pop("deps", []), **options)


async def verified(loop) -> None:
    assert [wrong async for wrong in loop.verify()] == []


# -- forks -------------------------------------------------------------------------------------------------------------


async def test_a_fork_shares_the_past_and_goes_its_own_way():
    """Both go on; neither sees what the other does; one numbering, one chain."""
    async with make() as loop:
        first = await loop.send("one", "s")
        fork = await loop.fork("s", session_id_new="f")
        assert fork == "f"
        await loop.send("two", "s")
        result = await loop.send("three", "f")
        assert [message.text for message in await loop.messages("f")] == ["one", "answer 0", "three", result.text]
        assert [message.text for message in await loop.messages("s")][2] == "two"
        history = await loop.history("f")
        assert [kept.seq for kept in history] == list(range(1, len(history) + 1))
        assert history[: first.seq] == (await loop.history("s"))[: first.seq]
        assert [(row.session, row.parent, row.base) for row in await loop.forks("s")] == [("f", "s", first.seq)]
        await verified(loop)


async def test_any_event_can_be_forked(tmp_path):
    """Also in the middle of a batch: the branch says what it left behind, goes on, and no call of the parent runs there."""
    paid: list = []
    async with make(tmp_path / "agent.db", deps=paid) as loop:
        await loop.send("pay them", "s")
        await loop.send("again", "s")
        history, before = await loop.history("s"), list(paid)
        for kept in history:
            name = await loop.fork("s", at=kept.seq)
            assert (await loop.state("s", at=kept.seq)).seq == kept.seq
            with contextlib.suppress(Exception):
                await loop.resume(name)
            result = await loop.send("go on", name)
            assert result.status == "completed"
            await loop.send("once more", name)
        assert len(await loop.forks("s")) == len(history)
        mine = [line for line in paid if line[0] == "s"]
        assert mine == before
        assert len({key for _, _, key in paid}) == len(paid), "no idempotency key is used twice"
        await verified(loop)


async def test_forks_of_forks():
    """Each shares what was there when it began."""
    async with make() as loop:
        name, names = "s", ["s"]
        for depth in range(6):
            await loop.send(f"depth {depth}", name)
            name = await loop.fork(name)
            names.append(name)
        await loop.send("last", name)
        texts = [message.text for message in await loop.messages(name) if message.role == "user"]
        assert texts == [*(f"depth {depth}" for depth in range(6)), "last"]
        assert [[row.session for row in await loop.forks(one)] for one in names] == [[one] for one in names[1:]] + [[]]
        await verified(loop)


@pytest.mark.parametrize("names", [["p", "q", "r"], ["r", "q", "p"]], ids=["eldest first", "youngest first"])
@pytest.mark.parametrize("harm", [None, "the shared past", "a fork's own part"])
async def test_what_forks_share_is_verified_once(monkeypatch, names, harm):
    """Not once more for each fork; what is wrong with it is said of each of them all the same, and what is wrong with a fork of that fork alone."""
    async with make() as loop:
        eldest, middle, youngest = names
        for number in range(20):
            await loop.send(f"{number}", eldest)
        await loop.fork(eldest, session_id_new=middle)
        await loop.send("mine", middle)
        await loop.fork(middle, session_id_new=youngest)
        await loop.send("mine too", youngest)
        for number in range(20):
            await loop.fork(eldest, at=50 + number % 5, session_id_new=f"f{number}")
        read, counted = loop.store.read, 0

        async def counting(session, **what):
            nonlocal counted
            records = await read(session, **what)
            counted += len(records)
            return [record._replace(hash=b"harm") if (harm, record.session, record.seq) in harmed else record for record in records]

        last = (await loop.store.find(youngest)).head
        harmed = {("the shared past", eldest, 40), ("a fork's own part", youngest, last)}
        monkeypatch.setattr(loop.store, "read", counting)
        wrong = [sentence async for sentence in loop.verify()]
        said = {None: [], "the shared past": sorted([*names, *(f"f{number}" for number in range(20))]), "a fork's own part": [youngest]}[harm]
        assert [sentence.split("'")[1] for sentence in wrong] == said
        if harm is None:
            assert counted < 8 * last


async def test_forks_that_cannot_be():
    """Each refusal names its cause."""
    async with make() as loop:
        result = await loop.send("x", "s")
        for at in (0, -1, result.seq + 1):
            with pytest.raises(InvalidInput, match="no event"):
                await loop.fork("s", at=at)
        with pytest.raises(SessionNotFound):
            await loop.fork("nobody")
        with pytest.raises(SessionExists):
            await loop.fork("s", session_id_new="s")
        with pytest.raises(InvalidSessionId):
            await loop.fork("s", session_id_new="@f")
        await loop.erase("s")
        with pytest.raises(SessionErased):
            await loop.fork("s")


async def test_a_fork_of_a_closed_or_busy_session():
    """A closed one is open again in its branch; one that somebody works on can be forked meanwhile."""
    release = asyncio.Event()

    async def slow(request):
        if request.session == "s" and request.messages[-1].text == "wait":
            await release.wait()
        return "ok"

    async with make(script=slow) as loop:
        await loop.send("x", "c")
        await loop.close_session("c")
        assert (await loop.send("y", await loop.fork("c"))).status == "completed"
        sending = asyncio.ensure_future(loop.send("wait", "s"))
        while "s" not in [row.session for row in await loop.sessions()] or (await loop.state("s")).place != "asking":
            await asyncio.sleep(0.01)
        fork = await loop.fork("s")
        assert (await loop.resume(fork)).text == "ok"
        release.set()
        assert (await sending).text == "ok"
        await verified(loop)


async def test_a_fork_costs_the_same_whatever_the_past_holds(tmp_path):
    """Nothing of the past is read or copied: the same statements, and a few kilobytes, behind 20 events and behind 20,000."""
    path, statements = tmp_path / "agent.db", []
    async with make(path, durability="normal") as loop:
        for name, count in (("short", 20), ("long", 20_000)):
            state = await loop._sink.open(Config(model="scripted:model"), name)
            for _ in range(count // 200 or 1):
                state = await loop._sink.record(state, [e.NoteAdded(text="x" * 40, why="test") for _ in range(min(count, 200))])
            await loop._sink.release(state)
        counts = []
        for name in ("short", "long"):
            statements.clear()
            before = (await loop._store._writer._db.execute_fetchall("SELECT sum(length(body)) FROM event"))[0][0]
            await loop._store._writer._db.set_trace_callback(statements.append)
            await loop.fork(name, session_id_new=f"fork of {name}")
            await loop._store._writer._db.set_trace_callback(None)
            after = (await loop._store._writer._db.execute_fetchall("SELECT sum(length(body)) FROM event"))[0][0]
            counts.append((len(statements), after - before < 1_000))
        assert counts[0] == counts[1]
        assert counts[0][1]
        assert len(await loop.history("fork of long", after=19_990, limit=50)) > 10


async def test_a_forks_blobs(tmp_path):
    """What the past it shares refers to it can read; what its parent got later is none of its business, even by name."""
    from power_agent import Limits

    async with make(tmp_path / "agent.db", limits=Limits(max_output_bytes_in_context=100)) as loop:
        await loop.send("dump 2000", "s")
        fork = await loop.fork("s")
        await loop.send("dump 3000", "s")
        early, late = [kept.event.cut.blob for kept in await loop.history("s", kinds=["call.succeeded"])]
        assert len(await loop.blob(fork, early)) == 2_000
        assert await loop.blob(fork, early, start=1_995, length=100) == b"56789"
        assert await loop.blob(fork, late) is None
        assert len(await loop.blob("s", late)) == 3_000


async def test_the_tree_of_forks_and_children():
    """Everything that came from a session, however deep; a child that a call spawned too; what was erased is not in it."""
    async with make() as loop:
        first = await loop.send("one", "s")
        await loop.fork("s", session_id_new="f1")
        await loop.send("two", "f1")
        await loop.fork("f1", session_id_new="f2")
        await loop.fork("s", at=2, session_id_new="gone")
        await loop.erase("gone")
        child = await loop._sink.open(session="child", parent=e.Parent(relation="spawn", session="f2", seq=3, call="t1r1c1"))
        await loop._sink.release(child)
        await loop.send("alone", "other")
        other, root = await loop.tree()
        assert (other.session, other.parent, other.branches) == ("other", None, ())
        assert (root.session, [one.session for one in root.branches]) == ("s", ["f1"])
        f1 = root.branches[0]
        assert (f1.parent, f1.seq, f1.relation) == ("s", first.seq, "fork")
        assert [(one.session, one.relation, one.parent) for one in f1.branches[0].branches] == [("child", "spawn", "f2")]
        assert await loop.tree("f1") == (f1,)
        assert await loop.tree("gone") == ()
        with pytest.raises(SessionNotFound):
            await loop.tree("nobody")


# -- erasing -----------------------------------------------------------------------------------------------------------


async def test_nothing_of_an_erased_session_is_left(tmp_path):
    """Not in the file, not in its log, not in snapshots, blobs and keys; the chain verifies and says who and why."""
    path = tmp_path / "agent.db"
    async with make(path) as loop:
        await loop.send("the word is Rumpelstilzchen", "s", key="Rumpelkey")
        await loop._sink.snapshot(await loop.state("s"))
        await loop.send("harmless", "other")
        await loop.erase("s", reason="asked to", by="ada")
        await loop.erase("s", reason="again")
        for name in tmp_path.iterdir():
            content = name.read_bytes() if not name.name.endswith("-shm") else b""
            assert b"Rumpelstilzchen" not in content, name
            assert b"Rumpelkey" not in content, name
        tombstone = (await loop.history("s"))[-1].event
        assert (tombstone.kind, tombstone.reason, tombstone.by) == ("session.erased", "asked to", "ada")
        assert len(await loop.history("s", kinds=["session.erased"])) == 1
        with pytest.raises(SessionErased):
            await loop.send("y", "s")
        assert await loop.messages("s") == ()
        await verified(loop)


async def test_what_cannot_be_erased():
    """An open turn, a session somebody works on, one that others share, one that is not there."""
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return "ok"

    async with make(script=slow) as loop:
        sending = asyncio.ensure_future(loop.send("x", "s"))
        while not await loop.sessions():
            await asyncio.sleep(0.01)
        with pytest.raises(SessionBusy):
            await loop.erase("s")
        sending.cancel()
        await asyncio.wait([sending])
        with pytest.raises(SessionPending, match="Abort it first"):
            await loop.erase("s")
        await loop.abort_pending("s", reason="over")
        fork = await loop.fork("s")
        with pytest.raises(HasForks, match=fork):
            await loop.erase("s")
        release.set()
        assert (await loop.send("y", fork)).text == "ok"
        await loop.erase("s", forks="erase")
        assert [row.erased for row in await loop.sessions()] == [True, True]
        with pytest.raises(SessionNotFound):
            await loop.erase("nobody")
        await verified(loop)


@pytest.mark.parametrize("why", ["open", "busy"])
async def test_what_is_refused_has_destroyed_nothing(why):
    """A tree is erased when all of it can be: an open turn at its root, or somebody at work in one branch, leaves every other branch whole."""
    release = asyncio.Event()

    async def slow(request):
        if request.messages[-1].text == "slow":
            await release.wait()
        return "ok"

    async with make(script=slow) as loop:
        await loop.send("x", "s")
        for name, parent in (("a", "s"), ("b", "s"), ("c", "a"), ("d", "c")):
            await loop.fork(parent, session_id_new=name)
        sending = asyncio.ensure_future(loop.send("slow", "s" if why == "open" else "b"))
        while len(await loop.history("s" if why == "open" else "b", kinds=["model.asked"])) < 1 + (why == "open"):
            await asyncio.sleep(0.01)
        if why == "open":
            sending.cancel()
            await asyncio.wait([sending])
        with pytest.raises(SessionPending if why == "open" else SessionBusy):
            await loop.erase("s", forks="erase")
        assert not any(row.erased for row in await loop.sessions())
        release.set()
        if why == "open":
            await loop.abort_pending("s", reason="over")
        else:
            await sending
        assert (await loop.send("y", "d")).text == "ok"
        await loop.erase("s", forks="erase")
        assert all(row.erased for row in await loop.sessions())
        await verified(loop)


async def test_a_branch_that_somebody_else_erases(monkeypatch):
    """A tree is erased whole, also when some of it is gone by the time it is taken."""
    async with make() as loop:
        await loop.send("x", "s")
        for name in ("a", "b"):
            await loop.fork("s", session_id_new=name)
        claim = loop._sink.claim

        async def late(name: str, *more):
            if name == "a":
                monkeypatch.setattr(loop._sink, "claim", claim)
                await loop._sink.erase(await claim("a"), "by somebody else")
            return await claim(name, *more)

        monkeypatch.setattr(loop._sink, "claim", late)
        await loop.erase("s", forks="erase")
        assert all(row.erased for row in await loop.sessions())
        await verified(loop)


async def test_a_session_that_is_erased_by_who_took_it_over(monkeypatch):
    """Who was stopped past the lease, in the middle of erasing, finds that it was done."""
    async with make() as loop:
        await loop.send("x", "s")
        look = loop._sink.look

        async def late(name: str):
            state = await look(name)
            if (await loop.store.find(name)).deadline:  # it was claimed
                monkeypatch.setattr(loop._sink, "look", look)
                await loop._sink.erase(state, "by somebody else")
                return await look(name)
            return state

        monkeypatch.setattr(loop._sink, "look", late)
        await loop.erase("s")
        assert [kept.event.reason for kept in await loop.history("s", kinds=["session.erased"])] == ["by somebody else"]
        await verified(loop)


async def test_a_fork_that_is_made_meanwhile():
    """It goes with the tree: what it shares is being destroyed."""
    async with make() as loop:
        await loop.send("x", "s")
        for name in ("a", "b"):
            await loop.fork("s", session_id_new=name)
        making = list[asyncio.Task]()

        def heard(kept):
            if not making:
                making.append(asyncio.ensure_future(loop.fork("s", session_id_new="late")))

        loop.listen(heard, e.SessionErased)
        await loop.erase("s", forks="erase")
        assert await making[0] == "late"
        assert {row.session: row.erased for row in await loop.sessions()} == dict.fromkeys(("a", "b", "late", "s"), True)
        await verified(loop)


async def test_an_input_that_came_while_an_erasure_was_tried(monkeypatch):
    """It was left behind somebody who then gave up: it has its turn all the same."""
    async with make() as loop:
        await loop.send("x", "s")
        await loop.fork("s", session_id_new="busy")
        claim = loop._sink.claim

        async def meanwhile(name: str, *more):
            if name == "busy":
                assert (await loop.send("hello", "s", when_busy="queue", wait=False)).status == "waiting"
                raise SessionBusy("Somebody works on it.", session=name, owner="them", deadline=0)
            return await claim(name, *more)

        monkeypatch.setattr(loop._sink, "claim", meanwhile)
        with pytest.raises(SessionBusy):
            await loop.erase("s", forks="erase")
        async with asyncio.timeout(20):
            while (await loop.state("s")).turns < 2 or (await loop.state("s")).turn:
                await asyncio.sleep(0.01)
        assert not any(row.erased for row in await loop.sessions())


async def test_a_past_that_was_forked_again_and_again():
    """However long the line of forks is."""
    async with make() as loop:
        await loop.send("x", "s0")
        for number in range(200):
            await loop.fork(f"s{number}", session_id_new=f"s{number + 1}")
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(150 + len(inspect.stack(0)))
        try:
            await loop.erase("s0", forks="erase")
        finally:
            sys.setrecursionlimit(limit)
        assert sum(row.erased for row in await loop.sessions()) == 201


async def test_retention():
    """Closed long enough ago and shared by nobody: a dry run says which, the real one erases them and only them."""
    clock = HeldClock()
    async with make(clock=clock) as loop:
        for name in ("old", "shared", "open", "young", "gone"):
            await loop.send("x", name)
        for name in ("old", "shared", "gone"):
            await loop.close_session(name)
        await loop.erase("gone")
        fork = await loop.fork("shared")
        clock.move(1_000)
        await loop.close_session("young")
        assert await loop.prune(older_than_seconds=500, dry_run=True) == ["old"]
        assert not any(row.erased for row in await loop.sessions() if row.session != "gone")
        assert await loop.prune(older_than_seconds=500) == ["old"]
        assert await loop.prune(older_than_seconds=500) == []
        assert {row.session for row in await loop.sessions() if row.erased} == {"old", "gone"}
        await loop.erase(fork)
        assert await loop.prune(older_than_seconds=500, by="cron") == ["shared"]


@pytest.mark.parametrize("place", ["before:session.erased", "in:session.erased", "after:session.erased", "before:checkpoint", "after:checkpoint"])
def test_killed_while_erasing(tmp_path, place):
    """Either all of it is there or none; asked again, it is gone."""
    path = tmp_path / "agent.db"

    async def life() -> None:
        async with make(path) as loop:
            failpoints._ARMED = place
            await loop.erase("s")

    async def before() -> None:
        async with make(path) as loop:
            await loop.send("Rumpelstilzchen", "s")

    asyncio.run(before())
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            asyncio.run(life())
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

    async def after() -> None:
        async with make(path) as loop:
            bodies = [kept.event for kept in await loop.history("s")]
            assert all(body is None for body in bodies[:-1]) or all(body is not None for body in bodies)
            await verified(loop)
            await loop.erase("s")
            await loop._store.scrub()
        assert b"Rumpelstilzchen" not in path.read_bytes()

    asyncio.run(after())


# -- cached states -----------------------------------------------------------------------------------------------------


async def test_states_are_cached_when_loading_would_feel_it(tmp_path, monkeypatch):
    """Not for a short session; for a long one, and then the log is read from there on only."""
    assert SNAPSHOT_EVENTS > 100
    monkeypatch.setattr("power_agent.sink.SNAPSHOT_EVENTS", 50)
    path = tmp_path / "agent.db"
    async with make(path) as loop:
        await loop.send("x", "s")
        assert await loop._store.snapshot("s", FOLD) is None
        for _ in range(40):
            await loop.send("x", "s")
        (seq, _), head = await loop._store.snapshot("s", FOLD), (await loop.state("s")).seq
        assert head - seq < 200
        live = await loop.state("s")
    async with make(path) as loop:
        read, asked = loop._store.read, []

        async def reading(session, **where):
            asked.append(where)
            return await read(session, **where)

        monkeypatch.setattr(loop._store, "read", reading)
        assert await loop.state("s") == live
        assert [where["after"] for where in asked] == [seq - 1, seq]


async def test_a_store_that_cannot_cache(tmp_path, monkeypatch, caplog):
    """A cache that cannot be written changes nothing."""
    from power_agent.errors import StoreFull

    monkeypatch.setattr("power_agent.sink.SNAPSHOT_EVENTS", 1)

    async def full(self, *_):
        raise StoreFull("full", path="")

    monkeypatch.setattr(SQLiteStore, "keep_snapshot", full)
    async with make(tmp_path / "agent.db") as loop:
        assert (await loop.send("x", "s")).status == "completed"
        assert (await loop.send("y", "s")).status == "completed"
    assert "could not be cached" in caplog.text
