"""A byte scan of everything that is written and shown: the file, its log, blobs, exports, streams, errors, logs, both outputs."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS
from shell import Terminal, environment, piped
from smugglers import ENCODINGS, REGISTERED, SHAPED, found_in, needles, shaped, written

from power_agent import Answer, Call, Limits, ModelError, ScriptedModel, Secrets, StatefulAgentLoop, Text, ToolContext, Upload, tool
from power_agent import events as e
from power_agent.errors import InvalidInput, InvalidSessionId
from power_agent.policy import Ask
from power_agent.ports import Glimpsed, ModelReply
from power_agent.secrets import Secret
from power_agent.settling import Approve, Deny, Result

ALL = [*REGISTERED.values(), *(secret for secret, _ in SHAPED.values())]
FORMS = {name: " ; ".join(encode(secret) for encode in ENCODINGS.values()) for name, secret in REGISTERED.items()} | {name: shaped(name) for name in SHAPED}
"""Forty inputs; those that are registered in every encoding, one behind the other."""


@tool(recovery="rerun")
async def leak(which: str, ctx: ToolContext, padding: int = 0) -> str:
    """Say a secret, with progress in small pieces and as much around it as is wanted."""
    for at in range(0, len(FORMS[which]), 5):
        ctx.progress(FORMS[which][at : at + 5])
    return f"{'x' * padding} {FORMS[which]} {'y' * padding}"


@tool(recovery="rerun")
def fail(which: str) -> str:
    """Fail with a secret in the error."""
    raise RuntimeError(f"refused: {FORMS[which]}")


@tool(recovery="rerun")
def give(which: str) -> dict[str, object]:
    """Return a secret as a value and as a name."""
    return {"deep": [{"value": FORMS[which]}], FORMS[which]: 1}


def obedient(request):
    """Say a secret, call every tool with it, and fail with it once."""
    turn = sum(message.role == "user" for message in request.messages)
    which = list(FORMS)[turn % len(FORMS)]
    if request.messages[-1].role == "tool":
        return Answer(text=f"It is {FORMS[which]}.", reasoning=f"I think of {FORMS[which]}.")
    calls = [Call("leak", {"which": which}), Call("leak", {"which": which, "padding": 3_000}), Call("fail", {"which": which}), Call("give", {"which": which})]
    return Answer(text=f"Now {FORMS[which]}", calls=[*calls, Call("unknown", {"x": FORMS[which]}), Call(FORMS[which][:40])])


class Ears:
    """Hears and sees everything, as text."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.seen: dict[tuple[str, str | None], str] = {}

    def hear(self, kept: e.Envelope) -> None:
        self.heard.append(repr(kept.event))

    def see(self, seen: Glimpsed) -> None:
        place = (seen.kind, seen.call)
        self.seen[place] = self.seen.get(place, "") + seen.text


async def test_nothing_that_was_written_or_shown_holds_a_secret(tmp_path):
    """Every secret in every encoding, said by a person, a model and tools, as text, names, errors, progress, blobs and attachments."""
    ears, log = Ears(), io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger("power_agent").addHandler(handler)

    def bad_listener(kept: e.Envelope) -> None:
        if kept.kind == "call.failed":
            raise RuntimeError(f"{kept.seq}: {next(iter(FORMS.values()))}")

    limits = Limits(max_output_bytes_in_context=2_000, max_parallel_calls=4, max_same_calls=None)
    store = tmp_path / "store" / "log.db"
    store.parent.mkdir()
    made = StatefulAgentLoop(
        ScriptedModel(obedient),
        tools=[leak, fail, give],
        store=store,
        system=f"You know {REGISTERED['plain']}.",
        limits=limits,
        secrets=REGISTERED,
        listeners=[ears.hear, bad_listener],
    )
    results = []
    async with made as loop:
        loop.look_on(ears.see)
        for number, form in enumerate(FORMS.values()):
            text, upload = f"{number}: {form}", Upload(f"file {form}".encode(), name="notes.txt")
            results.append(await loop.send(text, f"s{number % 5}", by=f"somebody {form}"))
            if number % 3 == 0:
                results.append(await loop.send(upload, f"s{number % 5}"))
        for name in sorted({f"s{number % 5}" for number in range(len(FORMS))}):
            exported = await loop.export(name)
            await exported.to(tmp_path / "store" / f"{name}.jsonl")
            assert [wrong async for wrong in loop.verify(name)] == []
        shown = "".join(map(str, [await loop.messages(f"s{number}") for number in range(5)]))
        files = written(tmp_path / "store")  # with the log that is written ahead
    logging.getLogger("power_agent").removeHandler(handler)
    files |= {f"{name} closed": content for name, content in written(tmp_path / "store").items()}
    assert {Path(name).name.split(" ")[0] for name in files} >= {"log.db", "log.db-wal", "log.db-shm", "s0.jsonl"}
    for where, content in files.items():
        assert found_in(content, ALL) == [], where
    told = {
        "heard": "".join(ears.heard),
        "results": repr(results),
        "messages": shown,
        "logging": log.getvalue(),
        **{f"{kind} {call}": text for (kind, call), text in ears.seen.items()},
    }
    assert {kind for kind, _ in ears.seen} >= {"text", "progress"}
    assert "RuntimeError" in told["logging"]
    for where, text in told.items():
        assert found_in(text.encode(), ALL) == [], where
    assert sum(content.count(b"[secret:") for content in files.values()) > len(FORMS) * 5


@dataclass
class Account:
    """Somebody else's piece of data, with a secret in it."""

    name: str
    key: str


async def test_pieces_of_data_of_ones_own_hide_nothing(tmp_path):
    """In settings they are written like mappings, and looked into like them."""
    path, account = tmp_path / "log.db", Account("ada", "hunter2-hunter2")
    async with StatefulAgentLoop(ScriptedModel(["a", "b"]), store=path, secrets={"key": account.key}, settings={"user": account, "all": [account]}) as loop:
        assert [(await loop.send("go", "s")).status for _ in range(2)] == ["completed"] * 2
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert account.key.encode() not in raw
    assert b"[secret:key]" in raw


async def test_what_the_model_is_sent_is_what_the_log_says(tmp_path):
    """The next request shows marks, not secrets; surroundings and what guards change are covered too, and a restart changes nothing."""
    sent = []

    def script(request):
        sent.append(request)
        return "noted"

    def around(asked):
        return f"By the way: {REGISTERED['words']}"

    def make():
        return StatefulAgentLoop(
            ScriptedModel(script), store=tmp_path / "log.db", system=f"Know {REGISTERED['plain']}", settings={"x": REGISTERED["quotes"]}, secrets=REGISTERED, context=[around]
        )

    for _ in range(2):
        async with make() as loop:
            await loop.send(f"say {REGISTERED['slashes']}", "s")
            messages = await loop.messages("s")
    async with make() as loop:
        kinds = [kept.kind for kept in await loop.history("s")]
        asked = [kept.event for kept in await loop.history("s") if isinstance(kept.event, e.ModelAsked)]
    assert "session.configured" not in kinds  # a system prompt with a secret is the same one the next time
    assert sent[-1].system == "Know [secret:plain]"
    assert sent[-1].settings == {"x": "[secret:quotes]"}
    assert all(found_in(repr(request).encode(), ALL) == [] for request in sent)
    assert sent[-1].messages[-1].parts[-1] == asked[-1].context[0]
    assert sent[-1].messages[:2] == messages[:2]


@tool(secrets=["github"])
def push(header: str, note: str = "") -> str:
    """Push."""
    USED.append(header)
    return f"pushed with {header}"


@tool
def write(text: str) -> str:
    """Write."""
    USED.append(text)
    return "written"


USED: list[str] = []
GITHUB = REGISTERED["plain"]


def _pushing(argument: str, name: str = "push"):
    return ScriptedModel([[Call(name, {"header" if name == "push" else "text": argument})], "done"])


async def test_a_reference_is_expanded_in_the_executor_only(tmp_path):
    """The tool gets the secret; the question, the log and the digest have the reference; the result is covered again."""
    USED.clear()
    made = StatefulAgentLoop(_pushing("token {{secret:github}}"), tools=[push], store=tmp_path / "log.db", secrets={"github": Secret(GITHUB)}, policy=lambda _: Ask("Push?"))
    async with made as loop:
        result = await loop.send("push", "s")
        assert result.pending[0].arguments == {"header": "token {{secret:github}}"}
        await loop.settle("s", "t1r1c1", Approve())
        result = await loop.resume("s")
        assert [f"token {GITHUB}"] == USED
        assert result.calls[0].output == "pushed with token [secret:github]"
    assert all(not found_in(content, [GITHUB]) for content in written(tmp_path).values())
    without = StatefulAgentLoop(_pushing("token {{secret:github}}"), tools=[push], store=tmp_path / "log.db", policy=lambda _: Ask("Push?"))
    async with without as loop:
        assert (await loop.send("again", "t")).status == "completed"  # it is not set: the model is told at once


async def test_approved_and_gone_is_not_run(tmp_path):
    """The approval binds to the reference. Where the secret is not set any more, nothing runs, and the model is told so."""
    USED.clear()
    async with StatefulAgentLoop(_pushing("{{secret:github}}"), tools=[push], store=tmp_path / "log.db", secrets={"github": GITHUB}, policy=lambda _: Ask()) as loop:
        digest = (await loop.send("push", "s")).pending[0].digest
        await loop.settle("s", "t1r1c1", Approve())
    async with StatefulAgentLoop(_pushing("{{secret:github}}"), tools=[push], store=tmp_path / "log.db", policy=lambda _: Ask()) as loop:
        result = await loop.resume("s")
        started = [kept.event for kept in await loop.history("s", kinds=["call.started"])]
    assert [event.digest for event in started if isinstance(event, e.CallStarted)] == [digest]
    assert USED == []
    assert "is not set here" in str(result.calls[0].output)


@pytest.mark.parametrize(
    ("argument", "name", "says"), [("{{secret:gitlab}}", "push", "not one that this tool may use. It may use: github. It was not run."), ("{{secret:github}}", "write", None)]
)
async def test_an_unknown_name_is_an_error_to_the_model(argument, name, says):
    """A tool that declares names refuses others; for one that declares none a reference is plain text, and no secret."""
    USED.clear()
    async with StatefulAgentLoop(_pushing(argument, name), tools=[push, write], store=":memory:", secrets={"github": GITHUB, "gitlab": REGISTERED["words"]}) as loop:
        result = await loop.send("go", "s")
        failed = [kept.event for kept in await loop.history("s", kinds=["call.failed"])]
    if says is None:
        assert USED == ["{{secret:github}}"]
    else:
        assert USED == []
        assert isinstance(failed[0], e.CallFailed)
        assert failed[0].failure.code == "unknown_secret"
        assert says in failed[0].failure.message
    assert result.status == "completed"


async def test_names_cannot_hold_a_secret():
    """A key or a session id that is changed would be another one: it is refused."""
    async with StatefulAgentLoop(ScriptedModel(["a", "b"]), store=":memory:", secrets=REGISTERED) as loop:
        with pytest.raises(InvalidInput, match="cannot stand in a key"):
            await loop.send("x", "s", key=f"k-{GITHUB}")
        with pytest.raises(InvalidSessionId):
            await loop.send("x", f"s-{GITHUB}")
        assert await loop.sessions() == []


async def test_repeated_input_and_decision_with_a_secret_are_the_same():
    """What is compared with the log is covered first."""
    policy = lambda wanted: Ask()  # noqa: E731
    async with StatefulAgentLoop(ScriptedModel([[Call("write", {"text": "x"})], "done"]), tools=[write], store=":memory:", secrets=REGISTERED, policy=policy) as loop:
        first = await loop.send(f"go {GITHUB}", "s", key="k")
        again = await loop.send(f"go {GITHUB}", "s", key="k")
        assert (first.input_seq, first.status) == (again.input_seq, again.status)
        await loop.settle("s", "t1r1c1", Deny(f"no: {GITHUB}"))
        await loop.settle("s", "t1r1c1", Deny(f"no: {GITHUB}"))
        upload = [Upload(f"file {GITHUB}".encode(), name="f.txt")]
        await loop.resume("s")
        sent = await loop.send(upload, "s", key="u")
        assert (await loop.send(upload, "s", key="u")).seq == sent.seq


async def test_handed_in_result_with_a_secret_is_one_result(tmp_path):
    """A large result that a person hands in is covered before its blob gets a name; handing it in again changes nothing."""
    policy = lambda wanted: Ask()  # noqa: E731
    external = tool(name="outside", external=True)(lambda: None)
    async with StatefulAgentLoop(ScriptedModel([[Call("outside")], "done"]), tools=[external], store=tmp_path / "log.db", secrets=REGISTERED, policy=policy) as loop:
        await loop.send("go", "s")
        value = f"{GITHUB} " * 20_000
        await loop.settle("s", "t1r1c1", Result(value))
        await loop.settle("s", "t1r1c1", Result(value))
        event = (await loop.history("s", kinds=["call.succeeded"]))[0].event
        assert isinstance(event, e.CallSucceeded)
        assert event.cut is not None
        blob = await loop.blob("s", event.cut.blob)
    assert blob is not None
    assert len(blob) == event.cut.size
    assert blob.startswith(event.cut.head.encode())
    assert not found_in(blob, [GITHUB])


async def test_model_errors_and_their_keys(tmp_path):
    """What a provider's error says is covered, and a model's own keys are secrets without being registered."""

    class Keyed:
        name = "keyed:model"

        def __init__(self) -> None:
            self.secrets = {"model-key": Secret(GITHUB)}

        async def ask(self, request, glimpse):
            glimpse("text", GITHUB[:20])
            glimpse("text", GITHUB[20:])
            raise ModelError(f"401: {GITHUB} is not valid")

    ears = Ears()
    async with StatefulAgentLoop(Keyed(), store=tmp_path / "log.db") as loop:
        loop.look_on(ears.see)
        result = await loop.send("x", "s")
    assert result.failure is not None
    assert result.failure.message == "401: [secret:model-key] is not valid"
    assert not found_in(repr(ears.seen).encode(), [GITHUB])


KILLED = """
    import asyncio, os, signal, sys
    sys.path.insert(0, sys.argv[2])
    from smugglers import REGISTERED, shaped, SHAPED, ENCODINGS
    from power_agent import Call, Limits, ScriptedModel, StatefulAgentLoop
    ALL = " ".join([*(encode(one) for one in REGISTERED.values() for encode in ENCODINGS.values()), *map(shaped, SHAPED)])
    def leak(times: int) -> str:
        "Leak."
        print(ALL, flush=True)
        return ALL * times
    def die(kept):
        if kept.kind == "call.succeeded":
            os.kill(os.getpid(), signal.SIGKILL)
    loop = StatefulAgentLoop(ScriptedModel([[Call("leak", {"times": 30})]]), tools=[leak], store=sys.argv[1], secrets=REGISTERED, system=ALL, listeners=[die])
    async def main():
        async with loop:
            await loop.send(ALL, "s")
    asyncio.run(main())
"""


def test_killed_on_the_way(tmp_path):
    """SIGKILL as soon as the outcome is kept: nothing beside the database's own files is there, and no secret is in them."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "log.db"), str(Path(__file__).parent)],
        check=False,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE_SECONDS,
    )
    assert ran.returncode == -9, ran.stderr
    files = written(tmp_path)
    assert {"log.db", "log.db-wal", "log.db-shm"} <= set(files)
    assert any(b"call.succeeded" in content or b"[secret:plain]" in content for content in files.values())
    for name, content in files.items():
        assert found_in(content, ALL) == [], name


AGENT = """
import os
from power_agent import Call, ScriptedModel, StatefulAgentLoop
def leak() -> str:
    "Leak."
    print("printed", os.environ["THE_TOKEN"])
    raise RuntimeError("no: " + os.environ["THE_TOKEN"])
def script(request):
    if request.messages[-1].role == "tool":
        return "It is " + os.environ["THE_TOKEN"] + " and " + os.environ["THE_TOKEN"].encode().hex()
    return [Call("leak", {})]
tools = [leak]
model = ScriptedModel(script)
def crash():
    raise KeyError(os.environ["THE_TOKEN"])
"""
SETTINGS = """
model = "python:own:model"
tools = ["own:leak"]
[secrets]
token = "THE_TOKEN"
"""


SHOWN = {
    "pipe": [("send", "s", "say it", "--new", "--stream"), ("history", "s"), ("history", "s", "--json"), ("config", "show"), ("export", "s", "-")],
    "terminal": [("send", "s", "say it", "--new"), ("history", "s")],
}


@pytest.mark.parametrize("screen", SHOWN)
def test_the_command_line_shows_none(tmp_path, screen):
    """A secret named in `[secrets]` is in nothing that is printed, streamed or kept, and the settings show its variable only."""
    (tmp_path / "own.py").write_text(AGENT)
    (tmp_path / "power-agent.toml").write_text(SETTINGS)
    more = {"THE_TOKEN": GITHUB, "XDG_CONFIG_HOME": str(tmp_path / "x"), "XDG_STATE_HOME": str(tmp_path / "y")}
    told = ""
    for words in SHOWN[screen]:
        one = Terminal(*words, cwd=tmp_path, **more).end() if screen == "terminal" else piped(*words, cwd=tmp_path, **more)
        assert one.code == 0, one
        assert not found_in((one.out + one.err).encode(), [GITHUB]), words
        told += one.out + one.err
    assert "[secret:token]" in told
    assert screen == "terminal" or "THE_TOKEN" in told
    for name, content in written(tmp_path).items():
        assert not found_in(content, [GITHUB]), name


def test_a_missing_variable_is_said(tmp_path):
    """An agent that is described with a secret does not run without it."""
    (tmp_path / "own.py").write_text(AGENT)
    (tmp_path / "power-agent.toml").write_text(SETTINGS)
    missing = piped("send", "s", "x", "--new", cwd=tmp_path, XDG_CONFIG_HOME=str(tmp_path / "x"))
    assert missing.code == 2
    assert "THE_TOKEN, which is not set" in missing.err


def test_a_secret_has_no_place_in_the_settings(tmp_path):
    """Only the name of a variable is taken, and the complaint does not repeat what stood there."""
    (tmp_path / "power-agent.toml").write_text(SETTINGS.replace("THE_TOKEN", "ghx-" + GITHUB))
    told = piped("config", "show", cwd=tmp_path)
    assert told.code == 2
    assert not found_in((told.out + told.err).encode(), [GITHUB])


def test_crash_reports_hold_none(tmp_path):
    """When the agent's own code breaks, neither the message nor the report that is left behind says a secret."""
    (tmp_path / "own.py").write_text(AGENT)
    (tmp_path / "power-agent.toml").write_text('[secrets]\ntoken = "THE_TOKEN"\n')
    more = {"THE_TOKEN": GITHUB, "XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "x")}
    told = piped("send", "s", "x", "--new", "--agent", "own:crash", "--debug", cwd=tmp_path, **more)
    assert told.code != 0
    assert not found_in((told.out + told.err).encode(), [GITHUB])
    for name, content in written(tmp_path).items():
        assert not found_in(content, [GITHUB]), name


def test_needles_are_real():
    """The search itself finds what is there: each encoding of each secret, by itself."""
    for name, secret in REGISTERED.items():
        for how, encode in ENCODINGS.items():
            assert any(needle in f"x {encode(secret)} y".encode() for needle in needles(secret)), (name, how)


async def test_patterns_can_be_switched_off(tmp_path):
    """Then only what was registered is hidden."""
    key = shaped("github")
    for patterns in (True, False):
        async with StatefulAgentLoop(ScriptedModel(["ok"]), store=tmp_path / f"{patterns}.db", secrets=Secrets({"plain": GITHUB}, patterns=patterns)) as loop:
            await loop.send(f"{key} {GITHUB}", "s")
        content = b"".join(written(tmp_path)[name] for name in written(tmp_path) if name.startswith(str(patterns)))
        assert (key.encode() in content) is not patterns
        assert GITHUB.encode() not in content


async def test_onlookers_see_the_rest_before_the_fact():
    """What was held back is shown before the fact that tells it whole, and put together it is what the fact says."""
    order = []

    class Slow:
        name = "slow:model"

        async def ask(self, request, glimpse):
            text = "ends with sk"
            for letter in text:
                glimpse("text", letter)
                await asyncio.sleep(0)
            return ModelReply(parts=(Text(text),))

    async with StatefulAgentLoop(Slow(), store=":memory:", listeners=[lambda kept: order.append(kept.kind)]) as loop:
        loop.look_on(lambda seen: order.append(seen.text))
        await loop.send("x", "s")
    before = order[: order.index("model.answered")]
    assert "".join(one for one in before if "." not in one) == "ends with sk"
