"""An open turn goes on as it began, also where the process that goes on with it was given another prompt, other tools or another model."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from servers import ChatServer
from test_shelves import Shelf

from power_agent import Call, Limits, ScriptedModel, StatefulAgentLoop, tool
from power_agent import events as e
from power_agent.clock import HeldClock
from power_agent.finding import ToolSearch
from power_agent.guards import guard
from power_agent.models import Failover, model
from power_agent.policy import Allow, Ask
from power_agent.settling import Approve
from power_agent.strategies import Summarise
from power_agent.testing.speaking import Loopback, Said, head, in_turn, saying
from power_agent.tools.define import FunctionTool

SERVER = ChatServer()
ACT = Said(calls=(Call("act", {"what": "it"}),), finish="calls")


def answers(*said: Said) -> Any:
    return in_turn(*(saying(head(media_type=SERVER.media_type), *SERVER.stream(one)) for one in said))


@tool
def act(what: str) -> str:
    """Do something."""
    return f"did {what}"


@tool
def before(what: str) -> str:
    """Was there before."""
    return what


@tool
def later(what: str) -> str:
    """Came later."""
    raise AssertionError("nobody may call this")


def asks(call: Any) -> Any:
    """Let `act` wait for a person, so that a turn stays open."""
    return Ask("May it?", rule="ask") if call.tool == "act" else Allow(rule="free")


class Seen:
    """A model that acts first, and keeps what it was asked."""

    def __init__(self, name: str, *script: Any) -> None:
        self.requests: list[Any] = []
        left = list(script)

        def answer(request: Any) -> Any:
            self.requests.append(request)
            return left.pop(0) if left else "Done."

        self.model = ScriptedModel(answer, name=name)

    @property
    def tools(self) -> list[list[str]]:
        return [[one.name for one in request.tools] for request in self.requests]


async def begun(path: Path, answering: Any, first: Sequence[str] = (), **more: Any) -> None:
    """Leave a session behind whose turn is open: a call waits for a person, who says yes."""
    async with StatefulAgentLoop(answering, store=path, policy=asks, **{"tools": [act, before], "system": "old", **more}) as loop:
        for text in first:
            await loop.send(text, "s")
        result = await loop.send("go", "s")
        assert result.status == "waiting"
        await loop.settle("s", result.pending[0].id, Approve())


async def test_prompt_settings_limits_and_tools_are_those_it_began_with(tmp_path):
    """What is new comes with the next turn, and stands in the log before it."""
    path = tmp_path / "log.db"
    await begun(path, Seen("old", [Call("act", {"what": "it"})]).model, settings={"temperature": 0}, limits=Limits(max_rounds_per_turn=7))
    seen = Seen("new")
    new = {"system": "new", "settings": {"temperature": 1}, "limits": Limits(max_rounds_per_turn=9)}
    async with StatefulAgentLoop(seen.model, store=path, policy=asks, tools=[later, act], **new) as loop:
        assert (await loop.resume("s")).status == "completed"
        assert (await loop.send("again", "s")).status == "completed"
        kept = [one.event for one in await loop.history("s")]
    assert seen.tools == [["act"], ["later", "act"]]
    assert [(one.system, one.settings) for one in seen.requests] == [("old", {"temperature": 0}), ("new", {"temperature": 1})]
    configured = [one for one in kept if isinstance(one, e.SessionConfigured)]
    assert [(one.config.system, one.config.model, one.config.limits.max_rounds_per_turn) for one in configured] == [("new", "new", 9)]
    place = kept.index(configured[0])
    assert [one.kind for one in kept[place - 1 : place + 2]] == ["input.received", "session.configured", "turn.started"]
    assert next(place for place, one in enumerate(kept) if isinstance(one, e.TurnEnded)) < place


async def test_what_is_the_same_in_the_log_is_no_change(tmp_path):
    """JSON knows no tuples and no numbers as names, UTF-8 no half characters; nothing was changed by writing it down."""
    for _ in range(2):
        async with StatefulAgentLoop(Seen("m").model, store=tmp_path / "log.db", system="half \ud800", settings={"stop": ("a", "b"), "bias": {1: 2}}) as loop:
            await loop.send("one", "s")
            await loop.send("two", "s")
            assert await loop.history("s", kinds=["session.configured"]) == []


async def test_what_it_did_not_begin_with_it_cannot_call(tmp_path):
    """Neither by chance nor by somebody's advice; the answer names the tools it has. No guard is asked about it."""
    path, asked = tmp_path / "log.db", list[str]()
    await begun(path, Seen("m", [Call("act", {"what": "it"})]).model)
    seen = Seen("m", [Call("later", {"what": "x"}), Call("before", {"what": "y"})])

    @guard("call")
    def look(call: Any) -> None:
        asked.append(call.tool)

    async with StatefulAgentLoop(seen.model, store=path, policy=asks, tools=[act, before, later], guards=[look]) as loop:
        assert (await loop.resume("s")).status == "completed"
        failures = [one.event.failure for one in await loop.history("s", kinds=["call.failed"])]
    assert [one.code for one in failures] == ["unknown_tool"]
    assert failures[0].message.endswith("The tools are: act, before. Nothing was run.")
    assert asked == ["before"]
    assert seen.tools == [["act", "before"], ["act", "before"]]


async def test_a_strangers_tool_that_came_later_taints_the_turn_that_has_it(tmp_path):
    """The open turn is shown nothing of it; with the next one begins what cannot be trusted."""
    path = tmp_path / "log.db"
    await begun(path, Seen("m", [Call("act", {"what": "it"})]).model)
    (strange,) = many("strange")
    strange.foreign = True
    async with StatefulAgentLoop(Seen("m").model, store=path, policy=asks, tools=[act, before, strange], system="old") as loop:
        assert (await loop.resume("s")).status == "completed"
        assert (await loop.state("s")).taint is None
        await loop.send("again", "s")
        assert (await loop.state("s")).taint is not None


async def test_a_tool_that_is_gone_is_not_offered(tmp_path):
    """What was recorded and is not here any more cannot be had; the rest goes on."""
    path = tmp_path / "log.db"
    await begun(path, Seen("m", [Call("act", {"what": "it"})]).model)
    seen = Seen("m")
    async with StatefulAgentLoop(seen.model, store=path, policy=asks, tools=[act]) as loop:
        assert (await loop.resume("s")).text == "Done."
    assert seen.tools == [["act"]]


def many(*names: str) -> list[FunctionTool]:
    """Tools that send mail, by their names."""
    made = list[FunctionTool]()
    for name in names:

        def send(what: str) -> str:
            """Send mail."""
            return what

        send.__name__ = name
        made.append(FunctionTool(send))
    return made


async def test_a_turn_of_few_tools_does_not_begin_to_look_for_them(tmp_path):
    """There are so many by now that they are looked for: from the next turn on. The open one is shown all it has."""
    path, crowd = tmp_path / "log.db", many(*(f"new{number}" for number in range(9)))
    await begun(path, Seen("m", [Call("act", {"what": "it"})]).model)
    seen = Seen("m", [Call("new1", {"what": "x"})])
    async with StatefulAgentLoop(seen.model, store=path, policy=asks, tools=[act, before, *crowd], tool_search=ToolSearch(above_tools=5, always=("act",))) as loop:
        assert (await loop.resume("s")).status == "completed"
        await loop.send("again", "s")
        failures = [one.event.failure for one in await loop.history("s", kinds=["call.failed"])]
    assert seen.tools[:2] == [["act", "before"]] * 2
    assert seen.tools[2][:2] == ["act", "search_tools"]
    assert failures[0].message.endswith("The tools are: act, before. Nothing was run.")


async def test_a_search_finds_what_the_turn_began_with(tmp_path):
    """What it says can be called can be called."""
    path, crowd = tmp_path / "log.db", many(*(f"old{number}" for number in range(9)))
    search = ToolSearch(above_tools=5)
    await begun(path, Seen("m", [Call("act", {"what": "it"})]).model, tools=[act, *crowd], tool_search=search)
    seen = Seen("m", [Call("search_tools", {"query": "later"})], [Call("search_tools", {"query": "old7 mail"})], [Call("old7", {"what": "x"})])
    async with StatefulAgentLoop(seen.model, store=path, policy=asks, tools=[act, later, *crowd], tool_search=search) as loop:
        assert (await loop.resume("s")).status == "completed"
        outputs = [one.event.output for one in await loop.history("s", kinds=["call.succeeded"])]
    assert outputs[1]["found"] == []
    assert outputs[2]["found"][0]["name"] == "old7"
    assert outputs[3] == "x"


async def test_shelves_are_as_they_are_now(tmp_path):
    """What stands on one comes and goes also in the middle of a turn: that is what shelves are for."""
    shelf = Shelf()
    seen = Seen("m", [Call("stock", {})], [Call("later", {"what": "it"})])

    @tool
    def stock() -> str:
        """Fill the shelf."""
        shelf.tools.append(before)
        return "filled"

    async with StatefulAgentLoop(seen.model, store=tmp_path / "log.db", policy=lambda _call: Allow(rule="free"), tools=[stock, shelf]) as loop:
        await loop.send("go", "s")
    assert seen.tools == [["stock"], ["stock", "before"], ["stock", "before"]]


async def test_an_input_in_the_queue_begins_its_turn_with_what_is_there_then(tmp_path):
    """A turn that begins behind another one in the same process has the new configuration, too."""
    path = tmp_path / "log.db"
    await begun(path, Seen("old", [Call("act", {"what": "it"})]).model)
    seen = Seen("new")
    async with StatefulAgentLoop(seen.model, store=path, policy=asks, tools=[later, act], system="new") as loop:
        assert (await loop.send("and this", "s", when_busy="queue")).status == "waiting"
        await loop.resume("s")
        state = await loop.state("s")
        assert (state.turns, state.config.system) == (2, "new")
        assert [wrong async for wrong in loop.verify("s")] == []
    assert [(one.system, names) for one, names in zip(seen.requests, seen.tools, strict=True)] == [("old", ["act"]), ("new", ["later", "act"])]


@pytest.mark.parametrize("other", ["openai-chat:b", "openai-chat:b,openai-chat:c"])
async def test_the_model_is_the_one_it_began_with(tmp_path, other):
    """A model of the same provider can be had by its name alone; the next turn asks the new one."""
    path = tmp_path / "log.db"
    async with Loopback(answers(ACT, Said(text="Done."), Said(text="Yes."))) as server:
        first = model("openai-chat:a", base_url=server.url, api_key="k")
        await begun(path, first)
        await first.aclose()
        second = (
            Failover([model(one, base_url=server.url, api_key="k") for one in other.split(",")], owned=True) if "," in other else model(other, base_url=server.url, api_key="k")
        )
        async with StatefulAgentLoop(second, store=path, policy=asks, tools=[act, before]) as loop:
            assert (await loop.resume("s")).text == "Done."
            assert (await loop.send("again", "s")).text == "Yes."
            asked = [one.event.model for one in await loop.history("s", kinds=["model.asked"])]
        await second.aclose()
        assert [json.loads(one.body)["model"] for one in server.asked] == ["a", "a", "b"]
        assert {one.headers["authorization"] for one in server.asked} == {"Bearer k"}
    assert asked == ["openai-chat:a", "openai-chat:a", "openai-chat:b"]


async def test_a_chain_that_became_one_and_one_that_became_a_chain(tmp_path):
    """The members are found by their names, in the order in which they were recorded; several keys of one model are one model."""
    made = [model(name, base_url="http://127.0.0.1:9", api_key="k") for name in ("openai-chat:a", "openai-chat:b", "openai-chat:a")]
    a, b, again = made
    chain = Failover([a, b])
    assert chain.another("openai-chat:b") is b
    assert chain.another("openai-chat:a,openai-chat:b") is chain
    assert chain.another("openai-chat:b,openai-chat:a").members == [b, a]
    assert chain.another("anthropic:x") is None
    assert chain.another("openai-chat:a,anthropic:x") is None
    assert [one.name for one in chain.another("openai-chat:c,openai-chat:b").members] == ["openai-chat:c", "openai-chat:b"]
    keys = Failover([a, again])
    assert keys.name == "openai-chat:a,openai-chat:a#2"
    assert keys.another("openai-chat:a") is keys
    assert [one.name for one in a.another("openai-chat:b,openai-chat:b#2,openai-chat:c").members] == ["openai-chat:b", "openai-chat:c"]
    assert a.another("openai-chat:a,openai-chat:a#2").name == "openai-chat:a"
    assert a.another("openai-chat:b") is a.another("openai-chat:b")
    assert a.another("ollama:b") is None
    assert Failover([ScriptedModel([], name="x"), b]).another("x").name == "x"
    for one in made:
        await one.aclose()


async def test_another_model_has_the_keys_that_were_there_at_first(monkeypatch):
    """Who takes a key out of the environment for safety can resume all the same, and no key comes in that nobody hides."""
    monkeypatch.setenv("OPENAI_API_KEY", "first-key,second-key")
    made = model("openai:a")
    monkeypatch.setenv("OPENAI_API_KEY", "later-key")
    assert {one.secrets["model-key"].reveal() for one in made.another("openai:b").members} == {"first-key", "second-key"}
    monkeypatch.delenv("OPENAI_API_KEY")
    assert made.another("openai:c").members[0].name == "openai:c"
    assert [made.another(name) for name in ("openai:", "openai", "", "openai:a,", "#2")] == [None] * 5
    await made.aclose()


def test_a_chain_of_members_keeps_what_was_said_of_the_chain():
    """Its window, and the clock its circuits go by; and what it learnt of who is well."""
    clock, models = HeldClock(), [ScriptedModel([], name=name) for name in "abc"]
    chain = Failover(models, context_window=9_000, clock=clock)
    part = chain.another("c,a")
    assert chain.another("c,a") is part
    clock.move(5)
    assert (part.name, part.context_window, part.now()) == ("c,a", 9_000, clock.elapsed())


async def test_a_model_of_another_provider_is_stood_in_for(tmp_path, caplog):
    """Its key is not here, perhaps for a reason: this process's own goes on, says so once, and the log names who was asked."""
    path = tmp_path / "log.db"
    await begun(path, Seen("elsewhere:m", [Call("act", {"what": "it"})]).model)
    with caplog.at_level(logging.WARNING, "power_agent"):
        async with StatefulAgentLoop(Seen("here:m", [Call("before", {"what": "x"})]).model, store=path, policy=asks, tools=[act, before]) as loop:
            assert (await loop.resume("s")).text == "Done."
            await loop.send("again", "s")
            asked = [one.event.model for one in await loop.history("s", kinds=["model.asked"])]
    assert asked == ["elsewhere:m", "here:m", "here:m", "here:m"]
    assert [one.getMessage() for one in caplog.records] == ["Turn 1 of session 's' began with the model elsewhere:m, which this process does not have: here:m goes on."]


@pytest.mark.parametrize("own", [True, False])
async def test_its_summaries_are_made_by_the_model_it_began_with(tmp_path, own):
    """Unless one is named for summaries. No price of a model that is not asked is missed."""

    @tool(name="act")
    def much(what: str) -> str:
        """Say much."""
        return f"{what} " * 3_000

    path, asked = tmp_path / "log.db", list[str]()
    free = {"tools": [much], "compaction": Summarise(), "limits": Limits(max_context_tokens=4_000, max_cost_usd_per_session=1)}

    def priced(name: str, *script: Any) -> Any:
        made = Seen(name, *script).model
        made.cost = lambda _usage: 0
        return made

    await begun(path, priced("a", "x " * 900, "x " * 900, [Call("act", {"what": "it"})]), first=("one " * 600, "two " * 600), **free)
    unpriced = ScriptedModel(lambda _request: "Not asked.", name="b")
    summary = None if own else {"summary": priced("small")}
    chain = Failover([unpriced, priced("a")])
    async with StatefulAgentLoop(chain, store=path, policy=asks, models=summary, **free) as loop:
        assert (await loop.resume("s")).text == "Done."
        asked += [f"{one.event.model} {one.event.purpose}" for one in await loop.history("s", kinds=["model.asked"])]
    assert asked[3:] == ["a summary" if own else "small summary", "a turn"]


async def test_its_context_is_as_large_as_its_model_reads(tmp_path):
    """What fits is a question of the model that is asked."""
    path, prices = tmp_path / "log.db", {"openai-chat:a": {"context_window": 5_000}, "openai-chat:b": {"context_window": 90_000}}
    async with Loopback(answers(ACT, Said(text="Done."))) as server:
        first, second = (model(name, base_url=server.url, api_key="k", prices=prices) for name in prices)
        await begun(path, first)
        async with StatefulAgentLoop(second, store=path, policy=asks, tools=[act, before]) as loop:
            assert (await loop.context_report("s")).window == 5_000
            await loop.resume("s")
            assert (await loop.context_report("s")).window == 90_000
        await first.aclose()
        await second.aclose()
