"""What was recorded, against the code of today: nothing is asked, nothing is run, and the first difference is named."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import story
from processes import PATIENCE_SECONDS
from shelf import everything, sink_of

from power_agent import Approve, Call, Limits, Result, ScriptedModel, SQLiteStore, StatefulAgentLoop, Text, ToolContext, Unknown, Usage, context, fold, tool
from power_agent import events as e
from power_agent import settling as settled
from power_agent.errors import ModelError, SessionErased, SessionNotFound
from power_agent.messages import Attachment
from power_agent.models.scripted import Answer
from power_agent.policy import Allow, Ask, Change, Deny, Refuse, Verdict, Wanted
from power_agent.ports import ModelRequest
from power_agent.replay import Replay
from power_agent.sink import opened

RAN: list[str] = []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("power_agent.drive.attempts.backoff", lambda _attempt: 0.001)
    RAN.clear()


@tool
def look(place: str) -> str:
    """Look somewhere."""
    RAN.append(place)
    return f"nothing at {place}"


@tool
def pay(cents: int) -> str:
    """Pay."""
    RAN.append(f"paid {cents}")
    if cents == 13:
        raise ValueError("unlucky")
    return "paid"


def ask_to_pay(wanted: Wanted) -> Verdict:
    if wanted.tool == "pay":
        return Deny("too much") if wanted.arguments["cents"] == 1000 else Ask("Really?")
    return Allow()


def asked(_: ModelRequest) -> Any:
    raise AssertionError("a replay asks no model")


LINES = [[Call("look", {"place": "home"}), Call("pay", {"cents": 5}), Call("pay", {"cents": 1000}), Call("fly")], [Call("pay", {"cents": 13})], "done"]
TODAY: dict[str, Any] = {"tools": [look, pay], "policy": ask_to_pay, "system": "Be brief."}


def agent(path: Path, script: Any = asked, **changes: Any) -> StatefulAgentLoop:
    return StatefulAgentLoop(ScriptedModel(script), store=path, **{**TODAY, **changes})


async def lived(path: Path) -> None:
    """Two turns: calls side by side, an approval, a refusal, an unknown tool, a failure; then a chat."""
    async with agent(path, [*LINES, "and more"]) as loop:
        result = await loop.send("go", "s")
        while result.status == "waiting":
            for call in result.pending:
                await loop.settle("s", call.id, Approve(), by="ann")
            result = await loop.resume("s")
        assert result.text == "done"
        assert (await loop.send("what else?", "s")).text == "and more"


async def replayed(path: Path, **changes: Any) -> Replay:
    """Replay under other circumstances; nothing is asked, run or written."""
    ran = list(RAN)
    async with agent(path, **changes) as loop:
        before = await everything(loop._store)  # type: ignore[arg-type]
        found = await loop.replay("s")
        assert await everything(loop._store) == before  # type: ignore[arg-type]
        assert loop._model.requests == []  # type: ignore[attr-defined]
    assert ran == RAN
    return found


# -- nothing is different ----------------------------------------------------------------------------------------------


async def test_the_same_code_goes_the_same_way(tmp_path: Path):
    """All requests and calls are compared, and there is no difference."""
    await lived(tmp_path / "a.db")
    assert await replayed(tmp_path / "a.db") == Replay(session="s", turns=2, requests=4, calls=3)


async def test_the_whole_story_and_every_cut_of_it(tmp_path: Path):
    """Approvals, doubts, retries, failures, big outputs: replayed to its end, and from every beginning of it, without a difference or an effect."""
    world = story.World(tmp_path / "world")
    async with story.agent(tmp_path / "story.db", world) as loop:
        await story.tell(loop, world)
        heads = (await loop._store.find(story.SESSION)).head  # type: ignore[union-attr]
        before = sorted((path.name, path.read_bytes()) for path in world.folder.iterdir())
        requests = len(loop._model.requests)  # type: ignore[attr-defined]
        whole = await loop.replay(story.SESSION)
        assert (whole.divergence, whole.left_out, whole.turns) == (None, (), 2)
        assert whole.requests == len([line for line in story.LINES if not isinstance(line, ModelError)])
        assert whole.calls > 10
        for at in range(1, heads):
            state = await loop.state(story.SESSION, at=at)
            name = f"cut at {at}"
            await loop._sink.open(session=name, parent=e.Parent(relation="fork", session=story.SESSION, seq=at))
            found = await loop.replay(name)
            assert found.divergence is None, (at, state.place, found)
        assert sorted((path.name, path.read_bytes()) for path in world.folder.iterdir() if story.SESSION in path.name) == [one for one in before if story.SESSION in one[0]]
        assert len(loop._model.requests) == requests  # type: ignore[attr-defined]


async def test_fold_equals_live(tmp_path: Path):
    """The state that lived in memory is the one that the log amounts to; folding it asks no model and runs no tool."""
    await lived(tmp_path / "a.db")
    ran = list(RAN)
    async with agent(tmp_path / "a.db") as loop:
        records = await loop._store.read("s")
        folded = fold(opened(record) for record in records)
        assert folded == await loop.state("s")
        assert context.render(folded).messages == await loop.messages("s")
        assert loop._model.requests == []  # type: ignore[attr-defined]
    async with agent(tmp_path / "b.db", ["hi"]) as loop:
        await loop.send("hello", "live")
        alive = loop._desk.live["live"]
        assert fold(opened(record) for record in await loop._store.read("live")) == alive
    assert ran == RAN


async def test_what_came_in_meanwhile_comes_in_again(tmp_path: Path):
    """Steering inputs, a cancel, an attachment: they come in where they did."""
    async with SQLiteStore(tmp_path / "a.db") as store:
        sink = sink_of(store, "writer")
        config = e.Config(model="scripted:model", system="Be brief.")
        state = await sink.open(config, "s")
        call = Call("look", {"place": "x"}, id="t1r1c1")
        state = await sink.record(state, [e.InputReceived(parts=(Text("go"), Attachment("image/png", url="https://example.org/a.png")))])
        early = e.InputReceived(parts=(Text("slowly"),), mode="steer")
        state = await sink.record(state, [e.TurnStarted(turn=1, inputs=(2,)), early, e.ModelAsked(turn=1, round=1, model="scripted:model", inputs=(4,))])
        state = await sink.record(state, [e.InputReceived(parts=(Text("left!"),), mode="steer"), e.ModelAnswered(round=1, parts=(call,), finish="calls")])
        state = await sink.record(state, [e.CallStarted(call=call.id), e.CallSucceeded(call=call.id, output="seen")])
        state = await sink.record(state, [e.ModelAsked(turn=1, round=2, model="scripted:model", inputs=(6,)), e.ModelAnswered(round=2, parts=(Text("left it is"),))])
        state = await sink.record(state, [e.TurnEnded(turn=1), e.InputReceived(parts=(Text("again"),)), e.TurnStarted(turn=2, inputs=(13,))])
        state = await sink.record(
            state, [e.ModelAsked(turn=2, round=1, model="scripted:model"), e.CancelAsked(reason="enough"), e.TurnEnded(turn=2, status="cancelled", reason="enough")]
        )
        await sink.release(state)
    found = await replayed(tmp_path / "a.db", tools=[])
    assert found.divergence is not None
    assert found.divergence.what == "call t1r1c1 (look)"  # it is gone today
    async with agent(tmp_path / "a.db", tools=[look], policy=None) as loop:
        found = await asyncio.wait_for(loop.replay("s"), PATIENCE_SECONDS)
        assert found.divergence is not None
        assert (found.divergence.what, found.divergence.recorded) == ("the tools", {})  # the log was written by hand, without any
        shown = {ref.name: ref.digest for ref in loop._tools.refs}
    assert found.divergence.now == shown
    await _with_tools(tmp_path / "a.db", tmp_path / "b.db", shown)
    found = await replayed(tmp_path / "b.db", tools=[look], policy=None)
    assert found == Replay(session="s", turns=2, requests=3, calls=1)


async def _with_tools(source: Path, target: Path, tools: dict[str, str]) -> None:
    """Keep a history once more, as if it had been configured with these tools."""
    from shelf import shelve

    async with SQLiteStore(source) as one, SQLiteStore(target) as two:
        history = [opened(record) for record in await one.read("s")]
        first = history[0].event
        assert isinstance(first, e.SessionOpened)
        refs = tuple(e.ToolRef(name=name, digest=digest) for name, digest in tools.items())
        config = e.Config(model=first.config.model, system=first.config.system, tools=refs)
        history[0] = history[0]._replace(event=e.SessionOpened(nonce=first.nonce, owner=first.owner, config=config))
        await shelve(two, history)


async def test_an_external_result_and_a_limit(tmp_path: Path):
    """A result that a person handed in is handed in again; a turn that met a limit and went on meets it and goes on."""

    @tool(external=True)
    def human(question: str) -> str:
        """Ask a human."""
        raise AssertionError

    lines = [[Call("human", {"question": "?"})], [Call("look", {"place": "a"})], "done"]
    async with agent(tmp_path / "a.db", lines, tools=[human, look], limits=Limits(max_rounds_per_turn=2)) as loop:
        assert (await loop.send("go", "s")).status == "waiting"
        await loop.settle("s", "t1r1c1", Result("forty-two"), by="ann")
        assert (await loop.resume("s")).status == "limit"
    same = await replayed(tmp_path / "a.db", tools=[human, look], limits=Limits(max_rounds_per_turn=2))
    assert same == Replay(session="s", turns=1, requests=2, calls=1)
    other = await replayed(tmp_path / "a.db", tools=[human, look], limits=Limits(max_rounds_per_turn=3))
    assert other.divergence is not None
    assert (other.divergence.what, other.divergence.now) == ("the next step", "another request")
    lower = await replayed(tmp_path / "a.db", tools=[human, look], limits=Limits(max_rounds_per_turn=1))
    assert lower.divergence is not None
    assert (lower.divergence.what, lower.divergence.now) == ("the next step", "the end of the turn (limit)")


async def test_a_failed_turn_fails_again(tmp_path: Path):
    """A model that gave up is recorded as such; what was only retried is not."""
    async with agent(tmp_path / "a.db", [ModelError("busy", retryable=True), ModelError("no"), "later"]) as loop:
        assert (await loop.send("go", "s")).status == "failed"
        assert (await loop.resume("s")).text == "later"
    assert await replayed(tmp_path / "a.db") == Replay(session="s", turns=2, requests=2)


async def test_behind_a_compaction_a_turn_is_not_compared(tmp_path: Path):
    """The report says what was left out; the next turn is compared again."""
    async with SQLiteStore(tmp_path / "a.db") as store:
        sink = sink_of(store, "writer")
        state = await sink.open(e.Config(model="scripted:model", system="Be brief."), "s")
        call = Call("fly", id="t1r1c1")
        unknown = e.Failure(code="unknown_tool", message="There is no tool 'fly'. The tools are: none. Nothing was run.")
        state = await sink.record(state, [e.InputReceived(parts=(Text("go"),)), e.TurnStarted(turn=1, inputs=(2,)), e.ModelAsked(turn=1, round=1, model="scripted:model")])
        state = await sink.record(state, [e.ModelAnswered(round=1, parts=(call,), finish="calls"), e.CallFailed(call=call.id, failure=unknown)])
        state = await sink.record(
            state, [e.ContextCompacted(from_seq=1, to_seq=6, summary="we could not fly", strategy="test"), e.InputReceived(parts=(Text("on"),), mode="steer")]
        )
        state = await sink.record(state, [e.ModelAsked(turn=1, round=2, model="scripted:model", inputs=(8,)), e.ModelAnswered(round=2, parts=(Text("done"),)), e.TurnEnded(turn=1)])
        state = await sink.record(state, [e.InputReceived(parts=(Text("again"),)), e.TurnStarted(turn=2, inputs=(12,)), e.ModelAsked(turn=2, round=1, model="scripted:model")])
        await sink.record(state, [e.ModelAnswered(round=1, parts=(Text("done"),)), e.TurnEnded(turn=2)], release=True)
    found = await replayed(tmp_path / "a.db", tools=[], policy=None)
    assert found.divergence is None
    assert (found.turns, found.requests) == (2, 2)
    assert found.left_out == ("Behind the compaction at event 7 the rest of its turn was not compared.",)


# -- something is different --------------------------------------------------------------------------------------------


@tool(name="look")
def look_closely(place: str, closely: bool = True) -> str:
    """Look somewhere, closely."""
    raise AssertionError


def no_paying(wanted: Wanted) -> Verdict:
    return Deny("not any more") if wanted.tool == "pay" else Allow()


def all_allowed(_: Wanted) -> Verdict:
    return Allow()


def elsewhere(wanted: Wanted) -> Change | None:
    return Change({"place": "elsewhere"}) if wanted.tool == "look" else None


def nowhere(wanted: Wanted) -> Refuse | None:
    return Refuse("nowhere") if wanted.tool == "look" else None


CHANGES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "the system prompt": ({"system": "Be long."}, "model.asked", "the system prompt", "Be long."),
    "no system prompt": ({"system": None}, "model.asked", "the system prompt", "None"),
    "a tool's description": ({"tools": [look_closely, pay]}, "model.asked", "the tools", "look"),
    "a tool is gone": ({"tools": [look]}, "model.asked", "the tools", "look"),
    "settings": ({"settings": {"temperature": 1}}, "model.asked", "the settings", "temperature"),
    "a policy that denies": ({"policy": no_paying}, "call.approval_asked", "call t1r1c2 (pay)", "not any more"),
    "a policy that allows": ({"policy": all_allowed}, "call.approval_asked", "call t1r1c2 (pay)", "started"),
    "a guard that changes": ({"guards": [elsewhere]}, "call.started", "the arguments of call t1r1c1 (look)", "elsewhere"),
    "a guard that refuses": ({"guards": [nowhere]}, "model.asked", "message 3", "nowhere"),
    "a lower limit": ({"limits": Limits(max_rounds_per_turn=1)}, "model.asked", "the next step", "limit"),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_is_found_where_it_first_matters(tmp_path: Path, name: str):
    """The first event that would be another one, and what it was and would be."""
    changes, kind, what, now = CHANGES[name]
    await lived(tmp_path / "a.db")
    found = await replayed(tmp_path / "a.db", **changes)
    assert found.divergence is not None
    assert found.divergence.what == what
    assert now in str(found.divergence.now)
    assert found.divergence.recorded != found.divergence.now
    assert f"Event {found.divergence.seq}: {what}" in str(found.divergence)
    async with agent(tmp_path / "a.db") as loop:
        (event,) = await loop.history("s", after=found.divergence.seq - 1, limit=1)
    assert event.kind == kind


async def test_another_model(tmp_path: Path):
    await lived(tmp_path / "a.db")
    async with StatefulAgentLoop(ScriptedModel(asked, name="scripted:newer"), store=tmp_path / "a.db", **TODAY) as loop:
        found = (await loop.replay("s")).divergence
    assert found is not None
    assert (found.what, found.recorded, found.now) == ("the model", "scripted:model", "scripted:newer")


async def test_another_way_to_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Code that words a refusal otherwise shows in the first request that holds it: what was sent is rendered by the code of today,
    so that only what the drive makes of it anew can differ; here the executor says something else about unknown tools.
    """
    await lived(tmp_path / "a.db")
    from power_agent.executor import Executor

    monkeypatch.setattr(Executor, "_wrong", lambda self, state, made, tool: e.Failure(code="x", message="No such thing.") if tool is None else None)
    found = (await replayed(tmp_path / "a.db")).divergence
    assert found is not None
    assert (found.what, "No such thing." in str(found.now), "There is no tool 'fly'" in str(found.recorded)) == ("message 3", True, True)


async def test_sessions_that_cannot_be_replayed(tmp_path: Path):
    async with agent(tmp_path / "a.db", ["hi"]) as loop:
        with pytest.raises(SessionNotFound):
            await loop.replay("nobody")
        await loop.send("hello", "s")
        await loop._sink.erase(await loop._sink.claim("s"), "the law")
        with pytest.raises(SessionErased):
            await loop.replay("s")
        await loop._sink.open(session="empty")
        assert await loop.replay("empty") == Replay(session="empty")


@pytest.mark.parametrize("mode", ["queue", "steer"])
async def test_what_waited_behind_a_turn(tmp_path: Path, mode: Any):
    """An input that waited while a person was asked belongs to the turn that took it: the same code goes the same way in each of them."""

    def say(request: ModelRequest) -> Any:
        return [Call("pay", {"cents": 5})] if request.messages[-1].text == "pay" else f"heard {request.messages[-1].text}"

    async with agent(tmp_path / "a.db", say) as loop:
        (call,) = (await loop.send("pay", "s")).pending
        for text in ("second", "third"):
            assert (await loop.send(text, "s", when_busy=mode)).status == "waiting"
        await loop.settle("s", call.id, Approve())
        await loop.resume("s")
        while (await loop.state("s")).inputs or (await loop.state("s")).turn:
            await asyncio.sleep(0.01)
        turns = (await loop.state("s")).turns
        assert turns == (3 if mode == "queue" else 1)
    same = await replayed(tmp_path / "a.db")
    assert (same.turns, same.calls, same.divergence) == (turns, 1, None)


ODD = "\ud800 and \U0010fffd"


async def test_texts_that_are_no_text(tmp_path: Path):
    """Lone surrogates, and the character that stands for them in the log, in everything that is said: nothing of it differs from itself."""

    @tool
    def echo(text: str) -> str:
        RAN.append(text)
        if len(RAN) == 2:
            raise ValueError(text)
        return text

    def policy(wanted: Wanted) -> Verdict:
        return Allow() if wanted.call == "t1r1c1" else Ask("Really?")

    said = Call("echo", {"text": ODD})
    async with agent(tmp_path / "a.db", [Answer(ODD, [said]), [said], [said], f"done {ODD}"], tools=[echo], policy=policy) as loop:
        await loop.send(f"go {ODD}", "s")
        await loop.settle("s", "t1r2c1", Approve(reason=ODD))
        await loop.resume("s")
        await loop.settle("s", "t1r3c1", settled.Deny(ODD))
        result = await loop.resume("s")
        assert [call.state for call in result.calls] == ["succeeded", "failed", "denied"]
        assert RAN == [ODD, ODD]
    same = await replayed(tmp_path / "a.db", tools=[echo], policy=policy)
    assert (same.requests, same.divergence) == (4, None)


async def test_what_a_lost_request_may_have_used(tmp_path: Path):
    """It counted against a limit then, and is not played again: that is said, and is no difference."""

    def say(request: ModelRequest) -> Any:
        if request.replies == 0:
            raise ModelError("the connection was reset", retryable=True)
        return Answer(calls=[Call("look", {"place": "home"})], usage=Usage(400, 100)) if request.replies == 1 else "done"

    limits = Limits(max_tokens_per_turn=8_500)
    async with agent(tmp_path / "a.db", say, limits=limits) as loop:
        result = await loop.send("go", "s")
        assert (result.status, result.reason) == ("limit", "max_tokens_per_turn")
    same = await replayed(tmp_path / "a.db", limits=limits)
    assert same.divergence is None
    assert ["may have used" in one for one in same.left_out] == [True]


async def test_a_tool_is_never_even_looked_for(tmp_path: Path):
    """A doubted call that was settled, a context that was asked for: the tools of today are judged by, not touched."""

    async def probe(arguments: object, ctx: ToolContext) -> Unknown:
        RAN.append("probed")
        return Unknown()

    @tool(probe=probe)
    async def once(ctx: ToolContext) -> str:
        """Once."""
        RAN.append("once")
        return "done"

    async with agent(tmp_path / "a.db", [[Call("once")], "over"], tools=[once], policy=None) as loop:
        await loop.send("go", "s")
    assert (await replayed(tmp_path / "a.db", tools=[once], policy=None)).calls == 1
    assert RAN == ["once"]
