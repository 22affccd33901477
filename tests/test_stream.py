"""Seeing a turn as it happens, and following the log from anywhere: complete, in order, and at nobody's cost."""

import asyncio
import os
import random
import sys
import traceback
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS, PROMPT_SECONDS

from power_agent import Answer, Call, Envelope, ModelError, ScriptedModel, SQLiteStore, StatefulAgentLoop, ToolContext, tool
from power_agent import events as e
from power_agent.errors import InvalidInput, SessionNotFound
from power_agent.ports import Glimpsed


@tool(recovery="rerun")
async def count(to: int, ctx: ToolContext) -> int:
    for number in range(to):
        ctx.progress(f"{number + 1} of {to}")
    return to


@tool(recovery="rerun")
def count_in_a_thread(to: int, ctx: ToolContext) -> int:
    for number in range(to):
        ctx.progress(f"{number + 1} of {to}")
    return to


SEND = """
import sys
from power_agent import ScriptedModel, StatefulAgentLoop
with StatefulAgentLoop(ScriptedModel(["hello"]), store=sys.argv[1], durability="normal").sync as agent:
    agent.send("x", "s")
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("power_agent.drive.attempts.backoff", lambda _attempt: 0.001)


def make(folder: Path, script, **options) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(script), tools=[count, count_in_a_thread], store=folder / "agent.db", **options)


async def read(stream) -> list[Envelope | Glimpsed]:
    return [item async for item in stream]


def facts(items) -> list[int]:
    return [item.seq for item in items if isinstance(item, Envelope)]


def glimpses(items, kind: str) -> list[str]:
    return [item.text for item in items if isinstance(item, Glimpsed) and item.kind == kind]


async def test_a_turn_as_it_happens(tmp_path):
    """Every fact once and in order, pieces of text before the answer they belong to, progress of tools in between."""
    script = [[Call("count", {"to": 3}), Call("count_in_a_thread", {"to": 2})], Answer("hello world, how are you?", chunks=5)]
    async with make(tmp_path, script) as loop:
        stream = loop.stream("x", "s")
        with pytest.raises(InvalidInput):
            _ = stream.result
        items = await read(stream)
        history = await loop.history("s")
        assert facts(items) == [kept.seq for kept in history]
        assert [item for item in items if isinstance(item, Envelope)] == history
        assert "".join(glimpses(items, "text")) == "hello world, how are you?"
        assert len(glimpses(items, "text")) == 5
        progress = [(item.call, item.text) for item in items if isinstance(item, Glimpsed) and item.kind == "progress"]
        assert [text for call, text in progress if call == "t1r1c1"] == ["1 of 3", "2 of 3", "3 of 3"]
        assert [text for call, text in progress if call == "t1r1c2"] == ["1 of 2", "2 of 2"]
        answered = next(place for place, item in enumerate(items) if isinstance(item, Envelope) and item.kind == "model.answered" and item.event.finish == "stop")
        assert all(place < answered for place, item in enumerate(items) if isinstance(item, Glimpsed) and item.kind == "text")
        assert all((item.turn, item.round, item.attempt) == (1, 2, 1) for item in items if isinstance(item, Glimpsed) and item.kind == "text")
        assert (stream.result.status, stream.result.text) == ("completed", "hello world, how are you?")


async def test_a_failed_attempt_is_void(tmp_path):
    """Pieces of an attempt that failed are taken back before the next attempt's come."""

    class Breaking(ScriptedModel):
        async def ask(self, request, glimpse):
            glimpse("text", f"attempt {request.attempt}")
            if request.attempt == 1:
                raise ModelError("the line broke", retryable=True)
            return await super().ask(request, lambda _kind, _text: None)

    async with StatefulAgentLoop(Breaking(["", "whole"]), store=tmp_path / "agent.db") as loop:
        items = await read(loop.stream("x", "s"))
        seen = [(item.kind, item.text, item.attempt) for item in items if isinstance(item, Glimpsed)]
        assert seen == [("text", "attempt 1", 1), ("void", "the line broke", 1), ("text", "attempt 2", 2)]


async def test_a_slow_reader(tmp_path, monkeypatch):
    """Who does not read neither stalls the turn nor lets memory grow: glimpses are let go and said so, facts are all there."""
    monkeypatch.setattr("power_agent.loop.stream.MAX_STREAM_ITEMS", 20)
    script = [[Call("count", {"to": 500})]] * 10 + ["x" * 1000]
    async with make(tmp_path, script) as loop:
        stream = loop.stream("x", "s")
        while (await loop.sessions() == []) or (await loop.state("s")).last is None:
            await asyncio.sleep(0.01)
            assert len(stream._items) <= 20
        items = await read(stream)
        assert facts(items) == [kept.seq for kept in await loop.history("s")]
        assert sum(map(int, glimpses(items, "skipped"))) + len(glimpses(items, "progress")) + len(glimpses(items, "text")) == 5_001


async def test_leaving_detaches(tmp_path):
    """The turn runs on when its reader leaves; closing the loop is what interrupts it."""
    release = asyncio.Event()

    async def slow(_):
        await release.wait()
        return "done"

    async with make(tmp_path, slow) as loop:
        async for item in loop.stream("x", "s"):
            if isinstance(item, Envelope) and item.kind == "model.asked":
                break
        release.set()
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await loop.state("s")).last is None or not loop._desk.idle:
                await asyncio.sleep(0.01)
        assert (await loop.resume("s")).status == "completed"
        release.clear()
        async with loop.stream("y", "s") as stream:
            await anext(stream)
    async with make(tmp_path, slow) as loop:
        release.set()
        assert (await loop.resume("s")).text == "done"


async def test_who_left_is_told_no_more(tmp_path):
    """A stream that was left, or never read, hears nothing once its turn is over; one that is read late still has all of it."""
    async with make(tmp_path, lambda _: Answer("a few words", chunks=3)) as loop:
        before = loop._hooks._listeners, loop._hooks._onlookers
        late = loop.stream("x", "late")
        for number in range(20):
            async for _ in loop.stream("x", f"s{number}"):
                break
        async with asyncio.timeout(PATIENCE_SECONDS):
            while loop._streams:
                await asyncio.sleep(0.01)
        assert (loop._hooks._listeners, loop._hooks._onlookers) == before
        items = await read(late)
        assert facts(items) == [kept.seq for kept in await loop.history("late")]
        assert "".join(glimpses(items, "text")) == "a few words"


async def test_streams_of_errors(tmp_path):
    """What `send` raises the stream raises when it is read."""
    async with make(tmp_path, ["one"]) as loop:
        await loop.send("x", "s")
        await loop.close_session("s")
        with pytest.raises(Exception, match="closed"):
            await read(loop.stream("y", "s"))
        with pytest.raises(InvalidInput):
            loop.stream("", "s")


async def test_a_stream_of_a_repeated_key(tmp_path):
    """The same input again gives the facts of its turn again, and runs nothing."""
    async with make(tmp_path, ["one"]) as loop:
        first = await read(loop.stream("x", "s", key="k"))
        again = await read(loop.stream("x", "s", key="k"))
        began = next(item.seq for item in first if isinstance(item, Envelope) and item.kind == "input.received")
        assert facts(again) == [seq for seq in facts(first) if seq >= began]


async def test_a_queued_stream_ends_with_its_own_turn(tmp_path):
    """It shows the turn it waits behind and its own, and nothing of the next."""
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return "to " + request.messages[-1].text

    async with make(tmp_path, slow) as loop:
        first = asyncio.ensure_future(loop.send("one", "s"))
        while not await loop.sessions() or (await loop.state("s")).place != "asking":
            await asyncio.sleep(0.01)
        second = loop.stream("two", "s", when_busy="queue")
        reading = asyncio.ensure_future(read(second))
        while len((await loop.state("s")).inputs) < 1:
            await asyncio.sleep(0.01)
        third = asyncio.ensure_future(loop.send("three", "s", when_busy="queue"))
        while len((await loop.state("s")).inputs) < 2:
            await asyncio.sleep(0.01)
        release.set()
        items = await reading
        await asyncio.gather(first, third)
        assert (second.result.turn, second.result.text) == (2, "to two")
        assert facts(items)[-1] == second.result.seq
        assert facts(items) == list(range(facts(items)[0], second.result.seq + 1))


async def test_listeners_by_type(tmp_path):
    """A listener hears the kinds it asked for, until it leaves."""
    heard = []
    async with make(tmp_path, ["one", "two"]) as loop:
        end = loop.listen(heard.append, e.TurnStarted, e.TurnEnded)
        await loop.send("x", "s")
        end()
        await loop.send("y", "s")
    assert [kept.kind for kept in heard] == ["turn.started", "turn.ended"]


async def test_an_onlooker_that_raises(tmp_path, caplog):
    """It is logged; the others see the glimpse, and the turn is not touched."""
    seen = []

    def broken(_):
        raise ValueError("broken")

    async with make(tmp_path, ["hello"]) as loop:
        loop.look_on(broken)
        loop.look_on(seen.append)
        assert (await loop.send("x", "s")).text == "hello"
    assert [one.text for one in seen] == ["hello"]
    assert "onlooker" in caplog.text


# -- watching ----------------------------------------------------------------------------------------------------------


async def test_watching_one_session(tmp_path):
    """From the beginning, from a cursor, live; another session does not show."""
    async with make(tmp_path, lambda request: "ok") as loop:
        await loop.send("x", "s")
        seen = []

        async def follow() -> None:
            async for kept in loop.watch("s", after=2):
                seen.append(kept)
                if kept.event == e.NoteAdded(text="end", why="test"):
                    return

        watching = asyncio.ensure_future(follow())
        await loop.send("y", "s")
        await loop.send("z", "other")
        state = await loop._sink.claim("s")
        await loop._sink.record(state, [e.NoteAdded(text="end", why="test")])
        await asyncio.wait_for(watching, PROMPT_SECONDS)
        assert seen == await loop.history("s", after=2)
        with pytest.raises(SessionNotFound):
            await anext(loop.watch("nobody"))


async def test_watching_what_another_process_writes(tmp_path):
    """It is told without asking: nobody reconnects, nobody here commits anything."""
    path = tmp_path / "agent.db"
    async with StatefulAgentLoop(ScriptedModel([]), store=path, durability="normal") as loop:
        watching = loop.watch()
        first = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0.05)
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", SEND, str(path))
        assert (await asyncio.wait_for(first, PATIENCE_SECONDS)).kind == "session.opened"
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for kept in watching:
                if kept.kind == "turn.ended":
                    break
        assert await writer.wait() == 0


async def test_watching_ends_with_the_loop(tmp_path):
    """Who follows is let go when the loop is closed."""
    async with make(tmp_path, ["ok"]) as loop:
        await loop.send("x", "s")

        async def follow() -> int:
            return len([kept async for kept in loop.watch()])

        watching = asyncio.ensure_future(follow())
        await asyncio.sleep(0.05)
    assert await asyncio.wait_for(watching, PROMPT_SECONDS) > 0


async def test_watching_in_memory():
    """A store in memory can be followed too."""
    async with StatefulAgentLoop(ScriptedModel(["ok"]), store=":memory:") as loop:
        seen = []

        async def follow() -> None:
            async for kept in loop.watch():
                seen.append(kept.kind)
                if kept.kind == "turn.ended":
                    return

        watching = asyncio.ensure_future(follow())
        await asyncio.sleep(0.02)
        await loop.send("x", "s")
        await asyncio.wait_for(watching, PROMPT_SECONDS)
        assert seen[0] == "session.opened"


WRITERS, SESSIONS, EVENTS = (8, 3, 1_200) if os.environ.get("POWER_AGENT_STORM") else (4, 3, 250)


async def _write(path: Path, writer: int) -> None:
    from power_agent import Sink
    from power_agent.chance import SystemChance
    from power_agent.clock import SystemClock

    dice = random.Random(writer)
    async with SQLiteStore(path, durability="normal") as store:
        sink = Sink(store, SystemClock(), SystemChance(), f"writer {writer}")
        states = [await sink.open(session=f"w{writer}-{number}") for number in range(SESSIONS)]
        for number in range(EVENTS):
            at = dice.randrange(SESSIONS)
            count = dice.choice((1, 1, 2, 5))
            states[at] = await sink.record(states[at], [e.NoteAdded(text=f"{number}.{part}", why="test") for part in range(count)])


def _writing(path: Path, writer: int) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(_write(path, writer))
            status = 0
        except BaseException:  # noqa: BLE001  told by the status
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


@pytest.mark.storm
async def test_nothing_is_missed_and_nothing_comes_twice(tmp_path):
    """Several processes write, several readers follow one or all sessions and reconnect at random: each gets every event once and in order."""
    path = tmp_path / "agent.db"
    async with SQLiteStore(path, durability="normal"):
        pass
    pids = [_writing(path, writer) for writer in range(WRITERS)]
    done = asyncio.Event()

    async def reader(loop, session: str | None, seed: int) -> list[tuple]:
        dice, seen, cursor, links = random.Random(seed), [], 0, 0
        while True:
            watching = loop.watch(session, after=cursor)
            left = dice.randrange(1, 120)
            while left:
                try:
                    kept = await asyncio.wait_for(anext(watching), 0.3)
                except TimeoutError:
                    break
                seen.append((kept.session, kept.seq, kept.hash))
                cursor = kept.position if session is None else kept.seq
                left -= 1
            await watching.aclose()
            links += 1
            if done.is_set() and left:
                assert links > 1
                return seen

    async with StatefulAgentLoop(ScriptedModel([]), store=path, durability="normal") as loop:
        while len(await loop.sessions()) < WRITERS * SESSIONS:
            await asyncio.sleep(0.01)
        readers = [asyncio.ensure_future(reader(loop, session, seed)) for seed, session in enumerate([None, None, "w0-0", "w1-1"])]
        for pid in pids:
            status = await asyncio.to_thread(os.waitpid, pid, 0)
            assert os.waitstatus_to_exitcode(status[1]) == 0
        done.set()
        results = await asyncio.gather(*readers)
        everything = [(kept.session, kept.seq, kept.hash) for kept in [record async for record in _all(loop)]]
        assert results[0] == everything
        assert results[1] == everything
        assert results[2] == [one for one in everything if one[0] == "w0-0"]
        assert results[3] == [one for one in everything if one[0] == "w1-1"]
        assert len(everything) > WRITERS * EVENTS * 2


async def _all(loop):
    after = 0
    while records := await loop._store.read_all(after=after, limit=500):
        for record in records:
            yield record
        after = records[-1].position
