"""Turns as they come, messages to sessions that are busy, and watching from another shell."""

from __future__ import annotations

import asyncio
import json
import subprocess

import pytest
from processes import PATIENCE_SECONDS
from shell import COMMAND, Terminal, environment, piped
from test_cli_terminal import shown

from power_agent import ScriptedModel, StatefulAgentLoop
from power_agent.cli.streaming import leave

TALKER = '''
import asyncio, os
from power_agent import Call, StatefulAgentLoop
from power_agent.messages import Text, Usage
from power_agent.ports import ModelReply
from power_agent.errors import ModelError

class Talker:
    """Says pieces; before the second one it waits for a file."""
    name = "talker:m"
    fails = 0

    async def ask(self, request, glimpse):
        said = [message.text for message in request.messages if message.role == "user"][-1]
        if said == "retry" and not Talker.fails:
            Talker.fails = 1
            glimpse("text", "Wrong beg")
            raise ModelError("broke", retryable=True)
        if said == "tool" and request.messages[-1].role != "tool":
            glimpse("text", "Let me look")
            glimpse("text", ".")
            return ModelReply(parts=(Text("Let me look."), Call("look")), usage=Usage(input=1, output=1))
        glimpse("text", "One \\x1b[31m")
        while said == "hold" and not os.path.exists("go"):
            await asyncio.sleep(0.02)
        glimpse("text", "and two.")
        return ModelReply(parts=(Text("One \\x1b[31mand two."),), usage=Usage(input=1, output=1))

def look() -> str:
    """Look."""
    return "seen"

def make(store):
    return StatefulAgentLoop(Talker(), tools=[look], store=store)
'''


@pytest.fixture
def talker(here):
    """An agent whose model says one piece after the other."""
    (here / "talker.py").write_text(TALKER, encoding="utf-8")
    return ("--agent", "talker:make")


@pytest.fixture
def busy(here):
    """Another process works on `done`."""
    words = ["send", "done", "wait 60", "--agent", "agent:make"]
    with subprocess.Popen([*COMMAND, *words], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        watching = Terminal("tail", "done", "-n", "1", cwd=here)
        watching.until("call.started")
        watching.type("\x03")
        watching.end()
        yield process
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)


# -- text as it comes --------------------------------------------------------------------------------------------------


def test_text_comes_piece_by_piece(here, talker):
    """On a terminal the first piece is there before the second is known; nothing is told twice, nothing commands the terminal."""
    terminal = Terminal("send", "done", "hold", *talker, cwd=here)
    terminal.until("One \\x1b[31m")
    assert b"and two." not in terminal.shown
    (here / "go").touch()
    told = terminal.end()
    assert told.code == 0
    text = shown(told.out)
    assert text.count("One \\x1b[31mand two.") == 1
    assert "\ncompleted: session done" in text


def test_facts_stand_on_lines_of_their_own(here, talker):
    """Text, then what was called, then text: in the order in which it happened."""
    text = shown(Terminal("send", "done", "tool", *talker, cwd=here, columns=160).end().out)
    places = [text.index(word) for word in ("\nLet me look.\n", "call.started", "call.succeeded", "\nOne \\x1b[31mand two.\n", "completed:")]
    assert places == sorted(places)


def test_an_attempt_that_failed_is_taken_back(here, talker):
    """What was told of it does not count, and that is said; the answer stands whole."""
    text = shown(Terminal("send", "done", "retry", *talker, cwd=here).end(60).out)
    assert "does not count" in text
    assert text.index("Wrong beg") < text.index("does not count") < text.index("One \\x1b[31mand two.")


def test_a_model_that_tells_nothing_before(here):
    """Without glimpses the answer is told once, when it is known."""
    text = shown(Terminal("send", "done", "hello", "--agent", "agent:make", cwd=here).end().out)
    assert text.count("You said: hello") == 1


@pytest.mark.parametrize(
    ("more", "out"), [((), "One \\x1b[31mand two.\n"), (("--stream",), "Let me look.\nOne \\x1b[31mand two.\n"), (("--no-stream",), "One \\x1b[31mand two.\n")]
)
def test_in_a_pipe_the_answer_alone(more, out, here, talker):
    """stdout is data: the answer; with --stream everything that was said, as it came."""
    told = piped("send", "done", "tool", *talker, *more, cwd=here)
    assert (told.code, told.out) == (0, out)


def test_no_stream_on_a_terminal(here, talker):
    """Then the text comes at the end, and only the answer."""
    text = shown(Terminal("send", "done", "tool", "--no-stream", *talker, cwd=here).end().out)
    assert "\nLet me look.\n" not in text
    assert text.count("\nOne \\x1b[31mand two.\n") == 1


def test_stream_as_documents(here, talker):
    """With --json a document per event and per piece, and the result last; without --stream the result alone."""
    told = piped("send", "done", "tool", *talker, "--stream", "--json", cwd=here)
    documents = [json.loads(line) for line in told.out.splitlines()]
    assert all(one["v"] == 1 for one in documents)
    events = [one for one in documents if "seq" in one]
    assert [one["seq"] for one in events] == list(range(events[0]["seq"], events[-1]["seq"] + 1))
    pieces = [one["glimpse"] for one in documents if "glimpse" in one]
    assert [one["text"] for one in pieces if one["kind"] == "text"] == ["Let me look", ".", "One \x1b[31m", "and two."]
    assert {frozenset(one) for one in pieces} == {frozenset({"kind", "text", "turn", "round", "attempt", "call"})}
    assert documents[-1]["result"]["status"] == "completed"
    assert list(piped("send", "done", "tool", *talker, "--json", cwd=here).data) == ["v", "result"]


def test_ctrl_c_in_the_middle_of_a_text(here, talker):
    """130 in the middle of a sentence; the hint stands on a line of its own, and what it says works, streaming again."""
    terminal = Terminal("send", "done", "hold", *talker, cwd=here)
    terminal.until("One ")
    terminal.type("\x03")
    told = terminal.end()
    assert told.code == 130
    assert "\n  try:  power-agent resume done --agent talker:make" in shown(told.out)
    (here / "go").touch()
    told = Terminal("resume", "done", *talker, cwd=here).end()
    assert told.code == 0
    assert shown(told.out).count("One \\x1b[31mand two.") == 1
    assert piped("resume", "done", *talker, cwd=here).out == "One \\x1b[31mand two.\n"


# -- where somebody else is at work ------------------------------------------------------------------------------------


def test_busy_is_7_unless_told_otherwise(here, busy):
    """raise: exit code 7. --no-wait with queue: kept for its owner, and gone at once."""
    assert piped("send", "done", "hello", "--agent", "agent:make", cwd=here).code == 7
    told = piped("send", "done", "hello", "--agent", "agent:make", "--when-busy", "queue", "--no-wait", "--json", cwd=here)
    assert told.code == 0, told.err
    assert (told.data["left"]["session"], told.data["left"]["pid"]) == ("done", str(busy.pid))
    assert "power-agent tail done" in told.err
    queued = piped("show", "done", "--json", cwd=here).data["queued"]
    assert [(one["mode"], one["text"]) for one in queued] == [("queue", "hello")]
    assert "takes it up" in piped("send", "done", "and this", "--agent", "agent:make", "--when-busy", "steer", "--no-wait", cwd=here).err
    assert busy.poll() is None


def test_queued_behind_a_turn(here):
    """queue waits for the turn in which another process takes the message, and shows it as it comes."""
    first = [*COMMAND, "send", "done", "wait 2", "--agent", "agent:make"]
    with subprocess.Popen(first, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        watching = Terminal("tail", "done", "-n", "1", cwd=here)
        watching.until("call.started")
        told = piped("send", "done", "hello", "--agent", "agent:make", "--when-busy", "queue", cwd=here)
        assert (told.code, told.out) == (0, "You said: hello\n")
        watching.until("You said: hello")
        watching.type("\x03")
        watching.end()
        out, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (0, b"Done.\n"), error


def test_no_wait_where_nobody_works_runs_the_turn(run):
    """Somebody has to run it: leaving would only interrupt it."""
    told = run("send", "done", "pay 5", "--agent", "agent:make", "--no-wait")
    assert (told.code, told.out) == (0, "Done.\n")
    assert run("send", "waiting", "hello", "--agent", "agent:make", "--when-busy", "queue", "--no-wait").code == 5
    assert [one["text"] for one in run("show", "waiting", "--json").data["queued"]] == ["hello"]


async def test_no_wait_and_the_turn_is_over_before_anybody_looks(tmp_path, monkeypatch):
    """Between keeping the message and looking for who works, the turn may have come to its end: then its end is told."""
    kept = asyncio.Event()

    async def slow(_: object) -> str:
        await kept.wait()
        return "heard"

    async with StatefulAgentLoop(ScriptedModel(slow), store=tmp_path / "log.db") as loop:
        find = loop.store.find

        async def late(name):
            kept.set()
            while (row := await find(name)) is not None and row.deadline:
                await asyncio.sleep(0.01)
            return row

        keep = loop.send

        async def sent(*words, **more):
            result = await keep(*words, **more)
            monkeypatch.setattr(loop.store, "find", late)
            return result

        monkeypatch.setattr(loop, "send", sent)
        told = await leave(loop, "s", "hello", key=None, by=None, when_busy="raise")
    assert (told.status, told.text) == ("completed", "heard")


@pytest.mark.parametrize(("word", "hint"), [("que", "Did you mean queue?"), ("xyz", "Use raise, queue or steer")])
def test_no_way_to_send(word, hint, run):
    """A misspelt way is refused before anything is kept."""
    told = run("send", "done", "hello", "--agent", "agent:make", "--when-busy", word)
    assert (told.code, told.out) == (2, "")
    assert hint in told.err


# -- watching ----------------------------------------------------------------------------------------------------------


def test_tail_goes_on_where_it_stopped(run):
    """--after takes the last seq, or the last position of all sessions: nothing is missed or told twice."""
    whole = [json.loads(line)["seq"] for line in run("tail", "done", "--after", "0", "--no-follow", "--json").out.splitlines()]
    assert whole == list(range(1, 18))
    assert [json.loads(line)["seq"] for line in run("tail", "done", "--after", "15", "--no-follow", "--json").out.splitlines()] == [16, 17]
    assert run("tail", "done", "--after", "17", "--no-follow").out == ""
    everything = [json.loads(line) for line in run("tail", "--after", "0", "--no-follow", "--json").out.splitlines()]
    assert [one["position"] for one in everything] == list(range(1, len(everything) + 1))
    assert len({one["session"] for one in everything}) == 9
    assert len(run("tail", "--after", str(len(everything) - 4), "--no-follow").out.splitlines()) == 4


def test_tail_knows_the_tool_of_a_call_made_before(run):
    """Also where it begins between a call and its outcome."""
    assert "t2r1c1 pay = Ada has 5 euros" in run("tail", "done", "--after", "12", "--no-follow").out


def test_tail_ends_with_the_session(run):
    """A session that takes no more input has nothing to wait for."""
    assert run("tail", "closed").code == 0
    assert run("tail", "erased").code == 0


def test_all_sessions_are_watched_from_a_second_terminal(here):
    """Whatever session changes, also one that begins meanwhile, with its name; Ctrl-C ends it."""
    watching = Terminal("tail", "-n", "1", cwd=here, columns=160)
    watching.until("doubted")
    assert piped("send", "fresh", "pay 5", "--new", "--agent", "agent:make", cwd=here).code == 0
    watching.until("t1r1c1 pay = Ada has 5 euros")
    watching.until("turn 1 completed")
    assert piped("send", "done", "hello", "--agent", "agent:make", cwd=here).code == 0
    watching.until("You said: hello")
    watching.type("\x03")
    told = watching.end()
    assert told.code == 130
    assert "Traceback" not in told.out
    assert "fresh  " in shown(told.out)


def test_tail_in_a_pipe_that_closes(here):
    """Whoever has read enough closes the pipe; tail ends by itself with the next event."""
    with subprocess.Popen([*COMMAND, "tail", "--json", "-n", "1"], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["v"] == 1
        process.stdout.close()
        for _ in range(2):
            piped("send", "done", "hello", "--agent", "agent:make", cwd=here)
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_SECONDS) == 0
