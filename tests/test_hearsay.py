"""What others recorded becomes a session of ours: legal, at rest, sendable; what is not understood is kept, and nothing runs."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import recordings
from grammar import calling, histories, story
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import ATIF, CLAUDE_CODE, CLAUDE_CODE_SMALLER, CODEX, CODEX_BARE, PNG, lines
from shelf import shelve, wrongs

from power_agent import Answer, Approve, Attachment, Call, Deny, Message, Reasoning, ScriptedModel, SQLiteStore, StatefulAgentLoop, Text, Upload, Usage, tool
from power_agent import events as e
from power_agent.chance import CountedChance
from power_agent.clock import HeldClock
from power_agent.context import render
from power_agent.editions import edition
from power_agent.errors import ImportRefused, InvalidInput, SessionErased, SessionExists
from power_agent.events import Envelope
from power_agent.hearsay import History, Origin, history, origin_of, read
from power_agent.messages import Output
from power_agent.newcomers import let_in, meet
from power_agent.policy import Allow, Ask, Verdict, Wanted
from power_agent.state import SessionState

NOW = 1_800_000_000_000


def told(content: bytes, origin: Origin | None = None) -> History:
    return history(read(content, origin or origin_of(content)), "s", nonce="0" * 32, now=NOW, tip="f" * 64, by="me")


def events(made: History) -> list[e.Event]:
    return [e.decode(fact.kind, fact.body) for fact in made.facts]


def plain(messages: tuple[Message, ...] | list[Message]) -> list[tuple[Any, ...]]:
    """Return what was said, without what belongs to a format."""
    said = []
    for message in messages:
        parts: list[Any] = []
        for part in message.parts:
            match part:
                case Text(text=text):
                    parts.append(text)
                case Reasoning(reasoning=text):
                    parts.append(("thought", text))
                case Call():
                    parts.append((part.name, dict(part.arguments), part.malformed, part.id, part.provider_id))
                case Output():
                    parts.append((part.call, part.content, part.failed, part.provider_id))
                case Attachment():
                    parts.append((part.media_type, part.blob, part.url))
        said.append((message.role, *parts))
    return said


def at_rest(state: SessionState) -> None:
    """Demand that nothing is open, and that what would be sent next is valid for every provider."""
    assert (state.turn, state.unresolved, state.inputs, state.request) == (None, (), (), None)
    messages = render(state).messages
    for place, message in enumerate(messages):
        if message.calls:
            outputs = [part.call for part in messages[place + 1].parts if isinstance(part, Output)]
            assert outputs == [call.id for call in message.calls]


# -- Claude Code -------------------------------------------------------------------------------------------------------


def test_claude_code_as_it_stood_in_the_end():
    """What was rewound is left out, an answer is one, parallel results find their calls, a call without one is aborted and says so."""
    made = told(CLAUDE_CODE)
    at_rest(made.state)
    blob = sha256(PNG).hexdigest()
    assert plain(render(made.state).messages) == [
        ("user", "What is wrong with the build?", ("image/png", blob, None)),
        (
            "assistant",
            ("thought", "Let me see."),
            "I look at two files.",
            ("Read", {"file_path": "/home/me/project/Makefile"}, None, "t1r1c1", "toolu_1"),
            ("Bash", {"command": "make"}, None, "t1r1c2", "toolu_2"),
        ),
        ("tool", ("t1r1c1", (Text("all:\n\tcc main.c"),), False, "toolu_1"), ("t1r1c2", (Text("cc: not found It may have taken effect."),), True, "toolu_2")),
        ("assistant", "There is no compiler."),
        ("user", "Install one."),
        ("assistant", ("Bash", {"command": "apt-get install gcc"}, None, "t2r1c1", "toolu_3")),
        ("tool", ("t2r1c1", (Text("Aborted by import: imported without an outcome. It may have taken effect; check before repeating."),), True, "toolu_3")),
    ]
    assert made.blobs == {blob: PNG}
    assert made.state.title == "Looking at the build"
    assert made.state.spent.usage == Usage(3 * 1_104, 90, 3_000, 300)
    assert [event.status for event in events(made) if isinstance(event, e.TurnEnded)] == ["completed", "cancelled"]


def test_what_is_not_understood_is_kept_where_no_model_sees_it():
    """Every record that is no part of the conversation, to the letter, beside the input it came behind."""
    made = told(CLAUDE_CODE)
    kept = [record for event in events(made) if isinstance(event, e.InputReceived) for record in (event.metadata or {}).get("records", ())]  # type: ignore[union-attr]
    whole = CLAUDE_CODE.decode().splitlines()
    assert kept == [whole[place] for place in (0, 1, 2, 3, 11, 12, 16)]
    assert "stop_hook" not in repr(render(made.state))


def test_records_without_end_leave_room_for_what_was_said():
    """What nobody understands is counted, where it is too much to keep with one input; the conversation comes in all the same."""
    strange = [json.dumps({"type": "progress", "sessionId": "there", "data": "\u0001" * 5_000}).encode() for _ in range(700)]
    said = json.dumps({"type": "user", "sessionId": "there", "uuid": "u", "message": {"role": "user", "content": "Begin."}}).encode()
    made = told(b"\n".join([said, *strange, *[b'{"type": "small"}'] * 500]))
    [received] = [event for event in events(made) if isinstance(event, e.InputReceived)]
    metadata: Any = received.metadata
    assert (received.parts[0], 5 < len(metadata["records"]) < 700, len(metadata["records"]) + metadata["left_out"]) == (Text("Begin."), True, 1_200)


def test_signatures_stay_with_what_they_sign():
    """They are kept as they came, in an answer of no format that anybody sends."""
    answers = [event for event in events(told(CLAUDE_CODE)) if isinstance(event, e.ModelAnswered)]
    assert answers[0].format == "claude-code"
    assert any(isinstance(part, Reasoning) and "EqQB+/==" in (part.raw or "") for part in answers[0].parts)


def test_a_context_that_was_made_smaller_stays_so():
    """The summary stands for what came before it; the events stay readable."""
    made = told(CLAUDE_CODE_SMALLER)
    at_rest(made.state)
    assert [message.text for message in render(made.state).messages] == [
        "[Summary of the conversation so far]\nThis session is being continued from a previous conversation: it was begun.",
        "Go on.",
        "Gone on.",
    ]
    assert any(isinstance(event, e.ModelAnswered) and event.parts == (Text("Begun."),) for event in events(made))


def test_links_that_lead_nowhere():
    """A file that begins in the middle, or has no links: its order is all there is."""
    text = CLAUDE_CODE_SMALLER.replace(b'"parentUuid": "u1"', b'"parentUuid": "gone"')
    assert [message.text for message in render(told(text).state).messages][1:] == ["Go on.", "Gone on."]
    bare = lines(*({name: value for name, value in json.loads(line).items() if name not in {"parentUuid", "uuid"}} for line in CLAUDE_CODE_SMALLER.splitlines()[:2]))
    assert [message.text for message in render(told(bare).state).messages] == ["Begin.", "Begun."]


def test_a_subagents_own_file():
    """There every record is a side chain; its session is named after the agent, not after its parent."""
    content = lines(*({**json.loads(line), "isSidechain": True, "agentId": "a7f3"} for line in CLAUDE_CODE_SMALLER.splitlines()[:2]))
    account = read(content, origin_of(content))
    assert account.session == "a7f3"
    assert [message.text for message in render(told(content).state).messages] == ["Begin.", "Begun."]


def test_words_between_a_call_and_its_result_come_behind_it():
    """A person may type while a tool runs."""
    content = lines(
        recordings.user("u1", None, 0, "Begin."),
        recordings.assistant("a1", "u1", 1, "m1", recordings.use("Bash", "toolu_1", command="sleep 5")),
        recordings.user("u2", "a1", 2, "And hurry."),
        recordings.user("r1", "u2", 3, recordings.result("toolu_1", "slept")),
        recordings.assistant("a2", "r1", 4, "m2", {"type": "text", "text": "Done."}),
    )
    assert [message.role for message in render(told(content).state).messages] == ["user", "assistant", "tool", "user", "assistant"]
    assert "slept" in repr(render(told(content).state))


# -- Codex -------------------------------------------------------------------------------------------------------------


def test_codex_rollouts():
    """Items become answers, outputs find their calls, a summary folds, arguments that are no JSON are kept as they came."""
    made = told(CODEX)
    at_rest(made.state)
    assert made.state.config == e.Config(model="gpt-5-codex", system="Be brief.")
    facts = events(made)
    assert [(event.turn, event.inputs) for event in facts if isinstance(event, e.TurnStarted)] == [(1, (2, 3)), (2, (18,))]
    answers = [event for event in facts if isinstance(event, e.ModelAnswered)]
    assert [[type(part).__name__ for part in answer.parts] for answer in answers] == [["Reasoning", "Call", "Call"], ["Call"], ["Text"], ["Call"]]
    assert [answer.usage for answer in answers] == [Usage(2_000, 60, 1_500, 0, 20), Usage(), Usage(2_000, 60, 1_500, 0, 20), Usage()]
    calls = {part.id: part for answer in answers for part in answer.parts if isinstance(part, Call)}
    assert calls["t1r1c1"].arguments == {"command": ["make"]}
    assert calls["t1r1c2"].malformed == '{"command":["ls"'
    outcomes = [(event.kind, event.call) for event in facts if isinstance(event, e.CallEvent) and event.kind in e.TERMINAL]
    assert outcomes == [("call.failed", "t1r1c1"), ("call.failed", "t1r1c2"), ("call.succeeded", "t1r2c1"), ("call.aborted", "t2r1c1")]
    assert [message.text for message in render(made.state).messages][:2] == ["[Summary of the conversation so far]\nThey found that there is no compiler.", "Install one."]


def test_rollouts_of_the_older_shape():
    """Bare items behind a first line without a type."""
    assert origin_of(CODEX_BARE) == "codex"
    account = read(CODEX_BARE, "codex")
    assert account.session == "older"
    assert [message.text for message in render(told(CODEX_BARE).state).messages] == ["Hello.", "Hello to you."]


# -- ATIF --------------------------------------------------------------------------------------------------------------


def test_trajectories_of_others():
    """The prompt, pictures by path (which nobody opens), calls with and without a result, what the system saw, what it cost."""
    made = told(json.dumps(ATIF, indent=1).encode())
    at_rest(made.state)
    assert made.state.config == e.Config(model="some-model", system="You are brief.")
    assert plain(render(made.state).messages) == [
        ("user", "Look.", "[image/png at 'images/a.png', which was not imported]"),
        ("assistant", ("thought", "Hm."), ("look", {"at": "north"}, None, "t1r1c1", "c1"), ("look", {}, None, "t1r1c2", "c2")),
        (
            "tool",
            ("t1r1c1", (Text("Snow."),), False, "c1"),
            ("t1r1c2", (Text("Aborted by import: imported without an outcome. It may have taken effect; check before repeating."),), True, "c2"),
        ),
        ("user", "[Note from the harness] The machine was restarted."),
        ("assistant", "It snows."),
    ]
    assert made.state.spent.cost_nano_usd == 450_000
    assert made.state.spent.unpriced == 1


@tool(recovery="rerun")
async def look(at: str) -> Any:
    """Look."""
    if at == "nowhere":
        raise ValueError("There is nothing.")
    return [Text("here"), Text("and there"), Upload(PNG)] if at == "parts" else {"found": at} if at == "json" else "x" * 200_000 if at == "long" else None


@tool
async def push(at: str) -> str:
    """Push."""
    raise ValueError(f"{at} does not move.")


SCRIPT = [
    Answer(
        "I look.",
        calls=[Call("look", {"at": where}, provider_id=f"call_{where}") for where in ("parts", "json", "long", "nowhere", "")],
        reasoning="Hm.",
        usage=Usage(10, 5, 3, 1, 2),
    ),
    [Call("push", {"at": "it"}), Call("push", {"at": "all"}), Call("unknown", {}), Call("look", malformed="{"), Call("look", {"wrong": 1})],
    "Done.",
    [Call("push", {"at": "it"})],
]


async def ours(path: Path | str) -> StatefulAgentLoop:
    """A session of ours in which calls ended in every way."""

    def policy(wanted: Wanted) -> Verdict:
        return Ask("rule") if wanted.tool == "push" else Allow("rule")

    loop = StatefulAgentLoop(ScriptedModel(SCRIPT), tools=[look, push], store=path, system="Be brief.", policy=policy, clock=HeldClock(), chance=CountedChance())
    await loop.__aenter__()
    result = await loop.send([Text("Look."), Text("There."), Upload(PNG, name="a.png")], "s", by="ada")
    assert result.status == "waiting"
    await loop.settle("s", "t1r2c1", Approve(), by="bob")
    await loop.settle("s", "t1r2c2", Deny("not today"), by="bob")
    assert (await loop.resume("s")).text == "Done."
    await loop.send("Once more.", "s")
    await loop.abort_pending("s", reason="enough", by="bob")
    return loop


async def test_ours_and_back():
    """Ours to ATIF and back: the same messages, calls, results, ids, tokens, and the same trajectory once more."""
    loop = await ours(":memory:")
    before, state = await loop.messages("s"), await loop.state("s")
    trajectory = b"".join([piece async for piece in await loop.export("s", format="atif")])
    async with StatefulAgentLoop(ScriptedModel([]), store=":memory:", clock=HeldClock()) as there:
        done = await there.import_([trajectory])
        assert (done.session, done.status) == ("s", "new")
        assert plain(await there.messages("s")) == plain(before)
        after = await there.state("s")
        at_rest(after)
        assert (after.spent.usage, after.config.system, after.config.model, after.turns) == (state.spent.usage, state.config.system, state.config.model, state.turns)
        assert [wrong async for wrong in there.verify()] == []
        again = b"".join([piece async for piece in await there.export("s", format="atif")])
        one, other = json.loads(trajectory), json.loads(again)
        assert [_timeless(step) for step in one["steps"]] == [_timeless(step) for step in other["steps"]]
        assert (await there.import_([trajectory])).status == "same"
        with pytest.raises(SessionExists):
            await there.import_([trajectory.replace(b"Once more.", b"Once less.")])
        assert (await there.import_([trajectory], session_id="other")).session == "other"
    await loop.aclose()


async def test_the_doubt_about_an_earlier_attempt_comes_along():
    """A second attempt that touched nothing says nothing of the first: who lets the trajectory in is not told that nothing happened."""
    untouched = e.Failure(code="tool", message="The bank was not called.", details={"untouched": True})
    again = (e.CallDoubted(call="t1r1c1", attempt=1, reason="died"), e.CallRetried(call="t1r1c1", by="ann"), e.CallStarted(call="t1r1c1", attempt=2))
    for between, attempt, doubt in (((), 1, ""), (again, 2, " It may have taken effect.")):
        past = story(*calling(), e.CallStarted(call="t1r1c1"), *between, e.CallFailed(call="t1r1c1", attempt=attempt, failure=untouched))
        async with SQLiteStore(":memory:", clock=HeldClock()) as store:
            content = b"".join([piece async for piece in await edition(store, await shelve(store, past), "atif")])
        (output,) = render(told(content).state).messages[-1].parts
        assert isinstance(output, Output)
        assert output.content == (Text(f"The bank was not called.{doubt}"),)


def _timeless(step: dict[str, Any]) -> dict[str, Any]:
    """Return a step without what another log has otherwise: times, places, who vouches for a failure."""
    step = json.loads(json.dumps(step))
    step.pop("timestamp", None)
    (step.get("extra") or {}).get("power_agent", {}).pop("seq", None)
    for result in (step.get("observation") or {}).get("results", ()):
        (result.get("extra") or {}).get("power_agent", {}).pop("by", None)
    return step


@settings(max_examples=40)
@given(histories(80))
def test_any_history_of_ours_comes_back(past: list[Envelope]):
    """As a trajectory any session can be let in again, at rest and clean; one in which nobody speaks, or that was erased, is refused."""

    async def play() -> None:
        async with SQLiteStore(":memory:", clock=HeldClock()) as one, SQLiteStore(":memory:", clock=HeldClock()) as two:
            session = await shelve(one, past)
            content = b"".join([piece async for piece in await edition(one, session, "atif")])
            spoken = {step["source"] for step in json.loads(content)["steps"]} & {"user", "agent"}
            if not spoken:
                with pytest.raises((ImportRefused, SessionErased)):
                    told(content)
                return
            at_rest(told(content).state)
            await let_in(two, HeldClock(), CountedChance(), meet(_file(content), "atif"))
            assert await wrongs(two) == []

    asyncio.run(play())


def _file(content: bytes) -> Any:
    import io

    return io.BytesIO(content)


# -- whatever comes ----------------------------------------------------------------------------------------------------

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x", "\x00", "\U0010fffd", "data:image/png;base64,!", "2025-01-01"])
)


@st.composite
def broken(draw: Any, content: bytes) -> bytes:
    """Return a recording with some of its values replaced, dropped, doubled or moved."""
    records = [json.loads(line) for line in content.splitlines() if line.endswith(b"}")]
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(records) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                records.insert(draw(st.integers(0, len(records))), records[at])
            case 1 if len(records) > 1:
                del records[at]
            case 2:
                other = draw(st.integers(0, len(records) - 1))
                records[at], records[other] = records[other], records[at]
            case _:
                records[at] = _with(draw, records[at])
    return lines(*records)


def _with(draw: Any, value: Any) -> Any:
    """Return a value in which something deep inside is something else."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: _with(draw, value[name])}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _with(draw, value[at]), *value[at + 1 :]]
    return draw(LEAVES | st.just([]) | st.just({}) | st.lists(LEAVES, max_size=2))


@settings(max_examples=400)
@given(st.one_of([broken(content).map(lambda made, origin=origin: (made, origin)) for content, origin in ((CLAUDE_CODE, "claude-code"), (CODEX, "codex"), (lines(ATIF), "atif"))]))
def test_whatever_a_file_holds_it_is_refused_or_at_rest(made: tuple[bytes, Origin]):
    """Values of any type in any place: a session at rest, or `ImportRefused`; never anything else."""
    content, origin = made
    try:
        kept = told(content, origin)
    except ImportRefused:
        return
    except InvalidInput as error:
        raise AssertionError(error) from error
    at_rest(kept.state)


def test_files_are_told_apart_by_what_is_in_them():
    assert [origin_of(content) for content in (CLAUDE_CODE, CODEX, CODEX_BARE, json.dumps(ATIF, indent=2).encode(), lines(ATIF))] == [
        "claude-code",
        "codex",
        "codex",
        "atif",
        "atif",
    ]
    assert origin_of(b'\xef\xbb\xbf{"format":"power_agent.export","version":1}\n') == "power-agent"
    for content in (b"", b"hello", b"{}", b"[1,2]", b'{"type":"message","message":{}}', b"\x00" * 100, b"SQLite format 3\x00"):
        with pytest.raises(ImportRefused) as raised:
            origin_of(content)
        assert raised.value.hint


@pytest.mark.parametrize(("content", "origin"), [(b"{}", "atif"), (b"[" * 5_000, "atif"), (b'{"schema_version":"ATIF-v1.7"}', "atif"), (b"{}\n", "codex"), (b"", "claude-code")])
def test_what_holds_no_conversation_is_refused(content: bytes, origin: Origin):
    with pytest.raises(ImportRefused):
        told(content, origin)


def test_times_never_go_back():
    """A record with a time of its own is never kept before one that stands above it."""
    shuffled = CLAUDE_CODE.replace(b"10:00:07", b"09:00:00").replace(b"10:00:09", b"never")
    ats = [fact.at for fact in told(shuffled).facts]
    assert ats == sorted(ats)


def test_outputs_that_are_too_large_are_cut_and_kept_whole():
    """What the context cannot hold is in a blob, as if a tool of ours had said it."""
    content = CLAUDE_CODE.replace(b"cc: not found", b"y" * 100_000).replace(b"all:\\n\\tcc main.c", b"z" * 100_000)
    made = told(content)
    assert sorted(len(blob) for blob in made.blobs.values()) == [len(PNG), 100_000, 100_000]
    assert len(repr(render(made.state))) < 150_000
    record = lines({"type": "strange", "text": "q" * 100_000})
    kept = [event.metadata for event in events(told(CODEX + record)) if isinstance(event, e.InputReceived) and event.metadata]
    assert {"bytes", "sha256", "begin"} == set(kept[-1]["records"][-1])  # type: ignore[call-overload,index,arg-type]


# -- through the loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "session"), [(CLAUDE_CODE, recordings.SESSION), (CODEX, "019a2d7a-41c4"), (CODEX_BARE, "older"), (lines(ATIF), "harbor-1")])
async def test_the_next_send_goes_on(tmp_path: Path, content: bytes, session: str):
    """Let in, verified, sent to, exported as our own and let in elsewhere: it is a session like any other."""
    (tmp_path / "recording").write_bytes(content)
    seen: list[int] = []

    def answer(request: Any) -> str:
        seen.append(len(request.messages))
        return "Going on."

    async with StatefulAgentLoop(ScriptedModel(answer), store=tmp_path / "a.db") as loop:
        done = await loop.import_(tmp_path / "recording", by="me")
        assert (done.session, done.status) == (session, "new")
        opened = (await loop.history(session))[0].event
        assert isinstance(opened, e.SessionOpened)
        about = opened.metadata["imported"]
        assert isinstance(about, dict)
        assert (about["sha256"], about["bytes"]) == (sha256(content).hexdigest(), len(content))
        last = (await loop.history(session, after=done.seq - 1))[0].event
        assert isinstance(last, e.SessionImported)
        assert (last.tip, last.by) == (sha256(content).hexdigest(), "me")
        before = len(await loop.messages(session))
        assert [wrong async for wrong in loop.verify()] == []
        assert (await loop.send("Go on.", session)).text == "Going on."
        assert seen == [before + 1]
        assert [wrong async for wrong in loop.verify()] == []
        export = [line async for line in await loop.export(session)]
    async with StatefulAgentLoop(ScriptedModel([]), store=tmp_path / "b.db") as loop:
        assert (await loop.import_(export)).session == session


async def test_nothing_is_left_of_what_is_refused(tmp_path: Path):
    """Not a session, not an event."""
    async with StatefulAgentLoop(ScriptedModel([]), store=tmp_path / "a.db") as loop:
        for content, more in ((b"{}", {"format": "atif"}), (b"hello", {}), (CLAUDE_CODE, {"session_id": "@bad"})):
            with pytest.raises(InvalidInput):
                await loop.import_([content], **more)
        assert await loop.sessions() == []


async def test_secrets_are_covered_in_what_others_recorded(tmp_path: Path):
    """In what was said, in outputs of any size and their blobs, and in records nobody understands: nowhere in the file."""
    word = b"hunter-two-and-three"
    content = CLAUDE_CODE.replace(b"cc: not found", b"y" * 50_000 + word + b"z" * 50_000).replace(b"ran 1 hook", word).replace(b"Install one.", word)
    async with StatefulAgentLoop(ScriptedModel([]), store=tmp_path / "a.db", secrets={"mine": word.decode()}) as loop:
        done = await loop.import_([content])
        assert [wrong async for wrong in loop.verify()] == []
        assert len(await loop.messages(done.session)) == 7
        assert await asyncio.to_thread(lambda: [path.name for path in tmp_path.iterdir() if word in path.read_bytes()]) == []
