"""A person at a terminal: every verb, colours, width, keys; and Ctrl-C at any moment."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time

import pytest
from processes import PATIENCE_SECONDS
from shell import COMMAND, Terminal, environment, piped
from test_cli import EVERYDAY

STUBBORN = """
async def stubborn() -> str:
    'Never stop.'
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

def hard(store):
    return StatefulAgentLoop(ScriptedModel([[Call('stubborn')]]), tools=[stubborn], store=store)
"""
STARTED = "import sys; from power_agent.cli import main; print('started', flush=True); sys.exit(main())"
SEQUENCE = re.compile(r"\x1b\[[0-9;]*[mK]")


def shown(text: str) -> str:
    """Return what stays on the screen: without colours, and only the last state of each line."""
    return "\n".join(line.split("\r")[-1] for line in SEQUENCE.sub("", text).replace("\r\n", "\n").split("\n"))


@pytest.mark.parametrize("verb", EVERYDAY)
def test_verb_in_a_terminal(verb, here):
    """Every verb works in a terminal, ends as in a pipe, and sends it only colours and the wiping of a line."""
    words, code, out = EVERYDAY[verb]
    told = Terminal(*words, cwd=here, columns=300).end()  # a path is cut where the terminal ends, and the folder's may be long
    assert told.code == code, told.out
    assert " ".join(out.split()) in " ".join(shown(told.out).split())
    rest = SEQUENCE.sub("", told.out).replace("\r", "").replace("\n", "")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", rest)


@pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"CI": "true"}])
def test_no_colour_where_none_is_wanted(more, here):
    """NO_COLOR, a dumb terminal and CI get plain text."""
    assert SEQUENCE.search(Terminal("sessions", cwd=here).end().out)
    told = Terminal("sessions", cwd=here, **more).end()
    assert told.code == 0
    assert "\x1b" not in told.out


def test_lines_are_cut_to_the_width(here):
    """A long line does not wrap on a terminal; in a pipe it is whole."""
    narrow = shown(Terminal("history", "dirty", cwd=here, columns=60).end().out)
    assert max(map(len, narrow.splitlines())) <= 60
    assert "…" in narrow
    whole = piped("history", "dirty", cwd=here).out
    assert "tag[/bold]" in whole
    assert "…" not in whole


def test_bare_in_a_terminal(here):
    """The state of things, at a glance."""
    told = shown(Terminal(cwd=here).end().out)
    assert "2 need a person" in told
    assert "next: power-agent settle" in told


def test_send_shows_what_goes_on(here):
    """While a turn runs, each event appears; the answer stands alone on its lines."""
    told = shown(Terminal("send", "done", "wait 1", "--agent", "agent:make", cwd=here).end().out)
    for event in ("call.started", "model.asked"):
        assert event in told
    assert "\nDone.\n" in told
    quiet = shown(Terminal("send", "done", "hello", "--agent", "agent:make", "--quiet", cwd=here).end().out)
    assert quiet.strip() == "You said: hello"


def test_first_ctrl_c_interrupts_and_says_how_to_go_on(here):
    """130, the session is free at once, the command that is printed works."""
    terminal = Terminal("send", "done", "wait 60", "--agent", "agent:make", cwd=here)
    terminal.until("call.started")
    terminal.type("\x03")
    told = terminal.end()
    assert told.code == 130
    text = shown(told.out)
    assert "power-agent resume done --agent agent:make" in text
    assert "Traceback" not in text
    assert {one["session"]: one["standing"] for one in piped("sessions", "--json", cwd=here).data["sessions"]}["done"] == "interrupted"
    assert piped("resume", "done", "--agent", "agent:make", cwd=here).code == 5  # what was running is in doubt
    assert piped("verify", cwd=here).code == 0


def test_second_ctrl_c_leaves_at_once(here):
    """A tool that does not let itself be stopped cannot hold the person."""
    with (here / "agent.py").open("a", encoding="utf-8") as file:
        file.write(STUBBORN)
    terminal = Terminal("send", "hard", "go", "--new", "--agent", "agent:hard", cwd=here)
    terminal.until("call.started")
    terminal.type("\x03")
    terminal.until("Interrupting")
    time.sleep(0.4)
    terminal.type("\x03")
    told = terminal.end()
    assert told.code == 130
    assert "Left at once" in told.out
    assert piped("resume", "hard", "--agent", "agent:hard", cwd=here).code == 5
    assert piped("verify", cwd=here).code == 0


def test_ctrl_c_while_following(here):
    """Watching ends with Ctrl-C, quietly."""
    terminal = Terminal("tail", "done", cwd=here)
    terminal.until("turn.ended")
    terminal.type("\x03")
    told = terminal.end()
    assert told.code == 130
    assert "Traceback" not in told.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seed", range(3))
def test_interrupted_at_random_moments(number, seed, here):
    """Whenever it comes, from the first import to the last line: 130 (or done), and the session is resumable and verifies."""
    moment = random.Random(seed).uniform(0.05, 1.2)
    words = ["send", "fresh", "wait 0.3", "--new", "--key", "k", "--agent", "agent:make"]
    with subprocess.Popen([sys.executable, "-c", STARTED, *words], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        time.sleep(moment)
        process.send_signal(number)
        out, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) in {(130, b""), (0, b"Done.\n")}, error
    assert piped("verify", cwd=here).code == 0
    again = piped("send", "fresh", "wait 0.3", "--new", "--key", "k", "--agent", "agent:make", "--json", cwd=here)
    if again.code == 5:  # interrupted after the input was kept
        assert piped("resume", "fresh", "--agent", "agent:make", cwd=here).code in {0, 5}
        piped("abort", "fresh", cwd=here)
        again = piped("send", "fresh", "hello", "--agent", "agent:make", cwd=here)
    assert again.code == 0, again.err


def test_interrupted_while_a_class_is_made(here):
    """Python makes an error of an interrupt that comes while a class is made, as modules do when they are imported: it is one all the same."""
    code = """
class Interrupts:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt
class Made:
    field = Interrupts()
"""
    (here / "interrupting.py").write_text(code, encoding="utf-8")
    told = piped("send", "fresh", "hello", "--new", "--agent", "interrupting:make", cwd=here)
    assert (told.code, told.out) == (130, ""), told.err


def test_two_shells_at_once(here):
    """The second one is told who works (7), can watch, and can ask for the end; the first one then ends by itself."""
    with subprocess.Popen([*COMMAND, "send", "done", "wait 60", "--agent", "agent:make"], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as first:
        watching = Terminal("tail", "done", "-n", "1", cwd=here)
        watching.until("call.started")
        for words in (("send", "done", "hello", "--agent", "agent:make"), ("resume", "done", "--agent", "agent:make"), ("abort", "done"), ("close", "done")):
            told = piped(*words, cwd=here)
            assert told.code == 7, told.err
            assert f"held by process {first.pid}" in told.err
            assert "power-agent cancel done" in told.err
        running = {one["session"]: one for one in piped("sessions", "--json", cwd=here).data["sessions"]}["done"]
        assert (running["standing"], running["commands"]) == ("running", ["power-agent tail done", "power-agent cancel done"])
        told = piped("cancel", "done", "--reason", "enough", cwd=here)
        assert told.code == 0
        assert "It stops within moments" in told.err
        watching.until("call.doubted")
        watching.type("\x03")
        watching.end()
        _, error = first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 5  # the call may have taken effect
    assert b"settle done" in error


def test_resume_names_the_tool(here):
    """What goes on is told with the name of the tool, also for a call that was made before."""
    assert piped("settle", "waiting", "t1r1c2", "approve", cwd=here).code == 0
    assert "t1r1c2 pay" in shown(Terminal("resume", "waiting", "--agent", "agent:make", cwd=here).end().out)


def test_settled_while_another_waits(here):
    """An approval from a second shell is all it takes; the first one's session goes on with resume."""
    assert piped("settle", "waiting", "t1r1c2", "approve", cwd=here).code == 0
    told = piped("resume", "waiting", "--agent", "agent:make", cwd=here)
    assert (told.code, told.out) == (0, "Done.\n")


def test_progress_of_verify(here):
    """On a terminal verify says how far it is, and wipes that away."""
    told = Terminal("verify", cwd=here).end()
    assert "verifying" in told.out
    assert "verifying" not in shown(told.out)
    assert "verifying" not in piped("verify", cwd=here).err
