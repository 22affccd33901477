"""Cancelled at every await, asked to stop in the middle of a batch, closed, interrupted by Ctrl-C: the turn stays open and resumable.

An interrupt is a clean crash: what is known is kept, the session is free at once for whoever comes next, in this process too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest
import scenes
import story
from processes import PATIENCE_SECONDS, PROMPT_SECONDS
from story import MESSAGES, PERSON, SESSION, Theatre, World

from power_agent import Abort, Approve, Call, DidNotHappen, Happened, Result, Retry, ScriptedModel, SessionPending, SQLiteStore, StatefulAgentLoop, ToolContext, tool
from power_agent.errors import NothingToResume, PowerAgentError, SessionNotFound, StoreClosed
from power_agent.events import TERMINAL
from power_agent.limits import STOP_SECONDS
from power_agent.loop.work import Work
from power_agent.ports import Append, Kept
from power_agent.state import SessionState

log = logging.getLogger(__name__)
ALL = bool(os.environ.get("POWER_AGENT_STORM"))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    """A busy model is asked again at once."""
    monkeypatch.setattr("power_agent.drive.attempts.backoff", lambda _attempt: 0.001)


def threads_end(seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for tools that were left behind in their threads: what they did is then true, or not."""
    until = time.monotonic() + seconds
    while any(thread.name.startswith(("power-agent-tool", "power-agent-probe")) for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.001)


# -- at every await ----------------------------------------------------------------------------------------------------


class Counting(asyncio.SelectorEventLoop):
    """An event loop that does something before its nth turn."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1
        self.then: Callable[[], object] = lambda: None

    def before(self, n: int, then: Callable[[], object]) -> None:
        """Do something before the nth turn from now."""
        self.left, self.then = n, then

    def _run_once(self) -> None:
        if self.left >= 0:
            self.left -= 1
            if self.left < 0:
                self.then()
        super()._run_once()


async def cancelled_at(n: int, work: Coroutine[Any, Any, Any]) -> tuple[bool, Any]:
    """Run work in a task and cancel it at the nth turn of the event loop; say whether it was cancelled, and what it returned."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Counting)
    task = asyncio.ensure_future(work)
    loop.before(n, task.cancel)
    try:
        return False, await task
    except asyncio.CancelledError:
        return True, None
    finally:
        loop.left = -1


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Counting) as runner:
        return runner.run(main)


TOLD = MESSAGES if ALL else MESSAGES[:1]


async def interrupted_at(n: int, store: SQLiteStore, world: World) -> tuple[bool, list[tuple[object, ...]]]:
    """Interrupt the story, then let a new loop object finish it while the old one still lives."""
    first, second = story.agent(store, world), story.agent(store, world)
    was, _ = await cancelled_at(n, story.tell(first, world, messages=TOLD))
    threads_end()
    begun = time.monotonic()
    results = await story.tell(second, world, messages=TOLD)
    assert time.monotonic() - begun < PROMPT_SECONDS, f"step {n}: it waited for the lease"
    assert [wrong async for wrong in store.verify()] == []
    await first.aclose()
    await second.aclose()
    return was, story.outcomes(results)


def test_cancelled_at_every_step(tmp_path, caplog):
    """The task that runs a turn is cancelled at the nth step of the event loop, n = 0, 1, 2 … until it runs clean: another loop
    object goes on at once and comes to the same end; nothing runs twice that must not, and no error is left for nobody.
    """

    async def all_of_them() -> int:
        came_to = None
        for n in itertools.count():
            world, path = World(tmp_path / f"world-{n}"), tmp_path / f"{n}.db"
            async with SQLiteStore(path, durability="normal") as store:
                was, ends = await interrupted_at(n, store, world)
            came_to = came_to or ends
            assert ends == came_to, n
            story.judge(path, world, messages=len(TOLD))
            path.unlink()
            if not was:
                return n
        return 0

    points = run(all_of_them())
    gc.collect()
    assert points >= 100
    assert caplog.messages == [], "a task failed and nobody looked"
    log.info("cancel points: %s", points)


def test_cancelled_at_many_steps_while_others_are_busy(tmp_path):
    """The same with other sessions of the same loop committing all the time: a commit under way must not outlive the release."""

    async def busy(loop: StatefulAgentLoop, world: World, name: str) -> None:
        for number in itertools.count():
            await story.tell(loop, world, f"{name}-{number}", messages=MESSAGES[:1])

    async def all_of_them() -> int:
        world, path = World(tmp_path / "world"), tmp_path / "log.db"
        interrupted = 0
        async with SQLiteStore(path, durability="normal") as store:
            first = story.agent(store, world)
            others = [asyncio.ensure_future(busy(first, world, name)) for name in ("left", "right")]
            try:
                for n in range(0, 400, 1 if ALL else 5):
                    session = f"mine-{n}"
                    was, _ = await cancelled_at(n, story.tell(first, world, session, messages=MESSAGES[:1]))
                    interrupted += was
                    second = story.agent(store, world)
                    begun = time.monotonic()
                    await story.tell(second, world, session, messages=MESSAGES[:1])
                    assert time.monotonic() - begun < PROMPT_SECONDS, f"step {n}: it waited for the lease"
                    await second.aclose()
                assert not any(other.done() for other in others)
            finally:
                for other in others:
                    other.cancel()
                await asyncio.wait(others)
                await first.aclose()
        rows = scenes.judge(path)
        story.judge(path, world, sorted({row.session for row in rows if row.session.startswith("mine")}), messages=1)
        return interrupted

    assert run(all_of_them()) >= 40


class SlowStore(SQLiteStore):
    """A store whose commits wait behind those of others."""

    async def append(self, request: Append) -> Kept:
        await asyncio.sleep(0.02)
        return await super().append(request)


def test_a_commit_under_way_is_waited_for_before_the_session_is_given_up(tmp_path):
    """A cancelled commit is kept all the same, perhaps later; it must not take the lease again behind the release."""

    async def all_of_them() -> int:
        interrupted = 0
        for n in range(0, 120, 1 if ALL else 3):
            world = World(tmp_path / f"world-{n}")
            async with SlowStore(tmp_path / f"{n}.db") as store:
                first, second = story.agent(store, world), story.agent(store, world)
                was, _ = await cancelled_at(n, story.tell(first, world, messages=MESSAGES[:1]))
                interrupted += was
                await asyncio.to_thread(threads_end)
                for row in await store.sessions():
                    assert row.deadline == 0, f"step {n}: the session is held, and nobody works on it"
                await asyncio.sleep(0.05)
                for row in await store.sessions():
                    assert row.deadline == 0, f"step {n}: a late commit took the lease again"
                await second.aclose()
        return interrupted

    assert run(all_of_them()) >= 30


# -- in the middle of a batch --------------------------------------------------------------------------------------------


class Stuck:
    """Tools that say when they have begun and go on until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("power_agent.drive.calls.CANCEL_GRACE_SECONDS", 0.1)
        self.begun: set[str] = set()
        self.happened: list[str] = []
        self.gate = threading.Event()
        self.tools = [
            tool(name="slow", recovery="ask")(self._slow),
            tool(name="slow_look", recovery="rerun")(self._slow_look),
            tool(name="thread", recovery="ask")(self._thread),
            tool(name="thread_probe", probe=self._did_it)(self._thread_probe),
            tool(name="polite", recovery="ask")(self._polite),
            tool(name="wire", recovery="ask")(self._wire),
        ]

    async def _slow(self, ctx: ToolContext) -> None:
        self.begun.add(ctx.call)
        await asyncio.sleep(3_600)
        self.happened.append(ctx.call)

    async def _slow_look(self, ctx: ToolContext) -> None:
        await self._slow(ctx)

    def _thread(self, ctx: ToolContext) -> str:
        self.begun.add(ctx.call)
        assert self.gate.wait(PATIENCE_SECONDS)
        self.happened.append(ctx.call)
        return "done"

    def _thread_probe(self, ctx: ToolContext) -> str:
        return self._thread(ctx)

    async def _did_it(self, _: object, ctx: ToolContext) -> object:
        return Happened("done") if ctx.call in self.happened else DidNotHappen()

    async def _polite(self, ctx: ToolContext) -> str:
        self.begun.add(ctx.call)
        while not ctx.cancelled:
            await asyncio.sleep(0.001)
        self.happened.append(ctx.call)
        return "stopped in time"

    async def _wire(self, ctx: ToolContext) -> None:
        self.happened.append(ctx.call)

    def agent(self, store: Any, names: Sequence[str], **more: Any) -> StatefulAgentLoop:
        """Build an agent that calls these tools side by side, once."""
        model = ScriptedModel([[Call(name) for name in names], "Over."])
        return StatefulAgentLoop(model, tools=self.tools, store=store, policy=story.policy, **more)

    async def running(self, *calls: str) -> None:
        """Wait until these calls are in the middle of it."""
        async with asyncio.timeout(PROMPT_SECONDS):
            while not self.begun.issuperset(calls):
                await asyncio.sleep(0.001)


@pytest.fixture
def stuck(monkeypatch):
    found = Stuck(monkeypatch)
    yield found
    found.gate.set()
    threads_end()


def places(result: Any) -> dict[str, str]:
    return {call.tool: call.state for call in result.calls}


async def test_cancel_in_the_middle_of_a_batch(stuck, tmp_path):
    """Running async tools are stopped, a thread is left behind, a waiting call is aborted: `ask` is doubted, `rerun` aborted, one that
    ends in time keeps its outcome. The doubt stays for a person; then the turn ends as cancelled, and nothing more is asked or run.
    """
    async with stuck.agent(tmp_path / "log.db", ["slow", "slow_look", "thread", "polite", "wire"]) as loop:
        sending = asyncio.ensure_future(loop.send("go", "s"))
        await stuck.running("t1r1c1", "t1r1c2", "t1r1c3", "t1r1c4")
        begun = time.monotonic()
        assert await loop.cancel("s", reason="enough", by=PERSON)
        result = await sending
        assert time.monotonic() - begun < PROMPT_SECONDS
        assert result.status == "waiting"
        assert places(result) == {"slow": "doubted", "slow_look": "aborted", "thread": "doubted", "polite": "succeeded", "wire": "aborted"}
        assert stuck.happened == ["t1r1c4"]
        assert (await loop.resume("s")).status == "waiting"
        await loop.settle("s", "t1r1c1", Abort("it did not happen"), by=PERSON)
        await loop.settle("s", "t1r1c3", Result("done"), by=PERSON)
        result = await loop.resume("s")
        assert (result.status, result.reason) == ("cancelled", "enough")
        kinds = [kept.kind for kept in await loop.history("s")]
        asked = kinds.index("cancel.asked")
        assert not {"call.started", "model.asked"} & set(kinds[asked:]), "I14"
        assert len(loop._model.requests) == 1


async def test_cancel_while_only_a_person_is_waited_for(stuck, tmp_path):
    """Nobody works on the session: the cancel is kept and ends the turn at once, without running anything; `resume` says how it ended."""
    async with stuck.agent(tmp_path / "log.db", ["wire"]) as loop:
        assert (await loop.send("go", "s")).status == "waiting"
        assert await loop.cancel("s", reason="enough", by=PERSON)
        assert not await loop.cancel("s", reason="enough", by=PERSON)
        result = await loop.resume("s")
        assert (result.status, places(result), stuck.happened) == ("cancelled", {"wire": "aborted"}, [])
        assert not await loop.cancel("s")
        kinds = [kept.kind for kept in await loop.history("s")]
        assert kinds.count("cancel.asked") == 1


async def test_cancel_while_the_model_is_asked(tmp_path):
    """The request is dropped, its answer is not waited for, and the turn ends."""
    asked = asyncio.Event()

    async def never(_: object) -> str:
        asked.set()
        await asyncio.sleep(3_600)
        return "too late"

    async with StatefulAgentLoop(ScriptedModel(never), store=tmp_path / "log.db") as loop:
        sending = asyncio.ensure_future(loop.send("go", "s"))
        await asked.wait()
        begun = time.monotonic()
        assert await loop.cancel("s", reason="enough")
        result = await sending
        assert (result.status, result.text) == ("cancelled", "")
        assert time.monotonic() - begun < PROMPT_SECONDS


async def test_aclose_during_a_turn(stuck, tmp_path):
    """Closing interrupts: the turn stays open, what ended is kept, the next loop owns the session at once, and asks about the rest."""
    loop = await stuck.agent(tmp_path / "log.db", ["slow", "slow_look", "thread", "wire"]).__aenter__()
    sending = asyncio.ensure_future(loop.send("go", "s"))
    await stuck.running("t1r1c1", "t1r1c2", "t1r1c3")
    begun = time.monotonic()
    await loop.aclose()
    with pytest.raises(StoreClosed, match="was over"):
        await sending
    stuck.gate.set()
    threads_end()
    async with stuck.agent(tmp_path / "log.db", ["slow", "slow_look", "thread", "wire"]) as other:
        with pytest.raises(SessionPending):
            await other.send("are you there?", "s")
        resuming = asyncio.ensure_future(other.resume("s"))
        while (await other.state("s")).calls["t1r1c2"].attempt < 2:
            await asyncio.sleep(0.01)
        assert time.monotonic() - begun < PROMPT_SECONDS
        pending = {call.tool: (call.state, call.attempt) for call in await other.pending("s")}
        assert pending == {"slow": ("doubted", 1), "slow_look": ("started", 2), "thread": ("doubted", 1), "wire": ("waiting", 0)}
        resuming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await resuming
    assert stuck.happened == ["t1r1c3"]


async def test_aclose_before_the_first_step_of_a_turn(tmp_path):
    """A loop that is closed in the same breath in which a turn began leaves a session that is free at once."""
    world = World(tmp_path / "world")
    for steps in range(12):
        path = tmp_path / f"{steps}.db"
        loop = await story.agent(path, world).__aenter__()
        sending = asyncio.ensure_future(story.tell(loop, world, f"s{steps}", messages=MESSAGES[:1]))
        for _ in range(steps):
            await asyncio.sleep(0)
        await loop.aclose()
        sending.cancel()
        await asyncio.wait([sending])
        threads_end()
        begun = time.monotonic()
        async with story.agent(path, world) as other:
            await story.tell(other, world, f"s{steps}", messages=MESSAGES[:1])
        assert time.monotonic() - begun < PROMPT_SECONDS, f"{steps}: it waited for the lease"


async def test_whoever_waits_when_the_loop_is_closed_is_told_so(tmp_path):
    """Nobody cancelled them: who sent, who is queued behind the turn here, who is queued behind another loop's, who reads a stream."""

    def agent() -> StatefulAgentLoop:
        return StatefulAgentLoop(ScriptedModel(lambda _: asyncio.sleep(3_600)), store=tmp_path / "log.db")

    async def nap(_: Work) -> SessionState:
        await asyncio.sleep(3_600)
        raise AssertionError

    async with agent() as owner:
        theirs = asyncio.ensure_future(owner.send("go", "theirs"))
        loop = await agent().__aenter__()
        mine = asyncio.ensure_future(loop.send("go", "s"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while owner._desk.idle or await owner.store.find("theirs") is None or await owner.store.find("s") is None:
                await asyncio.sleep(0.01)
            behind = [("s", loop.send), ("theirs", loop.send)]
            waiting = [mine, *(asyncio.ensure_future(send("me too", name, when_busy="queue")) for name, send in behind)]
            streams = [loop.stream("go", "streamed"), loop.stream("me too", "theirs", when_busy="queue")]
            waiting += [asyncio.ensure_future(_last(stream)) for stream in streams]
            while len((await owner.state("theirs")).inputs) < 2 or len((await owner.state("s")).inputs) < 1 or await owner.store.find("streamed") is None:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(PROMPT_SECONDS):
            waiting.append(loop._desk.begin("short", nap).task)
            await asyncio.sleep(0)
            await loop.aclose()
            await asyncio.wait(waiting)
        for one in waiting:
            with pytest.raises(StoreClosed, match="was over") as caught:
                await one
            assert "resume" in caught.value.hint
        assert not any(one.cancelling() for one in waiting[:-1])
        theirs.cancel()
        await asyncio.wait([theirs])


async def _last(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def test_a_closing_that_is_cancelled_is_brought_to_its_end(tmp_path):
    """A tool takes its time to end: whoever closes is late, but nothing was closed under the work, and the session is free."""

    @tool
    async def slow() -> str:
        begun.set()
        try:
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(0.3)
        return ""

    begun = asyncio.Event()
    async with SQLiteStore(tmp_path / "log.db") as store:
        loop = StatefulAgentLoop(ScriptedModel([[Call("slow")], "done"]), tools=[slow], store=tmp_path / "log.db")
        await loop.__aenter__()
        sending = asyncio.ensure_future(loop.send("x", "s"))
        await begun.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.aclose(), 0.1)
        assert sending.done(), "it left before the work had ended"
        with pytest.raises(StoreClosed, match="was over"):
            await sending
        row = await store.find("s")
        assert row is not None
        assert row.deadline == 0


async def test_a_tool_that_closes_its_loop(tmp_path):
    """It interrupts itself; nobody waits for anybody, and the session is free at once."""

    @tool
    async def leave() -> None:
        await loop.aclose()

    loop = StatefulAgentLoop(ScriptedModel([[Call("leave")], "done"]), tools=[leave], store=tmp_path / "log.db")
    async with SQLiteStore(tmp_path / "log.db") as store, asyncio.timeout(STOP_SECONDS * 0.8):
        await loop.__aenter__()
        with pytest.raises(StoreClosed, match="was over"):
            await loop.send("x", "s")
        await loop.aclose()
        row = await store.find("s")
        assert row is not None
        assert row.deadline == 0


async def test_a_probe_is_not_asked_while_the_thread_it_asks_about_still_runs(stuck, tmp_path):
    """An interrupted sync tool goes on in its thread; that it has not happened *yet* is not that it did not happen."""
    async with SQLiteStore(tmp_path / "log.db") as store:
        first = stuck.agent(store, ["thread_probe"])
        sending = asyncio.ensure_future(first.send("go", "s"))
        await stuck.running("t1r1c1")
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        resuming = asyncio.ensure_future(stuck.agent(store, ["thread_probe"]).resume("s"))
        await asyncio.wait([resuming], timeout=0.3)
        stuck.gate.set()
        await resuming
        await asyncio.to_thread(threads_end)
        assert stuck.happened == ["t1r1c1"], "it was run a second time beside the first"
        result = await stuck.agent(store, ["thread_probe"]).resume("s")
        assert (result.status, places(result)) == ("completed", {"thread_probe": "succeeded"})


# -- Ctrl-C ----------------------------------------------------------------------------------------------------------------


def test_ctrl_c(tmp_path):
    """SIGINT ends the process in order: whatever it was doing, the turn stays open, and the next process goes on at once."""
    with Theatre(tmp_path) as theatre:
        interrupted = open_turns = 0
        came_to = None
        for number in range(24):
            path, world = tmp_path / f"{number}.db", World(tmp_path / f"world-{number}")
            actor = theatre.play("live", path, world.folder, SESSION, 0.005)
            scenes.until(lambda world=world: world.lines(SESSION, "told"))
            time.sleep(number * 0.006)
            with contextlib.suppress(ProcessLookupError):
                actor.signal(signal.SIGINT)
            status = actor.wait()
            text = actor.errors.read_text(encoding="utf-8")
            assert status == 0 or text.splitlines()[-1] == "KeyboardInterrupt", text
            assert "never retrieved" not in text
            assert "was destroyed" not in text
            interrupted += status != 0
            kinds = [row.kind for row in story.judge(path, world, messages=None)]
            open_turns += kinds.count("turn.started") > kinds.count("turn.ended")
            with contextlib.closing(sqlite3.connect(path)) as db:
                assert db.execute("SELECT deadline FROM session").fetchall() == [(0,)], f"{number}: it was not given up"
            theatre.play("live", path, world.folder).ends_well()
            rows = story.judge(path, world)
            ends = sorted((row.call, row.kind) for row in rows if row.kind in TERMINAL)
            came_to = came_to or ends
            assert ends == came_to
        assert interrupted >= 10
        assert open_turns >= 8
        log.info("Ctrl-C: %s, with an open turn: %s", interrupted, open_turns)


async def test_nothing_to_resume_stays_nothing(tmp_path):
    """Interrupted before anything was said: there is nothing to resume, and a send simply begins."""
    world = World(tmp_path / "world")
    async with story.agent(tmp_path / "log.db", world) as loop:
        with pytest.raises(SessionNotFound):
            await loop.resume(SESSION)
        sending = asyncio.ensure_future(story.tell(loop, world))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        with contextlib.suppress(SessionNotFound, NothingToResume):
            await loop.resume(SESSION)
            pytest.fail("there was something")
        await story.tell(loop, world)
    story.judge(tmp_path / "log.db", world)


async def test_approve_and_retry_from_another_loop_while_the_first_waits(stuck, tmp_path):
    """A person decides through another loop object while one call still runs: the owner sees it and goes on by itself."""
    async with SQLiteStore(tmp_path / "log.db") as store:
        first, second = (stuck.agent(store, ["polite", "wire"]) for _ in range(2))
        sending = asyncio.ensure_future(first.send("go", "s"))
        await stuck.running("t1r1c1")
        await second.settle("s", "t1r1c2", Approve(), by=PERSON)
        async with asyncio.timeout(PROMPT_SECONDS):
            while not stuck.happened:
                await asyncio.sleep(0.01)
        assert stuck.happened == ["t1r1c2"]
        with pytest.raises(PowerAgentError):
            await second.settle("s", "t1r1c1", Retry(), by=PERSON)
        await second.cancel("s")
        result = await sending
        assert (result.status, places(result)) == ("cancelled", {"polite": "succeeded", "wire": "succeeded"})
