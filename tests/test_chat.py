"""`power-agent chat` in a real terminal: what a person sees, what their keys do, and what is in the log afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from panes import SGR, Pane
from processes import PATIENCE_SECONDS
from shell import COMMAND, environment, piped

BOT = '''
import asyncio, re
from pathlib import Path
from power_agent import Call, Limits, StatefulAgentLoop
from power_agent.messages import Text
from power_agent.models.scripted import Answer, ScriptedModel
from power_agent.policy import Allow, Ask

EVIL = "red \\x1b[31mnow \\x1b]0;owned\\x07 `\\x9b5m` &#x202e;rev <http://a/%1b%5b31m> <b>html</b> [click](http://evil.example/)\\n\\n# H \\x1b[2J\\n"

async def gate(name):
    Path(name + ".here").touch()
    while not Path(name).exists():
        await asyncio.sleep(0.01)

def pay(to: str, euros: int) -> str:
    """Pay somebody."""
    with Path("bank.txt").open("a") as book:
        book.write(f"{to} {euros}\\\\n")
    return f"{to} has {euros} euros"

async def hold(name: str) -> str:
    """Hold until a file is there."""
    await gate(name)
    return "held " * 500

async def stubborn() -> str:
    """Never stop."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

def shout() -> str:
    """Print."""
    print("printed \\x1b[31mby the tool")
    return "\\x1b[2Jshouted"

def policy(wanted):
    return Ask("Really?") if wanted.tool == "pay" else Allow()

def script(request):
    text = [m.text for m in request.messages if m.role == "user"][-1]
    verb, _, rest = text.partition(" ")
    done = request.messages[-1].role == "tool"
    match verb:
        case "pay" if not done:
            return [Call("pay", {"to": rest or "Ada", "euros": 500})]
        case "hold" if not done:
            return [Call("hold", {"name": rest})]
        case "hold-pay":
            last = max(n for n, m in enumerate(request.messages) if m.role == "user")
            calls = sum(len(m.calls) for m in request.messages[last:])
            return [[Call("hold", {"name": rest})], [Call("pay", {"to": "Eve", "euros": 500})], "Done."][min(calls, 2)]
        case "stubborn" if not done:
            return [Call("stubborn")]
        case "shout" if not done:
            return [Call("shout")]
        case "lines":
            return "Here:\\n\\n```\\n" + "\\n".join(f"line {n}" for n in range(10_000)) + "\\n```\\n\\nThat was it."
        case "evil":
            return EVIL
        case "markdown":
            return "# Title\\n\\nSome **bold** words.\\n\\n- one\\n- two\\n\\n```python\\nprint(1)\\n```\\n"
    return "Done." if done else f"You said: {text}"

class Slow(ScriptedModel):
    context_window = 200_000

    async def ask(self, request, glimpse):
        reply = await super().ask(request, lambda *_: None)
        last = [m.text for m in request.messages if m.role == "user"][-1]
        for part in reply.parts:
            for n, piece in enumerate(re.findall(r"(?s).{1,60}", part.text) if isinstance(part, Text) else ()):
                glimpse("text", piece)
                if n % 50 == 0:
                    await asyncio.sleep(0)
                if last.startswith("slowly") and n == 0:
                    await gate("go")
        return reply

def make(store):
    return StatefulAgentLoop(Slow(script, name="scripted:bot"), tools=[pay, hold, stubborn, shout], policy=policy, store=store)
'''
AGENT = ("--agent", "bot:make")
KEY = "sk-ant-api03-" + "q9Zx" * 22
BARE = "import sys; sys.modules['prompt_toolkit'] = None; from power_agent.cli import main; sys.exit(main())"


@pytest.fixture
def desk(tmp_path):
    """A folder with an agent."""
    (tmp_path / "bot.py").write_text(BOT, encoding="utf-8")
    return tmp_path


def chat(desk, *words, agent=AGENT, **more):
    """Open a chat in a pane."""
    return Pane("chat", *words, *agent, cwd=desk, **more)


def kinds(desk, *chosen):
    """Return the kinds of the last session's events, of those that are of interest."""
    told = piped("history", "@last", "--json", "--limit", "1000", cwd=desk)
    return [one["kind"] for one in told.data["events"] if not chosen or one["kind"] in chosen]


def standing(desk):
    """Return how the session that changed last stands."""
    return piped("sessions", "--json", cwd=desk).data["sessions"][0]["standing"]


# -- a turn as it is seen ----------------------------------------------------------------------------------------------


def test_text_streams_and_is_laid_out(desk):
    """Text stands there before its end, with one line below that says how things are; whole blocks are laid out; the end sums up."""
    with chat(desk) as pane:
        assert "new session" in pane.ready()
        pane.say("slowly " + "a b c d e f " * 10)
        early = pane.until("You said: slowly a b")
        assert "Done" not in early
        live = pane.until("round 1 · answering")
        assert re.search(r"^\S round 1 · answering · \d+\.\d s · .*seq \d+$", live, re.MULTILINE)
        (desk / "go").touch()
        pane.until("turn 1 · ")
        assert "answering" not in pane.ready()
        pane.say("markdown")
        pane.until("turn 2 · ")
        seen = pane.ready()
        assert "Some bold words." in seen
        assert " • one" in seen
        assert "\n  print(1)" in seen
        assert "#" not in seen.partition("markdown")[2]
        assert "\x1b[1mbold" in pane.screen(painted=True)
        assert re.search(r"turn 2 · \d+\.\d s · \d+ tokens · cost unknown · context \d+% · seq \d+$", seen, re.MULTILINE)
        pane.type("", "C-d")
        assert pane.end() == "0"
    assert kinds(desk, "turn.ended") == ["turn.ended"] * 2


def test_tools_are_folded(desk):
    """A call is one line: what ran, how long, how much came back. What it prints and returns cannot command the terminal."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("hold open")
        pane.until("hold 0.")
        (desk / "open").touch()
        assert re.search(r'  ✓ hold\(name="open"\)  [\d.]+ m?s · 2\.5kB$', pane.until("turn 1 · "), re.MULTILINE)
        pane.ready()
        pane.say("shout")
        seen = pane.until("turn 2 · ")
        assert "printed \\x1b[31mby the tool" in seen
        assert seen.count("held") == 0


def test_ten_thousand_lines(desk):
    """All of them come, once and in order, and stay in what can be scrolled back to."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("lines")
        seen = pane.until("That was it.")
        pane.until("turn 1 · ")
        assert re.findall(r"^  line (\d+)$", seen, re.MULTILINE) == [str(number) for number in range(10_000)]


def test_nothing_commands_the_terminal(desk):
    """Neither an answer, nor what Markdown makes of it, nor arguments of a call: what is obeyed comes from us alone."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("evil")
        seen = pane.until("turn 1 · ")
        for text in (
            "\\x1b[31mnow",
            "\\x1b]0;owned\\x07",
            "\\u009b5m" if "\\u009b5m" in seen else "\\x9b5m",
            "\\u202erev",
            "http://a/\\x1b[31m",
            "<b>html</b>",
            "(http://evil.example/)",
        ):
            assert text in seen
        pane.ready()
        pane.say("pay \x7f")  # a key that deletes, so that what follows is typed into an empty place
        pane.asked()
        title = pane.run("display-message", "-p", "#{pane_title}")
        raw = pane.raw.read_text(encoding="utf-8", errors="surrogateescape")
    assert "owned" not in title
    rest = re.sub(r"\x1b\[[0-9;?]*[A-HJKLMPXfhlm]", "", raw)
    assert not re.search(r"[\x00-\x07\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202e]", rest)


@pytest.mark.parametrize("columns", [40, 200])
def test_narrow_and_wide(columns, desk):
    """On any width no line of the status wraps, all of a question is there, and so is the session's id."""
    with chat(desk, columns=columns) as pane:
        pane.ready()
        pane.say("pay " + "Bartholomew " * 6)
        seen = pane.asked()
        assert 'pay(to="' + ("Bartholomew " * 6).strip() + '", euros=500)  Really?' in seen
        assert "leaves it waiting" in seen
        pane.say("no")
        pane.until("turn 1 · ")
        pane.ready()
        apart = pane.screen(joined=False)
        (status,) = [line for line in apart.split("\n") if line.startswith("turn 1 · ")]
        assert len(status) < columns
        assert ("seq" in status) == (columns == 200)
        assert re.search(r"session\s[0-9a-f]{20}$", apart, re.MULTILINE) or re.search(r"^ *[0-9a-f]{20}$", apart, re.MULTILINE)


def test_a_terminal_that_shrinks(desk):
    """Made narrower in the middle of a turn, nothing of the status stays behind."""
    with chat(desk, columns=120) as pane:
        pane.ready()
        pane.say("hold open")
        pane.until("hold 0.")
        pane.run("resize-window", "-x", "50", "-y", "30")
        pane.until("hold 0.")
        (desk / "open").touch()
        pane.until("turn 1 · ")
        assert "round" not in pane.ready()


def test_no_colour(desk):
    """With NO_COLOR nothing is painted; everything else is as it was."""
    with chat(desk, NO_COLOR="1") as pane:
        pane.ready()
        pane.say("markdown")
        pane.until("turn 1 · ")
        pane.ready()
        assert not SGR.search(pane.screen(painted=True).replace("\x1b[0m", "").replace("\x1b[39m", "").replace("\x1b[49m", ""))


def test_a_terminal_that_only_prints(desk):
    """TERM=dumb gets plain lines, asks as well, and is sent no sequence at all."""
    with chat(desk, TERM="dumb") as pane:
        pane.ready()
        pane.say("pay Ada")
        pane.asked()
        pane.say("yes")
        pane.until("turn 1 · ")
        pane.ready()
        pane.type("", "C-d")
        assert pane.end() == "0"
        assert "\x1b" not in pane.raw.read_text(encoding="utf-8")


# -- a person decides --------------------------------------------------------------------------------------------------


def test_approval_in_place(desk):
    """What runs is what was shown; only the word alone lets it run, and once."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("pay Ada")
        assert '\n  │ pay(to="Ada", euros=500)  Really?\n' in pane.asked()
        for words in ("", "y", "yes, but only five"):
            pane.say(words)
            pane.asked()
        assert not (desk / "bank.txt").exists()
        assert standing(desk) == "waiting"
        pane.say("yes")
        pane.until("turn 1 · ")
    assert (desk / "bank.txt").read_text(encoding="utf-8").count("Ada 500") == 1
    assert kinds(desk, "call.approval_asked", "call.approved", "call.started") == ["call.approval_asked", "call.approved", "call.started"]


def test_type_ahead_never_approves(desk):
    """What is typed before a question, in one go with the message or while a tool runs, answers nothing."""
    with chat(desk) as pane:
        pane.ready()
        pane.type("pay Ada\ryes\ryes\r")
        seen = pane.asked()
        assert seen.rstrip().endswith("›")
        assert standing(desk) == "waiting"
        pane.say("no not today")
        pane.until("turn 1 · ")
        pane.ready()
        assert "You said: yes" not in pane.screen()
        pane.say("hold-pay open")
        pane.until("hold 0.")
        pane.type("yes\ryes\r")
        pane.run("display-message", "-p", "")  # the keys are there before the file is
        (desk / "open").touch()
        pane.until("Really?", times=2)
        pane.asked()
        assert standing(desk) == "waiting"
        pane.type("", "C-d")
        pane.until("It waits.")
        pane.ready()
        pane.type("", "C-d")
        assert pane.end() == "5"
    assert kinds(desk, "call.approved", "call.denied") == ["call.denied"]
    assert not (desk / "bank.txt").exists()


def test_later_is_later(desk):
    """What is left waiting can be decided by another shell, or with /pending; a message typed meanwhile is kept."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("pay Ada")
        pane.asked()
        pane.say("later")
        pane.until("/pending asks again")
        pane.ready()
        pane.say("and then?")
        pane.until("comes first")
        pane.asked()
        assert piped("settle", "@last", "t1r1c1", "approve", cwd=desk).code == 0
        pane.say("no")
        pane.until("was approved already")
        pane.until("turn 1 · ")
        pane.until("› and then?", times=2)
        pane.type("", "Enter")
        pane.until("You said: and then?")


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def test_first_ctrl_c_interrupts_the_second_leaves(desk):
    """The turn stays open, the command that is printed resumes it, and the second one ends with 130."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("hold never")
        pane.until("hold 0.")
        pane.type("", "C-c")
        seen = pane.until("Ctrl-C once more leaves.")
        (command,) = re.findall(r"^  power-agent (resume .*)$", seen, re.MULTILINE)
        pane.ready()
        assert standing(desk) == "interrupted"
        pane.type("", "C-c")
        assert pane.end() == "130"
    told = piped(*command.split(), cwd=desk)
    assert told.code == 5  # what was running is in doubt
    assert "t1r1c1 is doubted" in told.err


def test_second_ctrl_c_does_not_wait_for_a_tool(desk):
    """A tool that will not stop holds nobody."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("stubborn")
        pane.until("stubborn 0.")
        pane.type("", "C-c")
        pane.until("Ctrl-C once more leaves at once")
        pane.run("run-shell", "sleep 0.4")  # two signals in a moment are one
        pane.type("", "C-c")
        assert pane.end() == "130"
        assert "Left at once" in pane.screen()
    assert standing(desk) == "interrupted"


def test_ctrl_c_where_nothing_runs(desk):
    """At the prompt it says what the next one does; anything typed in between takes that back. In a question it means later."""
    with chat(desk) as pane:
        pane.ready()
        pane.type("half a mess", "C-c")
        pane.until("Ctrl-C once more leaves.")
        pane.ready()
        pane.say("pay Ada")
        pane.asked()
        pane.type("", "C-c")
        pane.until("It waits.")
        pane.ready()
        pane.type("", "C-c")
        assert pane.end() == "130"
    assert standing(desk) == "waiting"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end(number, desk):
    """By whatever signal: the turn stays open, the exit code is 130."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("hold never")
        pane.until("hold 0.")
        os.kill(pane.pid, number)
        assert pane.end() == "130"
    assert standing(desk) == "interrupted"


# -- killed, and carrying on -------------------------------------------------------------------------------------------


def killed(pane):
    """Kill the chat as no process can prepare for."""
    os.kill(pane.pid, signal.SIGKILL)
    assert pane.end() == "137"


def test_what_nobody_took_up_is_offered(desk):
    """No turn is open: there is something to take up, and nothing to abort."""
    for words in (("pay Ada", "--new"), ("and then?", "--when-busy", "queue")):
        assert piped("send", "work", *words, *AGENT, cwd=desk).code == 5
    assert piped("abort", "work", cwd=desk).code == 0
    with chat(desk, "work") as pane:
        seen = pane.asked()
        assert "Something was said and not taken up" in seen
        assert ("left open" in seen, "abort" in seen) == (False, False)
        pane.say("resume")
        pane.until("You said: and then?")


def test_killed_while_a_tool_runs(desk):
    """The next chat finds it, looks, carries on, and a person says what became of the call."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("hold never")
        pane.until("hold 0.")
        killed(pane)
    with chat(desk) as pane:
        assert "hold (t1r1c1) was running" in pane.asked()
        pane.say("look")
        pane.until("call.started")
        pane.asked()
        pane.say("resume")
        pane.until("t1r1c1 may have taken effect")
        pane.asked()
        pane.say("result it held")
        pane.until("Done.")
        pane.until("turn 1 · ")
        pane.ready()
        pane.say("/exit")
        assert pane.end() == "0"
    assert piped("verify", cwd=desk).code == 0
    assert kinds(desk, "call.started", "call.doubted", "call.succeeded") == ["call.started", "call.doubted", "call.succeeded"]


def test_killed_at_a_question_and_aborted(desk):
    """The same question is asked again; of an open turn nothing is left behind an abort. What was finished is no longer offered."""
    with chat(desk) as pane:
        pane.ready()
        pane.say("pay Ada")
        pane.asked()
        killed(pane)
    with chat(desk) as pane:
        assert 'pay(to="Ada", euros=500)' in pane.asked()
        pane.say("yes")
        pane.until("turn 1 · ")
        pane.ready()
        pane.say("hold never")
        pane.until("hold 0.")
        killed(pane)
    assert (desk / "bank.txt").read_text(encoding="utf-8").count("Ada 500") == 1
    with chat(desk) as pane:
        pane.asked()
        pane.say("abort")
        pane.until("t2r1c1 hold (was started)")
        pane.ready()
        killed(pane)
    with chat(desk) as pane:
        assert "new session" in pane.ready()


# -- commands ----------------------------------------------------------------------------------------------------------


def test_commands_that_look(desk):
    """Each says something, changes nothing, and what is unknown is not said to the agent."""
    with chat(desk, "@new") as pane:
        pane.ready()
        pane.say("/cost")
        pane.until("Nothing was said here yet.")
        pane.ready()
        pane.say("pay Ada")
        pane.asked()
        pane.say("yes")
        pane.until("turn 1 · ")
        before = kinds(desk)
        for command, text in {
            "/help": "/compact  make the context smaller",
            "/model": "  scripted:bot",
            "/cost": "session    ",
            "/context": "last exchange",
            "/history 3": "turn.ended",
            "/tools": "  stubborn             Never stop.",
            "/tools t1r1c1": "    Ada has 500 euros",
            "/tools t9r9c9": "There is no call 't9r9c9'",
            "/pending": "Nothing is pending.",
            "/resume": "turn 1 · ",
            "/hlep": "Did you mean /help?",
            "/model openai:x": "and model is set there, not by --model",
        }.items():
            pane.ready()
            had = pane.screen().count(text)
            pane.say(command)
            pane.until(text, had + 1)
        pane.ready()
        assert kinds(desk) == before
        pane.say("/compact")
        pane.until("There is nothing to make smaller.")
        pane.ready()
        pane.type("/co", "Tab", "Tab")
        pane.until("/compact", times=3)
        pane.type("", "C-c")
        pane.ready()
        pane.say(" /usr is a folder")
        pane.until("You said: /usr is a folder")


def test_commands_that_change(desk):
    """Each does so through the log: branches, and a new session; the old ones stay as they are."""
    with chat(desk, "@new") as pane:
        pane.ready()
        for number, text in enumerate(("one", "two"), 1):
            pane.say(text)
            pane.until(f"turn {number} · ")
            pane.ready()
        first = kinds(desk)
        pane.say("/undo")
        pane.until("Now in")
        undone = re.findall(r"Now in ([0-9a-f]{20}), a branch of ([0-9a-f]{20}) at event (\d+)", " ".join(pane.ready().split()))[0]
        pane.say("three")
        pane.until("You said: three")
        pane.ready()
        pane.say("/undo")
        pane.until("Now in", 2)
        pane.ready()
        pane.say("/undo")
        pane.until("Now in", 3)
        pane.ready()
        pane.say("/undo")
        pane.until("no turn to go back before")
        pane.ready()
        pane.say("/fork mine")
        pane.until("Now in mine")
        pane.ready()
        pane.say("/fork mine")
        pane.until("error[session_exists]")
        pane.ready()
        pane.say("/clear")
        assert "three" not in pane.until("A new session.").partition("A new session.")[2]
        pane.ready()
        pane.say("four")
        pane.until("turn 1 · ")
        pane.type("", "C-d")
        pane.end()
    told = {one["session"]: one for one in piped("sessions", "--json", cwd=desk).data["sessions"]}
    assert len(told) == 6
    assert told["mine"]["parent"] is not None
    messages = piped("show", undone[0], "--messages", "--json", cwd=desk).data["messages"]
    assert [part["text"] for one in messages for part in one["parts"]] == ["one", "You said: one", "three", "You said: three"]
    assert [one["kind"] for one in piped("history", undone[1], "--json", cwd=desk).data["events"]] == first
    assert piped("verify", cwd=desk).code == 0


def test_another_model(desk):
    """/model goes on with another one over the same log; the turn records it; one that cannot be had changes nothing."""
    (desk / "bot.py").write_text(BOT + "\nother = Slow(script, name='scripted:other')\nmodel = Slow(script, name='scripted:bot')\n", encoding="utf-8")
    with chat(desk, "--model", "python:bot:model", agent=()) as pane:
        pane.ready()
        pane.say("one")
        pane.until("turn 1 · ")
        pane.ready()
        pane.say("/model python:bot:missing")
        pane.until("error[agent_not_found]")
        pane.ready()
        pane.say("/model python:bot:other")
        pane.until("scripted:other answers")
        pane.ready()
        pane.say("two")
        pane.until("turn 2 · ")
    asked = [one["event"]["model"] for one in piped("history", "@last", "--json", cwd=desk).data["events"] if one["kind"] == "model.asked"]
    assert asked == ["scripted:bot", "scripted:other"]
    assert "session.configured" in kinds(desk)


PLUGIN = """
async def greet(here, words):
    here.say(f"session \\x1b[31m{here.session[:3]}… has {len(await here.loop.history(here.session))} events")
    return f"greet {words}" if words else None

async def broken(here, words):
    raise RuntimeError("no luck")

async def undo(here, words):
    here.say("not ours")
"""


def test_commands_of_other_packages(desk):
    """An entry point is a command: it has the loop, may say something, and what it returns is said. It can break, and replaces nothing."""
    (desk / "mine.py").write_text(PLUGIN, encoding="utf-8")
    (desk / "mine-1.0.dist-info").mkdir()
    (desk / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    (desk / "mine-1.0.dist-info" / "entry_points.txt").write_text("[power_agent.chat]\ngreet = mine:greet\nbroken = mine:broken\nundo = mine:undo\n", encoding="utf-8")
    with chat(desk, PYTHONPATH=f"{Path(__file__).parent.parent}:{desk}") as pane:
        pane.ready()
        pane.say("/help")
        assert "/greet" in pane.until("from mine", 2)
        pane.ready()
        pane.say("/undo")
        assert "not ours" not in pane.until("Nothing was said here yet.")
        pane.ready()
        pane.say("hello")
        pane.until("turn 1 · ")
        pane.ready()
        pane.say("/broken")
        pane.until("RuntimeError: no luck")
        pane.ready()
        pane.say("/greet Ada")
        seen = pane.until("You said: greet Ada")
        assert "session \\x1b[31m" in seen


# -- how it begins -----------------------------------------------------------------------------------------------------


def test_only_for_a_person(desk):
    """In a pipe, and as JSON, it says what to use instead; nothing is read, nothing is created."""
    told = piped("chat", *AGENT, cwd=desk, stdin=b"hello\n")
    assert told.code == 2
    assert "power-agent send @new -" in told.err
    told = piped("chat", "--json", cwd=desk)
    assert (told.code, told.data["error"]["code"]) == (2, "usage")
    assert not (desk / "power-agent.db").exists()


def test_without_a_key(desk):
    """It says which variables were looked for, offers the scripted model, and that one needs neither key nor network."""
    with chat(desk, "--model", "anthropic:claude", agent=()) as pane:
        seen = pane.until("to try it")
        assert "There is no key for anthropic:claude" in seen
        assert "ANTHROPIC_API_KEY" in seen
        pane.ready()
        pane.say("no")
        assert pane.end() == "0"
    assert not (desk / "power-agent.db").exists()
    with chat(desk, agent=()) as pane:
        seen = pane.until("to try it")
        assert "GEMINI_API_KEY or GOOGLE_API_KEY" in seen
        assert "power-agent chat --agent bot:make" in seen
        pane.ready()
        pane.say("yes")
        pane.until("scripted:rehearsal")
        pane.ready()
        pane.say("what can you do?")
        assert 'send_money(to="Ada", euros=10)' in pane.asked()
        pane.say("yes")
        pane.until("turn 1 · ")
        pane.ready()
        pane.type("", "C-d")
        assert pane.end() == "0"
        assert "power_agent.cli.chat.rehearsal:agent" in pane.screen()


def test_a_key_that_is_set_is_named(desk):
    """With a key the provider is named, and no value is shown."""
    script = """
import io
from power_agent.cli.chat import opening, screen
from power_agent.cli.providers import known_providers
said = io.StringIO()
opening._nobody(screen.Screen(said), known_providers())
print(said.getvalue())
"""
    told = subprocess.run([sys.executable, "-c", script], cwd=desk, env=environment(ANTHROPIC_API_KEY=KEY), check=True, capture_output=True, text=True).stdout
    assert "ANTHROPIC_API_KEY: power-agent chat --model anthropic:NAME" in told
    assert KEY not in told


def test_a_misspelt_session_begins_none(desk):
    """As with every verb: exit code 3, and what was meant."""
    with chat(desk, "@new") as pane:
        pane.ready()
        pane.say("one")
        pane.until("turn 1 · ")
    with chat(desk, "nothing-like-it") as pane:
        assert pane.end() == "3"
        assert "There is no session 'nothing-like-it'" in pane.screen()


def test_without_the_extra(desk):
    """The terminal's own line editing does: the extra is named, lines go on behind a backslash, questions are as strict."""
    with Pane("chat", *AGENT, cwd=desk, program=[sys.executable, "-c", BARE]) as pane:
        assert "pip install 'power-agent[chat]'" in pane.ready()
        pane.say("one\\")
        pane.say("two")
        pane.until("turn 1 · ")
        pane.ready()
        pane.type("pay Ada\ryes\r")
        pane.asked()
        assert standing(desk) == "waiting"
        pane.say("yes")
        pane.until("turn 2 · ")
        pane.ready()
        pane.type("", "C-c")
        pane.until("Ctrl-C once more leaves.")
        pane.ready()
        pane.type("", "C-c")
        assert pane.end() == "130"
    told = piped("history", "@last", "--json", cwd=desk).data["events"]
    assert next(one["event"]["parts"][0]["text"] for one in told if one["kind"] == "input.received") == "one\ntwo"


def test_several_lines_and_what_was_typed_before(desk):
    """Alt-Enter, Ctrl-J and a backslash begin a line; what was typed comes back in the next chat; its file is private and holds no secret."""
    with chat(desk) as pane:
        pane.ready()
        pane.type("one\\\rtwo\x1b\rthree\nfour", "Enter")
        assert "› one\n  two\n  three\n  four\n" in pane.until("turn 1 · ")
        pane.ready()
        pane.say(f"my key is {KEY}")
        pane.until("turn 2 · ")
    (file,) = (desk / "state").rglob("*.jsonl")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert kept[0] == "one\ntwo\nthree\nfour"
    assert KEY not in "".join(kept)
    assert KEY.encode() not in (desk / "power-agent.db").read_bytes()
    with chat(desk, "@last") as pane:
        pane.ready()
        pane.type("", "Up", "Up", "Up")
        pane.until("› one\n")


# -- others at work ----------------------------------------------------------------------------------------------------


def test_busy_elsewhere(desk):
    """Whoever works on it is named; a message queues behind their turn, and both turns are seen. Nothing is an error."""
    words = [*COMMAND, "send", "shared", "hold", "open", "--new", *AGENT]
    with subprocess.Popen(words, cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as other:
        with chat(desk, "@new") as pane:  # by the time it is ready, the other one is at work
            pane.ready()
        while not (desk / "open.here").exists():
            assert other.poll() is None
        with chat(desk, "shared") as pane:
            assert f"at work elsewhere: process {other.pid}." in pane.asked()
            pane.say("later")
            pane.ready()
            pane.say("hello")
            pane.until("One turn at a time")
            pane.asked()
            pane.say("queue")
            pane.until("› queue")
            (desk / "open").touch()
            seen = pane.until("You said: hello")
            assert "✓ hold" in seen
            pane.until("turn 2 · ")
        other.communicate(timeout=PATIENCE_SECONDS)
    assert other.returncode == 0
    assert kinds(desk, "turn.ended", "turn.started") == ["turn.started", "turn.ended"] * 2


def test_following_somebody_else(desk):
    """What another process does is seen here, until it is done."""
    words = [*COMMAND, "send", "shared", "hold", "open", "--new", *AGENT]
    with subprocess.Popen(words, cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as other:
        while not (desk / "open.here").exists():
            assert other.poll() is None
        with chat(desk) as pane:
            pane.asked()
            pane.say("follow")
            pane.until("hold 0.")
            (desk / "open").touch()
            pane.until("✓ hold")
            pane.until("Done.")
            pane.ready()
            pane.say("mine")
            pane.until("You said: mine")
        other.communicate(timeout=PATIENCE_SECONDS)
