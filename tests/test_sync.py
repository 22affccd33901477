"""The verbs without an event loop of one's own: in scripts, in threads, beside a running event loop, with Ctrl-C."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import PATIENCE_SECONDS

from power_agent import Approve, Call, Deny, Envelope, ScriptedModel, SessionBusy, StatefulAgentLoop, tool
from power_agent.errors import InvalidInput, SessionNotFound, StoreClosed, StoreError, StoreNotFound
from power_agent.limits import STOP_SECONDS
from power_agent.loop.sync import SyncLoop
from power_agent.policy import Ask


@tool
async def pay(to: str) -> str:
    return f"{to} is paid"


def make(script, **options) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(script), tools=[pay], store=options.pop("store", ":memory:"), **options)


def test_with_is_said_to_want_sync():
    """Who forgets `.sync` is told so; nothing was opened."""
    with pytest.raises(InvalidInput, match=r"\.sync as agent"), make(["never"]):
        pass


def test_a_conversation():
    """Send, look, wait for a person, settle, resume, fork, verify: each verb waits for its result."""
    with make([[Call("pay", {"to": "ada"})], "done", "later"], policy=lambda _: Ask("may it?")).sync as agent:
        result = agent.send("pay ada", "s", key="k")
        assert result.status == "waiting"
        assert [call.id for call in agent.pending("s")] == ["t1r1c1"]
        assert [call.state for call in agent.settle("s", "t1r1c1", Approve(), by="bob")] == ["approved"]
        assert agent.resume("s").text == "done"
        assert agent.send("pay ada", "s", key="k").text == "done"
        assert [row.session for row in agent.sessions()] == ["s"]
        assert agent.history("s", limit=1)[0].kind == "session.opened"
        assert agent.messages("s")[-1].text == agent.state("s").transcript[-1].parts[0].text == "done"
        items = list(agent.stream("go on", agent.fork("s", session_id_new="f")))
        assert [item.kind for item in items if isinstance(item, Envelope)][-1] == "turn.ended"
        assert [row.session for row in agent.forks("s")] == ["f"]
        assert list(agent.verify()) == []
        with pytest.raises(SessionNotFound):
            agent.pending("nobody")


def test_every_verb_is_there():
    """What the loop can do, its synchronous face can do, under the same name and with the same words."""
    verbs = {name for name, value in vars(StatefulAgentLoop).items() if not name.startswith("_") and callable(value)}
    here = {name for name in vars(SyncLoop) if not name.startswith("_")}
    assert verbs - here == {"aclose", "stop_on", "listen", "look_on"}
    for name in verbs & here - {"export"}:  # which iterates, and writes to a file here
        assert inspect.signature(getattr(SyncLoop, name)) == inspect.signature(getattr(StatefulAgentLoop, name)), name
        assert getattr(SyncLoop, name).__doc__ == getattr(StatefulAgentLoop, name).__doc__


def test_without_with():
    """In a notebook: the first verb opens it; closed twice is closed, and says so afterwards."""
    agent = make(["hello"]).sync
    assert agent.send("x", "s").text == "hello"
    agent.close()
    agent.close()
    with pytest.raises(StoreClosed, match="make a new one"):
        agent.send("y", "s")


async def test_what_was_never_opened_and_what_was_closed(tmp_path):
    """Each is told what helps: `async with` for the one, a new one for the other, also at the door and when it only reads."""
    agent = make(["hello"], store=tmp_path / "a.db")
    with pytest.raises(StoreClosed, match=r"is not open\. Use it inside `async with`\."):
        await agent.send("x", "s")
    async with agent:
        await agent.send("x", "s")
    for use in (agent.__aenter__, lambda: agent.send("y", "s"), lambda: agent.history("s")):
        with pytest.raises(StoreClosed, match=r"was closed\. A loop is not opened again: make a new one\."):
            await use()


def test_a_store_that_cannot_be_opened(tmp_path):
    """The error comes out, and no thread stays behind."""
    before = threading.active_count()
    with pytest.raises(StoreNotFound):
        make(["x"], store=tmp_path / "no" / "agent.db").sync.send("x", "s")
    assert threading.active_count() <= before


async def test_beside_a_running_event_loop():
    """Where an event loop runs already, as in notebooks, the verbs work; called from the agent's own they are refused."""

    @tool
    async def reenter() -> str:
        try:
            agent.pending("s")
        except InvalidInput as error:
            return error.message
        return "it waited for itself"

    loop = StatefulAgentLoop(ScriptedModel([[Call("reenter")], "done"]), tools=[reenter], store=":memory:")
    with loop.sync as agent:
        result = agent.send("x", "s")
        assert "own event loop" in result.calls[0].output
        assert (await asyncio.to_thread(agent.state, "s")).turns == 1


def test_from_an_event_loop_of_ones_own(tmp_path):
    """An event loop for each request, as some web servers have it: each verb of the loop itself is refused there and spoils nothing."""
    loop = make(lambda _: "ok", store=tmp_path / "agent.db")

    async def reads(items):
        return [item async for item in items]

    verbs = [
        lambda: loop.send("x", "s", when_busy="queue"),
        lambda: loop.send("x", "new", key="k"),
        lambda: loop.resume("s"),
        lambda: loop.cancel("s"),
        lambda: loop.state("s"),
        lambda: loop.store.backup(str(tmp_path / "backup.db")),
        lambda: reads(loop.watch("s")),
        lambda: reads(loop.stream("x", "s")),
    ]

    async def told(verb) -> str:
        with pytest.raises(InvalidInput, match="another event loop") as caught:
            await asyncio.wait_for(verb(), PATIENCE_SECONDS)
        assert ".sync" in caught.value.hint
        return caught.value.message

    with loop.sync as agent, ThreadPoolExecutor(4) as pool:
        agent.send("x", "s")
        messages = list(pool.map(lambda verb: asyncio.run(told(verb)), verbs))
        assert [message.startswith("This loop") for message in messages[:3]] == [True, False, True], "nothing was begun, whatever the store knows"
        assert agent.send("y", "s").turn == 2
        assert [row.session for row in agent.sessions()] == ["s"]


def test_from_many_threads():
    """Threads share it; each session has one turn at a time."""
    with make(lambda request: f"for {request.session}").sync as agent, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: agent.send("x", f"s{number % 4}", when_busy="queue"), range(24)))
        assert all(result.text == f"for {result.session_id}" for result in results)
        assert sorted((result.session_id, result.turn) for result in results) == [(f"s{session}", turn) for session in range(4) for turn in range(1, 7)]


def test_leaving_an_iterator():
    """Who stops reading a stream or a watch leaves nothing behind."""
    with make(lambda _: "ok").sync as agent:
        for _ in agent.stream("x", "s"):
            break
        for kept in agent.watch("s"):
            if kept.kind == "turn.ended":
                break
        assert agent.resume("s").text == "ok"


SCRIPT = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what was started in the background
from power_agent import ScriptedModel, StatefulAgentLoop
async def slow(request):
    open(sys.argv[1] + ".asked", "w").close()
    await asyncio.sleep(60)
with StatefulAgentLoop(ScriptedModel(slow), store=sys.argv[1]).sync as agent:
    try:
        agent.send("x", "s")
    except KeyboardInterrupt:
        assert agent.sessions()[0].deadline == 0, "it is free at once"
        assert agent.state("s").turn is not None
        sys.exit(5)
"""


def test_ctrl_c_leaves_a_resumable_session(tmp_path):
    """Ctrl-C in a verb interrupts the turn; it is open, free at once, and a resume completes it."""
    path = tmp_path / "agent.db"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)])
    while not (tmp_path / "agent.db.asked").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 5
    with make(["done"], store=path).sync as agent:
        assert agent.resume("s").text == "done"


FORKED = """
import os, sys
from power_agent import ScriptedModel, StatefulAgentLoop
from power_agent.errors import StoreForked
agent = StatefulAgentLoop(ScriptedModel(lambda _: "hi"), store=sys.argv[1]).sync
agent.send("x", "s")
items = agent.watch("s")
next(items)
child = os.fork()
if child == 0:
    for verb in (lambda: agent.send("y", "s"), lambda: next(agent.watch("s")), agent.__enter__):
        try:
            verb()
        except StoreForked:
            print("refused", flush=True)
    del items
    agent.close()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), agent.send("z", "s").turn)
agent.close()
"""
LEFT = """
import sys
from power_agent import ScriptedModel, StatefulAgentLoop
agent = StatefulAgentLoop(ScriptedModel(lambda _: "hi"), store=sys.argv[1]).sync
agent.send("x", "s")
items = agent.watch("s")
print(next(items).kind)
"""
AT_THE_END = """
import atexit, sys
from power_agent import ScriptedModel, StatefulAgentLoop
agent = StatefulAgentLoop(ScriptedModel(lambda _: "hi"), store=sys.argv[1]).sync
atexit.register(agent.close)
print(agent.send("x", "s").status)
"""

TWO_SIGNALS = """
import os, signal, sys, threading, time
from power_agent import Call, ScriptedModel, StatefulAgentLoop, tool
from power_agent.errors import StoreClosed
begun = threading.Event()
@tool
async def stubborn():
    begun.set()
    try:
        await __import__("asyncio").sleep(60)
    finally:
        await __import__("asyncio").sleep(1)
agent = StatefulAgentLoop(ScriptedModel([[Call("stubborn")]]), tools=[stubborn], store=sys.argv[1]).sync
signal.signal(signal.SIGTERM, lambda *_: agent.close())
def end():
    begun.wait()
    for _ in range(2):
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end).start()
try:
    agent.send("x", "s")
except StoreClosed:
    print("closed")
"""


@pytest.mark.parametrize(("script", "says"), [(TWO_SIGNALS, "closed\n"), (FORKED, "refused\nrefused\nrefused\n7 2\n"), (LEFT, "session.opened\n"), (AT_THE_END, "completed\n")])
def test_where_its_thread_is_gone_nobody_waits_for_it(tmp_path, script, says):
    """In the child of a fork(), with an iterator that lives until Python ends, closed when Python ends, and closed by the second of two signals while
    the first one's closing is under way.
    """
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "agent.db")], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, says, "")


def test_closed_while_another_thread_waits(tmp_path, monkeypatch):
    """Behind the turn of another owner, or for what never ends: the thread is told why, and has not to be killed."""
    path = tmp_path / "agent.db"
    monkeypatch.setattr("power_agent.loop.intake.LOOK_SECONDS", 3_600)
    with make(lambda _: asyncio.sleep(3_600), store=path).sync as owner, ThreadPoolExecutor(8) as pool:
        theirs = pool.submit(owner.send, "x", "s")
        while not owner.sessions() or owner.state("s").turn is None:
            time.sleep(0.005)
        agent = make(["never"], store=path).sync
        waiting = [pool.submit(agent.send, "me too", "s", when_busy="queue"), pool.submit(agent.run, lambda _: asyncio.sleep(3_600))]
        while not owner.state("s").inputs or len(agent._tasks) < 2:
            time.sleep(0.005)
        begun = time.monotonic()
        agent.close()
        assert time.monotonic() - begun < STOP_SECONDS
        for one in waiting:
            with pytest.raises(StoreClosed, match="before") as caught:
                one.result(PATIENCE_SECONDS)
            assert "resume" in caught.value.hint
        with pytest.raises(StoreClosed):
            agent.send("y", "s")
        owner.close()
        with pytest.raises(StoreClosed):
            theirs.result(PATIENCE_SECONDS)


def test_entered_twice(tmp_path):
    """The inner one would close the outer one: refused, as with `async with`, and the outer one goes on."""
    loop = make(["hello"], store=tmp_path / "agent.db")
    with loop.sync as agent:
        with pytest.raises(StoreError, match="open already") as caught, loop.sync:
            pass
        with pytest.raises(StoreError) as other:
            agent.run(lambda one: one.__aenter__())
        assert other.value.message == caught.value.message
        assert agent.send("x", "s").text == "hello"


def test_busy_is_said():
    """What another thread works on is busy, here too; nothing that was denied runs."""
    begun, go = threading.Event(), threading.Event()

    def slow(request):
        begun.set()
        return [Call("pay", {"to": "ada"})] if request.replies == 0 else "done"

    @tool
    def wait() -> None:
        go.wait(PATIENCE_SECONDS)

    model = ScriptedModel(lambda request: [Call("wait")] if request.replies == 0 else "done")
    with StatefulAgentLoop(model, tools=[wait], store=":memory:").sync as agent:
        sender = threading.Thread(target=agent.send, args=("x", "s"))
        sender.start()
        while not agent.sessions() or not agent.state("s").calls:
            time.sleep(0.005)
        with pytest.raises(SessionBusy):
            agent.send("y", "s")
        go.set()
        sender.join()
        assert agent.resume("s").text == "done"
    assert Deny("x").reason == "x"
