"""What a service finds to resume when it starts: open turns and waiting inputs that nobody works on, and nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
from types import SimpleNamespace

import pytest
from processes import PROMPT_SECONDS

from power_agent import Approve, Happened, Limits, ModelError, ScriptedModel, Sink, SQLiteStore, StatefulAgentLoop, Text, Unknown, tool
from power_agent import events as e
from power_agent.chance import SystemChance
from power_agent.clock import HeldClock
from power_agent.errors import InvalidInput, StoreClosed, StoreFailed
from power_agent.limits import LEASE_SECONDS, MAX_PASSED_OVER
from power_agent.loop.sweep import Sweep
from power_agent.messages import Call
from power_agent.policy import Ask
from power_agent.ports import SessionRow
from power_agent.store import reading


@tool
async def pay(euros: int) -> str:
    """Pay."""
    await asyncio.sleep(0 if euros < 100 else 1000)
    return "paid"


@tool(recovery="rerun")
async def rest() -> str:
    """Rest, which may be done twice."""
    await asyncio.sleep(1000)
    return "rested"


def agent(path, *answers, **more) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(list(answers) or ["Done."]), tools=[pay, rest], store=path, **more)


async def unfinished(loop, **more) -> list[str]:
    return [row.session for row in await loop.sessions(unfinished=True, **more)]


async def under_way(loop, session) -> bool:
    """Say whether a call of a session has started."""
    return any(row.session == session for row in await loop.sessions()) and any(call.state == "started" for call in await loop.pending(session))


async def interrupted(loop, session, text="go") -> None:
    """Begin a turn and leave in the middle of its call."""
    turn = asyncio.create_task(loop.send(text, session))
    while not await under_way(loop, session):
        await asyncio.sleep(0.01)
    turn.cancel()
    await asyncio.wait([turn])


async def test_what_is_left_is_listed_and_goes_on(tmp_path):
    """An interrupted turn, one that waits for a person, one whose process left: all are there, and gone when they ended."""
    async with agent(tmp_path / "a.db") as loop:
        assert await unfinished(loop) == []
        assert (await loop.send("hello", "rests")).status == "completed"
    async with agent(tmp_path / "a.db", [Call("pay", {"euros": 100})]) as loop:
        await interrupted(loop, "interrupted")
    async with agent(tmp_path / "a.db", [Call("pay", {"euros": 1})], policy=lambda call: Ask("May I?")) as loop:
        assert (await loop.send("pay", "waits")).status == "waiting"
        assert await unfinished(loop) == ["interrupted", "waits"]
        assert await unfinished(loop, limit=1) == ["interrupted"]
        assert await unfinished(loop, after="interrupted") == ["waits"]
        assert await unfinished(loop, after="waits") == []
    async with agent(tmp_path / "a.db") as loop:
        await loop.abort_pending("interrupted", reason="no")
        assert await unfinished(loop) == ["waits"]
        for row in await loop.sessions(unfinished=True):
            assert (await loop.resume(row.session)).status == "waiting"
        await loop.cancel("waits")
        await loop.resume("waits")
        assert await unfinished(loop) == []


async def test_what_somebody_works_on_is_not(tmp_path):
    """Neither in this loop nor in another one, as long as its lease holds; when its owner left, it is."""
    async with agent(tmp_path / "a.db", [Call("pay", {"euros": 100})]) as loop, agent(tmp_path / "a.db") as other:
        turn = asyncio.create_task(loop.send("go", "busy"))
        while not await under_way(loop, "busy"):
            await asyncio.sleep(0.01)
        assert await unfinished(loop) == []
        assert await unfinished(other) == []
        turn.cancel()
        await asyncio.wait([turn])
        assert await unfinished(loop) == await unfinished(other) == ["busy"]


async def test_what_was_put_aside_is_not(tmp_path):
    """Inputs behind a cancelled turn wait until somebody resumes; nothing goes on in a session that was closed, or erased."""
    async with agent(tmp_path / "a.db", [Call("rest", {})], "Done.") as loop:
        turn = asyncio.create_task(loop.send("go", "s"))
        while not await under_way(loop, "s"):
            await asyncio.sleep(0.01)
        behind = asyncio.create_task(loop.send("and then?", "s", when_busy="queue"))
        while not (await loop.state("s")).inputs:
            await asyncio.sleep(0.01)
        await loop.cancel("s")
        await asyncio.wait([turn, behind])
        assert (await loop.state("s")).inputs
        assert await unfinished(loop) == []
        await loop.close_session("s", abort=True)
        assert await unfinished(loop) == []
        await loop.erase("s")
        assert await unfinished(loop) == []


async def test_a_limit_is_an_end(tmp_path):
    """A turn that came to its limit has ended: only who raised it resumes."""
    async with agent(tmp_path / "a.db", *([Call("pay", {"euros": 1})] for _ in range(5)), limits=Limits(max_rounds_per_turn=2)) as loop:
        assert (await loop.send("pay", "s")).status == "limit"
        assert await unfinished(loop) == []


async def test_many_at_rest_cost_little(tmp_path):
    """A session at rest is told from its last events: their bodies are not read, and no state is folded."""
    async with agent(tmp_path / "a.db", "Done.") as loop:
        for number in range(40):
            await loop.send("hello", f"s{number}")
        loaded = []
        load = loop._sink.load
        loop._sink.load = lambda name, **more: loaded.append(name) or load(name, **more)
        assert await unfinished(loop) == []
        assert loaded == []
    with sqlite3.connect(tmp_path / "a.db") as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {reading.ROW}WHERE session.name > ? {reading.UNFINISHED}ORDER BY session.name LIMIT 10", ("",))]
    assert [step for step in plan if step.startswith("SCAN") and "VIRTUAL TABLE" not in step] == []
    db.close()


async def test_pages_of_what_is_at_rest_are_no_end(tmp_path, monkeypatch):
    """However many sessions look unfinished and are not, those behind them are found."""
    monkeypatch.setattr("power_agent.loop.intake.PAGE", 2)
    async with agent(tmp_path / "a.db", "Done.", [Call("pay", {"euros": 100})]) as loop:
        await loop.send("hello", "z")
        for number in range(7):
            await loop.send("hello", f"a{number}")
            await loop._sink.record(await loop._sink.claim(f"a{number}"), [e.InputReceived(parts=(Text("late"),))], release=True)
            await loop.close_session(f"a{number}", abort=True)
        await interrupted(loop, "z")
        assert len(await loop.store.sessions(unfinished=True)) == 8
        assert await unfinished(loop) == ["z"]
        with pytest.raises(InvalidInput):
            await loop.sessions(unfinished=True, limit=-1)


async def test_an_input_that_waits_is_due(tmp_path):
    """The process died between the end of a turn and the beginning of the next one, for which something had been said already."""
    async with agent(tmp_path / "a.db", "never said", "Done.") as loop:
        state = await loop._sink.open(session="s")
        said = state.seq + 1
        facts = [
            e.InputReceived(parts=(Text("one"),)),
            e.TurnStarted(turn=1, inputs=(said,)),
            e.ModelAsked(turn=1, round=1, model="scripted:model"),
            e.InputReceived(parts=(Text("two"),), mode="queue"),
            e.ModelAnswered(round=1, parts=(Text("one done"),)),
            e.TurnEnded(turn=1),
        ]
        await loop._sink.record(state, facts, release=True)
        assert await unfinished(loop) == ["s"]
        assert (await loop.resume("s")).text == "Done."
        assert [message.text for message in await loop.messages("s")] == ["one", "one done", "two", "Done."]
        assert await unfinished(loop) == []


# -- taken up ----------------------------------------------------------------------------------------------------------


async def left_in(path, *sessions) -> None:
    """Leave each session in the middle of a tool that may run again."""
    async with agent(path, [Call("rest", {})]) as loop:
        for session in sessions:
            await interrupted(loop, session)


async def test_all_that_was_left_goes_on_and_a_person_is_not_asked_twice(tmp_path):
    """What can go on does, side by side; what waits for a person is not touched; a second time there is nothing to do."""
    async with agent(tmp_path / "a.db", [Call("pay", {"euros": 1})], policy=lambda call: Ask("May I?")) as loop:
        await loop.send("pay", "waits")
    await left_in(tmp_path / "a.db", "a", "b", "c")
    together, most = 0, 0

    @tool(name="rest", recovery="rerun")
    async def rest_at_last() -> str:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.05)
        together -= 1
        return "rested"

    async with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=[pay, rest_at_last], store=tmp_path / "a.db") as loop:
        before = (await loop.state("waits")).seq
        results = await loop.resume_all()
        assert [(result.session_id, result.status, result.text) for result in results] == [(name, "completed", "Done.") for name in "abc"]
        assert most == 3
        assert await loop.resume_all() == []
        assert await unfinished(loop) == ["waits"]
        assert (await loop.state("waits")).seq == before


async def test_so_many_at_once(tmp_path, monkeypatch):
    """More than so many do not run at the same time, and each has its turn."""
    monkeypatch.setattr("power_agent.loop.sweep.MAX_RESUMED_AT_ONCE", 2)
    await left_in(tmp_path / "a.db", *"abcde")
    working, most = 0, 0

    async def think(request):
        nonlocal working, most
        working += 1
        most = max(most, working)
        await asyncio.sleep(0.01)
        working -= 1
        return "Done."

    async with StatefulAgentLoop(ScriptedModel(think), tools=[tool(name="rest", recovery="rerun")(lambda: "rested")], store=tmp_path / "a.db") as loop:
        assert [result.status for result in await loop.resume_all()] == ["completed"] * 5
    assert most == 2


@pytest.mark.parametrize("meanwhile", ["failed", "completed", "closed", "erased", "held"])
async def test_what_somebody_else_did_meanwhile_is_left_alone(tmp_path, monkeypatch, meanwhile):
    """Seen as unfinished, and taken up by somebody quicker: a turn that ended there, however it did, is not begun anew here."""

    async def think(request):
        if meanwhile == "failed":
            raise ModelError("no luck")
        return "Done."

    await left_in(tmp_path / "a.db", "s")
    quick = StatefulAgentLoop(ScriptedModel(think), tools=[tool(name="rest", recovery="rerun")(lambda: "rested")], store=tmp_path / "a.db")
    async with agent(tmp_path / "a.db") as loop, quick as other:
        seen = await loop._intake.unfinished("", None)
        if meanwhile == "held":
            await other._sink.claim("s")
        else:
            assert (await other.resume("s")).status == ("failed" if meanwhile == "failed" else "completed")
        if meanwhile in {"closed", "erased"}:
            await other.close_session("s")
        if meanwhile == "erased":
            await other.erase("s")
        before = (await other.store.find("s")).head

        async def stale(*_):
            return seen

        monkeypatch.setattr(loop._intake, "unfinished", stale)
        results = await loop.resume_all()
        assert [result.status for result in results] == ([meanwhile] if meanwhile in {"failed", "completed"} else [])
        assert (await other.store.find("s")).head == before


async def test_one_that_cannot_be_resumed_keeps_nobody_else(tmp_path, monkeypatch, caplog):
    """What goes wrong with one session is told to the log of the program; the others go on."""
    await left_in(tmp_path / "a.db", "bad", "good")
    async with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=[tool(name="rest", recovery="rerun")(lambda: "rested")], store=tmp_path / "a.db") as loop:
        begin = loop._desk.begin

        def broken(name, job, *more):
            if name == "bad":
                raise RuntimeError("boom")
            return begin(name, job, *more)

        monkeypatch.setattr(loop._desk, "begin", broken)
        assert [result.session_id for result in await loop.resume_all()] == ["good"]
    assert "Session 'bad' was left unfinished and cannot be resumed." in caplog.text
    assert "boom" in caplog.text


async def test_again_until_it_is_cancelled(tmp_path):
    """Whoever cannot be proven dead holds a session until the lease has run out; then the next look takes it up. Cancelled, it interrupts
    what it resumed, and leaves it for the next one.
    """
    clock = HeldClock()
    await left_in(tmp_path / "a.db", "s")
    async with SQLiteStore(tmp_path / "a.db", clock=clock) as store:
        elsewhere = Sink(store, clock, SystemChance(), "another-boot/1/2/3/4")
        await elsewhere.claim("s")
        async with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=[rest], store=store, clock=clock) as loop:
            sweep = asyncio.create_task(loop.resume_all(every_seconds=0.01))
            await asyncio.sleep(0.1)
            assert (await store.find("s")).owner == "another-boot/1/2/3/4"
            clock.move(LEASE_SECONDS + 1)
            while (await loop.pending("s"))[0].attempt != 2:
                await asyncio.sleep(0.01)
            assert not sweep.done()
            sweep.cancel()
            await asyncio.wait([sweep])
            assert sweep.cancelled()
            assert await unfinished(loop) == ["s"]
            with pytest.raises(InvalidInput, match="every_seconds=0"):
                await loop.resume_all(every_seconds=0)


async def test_closing_ends_it(tmp_path):
    """When the loop is closed, whoever waits for what was resumed is told, who looks again and again stops; all can be resumed later."""
    await left_in(tmp_path / "a.db", "s")
    async with agent(tmp_path / "a.db") as loop:
        waiting = [asyncio.create_task(loop.resume_all()), asyncio.create_task(loop.resume_all(every_seconds=0.01))]  # the second one has nothing to do
        while (await loop.pending("s"))[0].attempt != 2:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(PROMPT_SECONDS):
        with pytest.raises(StoreClosed):
            await waiting[0]
        assert await waiting[1] == []
    async with agent(tmp_path / "a.db") as loop:
        assert await unfinished(loop) == ["s"]


def test_without_an_event_loop(tmp_path):
    """A script does the same."""
    asyncio.run(left_in(tmp_path / "a.db", "s"))
    with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=[tool(name="rest", recovery="rerun")(lambda: "rested")], store=tmp_path / "a.db").sync as loop:
        assert [row.session for row in loop.sessions(unfinished=True)] == ["s"]
        assert [result.text for result in loop.resume_all()] == ["Done."]


async def test_what_is_in_vain_is_tried_more_and_more_rarely(tmp_path, monkeypatch):
    """A probe that does not know is asked again, but not at every look: each time stands in the log. When it knows, the turn goes on."""
    answer, asked, looks = Unknown(), 0, 0

    async def look(arguments, ctx):
        nonlocal asked
        asked += 1
        return answer

    @tool(probe=look)
    async def send_mail() -> str:
        """Send a mail."""
        await asyncio.sleep(1000)
        return "sent"

    async with StatefulAgentLoop(ScriptedModel([[Call("send_mail", {})]]), tools=[send_mail], store=tmp_path / "a.db") as loop:
        await interrupted(loop, "s")
    async with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=[send_mail], store=tmp_path / "a.db") as loop:
        unfinished = loop._intake.unfinished

        async def counted(*more):
            nonlocal looks
            looks += 1
            return await unfinished(*more)

        monkeypatch.setattr(loop._intake, "unfinished", counted)
        sweep = asyncio.create_task(loop.resume_all(every_seconds=0.001))
        while looks < 200:
            await asyncio.sleep(0.01)
        assert 5 <= asked <= 8
        before = asked
        answer = Happened("sent")
        while (await loop.state("s")).turn is not None:
            await asyncio.sleep(0.01)
        assert asked == before + 1
        assert looks <= 200 + MAX_PASSED_OVER + 20
        sweep.cancel()
        await asyncio.wait([sweep])


async def test_a_damaged_one_hides_none(tmp_path, caplog):
    """Of a session that cannot be read the log of the program is told; the others are listed, and resumed."""
    await left_in(tmp_path / "a.db", "a", "b", "c")
    file = tmp_path / "a.db"
    file.write_bytes(file.read_bytes().replace(b'{"turn":1,"inputs":[2]}', b'{"turn":1;"inputs":[2]}', 1))  # the last one stands first in its page
    quick = [tool(name="rest", recovery="rerun")(lambda: "rested")]
    async with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=quick, store=file) as loop:
        assert await unfinished(loop) == ["a", "b"]
        assert [result.session_id for result in await loop.resume_all()] == ["a", "b"]
    assert "Session 'c' cannot be read" in caplog.text


async def test_a_clock_that_was_set_back(tmp_path):
    """A lease from a time to come ends a lease from now on, for who lists as for who resumes."""
    clock = HeldClock()
    await left_in(tmp_path / "a.db", "s")
    async with SQLiteStore(tmp_path / "a.db", clock=clock) as store:
        clock.move(7200)
        state = await Sink(store, clock, SystemChance(), "another-boot/1/2/3/4").claim("s")
        await Sink(store, clock, SystemChance(), "another-boot/1/2/3/4").renew(state)
        clock.move(-7200)
        async with agent(store, clock=clock) as loop:
            assert await unfinished(loop) == []
            clock.move(LEASE_SECONDS + 1)
            assert await unfinished(loop) == ["s"]


async def test_an_input_that_two_turns_passed_by(tmp_path):
    """Of two that waited, the second one is due although a turn has begun and ended since it was said."""
    async with agent(tmp_path / "a.db") as loop:
        state = await loop._sink.open(session="s")
        first = state.seq + 1
        facts = [
            e.InputReceived(parts=(Text("one"),)),
            e.TurnStarted(turn=1, inputs=(first,)),
            e.ModelAsked(turn=1, round=1, model="m"),
            e.InputReceived(parts=(Text("two"),), mode="queue"),
            e.InputReceived(parts=(Text("three"),), mode="queue"),
            e.ModelAnswered(round=1, parts=(Text("ok"),)),
            e.TurnEnded(turn=1),
            e.TurnStarted(turn=2, inputs=(first + 3,)),
            e.ModelAsked(turn=2, round=1, model="m"),
            e.ModelAnswered(round=1, parts=(Text("ok"),)),
            e.TurnEnded(turn=2),
        ]
        await loop._sink.record(state, facts, release=True)
        assert await unfinished(loop) == ["s"]


async def test_a_fork_in_the_middle_of_a_turn(tmp_path):
    """As long as nobody touched it, it is a way that was not taken; driven and left, it is unfinished."""
    await left_in(tmp_path / "a.db", "s")
    async with agent(tmp_path / "a.db", "no", [Call("rest", {})]) as loop:
        await loop.fork("s", session_id_new="f")
        assert await unfinished(loop) == ["s"]
        turn = asyncio.create_task(loop.resume("f"))
        while not await under_way(loop, "f"):
            await asyncio.sleep(0.01)
        turn.cancel()
        await asyncio.wait([turn])
        assert await unfinished(loop) == ["f", "s"]


async def test_cancelled_it_waits_for_what_it_interrupts(tmp_path):
    """One tool takes a moment to stop, another one does not: what comes of both is kept before the loop is left."""
    begun = 0

    @tool(name="rest", recovery="rerun")
    async def stubborn() -> str:
        nonlocal begun
        begun += 1
        first = begun == 1
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            if first:
                raise
            await asyncio.sleep(0.3)
            raise RuntimeError("rolled back") from None
        return ""

    await left_in(tmp_path / "a.db", "a", "b")

    async def service():
        async with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=[stubborn], store=tmp_path / "a.db") as loop:
            await loop.resume_all()

    serving = asyncio.create_task(service())
    while begun < 2:
        await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()
    async with agent(tmp_path / "a.db") as loop:
        ends = [(await loop.history(session))[-1].kind for session in "ab"]
    assert sorted(ends) == ["call.failed", "call.started"]


async def test_what_goes_wrong_with_a_look_ends_nothing(tmp_path, monkeypatch, caplog):
    """A disk that fails once is looked at again; an event of newer code hides one session and no other."""
    await left_in(tmp_path / "a.db", "a", "b", "c")
    with sqlite3.connect(tmp_path / "a.db") as db:
        for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute("UPDATE event SET kind = 99 WHERE pos = (SELECT max(pos) FROM event WHERE session = (SELECT id FROM session WHERE name = 'b'))")
    db.close()
    quick = [tool(name="rest", recovery="rerun")(lambda: "rested")]
    async with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=quick, store=tmp_path / "a.db") as loop:
        assert await unfinished(loop) == ["a", "c"]
        sessions, looks = loop.store.sessions, 0

        async def flaky(**more):
            nonlocal looks
            looks += 1
            if looks == 1:
                raise StoreFailed("disk I/O error", path="a.db")
            return await sessions(**more)

        monkeypatch.setattr(loop.store, "sessions", flaky)
        sweep = asyncio.create_task(loop.resume_all(every_seconds=0.01))
        while not looks:
            await asyncio.sleep(0.01)
        while await unfinished(loop):
            await asyncio.sleep(0.01)
        sweep.cancel()
        await asyncio.wait([sweep])
    assert "could not be looked for" in caplog.text
    assert "Session 'b' cannot be read" in caplog.text


async def test_who_is_cancelled_from_within_is_alone_with_it(tmp_path, caplog):
    """A model that raises what a cancelled task raises ends its own resume, not those of the others."""
    await left_in(tmp_path / "a.db", "bad", "good")
    async with StatefulAgentLoop(ScriptedModel(["no", "Done."]), tools=[tool(name="rest", recovery="rerun")(lambda: "rested")], store=tmp_path / "a.db") as loop:
        finished = loop._intake.finished

        async def strange(work):
            if work.session == "bad":
                raise asyncio.CancelledError
            return await finished(work)

        loop._intake.finished = strange
        assert [result.session_id for result in await loop.resume_all()] == ["good"]
    assert "Session 'bad' was left unfinished and cannot be resumed." in caplog.text


async def test_who_was_decided_about_goes_on(tmp_path):
    """However often a session came to wait for a person again: when they decide, a look takes it up."""
    script = [[Call("pay", {"euros": 1})] for _ in range(6)]
    async with agent(tmp_path / "a.db", *script, "Done.", policy=lambda call: Ask("May I?")) as loop:
        await loop.send("pay", "s")
        sweep = asyncio.create_task(loop.resume_all(every_seconds=0.01))
        for number in range(1, 7):
            while not (calls := [call for call in await loop.pending("s") if call.state == "waiting" and call.id == f"t1r{number}c1"]):
                await asyncio.sleep(0.005)
            await loop.settle("s", calls[0].id, Approve())
        while (await loop.state("s")).turn is not None:
            await asyncio.sleep(0.005)
        assert (await loop.resume("s")).text == "Done."
        sweep.cancel()
        await asyncio.wait([sweep])


async def test_closing_ends_it_whoever_owns_the_store(tmp_path):
    """At once, not at the next look; and the store that was handed in stays open."""
    async with SQLiteStore(tmp_path / "a.db") as store:
        async with agent(store) as loop:
            sweep = asyncio.create_task(loop.resume_all(every_seconds=1000))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(PROMPT_SECONDS):
            assert await sweep == []
        assert await store.sessions() == []


async def test_what_waited_behind_is_done_as_well(tmp_path):
    """Messages queued behind the turn that was left have had theirs when it returns: a script may leave then."""
    async with agent(tmp_path / "a.db", [Call("rest", {})]) as loop:
        turn = asyncio.create_task(loop.send("one", "s"))
        while not await under_way(loop, "s"):
            await asyncio.sleep(0.01)
        for text in ("two", "three"):
            await loop.send(text, "s", when_busy="queue", wait=False)
        turn.cancel()
        await asyncio.wait([turn])
    quick = [tool(name="rest", recovery="rerun")(lambda: "rested")]
    async with StatefulAgentLoop(ScriptedModel(lambda request: f"Answer {request.replies}."), tools=quick, store=tmp_path / "a.db") as loop:
        await loop.resume_all()
    async with agent(tmp_path / "a.db") as loop:
        assert [message.text for message in await loop.messages("s") if message.role == "assistant"][1:] == ["Answer 1.", "Answer 2.", "Answer 3."]


async def test_looks_are_counted():
    """In vain at the first look, it is tried again at the third and at the seventh; whatever is added to its log makes it due at the next one."""
    head, resumed = 5, list[int]()

    async def left():
        return [SessionRow("s", head, b"", 1, None, 0)]

    async def resume(_name):
        resumed.append(look)
        return SimpleNamespace(status="waiting", seq=head)

    sweep = Sweep(left, resume, asyncio.sleep)
    look = 0
    while (look := look + 1) < 10:
        await sweep.once()
    assert resumed == [1, 3, 7]
    head += 1
    while look < 13:
        await sweep.once()
        look += 1
    assert resumed == [1, 3, 7, 10, 12]
