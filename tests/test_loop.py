"""The verbs: what each does, what it refuses, what it costs, and what it leaves in the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import textwrap
import threading
from collections import Counter
from typing import Any

import pytest
from processes import PATIENCE_SECONDS, PROMPT_SECONDS

from power_agent import (
    Abort,
    Answer,
    Approve,
    Attachment,
    Call,
    Limits,
    ModelError,
    Result,
    ScriptedModel,
    SessionBusy,
    SessionPending,
    Sink,
    SQLiteStore,
    StatefulAgentLoop,
    Text,
    ToolContext,
    TurnResult,
    Usage,
    process,
    tool,
)
from power_agent import events as e
from power_agent.chance import CountedChance, SystemChance
from power_agent.clock import HeldClock, SystemClock
from power_agent.errors import CallNotFound, InvalidInput, InvalidSessionId, KeyConflict, KeyNeedsSession, NothingToResume, SessionClosed, SessionNotFound, StoreClosed
from power_agent.limits import FIRST_BACKOFF_SECONDS, MAX_MODEL_ATTEMPTS
from power_agent.policy import Allow, Ask, Deny
from power_agent.word import replace


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("power_agent.drive.ledger.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("power_agent.drive.calls.CANCEL_GRACE_SECONDS", 0.05)


@pytest.fixture
def make(tmp_path):
    """Return a function that builds an agent on this test's file; built twice, they are two owners."""

    def agent(script=(), **options):
        model = script if isinstance(script, ScriptedModel) else ScriptedModel(script)
        return StatefulAgentLoop(model, store=options.pop("store", tmp_path / "agent.db"), **options)

    return agent


class Gate:
    """A tool that says that it is running and waits until it is let through."""

    def __init__(self, recovery: str = "ask") -> None:
        self.entered, self.opened = asyncio.Event(), asyncio.Event()
        self.runs = 0

        @tool(name="gate", recovery=recovery)
        async def gate() -> str:
            self.runs += 1
            self.entered.set()
            await self.opened.wait()
            return "through"

        self.tool = gate


def ask_first(_):
    return Ask("May it?", "always")


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


async def kinds(loop, session="s") -> list[str]:
    return [kept.kind for kept in await loop.history(session)]


async def until(loop, kind: str, session: str = "s") -> None:
    """Wait until an event of that kind is kept."""
    async with asyncio.timeout(PROMPT_SECONDS):
        while not await loop.sessions() or kind not in await kinds(loop, session):
            await asyncio.sleep(0.01)


async def elsewhere(path, code: str, *, first_line: bool = False) -> Any:
    """Run a few lines in another process that has the names of `power_agent` and an open `store`; return what they print."""
    program = f"import asyncio, json, sys\nfrom power_agent import *\nasync def main(path):\n{textwrap.indent(textwrap.dedent(code), '    ')}\nasyncio.run(main({str(path)!r}))"
    child = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "-c", program, stdout=asyncio.subprocess.PIPE)
    if first_line:
        assert child.stdout
        return child, json.loads(await child.stdout.readline())
    out, _ = await child.communicate()
    assert child.returncode == 0
    return json.loads(out)


async def interrupted(loop, gate: Gate, session: str = "s") -> None:
    """Send, wait until the tool runs, and interrupt: the turn stays open, the call started."""
    task = asyncio.create_task(loop.send("go", session))
    await gate.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- send --------------------------------------------------------------------------------------------------------------


async def test_the_example_of_the_design(tmp_path):
    """The ten lines of the design run as they stand, with a scripted model in the place of a provider's."""
    charged = []

    class bank:  # noqa: N801  as the design calls it
        @staticmethod
        async def charge(order: str, cents: int, idempotency_key: str) -> str:
            charged.append((order, cents, idempotency_key))
            return "charged"

    @tool(recovery="keyed")
    async def charge(order: str, cents: int, ctx: ToolContext) -> str:
        """Charge an order.

        Args:
            order: The order's number.
            cents: How much, in cents.
        """
        return await bank.charge(order, cents, idempotency_key=ctx.idempotency_key)

    model = ScriptedModel([[Call("charge", {"order": "42", "cents": 1000})], "Charged."])
    async with StatefulAgentLoop(model, tools=[charge], store=tmp_path / "agent.db") as loop:
        result = await loop.send("Charge order 42: ten euros.", session_id="alice")
    assert (result.text, result.status, result.session_id, result.turn) == ("Charged.", "completed", "alice", 1)
    assert charged[0][:2] == ("42", 1000)
    assert len(charged[0][2]) == 32
    assert dict(model.requests[0].tools[0].parameters["properties"]["cents"]) == {"description": "How much, in cents.", "type": "integer"}


async def test_a_model_that_nobody_provides(tmp_path):
    """A name that no provider stands behind is refused with a hint, before any file is made."""
    with pytest.raises(InvalidInput, match="The providers are"):
        StatefulAgentLoop("nobody:nothing", store=tmp_path / "agent.db")
    assert not (tmp_path / "agent.db").exists()


async def test_sending_twice(make):
    """The second turn sees the first one."""
    model = ScriptedModel(["Hello Ada.", "Ada."])
    async with make(model) as loop:
        first = await loop.send("I am Ada.", "s")
        second = await loop.send("Who am I?", "s")
    assert [message.text for message in model.requests[1].messages] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    assert (first.turn, second.turn) == (1, 2)
    assert first.seq < second.input_seq < second.seq


async def test_sending_from_another_process(make, tmp_path):
    """Two processes talk to one session in turns; each sees what the other said, also the one that remembers an older state."""
    async with make(["one", "unused", "three"]) as loop:
        await loop.send("1", "s")
        told = await elsewhere(
            tmp_path / "agent.db",
            """
            model = ScriptedModel(["unused", "two"])
            async with StatefulAgentLoop(model, store=path) as loop:
                result = await loop.send("2", "s")
                print(json.dumps([result.turn, [m.text for m in model.requests[0].messages]]))
            """,
        )
        assert told == [2, ["1", "one", "2"]]
        result = await loop.send("3", "s")
        assert result.turn == 3
        assert [message.text for message in await loop.messages("s")] == ["1", "one", "2", "two", "3", "three"]
        assert (await kinds(loop)).count("owner.changed") == 2


async def test_new_sessions(make):
    """Without an id each send begins a session of its own; an unknown id is created with that id."""
    async with make(lambda _: "hi", chance=CountedChance()) as loop:
        ids = [(await loop.send("x")).session_id, (await loop.send("x")).session_id, (await loop.send("x", "mine")).session_id]
        assert ids == ["session-1", "session-2", "mine"]
        assert [row.session for row in await loop.sessions()] == ["mine", "session-1", "session-2"]
        assert [row.session for row in await loop.sessions(after="mine", limit=1)] == ["session-1"]


@pytest.mark.parametrize(
    "verb",
    [
        lambda loop: loop.resume("nobody"),
        lambda loop: loop.pending("nobody"),
        lambda loop: loop.settle("nobody", "t1r1c1", Approve()),
        lambda loop: loop.abort_pending("nobody", reason="x"),
        lambda loop: loop.cancel("nobody"),
        lambda loop: loop.history("nobody"),
        lambda loop: loop.messages("nobody"),
        lambda loop: loop.state("nobody"),
        lambda loop: loop.close_session("nobody"),
        lambda loop: loop.close_session("nobody", abort=True),
        lambda loop: loop.blob("nobody", "00" * 32),
    ],
    ids=["resume", "pending", "settle", "abort_pending", "cancel", "history", "messages", "state", "close_session", "close_session_abort", "blob"],
)
async def test_only_send_creates_sessions(make, verb):
    """Every verb but send says that there is no such session, and creates none."""
    async with make() as loop:
        with pytest.raises(SessionNotFound, match="nobody"):
            await verb(loop)
        assert await loop.sessions() == []


@pytest.mark.parametrize("name", ["", "@last", "a\nb", "x" * 201, "\ud800"])
async def test_illegal_session_ids(make, name):
    """An illegal id is refused by every verb that takes one, and nothing is written."""
    async with make(["x"]) as loop:
        for verb in (lambda: loop.send("x", name), lambda: loop.resume(name), lambda: loop.history(name), lambda: loop.cancel(name), lambda: loop.state(name)):
            with pytest.raises(InvalidSessionId):
                await verb()
        assert await loop.sessions() == []


@pytest.mark.parametrize("message", ["", "  \n ", [], (), [Text("")], [Text(" "), Text("\t")], [Call("x")], [b"text"], [""], 3])
async def test_there_must_be_something_to_send(make, message):
    """Empty text, no parts, and what is not a part are refused; no session comes of it."""
    async with make(["x"]) as loop:
        with pytest.raises(InvalidInput):
            await loop.send(message, "s")
        assert await loop.sessions() == []


@pytest.mark.parametrize(
    "parts",
    [(Text("a"),), (Text("a"), Text("b")), (Attachment("image/png", url="https://example.org/a.png"),), (Text("see"), Attachment("image/png", url="https://example.org/a.png"))],
)
async def test_parts_reach_the_model(make, parts):
    """Texts and attachments reach the model as they were said, as one part or many."""
    model = ScriptedModel(["ok", "ok"])
    async with make(model) as loop:
        await loop.send(list(parts), "s")
        await loop.send(parts[0], "t")
    assert model.requests[0].messages[0].parts == parts
    assert model.requests[1].messages[0].parts == parts[:1]


async def test_who_said_it(make):
    """`by` is kept with the input."""
    async with make(["ok"]) as loop:
        await loop.send("x", "s", by="ada")
        assert (await loop.history("s", kinds=["input.received"]))[0].event.by == "ada"


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_a_repeated_key(make):
    """The same key with the same content returns the same result, from another owner too; there is no second turn and no event."""
    model = ScriptedModel(["one", "two"])
    async with make(model) as loop:
        first = await loop.send("x", "s", key="k")
        await loop.send("y", "s")
        before = await kinds(loop)
        again = await loop.send("x", "s", key="k")
        async with make([]) as other:
            assert await other.send([Text("x")], "s", key="k") == first
        assert again == first
        assert await kinds(loop) == before
    assert len(model.requests) == 2


async def test_a_key_with_other_content(make):
    """The same key with other content is refused; in another session it is another key."""
    async with make(lambda _: "ok") as loop:
        await loop.send("x", "s", key="k")
        with pytest.raises(KeyConflict) as caught:
            await loop.send("y", "s", key="k")
        assert (caught.value.session, caught.value.key) == ("s", "k")
        assert (await loop.send("y", "t", key="k")).status == "completed"


async def test_a_key_needs_a_session(make):
    """A key without a session id is refused, as is an illegal key."""
    async with make(["ok"]) as loop:
        with pytest.raises(KeyNeedsSession):
            await loop.send("x", key="k")
        with pytest.raises(InvalidInput, match="key"):
            await loop.send("x", "s", key="")
        assert await loop.sessions() == []


async def test_a_key_of_a_waiting_turn(make):
    """The key of a turn that waits for a person answers `waiting` with the calls; once it is over, the end; a crash changes nothing."""
    async with make([[Call("add", {"a": 1, "b": 2})], "three"], tools=[add], policy=ask_first) as loop:
        first = await loop.send("x", "s", key="k")
        before = await kinds(loop)
        again = await loop.send("x", "s", key="k")
        assert again == first
        assert (again.status, again.pending[0].id) == ("waiting", "t1r1c1")
        assert await kinds(loop) == before
        await loop.settle("s", "t1r1c1", Approve())
        ended = await loop.resume("s")
        assert await loop.send("x", "s", key="k") == ended


async def test_a_key_comes_before_closed(make):
    """A repeated key is answered in a closed session too, where anything new is refused."""
    async with make(["ok"]) as loop:
        first = await loop.send("x", "s", key="k")
        await loop.close_session("s")
        assert await loop.send("x", "s", key="k") == first
        with pytest.raises(KeyConflict):
            await loop.send("other", "s", key="k")
        with pytest.raises(SessionClosed):
            await loop.send("x", "s", key="new")


async def test_a_key_joins_the_running_turn(make):
    """A repeated key waits for the turn that runs, instead of being told that the session is busy; the tool runs once."""
    gate = Gate()
    async with make([[Call("gate")], "done"], tools=[gate.tool]) as loop:
        first = asyncio.create_task(loop.send("x", "s", key="k"))
        await gate.entered.wait()
        second = asyncio.create_task(loop.send("x", "s", key="k"))
        await asyncio.sleep(0.05)
        assert not second.done()
        gate.opened.set()
        assert await second == await first
    assert gate.runs == 1


@pytest.mark.parametrize("known", ["new session", "known session", "fresh loop"])
@pytest.mark.parametrize("owners", [1, 2])
async def test_concurrent_duplicates(make, known, owners):
    """Of several sends with one key at the same moment one runs, and the others join it: one turn, one result."""
    gate = Gate()
    gate.opened.set()
    async with contextlib.AsyncExitStack() as stack:
        if known != "new session":
            async with make(["hello"]) as before:
                await before.send("hi", "s")
        script = lambda request: "done" if request.messages[-1].role == "tool" else [Call("gate")]  # noqa: E731
        loops = [await stack.enter_async_context(make(script, tools=[gate.tool])) for _ in range(owners)]
        if known == "known session":
            for loop in loops:
                await loop.send("again", "s")
        turns = (await loops[0].state("s")).turns if known != "new session" else 0
        gate.runs = 0
        results = await asyncio.wait_for(asyncio.gather(*(loop.send("x", "s", key="k") for loop in loops for _ in range(2))), PROMPT_SECONDS)
        assert [result.text for result in results] == ["done"] * len(results)
        assert len({result.turn for result in results}) == 1
        assert (await loops[0].state("s")).turns == turns + 1
    assert gate.runs == 1


# -- busy and pending --------------------------------------------------------------------------------------------------


async def test_an_open_turn_must_be_settled_first(make):
    """A turn that nobody works on refuses new input, and says which calls are in the way; nothing is resumed in silence."""
    gate = Gate()
    async with make([[Call("gate"), Call("gate")], "done"], tools=[gate.tool], limits=Limits(max_parallel_calls=1)) as loop:
        await interrupted(loop, gate)
        before = await kinds(loop)
        for _ in range(2):
            with pytest.raises(SessionPending) as caught:
                await loop.send("more", "s")
        assert [(call.id, call.state, call.attempt) for call in caught.value.calls] == [("t1r1c1", "started", 1), ("t1r1c2", "requested", 0)]
        assert await kinds(loop) == before


async def test_an_open_turn_without_calls(make):
    """A turn interrupted while the model was asked is pending too, with no calls."""
    async with make([Answer("late", seconds=3_600)]) as loop:
        task = asyncio.create_task(loop.send("x", "s"))
        await until(loop, "model.asked")
        task.cancel()
        await asyncio.wait([task])
        with pytest.raises(SessionPending) as caught:
            await loop.send("y", "s")
        assert caught.value.calls == []


async def test_busy_in_this_process(make):
    """While a turn runs, send, resume, abort and close say that the session is busy, with owner and deadline, from this loop and from another one."""
    gate = Gate()
    async with make([[Call("gate")], "done"], tools=[gate.tool]) as loop, make() as other:
        task = asyncio.create_task(loop.send("x", "s"))
        await gate.entered.wait()
        for one in (loop, other):
            for verb in (lambda one=one: one.send("y", "s"), lambda one=one: one.resume("s"), lambda one=one: one.abort_pending("s", reason="x")):
                with pytest.raises(SessionBusy) as caught:
                    await verb()
                assert caught.value.owner == (await loop.state("s")).owner
                assert "cancel()" in str(caught.value)
                assert caught.value.owner not in str(caught.value)
                assert one is loop or f"held by process {os.getpid()}." in str(caught.value)
                assert caught.value.deadline > SystemClock().now()
            for abort in (False, True):
                with pytest.raises(SessionBusy):
                    await one.close_session("s", abort=abort)
        assert (await other._store.find("s")).deadline > SystemClock().now()
        gate.opened.set()
        assert (await task).text == "done"
        assert (await loop.send("again", "s")).status == "failed"  # the script is over; the session is not


@pytest.mark.parametrize("fresh", [False, True])
async def test_two_sends_at_once(make, fresh):
    """Of two sends to one idle session at the same moment one runs and the other is told that it is busy; afterwards nothing is broken."""
    gate = Gate()
    script = lambda request: [Call("gate")] if request.messages[-1].role == "user" else "done"  # noqa: E731
    async with make(["hello"]) as before:
        await before.send("hi", "s")
    async with make(script, tools=[gate.tool]) as loop:
        if not fresh:
            gate.opened.set()
            await loop.send("hi", "s")
            gate.opened.clear()
        gate.runs = 0
        gate.entered.clear()
        tasks = [asyncio.create_task(loop.send(text, "s")) for text in "ab"]
        await gate.entered.wait()
        done, _ = await asyncio.wait(tasks, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        assert [type(task.exception()) for task in done] == [SessionBusy]
        with pytest.raises(SessionBusy):
            await loop.send("c", "s")
        gate.opened.set()
        assert [result.text for result in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(result, TurnResult)] == ["done"]
    assert gate.runs == 1


async def test_a_fact_from_outside_before_a_send(make):
    """A fact that somebody added to an idle session that this loop remembers does not disturb the next send."""
    async with make(lambda _: "ok") as loop, make() as other:
        await loop.send("x", "s")
        await other._sink.report(await other.state("s"), [e.InputReceived(parts=(Text("queued"),), mode="queue")])
        assert (await loop.send("y", "s")).status == "completed"


@pytest.mark.parametrize("recovery", ["ask", "rerun", "keyed"])
async def test_two_resumes_at_once(make, recovery):
    """Of two resumes of one session at the same moment one runs it and the other is told that it is busy: a call runs once, and is not doubted while it runs."""
    gate = Gate(recovery)
    script = [[Call("gate")], "done"]
    async with make(script, tools=[gate.tool], policy=ask_first) as loop:
        await loop.send("x", "s")
        await loop.settle("s", "t1r1c1", Approve())
    async with make(script, tools=[gate.tool], policy=ask_first) as loop:
        tasks = [asyncio.create_task(loop.resume("s")) for _ in range(2)]
        await gate.entered.wait()
        await asyncio.sleep(0.1)
        gate.opened.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["SessionBusy", "TurnResult"]
        assert Counter(await kinds(loop))["call.started"] == 1
        assert "call.doubted" not in await kinds(loop)
    assert gate.runs == 1


async def test_busy_and_cancelled_across_processes(make, tmp_path):
    """A session that another process works on is busy here; a cancel from here is obeyed there while its tool runs; then both can send."""
    path = tmp_path / "agent.db"
    child, line = await elsewhere(
        path,
        """
        @tool
        async def slow() -> None:
            print('"running"', flush=True)
            await asyncio.sleep(3_600)

        async with StatefulAgentLoop(ScriptedModel([[Call("slow")], "late"]), tools=[slow], store=path) as loop:
            from power_agent.drive import calls
            calls.CANCEL_GRACE_SECONDS = 0.05
            result = await loop.send("x", "s")
            print(json.dumps([result.status, [call.state for call in result.pending]]), flush=True)
        """,
        first_line=True,
    )
    assert line == "running"
    async with make(["next"]) as loop:
        for verb in (lambda: loop.send("y", "s"), lambda: loop.resume("s"), lambda: loop.abort_pending("s", reason="x"), lambda: loop.close_session("s")):
            with pytest.raises((SessionBusy, SessionPending)) as caught:
                await verb()
            assert caught.type is SessionBusy
        assert await loop.cancel("s", reason="enough", by="ada") is True
        out, _ = await asyncio.wait_for(child.communicate(), PATIENCE_SECONDS)
        assert json.loads(out) == ["waiting", ["doubted"]]
        await loop.abort_pending("s", reason="looked: nothing happened")
        assert (await loop.send("y", "s")).text == "next" or (await loop.state("s")).last.status == "failed"


# -- resume ------------------------------------------------------------------------------------------------------------


async def test_resume_with_nothing_open(make):
    """With nothing open resume returns the last turn's result and writes nothing, here and elsewhere."""
    async with make(["one", "two"]) as loop:
        await loop.send("x", "s")
        last = await loop.send("y", "s")
        before = await kinds(loop)
        assert await loop.resume("s") == last
        async with make() as other:
            assert await other.resume("s") == last
        assert await kinds(loop) == before


async def test_nothing_to_resume(make):
    """Never a turn, or closed: there is nothing to resume."""
    async with make(["x"]) as loop:
        await loop.send("x", "closed")
        await loop.close_session("closed")
        async with SQLiteStore(loop._store.path) as store:
            sink = Sink(store, SystemClock(), SystemChance(), process.me())
            await sink.release(await sink.open(session="empty"))
        for name in ("closed", "empty"):
            with pytest.raises(NothingToResume):
                await loop.resume(name)


async def test_resume_while_still_waiting(make):
    """Still waiting: the same calls come back, and no event is written, by this owner or another one."""
    async with make([[Call("add", {"a": 1, "b": 2})], "x"], tools=[add], policy=ask_first) as loop:
        first = await loop.send("x", "s")
        before = await kinds(loop)
        assert (await loop.resume("s")).pending == first.pending
        async with make(tools=[add], policy=ask_first) as other:
            assert (await other.resume("s")).pending == first.pending
        assert await kinds(loop) == before


async def test_resume_after_an_interrupted_request(make):
    """A request that was interrupted is made again as the next attempt of the same round."""
    async with make([Answer("late", seconds=3_600)]) as loop:
        task = asyncio.create_task(loop.send("x", "s"))
        await until(loop, "model.asked")
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], StoreClosed)
    async with make(["answer"]) as loop:
        assert (await loop.resume("s")).text == "answer"
        asked = [(kept.event.round, kept.event.attempt) for kept in await loop.history("s", kinds=["model.asked"])]
        assert asked == [(1, 1), (1, 2)]


async def test_limit_and_resume(make):
    """After a limit: with the same limit it is reached again without a request; with a higher one the turn goes on and inherits its rounds."""
    always = lambda request: [Call("add", {"a": 1, "b": request.replies})] if request.replies < 5 else "done"  # noqa: E731
    model = ScriptedModel(always)
    async with make(model, tools=[add], limits=Limits(max_rounds_per_turn=2)) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.reason, result.turn, len(result.calls)) == ("limit", "max_rounds_per_turn", 1, 2)
        again = await loop.resume("s")
        assert (again.status, again.turn, len(model.requests)) == ("limit", 2, 2)
        before = (await loop.state("s")).last
        assert before.rounds == 2
    async with make(model, tools=[add], limits=Limits(max_rounds_per_turn=4)) as loop:
        result = await loop.resume("s")
        assert (result.status, len(model.requests)) == ("limit", 4)
    async with make(model, tools=[add], limits=Limits(max_rounds_per_turn=None)) as loop:
        result = await loop.resume("s")
        assert (result.status, result.text, len(model.requests)) == ("completed", "done", 6)
        started = [(kept.event.turn, kept.event.continues) for kept in await loop.history("s", kinds=["turn.started"])]
        assert started == [(1, None), (2, 1), (3, 2), (4, 3)]
        assert (await loop.state("s")).last.rounds == 6


async def test_a_turn_without_rounds(make):
    """A limit of one round allows one request; what the model then asks for is run, and the turn ends politely."""
    model = ScriptedModel([[Call("add", {"a": 1, "b": 2})]])
    async with make(model, tools=[add], limits=Limits(max_rounds_per_turn=1)) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.calls[0].output) == ("limit", 3)
        assert (await loop.send("and now", "s")).status == "failed"  # a new turn has rounds of its own; the script is over


async def test_resume_after_failed(make):
    """After a failed turn resume opens one that continues it, asks the model again with the same context, and can succeed."""
    model = ScriptedModel([ModelError("no", retryable=False), "yes"])
    async with make(model) as loop:
        assert (await loop.send("x", "s")).status == "failed"
        result = await loop.resume("s")
        assert (result.status, result.text, result.turn) == ("completed", "yes", 2)
        assert model.requests[1].messages == model.requests[0].messages


async def test_send_after_failed_and_limit(make):
    """A new input after a failed turn is simply the next turn; both inputs reach the model."""
    model = ScriptedModel([ModelError("no"), "yes"])
    async with make(model) as loop:
        await loop.send("x", "s")
        assert (await loop.send("y", "s")).text == "yes"
    assert [message.text for message in model.requests[1].messages] == ["x", "y"]


# -- abort_pending -----------------------------------------------------------------------------------------------------


async def test_abort_pending(make):
    """All unresolved calls and the turn end in one commit; each call is told apart by whether it had started; the next send works."""
    gate = Gate()
    model = ScriptedModel([[Call("gate"), Call("add", {"a": 1, "b": 2}), Call("gate")], "unused", "next"])

    def policy(wanted):
        return Ask() if wanted.tool == "add" else Allow()

    async with make(model, tools=[gate.tool, add], policy=policy, limits=Limits(max_parallel_calls=1)) as loop:
        await interrupted(loop, gate)
        traced = await traced_commits(loop)
        ended = await loop.abort_pending("s", reason="stop", by="ada")
        assert [(call.id, call.state) for call in ended] == [("t1r1c1", "started"), ("t1r1c2", "waiting"), ("t1r1c3", "requested")]
        assert len(traced(heartbeats=False)) == 1
        assert (await kinds(loop))[-4:] == ["call.aborted"] * 3 + ["turn.ended"]
        assert await loop.pending("s") == []
        assert (await loop.resume("s")).status == "cancelled"
        await loop.send("next", "s")
        told = [part.content[0].text for part in model.requests[-1].messages[2].parts]
    after, before = "It may have taken effect; check before repeating.", "It was not run."
    assert told == [f"Aborted by ada: stop. {after}", f"Aborted by ada: stop. {before}", f"Aborted by ada: stop. {before}"]


async def test_abort_some_calls(make):
    """With `call_ids` only those end; the turn stays open for the others."""
    async with make([[Call("add", {"a": 1, "b": 2}), Call("add", {"a": 3, "b": 4})], "done"], tools=[add], policy=ask_first) as loop:
        await loop.send("x", "s")
        assert [call.id for call in await loop.abort_pending("s", reason="no", call_ids=["t1r1c2"])] == ["t1r1c2"]
        assert [call.id for call in await loop.pending("s")] == ["t1r1c1"]
        await loop.settle("s", "t1r1c1", Approve())
        result = await loop.resume("s")
        assert [(call.state, call.output) for call in result.calls] == [("succeeded", 3), ("aborted", None)]


async def test_abort_nothing(make):
    """Idle: nothing is ended and nothing is written; an unknown call is named and nothing else is ended."""
    async with make([[Call("add", {"a": 1, "b": 2})], "done"], tools=[add], policy=ask_first) as loop:
        await loop.send("x", "s")
        before = await kinds(loop)
        for wrong in (["nope"], ["t1r1c1", "nope"]):
            with pytest.raises(CallNotFound, match="nope"):
                await loop.abort_pending("s", reason="x", call_ids=wrong)
        assert await kinds(loop) == before
        await loop.abort_pending("s", reason="x")
        before = await kinds(loop)
        assert await loop.abort_pending("s", reason="x") == []
        assert await kinds(loop) == before


async def test_abort_twice_with_an_unknown_call(make):
    """An unknown call is named even when another one of the list was ended before with the same reason."""
    async with make([[Call("add", {"a": 1, "b": 2}), Call("add", {"a": 3, "b": 4})], "done"], tools=[add], policy=ask_first) as loop:
        await loop.send("x", "s")
        await loop.abort_pending("s", reason="x", call_ids=["t1r1c1"])
        with pytest.raises(CallNotFound, match="zzz"):
            await loop.abort_pending("s", reason="x", call_ids=["t1r1c1", "zzz"])
        assert (await kinds(loop))[-1] == "call.aborted"


# -- cancel ------------------------------------------------------------------------------------------------------------


async def test_cancel_when_idle(make):
    """Nothing open: False, and nothing is written."""
    async with make(["x"]) as loop:
        await loop.send("x", "s")
        before = await kinds(loop)
        assert await loop.cancel("s") is False
        assert await kinds(loop) == before


async def test_cancel_while_the_model_is_asked(make):
    """A cancel stops the wait for the model; the turn ends as cancelled and only a new send goes on."""
    async with make(lambda request: Answer("late", seconds=3_600) if request.attempt == 1 and not request.messages[1:] else "next") as loop:
        task = asyncio.create_task(loop.send("x", "s"))
        await until(loop, "model.asked")
        assert await loop.cancel("s", reason="enough") is True
        result = await asyncio.wait_for(task, PROMPT_SECONDS)
        assert (result.status, result.reason, result.text) == ("cancelled", "enough", "")
        before = await kinds(loop)
        assert (await loop.resume("s")).status == "cancelled"
        assert await kinds(loop) == before
        assert (await loop.send("y", "s")).text == "next"


async def test_cancelled_twice(make):
    """A second cancel of the same turn is True and writes nothing; the first one's reason stands."""
    gate = Gate("rerun")
    async with make([[Call("gate")], "done"], tools=[gate.tool]) as loop, make() as other:
        task = asyncio.create_task(loop.send("x", "s"))
        await gate.entered.wait()
        assert [await loop.cancel("s", reason="first", by="ada"), await other.cancel("s", reason="second")] == [True, True]
        assert (await task).reason == "first"
        assert (await kinds(loop)).count("cancel.asked") == 1
        assert await other.cancel("s") is False


@pytest.mark.parametrize(("recovery", "becomes"), [("ask", "doubted"), ("keyed", "doubted"), ("rerun", "aborted")])
@pytest.mark.parametrize("sync", [False, True])
async def test_a_running_tool_is_stopped(make, recovery, becomes, sync):
    """A running tool is told and stopped; without an outcome it is doubted, or aborted where a repeat is harmless. A thread is left to itself, its late result ignored."""
    running, release, told = threading.Event(), threading.Event(), []

    if sync:

        def slow(ctx: ToolContext) -> str:
            running.set()
            release.wait(PATIENCE_SECONDS)
            told.append(ctx.cancelled)
            return "late"
    else:

        async def slow(ctx: ToolContext) -> str:
            running.set()
            try:
                await asyncio.sleep(3_600)
            finally:
                told.append(ctx.cancelled)
            return "late"

    async with make([[Call("slow")], "done"], tools=[tool(recovery=recovery)(slow)]) as loop:
        task = asyncio.create_task(loop.send("x", "s"))
        await asyncio.to_thread(running.wait)
        await loop.cancel("s", reason="enough", by="ada")
        result = await asyncio.wait_for(task, PROMPT_SECONDS)
        release.set()
        await asyncio.sleep(0.05)
        assert told == [True]
        assert result.calls[0].state == becomes
        assert result.status == ("cancelled" if becomes == "aborted" else "waiting")
        if becomes == "doubted":
            before = await kinds(loop)
            assert (await loop.resume("s")).status == "waiting"
            assert await kinds(loop) == before
            await loop.settle("s", "t1r1c1", Result("it did happen"))
            assert (await loop.resume("s")).status == "cancelled"
        assert "model.answered" not in (await kinds(loop))[-3:]


async def test_a_tool_that_ends_within_the_grace(make):
    """A tool that ends when it is told keeps its outcome; what had not started is aborted; no further request is made."""

    @tool
    async def obedient(ctx: ToolContext) -> str:
        running.set()
        while not ctx.cancelled:
            await asyncio.sleep(0.005)
        return "stopped in time"

    running = asyncio.Event()
    model = ScriptedModel([[Call("obedient"), Call("obedient")], "done"])
    async with make(model, tools=[obedient], limits=Limits(max_parallel_calls=1)) as loop:
        task = asyncio.create_task(loop.send("x", "s"))
        await running.wait()
        await loop.cancel("s", reason="enough", by="ada")
        result = await task
        assert [(call.state, call.output) for call in result.calls] == [("succeeded", "stopped in time"), ("aborted", None)]
        assert (result.status, len(model.requests)) == ("cancelled", 1)


async def test_cancel_while_waiting_for_a_person(make):
    """A call that waits for an approval is aborted by a cancel: the turn ends with the next resume, and the call never runs."""
    ran = []

    @tool
    def note() -> None:
        ran.append(1)

    async with make([[Call("note")], "done", "next"], tools=[note], policy=ask_first) as loop:
        await loop.send("x", "s")
        assert await loop.cancel("s", reason="never mind", by="ada") is True
        result = await loop.resume("s")
        assert (result.status, result.calls[0].state) == ("cancelled", "aborted")
        await loop.send("y", "s")
        shown = (await loop.messages("s"))[2].parts[0].content[0].text
        assert shown == "Aborted by ada: never mind. It was not run."
    assert ran == []


# -- close_session -----------------------------------------------------------------------------------------------------


async def test_close_session(make):
    """A closed session refuses input from anybody, stays readable, and closing it again changes nothing."""
    async with make(["x"]) as loop:
        await loop.send("x", "s")
        await loop.close_session("s", reason="over", by="ada")
        before = await kinds(loop)
        await loop.close_session("s")
        assert await kinds(loop) == before
        async with make(["y"]) as other:
            with pytest.raises(SessionClosed):
                await other.send("y", "s")
            assert (await other.history("s"))[-1].event == e.SessionClosed(reason="over", by="ada")
            assert [message.text for message in await other.messages("s")] == ["x", "x"]


async def test_close_with_an_open_turn(make):
    """With an open turn closing is refused with the calls, unless it may abort; then everything ends."""
    async with make([[Call("add", {"a": 1, "b": 2})], "x"], tools=[add], policy=ask_first) as loop:
        await loop.send("x", "s")
        with pytest.raises(SessionPending) as caught:
            await loop.close_session("s")
        assert [call.id for call in caught.value.calls] == ["t1r1c1"]
        assert not (await loop.state("s")).closed
        await loop.close_session("s", abort=True, reason="over")
        assert (await kinds(loop))[-3:] == ["call.aborted", "turn.ended", "session.closed"]


async def test_close_with_queued_input(make):
    """With an input that waits for its turn closing is refused, unless it may abort."""
    async with make(["x"]) as loop:
        await loop.send("x", "s")
        async with make() as other:
            await other._sink.report(await other.state("s"), [e.InputReceived(parts=(Text("later"),), mode="queue")])
        with pytest.raises(SessionPending):
            await loop.close_session("s")
        await loop.close_session("s", abort=True)
        assert (await loop.state("s")).closed


# -- looking back ------------------------------------------------------------------------------------------------------


async def test_history(make):
    """The kept events in order, after any seq, at most so many, of some kinds; an unknown kind is refused with the known ones."""
    async with make(["x", "y"]) as loop:
        await loop.send("x", "s")
        everything = await loop.history("s")
        assert [kept.seq for kept in everything] == list(range(1, len(everything) + 1))
        assert await loop.history("s", after=2, limit=2) == everything[2:4]
        assert await loop.history("s", after=len(everything)) == []
        assert await loop.history("s", limit=0) == []
        assert [kept.kind for kept in await loop.history("s", kinds=["turn.ended", "turn.started"])] == ["turn.started", "turn.ended"]
        assert [kept.kind for kept in await loop.history("s", kinds="turn.ended")] == ["turn.ended"]
        assert [kept.kind async for kept in loop.events("s", kinds="turn.ended")] == ["turn.ended"]
        for kept in await loop.history("s"):
            assert isinstance(json.loads(e.encode(kept.event)), dict)
            assert e.decode(kept.kind, e.encode(kept.event)) == kept.event
        with pytest.raises(InvalidInput, match=r"call\.imagined") as caught:
            await loop.history("s", kinds=["call.imagined"])
        assert "call.started" in caught.value.hint


async def test_history_is_bounded(make, monkeypatch):
    """One answer holds at most a thousand events unless more are asked for."""
    async with make() as loop:
        state = await loop._sink.open(session="s")
        await loop._sink.record(state, [e.NoteAdded(text=str(number), why="test") for number in range(1_200)])
        assert [kept.seq async for kept in loop.events("s")] == list(range(1, 1_202))
        assert [kept.seq async for kept in loop.events("s", after=1_150, kinds=["note.added"])] == list(range(1_151, 1_202))
        assert len(await loop.history("s")) == 1_000
        assert len(await loop.history("s", limit=5_000)) == 1_201
        assert len(await loop.history("s", after=1_000)) == 201


async def test_looking_at_the_past(make):
    """State and messages at any seq are what they were then; without one they are those of now."""
    async with make(["one", "two"]) as loop:
        first = await loop.send("a", "s")
        await loop.send("b", "s")
        assert [message.text for message in await loop.messages("s", at=first.seq)] == ["a", "one"]
        assert [message.text for message in await loop.messages("s")] == ["a", "one", "b", "two"]
        assert (await loop.state("s", at=first.seq)).turns == 1
        assert (await loop.state("s", at=first.input_seq)).place == "idle"
        assert (await loop.state("s")).turns == 2


async def test_verify(make):
    """A healthy file has nothing wrong."""
    async with make([[Call("add", {"a": 1, "b": 2})], "x"], tools=[add]) as loop:
        await loop.send("a", "s")
        assert [wrong async for wrong in loop.verify()] == []
        assert [wrong async for wrong in loop.verify("s")] == []


# -- interrupt ---------------------------------------------------------------------------------------------------------


async def test_aclose_leaves_a_resumable_turn(make):
    """Closing the loop interrupts what runs: the turn stays open, the lease is given up, another owner resumes at once."""
    gate = Gate("rerun")
    loop = make([[Call("gate")], "done"], tools=[gate.tool])
    await loop.__aenter__()
    task = asyncio.create_task(loop.send("x", "s"))
    await gate.entered.wait()
    await loop.aclose()
    with pytest.raises(StoreClosed, match="was over"):
        await task
    gate.opened.set()
    async with make([[Call("gate")], "done"], tools=[gate.tool]) as other:
        assert (await other._store.find("s")).deadline == 0
        assert (await other.resume("s")).text == "done"
        assert [(kept.event.attempt) for kept in await other.history("s", kinds=["call.started"])] == [1, 2]
    assert gate.runs == 2


async def test_an_interrupt_keeps_finished_siblings(make):
    """Interrupted in one of two calls, the outcome of the other one is kept and it does not run again."""
    gate, ran = Gate("rerun"), []

    @tool
    def once() -> str:
        ran.append(1)
        return "once"

    async with make([[Call("once"), Call("gate")], "done"], tools=[once, gate.tool]) as loop:
        task = asyncio.create_task(loop.send("x", "s"))
        await gate.entered.wait()
        await until(loop, "call.succeeded")
        task.cancel()
        await asyncio.wait([task])
        gate.opened.set()
        result = await loop.resume("s")
        assert [(call.output, call.attempts) for call in result.calls] == [("once", 1), ("through", 2)]
    assert ran == [1]


# -- what it costs -----------------------------------------------------------------------------------------------------


async def traced_commits(loop):
    """Count what the database really commits; returns what shows the list. Transactions are told apart from lone statements, such as a heartbeat."""
    seen: list[str] = []
    await loop._store._writer._db.set_trace_callback(seen.append)

    def commits(*, heartbeats: bool = True) -> list[str]:
        inside, found = False, []
        for statement in seen:
            word = statement.split(None, 1)[0].upper()
            if word in {"BEGIN", "COMMIT"}:
                inside = word == "BEGIN"
                found += [statement] * (word == "COMMIT")
            elif word in {"INSERT", "UPDATE", "DELETE", "REPLACE"} and not inside and heartbeats:
                found.append(statement)
        return found

    return commits


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_turn_without_tools_costs_two_commits(make, fresh):
    """Two commits for a turn of a known session, whether this loop remembers it or (one more for the change of owner) opens it anew."""
    async with make(["a", "b"]) as loop:
        await loop.send("x", "s")
        if not fresh:
            commits = await traced_commits(loop)
            await loop.send("y", "s")
            assert len(commits()) == 2, commits()
    if fresh:
        async with make(["a", "b"]) as loop:
            commits = await traced_commits(loop)
            await loop.send("y", "s")
            assert len(commits()) == 3, commits()


@pytest.mark.parametrize("rounds", [1, 2, 3])
async def test_a_tool_round_costs_two_more(make, rounds):
    """Each tool round costs two commits more: answered + started; outcome + asked."""
    script = lambda request: [Call("add", {"a": 1, "b": 2})] if 1 <= request.replies <= rounds else "done"  # noqa: E731
    async with make(script, tools=[add]) as loop:
        await loop.send("x", "s")
        commits = await traced_commits(loop)
        await loop.send("y", "s")
        assert len(commits()) == 2 + 2 * rounds
        history = await loop.history("s", after=6)
        by_moment = [kept.kind for kept in history]
        assert by_moment[:3] == ["input.received", "turn.started", "model.asked"]
        assert by_moment[3:7] == ["model.answered", "call.started", "call.succeeded", "model.asked"]


async def test_parallel_calls_that_end_together_share_a_commit(make):
    """Two calls that end at the same moment cost no more than one; a third one that ends later costs one commit more."""
    together = asyncio.Event()

    @tool
    async def quick() -> None:
        if len(waiting) == 1:
            together.set()
        waiting.append(1)
        await together.wait()

    waiting: list[int] = []
    script = lambda request: [Call("quick"), Call("quick")] if request.replies == 1 else "done"  # noqa: E731
    async with make(script, tools=[quick]) as loop:
        await loop.send("x", "s")
        commits = await traced_commits(loop)
        await loop.send("y", "s")
        assert len(commits()) == 4


async def test_outcomes_are_kept_as_they_come(make):
    """An outcome is durable while its slower sibling still runs, and results are rendered in the order of the calls."""
    gate = Gate()
    model = ScriptedModel([[Call("gate"), Call("add", {"a": 1, "b": 2})], "done"])
    async with make(model, tools=[gate.tool, add]) as loop, make() as other:
        task = asyncio.create_task(loop.send("x", "s"))
        await gate.entered.wait()
        await until(other, "call.succeeded")
        assert [(call.tool, call.state) for call in await other.pending("s")] == [("gate", "started")]
        gate.opened.set()
        await task
    assert [part.content[0].text for part in model.requests[1].messages[-1].parts] == ["through", "3"]


async def test_calls_run_side_by_side_up_to_the_limit(make):
    """No more calls run at once than the limit says, and all of them run."""
    now, most = 0, 0

    @tool
    async def count() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    async with make([[Call("count")] * 7, "done"], tools=[count], limits=Limits(max_parallel_calls=3)) as loop:
        result = await loop.send("x", "s")
        assert [call.state for call in result.calls] == ["succeeded"] * 7
    assert most == 3


async def test_calls_that_wait_for_a_place_are_judged_twice_at_most(make):
    """A call without a place is judged when it is asked for, so that what needs a person is known at once, and when it has one: what was
    forbidden meanwhile does not begin. In between nobody judges it again, however many places come free.
    """
    asked = Counter[int]()
    ran = list[int]()
    allowed = True

    @tool
    async def count(number: int) -> None:
        ran.append(number)
        nonlocal allowed
        allowed = len(ran) < 30

    def policy(wanted):
        number = wanted.arguments["number"]
        asked[number] += 1
        return Ask() if number == 33 else Allow() if allowed else Deny("enough")

    calls = [Call("count", {"number": number}) for number in range(40)]
    async with make([calls, "done"], tools=[count], policy=policy, limits=Limits(max_parallel_calls=4)) as loop:
        result = await loop.send("x", "s")
        assert (result.status, [call.id for call in result.pending]) == ("waiting", ["t1r1c34"])
        history = await loop.history("s")
        waiting, first = (next(kept.seq for kept in history if kept.kind == kind) for kind in ("call.approval_asked", "call.succeeded"))
        assert waiting < first
        assert max(asked.values()) == 2
        assert ran == list(range(len(ran)))
        assert 30 <= len(ran) < 34
        assert Counter(kept.kind for kept in history)["call.denied"] == 39 - len(ran)


# -- results and configuration -----------------------------------------------------------------------------------------


async def test_the_fields_of_a_result(make):
    """A result sums the usage of its requests and says where its input and its last event are; it is the same when read again."""
    script = [
        Answer("let me see", [Call("add", {"a": 1, "b": 2})], usage=Usage(10, 2, cached=1, cache_written=3, reasoning=1)),
        Answer("three", usage=Usage(20, 3, cached=4)),
    ]
    async with make(script, tools=[add]) as loop:
        result = await loop.send("x", "s")
        history = await loop.history("s")
        assert result.usage == Usage(30, 5, cached=5, cache_written=3, reasoning=1)
        assert result.usage.total == 35
        assert (result.text, result.status, result.reason, result.pending) == ("three", "completed", None, ())
        assert result.seq == history[-1].seq
        assert history[result.input_seq - 1].kind == "input.received"
        (call,) = result.calls
        assert (call.id, call.tool, call.arguments, call.state, call.output, call.attempts) == ("t1r1c1", "add", {"a": 1, "b": 2}, "succeeded", 3, 1)
        assert await loop.resume("s") == result


async def test_the_configuration_is_recorded_once(make):
    """A loop that is built otherwise says so once, before the turn that uses it; built the same it says nothing."""
    async with make(["a", "b"], system="one") as loop:
        await loop.send("x", "s")
        await loop.send("x", "s")
    model = ScriptedModel(lambda _: "ok")
    async with make(model, system="two", tools=[add], settings={"temperature": 0}) as loop:
        for _ in range(2):
            await loop.send("x", "s")
        async with make(lambda _: "ok", system="two", tools=[add], settings={"temperature": 0}) as same:
            await same.send("x", "s")
        changed = await loop.history("s", kinds=["session.configured"])
        assert [(kept.event.config.system, [ref.name for ref in kept.event.config.tools]) for kept in changed] == [("two", ["add"])]
    assert {request.system for request in model.requests} == {"two"}
    assert model.requests[0].settings == {"temperature": 0}


async def test_what_the_model_is_shown(make):
    """System prompt, settings and tools (name, description, schema) reach the model; an agent without any sends none."""
    model = ScriptedModel(lambda _: "ok")
    async with make(model, system="Be brief.", tools=[add]) as loop:
        await loop.send("x", "s")
    async with make(model) as loop:
        await loop.send("x", "t")
    first, second = model.requests
    assert (first.system, [(spec.name, spec.description) for spec in first.tools], first.session) == ("Be brief.", [("add", "Add.")], "s")
    assert (second.system, second.tools) == (None, ())


async def test_listeners_hear_what_was_kept(make):
    """A listener hears every kept event of the turn, in order, with its place."""
    heard = []
    async with make(["a"], listeners=[heard.append]) as loop:
        await loop.send("x", "s")
        assert heard == await loop.history("s")


# -- model errors ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock on which hours pass at once."""
    monkeypatch.setattr("power_agent.drive.ledger.LOOK_SECONDS", 600)
    return HeldClock()


async def test_retryable_errors_are_retried(make, clock):
    """A retryable error is tried again after growing waits, each attempt in the log with its time; then the answer counts as usual."""
    script = [ModelError("busy", retryable=True)] * 3 + ["at last"]
    async with make(script, clock=clock) as loop:
        result = await loop.send("x", "s")
        asked = await loop.history("s", kinds=["model.asked"])
        failed = await loop.history("s", kinds=["model.failed"])
    assert (result.status, result.text) == ("completed", "at last")
    assert [(kept.event.round, kept.event.attempt) for kept in asked] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert [kept.event.failure.message for kept in failed] == ["busy"] * 3
    waits = [(kept.event.not_before - kept.at) / 1000 for kept in failed]
    assert all(base <= wait <= base + FIRST_BACKOFF_SECONDS for base, wait in zip([0.5, 1.0, 2.0], waits, strict=True)), waits
    assert all(next_.at >= kept.event.not_before for kept, next_ in zip(failed, asked[1:], strict=True))


async def test_retries_end(make, clock):
    """After the last attempt the turn fails with the error's code; the session can be resumed."""
    model = ScriptedModel([ModelError("busy", retryable=True)] * MAX_MODEL_ATTEMPTS + ["back"])
    async with make(model, clock=clock) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.reason, len(model.requests)) == ("failed", "model", MAX_MODEL_ATTEMPTS)
        assert (await loop.history("s"))[-1].event.failure.message == "busy"
        assert (await loop.resume("s")).text == "back"


@pytest.mark.parametrize(("asked_for", "at_least", "at_most"), [(7.0, 7.0, 7.0), (1e9, 3_600, 3_600), (-5.0, 0.5, 1.0), (0.0, 0.5, 1.0)])
async def test_retry_after(make, clock, asked_for, at_least, at_most):
    """The wait that a server asks for is honoured, within bounds."""
    async with make([ModelError("busy", retryable=True, retry_after=asked_for), "ok"], clock=clock) as loop:
        assert (await loop.send("x", "s")).text == "ok"
        (failed,) = await loop.history("s", kinds=["model.failed"])
        assert at_least <= (failed.event.not_before - failed.at) / 1000 <= at_most


async def test_a_wait_survives_the_process(make):
    """Interrupted while it waits to try again, the rest of the wait is honoured by whoever resumes."""
    async with make([ModelError("busy", retryable=True, retry_after=0.4), "ok"]) as loop:
        task = asyncio.create_task(loop.send("x", "s"))
        await until(loop, "model.failed")
        task.cancel()
        await asyncio.wait([task])
    async with make(["unused", "ok"]) as loop:
        assert (await loop.resume("s")).text == "ok"
        (failed,) = await loop.history("s", kinds=["model.failed"])
        assert (await loop.history("s", kinds=["model.asked"]))[-1].at >= failed.event.not_before


async def test_errors_that_are_not_retryable(make):
    """An error that says so is not retried: the turn fails at once with its code."""

    class NoCredit(ModelError):
        code = "no_credit"

    model = ScriptedModel([NoCredit("pay first")])
    async with make(model) as loop:
        result = await loop.send("x", "s")
        assert (result.status, result.reason, result.text, len(model.requests)) == ("failed", "no_credit", "", 1)
        assert (await loop.history("s"))[-1].event.failure == e.Failure(code="no_credit", message="pay first")


async def test_a_bug_in_an_adapter(make):
    """Whatever an adapter raises ends the turn as failed, not the session; the type is told."""
    async with make([KeyError("choices"), "ok"]) as loop:
        result = await loop.send("x", "s")
        assert result.status == "failed"
        assert "KeyError" in (await loop.history("s"))[-1].event.failure.message
        assert (await loop.send("y", "s")).text == "ok"


async def test_a_script_that_is_over(make):
    """A script without a next line fails the turn, and says how many lines there are."""
    async with make(["one"]) as loop:
        await loop.send("x", "s")
        assert (await loop.send("y", "s")).status == "failed"
        assert "The script has 1 lines; line 2 was asked for." in (await loop.history("s"))[-1].event.failure.message


async def test_answers_that_cannot_be_kept(make):
    """An answer beyond what the log keeps (arguments 250 levels deep) fails the turn instead of leaving it open for ever."""
    deep: Any = 1
    for _ in range(250):
        deep = [deep]
    async with make([[Call("add", {"a": deep})], "ok"], tools=[add]) as loop:
        result = await loop.send("x", "s")
        assert result.status == "failed" or result.calls[0].state == "failed"


async def test_scripts(make):
    """A script may be a function, sync or async; reasoning comes before text; chunks and delays change nothing that is kept."""

    async def script(request):
        await asyncio.sleep(0)
        return Answer("hello", reasoning="hm", chunks=3, seconds=0.001) if request.replies == 0 else "bye"

    async with make(script) as loop:
        assert (await loop.send("x", "s")).text == "hello"
        answer = (await loop.history("s", kinds=["model.answered"]))[0].event
        assert [type(part).__name__ for part in answer.parts] == ["Reasoning", "Text"]
        assert (await loop.send("x", "s")).text == "bye"


async def test_a_check_in_the_script_is_heard(make):
    """A check of what the model was sent that fails is not lost: whoever awaits the turn learns of it."""

    def check(request):
        assert request.system == "something else", "the wrong prompt"

    async with make([Answer("ok", check=check)]) as loop:
        try:
            result = await loop.send("x", "s")
        except AssertionError:
            return
        assert result.status == "failed"
        assert "the wrong prompt" in (await loop.history("s"))[-1].event.failure.message


async def test_abort_decision_on_a_plain_turn(make):
    """Settling a call that never was names it as unknown, with what there is."""
    async with make(["x"]) as loop:
        await loop.send("x", "s")
        with pytest.raises(CallNotFound, match="Nothing is unresolved"):
            await loop.settle("s", "t1r1c1", Abort("x"))


@pytest.mark.parametrize(("says", "kept"), [("maker:m-1", None), ("m-1", None), (None, None), ("m-1-2026-11-01", "m-1-2026-11-01"), ("other:m-1", "other:m-1"), ("maker", "maker")])
async def test_who_answered_is_said_where_it_is_not_who_was_asked(make, says, kept):
    """A provider that says the name that was asked, with or without its own in front, says nothing new."""

    class Maker(ScriptedModel):
        async def ask(self, request, glimpse):
            return replace(await super().ask(request, glimpse), model=says)

    async with make(Maker(["ok"], name="maker:m-1")) as loop:
        await loop.send("x", "s")
        asked, answered = await loop.history("s", kinds=["model.asked", "model.answered"])
        assert (asked.event.model, answered.event.model) == ("maker:m-1", kept)
        page = b"".join([piece async for piece in await loop.export("s", format="html")]).decode()
        assert f"<b>Assistant</b><span>{kept or asked.event.model}</span>" in page
