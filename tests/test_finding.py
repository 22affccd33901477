"""Many tools: a model is shown a few, finds the others, and what it found is offered from then on, by whoever goes on."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf_of_tools import QUERIES, TOOLS, made, many
from test_compaction import Windowed

from power_agent import Call, Limits, ScriptedModel, StatefulAgentLoop
from power_agent import events as e
from power_agent.finding import SPEC, Finding, ToolSearch
from power_agent.limits import MAX_FOUND_AT_ONCE, MAX_FOUND_TOOLS, MAX_TOOLS
from power_agent.offer import offered
from power_agent.policy import Allow, Wanted
from power_agent.policy.loading import LOOKS, load_policy
from power_agent.ports import ModelRequest
from power_agent.recall import Recall
from power_agent.state import fold, freeze, thaw
from power_agent.state.found import SEARCH, with_found
from power_agent.tools import Toolbox

BEGIN = [SEARCH, "recall_search", "recall_read"]


def shelf(calls: list[str] | None = None, more: int = 100):
    """The tools of the table among others."""
    return [*many(more // 2, calls), *(made(name, said, calls) for name, said in TOOLS.items()), *many(more, calls)[more // 2 :]]


def finding(tools, search: ToolSearch | None = ToolSearch()) -> Finding:  # noqa: B008  frozen
    return Finding(Recall(Toolbox(tools), None), search)


def shown(request: ModelRequest) -> list[str]:
    return [spec.name for spec in request.tools]


def looks(*queries: str):
    """Look for something in each round, then say so."""
    return [*([Call(SEARCH, {"query": query, "limit": 1})] for query in queries), "done"]


async def test_few_tools_are_shown_as_they_are():
    """Up to the bound nothing changes; above it there is a search."""
    for number, expected in ((MAX_TOOLS, [f"filler_{place}" for place in range(MAX_TOOLS)]), (MAX_TOOLS + 1, BEGIN)):
        model = ScriptedModel(["hello"])
        async with StatefulAgentLoop(model, store=":memory:", tools=many(number)) as loop:
            await loop.send("hello", "s")
        assert shown(model.requests[0]) == expected


async def test_long_descriptions_count_too():
    """Few tools may be too much to read as well; None turns it off."""
    tools = [made(f"long_{place}", "word " * 10_000) for place in range(10)]
    assert [spec.name for spec in finding(tools).specs] == BEGIN
    assert len(finding(tools, None).specs) == 10
    assert len(finding(tools, ToolSearch(above_tokens=10**9)).specs) == 10
    assert finding(tools, None).get(SEARCH) is None


async def test_what_is_found_is_offered():
    """From the next request on, behind what was offered before; and it runs."""
    calls: list[str] = []
    script = [[Call(SEARCH, {"query": "refund a payment", "limit": 1})], [Call("stripe_create_refund", {"about": "42"})], *looks("weather"), "again"]
    model = ScriptedModel(script)
    async with StatefulAgentLoop(model, store=":memory:", tools=shelf(calls)) as loop:
        await loop.send("give 42 their money back", "s")
        await loop.send("and now?", "s")
        output = next(one.event.output for one in await loop.history("s") if isinstance(one.event, e.CallSucceeded))
    assert output["found"] == [{"name": "stripe_create_refund", "does": "Give money of a payment back to the customer."}]
    assert [shown(one) for one in model.requests] == [
        BEGIN,
        [*BEGIN, "stripe_create_refund"],
        [*BEGIN, "stripe_create_refund"],
        [*BEGIN, "stripe_create_refund", "weather_forecast"],
        [*BEGIN, "stripe_create_refund", "weather_forecast"],
    ]
    assert calls == ["stripe_create_refund"]


async def test_what_is_not_in_sight_can_be_called():
    """The policy judges it as any other call; of a tool that does not exist the model is told how to look."""
    calls: list[str] = []
    policy = load_policy({"policy": {"rules": [{"action": "deny", "tools": ["filler_1"], "name": "no"}, {"action": "allow", "tools": ["filler_2"]}]}}, shelf())
    model = ScriptedModel([[Call("filler_1", {}), Call("filler_2", {}), Call("nosuch", {}), Call(SEARCH, {"query": "weather"})], "done"])
    async with StatefulAgentLoop(model, store=":memory:", tools=shelf(calls), policy=policy) as loop:
        result = await loop.send("go", "s")
        history = [one.event for one in await loop.history("s")]
    assert (result.status, calls) == ("completed", ["filler_2"])
    assert [one.by for one in history if isinstance(one, e.CallDenied)] == ["policy (no)"]
    (failure,) = [one.failure for one in history if isinstance(one, e.CallFailed)]
    assert failure.message == f"There is no tool 'nosuch'. The tools are: {', '.join(BEGIN)}. Nothing was run."


async def test_some_are_always_shown():
    """Named, or by a pattern; in the order in which they were configured, before the search."""
    model = ScriptedModel(looks("github issues"))
    async with StatefulAgentLoop(model, store=":memory:", tools=shelf(), tool_search=ToolSearch(always=("weather_*", "gmail_send", "nosuch"))) as loop:
        await loop.send("hello", "s")
    assert shown(model.requests[0]) == ["gmail_send", "weather_forecast", *BEGIN]
    assert shown(model.requests[1])[:5] == shown(model.requests[0])


async def test_the_same_live_resumed_forked_and_replayed(tmp_path):
    """A session that is reopened, or branched, or folded from its events, offers what the first process offered, byte for byte."""
    path, model = tmp_path / "log.db", ScriptedModel(looks("weather", "refund", "pods"))
    async with StatefulAgentLoop(model, store=path, tools=shelf()) as loop:
        await loop.send("look", "s")
        state, history = await loop.state("s"), await loop.history("s", limit=1_000)
        replay = await loop.replay("s")
        live = offered(loop._offer, state)
    assert (replay.divergence, replay.calls) == (None, 3)
    found = ("weather_forecast", "stripe_create_refund", "k8s_get_pods")
    assert state.found == found == fold(history).found
    again = ScriptedModel(["here"])
    async with StatefulAgentLoop(again, store=path, tools=shelf()) as loop:
        assert offered(loop._offer, await loop.state("s")) == live
        answered = [one.seq for one in history if isinstance(one.event, e.TurnEnded)]
        fork = await loop.fork("s", at=answered[-1])
        await loop.send("go on", fork)
        await loop.send("go on", "s")
    assert [shown(one) for one in again.requests] == [[*BEGIN, *found]] * 2
    half = next(one.seq for one in history if isinstance(one.event, e.CallSucceeded))
    early = ScriptedModel(["here"])
    async with StatefulAgentLoop(early, store=path, tools=shelf()) as loop:
        await loop.send("from there", await loop.fork("s", at=half))
    assert shown(early.requests[0]) == [*BEGIN, "weather_forecast"]


async def test_every_moment_offers_what_was_sent_there():
    """Folded from its first events up to any request, or from a cached state of that moment, a session offers what that request held."""
    model = ScriptedModel(looks("weather", "refund", "pods", "invoices"))
    async with StatefulAgentLoop(model, store=":memory:", tools=shelf()) as loop:
        await loop.send("look", "s")
        history, hands = await loop.history("s", limit=1_000), loop._offer
    sent = iter(model.requests)
    for place, kept in enumerate(history):
        state = fold(history[:place])
        again = thaw(freeze(state, b"tip"), b"tip")
        assert offered(hands, again) == offered(hands, state)
        if isinstance(kept.event, e.ModelAsked):
            assert offered(hands, state) == next(sent).tools
        if isinstance(kept.event, e.CallSucceeded):
            assert (state.measured.tokens > 0, fold(history[: place + 1]).measured.tokens) == (True, 0), "what was measured knows nothing of the new tools"
    assert next(sent, None) is None


async def test_a_compaction_loses_nothing():
    """What was found long ago, and folded away since, is still offered; the tools for recalling do not push anything aside."""
    script = iter([[Call(SEARCH, {"query": "weather", "limit": 1})], *["words " * 400] * 12, [Call(SEARCH, {"query": "refund", "limit": 1})], *["words " * 400] * 8])

    def talk(request: ModelRequest):
        return "They talked." if request.purpose == "summary" else next(script)

    model = Windowed(talk, 4_000)
    async with StatefulAgentLoop(model, store=":memory:", tools=shelf(), tool_search=ToolSearch(above_tools=10)) as loop:
        for number in range(18):
            await loop.send(f"question {number}", "s")
        state = await loop.state("s")
        assert state.compactions
        assert "weather" not in repr(await loop.messages("s"))
    sent = [shown(one) for one in model.requests if one.purpose == "turn"]
    assert sent[-1] == [*BEGIN, "weather_forecast", "stripe_create_refund"]
    assert all(later[: len(former)] == former for former, later in itertools.pairwise(sent)), "what is offered only grows at its end"


async def test_a_thousand_tools_stay_bounded():
    """Whatever the model looks for, and however often: a request holds no more tools than the bound says."""
    tools = many(1_000)
    queries = [f"filler {number} {number + 1} {number + 2}" for number in range(0, 400, 8)]
    script = [[Call(SEARCH, {"query": query})] for query in queries]
    model = ScriptedModel([*script, "done"])
    async with StatefulAgentLoop(model, store=":memory:", tools=tools, limits=Limits(max_rounds_per_turn=None, max_rounds_without_progress=None)) as loop:
        await loop.send("look for everything", "s")
        assert len(await loop.history("s", limit=1_000)) > 50
        whole = sum(len(json.dumps([spec.name, spec.description, dict(spec.parameters)])) for spec in loop._tools.specs)
    sizes = [len(shown(one)) for one in model.requests]
    assert max(sizes) <= MAX_FOUND_TOOLS + len(BEGIN)
    assert sizes[0] == len(BEGIN)
    first = sum(len(json.dumps([spec.name, spec.description, dict(spec.parameters)])) for spec in model.requests[0].tools)
    assert first * 50 < whole
    kept = sum(later[: len(former)] == former for former, later in zip(map(shown, model.requests), map(shown, model.requests[1:]), strict=False))
    assert kept >= len(model.requests) - 1 - 400 * 2 // MAX_FOUND_TOOLS, "the beginning changes only where half of them is let go"


def test_what_is_meant_is_found():
    """The table of what people say: the tool that is meant comes first in nearly all cases, and is among three in all."""
    hands = finding(shelf())
    places = {}
    for query, meant in QUERIES.items():
        names = [spec.name for spec in hands.found(query, MAX_FOUND_AT_ONCE)]
        places[query] = names.index(meant) if meant in names else 99
    assert sum(place == 0 for place in places.values()) >= len(QUERIES) * 0.9, places
    assert max(places.values()) < 3, places


def test_a_tool_is_found_by_its_name():
    """Also where its words say little."""
    tools = [made(f"tool_{number}", "Does a thing.") for number in range(200)]
    assert next(spec.name for spec in finding(tools).found("tool_137 please", 3)) == "tool_137"


def test_large_descriptions_are_found_one_by_one():
    """The best is found whatever it takes, the others as far as there is room."""
    tools = [*many(100), *(made(f"giant_{place}", "giant " * 12_000) for place in range(5))]
    assert len(finding(tools).found("giant", 5)) == 1
    assert len(finding(shelf()).found("list", 5)) == 5


async def test_a_users_tool_of_that_name_comes_first():
    """Then there is no search, and everything is shown."""
    hands = finding([made(SEARCH, "Mine."), *many(150)])
    assert len(hands.specs) == 151
    assert hands.get(SEARCH).spec.description == "Mine."


async def test_tools_that_come_and_go():
    """What is no longer there is not offered; what comes later can be found."""
    box = Toolbox(shelf())
    hands = Finding(Recall(box, None), ToolSearch())
    assert hands.found("unicorn", 1) == []
    box.add(made("unicorn_ride", "Ride on a unicorn."))
    assert [spec.name for spec in hands.found("unicorn", 1)] == ["unicorn_ride"]


@pytest.mark.parametrize("arguments", [{}, {"query": 1}, {"query": "x", "limit": 0}, {"query": "x", "limit": True}, {"query": "x", "what": 1}])
async def test_arguments_are_checked(arguments):
    """As of every tool."""
    model = ScriptedModel([[Call(SEARCH, arguments)], "done"])
    async with StatefulAgentLoop(model, store=":memory:", tools=shelf()) as loop:
        await loop.send("look", "s")
        assert any(isinstance(one.event, e.CallFailed) and one.event.failure.code == "bad_arguments" for one in await loop.history("s"))


async def test_nothing_found():
    """It is said, and nothing else is offered."""
    model = ScriptedModel(looks("zzzz"))
    async with StatefulAgentLoop(model, store=":memory:", tools=shelf()) as loop:
        await loop.send("look", "s")
    assert "Nothing was found" in repr(model.requests[1].messages)
    assert shown(model.requests[1]) == BEGIN


NAMES = st.lists(st.sampled_from([f"n{number}" for number in range(200)]), max_size=MAX_FOUND_AT_ONCE)


@given(st.lists(NAMES, max_size=40))
def test_what_is_found_grows_at_its_end(searches):
    """Bounded, each name once, the newest always there; it begins anew only when half is let go."""
    known: tuple[str, ...] = ()
    for names in searches:
        later = with_found(known, {"found": [{"name": name, "does": ""} for name in names]})
        assert len(later) == len(set(later)) <= MAX_FOUND_TOOLS
        assert set(names) <= set(later)
        assert later[: len(known)] == known or len(known) + len(set(names) - set(known)) > MAX_FOUND_TOOLS
        known = later


@pytest.mark.parametrize("output", [None, "x", 1, [], {}, {"found": None}, {"found": "x"}, {"found": [1, {}, {"name": 1}, {"name": None}]}, {"found": {"name": "x"}}])
def test_answers_that_are_none(output):
    """Whatever a tool of that name answers, the state stays what it is."""
    assert with_found(("a",), output) == ("a",)


def test_the_description_is_constant():
    """Its bytes are the beginning of every request of an agent with many tools."""
    assert finding(shelf()).specs[0] is SPEC
    assert str(len(TOOLS)) not in SPEC.description


def test_a_policy_knows_the_loops_own_tools():
    """They only look, so nobody is asked; a user's tool of such a name is what its user says."""
    assert set(BEGIN) == set(LOOKS)
    wanted = [Wanted(session="s", call="t1r1c1", tool=name, arguments={"query": "x"}) for name in LOOKS]
    policy = load_policy({"policy": {}}, shelf())
    assert all(isinstance(policy(one), Allow) for one in wanted)
    own = load_policy({"policy": {}}, [made(SEARCH, "Mine.")])
    assert [isinstance(own(one), Allow) for one in wanted] == [name != SEARCH for name in LOOKS]
