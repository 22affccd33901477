"""Every verb, in this process and through a pipe: what it prints where, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shell import BAD, COMMAND, environment, piped

from power_agent import Call, Limits, Result, ScriptedModel, StatefulAgentLoop, ask_person, tool
from power_agent.cli.app import VERBS
from power_agent.cli.saying import SEAL, safe
from power_agent.clock import HeldClock, SystemClock
from power_agent.policy import Ask
from power_agent.tools.shell.sandbox import _proven

GOLDEN = Path(__file__).parent / "golden" / "command_line.json"


# -- a command for each verb -------------------------------------------------------------------------------------------

EVERYDAY: dict[str, tuple[tuple[str, ...], int, str]] = {
    "send": (("send", "done", "hello", "there", "--agent", "agent:make"), 0, "You said: hello there\n"),
    "resume": (("resume", "done", "--agent", "agent:make"), 0, "Done."),
    "pending": (("pending",), 0, "doubted  t1r1c1  doubted  hang()"),
    "settle": (("settle", "waiting", "t1r1c2", "deny", "--reason", "no"), 0, ""),
    "abort": (("abort", "doubted"), 0, ""),
    "cancel": (("cancel", "waiting"), 0, ""),
    "close": (("close", "done"), 0, ""),
    "fork": (("fork", "done", "--at", "4", "--as", "branch"), 0, "branch\n"),
    "diff": (("diff", "done", "--before", "9"), 0, "+ assistant: calls pay"),
    "compact": (("compact", "done", "--agent", "agent:make"), 0, ""),
    "replay": (("replay", "done", "--agent", "agent:make"), 1, "diverged at event"),
    "export": (("export", "done", "done.jsonl"), 0, ""),
    "import": (("import", "past.jsonl", "--store", "other.db"), 0, "done\n"),
    "salvage": (("salvage", "power-agent.db", "saved.db"), 0, "done: kept up to event 17"),
    "erase": (("erase", "done", "--yes"), 0, ""),
    "prune": (("prune", "--older-than", "0s", "--yes"), 0, "closed\n"),
    "tools": (("tools", "--agent", "agent:make"), 0, "pay"),
    "mcp": (("mcp", "list", "--set", 'mcp.servers = [{name = "git", command = "mcp-server-git"}]'), 0, "git  closed"),
    "models": (("models",), 0, "ANTHROPIC_API_KEY"),
    "sessions": (("sessions",), 0, "limited  limit"),
    "history": (("history", "done"), 0, "call.succeeded"),
    "show": (("show", "waiting"), 0, "t1r1c2 pay: waiting"),
    "tail": (("tail", "done", "--no-follow", "-n", "3"), 0, "turn.ended"),
    "stats": (("stats",), 0, "scripted:model"),
    "verify": (("verify",), 0, "dirty"),
    "backup": (("backup", "copy.db"), 0, ""),
    "doctor": (("doctor",), 0, "sessions"),
    "config": (("config", "show", "--origin"), 0, "default"),
    "paths": (("paths",), 0, "power-agent.db"),
    "errors": (("errors", "session_busy"), 0, "Another living owner works on the session"),
    "skill": (("skill",), 0, "StatefulAgentLoop"),
}


def test_every_verb_has_an_everyday_use():
    """The table above grows with the verbs; `demo`, `bench` and `chat` have tests of their own."""
    assert {*EVERYDAY, "demo", "bench", "chat"} == set(VERBS)


def unsealed(text):
    """Return what was printed without the seals, which stand at the beginning of a line and nowhere else."""
    return text.replace(f"\n{SEAL[0]}", "\n").removeprefix(SEAL[0])


@pytest.mark.parametrize("verb", EVERYDAY)
def test_verb_in_a_pipe(verb, here):
    """Data on stdout, the rest on stderr, nothing painted, nothing that a terminal would obey, no warning."""
    words, code, out = EVERYDAY[verb]
    told = piped(*words, cwd=here)
    assert told.code == code, told.err
    assert out in told.out
    assert not out or told.out
    for stream in (told.out, told.err):
        plain = unsealed(stream)
        assert safe(plain, keep="\n\t") == plain
    assert "Traceback" not in told.err
    assert "Warning" not in told.err


@pytest.mark.parametrize("verb", EVERYDAY)
def test_verb_as_json(verb, run):
    """`--json` prints one document, versioned, in the shape that is pinned."""
    words, code, _ = EVERYDAY[verb]
    told = run(*words, "--json")
    assert told.code == code, told.err
    assert told.out.isascii()
    lines = told.out.splitlines()
    assert len(lines) == (3 if verb == "tail" else 1)
    assert shape(json.loads(lines[0])) == json.loads(GOLDEN.read_text(encoding="utf-8"))[verb]


def shape(value: Any) -> Any:
    """Return what a document is made of: names and types. Of a list what all its items have or may have."""
    if isinstance(value, dict):
        return {name: "free" if name in {"event", "settings", "arguments", "tips", "parts", "recorded", "now"} else shape(inner) for name, inner in sorted(value.items())}
    if isinstance(value, list):
        merged: Any = None
        for item in map(shape, value):
            merged = item if merged is None else either(merged, item)
        return [] if merged is None else [merged]
    return "null" if value is None else type(value).__name__


def either(one: Any, other: Any) -> Any:
    """Return the shape of something that is one or the other."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        return {name: either(one[name], other[name]) for name in one}
    if isinstance(one, list) and isinstance(other, list):
        return [either(one[0], other[0])] if one and other else one or other
    return one if one == other else "|".join(sorted({*str(one).split("|"), *str(other).split("|")}))


def test_bare_shape(run):
    """Without a verb `--json` has a shape too."""
    told = run("--json")
    assert shape(told.data) == json.loads(GOLDEN.read_text(encoding="utf-8"))["(bare)"]
    assert told.data["v"] == 1


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, run):
    """Each verb explains itself and takes --json."""
    told = run(verb, "--help")
    assert told.code == 0
    assert told.err == ""
    assert "--json" in told.out
    assert verb in told.out.splitlines()[0]


# -- the state of things -----------------------------------------------------------------------------------------------


def test_bare_says_who_needs_a_person(run, here):
    """Recent sessions, those that need a person, the next command; nothing is written."""
    before = (here / "power-agent.db").read_bytes()
    told = run()
    assert told.code == 0
    assert "2 need a person: doubted, waiting." in told.out
    assert "power-agent settle doubted t1r1c1 retry" in told.out
    assert "power-agent sessions --stuck" in told.out
    assert (here / "power-agent.db").read_bytes() == before


def test_bare_looks_where_it_is_told(run, here):
    """`--store` alone shows how things stand there, and what it suggests finds the same store; in front of a verb it is refused."""
    (here / "power-agent.db").rename(here / "elsewhere.db")
    told = run("--store", "elsewhere.db")
    assert told.code == 0
    assert "sessions in " in told.out
    assert "power-agent settle doubted t1r1c1 retry --store elsewhere.db" in told.out
    assert run("--store", "nowhere.db").code == 0
    told = run("--store", "elsewhere.db", "sessions")
    assert (told.code, "Options of a verb stand behind it." in told.err) == (2, True)


def test_bare_without_a_store(run, here):
    """The very first time there is nothing; that is said kindly, and nothing is created."""
    (here / "power-agent.db").unlink()
    told = run()
    assert told.code == 0
    assert "There is no store yet" in told.out
    assert "power-agent demo" in told.out
    assert run("--json").data["store"] is None
    assert sorted(path.name for path in here.iterdir() if path.name.startswith("power-agent")) == []


LOOKING = [
    "pending",
    "sessions",
    "history x",
    "show x",
    "tail x",
    "stats",
    "verify",
    "settle x t1r1c1 approve",
    "abort x",
    "cancel x",
    "close x",
    "backup y.db",
    "resume x --agent agent:make",
]


@pytest.mark.parametrize("line", LOOKING)
def test_looking_creates_nothing(line, run, here):
    """A store that is not there is an error with exit code 8; none appears, nor anything beside it."""
    before = {path.name for path in here.iterdir()}
    told = run(*line.split(), "--store", "missing.db")
    assert told.code == 8
    assert "error[store_not_found]" in told.err
    assert {path.name for path in here.iterdir()} - {"__pycache__"} == before


def test_store_beside_it_is_offered(run):
    """Whoever looks at the wrong path is told of the right one."""
    told = run("sessions", "--store", "other.db")
    assert "power-agent.db" in told.err
    assert "power-agent sessions --store power-agent.db" in told.err


def test_foreign_databases_get_no_lock_file(run, here):
    """Looking around for stores leaves other programs' files alone."""
    with sqlite3.connect(here / "foreign.db") as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    run("sessions", "--store", "other.db")
    assert not (here / "foreign.db-lock").exists()


# -- which session is meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ref", "code", "words"), [
    ("done", 0, ""), ("don", 0, ""), ("@last", 0, ""), ("d", 2, "sessions begin with 'd'"), ("dnoe", 3, "Did you mean done?"),
    ("@first", 2, "is not a session"), ("", 2, "is not a session"),
])  # fmt: skip
def test_naming_a_session(ref, code, words, run):
    """The id, the only one that begins so, or @last; what is meant by none or several is said."""
    told = run("history", ref)
    assert told.code == code
    assert words in told.err


def test_last_is_the_one_that_changed_last(run):
    """@last follows what is written."""
    assert run("send", "failed", "hello", "--agent", "agent:make").code == 0
    assert run("history", "@last", "--json").data["session"] == "failed"


def test_prefix_takes_no_wildcards(run):
    """A % is a letter like others."""
    assert run("history", "%").code == 3
    assert run("history", "d_ne").code == 3


def test_suggested_commands_find_the_same_store(run, here):
    """What is suggested works as typed: it names the store that was named."""
    (here / "power-agent.db").rename(here / "my store.db")
    told = run("pending", "--store", "my store.db")
    assert "power-agent settle waiting t1r1c2 approve --store 'my store.db'" in told.err


def test_a_first_send_beside_another_store(run):
    """The store that lies there already is not the one that the commands behind a first send speak of."""
    told = run("send", "new", "pay 500", "--new", "--agent", "agent:make", "--store", "other.db")
    assert told.code == 5
    assert "power-agent settle new t1r1c1 approve --store other.db" in told.err


# -- send and resume ---------------------------------------------------------------------------------------------------


def test_unknown_id_wants_new(run):
    """A misspelt id begins no session of its own."""
    told = run("send", "alice", "hello", "--agent", "agent:make")
    assert told.code == 3
    assert "power-agent send alice --new MESSAGE --agent agent:make" in told.err
    assert run("send", "alice", "hello", "--new", "--agent", "agent:make").code == 0
    assert run("send", "ali", "again", "--agent", "agent:make").out == "You said: again\n"


def test_new_takes_the_id_as_it_stands(run):
    """With --new the beginning of another id is not that id."""
    assert run("send", "don", "hello", "--new", "--agent", "agent:make", "--json").data["result"]["session_id"] == "don"


def test_new_session_without_a_name(run):
    """@new gives it a name, which stderr tells."""
    told = run("send", "@new", "hello", "--agent", "agent:make", "--json")
    assert told.code == 0
    assert len(told.data["result"]["session_id"]) == 20


def test_standard_input_only_for_a_dash(here):
    """`-` reads the message; nothing else does."""
    told = piped("send", "done", "-", "--agent", "agent:make", cwd=here, stdin="from a pipe: ö\n".encode())
    assert (told.code, told.out) == (0, "You said: from a pipe: ö\n")
    told = piped("send", "done", "typed", "--agent", "agent:make", cwd=here, stdin=b"not read")
    assert told.out == "You said: typed\n"
    told = piped("send", "done", "-", "--agent", "agent:make", cwd=here, stdin=b"\xff\xfe")
    assert (told.code, told.out) == (2, "")


def test_what_the_agent_prints_is_not_the_answer(run):
    """stdout is data: what tools and models print goes to stderr."""
    told = run("send", "done", "print", "--agent", "agent:make", "--json")
    assert told.data["result"]["text"] == "You said: print"
    assert "printed by the agent" in told.err


@pytest.mark.parametrize(
    "line", ["history erased", "history erased --timeline", "show erased", "show erased --event 1", "show erased --messages", "stats erased", "verify erased", "tail erased"]
)
def test_an_erased_session_can_be_looked_at(line, run):
    """Its contents are gone; that it was there, and that the chain holds, is still seen."""
    told = run(*line.split())
    assert told.code == 0, told.err
    assert run("send", "erased", "hello", "--agent", "agent:make").code == 1


def test_same_key_runs_once(run):
    """A key makes a message repeatable; other words under it are refused."""
    first = run("send", "done", "pay 5", "--key", "k", "--agent", "agent:make", "--json")
    again = run("send", "done", "pay 5", "--key", "k", "--agent", "agent:make", "--json")
    assert first.code == 0
    assert again.data == first.data
    other = run("send", "done", "pay 6", "--key", "k", "--agent", "agent:make")
    assert other.code == 2
    assert "error[key_conflict]" in other.err


def test_a_call_that_waits_is_freed_from_a_shell(run):
    """Send, wait (5), approve, resume: the whole way a person goes."""
    told = run("send", "done", "pay 500", "--agent", "agent:make")
    assert told.code == 5
    assert "power-agent settle done t3r1c1 approve" in told.err
    assert run("send", "done", "hello", "--agent", "agent:make").code == 5
    told = run("settle", "done", "t3r1c1", "approve")
    assert told.code == 0
    assert "power-agent resume done" in told.err
    told = run("resume", "done", "--agent", "agent:make")
    assert (told.code, told.out) == (0, "Done.\n")
    assert run("settle", "done", "t3r1c1", "approve").code == 0
    told = run("settle", "done", "t3r1c1", "deny")
    assert told.code == 1
    assert "error[already_settled]" in told.err


def test_what_nobody_took_up_is_named(run):
    """Who aborts leaves what was queued for the next resume: every verb that says what is stuck names the session, and what helps helps."""
    agent = ("--agent", "agent:make")
    for words in (("pay 500",), ("first", "--when-busy", "queue"), ("second", "--when-busy", "queue")):
        assert run("send", "done", *words, *agent).code == 5
    first, _ = (event["seq"] for event in run("history", "done", "--kind", "input", "--json").data["events"][-2:])
    why, command = f"2 inputs have not been taken up, the first one at event {first}.", "power-agent resume done"
    for words in (("abort", "done"), ("cancel", "done")):
        told = run(*words)
        assert (why in told.err, command in told.err) == (True, True)
    found = {one["session"]: one for one in run("sessions", "--stuck", "--json").data["sessions"]}["done"]
    assert (found["standing"], found["why"], found["commands"][0].removesuffix(" --agent MODULE:NAME")) == ("interrupted", why, command)
    assert why in run("sessions").out
    assert why in run().out
    assert (why in (told := run("doctor")).out, command in told.out) == (True, True)
    assert run("resume", "done", *agent).code == 0
    assert "done" not in {one["session"] for one in run("sessions", "--stuck", "--json").data["sessions"]}


def test_what_is_left_at_a_limit_is_named_with_it(run):
    """The turn that reached its limit goes on first; what was said behind it waits for that."""
    with StatefulAgentLoop(
        ScriptedModel([[Call("ask_person", {"question": "?"})]]), tools=[ask_person], limits=Limits(max_rounds_per_turn=1), store="power-agent.db"
    ).sync as agent:
        agent.send("now", "asked")
        agent.send("later", "asked", when_busy="queue")
        agent.settle("asked", "t1r1c1", Result("!"))
        assert agent.resume("asked").status == "limit"
    found = {one["session"]: one for one in run("sessions", "--stuck", "--json").data["sessions"]}["asked"]
    assert found["standing"] == "limit"
    assert re.search(r"It reached max_rounds_per_turn\. Raise it before you resume\. What was said at event \d+ has not been taken up\.", found["why"])


def test_who_closes_is_told_what_was_dropped(run):
    """What was queued and never taken up is gone for good, so it is said once."""
    for words in (("pay 500",), ("first", "--when-busy", "queue")):
        run("send", "done", *words, "--agent", "agent:make")
    told = run("close", "done", "--abort")
    assert re.search(r"^Dropped, never taken up: \d+ first$", told.err, re.MULTILINE)
    assert "Dropped" not in run("close", "done", "--abort").err
    for words in (("pay 500",), ("first", "--when-busy", "queue")):
        run("send", "failed", *words, "--agent", "agent:make")
    assert [one["text"] for one in run("close", "failed", "--abort", "--json").data["dropped"]] == ["first"]


def test_an_approval_says_when_it_runs_out(run, here):
    """Whoever looks sees until when they are asked, and that nobody is any more; then a resume helps, too."""
    for name, seconds in (("soon", 3 * 3600), ("over", 60)):
        model, policy = ScriptedModel([[Call("list_todo")]]), lambda _, seconds=seconds: Ask(seconds=seconds)
        clock = HeldClock(SystemClock().now() - (300_000 if name == "over" else 0))
        with StatefulAgentLoop(model, tools=[tool(name="list_todo")(lambda: "")], policy=policy, store="power-agent.db", clock=clock).sync as agent:
            assert agent.send("x", name).status == "waiting"
    found = {one["session"]: one for one in run("sessions", "--json").data["sessions"]}
    until, passed = "until ....-..-.. ..:..:.., 3.0 h from now; then it is denied", "its time ran out ....-..-.. ..:..:.., 4.0 min ago; the next resume denies it"
    for name, said, commands in (("soon", until, ["approve", "deny"]), ("over", passed, ["deny", "resume"])):
        assert re.search(said, found[name]["why"])
        assert [next(word for word in one.split() if word in {"approve", "deny", "resume"}) for one in found[name]["commands"]] == commands
        assert re.search(said, run("pending", name).out)
        (call,) = run("pending", name, "--json").data["pending"]
        assert (call["expired"], call["expires_at"]) == (name == "over", found[name]["calls"][0]["expires_at"])
        assert ("approve" in call["decisions"]) is (name == "soon")
    assert run("settle", "over", "t1r1c1", "approve").code != 0
    assert found["waiting"]["calls"][0]["expires_at"] is None


def test_what_was_asked_elsewhere_waits_for_nobody_here(run):
    """An import voids a question: what goes on is a resume, which asks anew."""
    assert run("export", "waiting", "w.jsonl").code == 0
    assert run("import", "w.jsonl", "--store", "other.db").code == 0
    (found,) = run("sessions", "--json", "--store", "other.db").data["sessions"]
    assert ([call["state"] for call in found["calls"]], found["standing"]) == (["requested"], "interrupted")
    assert found["commands"][0].startswith("power-agent resume waiting")


def test_a_question_to_a_person_is_not_approved(run):
    """What waits for its result is suggested to be given one."""
    with StatefulAgentLoop(ScriptedModel([[Call("ask_person", {"question": "?"})]]), tools=[ask_person], store="power-agent.db").sync as agent:
        agent.send("x", "asked")
    found = {one["session"]: one for one in run("sessions", "--json").data["sessions"]}["asked"]
    assert found["commands"] == ["power-agent settle asked t1r1c1 result VALUE", "power-agent settle asked t1r1c1 abort"]


def test_a_retry_needs_no_second_decision(run):
    """Once it is kept, nobody is asked again: what is left is to resume, in every verb that says what is stuck."""
    told = run("settle", "doubted", "t1r1c1", "retry")
    assert "power-agent resume doubted --agent MODULE:NAME" in told.err  # as it stands here, nobody knows whose it is
    assert "power-agent settle" not in told.err
    assert "power-agent resume doubted" in run("pending", "doubted").err
    found = {one["session"]: one for one in run("sessions", "--json").data["sessions"]}["doubted"]
    assert (found["standing"], found["commands"][0]) == ("interrupted", "power-agent resume doubted --agent MODULE:NAME")


def test_what_a_tool_promised_is_resumed(run):
    """Of a doubted call whose tool promised something a resume comes first; of one that did not a person's word does."""
    with StatefulAgentLoop(ScriptedModel([[Call("pay")]]), tools=[tool(name="pay", recovery="keyed", seconds=0.05)(asyncio.Event().wait)], store="power-agent.db").sync as agent:
        assert agent.send("x", "promised").status == "waiting"
    for name, words in (("promised", ["resume", "retry", "result", "abort"]), ("doubted", ["retry", "result", "abort"])):
        told = run("pending", name).err
        assert [word for word in told.split() if word in {"resume", "retry", "result", "abort"}] == words


def test_a_closed_session_that_changed_hands_is_closed(run):
    """Whoever claims it last: a fork that was to be erased with its tree, which was refused."""
    with StatefulAgentLoop(ScriptedModel(["hi"]), store="power-agent.db").sync as agent:
        agent.send("x", "over")
        agent.close_session("over")

    async def claimed() -> None:
        async with StatefulAgentLoop(ScriptedModel([]), store="power-agent.db") as loop:
            await loop._sink.release(await loop._sink.claim("over"))

    asyncio.run(claimed())
    found = {one["session"]: one for one in run("sessions", "--json").data["sessions"]}["over"]
    assert (found["standing"], found["commands"]) == ("closed", [])


def test_a_doubted_call_takes_a_result(run):
    """What may have happened is handed in, as text or as JSON."""
    told = run("settle", "doubted", "t1r1c1", "result", "it", "did")
    assert told.code == 0
    event = run("history", "doubted", "--kind", "call.succeeded", "--json").data["events"][0]["event"]
    assert event["output"] == "it did"
    assert run("settle", "crashed", "t1r1c1", "retry").code == 1
    assert run("settle", "waiting", "t1r1c2", "result", "{", "--parse").code == 2


def test_result_can_be_json(run):
    """With --parse the value is what JSON says."""
    assert run("settle", "doubted", "t1r1c1", "result", '{"sent": true}', "--parse").code == 0
    assert run("history", "doubted", "--kind", "call.succeeded", "--json").data["events"][0]["event"]["output"] == {"sent": True}


def test_limit_and_failure_have_their_codes(run):
    """6 and 1, and the command that goes on."""
    described = ("--model", "python:agent:model", "--set", "tools=agent:tools")
    told = run("send", "done", "pay 5", *described, "--set", "limits.max_rounds_per_turn=1")
    assert told.code == 6
    assert "power-agent resume done" in told.err
    assert run("resume", "done", *described, "--set", "limits.max_rounds_per_turn=1").code == 6
    assert run("resume", "done", *described).out == "Done.\n"
    told = run("resume", "failed", "--model", "python:agent:model")
    assert (told.code, told.out) == (0, "You said: fail\n")
    told = run("send", "done", "hello", "--model", "python:agent:model", "--set", "tools=agent:pay")
    assert told.code == 0


def test_nothing_to_resume(run):
    """Exit code 3 where there was never a turn, or the session is closed."""
    told = run("resume", "closed", "--agent", "agent:make")
    assert told.code == 3
    assert "error[nothing_to_resume]" in told.err


def test_cancel_of_a_session_nobody_drives(run):
    """It is kept, and who ends the turn is said."""
    told = run("cancel", "crashed", "--reason", "enough")
    assert told.code == 0
    assert "power-agent abort crashed" in told.err
    told = run("cancel", "done")
    assert told.code == 0
    assert "nothing was cancelled" in told.err


def test_cancelled_turn_offers_no_retry(run):
    """Nothing starts any more in a turn that is to end, so that is not suggested."""
    assert run("pending", "doubted", "--json").data["pending"][0]["decisions"] == ["retry", "result", "abort"]
    run("cancel", "doubted")
    assert run("pending", "doubted", "--json").data["pending"][0]["decisions"] == ["result", "abort"]
    assert "retry" not in run("pending", "doubted").err
    listed = {one["session"]: one for one in run("sessions", "--json").data["sessions"]}
    assert listed["doubted"]["commands"] == ["power-agent settle doubted t1r1c1 result VALUE", "power-agent settle doubted t1r1c1 abort"]


def test_close_needs_a_finished_turn(run):
    """An open turn is in the way, unless it is aborted with it."""
    told = run("close", "waiting")
    assert told.code == 5
    assert "power-agent close waiting --abort" in told.err
    assert run("close", "waiting", "--abort").code == 0
    assert {one["session"]: one["standing"] for one in run("sessions", "--json").data["sessions"]}["waiting"] == "closed"


def test_abort_frees_a_session(run):
    """One command, and the session can be sent to again."""
    assert run("send", "crashed", "hello", "--agent", "agent:make").code == 5
    assert [call["id"] for call in run("abort", "crashed", "--json").data["aborted"]] == ["t1r1c1"]
    assert run("send", "crashed", "hello", "--agent", "agent:make").code == 0


# -- looking back ------------------------------------------------------------------------------------------------------


def test_sessions_and_where_each_stands(run):
    """One word for each, the reason, and what to type."""
    found = {one["session"]: one for one in run("sessions", "--json").data["sessions"]}
    standings = {name: one["standing"] for name, one in found.items()}
    assert standings == {
        "done": "idle", "closed": "closed", "erased": "erased", "failed": "failed", "limited": "limit", "dirty": "idle",
        "waiting": "waiting", "doubted": "doubted", "crashed": "interrupted",
    }  # fmt: skip
    assert found["crashed"]["commands"] == ["power-agent resume crashed --agent MODULE:NAME", "power-agent abort crashed"]
    assert {one["session"] for one in run("sessions", "--stuck", "--json").data["sessions"]} == {"failed", "limited", "waiting", "doubted", "crashed"}
    few = run("sessions", "--limit", "2", "--json").data
    assert (len(few["sessions"]), few["more"]) == (2, True)


FILTERS: list[tuple[str, set[str]]] = [
    ("--kind turn", {"turn.started", "turn.ended"}),
    ("--kind call.started --kind input", {"call.started", "input.received"}),
    ("--tool pay", {"model.answered", "call.started", "call.succeeded"}),
    ("--text EUROS", {"model.answered", "call.succeeded"}),
    ("--since 1h --kind input", {"input.received"}),
    ("--since 2999-01-01", set()),
    ("--until 1h", set()),
    ("--since 00:00 --until 2999-01-01T12:00 --kind turn.ended", {"turn.ended"}),
]


@pytest.mark.parametrize(("line", "kinds"), FILTERS)
def test_history_filters(line, kinds, run):
    """By kind and family, by tool, by time, by text."""
    told = run("history", "done", *line.split(), "--json")
    assert {event["kind"] for event in told.data["events"]} == kinds


@pytest.mark.parametrize(
    ("text", "seqs"),
    [
        ('"quoted"', {"input.received", "model.answered"}),
        ("back\\slash", {"input.received", "model.answered"}),
        ("ends\nhere", {"input.received", "model.answered"}),
        ("Größe", {"call.succeeded"}),
        ("98765432101", {"call.succeeded"}),
        ("null", {"call.succeeded"}),
        ("idempotency_key", set()),
        ("parts", set()),
        ("{", set()),
        ("turn", set()),
    ],
)
def test_history_looks_for_what_was_said(text, seqs, run):
    """In the texts as they were said and in one's own data, names too; how the log spells them, and what it calls its fields, is not searched."""
    assert run("send", "said", 'a "quoted" back\\slash\nends\nhere', "--new", "--agent", "agent:make").code == 0
    assert run("settle", "doubted", "t1r1c1", "result", '{"Größe": [98765432101, null]}', "--parse").code == 0
    found = [event["kind"] for name in ("said", "doubted") for event in run("history", name, "--text", text, "--json").data["events"]]
    assert set(found) == seqs


def test_history_of_one_tool(run):
    """--tool tells the calls of one tool from those of another."""
    for text in ("pay 5", "wait 0"):
        assert run("send", "two", text, "--new", "--agent", "agent:make").code == 0
    calls = {tool: {event["event"].get("call") for event in run("history", "two", "--kind", "call", "--tool", tool, "--json").data["events"]} for tool in ("pay", "wait", "none")}
    assert calls == {"pay": {"t1r1c1"}, "wait": {"t2r1c1"}, "none": set()}
    assert "Did you mean wait?" in run("history", "two", "--tool", "wiat").err


def test_history_goes_on_where_it_stopped(run):
    """--limit stops, says so, and --after goes on; nothing is left out or shown twice."""
    whole = [event["seq"] for event in run("history", "done", "--json").data["events"]]
    first = run("history", "done", "--limit", "4", "--json").data
    assert first["more"]
    rest = run("history", "done", "--after", str(first["events"][-1]["seq"]), "--json").data
    assert [event["seq"] for event in first["events"] + rest["events"]] == whole == list(range(1, len(whole) + 1))
    assert "--after 4" in run("history", "done", "--limit", "4").err


def test_timeline_has_lanes(run):
    """Model, tools and waits; the wait that is still going on has no end."""
    spans = run("history", "waiting", "--timeline", "--json").data["spans"]
    lanes = {(span["lane"], span["name"], span["ended"]) for span in spans}
    assert lanes == {("turn", "turn 1", "open"), ("model", "scripted:model", "answered"), ("tool", "pay", "succeeded"), ("wait", "pay", "open")}
    drawn = run("history", "waiting", "--timeline").out
    assert "wait pay" in drawn
    assert "░" in drawn


def test_show_at_any_event(run):
    """The state then, the messages then, one event in full."""
    assert run("show", "done", "--at", "3", "--json").data["turn"]["number"] == 1
    assert run("show", "done", "--messages", "--at", "5", "--json").data["messages"][0]["parts"][0]["text"] == "hello"
    assert run("show", "done", "--event", "2", "--json").data["event"]["parts"] == [{"text": "hello"}]
    for words in (("--at", "999"), ("--event", "999")):
        assert run("show", "done", *words).code == 3
    assert run("show", "done", "--event", "1", "--messages").code == 2
    assert run("show", "done", "--context", "--at", "3").code == 2
    weighed = run("show", "done", "--context", "--json").data
    assert weighed["tokens"] >= weighed["history"] + weighed["last_exchange"] > 0
    told = run("show", "done", "--context").out
    assert "tokens in all" in told
    assert "More than" not in told
    with StatefulAgentLoop(ScriptedModel(["word " * 500]), store="power-agent.db", limits=Limits(max_context_tokens=100)).sync as agent:
        agent.send("hello", "large")
    assert "More than the 100 that are meant" in run("show", "large", "--context").out


def test_stats_add_up(run):
    """Tokens, calls by outcome, turns by status."""
    told = run("stats", "--json").data
    assert told["turns"] == {"completed": 4, "failed": 1, "limit": 1}
    assert told["tools"]["pay"]["calls"] == told["tools"]["pay"]["succeeded"] + 1
    assert told["tools"]["hang"]["doubted"] == 1
    alone = run("stats", "done", "--json").data
    assert (alone["sessions"], alone["turns"]) == (1, {"completed": 2})


def test_verify_finds_what_was_changed(run, here):
    """Exit code 4, the sentence on stdout, and the tips of what is good."""
    tips = run("verify", "--json").data["tips"]
    assert run("verify", "done", "--tip", tips["done"]).code == 0
    assert run("verify", "done", "--tip", "999:" + "0" * 64).code == 4
    assert run("verify", "done", "--tip", "3:" + "0" * 64).code == 4
    assert run("verify", "done", "--tip", "nonsense").code == 2
    assert run("verify", "--tip", tips["done"]).code == 2
    with sqlite3.connect(here / "power-agent.db") as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'event'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE event SET body = replace(body, 'hello', 'hallo') WHERE session = (SELECT id FROM session WHERE name = 'done') AND seq = 2")
        for _, sql in triggers:
            db.execute(sql)
    db.close()
    told = run("verify")
    assert told.code == 4
    assert "Session 'done', event 2" in told.out
    assert "error[verify]" in told.err
    assert "closed" in told.out
    assert run("verify", "closed").code == 0


def test_backup_is_whole_and_never_replaces(run):
    """The copy verifies; a second one of that name is refused."""
    assert run("backup", "copy.db").code == 0
    assert run("verify", "--store", "copy.db").code == 0
    told = run("backup", "copy.db")
    assert told.code == 2
    assert "is there already" in told.err
    assert "mkdir -p no" in run("backup", "no/copy.db").err


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_doctor_looks_at_everything(run, monkeypatch):
    """What was looked at, the keys by name only, and for each stuck session the command that frees it."""
    monkeypatch.setenv("EXAMPLE_API_KEY", "sk-very-secret-value")
    told = run("doctor", "--json")
    assert "very-secret" not in told.out + told.err
    findings = {one["what"]: one for one in told.data["findings"]}
    assert {"sqlite", "install", "keys", "settings", "filesystem", "disk", "store", "wal", "durability", "session", "models", "processes", "sandbox", "snapshots"} == set(findings)
    assert findings["keys"]["told"] == "EXAMPLE_API_KEY"
    assert "journal_mode=wal, synchronous=2" in findings["durability"]["told"]
    assert {one["session"] for one in told.data["stuck"]} == {"failed", "limited", "waiting", "doubted", "crashed"}
    assert all(one["commands"] for one in told.data["stuck"])


def test_doctor_says_when_a_store_is_large(run, monkeypatch):
    """Above some size the store is a warning, with what makes it smaller; cached states are counted either way."""
    assert {one["what"]: one for one in run("doctor", "--json").data["findings"]}["store"]["state"] == "good"
    monkeypatch.setattr("power_agent.cli.health.LARGE_STORE_BYTES", 10)
    findings = {one["what"]: one for one in run("doctor", "--json").data["findings"]}
    assert findings["store"]["state"] == "warn"
    assert "power-agent prune --older-than 90d --dry-run" in findings["store"]["commands"]
    assert "cached states" in findings["snapshots"]["told"]


def test_doctor_tells_of_a_sandbox_that_was_tried(run, here, monkeypatch):
    """Once, and as what it was proven to be: a program that is only called bubblewrap is none."""
    (here / "bwrap").write_text("#!/bin/sh\n", encoding="utf-8")
    (here / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(here))
    monkeypatch.setattr("power_agent.tools.shell.fence.abi", lambda: 0)
    monkeypatch.setattr("power_agent.tools.shell.sandbox._proven", _proven.__wrapped__)
    (found,) = [one for one in run("doctor", "--json").data["findings"] if one["what"] == "sandbox"]
    assert found["state"] == "note"
    assert found["told"].startswith("None was proven to hold")


def test_doctor_reads_back_the_durability(run, here):
    """What the settings ask for is what SQLite is asked about."""
    (here / "power-agent.toml").write_text('durability = "normal"\n', encoding="utf-8")
    findings = {one["what"]: one for one in run("doctor", "--json").data["findings"]}
    assert "synchronous=1" in findings["durability"]["told"]
    assert "not power loss" in findings["durability"]["told"]


@pytest.mark.parametrize(("content", "code"), [(b"not a database at all, but long enough", 8), (b"", 0)])
def test_doctor_of_a_bad_file(content, code, run, here):
    """A store that cannot be used is what doctor is for: it says so, and ends with 8."""
    (here / "power-agent.db").write_bytes(content)
    told = run("doctor")
    assert told.code == code
    assert "store" in told.out


# -- speed, pipes, control characters ----------------------------------------------------------------------------------

HEAVY = {"genai_prices", "httpx", "tiktoken", "tenacity", "mcp", "rich.markdown", "prompt_toolkit"}


@pytest.mark.parametrize("words", [["--help"], ["chat", "--help"], ["history", "done"], ["history", "--help"], ["sessions"], []])
def test_looking_loads_nothing_heavy(words, here):
    """No HTTP client, tokenizer, MCP or Markdown is loaded to look back."""
    script = f"import sys; from power_agent.cli import main; main({words!r}); print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=here, check=True, capture_output=True, text=True, env=environment()).stderr
    assert not HEAVY & set(loaded.split())


def test_completion_offers_ids(here):
    """The shell offers sessions, the newest first, and verbs; neither loads anything heavy."""
    told = completed("power-agent history d", here)
    assert told.split() == ["doubted", "dirty", "done"]
    assert completed("power-agent history @", here).split() == ["@last"]
    assert completed("power-agent history d", here, POWER_AGENT_STORE="missing.db").strip() == ""
    assert "sessions" in completed("power-agent se", here).split()


def completed(line: str, here: Path, **more: str) -> str:
    """Return what bash would be offered at the end of a line."""
    words = line.split(" ")
    script = "import sys; from power_agent.cli import main; code = main([])"
    heavy = f"; assert not {HEAVY!r} & set(sys.modules)"
    script = f"import atexit, sys; atexit.register(lambda: print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr, end='')); from power_agent.cli import main; main([])" + heavy
    settings = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_POWER_AGENT_COMPLETE": "complete_bash"}
    told = subprocess.run([sys.executable, "-c", script], cwd=here, check=False, capture_output=True, text=True, env=environment(**settings, **more))
    assert told.stderr == ""
    return told.stdout


def test_closed_pipe_is_no_error(here):
    """Whoever has read enough closes the pipe; nobody complains."""
    with subprocess.Popen([*COMMAND, "history", "done"], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize(
    "line", ["history dirty", "show dirty --messages", "show dirty --event 2", "show dirty", "sessions", "pending", "history dirty --json", "show dirty --messages --json"]
)
def test_nothing_from_the_log_commands_the_terminal(line, run):
    """Escape sequences, window titles, C1 controls and writing direction come out as text, in every verb that shows content."""
    told = run(*line.split())
    assert told.code == 0
    out = unsealed(told.out)
    assert safe(out, keep="\n\t") == out
    if "dirty" in line and line != "show dirty":
        assert "[bold]tag[/bold]" in told.out
    assert BAD not in told.out


def test_plain_locale_is_no_reason_to_fail(here):
    """Where only ASCII can be printed, the rest is spelled out."""
    told = piped("history", "done", "--timeline", cwd=here, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert told.code == 0
    assert "\\u2588" in told.out
