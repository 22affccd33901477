"""What others do between two steps of ours: each race once, played in the one order that hurts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from processes import PROMPT_SECONDS

from power_agent import Call, Limits, Result, ScriptedModel, SQLiteStore, StatefulAgentLoop, tool
from power_agent.errors import InputRefused, SessionClosed, SessionErased, StoreClosed
from power_agent.guards import guard
from power_agent.policy import Refuse
from power_agent.ports import Append, Kept, Record


class Between(SQLiteStore):
    """A store in which somebody else is quicker, once."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self.appending: tuple[str, Callable[[], Awaitable[object]]] | None = None
        self.reading: Callable[[], Awaitable[object]] | None = None

    async def append(self, request: Append) -> Kept:
        if self.appending is not None and self.appending[0] in [fact.kind for fact in request.facts]:
            (_, quicker), self.appending = self.appending, None
            await quicker()
        return await super().append(request)

    async def read(self, session: str, **what: Any) -> list[Record]:
        if self.reading is not None:
            quicker, self.reading = self.reading, None
            await quicker()
        return await super().read(session, **what)


def said(request) -> str:
    return "heard: " + " | ".join(message.text for message in request.messages if message.role == "user")


def make(store, script=said) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(script), store=store)


@tool(recovery="rerun")
def look() -> str:
    """Look."""
    return "seen"


def twice(request: Any) -> Any:
    """Look twice."""
    return "Done." if request.replies > 1 else [Call("look", {})]


async def inputs(loop, session="s") -> dict[int, str]:
    return {kept.seq: kept.event.parts[0].text for kept in await loop.history(session, kinds=["input.received"])}


async def rest(loop, session="s") -> None:
    async with asyncio.timeout(PROMPT_SECONDS):
        while (state := await loop.state(session)).turn or state.inputs:
            await asyncio.sleep(0.005)


# -- going on ----------------------------------------------------------------------------------------------------------


async def test_an_input_that_comes_while_a_turn_is_continued(tmp_path):
    """What was asked for is still done when the beginning of the turn could not be kept the first time."""
    async with Between(tmp_path / "log.db") as store:
        limited = StatefulAgentLoop(ScriptedModel(twice), store=store, tools=[look], limits=Limits(max_rounds_per_turn=1))
        assert (await limited.send("first", "s")).status == "limit"
        loop = StatefulAgentLoop(ScriptedModel(twice), store=store, tools=[look])

        async def quicker() -> None:
            await loop.send("theirs", "s", when_busy="queue", wait=False)

        store.appending = ("turn.started", quicker)
        assert (await loop.resume("s")).status == "completed"
        await rest(loop)
        state = await loop.state("s")
        assert [kept.event.continues for kept in await loop.history("s", kinds=["turn.started"])] == [None, 1, None]
        assert state.config.limits == Limits()


# -- sending -----------------------------------------------------------------------------------------------------------


async def test_an_input_that_came_first_is_not_taken_for_ours(tmp_path):
    """Without waiting: the place where our input was going to stand is another's by now. What we are told is where ours is."""
    async with Between(tmp_path / "log.db") as store:
        await make(store).send("first", "s")
        loop = make(store)

        async def quicker() -> None:
            await loop.send("theirs", "s", when_busy="queue", wait=False)

        store.appending = ("input.received", quicker)
        left = await loop.send("ours", "s", wait=False)
        assert (await inputs(loop))[left.input_seq] == "ours"
        await rest(loop)
        assert sorted((await inputs(loop)).values()) == ["first", "ours", "theirs"]
        taken = [seq for kept in await loop.history("s", kinds=["turn.started"]) for seq in kept.event.inputs]
        assert sorted(taken) == sorted(await inputs(loop))
        await loop.aclose()


async def test_the_turn_before_ours_is_interrupted_by_who_waited_for_it(tmp_path):
    """A parked input has its turn before ours, and the only one who waits for that turn leaves: it stays open, ours waits behind it."""
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return said(request)

    async with make(tmp_path / "log.db", slow) as loop:
        first = asyncio.ensure_future(loop.send("one", "s"))
        async with asyncio.timeout(PROMPT_SECONDS):
            while not await loop.sessions() or (await loop.state("s")).place != "asking":
                await asyncio.sleep(0.005)
        await loop.send("parked", "s", key="k", when_busy="queue", wait=False)
        await loop.cancel("s")
        await first
        ours = asyncio.ensure_future(loop.send("ours", "s"))
        async with asyncio.timeout(PROMPT_SECONDS):
            while (await loop.state("s")).place != "asking":
                await asyncio.sleep(0.005)
        joined = asyncio.ensure_future(loop.send("parked", "s", key="k"))
        await asyncio.sleep(0.05)
        joined.cancel()
        left = await asyncio.wait_for(ours, PROMPT_SECONDS)
        assert (left.status, left.turn, (await inputs(loop))[left.input_seq]) == ("waiting", 0, "ours")
        release.set()
        await loop.resume("s")
        await rest(loop)
        assert "ours" in str(await loop.messages("s"))


async def test_a_session_closed_while_we_take_it(tmp_path):
    """Who sends is told that it is closed, not that a move is illegal."""
    async with Between(tmp_path / "log.db") as store:
        first, second = make(store), make(store)
        await first.send("one", "s")
        store.appending = ("owner.changed", lambda: first.close_session("s"))
        with pytest.raises(SessionClosed):
            await second.send("two", "s")
        assert (await store.find("s")).deadline == 0
        assert sorted((await inputs(second)).values()) == ["one"]


async def test_a_turn_begun_while_we_take_the_session(tmp_path):
    """Who sends meets a turn that is open by then: the input waits behind it, or is refused."""
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return said(request)

    async with Between(tmp_path / "log.db") as store:
        first, second = make(store, slow), make(store, slow)
        release.set()
        await first.send("one", "s")
        release.clear()

        async def quicker() -> None:
            sending = asyncio.ensure_future(first.send("two", "s"))
            async with asyncio.timeout(PROMPT_SECONDS):
                while (await first.state("s")).place != "asking":
                    await asyncio.sleep(0.005)
            sending.cancel()
            await asyncio.wait([sending])

        store.appending = ("owner.changed", quicker)
        left = await second.send("three", "s", when_busy="queue")
        assert (left.status, left.turn) == ("waiting", 0)
        release.set()
        await second.resume("s")
        await rest(second)
        assert sorted((await inputs(second)).values()) == ["one", "three", "two"]


# -- facts from outside ------------------------------------------------------------------------------------------------


@guard("input")
def stern(incoming: Any) -> Any:
    """Take no bad words."""
    return Refuse("bad word") if "bad" in incoming.parts[0].text else None


REPORTS = {
    "cancel": ("cancel.asked", lambda loop: loop.cancel("s")),
    "settle": ("call.succeeded", lambda loop: loop.settle("s", "t1r31c1", Result("it came"))),
    "leave": ("input.received", lambda loop: loop.send("by the way", "s", when_busy="queue", wait=False)),
    "refuse": ("guard.decided", lambda loop: loop.send("bad", "s")),
    "abort": ("turn.ended", lambda loop: loop.abort_pending("s", reason="enough")),
}


@pytest.mark.parametrize("verb", REPORTS)
async def test_who_was_not_quick_enough_reads_what_came_and_no_more(tmp_path, verb):
    """A turn in progress adds facts faster than its past can be read again: whoever would do that would never be kept."""

    @tool(external=True)
    def wait() -> None:
        """Wait for somebody."""

    kind, report = REPORTS[verb]
    path, model = tmp_path / "log.db", ScriptedModel(lambda request: [Call("wait" if request.replies == 30 else "look")])
    options = {"tools": [look, wait], "limits": Limits(max_same_calls=None, max_rounds_without_progress=None)}
    async with Between(path) as store, StatefulAgentLoop(model, store=path, **options) as first, StatefulAgentLoop(model, store=store, guards=[stern], **options) as second:
        assert (await first.send("go", "s")).status == "waiting"
        assert (await store.find("s")).head > 100
        tries, read = list[int](), store.read

        async def counting(session: str, **what: Any) -> list[Record]:
            records = await read(session, **what)
            tries[-1] += len(records)
            return records

        async def quicker() -> None:
            tries.append(0)
            store.appending = (kind, quicker) if len(tries) <= 5 else None
            await first.send("one more", "s", when_busy="queue", wait=False)

        store.appending, store.read = (kind, quicker), counting
        tries.append(0)
        with contextlib.suppress(InputRefused):
            await report(second)
        kinds = [kept.kind for kept in await first.history("s")]
        assert kind in kinds[-6:]
        assert kinds.count("input.received") == 6 + (verb == "leave")
        assert max(tries[1:-1]) < 10


async def test_of_many_who_report_at_once_one_comes_after_the_other(tmp_path):
    """Only one of them can be kept at a head: the others wait for their turn and do not try in vain."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_: object) -> str:
        asked.set()
        await go.wait()
        return "done"

    async with Between(tmp_path / "log.db") as store, make(store, slow) as loop:
        sending = asyncio.ensure_future(loop.send("go", "s"))
        await asked.wait()
        appended, append = 0, store.append

        async def counting(request: Append) -> Kept:
            nonlocal appended
            appended += 1
            return await append(request)

        store.append = counting
        await asyncio.gather(*(loop.send(f"{number}", "s", when_busy="queue", wait=False) for number in range(20)))
        assert appended == 20
        go.set()
        await sending
        await rest(loop)
        assert (await loop.state("s")).turns == 21


# -- ending ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "kind"), [("abort_pending", "turn.ended"), ("close_session", "session.closed"), ("erase", "session.erased")])
async def test_a_fact_from_outside_while_a_session_is_ended(tmp_path, verb, kind):
    """Somebody adds a fact between the look and the end: it is looked at again, and the end comes all the same."""

    async def broken(_: object) -> str:
        await asyncio.sleep(3_600)
        return "never"

    async with Between(tmp_path / "log.db") as store:
        first, second = make(store, broken if verb == "abort_pending" else said), make(store)
        sending = asyncio.ensure_future(first.send("one", "s"))
        if verb == "abort_pending":
            async with asyncio.timeout(PROMPT_SECONDS):
                while not await first.sessions() or (await first.state("s")).place != "asking":
                    await asyncio.sleep(0.005)
            sending.cancel()
        await asyncio.wait([sending])

        async def quicker() -> None:
            from power_agent.events import InputReceived
            from power_agent.messages import Text

            await second._sink.report(await second.state("s"), [InputReceived(parts=(Text("two"),), mode="queue")])

        store.appending = (kind, quicker)
        options = {"abort_pending": {"reason": "enough"}, "close_session": {"abort": True}, "erase": {}}[verb]
        await getattr(first, verb)("s", **options)
        kinds = [kept.kind for kept in await second.history("s")]
        assert kinds.count(kind) == 1
        assert kinds.count("input.received") == 2
        assert (await store.find("s")).deadline == 0


async def test_a_session_erased_while_it_is_verified(tmp_path):
    """Its events were read before, its blobs are looked for after: nothing is wrong with it. A blob that is gone without that is missed."""

    @tool(recovery="rerun")
    def big() -> str:
        """Say much."""
        return "much " * 20_000

    path = tmp_path / "log.db"
    model = ScriptedModel(lambda request: [Call("big")] if request.messages[-1].role == "user" else "done")
    async with Between(path) as store, StatefulAgentLoop(model, tools=[big], store=path) as loop:
        await loop.send("one", "s")
        await loop.send("two", "t")
        read = store.read

        async def late(session: str, **what: Any) -> list[Record]:
            records = await read(session, **what)
            store.read = read
            await loop.erase("s")
            return records

        store.read = late
        assert [wrong async for wrong in store.verify("s")] == []
        assert (await store.find("s")).erased
        assert [wrong async for wrong in store.verify()] == []
        blob, store.blob = store.blob, lambda *_args, **_more: asyncio.sleep(0)
        assert ["is missing" in wrong async for wrong in store.verify("t")] == [True]
        store.blob = blob


async def test_a_session_erased_while_it_is_taken(tmp_path):
    """Who comes a moment too late is told that it was erased."""
    async with Between(tmp_path / "log.db") as store:
        first, second = make(store), make(store)
        await first.send("one", "s")
        store.reading = lambda: first.erase("s")
        with pytest.raises(SessionErased):
            await second.close_session("s")


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_closed_before_the_work_on_a_turn_has_made_its_first_step(tmp_path):
    """The work was begun, and its task was cancelled before it ran: the loop closes at once, and whoever sent is let go."""
    loop = await make(tmp_path / "log.db").__aenter__()
    sending = asyncio.ensure_future(loop.send("one", "s"))
    await asyncio.sleep(0)
    assert loop._desk.working("s") is not None
    async with asyncio.timeout(PROMPT_SECONDS):
        await loop.aclose()
        with pytest.raises(StoreClosed):
            await sending
    assert loop._desk.working("s") is None


def test_a_stream_that_fails_after_it_was_left(tmp_path):
    """Nobody is there to hear of it, and asyncio need not complain."""
    complaints = []

    async def life() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what["message"]))
        refuse = guard("input")(lambda _: Refuse("no"))
        async with StatefulAgentLoop(ScriptedModel(said), store=tmp_path / "log.db", guards=[refuse]) as loop:
            await loop.stream("one", "s").aclose()
            async with asyncio.timeout(PROMPT_SECONDS):
                while loop._streams:
                    await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(life())
    assert complaints == []


async def test_a_stream_ends_with_its_turn_also_when_another_loop_drives(tmp_path, monkeypatch):
    """Whoever drives goes on with the next turn at once; the stream shows nothing of it."""
    monkeypatch.setattr("power_agent.loop.intake.LOOK_SECONDS", 0.5)
    monkeypatch.setattr("power_agent.loop.stream.LOOK_SECONDS", 0.01)
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return said(request)

    async with SQLiteStore(tmp_path / "log.db") as store:
        driving, looking = make(store, slow), make(store, slow)
        first = asyncio.ensure_future(driving.send("one", "s"))
        async with asyncio.timeout(PROMPT_SECONDS):
            while not await driving.sessions() or (await driving.state("s")).place != "asking":
                await asyncio.sleep(0.005)
        stream = looking.stream("two", "s", when_busy="queue")

        async def read() -> list[int]:
            return [item.seq async for item in stream if hasattr(item, "seq")]

        reading = asyncio.ensure_future(read())
        async with asyncio.timeout(PROMPT_SECONDS):
            while not (await driving.state("s")).inputs:
                await asyncio.sleep(0.005)
        third = asyncio.ensure_future(driving.send("three", "s", when_busy="queue"))
        async with asyncio.timeout(PROMPT_SECONDS):
            while len((await driving.state("s")).inputs) < 2:
                await asyncio.sleep(0.005)
        release.set()
        seqs = await asyncio.wait_for(reading, PROMPT_SECONDS)
        await asyncio.gather(first, third)
        assert stream.result.turn == 2
        assert seqs == list(range(seqs[0], stream.result.seq + 1))
        await looking.aclose()
        await driving.aclose()


async def test_a_stream_of_a_turn_that_ended_long_ago(tmp_path, monkeypatch):
    """Read from the log before anybody said where its input stands: it still ends with that turn, and not with the last one."""
    monkeypatch.setattr("power_agent.loop.stream.LOOK_SECONDS", 0.01)
    async with SQLiteStore(tmp_path / "log.db") as store:
        loop = make(store)
        first = await loop.send("one", "s", key="k")
        for _ in range(3):
            await loop.send("more", "s")
        stream = loop.stream("one", "s", key="k")
        seqs: list[int] = []

        async def read() -> None:
            seqs.extend([item.seq async for item in stream if hasattr(item, "seq")])

        seen = loop._intake._seen
        again = asyncio.Event()

        async def slow_to_see(order):
            found = await seen(order)
            if again.is_set():
                await asyncio.sleep(0.3)
            again.set()
            return found

        loop._intake._seen = slow_to_see
        await asyncio.wait_for(read(), PROMPT_SECONDS)
        assert seqs[-1] == first.seq
        assert stream.result.seq == first.seq
        await loop.aclose()


async def test_an_input_left_a_moment_before_the_session_is_given_up(tmp_path):
    """Its owner has nothing more to keep and gives the session up without moving the head: it looks once more, and takes the input."""

    @tool(external=True)
    def wait() -> None:
        """Wait for somebody."""

    model = ScriptedModel(lambda request: [Call("wait")] if request.replies == 0 else f"heard {request.messages[-1].text}")
    async with StatefulAgentLoop(model, tools=[wait], store=tmp_path / "agent.db") as loop, StatefulAgentLoop(model, tools=[wait], store=tmp_path / "agent.db") as other:
        assert (await loop.send("go", "s")).status == "waiting"
        state, release = await loop._sink.claim("s"), loop._store.release
        drive = loop._new_drive(state)

        async def slow(session: str, epoch: int) -> None:
            loop._store.release = release
            await other.settle("s", "t1r1c1", Result("it came"))
            await other.send("by the way", "s", when_busy="queue", wait=False)
            await release(session, epoch)

        loop._store.release = slow
        after = await drive.run()
        assert (after.turns, after.inputs, after.turn) == (2, (), None)
        assert (await loop.sessions())[0].deadline == 0
